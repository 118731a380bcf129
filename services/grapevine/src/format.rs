//! How values are written: the same for people and scripts where possible, so that one can be searched for in the other.
//!
//! Bytes (incarnations, leases, session tokens) are lower-case hexadecimal. A class's token is 16 hexadecimal digits, since
//! not every JSON reader keeps 64-bit numbers. Enumerations are lower-case words.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grapevine_client::v1;

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The reverse of [`hex`], for what a user hands back.
pub(crate) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!(
            "{text:?} is not an even number of hexadecimal digits"
        ));
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    Ok(text.as_bytes().chunks_exact(2).filter_map(pair).collect())
}

/// The end of an incarnation: enough to tell those of one cluster apart.
pub(crate) fn short(incarnation: &[u8]) -> String {
    hex(&incarnation[incarnation.len().saturating_sub(4)..])
}

/// An event for people.
pub(crate) fn event(event: &v1::EventId) -> String {
    format!("{}/{}", short(&event.incarnation), event.sequence)
}

pub(crate) fn token(token: u64) -> String {
    format!("{token:016x}")
}

/// A duration with at most two units, for people.
pub(crate) fn duration(duration: Duration) -> String {
    let rounded = if duration >= Duration::from_hours(1) {
        Duration::from_secs(duration.as_secs() / 60 * 60)
    } else if duration >= Duration::from_secs(10) {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    humantime::format_duration(rounded).to_string()
}

pub(crate) fn millis(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

/// How long until a moment of the calendar; nothing once it has passed.
pub(crate) fn until(unix_ms: u64, now: SystemTime) -> Option<Duration> {
    (UNIX_EPOCH + Duration::from_millis(unix_ms))
        .duration_since(now)
        .ok()
}

/// Bytes for people.
#[allow(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// One or many.
pub(crate) fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

pub(crate) fn freshness(value: v1::Freshness) -> &'static str {
    match value {
        v1::Freshness::Fresh => "fresh",
        v1::Freshness::CatchingUp => "catching_up",
        v1::Freshness::Unknown => "unknown",
        v1::Freshness::Unspecified => "unspecified",
    }
}

pub(crate) fn strategy(value: v1::Strategy) -> &'static str {
    match value {
        v1::Strategy::Versioned => "versioned",
        v1::Strategy::Registered => "registered",
        v1::Strategy::Bucketed => "bucketed",
        v1::Strategy::Ttl => "ttl",
        v1::Strategy::Unspecified => "unspecified",
    }
}

pub(crate) fn receipt_level(value: v1::ReceiptLevel) -> &'static str {
    match value {
        v1::ReceiptLevel::None => "none",
        v1::ReceiptLevel::One => "one",
        v1::ReceiptLevel::Quorum => "quorum",
        v1::ReceiptLevel::All => "all",
        v1::ReceiptLevel::Unspecified => "unspecified",
    }
}

pub(crate) fn holder_state(value: v1::HolderState) -> &'static str {
    match value {
        v1::HolderState::Has => "has",
        v1::HolderState::Flushed => "flushed",
        v1::HolderState::HasNot => "has_not",
        v1::HolderState::CannotServe => "cannot_serve",
        v1::HolderState::Unspecified => "unspecified",
    }
}

pub(crate) fn member_state(value: v1::MemberState) -> &'static str {
    match value {
        v1::MemberState::Self_ => "self",
        v1::MemberState::Alive => "alive",
        v1::MemberState::Suspect => "suspect",
        v1::MemberState::Unspecified => "unspecified",
    }
}

pub(crate) fn matching(value: v1::Match) -> &'static str {
    match value {
        v1::Match::All => "all",
        v1::Match::Any | v1::Match::Unspecified => "any",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn bytes_come_back_from_their_digits() {
        let bytes = [0x00, 0x0f, 0xab, 0xff];
        assert_eq!(hex(&bytes), "000fabff");
        assert_eq!(unhex("000fABff").unwrap(), bytes);
        for wrong in ["0", "0g", "é", "+1"] {
            unhex(wrong).unwrap_err();
        }
        assert_eq!(short(&[1, 2, 3, 4, 5]), "02030405");
        assert_eq!(short(&[1]), "01");
    }

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(duration(Duration::from_micros(1_234_567)), "1s 234ms");
        assert_eq!(duration(Duration::from_millis(75_400)), "1m 15s");
        assert_eq!(duration(Duration::from_secs(3_661)), "1h 1m");
        assert_eq!(
            (bytes(1_023), bytes(1_536)),
            ("1023 B".to_owned(), "1.5 KiB".to_owned())
        );
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn what_has_lapsed_has_no_time_left() {
        let now = UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(until(12_000, now), Some(Duration::from_secs(2)));
        assert_eq!(until(9_000, now), None);
    }
}
