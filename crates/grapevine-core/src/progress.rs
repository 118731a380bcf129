//! Which of an incarnation's events are known to exist, and which are applied.
//!
//! A lane's *head* is the highest sequence known to exist, its *watermark* the highest applied without holes; ranges
//! applied above the watermark are kept apart, and what lies between is a *gap*. Events apply in any order, so a gap
//! never holds anything up; it only says what to pull.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use crate::id::{EventId, Incarnation, Lane};
use crate::roster::Retired;
use crate::vector::VersionVector;

/// The most ranges kept above a watermark. An event that would need a further one is applied but not remembered as
/// such: it is pulled again later, which is harmless.
pub const RANGES_MAX: usize = 1_024;

/// The most holes that one grant names. Who lacks more is believed to lack whatever its peer lacks.
pub const HOLES_MAX: usize = 1_024;

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

    /// The highest sequence that is applied, known of or no longer waited for.
    pub fn last(&self) -> u64 {
        self.head.max(self.closed)
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

    /// What is missing and no longer waited for, ascending.
    fn written_off(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let closed = (self.closed > 0).then_some(self.closed);
        let gaps = closed.map(|end| self.gaps().map(move |(first, last)| (first, last.min(end))));
        gaps.into_iter()
            .flatten()
            .filter(|(first, last)| first <= last)
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

/// Bumps that a sidecar lacks and waits for no longer, for their log was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hole {
    /// Whose they are.
    pub incarnation: Incarnation,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// The progress of every incarnation, running or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    origins: BTreeMap<Incarnation, Lanes>,
    /// Up to where runs are retired here: all of that counts as applied, and is asked for by nobody.
    retired: BTreeMap<Incarnation, u64>,
    revision: Revision,
}

/// Rises when something may have changed. It is no part of what is known: two that know the same are equal, and look the same.
#[derive(Clone, Copy, Default)]
pub struct Revision(u64);

impl Revision {
    /// Whether nothing can have changed since then.
    pub fn is_of(self, earlier: Self) -> bool {
        self.0 == earlier.0
    }
}

impl PartialEq for Revision {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Revision {}

impl std::fmt::Debug for Revision {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("_")
    }
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
        self.revision.0 += 1;
        let retired = &self.retired;
        let lanes = self.origins.entry(origin).or_insert_with(|| {
            let mut lanes = Lanes::default();
            lanes.bump.adopt(retired.get(&origin).copied().unwrap_or(0));
            lanes
        });
        match lane {
            Lane::Bump => &mut lanes.bump,
            Lane::Directory => &mut lanes.directory,
        }
    }

    /// Sets what is retired here, in place of what was. Lanes that nothing lies beyond are dropped: tells whose.
    pub fn retire(&mut self, retired: &Retired) -> Vec<Incarnation> {
        self.revision.0 += 1;
        self.retired.clear();
        for (run, head, _) in retired.iter() {
            let known = self.retired.entry(run).or_insert(head);
            *known = head.max(*known);
        }
        let mut dropped = Vec::new();
        for (&run, &head) in &self.retired {
            let Some(lanes) = self.origins.get_mut(&run) else {
                continue;
            };
            lanes.bump.adopt(head);
            if lanes.bump.head() <= head {
                self.origins.remove(&run);
                dropped.push(run);
            }
        }
        dropped
    }

    /// Whether a run is retired here.
    pub fn is_retired(&self, origin: Incarnation) -> bool {
        self.retired.contains_key(&origin)
    }

    /// Whether bumps of a run up to a sequence are those of a retired one.
    pub fn is_past(&self, origin: Incarnation, sequence: u64) -> bool {
        self.retired
            .get(&origin)
            .is_some_and(|&head| sequence <= head)
    }

    /// The lanes of retirements: each history's, with its head and up to where it is covered.
    pub fn retirements(&self) -> impl Iterator<Item = (Incarnation, &LaneProgress)> + '_ {
        let names = Incarnation::FIRST_RETIREMENTS..Incarnation::FIRST_HISTORY;
        self.origins
            .range(names)
            .map(|(&name, lanes)| (name, &lanes.bump))
    }

    /// The runs known, retirements and histories not among them.
    pub fn runs(&self) -> impl Iterator<Item = (Incarnation, &LaneProgress)> + '_ {
        let runs = self.origins.range(..Incarnation::FIRST_RETIREMENTS);
        runs.map(|(&run, lanes)| (run, &lanes.bump))
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
        self.is_past(event.origin, event.sequence)
            || self
                .lane(event.origin, Lane::Bump)
                .is_some_and(|lane| lane.has(event.sequence))
    }

    /// Whether a bump-lane event was applied, and each earlier one of its run was or is no longer waited for.
    pub fn has_through(&self, event: EventId) -> bool {
        let through =
            |lane: &LaneProgress| lane.has(event.sequence) && lane.covered() >= event.sequence;
        self.is_past(event.origin, event.sequence)
            || self.lane(event.origin, Lane::Bump).is_some_and(through)
    }

    /// Whether every head is covered by what was applied in the bump lane, or is no longer waited for.
    pub fn covers(&self, heads: &[OriginHead]) -> bool {
        heads.iter().all(|head| {
            // What is to be known of a history comes with views.
            head.bump == 0
                || head.incarnation.is_history()
                || self.is_past(head.incarnation, head.bump)
                || self
                    .lane(head.incarnation, Lane::Bump)
                    .is_some_and(|lane| lane.covered() >= head.bump)
        })
    }

    /// Whether everything was applied that a peer has, by its own word: its heads, and what it lacks of closed logs. What
    /// that log lost is waited for no longer, but what a peer still has of it is: else a disk put back from an older copy
    /// would bring back tokens that the event had superseded. Holes are in order.
    pub fn covers_told(&self, heads: &[OriginHead], lacked: &[Hole]) -> bool {
        debug_assert!(lacked.is_sorted(), "invariant: holes are told in order");
        let lacks = |of: Incarnation, (first, last): (u64, u64)| {
            let until =
                lacked.partition_point(|hole| (hole.incarnation, hole.first) <= (of, first));
            let before = until.checked_sub(1).map(|at| lacked[at]);
            let within = before.is_some_and(|hole| hole.incarnation == of && last <= hole.last);
            within || lacked.len() >= HOLES_MAX
        };
        let shares_holes = |head: &OriginHead| {
            let lane = self.lane(head.incarnation, Lane::Bump);
            let mut holes = lane.into_iter().flat_map(LaneProgress::written_off);
            holes.all(|(first, last)| {
                first > head.bump || lacks(head.incarnation, (first, last.min(head.bump)))
            })
        };
        self.covers(heads) && heads.iter().all(shares_holes)
    }

    /// What is missing of closed logs, at most [`HOLES_MAX`], in order.
    pub fn holes(&self) -> Vec<Hole> {
        let lanes = self.origins.iter();
        let holes = lanes.flat_map(|(&incarnation, lanes)| {
            let hole = move |(first, last)| Hole {
                incarnation,
                first,
                last,
            };
            lanes.bump.written_off().map(hole)
        });
        holes.take(HOLES_MAX).collect()
    }

    /// Up to where each incarnation's bumps were applied or are no longer waited for.
    pub fn covered_bumps(&self) -> VersionVector {
        let lanes = self.origins.iter();
        lanes
            .map(|(&origin, lanes)| (origin, lanes.bump.covered()))
            .collect()
    }

    /// Which state this is of all that it was in.
    pub fn revision(&self) -> Revision {
        self.revision
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

    /// A digest of the heads that a grant tells, but for those of histories, which come with views, and those that say nothing: who
    /// has the same has been told the same.
    pub fn told_digest(&self) -> u128 {
        let told = self.told_heads().into_iter();
        let told = told.filter(|head| !head.incarnation.is_history());
        let told = told.filter(|head| head.bump > 0 || head.directory > 0);
        let bytes = told.flat_map(|head| {
            let run = head.incarnation.to_bytes().into_iter();
            let bump = head.bump.to_be_bytes();
            run.chain(bump).chain(head.directory.to_be_bytes())
        });
        xxh3_128(&bytes.collect::<Vec<u8>>())
    }

    /// The same, if all that is known of was applied, without holes: whoever would tell what has this digest need not.
    pub fn applied_digest(&self) -> Option<u128> {
        let runs = self.origins.range(..Incarnation::FIRST_HISTORY);
        let mut lanes = runs.map(|(_, lanes)| &lanes.bump);
        let applied = lanes.all(|lane| lane.watermark() >= lane.head());
        applied.then(|| self.told_digest())
    }

    /// Whether everything that a vector of bump-lane events covers was applied without holes.
    pub fn dominates(&self, vector: &VersionVector) -> bool {
        vector.iter().all(|(origin, sequence)| {
            let lane = self.lane(origin, Lane::Bump);
            self.is_past(origin, sequence) || lane.is_some_and(|lane| lane.watermark() >= sequence)
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

    /// The gaps of every lane: of those that are waited for at most so many of each, and all that are not, of which there
    /// are no more than [`RANGES_MAX`] and one: somebody may still have what hides behind many that nobody has.
    pub fn gaps(
        &self,
        lane_max: usize,
    ) -> impl Iterator<Item = (Incarnation, Lane, (u64, u64))> + '_ {
        self.origins.iter().flat_map(move |(&origin, lanes)| {
            let of = move |lane: Lane, progress: &'_ LaneProgress| {
                let waited = |(_, last): &(u64, u64)| !progress.is_closed(*last);
                let all = progress.gaps().filter(|gap| !waited(gap));
                let gaps: Vec<_> = progress
                    .gaps()
                    .filter(waited)
                    .take(lane_max)
                    .chain(all)
                    .collect();
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
mod tests;
