//! Events that nobody has any more.
//!
//! An event that its origin alone had flushed is gone with that disk, but its number may have been told: a hole that
//! nobody can fill, and heads that hold it up would keep every sidecar from vouching for ever. So a sidecar that sees a
//! majority, and has asked all of it for as long as anybody waits for a member, *writes the hole off*: it waits for its
//! events no longer. That is safe once everything was bumped since the hole was known: whatever was filled before is
//! stale by that bump, and what is filled afterwards was read after the lost events' writes had been committed, so its
//! stamp covers them. Should one of them turn up after all, it is applied like any other.
//!
//! The sidecar with the lowest incarnation bumps everything; the others, a second apart, only if none did.

use std::time::Duration;

use super::Core;
use super::effects::Effects;
use super::flushed::Pending;
use super::repair::GapKey;
use crate::event::{Bump, BumpEvent, Match, PurgeMode};
use crate::id::{EventId, Incarnation, Time};
use crate::names::ClassPath;
use crate::versions::Stamp;

/// How long each sidecar leaves the bump of everything to those before it.
const TURN: Duration = Duration::from_secs(1);

/// A hole that nobody may be able to fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    pub(super) key: GapKey,
    pub(super) last: u64,
    /// When it was noted, and the apply index of that moment.
    pub(super) since: Time,
    pub(super) known_at: Stamp,
}

impl Core {
    /// Writes off what has been missing for too long.
    pub(super) fn review_losses(&mut self, now: Time, effects: &mut Effects) {
        if self.draining || !self.sees_majority() {
            return;
        }
        let asked_since = |since: Time| since.max(self.members.last_link_up());
        let due = |suspect: &Suspect| {
            now.since(asked_since(suspect.since)) >= self.config.member_timeout
                && !self.is_member(suspect.key.0)
        };
        let suspects: Vec<_> = self.suspects().filter(due).collect();
        let bumped = self.versions.last_change(&[]);
        let mut wanting = None;
        for suspect in suspects {
            if bumped > suspect.known_at {
                let (origin, lane, first) = suspect.key;
                self.progress
                    .lane_mut(origin, lane)
                    .write_off(first, suspect.last);
                self.counters.events_written_off += suspect.last - first + 1;
            } else {
                let waited = now.since(asked_since(suspect.since));
                wanting = wanting.max(Some(waited));
            }
        }
        let turn = self.config.member_timeout + TURN * self.turn();
        if wanting.is_some_and(|waited| waited >= turn) && !self.bumps_everything() {
            self.bump_everything(effects);
        }
    }

    /// Whether a bump of everything is being written.
    fn bumps_everything(&self) -> bool {
        self.pending.iter().any(|(_, pending)| match pending {
            Pending::OwnBump { event, .. } => match &**event {
                BumpEvent::Bump(bump) => bump.classes[0].is_reserved(),
                BumpEvent::Floor(_) => false,
            },
            _ => false,
        })
    }

    /// Issues a bump of everything.
    pub(super) fn bump_everything(&mut self, effects: &mut Effects) -> EventId {
        let bump = Bump {
            classes: vec![ClassPath::everything()],
            matching: Match::Any,
            purge: PurgeMode::Hard,
        };
        self.issue(bump, None, effects)
    }

    /// Holes of the bump lane that are not written off yet.
    fn suspects(&self) -> impl Iterator<Item = Suspect> + '_ {
        self.missing_bumps().filter(|suspect| {
            let (origin, lane, first) = suspect.key;
            let lane = self.progress.lane(origin, lane);
            lane.is_some_and(|lane| !lane.is_written_off(first, suspect.last))
        })
    }

    fn is_member(&self, run: Incarnation) -> bool {
        self.members
            .iter()
            .any(|member| member.hello.incarnation == run)
    }

    /// Whether all members are linked, and they are with this sidecar a majority.
    fn sees_majority(&self) -> bool {
        let linked = self.members.iter().all(super::members::Member::linked);
        linked && self.members.len() + 1 > self.config.expected_members / 2
    }

    /// How many sidecars come before this one.
    fn turn(&self) -> u32 {
        let own = self.config.incarnation;
        let before = self
            .members
            .iter()
            .filter(|member| member.hello.incarnation < own);
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }
}
