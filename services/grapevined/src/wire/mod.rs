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

/// The event that a session token names. Sequences begin at 1.
pub(crate) fn session_event(token: &[u8]) -> Option<EventId> {
    if token.len() != SESSION_BYTES || token[0] != SESSION_VERSION {
        return None;
    }
    let sequence = u64::from_be_bytes(token[17..].try_into().ok()?);
    (sequence > 0).then_some(EventId {
        origin: Incarnation::from_bytes(&token[1..17])?,
        sequence,
    })
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
