//! What grants say of heads (`freshness`).
//!
//! A grant tells the heads of every incarnation, 28 bytes each, to every member once or twice a second: among a thousand members that
//! would be 30 MB a second for each of them. So where there are many, every change has a number here, and whoever has applied
//! what was told up to one is told what changed behind it. What this run lacks of closed logs goes with each grant; when that
//! changes all is told again, for a hole says which of the heads count.

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
}

impl Telling {
    /// The heads to tell one who has applied what was told up to `since`, all of them if there are no more than `whole`; and
    /// what this run lacks of closed logs.
    pub(super) fn tell(
        &mut self,
        progress: &Progress,
        since: u64,
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
        let span = Span {
            since,
            until: self.until,
        };
        (self.changed_since(since), self.holes.clone(), span)
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
        if told.len() != self.heads.len() {
            let known = |run: &Incarnation| told.binary_search_by_key(run, |head| head.incarnation);
            self.heads.retain(|run, _| known(run).is_ok());
            self.by_change.retain(|(_, run)| known(run).is_ok());
        }
        for head in told {
            let run = head.incarnation;
            let entry = self.heads.entry(run).or_insert((head, 0));
            if entry.1 == 0 || entry.0 != head {
                self.by_change.remove(&(entry.1, run));
                self.by_change.insert((next, run));
                *entry = (head, next);
                changed = true;
            }
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
        let (heads, _, span) = telling.tell(&progress, 0, 3);
        assert_eq!((names(&heads), span), (vec![1, 2, 3], Span::default()));
        let (heads, _, first) = telling.tell(&progress, 0, 0);
        assert_eq!(names(&heads), [1, 2, 3]);
        let tell = |telling: &mut Telling, progress: &Progress, since| {
            names(&telling.tell(progress, since, 0).0)
        };
        assert_eq!(tell(&mut telling, &progress, first.until), []);
        progress.lane_mut(run(2), Lane::Bump).apply(2);
        progress.lane_mut(run(9), Lane::Directory).learn_head(4);
        assert_eq!(tell(&mut telling, &progress, first.until), [2, 9]);
        assert_eq!(tell(&mut telling, &progress, first.until + 1), []);
        let unheard_of = first.until + 2;
        assert_eq!(tell(&mut telling, &progress, unheard_of), [1, 2, 3, 9]);
        // Few again, and then many: what was told meanwhile had no numbers.
        telling.tell(&progress, 0, 9);
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
            let (_, _, last) = telling.tell(&progress, 0, 0);
            for since in last.until.saturating_sub(30)..=last.until {
                let truth = telling.heads.values().filter(|(_, at)| *at > since);
                let truth: Vec<_> = truth.map(|(head, _)| *head).collect();
                assert_eq!(telling.changed_since(since), truth, "{step} {since}");
            }
            assert_eq!(telling.by_change.len(), telling.heads.len());
        }
    }

    #[test]
    fn g11_all_is_told_again_when_what_is_lacked_of_closed_logs_changes() {
        let mut progress = Progress::default();
        for number in 1..=3 {
            progress.lane_mut(run(number), Lane::Bump).adopt(2);
        }
        let mut telling = Telling::default();
        let (_, _, first) = telling.tell(&progress, 0, 0);
        progress.lane_mut(run(1), Lane::Bump).learn_head(3);
        progress.lane_mut(run(1), Lane::Bump).close(3);
        let (heads, holes, second) = telling.tell(&progress, first.until, 0);
        assert_eq!((heads.len(), second.since), (3, 0));
        assert_eq!(holes.len(), 1);
        // It turns up, while nothing is numbered: the head stays, and yet it counts now.
        progress.lane_mut(run(1), Lane::Bump).apply(3);
        telling.tell(&progress, second.until, 9);
        let (heads, holes_then, third) = telling.tell(&progress, second.until, 0);
        assert_eq!((heads.len(), third.since, holes_then.len()), (3, 0, 0));
    }
}
