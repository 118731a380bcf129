//! Refused peers, told once a minute for each reason.
//!
//! Anybody who reaches the peer port can be refused as often as he likes, so a line for each would let him fill the log. The
//! counter (`peer_rejected`) counts all of them; a line says how many there were of its kind since the line before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::{Code, Status};
use tracing::warn;

/// How long nothing more is said of a reason.
const QUIET: Duration = Duration::from_mins(1);
/// Reasons told apart; what comes beyond counts as one. There are about ten.
const REASONS_MAX: usize = 32;

/// What a refusal is about: the code, and the field of the introduction, without what the peer wrote into it.
type Reason = (i32, String);

#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<Reason, Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// How many were not told since then.
    untold: u64,
}

impl Refusals {
    /// A peer was refused.
    pub(super) fn note(&self, status: &Status, now: Instant) {
        if let Some(untold) = self.due(status, now) {
            let reason = status.message();
            warn!(reason, untold, "refused a peer");
        }
    }

    /// How many of the kind were not told, if it is time for a line.
    fn due(&self, status: &Status, now: Instant) -> Option<u64> {
        let field = match status.message().split_once(':') {
            Some((field, _)) if field.starts_with("hello") => field,
            _ => "",
        };
        let mut reason = (status.code() as i32, field.to_owned());
        let mut told = self.0.lock();
        if !told.contains_key(&reason) && told.len() >= REASONS_MAX {
            reason = (Code::Unknown as i32, String::new());
        }
        let Some(last) = told.get_mut(&reason) else {
            let told_now = Told { at: now, untold: 0 };
            told.insert(reason, told_now);
            return Some(0);
        };
        if now - last.at < QUIET {
            last.untold += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_a_reason_is_told_once_a_minute_whatever_the_peer_wrote() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let other = |name: u64| {
            Status::failed_precondition(format!("hello.cluster: \"x{name}\" is not \"atk\""))
        };
        let lines = (0..50_000).filter_map(|n| refusals.due(&other(n), at(n / 1_000)));
        assert_eq!(lines.collect::<Vec<_>>(), [0]);
        let protocol = Status::failed_precondition("hello.protocol: 9 is not 4");
        assert_eq!(refusals.due(&protocol, at(50)), Some(0), "another reason");
        assert_eq!(refusals.due(&other(0), at(61)), Some(49_999));
        assert_eq!(refusals.due(&other(0), at(62)), None);
    }

    #[test]
    fn g10_reasons_are_bounded() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let lines = (0..1_000).filter_map(|n| {
            let status = Status::invalid_argument(format!("hello{n}: it is wrong"));
            refusals.due(&status, now)
        });
        assert_eq!(lines.count(), REASONS_MAX + 1);
    }
}
