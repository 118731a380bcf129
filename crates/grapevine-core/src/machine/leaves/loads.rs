//! Loads of leaves under way (G10): which of them is given up where there are too many, or too little room.
//!
//! Whoever has the right to load a leaf may die before it brings anything, or in the midst. Its lease bounds that, and it is long, for
//! databases may be slow. So many rights that nobody uses must not keep other leaves from being loaded until then, nor must what came of
//! answers that nobody ends push out leaves that are read. What is held against a load is its *silence*: how long ago it was begun, or since a part of
//! its answer came that had something new.
//!
//! A load is given up for another one, or for a whole leaf, once it has been silent for a part of its lease: half of it while its caller may
//! wait for the database ([`WAITS_FOR_DATABASE`]), an eighth between parts ([`BETWEEN_PARTS`]). Where there are as many loads as may be and none
//! of them is silent for so long, a further one is refused: whoever asks reads the database for itself, and stores nothing. To
//! end one that goes on would be worse: where the database takes longer than the loads that come after one need to fill the table, each would be
//! ended before its answer, and none ever stored.
//! Whose load was given up is told so when it comes: its number is not given again (G9).
//!
//! Each step here costs what a look-up in an ordered tree of at most [`LOADS_MAX`] loads does. None looks at all loads, or at leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{LOADS_MAX, RETRY_AFTER};
use crate::id::Time;
use crate::index::LeafKey;

/// A load of which nothing has come makes way once it has been silent for this part of its lease: its caller may wait for the database for long.
const WAITS_FOR_DATABASE: u32 = 2;
/// One of which some members have come does so after this part of its lease: its caller has more of them at hand.
const BETWEEN_PARTS: u32 = 8;

/// Of the time for which a load has been silent, whoever waits for its leaf waits for this part before it looks again, and no longer than that:
/// it comes late by no more, and while the caller is dead it does not ask again and again.
const LOOKS_AFTER: u32 = 8;
const LOOKS_AFTER_MOST: Duration = Duration::from_secs(1);

/// A load under way.
#[derive(Clone, Debug)]
struct Load {
    key: LeafKey,
    ends: Time,
    /// When it was begun, or heard of last.
    heard: Time,
}

/// The loads under way, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads {
    under_way: BTreeMap<u64, Load>,
    ends: BTreeSet<(Time, u64)>,
    /// As they were heard of last: those of which nothing has come, and those of which members have.
    asked: BTreeSet<(Time, u64)>,
    telling: BTreeSet<(Time, u64)>,
    /// The number given last.
    last: u64,
}

impl Loads {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Ends all of them. A number is not given twice.
    pub(super) fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// Whether so many are all that may be.
    pub(super) fn are_full(&self, most: usize) -> bool {
        self.under_way.len() >= most.clamp(1, LOADS_MAX)
    }

    /// When to look again for a leaf that is being loaded.
    pub(super) fn wait_for(&self, number: u64, now: Time) -> Duration {
        let load = self.under_way.get(&number);
        let silent = load.map_or(Duration::ZERO, |load| now.since(load.heard));
        let left = load.map_or(Duration::ZERO, |load| load.ends.since(now));
        let after = (silent / LOOKS_AFTER).min(LOOKS_AFTER_MOST);
        after.min(left).max(RETRY_AFTER)
    }

    /// Begins one; its number.
    pub(super) fn begin(&mut self, key: LeafKey, now: Time, ends: Time) -> u64 {
        self.last += 1;
        let load = Load {
            key,
            ends,
            heard: now,
        };
        self.under_way.insert(self.last, load);
        self.ends.insert((ends, self.last));
        self.asked.insert((now, self.last));
        self.last
    }

    /// Members have come that were not there.
    pub(super) fn heard(&mut self, number: u64, now: Time) {
        let Some(load) = self.under_way.get_mut(&number) else {
            return;
        };
        let known = (load.heard, number);
        self.asked.remove(&known);
        self.telling.remove(&known);
        load.heard = now;
        self.telling.insert((now, number));
    }

    /// One has ended, whatever it came to.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(load) = self.under_way.remove(&number) {
            self.ends.remove(&(load.ends, number));
            self.asked.remove(&(load.heard, number));
            self.telling.remove(&(load.heard, number));
        }
    }

    /// One whose lease is over.
    pub(super) fn over(&self, now: Time) -> Option<&LeafKey> {
        let (ends, number) = self.ends.first()?;
        self.key(*number).filter(|_| *ends <= now)
    }

    /// One that has been silent for so long that it is to be given up for another one, and before a leaf that is whole.
    pub(super) fn silent(&self, lease: Duration, now: Time) -> Option<&LeafKey> {
        let silent = |queue: &BTreeSet<(Time, u64)>, part| {
            let (heard, number) = queue.first().copied()?;
            (now.since(heard) >= lease / part).then_some(number)
        };
        let number = silent(&self.telling, BETWEEN_PARTS)
            .or_else(|| silent(&self.asked, WAITS_FOR_DATABASE))?;
        self.key(number)
    }

    /// The one that has been silent longest.
    pub(super) fn most_silent(&self) -> Option<&LeafKey> {
        self.key(self.quietest()?.1)
    }

    fn quietest(&self) -> Option<(Time, u64)> {
        let first = [self.asked.first(), self.telling.first()];
        first.into_iter().flatten().min().copied()
    }

    fn key(&self, number: u64) -> Option<&LeafKey> {
        self.under_way.get(&number).map(|load| &load.key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::index::Ordering;
    use crate::names::ClassPath;

    /// A right of before everything was dropped must not be taken for one of after that.
    #[test]
    fn g9_the_number_of_a_right_is_not_given_again() {
        let key = LeafKey {
            class: ClassPath::parse("items").unwrap(),
            ordering: Ordering::default(),
        };
        let now = Time::from_start(Duration::from_secs(1));
        let mut loads = Loads::default();
        let mut numbers = BTreeSet::new();
        for round in 0..3 {
            let number = loads.begin(key.clone(), now, now.plus(RETRY_AFTER));
            assert!(numbers.insert(number), "round {round}: {number}");
            match round {
                0 => loads.end(number),
                _ => loads.clear(),
            }
            assert_eq!(loads.len(), 0);
        }
    }
}
