//! Sources that lag: which classes changed so recently that a replica may not show it yet.
//!
//! A fill that begins after a bump has the new token, but what it reads may be older than the bump: a replica shows a commit
//! some time later. Its value would stay until its TTL. So this sidecar remembers, at a few moments, what it had applied
//! then. A class that changed since the latest such moment that is `source_lag` or more ago changed *lately*, and policy
//! says what its fills do: store nothing, or read the primary. Counted from when this sidecar applied the bump, which is
//! after the commit. What was applied before a start may have been applied just before, so then everything is recent; and so
//! it is after a state was taken over whole, and while more has changed within a lag than the history keeps.

use std::collections::VecDeque;
use std::time::Duration;

use super::Core;
use super::effects::{Filling, Resolution};
use super::freshness::stretched;
use crate::id::Time;
use crate::names::ClassPath;
use crate::policy::{LagRule, Policy, Strategy};
use crate::versions::Stamp;

/// How many moments are told apart within the longest lag of any policy: a class counts as changed lately for longer than
/// its lag by at most so small a part of the longest one.
const MOMENTS: u32 = 256;

/// What had been applied when.
#[derive(Clone, Debug)]
pub(super) struct Lately {
    /// The longest lag of any policy. If it is zero, nothing is remembered.
    longest: Duration,
    /// Whatever has a greater stamp was applied at that moment or later. Ascending, the first the latest that is out of
    /// every policy's lag; [`MOMENTS`] and a few of them.
    moments: VecDeque<(Time, Stamp)>,
}

impl Lately {
    pub(super) fn start(longest: Duration, stamp: Stamp, now: Time) -> Self {
        Self {
            longest,
            moments: [(now, stamp)].into(),
        }
    }

    /// Notes what is applied by now.
    pub(super) fn note(&mut self, stamp: Stamp, now: Time) {
        if self.longest.is_zero() || self.moments.back().is_some_and(|(_, last)| *last == stamp) {
            return;
        }
        let apart = self.longest / MOMENTS;
        let before = self.moments.len().checked_sub(2);
        let before = before.map(|at| self.moments[at].0);
        // The last one gives way as long as it is near the one before it: what changed in between counts as later.
        if before.is_some_and(|before| now.since(before) < apart) {
            self.moments.pop_back();
        }
        self.moments.push_back((now, stamp));
        while let Some((second, _)) = self.moments.get(1)
            && now.since(*second) >= self.longest
        {
            self.moments.pop_front();
        }
    }

    /// What had been applied for sure this long before a moment; `None` before the first one that is remembered.
    fn applied(&self, lag: Duration, now: Time) -> Option<Stamp> {
        let past = |(at, _): &(Time, Stamp)| now.since(*at) >= lag;
        let count = self.moments.partition_point(past);
        Some(self.moments.get(count.checked_sub(1)?)?.1)
    }

    /// What a source with the longest lag shows now, at least.
    pub(super) fn shown(&self, now: Time) -> Stamp {
        self.applied(self.longest, now).unwrap_or_default()
    }
}

impl Core {
    /// What a source that lags by so much shows of what was applied here, at least.
    pub(super) fn shown_by_source(&self, lag: Duration, now: Time) -> Stamp {
        // Counted on a clock that may run too fast.
        let lag = stretched(lag, self.config.clock_rate_ppm);
        self.lately.applied(lag, now).unwrap_or_default()
    }

    /// Has a fill that a lagging source could spoil read the primary, or store nothing.
    pub(super) fn heed_source_lag(
        &self,
        resolution: &mut Resolution,
        classes: &[ClassPath],
        policy: &Policy,
        now: Time,
    ) {
        if policy.source_lag.is_zero() || policy.strategy == Strategy::Ttl {
            return;
        }
        let shown = self.shown_by_source(policy.source_lag, now);
        // What no vector tells any more says nothing about any class.
        let lags = !self.history.knows(shown) || self.versions.changed_since(classes, shown);
        if lags && policy.on_source_lag == LagRule::Primary {
            resolution.filling = Filling::Primary;
            return;
        }
        // The fill speaks for what its source shows: a class that turns out to matter and changed lately condemns it.
        resolution.lease.stamp = shown;
        if lags {
            resolution.filling = Filling::Forbidden;
            // Whoever computed it anew would do so in vain.
            resolution.stale.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::from_start(Duration::from_millis(milliseconds))
    }

    #[test]
    fn g3_what_was_applied_a_lag_ago_is_never_overstated_and_bounded() {
        let longest = Duration::from_millis(2_560);
        let mut lately = Lately::start(longest, Stamp(0), at(0));
        assert_eq!(lately.applied(longest, at(2_559)), None);
        let mut changes = vec![(0, 0)];
        for step in 1..20_000_u64 {
            // Every third of a millisecond or so, with pauses.
            let now = step / 3 + (step / 1_000) * 700;
            lately.note(Stamp(step / 2), at(now));
            changes.push((now, step / 2));
            assert!(lately.moments.len() <= MOMENTS as usize + 4);
            for lag in [10, 700, 2_560] {
                let lag_ago = now.saturating_sub(lag);
                let truth = changes.iter().rev().find(|(then, _)| *then <= lag_ago);
                let shown = lately.applied(Duration::from_millis(lag), at(now));
                let shown = shown.unwrap_or_default().0;
                assert!(now < lag || shown <= truth.unwrap().1, "{now} {lag}");
                let earlier = now.saturating_sub(lag + 12);
                let earlier = changes.iter().rev().find(|(then, _)| *then <= earlier);
                assert!(now < lag + 12 || shown >= earlier.unwrap().1, "{now} {lag}");
            }
        }
    }
}
