//! How a command ends: its exit code, which scripts rely on, and what it tells on standard error.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | it failed; for `demo` and `replay`: what was seen is not as it should be |
//! | 2 | the command line or the input is wrong; asking again will not help |
//! | 3 | the sidecar answered, but what was asked for was not reached |
//! | 4 | no sidecar answered |
//! | 5 | the sidecar has no room, or is not that far yet: ask again |
//! | 130 | stopped by a signal |
//!
//! With `--json` the error is one JSON object on standard error, `{"error": {...}}`, with the fields of [`ErrorJson`].

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use grapevine_client::{
    BeginWriteError, CallError, ClientError, ConfigError, InvalidRequest, InvalidateError,
    ResolveError, SessionError, Violation,
};
use serde::Serialize;

/// For `--help`.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 the command line or the input is wrong; 3 answered, but what was asked for was not \
reached (a receipt, freshness, a condemned registration); 4 no sidecar answered; 5 no room or not that far yet, ask again; \
130 stopped by a signal.";

/// Why a command did not end with 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be done, or what was seen is not as it should be.
    Failed(String),
    /// The command line or the input is wrong.
    Usage(String),
    /// A request that no sidecar will take.
    Invalid(InvalidRequest),
    /// Answered, but not reached.
    NotReached(String),
    /// Nobody answered.
    Unreachable(String),
    /// Nothing was done; another time it may.
    Later {
        message: String,
        retry_after: Option<Duration>,
    },
    /// Stopped by a signal.
    Stopped,
    /// Whoever read standard output has left, as `head` does: not an error.
    ReaderLeft,
}

/// An error for scripts. Names are stable.
#[derive(Debug, Serialize)]
struct ErrorJson<'a> {
    /// failed, usage, invalid, `not_reached`, unreachable, later or stopped.
    kind: &'static str,
    /// For people.
    message: String,
    /// Fields that were refused; empty for other kinds.
    violations: Vec<ViolationJson<'a>>,
    /// When to ask again, where a sidecar said so.
    retry_after_ms: Option<u64>,
    /// The exit code.
    exit_code: u8,
}

#[derive(Debug, Serialize)]
struct ViolationJson<'a> {
    field: &'a str,
    description: &'a str,
}

impl<'a> ViolationJson<'a> {
    fn of(violation: &'a Violation) -> Self {
        Self {
            field: &violation.field,
            description: &violation.description,
        }
    }
}

impl Failure {
    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::ReaderLeft => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) | Self::Invalid(_) => 2,
            Self::NotReached(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Later { .. } => 5,
            Self::Stopped => 130,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Failed(_) | Self::ReaderLeft => "failed",
            Self::Usage(_) => "usage",
            Self::Invalid(_) => "invalid",
            Self::NotReached(_) => "not_reached",
            Self::Unreachable(_) => "unreachable",
            Self::Later { .. } => "later",
            Self::Stopped => "stopped",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Failed(message)
            | Self::Usage(message)
            | Self::NotReached(message)
            | Self::Unreachable(message)
            | Self::Later { message, .. } => message.clone(),
            Self::Invalid(invalid) if invalid.message.is_empty() => "invalid request".to_owned(),
            Self::Invalid(invalid) => format!("invalid request: {}", invalid.message),
            Self::Stopped => "stopped by a signal".to_owned(),
            Self::ReaderLeft => String::new(),
        }
    }

    fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid(invalid) => &invalid.violations,
            _ => &[],
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Later { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What people read.
    pub(crate) fn text(&self) -> String {
        let violations = self.violations();
        let mut text = match self {
            // The sidecar's summary repeats the first violation.
            Self::Invalid(_) if !violations.is_empty() => "error: invalid request".to_owned(),
            other => format!("error: {}", other.message()),
        };
        for Violation { field, description } in violations {
            let _ = write!(text, "\n  {field}: {description}");
        }
        if let Some(delay) = self.retry_after() {
            let _ = write!(text, " (ask again in {delay:?})");
        }
        text
    }

    /// What scripts read.
    pub(crate) fn json(&self) -> String {
        let error = ErrorJson {
            kind: self.kind(),
            message: self.message(),
            violations: self.violations().iter().map(ViolationJson::of).collect(),
            retry_after_ms: self
                .retry_after()
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            exit_code: self.code(),
        };
        serde_json::json!({ "error": error }).to_string()
    }

    /// Tells it on standard error and answers the code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        use std::io::Write as _;
        if !matches!(self, Self::ReaderLeft) {
            let text = if json { self.json() } else { self.text() };
            // Nothing can be told when standard error is gone.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        ExitCode::from(self.code())
    }
}

impl Failure {
    /// Why `demo` or `replay` ended early: by a signal, or because something could not be done.
    pub(crate) fn of_lab(command: &str, error: &(dyn Error + Send + Sync + 'static)) -> Self {
        if error.is::<grapevine_lab::Interrupted>() {
            return Self::Stopped;
        }
        Self::Failed(format!("{command}: {}", with_causes(error)))
    }

    /// What it comes to when no sidecar did it.
    fn of_attempts(message: String, attempts: &[CallError], retry_after: Option<Duration>) -> Self {
        let full = |attempt: &CallError| matches!(attempt, CallError::Overloaded { .. });
        if attempts.iter().any(full) {
            return Self::Later {
                message,
                retry_after,
            };
        }
        let behind = |attempt: &CallError| matches!(attempt, CallError::SessionBehind { .. });
        if attempts.iter().any(behind) {
            return Self::Later {
                message,
                retry_after: None,
            };
        }
        // A sidecar that says no has answered.
        let refused = |attempt: &CallError| matches!(attempt, CallError::Refused { .. });
        if attempts.iter().any(refused) {
            return Self::Failed(message);
        }
        Self::Unreachable(message)
    }

    /// What was seen is not as it should be; nothing if there is nothing to tell.
    pub(crate) fn unless_well(command: &str, failures: &[String]) -> Result<(), Self> {
        if failures.is_empty() {
            return Ok(());
        }
        Err(Self::Failed(format!("{command}: {}", failures.join("; "))))
    }
}

/// An error with its causes, but for those that the text before has told already.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        next = error.source();
    }
    text
}

/// A command line that clap did not take, as a script reads it: one line, without clap's own prefix.
pub(crate) fn of_clap(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Failure::Usage(lines.collect::<Vec<_>>().join("\n"))
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Unreachable { .. }
            | CallError::Deadline { .. }
            | CallError::Broken { .. }
            | CallError::GaveUp { .. } => Self::Unreachable(message),
            CallError::Overloaded { retry_after, .. } => Self::Later {
                message,
                retry_after,
            },
            CallError::SessionBehind { .. } => Self::Later {
                message,
                retry_after: None,
            },
            CallError::Invalid(invalid) => Self::Invalid(invalid),
            CallError::Refused { .. } | CallError::BadAnswer { .. } => Self::Failed(message),
        }
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let message = error.to_string();
        match error {
            ResolveError::Invalid(invalid) => Self::Invalid(invalid),
            ResolveError::QueueFull { .. } | ResolveError::SessionBehind { .. } => Self::Later {
                message,
                retry_after: None,
            },
            ResolveError::Call(error) => error.into(),
        }
    }
}

impl From<InvalidateError> for Failure {
    fn from(error: InvalidateError) -> Self {
        let mut message = error.to_string();
        if error.may_have_had_effect() {
            message
                .push_str("; it may have happened all the same, and may be repeated without harm");
        }
        let retry_after = error.retry_after();
        match error {
            InvalidateError::Invalid(invalid) => Self::Invalid(invalid),
            InvalidateError::SessionBehind { .. } => Self::Later {
                message,
                retry_after: None,
            },
            InvalidateError::Refused(error) => error.into(),
            InvalidateError::NoSidecar { attempts } => {
                Self::of_attempts(message, &attempts, retry_after)
            }
        }
    }
}

impl From<BeginWriteError> for Failure {
    fn from(error: BeginWriteError) -> Self {
        let (message, retry_after) = (error.to_string(), error.retry_after());
        match error {
            BeginWriteError::Invalid(invalid) => Self::Invalid(invalid),
            BeginWriteError::SessionBehind { .. } => Self::Later {
                message: error.to_string(),
                retry_after: None,
            },
            BeginWriteError::Refused(error) => error.into(),
            BeginWriteError::NoSidecar { attempts } => {
                Self::of_attempts(message, &attempts, retry_after)
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Config(error) => error.into(),
            ClientError::Resolve(error) => error.into(),
            ClientError::Invalidate(error) => error.into(),
            ClientError::BeginWrite(error) => error.into(),
            ClientError::Call(error) => error.into(),
            ClientError::Session(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid() -> Failure {
        Failure::Invalid(InvalidRequest {
            message: "classes[0]: it is empty (and 1 more, see the details)".to_owned(),
            violations: ["classes[0]", "classes[4]"]
                .map(|field| Violation {
                    field: field.to_owned(),
                    description: "it is empty".to_owned(),
                })
                .to_vec(),
        })
    }

    #[test]
    fn every_violation_is_listed_on_a_line_of_its_own() {
        assert_eq!(
            invalid().text(),
            "error: invalid request\n  classes[0]: it is empty\n  classes[4]: it is empty"
        );
        assert_eq!(invalid().code(), 2);
    }

    #[test]
    fn errors_for_scripts_have_stable_fields() {
        let later = Failure::Later {
            message: "full".to_owned(),
            retry_after: Some(Duration::from_millis(50)),
        };
        assert_eq!(
            later.json(),
            r#"{"error":{"exit_code":5,"kind":"later","message":"full","retry_after_ms":50,"violations":[]}}"#
        );
        assert!(
            invalid()
                .json()
                .contains(r#"{"description":"it is empty","field":"classes[4]"}"#)
        );
    }

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn causes_are_told_once() {
        let cause = |text| Layer(text, Some(Box::new(Layer("no such file", None))));
        assert_eq!(
            with_causes(&cause("trace t: no such file")),
            "trace t: no such file"
        );
        assert_eq!(
            with_causes(&cause("cannot begin")),
            "cannot begin: no such file"
        );
    }

    #[test]
    fn what_was_seen_is_one_error_however_much_it_is() {
        assert!(Failure::unless_well("replay", &[]).is_ok());
        let seen = ["2 stale reads", "3 wrong values"].map(str::to_owned);
        let failure = Failure::unless_well("replay", &seen);
        let Err(failure) = failure else {
            panic!("not told")
        };
        assert_eq!(failure.code(), 1);
        assert_eq!(
            failure.text(),
            "error: replay: 2 stale reads; 3 wrong values"
        );
    }

    #[test]
    fn a_run_that_was_interrupted_did_not_fail() {
        let stopped = Failure::of_lab("demo", &grapevine_lab::Interrupted);
        assert_eq!(stopped.code(), 130);
        let failed = Failure::of_lab("demo", &Layer("no cache", None));
        assert_eq!(
            (failed.code(), failed.text()),
            (1, "error: demo: no cache".to_owned())
        );
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        assert_eq!(Failure::ReaderLeft.code(), 0);
    }

    #[test]
    fn nobody_answering_differs_from_nobody_having_room() {
        let endpoint = std::sync::Arc::from("unix:/run/g.sock");
        let gone = CallError::Unreachable {
            endpoint: std::sync::Arc::clone(&endpoint),
            reason: "no such file".to_owned(),
            retry_after: None,
        };
        let full = CallError::Overloaded {
            endpoint,
            message: "100 receipts".to_owned(),
            retry_after: None,
        };
        let of = |attempts: &[&CallError]| {
            let attempts = attempts.iter().map(|error| (*error).clone()).collect();
            Failure::from(InvalidateError::NoSidecar { attempts }).code()
        };
        assert_eq!((of(&[&gone]), of(&[&full]), of(&[&gone, &full])), (4, 5, 5));
    }
}
