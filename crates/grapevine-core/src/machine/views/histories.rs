//! Bumps of everything: what a history of the roster that begins, or was given up, makes stale.

use std::sync::Arc;

use crate::event::{Bump, BumpEvent, Match, PurgeMode};
use crate::id::{EventId, Incarnation, Lane};
use crate::machine::Core;
use crate::machine::app::bump_writes;
use crate::machine::effects::{Action, Effects};
use crate::machine::flushed::Pending;
use crate::names::ClassPath;
use crate::progress::OriginHead;
use crate::store::Write;

/// Histories that are followed by their own names, for each look-up reads all of them. Beyond, the bump of a further one is
/// taken over under an event of this sidecar: everything is invalidated as it should be, but by each member that has no
/// room, and the name is unknown to snapshots and grants from here. A history begins with a cluster and with each
/// operator's word to go on alone, so an honest cluster does not get there.
const HISTORIES_MAX: usize = 1_024;
/// Such further histories that are remembered, with the last number that was heard; beyond, all of them are forgotten,
/// and bump everything once more when they are told of again.
const REFUSED_MAX: usize = 1_024;

impl Core {
    /// Nobody can tell a member without others that its disk is an older copy, so each of its runs bumps everything before it
    /// vouches. It does so by an event of its own: if others were members since, and are met again, this view is none of
    /// their history, and its number says nothing to them.
    pub(in crate::machine) fn bump_all(&mut self, effects: &mut Effects) {
        let id = self.issue(everything(), None, effects);
        self.views.debts.push(OriginHead {
            incarnation: id.origin,
            bump: id.sequence,
            directory: 0,
        });
    }

    /// A peer knows of a view that bumped everything, of a history that was given up. Its number says all that there is to
    /// say of it. Those of this sidecar's own history come with their views, and not by hearsay: a number from nowhere
    /// would make it take no later one.
    pub(in crate::machine) fn history_told(&mut self, head: OriginHead, effects: &mut Effects) {
        let own = self.views.view().history == Some(head.incarnation);
        if own || !self.may_be(&head) {
            return;
        }
        let known = self.progress.knows(head.incarnation);
        if !known && self.progress.histories() >= HISTORIES_MAX {
            return self.history_refused(head, effects);
        }
        let writes = self.everything_bumped(head.incarnation, head.bump, effects);
        if !writes.is_empty() {
            self.write(effects, writes, Pending::Nothing);
        }
    }

    /// There is no room for a history: what it bumped is bumped by an event of this sidecar.
    fn history_refused(&mut self, head: OriginHead, effects: &mut Effects) {
        let refused = &mut self.views.refused;
        let known = refused.get(&head.incarnation).copied();
        if head.bump == 0 || known.is_some_and(|known| known >= head.bump) {
            return;
        }
        if known.is_none() && refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        refused.insert(head.incarnation, head.bump);
        self.counters.histories_refused += 1;
        self.issue(everything(), None, effects);
    }

    /// Applies a view's bump of everything, unless it is known.
    pub(super) fn everything_bumped(
        &mut self,
        history: Incarnation,
        number: u64,
        effects: &mut Effects,
    ) -> Vec<Write> {
        let lane = self.progress.lane_mut(history, Lane::Bump);
        if lane.watermark() >= number {
            return Vec::new();
        }
        lane.adopt(number);
        let id = EventId {
            origin: history,
            sequence: number,
        };
        let bump = everything();
        let event = Arc::new(BumpEvent::Bump(bump.clone()));
        self.apply_event(id, &event);
        let mut writes = bump_writes(id, &bump, true);
        writes.extend(self.renewed(history, number, std::slice::from_ref(&event)));
        writes.push(Write::Progress {
            origin: history,
            lane: Lane::Bump,
            watermark: number,
        });
        effects.actions.push(Action::Applied(id, event));
        writes
    }
}

pub(in crate::machine) fn everything() -> Bump {
    Bump {
        classes: vec![ClassPath::everything()],
        matching: Match::Any,
        purge: PurgeMode::Hard,
    }
}
