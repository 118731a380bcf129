//! Whose trace a client's calls are part of (W3C Trace Context).
//!
//! The application is asked when a call begins, in its caller's task, for there its span is the current one. Whatever follows
//! from the call carries the answer: further RPCs, tries at other sidecars, a batch that its look-up travels in, and what is
//! done in the background for it. So the answer stays with the call, beside its task, and the links find it there.
//! A call that is one RPC need do nothing for it: its link asks.
//!
//! What the application itself does inside a call, in a fill function above all, is none of that call's: calls that it makes
//! there ask for themselves.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use tokio::task::futures::TaskLocalFuture;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::names::shorten;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// The one version there is.
const VERSION: &str = "00";
/// The length of a `traceparent` of that version.
const TRACEPARENT_BYTES: usize = 55;
/// The longest `tracestate`, in bytes: half of what a sidecar takes of a call's metadata.
const TRACESTATE_BYTES_MAX: usize = 8 << 10;
/// The most members of a `tracestate`.
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// The longest key, and the longest value, of one.
const MEMBER_BYTES_MAX: usize = 256;
/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// A span that calls of a client are part of, as W3C Trace Context has it in the headers `traceparent` and `tracestate`. Cloning
/// it is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext(Arc<Fields>);

#[derive(Debug, PartialEq, Eq)]
struct Fields {
    traceparent: MetadataValue<Ascii>,
    /// `None` if it is empty.
    tracestate: Option<MetadataValue<Ascii>>,
    sampled: bool,
}

/// Why a text is no trace context.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{field} {value:?}: {problem}")]
pub struct TraceContextError {
    /// `traceparent` or `tracestate`.
    pub field: &'static str,
    /// As given; the beginning of a long one.
    pub value: String,
    /// What is wrong, with the limit.
    pub problem: String,
}

impl TraceContext {
    /// Checks both as W3C has them: `traceparent` in version 00, and `tracestate`, which may be empty, with at most 32 members and
    /// 8,192 bytes. What is wrong is an error that names the field; nothing malformed is ever sent. Where it is the `tracestate`, W3C
    /// says to go on without: give an empty one then.
    pub fn new(traceparent: &str, tracestate: &str) -> Result<Self, TraceContextError> {
        let wrong = |field, value| {
            move |problem| TraceContextError {
                field,
                value: shorten(value),
                problem,
            }
        };
        let flags = check_traceparent(traceparent).map_err(wrong(TRACEPARENT, traceparent))?;
        check_tracestate(tracestate).map_err(wrong(TRACESTATE, tracestate))?;
        let value = |text: &str| {
            MetadataValue::try_from(text).expect("invariant: it is of visible characters")
        };
        Ok(Self(Arc::new(Fields {
            traceparent: value(traceparent),
            tracestate: (!tracestate.is_empty()).then(|| value(tracestate)),
            sampled: flags & SAMPLED != 0,
        })))
    }

    /// The span, its trace, and whether that is sampled.
    pub fn traceparent(&self) -> &str {
        text(&self.0.traceparent)
    }

    /// What tracing systems add for themselves; mostly empty.
    pub fn tracestate(&self) -> &str {
        self.0.tracestate.as_ref().map_or("", text)
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.0.sampled
    }
}

fn text(value: &MetadataValue<Ascii>) -> &str {
    value.to_str().expect("invariant: it was made of a text")
}

/// Gives the flags.
fn check_traceparent(value: &str) -> Result<u8, String> {
    if value.len() != TRACEPARENT_BYTES {
        let bytes = value.len();
        return Err(format!(
            "it has {bytes} bytes; version {VERSION} has {TRACEPARENT_BYTES}"
        ));
    }
    let mut parts = value.split('-');
    let mut part = |name: &str, digits: usize| {
        let part = parts.next().unwrap_or_default();
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if part.len() == digits && part.bytes().all(is_digit) {
            return Ok(part);
        }
        Err(format!(
            "{name} {part:?} is not {digits} lower-case hexadecimal digits"
        ))
    };
    let version = part("version", 2)?;
    if version != VERSION {
        return Err(format!("version {version} is not {VERSION}"));
    }
    for (name, digits) in [("trace-id", 32), ("parent-id", 16)] {
        if part(name, digits)?.bytes().all(|digit| digit == b'0') {
            return Err(format!("{name} is all zero, which is none"));
        }
    }
    let flags = part("trace-flags", 2)?;
    Ok(u8::from_str_radix(flags, 16).expect("invariant: they are two digits"))
}

fn check_tracestate(value: &str) -> Result<(), String> {
    if value.len() > TRACESTATE_BYTES_MAX {
        let bytes = value.len();
        return Err(format!(
            "it has {bytes} bytes; the limit is {TRACESTATE_BYTES_MAX}"
        ));
    }
    let members = value
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']));
    let members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
    if members.len() > TRACESTATE_MEMBERS_MAX {
        let count = members.len();
        return Err(format!(
            "it has {count} members; the limit is {TRACESTATE_MEMBERS_MAX}"
        ));
    }
    let mut keys = Vec::with_capacity(members.len());
    for member in members {
        let (key, value) = member
            .split_once('=')
            .ok_or_else(|| format!("the member {:?} has no `=`", shorten(member)))?;
        check_member(key, value)?;
        if keys.contains(&key) {
            return Err(format!("the key {key:?} comes twice"));
        }
        keys.push(key);
    }
    Ok(())
}

fn check_member(key: &str, value: &str) -> Result<(), String> {
    for (what, text) in [("key", key), ("value", value)] {
        if !(1..=MEMBER_BYTES_MAX).contains(&text.len()) {
            let bytes = text.len();
            return Err(format!(
                "a {what} of {bytes} bytes ({:?}) is outside 1 to {MEMBER_BYTES_MAX}",
                shorten(text)
            ));
        }
    }
    let in_key =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    if !key.bytes().all(in_key) || !key.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err(format!(
            "the key {:?} is not of lower-case letters, digits and _-*/@ behind a letter or digit",
            shorten(key)
        ));
    }
    if !value
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
    {
        return Err(format!(
            "the value {:?} is not of printable ASCII without `=`",
            shorten(value)
        ));
    }
    Ok(())
}

tokio::task_local! {
    /// What this task is doing.
    static DOING: Doing;
}

/// What a task is doing, as far as this concerns traces.
#[derive(Debug, Clone)]
pub(crate) enum Doing {
    /// A client's call, of this span.
    Call(Option<TraceContext>),
    /// Something of the application's, inside a call.
    Other,
}

/// How the application is asked for the current span.
#[derive(Clone, Default)]
pub(crate) struct CurrentSpan(Option<Arc<Ask>>);

type Ask = dyn Fn() -> Option<TraceContext> + Send + Sync;

impl fmt::Debug for CurrentSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "untold" })
    }
}

impl CurrentSpan {
    pub(crate) fn told_by(ask: impl Fn() -> Option<TraceContext> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// That of the call which this task is in; outside of any, that of a call which begins now.
    fn get(&self) -> Option<TraceContext> {
        let ask = self.0.as_ref()?;
        match DOING.try_with(Doing::clone) {
            Ok(Doing::Call(context)) => context,
            Ok(Doing::Other) | Err(_) => ask(),
        }
    }

    /// What a call does, which begins now if this task is not in one. Not an `async fn`: that would have room for it twice.
    pub(crate) fn call<F: Future>(&self, call: F) -> TaskLocalFuture<Doing, F> {
        done_for(self.get(), call)
    }
}

/// Has each RPC of a link carry the span.
impl Interceptor for CurrentSpan {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(TraceContext(fields)) = self.get() else {
            return Ok(request);
        };
        let metadata = request.metadata_mut();
        metadata.insert(TRACEPARENT, fields.traceparent.clone());
        if let Some(state) = &fields.tracestate {
            metadata.insert(TRACESTATE, state.clone());
        }
        Ok(request)
    }
}

/// The span of the call that this task is in.
pub(crate) fn of_this_call() -> Option<TraceContext> {
    match DOING.try_with(Doing::clone) {
        Ok(Doing::Call(context)) => context,
        Ok(Doing::Other) | Err(_) => None,
    }
}

/// Something that is done for a call of this span in another task; `None`: for nobody's.
pub(crate) fn done_for<F: Future>(
    context: Option<TraceContext>,
    work: F,
) -> TaskLocalFuture<Doing, F> {
    DOING.scope(Doing::Call(context), work)
}

/// Something of the application's, inside a call: its calls are calls of their own.
pub(crate) fn of_the_application<F: Future>(work: F) -> TaskLocalFuture<Doing, F> {
    DOING.scope(Doing::Other, work)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SPAN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_taken_as_it_is_and_says_whether_it_is_sampled() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let traceparent = format!("{}{flags}", &SPAN[..53]);
            let context = TraceContext::new(&traceparent, "").unwrap();
            assert_eq!(context.traceparent(), traceparent);
            assert_eq!(context.tracestate(), "");
            assert_eq!(context.is_sampled(), sampled, "{flags}");
        }
        let longest = format!("{0}={0},b={0}", "a".repeat(256));
        let most: Vec<_> = (0..32).map(|number| format!("k{number}=v")).collect();
        for state in [
            "rojo=00f067aa0ba902b7",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "1a-_*/@b= !~x , ,\tb=c",
            &longest,
            &most.join(","),
        ] {
            let context = TraceContext::new(SPAN, state).unwrap();
            assert_eq!(context.tracestate(), state);
        }
    }

    #[test]
    fn what_is_no_traceparent_is_refused_with_what_is_wrong() {
        for (wrong, why) in [
            ("", "it has 0 bytes; version 00 has 55"),
            (&SPAN[..54], "it has 54 bytes"),
            (&format!("{SPAN}-00"), "it has 58 bytes"),
            (&SPAN.replacen("00", "ff", 1), "version ff is not 00"),
            (&SPAN.replacen("00", "01", 1), "version 01 is not 00"),
            (&SPAN.replacen("0a", "0A", 1), "trace-id"),
            (&SPAN.replacen("0a", "\u{e4}", 1), "trace-id"),
            (&SPAN.replacen("b7", "-b", 1), "parent-id"),
            (&SPAN.replacen("-01", "-+1", 1), "trace-flags"),
            (&SPAN.replacen("-01", "1-0", 1), "parent-id"),
            (
                &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
                "trace-id is all zero",
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                "parent-id is all zero",
            ),
        ] {
            let error = TraceContext::new(wrong, "").unwrap_err();
            assert_eq!((error.field, &*error.value), ("traceparent", wrong));
            assert!(error.problem.contains(why), "{error}");
            assert!(error.to_string().starts_with("traceparent \""), "{error}");
        }
    }

    #[test]
    fn what_is_no_tracestate_is_refused_with_what_is_wrong() {
        let many: Vec<_> = (0..33).map(|number| format!("k{number}=v")).collect();
        for (wrong, why) in [
            ("a", "the member \"a\" has no `=`"),
            ("a=", "a value of 0 bytes"),
            ("=b", "a key of 0 bytes"),
            ("a=b=c", "the value \"b=c\""),
            ("a=\u{e4}", "the value"),
            ("a=b\r\nc", "the value"),
            ("A=b", "the key \"A\""),
            ("_a=b", "the key \"_a\""),
            ("a b=c", "the key \"a b\""),
            ("a=b,c=d,a=e", "the key \"a\" comes twice"),
            (&format!("a={}", "b".repeat(257)), "a value of 257 bytes"),
            (&format!("{}=b", "a".repeat(257)), "a key of 257 bytes"),
            (&many.join(","), "it has 33 members; the limit is 32"),
            (&",".repeat(8_193), "it has 8193 bytes; the limit is 8192"),
        ] {
            let error = TraceContext::new(SPAN, wrong).unwrap_err();
            assert_eq!(error.field, "tracestate");
            assert!(error.problem.contains(why), "{error}");
            assert!(error.to_string().len() < 300, "{error}");
        }
    }
}
