//! What the log holds, per lane and origin, and what is to leave it.
//!
//! The log serves peers that miss an event; what it no longer holds, they get as a snapshot of state. So it may
//! forget whenever it is too long, oldest first. Events carry no time, so "oldest" is told within an origin only:
//! a lane that holds more than its limit loses the oldest event of the origin that holds most there. A flood from one
//! origin thus pushes out its own events, and not a quiet neighbour's. The newest [`KEPT_EVENTS`] of an origin stay
//! while the lane is within twice its limit; beyond that, all but the newest one may go. Whose turn it is stands in
//! order, so that a drop costs the same however many origins there are.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_core::id::{Incarnation, Lane};

use crate::codec::{DecodeError, Reader, put_varint};

/// How many of an origin's newest events a lane keeps while it is within twice its limit.
pub(crate) const KEPT_EVENTS: u64 = 64;

/// What the log holds of one origin's lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) events: u64,
    /// The highest sequence held.
    pub(crate) last: u64,
    /// The highest sequence dropped.
    pub(crate) dropped: u64,
}

impl Held {
    /// Four varints.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.bytes);
        put_varint(&mut out, self.events);
        put_varint(&mut out, self.last);
        put_varint(&mut out, self.dropped);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let held = Self {
            bytes: reader.varint()?,
            events: reader.varint()?,
            last: reader.varint()?,
            dropped: reader.varint()?,
        };
        reader.finish()?;
        Ok(held)
    }
}

/// The whole log's holdings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    held: BTreeMap<(Lane, Incarnation), Held>,
    totals: BTreeMap<Lane, u64>,
    /// Origins with more than [`KEPT_EVENTS`] events, by how much they hold.
    crowded: BTreeSet<(Lane, u64, Incarnation)>,
    /// Origins with more than one event, likewise.
    several: BTreeSet<(Lane, u64, Incarnation)>,
}

impl Ledger {
    /// Takes up what was stored.
    pub(crate) fn insert(&mut self, lane: Lane, origin: Incarnation, held: Held) {
        self.change(lane, origin, |place| *place = held);
    }

    pub(crate) fn get(&self, lane: Lane, origin: Incarnation) -> Held {
        self.held.get(&(lane, origin)).copied().unwrap_or_default()
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = (Lane, Incarnation)> + '_ {
        self.held.keys().copied()
    }

    pub(crate) fn add(&mut self, lane: Lane, origin: Incarnation, sequence: u64, bytes: u64) {
        self.change(lane, origin, |held| {
            held.bytes += bytes;
            held.events += 1;
            held.last = held.last.max(sequence);
        });
    }

    pub(crate) fn remove(&mut self, lane: Lane, origin: Incarnation, sequence: u64, bytes: u64) {
        self.change(lane, origin, |held| {
            held.bytes = held.bytes.saturating_sub(bytes);
            held.events = held.events.saturating_sub(1);
            held.dropped = held.dropped.max(sequence);
        });
    }

    /// Nothing of this origin is held any more, nor was.
    pub(crate) fn forget(&mut self, lane: Lane, origin: Incarnation) {
        if self.held.contains_key(&(lane, origin)) {
            self.change(lane, origin, |held| *held = Held::default());
            self.held.remove(&(lane, origin));
        }
    }

    fn change(&mut self, lane: Lane, origin: Incarnation, change: impl FnOnce(&mut Held)) {
        let held = self.held.entry((lane, origin)).or_default();
        let before = *held;
        change(held);
        let after = *held;
        let total = self.totals.entry(lane).or_default();
        *total = total.saturating_sub(before.bytes) + after.bytes;
        for (ordered, kept) in [(&mut self.crowded, KEPT_EVENTS), (&mut self.several, 1)] {
            if before.events > kept {
                ordered.remove(&(lane, before.bytes, origin));
            }
            if after.events > kept {
                ordered.insert((lane, after.bytes, origin));
            }
        }
    }

    /// Whose oldest event is to leave a lane now, if one is.
    pub(crate) fn overfull(&self, lane: Lane, bytes_max: u64) -> Option<Incarnation> {
        let total = self.totals.get(&lane).copied().unwrap_or(0);
        if total <= bytes_max {
            return None;
        }
        let largest = |ordered: &BTreeSet<(Lane, u64, Incarnation)>| {
            let of_lane = ordered.range((lane, 0, LOWEST)..=(lane, u64::MAX, HIGHEST));
            of_lane.last().map(|(_, _, origin)| *origin)
        };
        largest(&self.crowded).or_else(|| {
            if total > bytes_max.saturating_mul(2) {
                largest(&self.several)
            } else {
                None
            }
        })
    }
}

const LOWEST: Incarnation = match Incarnation::new(1) {
    Some(lowest) => lowest,
    None => unreachable!(),
};
const HIGHEST: Incarnation = match Incarnation::new(u128::MAX) {
    Some(highest) => highest,
    None => unreachable!(),
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(number: u128) -> Incarnation {
        Incarnation::new(number).unwrap()
    }

    fn fill(ledger: &mut Ledger, lane: Lane, number: u128, events: u64, bytes: u64) {
        for sequence in 1..=events {
            ledger.add(lane, origin(number), sequence, bytes);
        }
    }

    fn trim(ledger: &mut Ledger, lane: Lane, bytes_max: u64, bytes: u64) {
        while let Some(origin) = ledger.overfull(lane, bytes_max) {
            let oldest = ledger.get(lane, origin).dropped + 1;
            ledger.remove(lane, origin, oldest, bytes);
        }
    }

    #[test]
    fn a_flood_pushes_out_its_own_events() {
        let mut ledger = Ledger::default();
        fill(&mut ledger, Lane::Directory, 1, 100, 10);
        fill(&mut ledger, Lane::Directory, 2, 10_000, 10);
        fill(&mut ledger, Lane::Bump, 3, 1000, 10);
        trim(&mut ledger, Lane::Directory, 5_000, 10);
        assert_eq!(ledger.get(Lane::Directory, origin(1)).events, 100);
        assert_eq!(ledger.get(Lane::Directory, origin(2)).events, 400);
        assert_eq!(ledger.get(Lane::Bump, origin(3)).events, 1000);
    }

    #[test]
    fn the_newest_stay_up_to_twice_the_limit() {
        let mut ledger = Ledger::default();
        fill(&mut ledger, Lane::Bump, 1, 100, 10);
        trim(&mut ledger, Lane::Bump, 400, 10);
        assert_eq!(ledger.get(Lane::Bump, origin(1)).events, KEPT_EVENTS);
        trim(&mut ledger, Lane::Bump, 100, 10);
        assert_eq!(ledger.get(Lane::Bump, origin(1)).events, 20);
        trim(&mut ledger, Lane::Bump, 1, 10);
        assert_eq!(ledger.get(Lane::Bump, origin(1)).events, 1);
        assert_eq!(ledger.get(Lane::Bump, origin(1)).last, 100);
        assert_eq!(ledger.get(Lane::Bump, origin(1)).dropped, 99);
    }

    proptest! {
        #[test]
        fn holdings_round_trip(bytes: u64, events: u64, last: u64, dropped: u64) {
            let held = Held { bytes, events, last, dropped };
            prop_assert_eq!(Held::decode(&held.encode()), Ok(held));
        }

        #[test]
        fn whose_turn_it_is_equals_a_search_through_all(
            changes in prop::collection::vec((1_u128..6, 1_u64..90, any::<bool>()), 0..400),
            bytes_max in 0_u64..5_000,
        ) {
            let mut ledger = Ledger::default();
            for (sequence, (number, bytes, removes)) in (1..).zip(changes) {
                let held = ledger.get(Lane::Bump, origin(number));
                if removes && held.events > 0 {
                    ledger.remove(Lane::Bump, origin(number), sequence, bytes.min(held.bytes));
                } else {
                    ledger.add(Lane::Bump, origin(number), sequence, bytes);
                }
                let total: u64 = ledger.held.values().map(|held| held.bytes).sum();
                let largest = |kept| {
                    let large = ledger.held.iter().filter(|(_, held)| held.events > kept);
                    large.max_by_key(|(_, held)| held.bytes).map(|((_, origin), _)| *origin)
                };
                let expected = match total {
                    total if total <= bytes_max => None,
                    total if total <= 2 * bytes_max => largest(KEPT_EVENTS),
                    _ => largest(KEPT_EVENTS).or_else(|| largest(1)),
                };
                prop_assert_eq!(ledger.overfull(Lane::Bump, bytes_max), expected);
            }
        }
    }
}
