//! The application service's messages.

mod carried;
mod explain;
mod index;
mod intents;
mod invalidate;
mod register;
mod report;
mod resolve;
mod rows;
mod snapshots;
mod tables;
mod turns;
mod watch;

pub(crate) use carried::carried;
pub(crate) use explain::{Statement, explaining, explanation, rows_of_write};
pub(crate) use index::{
    index_fill, index_filled, index_found, index_is_shared, index_prune, index_read, index_turn,
};
pub(crate) use intents::{Commit, aborted, aborting, beginning, begun, committing};
pub(crate) use invalidate::{Invalidation, Terms, invalidation, receipt};
pub(crate) use register::{Expiry, fills, registrations, verdict};
pub(crate) use report::reported;
pub(crate) use resolve::{Leases, look_ups, note_resolve_error, resolution};
pub(crate) use rows::{Changed, changed_rows, changed_where};
pub(crate) use snapshots::{opened, opening};
pub(crate) use tables::{table_letter, table_opened, table_words};
pub(crate) use turns::{acquiring, finishing, turn};
pub(crate) use watch::{watch_bump, watched};

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use grapevine_core::id::EventId;
use grapevine_core::names::{ClassPath, EVERYTHING};
use grapevine_proto::v1;
use tonic::Status;

use super::session_event;
use super::status::Violations;

/// Session tokens in one call.
pub(super) const SESSION_TOKENS_MAX: usize = 3;

/// How long a call waits for its session unless told otherwise.
pub(super) const SESSION_WAIT_DEFAULT: Duration = Duration::from_secs(1);

/// The longest wait of any kind.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(1);

/// What a caller must be able to see, and how long it waits for it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) events: Vec<EventId>,
    pub(crate) wait: Duration,
}

/// Checks a count.
pub(super) fn counted(
    violations: &mut Violations,
    field: &str,
    value: usize,
    limits: RangeInclusive<usize>,
) {
    if !limits.contains(&value) {
        let (least, most) = (limits.start(), limits.end());
        violations.add(
            field,
            format!("{value} of them; the limits are {least} to {most}"),
        );
    }
}

/// A class that an address may belong to.
pub(super) fn address_class(value: &str) -> Result<ClassPath, String> {
    let class = ClassPath::parse(value).map_err(|error| error.to_string())?;
    if class.is_reserved() {
        return Err(format!(
            "class {value:?}: {EVERYTHING:?} stands for every class, and no address belongs to it"
        ));
    }
    if let Some(star) = value
        .split('/')
        .find(|segment| matches!(*segment, "*" | "**"))
    {
        return Err(format!(
            "class {value:?} has the segment {star:?}: a class covers everything below it, so patterns are not needed here"
        ));
    }
    Ok(class)
}

/// A class that may be invalidated or watched: also the one that stands for all, but nothing below it.
pub(super) fn bump_class(value: &str) -> Result<ClassPath, String> {
    if value == EVERYTHING {
        Ok(ClassPath::everything())
    } else {
        address_class(value)
    }
}

pub(super) fn classes(
    violations: &mut Violations,
    field: impl fmt::Display,
    values: &[String],
    parse: fn(&str) -> Result<ClassPath, String>,
) -> Vec<ClassPath> {
    values
        .iter()
        .enumerate()
        .filter_map(|(at, value)| violations.check(|| format!("{field}[{at}]"), parse(value)))
        .collect()
}

pub(super) fn wait(
    violations: &mut Violations,
    field: &str,
    value_ms: u32,
    default: Duration,
) -> Duration {
    let value = Duration::from_millis(value_ms.into());
    if value > WAIT_MAX {
        violations.add(
            field,
            format!("{value_ms} ms; the limit is {} ms", WAIT_MAX.as_millis()),
        );
    }
    if value.is_zero() { default } else { value }
}

/// Reads a session, noting what is wrong beside whatever else is wrong with the call.
pub(super) fn session(violations: &mut Violations, message: Option<&v1::Session>) -> Session {
    let Some(message) = message else {
        return Session::default();
    };
    if message.tokens.len() > SESSION_TOKENS_MAX {
        let given = message.tokens.len();
        violations.add(
            "session.tokens",
            format!("{given} of them; the limit is {SESSION_TOKENS_MAX}"),
        );
    }
    let mut events = Vec::new();
    for (at, token) in message.tokens.iter().enumerate().take(SESSION_TOKENS_MAX) {
        match session_event(token) {
            Ok(event) => events.push(event),
            Err(wrong) => violations.add(format!("session.tokens[{at}]"), wrong),
        }
    }
    let wait = wait(
        violations,
        "session.wait_ms",
        message.wait_ms,
        SESSION_WAIT_DEFAULT,
    );
    Session { events, wait }
}

/// The class of a listing. `*` and patterns name no class that addresses belong to: nothing would be listed, without a
/// word.
pub(crate) fn class(field: &str, value: &str) -> Result<ClassPath, Status> {
    address_class(value).map_err(|error| super::status::invalid(field, error))
}
