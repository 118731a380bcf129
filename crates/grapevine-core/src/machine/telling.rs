//! What grants say of heads (`freshness`).
//!
//! A grant tells the heads of every incarnation, 28 bytes each, to every member once or twice a second: among a thousand members that
//! would be 30 MB a second for each of them. So where there are many, every change has a number here, and whoever has applied
//! what was told up to one is told what changed behind it. What this run lacks of closed logs goes with each grant; when that
//! changes all is told again, for a hole says which of the heads count.
//!
//! A number means nothing to a run that has just started, nor does that of one that has. Where all of a cluster starts anew, each would
//! tell each other one all heads, although all of them have the same on their disks. So who asks for all heads says a digest of those
//! that it has applied, and is told none where the digest is that of what it would be told.

use std::collections::{BTreeMap, BTreeSet};

use super::derived::Derived;
use super::effects::Span;
use crate::id::Incarnation;
use crate::progress::{Hole, OriginHead, Progress, Revision};

/// What was told, or would be.
#[derive(Clone, Debug, Default)]
pub(super) struct Telling {
    /// The number of the last change; 0 while nothing was numbered.
    until: u64,
    /// Each incarnation's heads, and the number of their last change.
    heads: BTreeMap<Incarnation, (OriginHead, u64)>,
    /// The same by these numbers.
    by_change: Derived<BTreeSet<(u64, Incarnation)>>,
    holes: Vec<Hole>,
    /// The number of the last change of the holes.
    holes_at: u64,
    of: Option<Revision>,
    /// Of a state, the digest of what was applied, and of what is told.
    applied: Digest<Option<u128>>,
    told: Digest<u128>,
}

/// What was made from a state last.
type Digest<T> = Derived<Option<(Revision, T)>>;

/// What is made from the present state, or was.
fn of_now<T: Copy>(known: &mut Digest<T>, progress: &Progress, make: impl Fn(&Progress) -> T) -> T {
    let (now, made) = (progress.revision(), known.0);
    if let Some((of, made)) = made
        && now.is_of(of)
    {
        return made;
    }
    let made = make(progress);
    known.0 = Some((now, made));
    made
}

impl Telling {
    /// What to say of the heads that are applied here where all are asked for.
    pub(super) fn applied(&mut self, progress: &Progress, whole: usize) -> Option<u128> {
        let many = progress.len() > whole;
        many.then(|| of_now(&mut self.applied, progress, Progress::applied_digest))?
    }

    /// The heads to tell one who has applied what was told up to `since`, or what has this digest: all of them if there are no more
    /// than `whole`; and what this run lacks of closed logs.
    pub(super) fn tell(
        &mut self,
        progress: &Progress,
        (since, applied): (u64, Option<u128>),
        whole: usize,
    ) -> (Vec<OriginHead>, Vec<Hole>, Span) {
        if progress.len() <= whole {
            return (progress.told_heads(), progress.holes(), Span::default());
        }
        if !self.of.is_some_and(|of| progress.revision().is_of(of)) {
            self.review(progress);
        }
        // A number that was not given here, or from before the holes changed.
        let since = if since > self.until || since < self.holes_at {
            0
        } else {
            since
        };
        let mut told = || of_now(&mut self.told, progress, Progress::told_digest);
        let same = since == 0 && applied.is_some_and(|applied| applied == told());
        let span = Span {
            since,
            until: self.until,
            same,
        };
        let heads = if same {
            let histories = self.heads.range(Incarnation::FIRST_HISTORY..);
            histories.map(|(_, (head, _))| *head).collect()
        } else {
            self.changed_since(since)
        };
        (heads, self.holes.clone(), span)
    }

    /// The heads that changed behind a number, in order.
    fn changed_since(&self, since: u64) -> Vec<OriginHead> {
        if since == 0 {
            return self.heads.values().map(|(head, _)| *head).collect();
        }
        let after = (
            std::ops::Bound::Excluded((since, Incarnation::LAST)),
            std::ops::Bound::Unbounded,
        );
        let changed = self.by_change.range(after);
        let mut runs: Vec<_> = changed.map(|(_, run)| *run).collect();
        runs.sort_unstable();
        runs.iter().map(|run| self.heads[run].0).collect()
    }

    /// Numbers what has changed.
    fn review(&mut self, progress: &Progress) {
        let next = self.until + 1;
        let mut changed = self.until == 0;
        let told = progress.told_heads();
        for &head in &told {
            let run = head.incarnation;
            let entry = self.heads.entry(run).or_insert((head, 0));
            if entry.1 == 0 || entry.0 != head {
                self.by_change.remove(&(entry.1, run));
                self.by_change.insert((next, run));
                *entry = (head, next);
                changed = true;
            }
        }
        // Whatever is told is in there by now: what is more is told no longer.
        if told.len() != self.heads.len() {
            let known = |run: &Incarnation| told.binary_search_by_key(run, |head| head.incarnation);
            self.heads.retain(|run, _| known(run).is_ok());
            self.by_change.retain(|(_, run)| known(run).is_ok());
        }
        let holes = progress.holes();
        if holes != self.holes || self.until == 0 {
            (self.holes, self.holes_at) = (holes, next);
            changed = true;
        }
        if changed {
            self.until = next;
        }
        self.of = Some(progress.revision());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::id::Lane;
    use crate::roster::{Lot, Retired};

    fn run(number: u128) -> Incarnation {
        Incarnation::new(number).unwrap()
    }

    fn names(heads: &[OriginHead]) -> Vec<u128> {
        heads.iter().map(|head| head.incarnation.get()).collect()
    }

    #[test]
    fn g11_heads_that_changed_are_told_and_all_where_a_number_means_nothing_here() {
        let mut progress = Progress::default();
        for number in 1..=3 {
            progress.lane_mut(run(number), Lane::Bump).apply(1);
        }
        let mut telling = Telling::default();
        let (heads, _, span) = telling.tell(&progress, (0, None), 3);
        assert_eq!((names(&heads), span), (vec![1, 2, 3], Span::default()));
        let (heads, _, first) = telling.tell(&progress, (0, None), 0);
        assert_eq!(names(&heads), [1, 2, 3]);
        let tell = |telling: &mut Telling, progress: &Progress, since| {
            names(&telling.tell(progress, (since, None), 0).0)
        };
        assert_eq!(tell(&mut telling, &progress, first.until), []);
        progress.lane_mut(run(2), Lane::Bump).apply(2);
        progress.lane_mut(run(9), Lane::Directory).learn_head(4);
        assert_eq!(tell(&mut telling, &progress, first.until), [2, 9]);
        assert_eq!(tell(&mut telling, &progress, first.until + 1), []);
        let unheard_of = first.until + 2;
        assert_eq!(tell(&mut telling, &progress, unheard_of), [1, 2, 3, 9]);
        // Few again, and then many: what was told meanwhile had no numbers.
        telling.tell(&progress, (0, None), 9);
        progress.lane_mut(run(3), Lane::Bump).apply(2);
        assert_eq!(tell(&mut telling, &progress, first.until + 1), [3]);
    }

    #[test]
    fn g11_the_heads_behind_each_number_are_those_that_looking_at_all_finds() {
        let mut progress = Progress::default();
        let mut telling = Telling::default();
        for step in 1..400_u64 {
            // A few runs, each of which changes now and then; some several times between two grants.
            for nth in 0..step % 3 {
                let number = (step * 7 + nth * 5) % 23 + 1;
                let lane = progress.lane_mut(run(u128::from(number)), Lane::Bump);
                lane.learn_head(step);
            }
            let (_, _, last) = telling.tell(&progress, (0, None), 0);
            for since in last.until.saturating_sub(30)..=last.until {
                let truth = telling.heads.values().filter(|(_, at)| *at > since);
                let truth: Vec<_> = truth.map(|(head, _)| *head).collect();
                assert_eq!(telling.changed_since(since), truth, "{step} {since}");
            }
            assert_eq!(telling.by_change.len(), telling.heads.len());
        }
    }

    #[test]
    fn g2_a_retired_run_is_told_no_longer_also_where_another_is_met_meanwhile() {
        let mut progress = Progress::default();
        for number in 1..=3 {
            progress.lane_mut(run(number), Lane::Bump).apply(1);
        }
        let mut telling = Telling::default();
        telling.tell(&progress, (0, None), 0);
        let lot = Lot {
            runs: BTreeMap::from([(run(2), 1)]),
            most: 9,
            ..Lot::default()
        };
        assert_eq!(progress.retire(&Retired::default().with(&lot, 5)), [run(2)]);
        progress.lane_mut(run(9), Lane::Bump).apply(1);
        let (heads, ..) = telling.tell(&progress, (0, None), 0);
        assert_eq!(heads, progress.told_heads());
        assert_eq!(names(&heads), [1, 3, 9]);
        assert_eq!(telling.by_change.len(), 3);
    }

    #[test]
    fn g11_all_is_told_again_when_what_is_lacked_of_closed_logs_changes() {
        let mut progress = Progress::default();
        for number in 1..=3 {
            progress.lane_mut(run(number), Lane::Bump).adopt(2);
        }
        let mut telling = Telling::default();
        let (_, _, first) = telling.tell(&progress, (0, None), 0);
        progress.lane_mut(run(1), Lane::Bump).learn_head(3);
        progress.lane_mut(run(1), Lane::Bump).close(3);
        let (heads, holes, second) = telling.tell(&progress, (first.until, None), 0);
        assert_eq!((heads.len(), second.since), (3, 0));
        assert_eq!(holes.len(), 1);
        // It turns up, while nothing is numbered: the head stays, and yet it counts now.
        progress.lane_mut(run(1), Lane::Bump).apply(3);
        telling.tell(&progress, (second.until, None), 9);
        let (heads, holes_then, third) = telling.tell(&progress, (second.until, None), 0);
        assert_eq!((heads.len(), third.since, holes_then.len()), (3, 0, 0));
    }

    #[test]
    fn g11_who_has_applied_all_that_it_would_be_told_is_told_no_heads() {
        let history = run(4).as_history();
        let (mut giver, mut asker) = (Progress::default(), Progress::default());
        for progress in [&mut giver, &mut asker] {
            for number in 1..=3 {
                progress.lane_mut(run(number), Lane::Bump).adopt(5);
            }
            progress.lane_mut(run(2), Lane::Directory).learn_head(7);
        }
        // A history's head comes with views, and a run that issued nothing has nothing to tell.
        giver.lane_mut(history, Lane::Bump).adopt(2);
        asker.lane_mut(run(8), Lane::Bump);
        let told = |giver: &Progress, asker: &Progress| {
            let applied = Telling::default().applied(asker, 0);
            let (heads, _, span) = Telling::default().tell(giver, (0, applied), 0);
            (heads.len(), span.same)
        };
        assert_eq!(told(&giver, &asker), (1, true));
        let (_, _, span) = Telling::default().tell(&giver, (0, Some(1)), 0);
        assert!(!span.same, "another digest");
        let few = Telling::default().applied(&asker, 9);
        assert_eq!(few, None);
        // It has one event less, or more, than the giver knows of, or a hole.
        let mut ahead = giver.clone();
        ahead.lane_mut(run(3), Lane::Bump).learn_head(6);
        assert_eq!(told(&ahead, &asker), (4, false));
        assert_eq!(told(&giver, &ahead), (4, false));
        let mut holed = asker.clone();
        holed.lane_mut(run(3), Lane::Bump).apply(7);
        holed.lane_mut(run(3), Lane::Bump).close(7);
        assert_eq!(told(&holed, &holed), (4, false), "a hole that is closed");
        // Each run counts, and both lanes of it.
        for number in 1..=3 {
            for lane in Lane::ALL {
                let mut other = giver.clone();
                other.lane_mut(run(number), lane).apply(9);
                assert!(!told(&other, &asker).1, "{number} {lane:?}");
            }
        }
    }

    #[test]
    fn g11_digests_follow_what_changes() {
        let mut progress = Progress::default();
        let mut telling = Telling::default();
        for sequence in 1..50 {
            progress
                .lane_mut(run(u128::from(sequence % 5) + 1), Lane::Bump)
                .apply(sequence / 5 + 1);
            let applied = telling.applied(&progress, 0);
            assert_eq!(applied, progress.applied_digest());
            let (_, _, span) = telling.tell(&progress, (0, applied), 0);
            assert_eq!(span.same, applied.is_some());
        }
    }
}
