//! Where wire types become domain types and back; nothing behind this door sees a generated message.
//!
//! Applications' input is checked here field by field: every violation of a call is told at once, with the field, the
//! value and the limit. Peers' input is checked as strictly, but a peer that says something malformed is broken or
//! hostile, so the first violation ends its stream.

pub(crate) mod admin;
pub(crate) mod app;
pub(crate) mod peer;
pub(crate) mod status;

use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::machine::effects as core;
use grapevine_proto::v1;
use prost::bytes::Bytes;

/// The version byte of a session token, first in it.
const SESSION_VERSION: u8 = 1;
/// The length of a session token: version, incarnation, sequence.
const SESSION_BYTES: usize = 1 + Incarnation::LEN + 8;

/// The session token of an event.
pub(crate) fn session_token(event: EventId) -> Bytes {
    let mut bytes = Vec::with_capacity(SESSION_BYTES);
    bytes.push(SESSION_VERSION);
    bytes.extend_from_slice(&event.origin.to_bytes());
    bytes.extend_from_slice(&event.sequence.to_be_bytes());
    bytes.into()
}

/// The event that a session token names, or what is wrong with it.
pub(crate) fn session_event(token: &[u8]) -> Result<EventId, String> {
    let (origin, sequence) = named(token, "a session token", SESSION_VERSION, SESSION_BYTES)?;
    if sequence == 0 {
        return Err("a session token of event 0: the first of a run is 1".to_owned());
    }
    Ok(EventId { origin, sequence })
}

/// Reads what tokens and intents are made of, version, run and number: the run and the number, or what is wrong.
pub(crate) fn named(
    bytes: &[u8],
    what: &str,
    version: u8,
    length: usize,
) -> Result<(Incarnation, u64), String> {
    let given = bytes.len();
    if given != length {
        return Err(format!("{given} bytes; {what} has {length}"));
    }
    if bytes[0] != version {
        let given = bytes[0];
        return Err(format!("{what} of version {given}; it must be {version}"));
    }
    let (run, number) = bytes[1..].split_at(Incarnation::LEN);
    let number = number.try_into().map(u64::from_be_bytes);
    match (Incarnation::from_bytes(run), number) {
        (Some(run), Ok(number)) => Ok((run, number)),
        _ => Err(format!(
            "{what} of a run whose number is 0, which no run has"
        )),
    }
}

pub(crate) fn incarnation(value: Incarnation) -> Bytes {
    Bytes::copy_from_slice(&value.to_bytes())
}

pub(crate) fn event_id(event: EventId) -> v1::EventId {
    v1::EventId {
        incarnation: incarnation(event.origin),
        sequence: event.sequence,
    }
}

pub(crate) fn freshness(freshness: core::Freshness) -> (v1::Freshness, String) {
    match freshness {
        core::Freshness::Fresh => (v1::Freshness::Fresh, String::new()),
        core::Freshness::CatchingUp(reason) => (v1::Freshness::CatchingUp, reason),
        core::Freshness::Unknown(reason) => (v1::Freshness::Unknown, reason),
    }
}

#[cfg(test)]
mod tests;
