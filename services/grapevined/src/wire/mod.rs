//! Where wire types become domain types and back; nothing behind this door sees a generated message.
//!
//! Applications' input is checked here field by field: every violation of a call is told at once, with the field, the
//! value and the limit. Peers' input is checked as strictly, but a peer that says something malformed is broken or
//! hostile, so the first violation ends its stream.

pub(crate) mod admin;
pub(crate) mod app;
pub(crate) mod peer;
pub(crate) mod status;

use grapevine_core::id::{EventId, Incarnation, named_bytes, read_named};
use grapevine_core::machine::effects as core;
use grapevine_proto::v1;
use prost::bytes::Bytes;

/// The version byte of a session token, first in it.
const SESSION_VERSION: u8 = 1;
/// The session token of an event.
pub(crate) fn session_token(event: EventId) -> Bytes {
    let named = named_bytes(SESSION_VERSION, event.origin, event.sequence);
    Bytes::copy_from_slice(&named)
}

/// The event that a session token names, or what is wrong with it.
pub(crate) fn session_event(token: &[u8]) -> Result<EventId, String> {
    let named = read_named(token, SESSION_VERSION);
    let (origin, sequence) = named.map_err(|wrong| format!("a session token of {wrong}"))?;
    if sequence == 0 {
        return Err("a session token of event 0: the first of a run is 1".to_owned());
    }
    Ok(EventId { origin, sequence })
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
