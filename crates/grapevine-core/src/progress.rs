//! Which of an incarnation's events are known to exist, and which are applied.
//!
//! A lane's *head* is the highest sequence known to exist, its *watermark* the highest applied without holes; ranges
//! applied above the watermark are kept apart, and what lies between is a *gap*. Events apply in any order, so a gap
//! never holds anything up; it only says what to pull.

use std::collections::BTreeMap;

use crate::id::{EventId, Incarnation, Lane};
use crate::vector::VersionVector;

/// The most ranges kept above a watermark. An event that would need a further one is applied but not remembered as
/// such: it is pulled again later, which is harmless.
pub const RANGES_MAX: usize = 1_024;

/// How far above what is applied a sequence may lie: a thousand events a microsecond for more than an hour.
const AHEAD_MAX: u64 = 1 << 42;

/// One lane of one incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneProgress {
    watermark: u64,
    above: BTreeMap<u64, u64>,
    head: u64,
    /// Up to here nobody waits for missing events any more, known of or not.
    closed: u64,
}

impl LaneProgress {
    /// The highest sequence applied without holes.
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// The highest sequence known to exist.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether an event was applied.
    pub fn has(&self, sequence: u64) -> bool {
        sequence <= self.watermark
            || self
                .above
                .range(..=sequence)
                .next_back()
                .is_some_and(|(_, &last)| sequence <= last)
    }

    /// Whether a sequence can have been issued by now: it is not absurdly far above what is applied. Whoever tells of
    /// more is broken or hostile, and its gap would never be filled.
    pub fn plausible(&self, sequence: u64) -> bool {
        sequence <= self.held().saturating_add(AHEAD_MAX)
    }

    /// The highest sequence applied, with or without holes below it.
    pub fn held(&self) -> u64 {
        self.above
            .last_key_value()
            .map_or(self.watermark, |(_, &last)| last)
    }

    /// Marks an event as applied. Tells whether it was new.
    pub fn apply(&mut self, sequence: u64) -> bool {
        self.head = self.head.max(sequence);
        if self.has(sequence) {
            return false;
        }
        let mut first = sequence;
        let mut last = sequence;
        if let Some((&before, &end)) = self.above.range(..sequence).next_back()
            && end + 1 == sequence
        {
            self.above.remove(&before);
            first = before;
        }
        if let Some(&end) = self.above.get(&(sequence + 1)) {
            self.above.remove(&(sequence + 1));
            last = end;
        }
        if first == self.watermark + 1 {
            self.watermark = last;
        } else if self.above.len() < RANGES_MAX {
            self.above.insert(first, last);
        }
        true
    }

    /// Raises the watermark to that of a state that was adopted whole.
    pub fn adopt(&mut self, watermark: u64) {
        self.head = self.head.max(watermark);
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        while let Some((&first, &last)) = self.above.first_key_value() {
            if first > self.watermark.saturating_add(1) {
                break;
            }
            self.above.remove(&first);
            self.watermark = self.watermark.max(last);
        }
    }

    /// Waits no longer for events up to here, those among them that are not known of yet included. Tells how many are
    /// known to be missing that were waited for until now.
    pub fn close(&mut self, end: u64) -> u64 {
        let before = self.closed;
        self.closed = before.max(end);
        let waited = self.gaps().map(|(first, last)| {
            let (first, last) = (first.max(before.saturating_add(1)), last.min(end));
            last.saturating_add(1).saturating_sub(first)
        });
        waited.sum()
    }

    /// Whether events up to here are no longer waited for.
    pub fn is_closed(&self, sequence: u64) -> bool {
        sequence <= self.closed
    }

    /// The highest sequence up to which every event was applied or is no longer waited for.
    pub fn covered(&self) -> u64 {
        let mut covered = self.watermark;
        for (_, last) in self.gaps() {
            if last > self.closed {
                // What is closed may end within it.
                return covered.max(self.closed);
            }
            covered = self.above.get(&(last + 1)).copied().unwrap_or(last);
        }
        covered
    }

    /// The highest sequence that others are to wait for: not one that nobody has.
    pub fn told_head(&self) -> u64 {
        if self.covered() >= self.head {
            self.held()
        } else {
            self.head
        }
    }

    /// Learns that events up to `head` exist.
    pub fn learn_head(&mut self, head: u64) {
        self.head = self.head.max(head);
    }

    /// Every gap, ascending: its first and last missing sequence.
    pub fn gaps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let held = std::iter::once((0, self.watermark)).chain(self.above());
        let next = self.above().map(|(first, _)| first - 1);
        // What is missing lies between the end of what is held and the begin of what is held next.
        held.zip(next.chain([self.head]))
            .filter(|((_, end), last)| end < last)
            .map(|((_, end), last)| (end + 1, last))
    }

    /// The first sequence applied in a range, both ends in it.
    pub fn first_held(&self, first: u64, last: u64) -> Option<u64> {
        let held = if self.has(first) {
            first
        } else {
            *self.above.range(first..).next()?.0
        };
        (held <= last).then_some(held)
    }

    /// How many sequences are missing.
    pub fn missing(&self) -> u64 {
        let above: u64 = self
            .above
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum();
        self.head
            .saturating_sub(self.watermark)
            .saturating_sub(above)
    }

    /// The ranges applied above the watermark, ascending.
    pub fn above(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.above.iter().map(|(&first, &last)| (first, last))
    }
}

/// Both lanes of one incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lanes {
    bump: LaneProgress,
    directory: LaneProgress,
}

/// Heads of one incarnation, as peers tell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginHead {
    /// Whose.
    pub incarnation: Incarnation,
    /// Of the bump lane.
    pub bump: u64,
    /// Of the directory lane.
    pub directory: u64,
}

impl OriginHead {
    /// The head of a lane.
    pub fn lane(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Bump => self.bump,
            Lane::Directory => self.directory,
        }
    }
}

/// The progress of every incarnation, running or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    origins: BTreeMap<Incarnation, Lanes>,
}

impl Progress {
    /// A lane, if its incarnation is known.
    pub fn lane(&self, origin: Incarnation, lane: Lane) -> Option<&LaneProgress> {
        let lanes = self.origins.get(&origin)?;
        Some(match lane {
            Lane::Bump => &lanes.bump,
            Lane::Directory => &lanes.directory,
        })
    }

    /// A lane, made if its incarnation is new.
    pub fn lane_mut(&mut self, origin: Incarnation, lane: Lane) -> &mut LaneProgress {
        let lanes = self.origins.entry(origin).or_default();
        match lane {
            Lane::Bump => &mut lanes.bump,
            Lane::Directory => &mut lanes.directory,
        }
    }

    /// Whether an incarnation is known.
    pub fn knows(&self, origin: Incarnation) -> bool {
        self.origins.contains_key(&origin)
    }

    /// How many histories are known.
    pub fn histories(&self) -> usize {
        self.origins.range(Incarnation::FIRST_HISTORY..).count()
    }

    /// How many incarnations are known.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Whether a bump-lane event was applied.
    pub fn has(&self, event: EventId) -> bool {
        self.lane(event.origin, Lane::Bump)
            .is_some_and(|lane| lane.has(event.sequence))
    }

    /// Whether every head is covered by what was applied in the bump lane, or is no longer waited for.
    pub fn covers(&self, heads: &[OriginHead]) -> bool {
        heads.iter().all(|head| {
            // What is to be known of a history comes with views.
            head.bump == 0
                || head.incarnation.is_history()
                || self
                    .lane(head.incarnation, Lane::Bump)
                    .is_some_and(|lane| lane.covered() >= head.bump)
        })
    }

    /// Up to where each incarnation's bumps were applied or are no longer waited for.
    pub fn covered_bumps(&self) -> VersionVector {
        let lanes = self.origins.iter();
        lanes
            .map(|(&origin, lanes)| (origin, lanes.bump.covered()))
            .collect()
    }

    /// The heads that a grant tells.
    pub fn told_heads(&self) -> Vec<OriginHead> {
        let lanes = self.origins.iter();
        lanes
            .map(|(&incarnation, lanes)| OriginHead {
                incarnation,
                bump: lanes.bump.told_head(),
                directory: lanes.directory.head,
            })
            .collect()
    }

    /// Whether everything that a vector of bump-lane events covers was applied without holes.
    pub fn dominates(&self, vector: &VersionVector) -> bool {
        vector.iter().all(|(origin, sequence)| {
            let lane = self.lane(origin, Lane::Bump);
            lane.is_some_and(|lane| lane.watermark() >= sequence)
        })
    }

    /// The watermarks of a lane.
    pub fn watermarks(&self, lane: Lane) -> VersionVector {
        self.origins
            .iter()
            .map(|(&origin, lanes)| {
                (
                    origin,
                    if lane == Lane::Bump {
                        lanes.bump.watermark
                    } else {
                        lanes.directory.watermark
                    },
                )
            })
            .collect()
    }

    /// The heads of every incarnation.
    pub fn heads(&self) -> Vec<OriginHead> {
        self.origins
            .iter()
            .map(|(&incarnation, lanes)| OriginHead {
                incarnation,
                bump: lanes.bump.head,
                directory: lanes.directory.head,
            })
            .collect()
    }

    /// The gaps of every lane, at most so many of each.
    pub fn gaps(
        &self,
        lane_max: usize,
    ) -> impl Iterator<Item = (Incarnation, Lane, (u64, u64))> + '_ {
        self.origins.iter().flat_map(move |(&origin, lanes)| {
            let of = move |lane: Lane, progress: &'_ LaneProgress| {
                let gaps: Vec<_> = progress.gaps().take(lane_max).collect();
                gaps.into_iter().map(move |gap| (origin, lane, gap))
            };
            of(Lane::Bump, &lanes.bump).chain(of(Lane::Directory, &lanes.directory))
        })
    }

    /// Sequences known to exist but not applied, over all lanes.
    pub fn missing(&self) -> u64 {
        self.origins
            .values()
            .flat_map(|lanes| [lanes.bump.missing(), lanes.directory.missing()])
            .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_gap(lane: &LaneProgress) -> Option<(u64, u64)> {
        lane.gaps().next()
    }

    #[test]
    fn events_apply_in_any_order_and_gaps_say_what_is_missing() {
        let mut lane = LaneProgress::default();
        assert!(lane.apply(3));
        assert!(lane.apply(5));
        assert_eq!(
            (lane.watermark(), first_gap(&lane), lane.missing()),
            (0, Some((1, 2)), 3)
        );
        assert!(lane.apply(1));
        assert!(lane.apply(2));
        assert_eq!((lane.watermark(), first_gap(&lane)), (3, Some((4, 4))));
        assert!(!lane.apply(5));
        assert!(lane.apply(4));
        assert_eq!(
            (lane.watermark(), first_gap(&lane), lane.head()),
            (5, None, 5)
        );
        lane.learn_head(9);
        assert_eq!(first_gap(&lane), Some((6, 9)));
        lane.apply(8);
        lane.adopt(7);
        assert_eq!((lane.watermark(), first_gap(&lane)), (8, Some((9, 9))));
    }

    #[test]
    fn every_gap_is_told_and_what_is_held_in_a_range_is_found() {
        let mut lane = LaneProgress::default();
        for sequence in [1, 3, 4, 8] {
            lane.apply(sequence);
        }
        lane.learn_head(9);
        let gaps: Vec<_> = lane.gaps().collect();
        assert_eq!(gaps, [(2, 2), (5, 7), (9, 9)]);
        let held = |first, last| lane.first_held(first, last);
        assert_eq!(
            [held(1, 9), held(2, 9), held(4, 9)],
            [Some(1), Some(3), Some(4)]
        );
        assert_eq!([held(5, 9), held(5, 7), held(9, 9)], [Some(8), None, None]);
        assert_eq!(LaneProgress::default().gaps().next(), None);
    }

    #[test]
    fn what_is_closed_is_waited_for_no_longer_and_applied_when_it_comes() {
        let mut lane = LaneProgress::default();
        for sequence in [1, 3, 6] {
            lane.apply(sequence);
        }
        lane.learn_head(8);
        assert_eq!(lane.close(2), 1);
        assert_eq!((lane.covered(), lane.told_head()), (3, 8));
        assert_eq!((lane.close(8), lane.close(8)), (4, 0));
        assert_eq!((lane.covered(), lane.told_head()), (8, 6));
        // One more is missing than was closed.
        lane.learn_head(9);
        assert_eq!((lane.covered(), lane.told_head()), (8, 9));
        assert!(!lane.has(2) && lane.apply(2));
        assert_eq!((lane.watermark(), lane.covered()), (3, 8));
        assert_eq!((lane.close(9), lane.covered()), (1, 9));
        // One that hears of it later does not wait for it either.
        let mut lane = LaneProgress::default();
        assert_eq!((lane.close(8), lane.covered()), (0, 0));
        lane.learn_head(8);
        assert_eq!((lane.covered(), lane.told_head()), (8, 0));
    }

    #[test]
    fn ranges_above_the_watermark_are_bounded_and_nothing_is_lost_by_it() {
        let mut lane = LaneProgress::default();
        let highest = 2 * (RANGES_MAX as u64 + 10);
        for sequence in (2..=highest).step_by(2) {
            lane.apply(sequence);
        }
        assert_eq!(lane.above().count(), RANGES_MAX);
        assert_eq!(lane.head(), highest);
        while let Some((first, last)) = first_gap(&lane) {
            (first..=last).for_each(|sequence| {
                lane.apply(sequence);
            });
        }
        assert_eq!(lane.watermark(), highest);
    }
}
