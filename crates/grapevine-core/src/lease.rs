//! Fill leases: what a resolve hands out and a commit brings back.
//!
//! A lease holds no state at the sidecar. It carries the incarnation that gave it, the stamp taken at resolve, and the
//! moment it ends on that incarnation's clock. A commit whose lease is not of this run, or has ended, is condemned: its
//! stamp says nothing any more. The bytes are opaque to clients; docs/formats.md draws them.
//!
//! Peers that receive a registration need its stamp as a vector. The history keeps the last applied events, from
//! which the vector at any stamp still leased is the watermarks, lowered below every event applied since.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::id::{EventId, Incarnation, Time};
use crate::vector::VersionVector;
use crate::versions::Stamp;

/// The version of the byte form, first in it.
const LEASE_VERSION: u8 = 1;
/// The same of a read snapshot's. It is another number, so that neither passes for the other.
const SNAPSHOT_VERSION: u8 = 2;
/// The length of the byte form.
pub const LEASE_BYTES: usize = 1 + Incarnation::LEN + 8 + 8;
/// The length of a read snapshot's byte form.
pub const SNAPSHOT_BYTES: usize = LEASE_BYTES + 16;
/// The longest that a read snapshot may hold.
pub const SNAPSHOT_LEASE_MAX: Duration = Duration::from_mins(10);
/// Applied events kept to turn stamps into vectors; an older stamp is treated as unknown.
pub const HISTORY_MAX: usize = 65_536;

/// A fill lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run that gave it.
    pub incarnation: Incarnation,
    /// What that run had applied.
    pub stamp: Stamp,
    /// When it ends, on that run's clock.
    pub ends: Time,
}

impl Lease {
    /// The byte form.
    pub fn to_bytes(self) -> [u8; LEASE_BYTES] {
        let mut bytes = [0; LEASE_BYTES];
        bytes[0] = LEASE_VERSION;
        bytes[1..17].copy_from_slice(&self.incarnation.to_bytes());
        bytes[17..25].copy_from_slice(&self.stamp.0.to_be_bytes());
        bytes[25..].copy_from_slice(&micros(self.ends).to_be_bytes());
        bytes
    }

    /// From the byte form; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEASE_BYTES || bytes[0] != LEASE_VERSION {
            return None;
        }
        Some(Self {
            incarnation: Incarnation::from_bytes(&bytes[1..17])?,
            stamp: Stamp(number(bytes, 17)?),
            ends: moment(bytes, 25)?,
        })
    }
}

/// What was known just before a database snapshot began: the stamp of every fill that reads inside it, whenever that looks up.
/// As a lease it holds no state at the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSnapshot {
    /// The run that opened it.
    pub incarnation: Incarnation,
    /// What that run had applied.
    pub stamp: Stamp,
    /// What a source that lags as much as any policy says shows of that, at least.
    pub shown: Stamp,
    /// When it was opened, on that run's clock.
    pub opened: Time,
    /// When it ends, on that run's clock.
    pub ends: Time,
}

impl ReadSnapshot {
    /// The byte form.
    pub fn to_bytes(self) -> [u8; SNAPSHOT_BYTES] {
        let mut bytes = [0; SNAPSHOT_BYTES];
        bytes[0] = SNAPSHOT_VERSION;
        bytes[1..17].copy_from_slice(&self.incarnation.to_bytes());
        bytes[17..25].copy_from_slice(&self.stamp.0.to_be_bytes());
        bytes[25..33].copy_from_slice(&self.shown.0.to_be_bytes());
        bytes[33..41].copy_from_slice(&micros(self.opened).to_be_bytes());
        bytes[41..].copy_from_slice(&micros(self.ends).to_be_bytes());
        bytes
    }

    /// From the byte form; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SNAPSHOT_BYTES || bytes[0] != SNAPSHOT_VERSION {
            return None;
        }
        Some(Self {
            incarnation: Incarnation::from_bytes(&bytes[1..17])?,
            stamp: Stamp(number(bytes, 17)?),
            shown: Stamp(number(bytes, 25)?),
            opened: moment(bytes, 33)?,
            ends: moment(bytes, 41)?,
        })
    }
}

fn micros(time: Time) -> u64 {
    u64::try_from(time.since_start().as_micros()).unwrap_or(u64::MAX)
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?))
}

fn moment(bytes: &[u8], at: usize) -> Option<Time> {
    Some(Time::from_start(Duration::from_micros(number(bytes, at)?)))
}

/// The last applied bump-lane events, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    events: VecDeque<(Stamp, EventId)>,
    forgotten: Stamp,
}

impl History {
    /// Notes that an event was applied as the `stamp`-th change.
    pub(crate) fn note(&mut self, stamp: Stamp, event: EventId) {
        if self.events.len() == HISTORY_MAX
            && let Some((oldest, _)) = self.events.pop_front()
        {
            self.forgotten = oldest;
        }
        self.events.push_back((stamp, event));
    }

    /// Notes a change that no single event describes (a snapshot, a recovered state): older stamps become unknown.
    pub(crate) fn cut(&mut self, stamp: Stamp) {
        self.events.clear();
        self.forgotten = stamp;
    }

    /// Whether the stamp can still be turned into a vector.
    pub(crate) fn knows(&self, stamp: Stamp) -> bool {
        stamp >= self.forgotten
    }

    /// What had been applied without holes at each of the stamps, which rise, given the watermarks now. An event above a
    /// watermark then is left out, which only condemns more. A stamp from before a state was adopted whole says nothing
    /// any more: peers must think the worst of it.
    pub(crate) fn vectors_at(
        &self,
        stamps: &[Stamp],
        watermarks: &VersionVector,
    ) -> Vec<VersionVector> {
        debug_assert!(stamps.is_sorted(), "invariant: stamps rise");
        let mut lowest: BTreeMap<Incarnation, u64> = BTreeMap::new();
        let mut events = self.events.iter().rev().peekable();
        let mut vectors: Vec<_> = stamps
            .iter()
            .rev()
            .map(|&stamp| {
                while let Some((_, event)) = events.next_if(|(at, _)| *at > stamp) {
                    let known = lowest.entry(event.origin).or_insert(event.sequence);
                    *known = (*known).min(event.sequence);
                }
                if !self.knows(stamp) {
                    return VersionVector::new();
                }
                let bounded = watermarks.iter().map(|(origin, sequence)| {
                    let bound = lowest.get(&origin).map_or(sequence, |&lowest| lowest - 1);
                    (origin, sequence.min(bound))
                });
                bounded.filter(|(_, sequence)| *sequence > 0).collect()
            })
            .collect();
        vectors.reverse();
        vectors
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_byte_form_comes_back_and_nothing_else_passes() {
        let lease = Lease {
            incarnation: Incarnation::new(7).unwrap(),
            stamp: Stamp(42),
            ends: Time::from_start(Duration::from_millis(1_500)),
        };
        assert_eq!(Lease::from_bytes(&lease.to_bytes()), Some(lease));
        for length in 0..LEASE_BYTES {
            assert_eq!(Lease::from_bytes(&lease.to_bytes()[..length]), None);
        }
        let mut other = lease.to_bytes();
        other[0] = 9;
        assert_eq!(Lease::from_bytes(&other), None);
        let snapshot = ReadSnapshot {
            incarnation: lease.incarnation,
            stamp: lease.stamp,
            shown: Stamp(41),
            opened: Time::from_start(Duration::from_millis(500)),
            ends: lease.ends,
        };
        let bytes = snapshot.to_bytes();
        assert_eq!(ReadSnapshot::from_bytes(&bytes), Some(snapshot));
        for length in 0..SNAPSHOT_BYTES {
            assert_eq!(ReadSnapshot::from_bytes(&bytes[..length]), None);
            assert_eq!(Lease::from_bytes(&bytes[..length]), None);
        }
        assert_eq!(ReadSnapshot::from_bytes(&lease.to_bytes()), None);
    }

    #[test]
    fn g4_a_stamp_becomes_the_vector_of_that_moment() {
        let a = Incarnation::new(1).unwrap();
        let b = Incarnation::new(2).unwrap();
        let mut history = History::default();
        for (stamp, origin, sequence) in [(1, a, 1), (2, b, 1), (3, a, 2), (4, b, 2)] {
            history.note(Stamp(stamp), EventId { origin, sequence });
        }
        let now: VersionVector = [(a, 2), (b, 2)].into_iter().collect();
        let then: VersionVector = [(a, 1), (b, 1)].into_iter().collect();
        assert_eq!(
            history.vectors_at(&[Stamp(0), Stamp(2), Stamp(4)], &now),
            [VersionVector::new(), then, now.clone()]
        );
        history.cut(Stamp(5));
        assert_eq!(
            history.vectors_at(&[Stamp(4), Stamp(5)], &now),
            [VersionVector::new(), now]
        );
        assert!(!history.knows(Stamp(4)) && history.knows(Stamp(5)));
    }

    #[test]
    fn g4_events_that_came_late_are_in_no_stamp_before_them() {
        let a = Incarnation::new(1).unwrap();
        let mut history = History::default();
        for (stamp, sequence) in [(1, 1), (2, 4), (3, 3), (4, 2)] {
            let origin = a;
            history.note(Stamp(stamp), EventId { origin, sequence });
        }
        let now: VersionVector = [(a, 4)].into_iter().collect();
        let at = |stamp| history.vectors_at(&[Stamp(stamp)], &now)[0].get(a);
        // Until the second event came nothing above the first was there without a hole.
        assert_eq!([at(0), at(1), at(2), at(3), at(4)], [0, 1, 1, 1, 4]);
    }
}
