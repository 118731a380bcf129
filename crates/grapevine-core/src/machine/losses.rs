//! Events that nobody has any more.
//!
//! An event that its origin alone had flushed is gone with that disk, but its number may have been told: a hole that
//! nobody can fill, and heads that hold it up would keep every sidecar from vouching for ever. So a sidecar that is linked
//! to all members, and has asked them for as long as anybody waits for one, has the roster *close* the log: by a view that
//! names the hole and bumps everything. One that started over (`lost_track`) does so soon for what it dropped. Whoever
//! takes that view over *writes off* what it lacks up to there: it waits for those events no longer, also where it hears of
//! them later, for each of them was issued before the bump. Later views repeat what was closed, so that a sidecar knows it
//! after a restart, and one that was away learns it. Whatever was filled before is stale by that bump, and what is filled
//! afterwards was read after the lost events' writes had been committed, for who proposed the view knew of them. Should one
//! of them turn up after all, it is applied like any other, and who was granted freshness by a sidecar that has it must have
//! it too (`Progress::covers_told`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Core;
use super::members::Member;
use super::repair::GapKey;
use crate::id::{Incarnation, Lane, Time};
use crate::roster::{CLOSED_MAX, View};

/// How long others are asked for what was dropped here: whoever has it is linked, or others wait for it already.
const DROPPED_WAIT: Duration = Duration::from_secs(1);

/// A hole that nobody may be able to fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    pub(super) key: GapKey,
    pub(super) last: u64,
    /// When it was noted.
    pub(super) since: Time,
}

impl Core {
    /// What has been missing for too long: the last missing event of each origin that is no member.
    pub(super) fn losses(&self, now: Time) -> BTreeMap<Incarnation, u64> {
        if self.draining || !self.sees_all() {
            return BTreeMap::new();
        }
        let asked_since = |since: Time| since.max(self.members.last_link_up());
        let due = |suspect: &Suspect| {
            let run = suspect.key.0;
            let dropped = self.retirements.dropped.get(run) >= suspect.last;
            let wait = if dropped {
                DROPPED_WAIT
            } else {
                self.config.member_timeout
            };
            now.since(asked_since(suspect.since)) >= wait && !self.is_member(run)
        };
        let due = self.suspects().filter(due);
        due.take(CLOSED_MAX)
            .map(|suspect| (suspect.key.0, suspect.last))
            .collect()
    }

    /// Waits no longer for what a view closes: but for what no run can have issued, and for what a run has that is seated in
    /// that view, which may have come back since.
    pub(super) fn write_off(&mut self, view: &View) {
        for (origin, end) in view.written_off() {
            let past = self.progress.is_past(origin, end);
            if !past && self.may_follow(origin) && self.may_exist(origin, Lane::Bump, end) {
                let lane = self.progress.lane_mut(origin, Lane::Bump);
                self.counters.events_written_off += lane.close(end);
            }
        }
    }

    /// Holes of the bump lane that are not written off yet.
    fn suspects(&self) -> impl Iterator<Item = Suspect> + '_ {
        self.missing_bumps().filter(|suspect| {
            let (origin, lane, _) = suspect.key;
            let lane = self.progress.lane(origin, lane);
            lane.is_some_and(|lane| !lane.is_closed(suspect.last))
        })
    }

    fn is_member(&self, run: Incarnation) -> bool {
        self.members.of_run(run).is_some()
    }

    /// Whether all others with a seat are linked.
    fn sees_all(&self) -> bool {
        let seats = self.members.of_seats(self.views.view());
        let mut others = seats.filter(|(node, ..)| **node != self.config.node_id);
        self.seated() && others.all(|(.., member)| member.is_some_and(Member::linked))
    }
}
