//! Sessions in a call's metadata: services hand on what they were handed, without reading it.
//!
//! The entry `grapevine-session` holds session tokens in hexadecimal, separated by dots, as `docs/formats-values.md` says;
//! `grapevine-session-wait-ms` how long to wait for them. A call that names a session in its message too waits for both.
//! Of two tokens of one run the later says more, so the other is let go; what is left counts against the limit.

use std::time::Duration;

use grapevine_core::id::EventId;
use tonic::Status;
use tonic::metadata::{KeyAndValueRef, MetadataMap};

use super::super::session_event;
use super::super::status::invalid;
use super::{SESSION_TOKENS_MAX, SESSION_WAIT_DEFAULT, Session, WAIT_MAX};

/// Where a session travels.
pub(crate) const SESSION_ENTRY: &str = "grapevine-session";
/// Where its wait travels, in milliseconds.
pub(crate) const WAIT_ENTRY: &str = "grapevine-session-wait-ms";
/// The longest token, in bytes: what the contract says of tokens in messages.
const TOKEN_BYTES_MAX: usize = 64;

/// The session in a call's metadata; one that has seen nothing if there is none.
pub(crate) fn carried(metadata: &MetadataMap) -> Result<Session, Status> {
    let mut session = Session {
        events: Vec::new(),
        wait: wait(metadata)?,
    };
    for entry in metadata.iter() {
        let KeyAndValueRef::Ascii(name, value) = entry else {
            continue;
        };
        if name.as_str() != SESSION_ENTRY {
            continue;
        }
        let text = value
            .to_str()
            .map_err(|_| invalid(SESSION_ENTRY, "bytes outside ASCII"))?;
        for token in text.split('.').filter(|_| !text.is_empty()) {
            let event = event(token).map_err(|wrong| invalid(SESSION_ENTRY, wrong))?;
            session.add(event)?;
        }
    }
    Ok(session)
}

impl Session {
    /// What a message's session and the one beside it name, and the longer wait of those that name anything.
    pub(crate) fn and(mut self, carried: &Self) -> Result<Self, Status> {
        if carried.events.is_empty() {
            return Ok(self);
        }
        for event in &carried.events {
            self.add(*event)?;
        }
        self.wait = self.wait.max(carried.wait);
        Ok(self)
    }

    fn add(&mut self, event: EventId) -> Result<(), Status> {
        let same_run = |held: &&mut EventId| held.origin == event.origin;
        if let Some(held) = self.events.iter_mut().find(same_run) {
            held.sequence = held.sequence.max(event.sequence);
        } else if self.events.len() < SESSION_TOKENS_MAX {
            self.events.push(event);
        } else {
            return Err(invalid(
                SESSION_ENTRY,
                format!(
                    "tokens of more than {SESSION_TOKENS_MAX} runs, those of the message's session included; the limit is {SESSION_TOKENS_MAX}"
                ),
            ));
        }
        Ok(())
    }
}

fn wait(metadata: &MetadataMap) -> Result<Duration, Status> {
    let Some(value) = metadata.get(WAIT_ENTRY) else {
        return Ok(SESSION_WAIT_DEFAULT);
    };
    let most = WAIT_MAX.as_millis();
    let wait = value.to_str().ok().and_then(|text| text.parse().ok());
    match wait.map(Duration::from_millis) {
        Some(wait) if wait.is_zero() => Ok(SESSION_WAIT_DEFAULT),
        Some(wait) if wait <= WAIT_MAX => Ok(wait),
        _ => Err(invalid(
            WAIT_ENTRY,
            format!("{value:?} is not a number of milliseconds from 0 to {most}"),
        )),
    }
}

fn event(token: &str) -> Result<EventId, String> {
    let digits = token.len();
    let no_bytes = || format!("{digits} digits that are not a session token in hexadecimal");
    if digits > 2 * TOKEN_BYTES_MAX || !digits.is_multiple_of(2) {
        return Err(no_bytes());
    }
    let digit = |byte: u8| {
        let digit = char::from(byte).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes: Option<Vec<u8>> = token.as_bytes().chunks_exact(2).map(pair).collect();
    session_event(&bytes.ok_or_else(no_bytes)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fmt::Write as _;

    use grapevine_core::id::Incarnation;
    use tonic::Code;

    use super::super::super::session_token;
    use super::*;

    fn told(run: u8, sequence: u64) -> EventId {
        EventId {
            origin: Incarnation::from_random(run.into(), 0),
            sequence,
        }
    }

    fn text(events: &[EventId]) -> String {
        let hex = |event: &EventId| {
            session_token(*event)
                .iter()
                .fold(String::new(), |mut text, byte| {
                    write!(text, "{byte:02x}").unwrap();
                    text
                })
        };
        events.iter().map(hex).collect::<Vec<_>>().join(".")
    }

    fn metadata(sessions: &[&str], wait: Option<&str>) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for session in sessions {
            metadata.append(SESSION_ENTRY, session.parse().unwrap());
        }
        if let Some(wait) = wait {
            metadata.insert(WAIT_ENTRY, wait.parse().unwrap());
        }
        metadata
    }

    #[test]
    fn g5_a_session_in_metadata_is_read_and_joined_to_the_messages() {
        let none = carried(&MetadataMap::new()).unwrap();
        assert!(none.events.is_empty());
        let two = text(&[told(1, 5), told(2, 1)]);
        let later = text(&[told(1, 9)]);
        let session = carried(&metadata(&["", &two, &later], Some("250"))).unwrap();
        assert_eq!(session.events, [told(1, 9), told(2, 1)]);
        assert_eq!(session.wait, Duration::from_millis(250));
        let message = Session {
            events: vec![told(2, 7), told(3, 1)],
            wait: SESSION_WAIT_DEFAULT,
        };
        let both = message.and(&session).unwrap();
        assert_eq!(both.events, [told(2, 7), told(3, 1), told(1, 9)]);
        assert_eq!(both.wait, SESSION_WAIT_DEFAULT);
        let fourth = carried(&metadata(&[&text(&[told(4, 1)])], None)).unwrap();
        let full = both.and(&fourth).unwrap_err();
        assert_eq!(full.code(), Code::InvalidArgument);
        assert!(full.message().contains("the limit is 3"), "{full}");
    }

    #[test]
    fn what_is_no_session_is_refused() {
        for session in [".", "0", "0g", "01", "01..02", &"00".repeat(65)] {
            let refused = carried(&metadata(&[session], None)).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{session}");
        }
        for wait in ["-1", "soon", "60001", ""] {
            let refused = carried(&metadata(&[], Some(wait))).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{wait}");
        }
    }
}
