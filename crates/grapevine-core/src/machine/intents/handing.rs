//! How intents are handed on: by who holds them for runs that have lost their seats, and by who leaves.

use super::{Outcome, refuse};
use crate::id::Time;
use crate::intent::{INTENT_GRACE, Intent, IntentId, Owed};
use crate::machine::Core;
use crate::machine::effects::{Action, Effects, PeerMessage, Refusal};

impl Core {
    /// A view was taken over. What is held here for a run that has no seat in it may be held by nobody else, so all peers
    /// are asked to hold it as well, for a little longer: this sidecar may be the next that is gone. If it is not, it bumps
    /// first and tells them.
    pub(in crate::machine) fn hand_over_orphans(&mut self, now: Time, effects: &mut Effects) {
        let seats = &self.views.view().seats;
        let orphans = self
            .intents
            .held
            .iter_mut()
            .filter(|(id, held)| !held.handed && seats.values().all(|run| *run != id.origin));
        for (&id, held) in orphans {
            held.handed = true;
            let (owed, lease) = (held.owed.clone(), held.ends.since(now) + INTENT_GRACE);
            let intent = Intent { id, owed, lease };
            effects
                .actions
                .push(Action::Broadcast(PeerMessage::Intent(intent)));
        }
    }

    /// This sidecar leaves: calls that wait are refused; what is open here, and what it holds for runs that are gone or
    /// leave as well, is handed to all peers, for nobody else may have it. More bumps than one are harmless.
    pub(in crate::machine) fn leave_intents(&mut self, now: Time, effects: &mut Effects) {
        let origin = self.config.incarnation;
        let waiting = self.intents.own.iter();
        let waiting: Vec<_> = waiting
            .filter_map(|(&number, own)| Some((number, own.call?.0)))
            .collect();
        for (number, ticket) in waiting {
            self.end_own(IntentId { origin, number }, Outcome::Aborted, effects);
            refuse(ticket, Refusal::Draining, effects);
        }
        let linked = self.linked_peers();
        let handed = |id: IntentId, owed: &Owed, ends: Time| {
            let (owed, lease) = (owed.clone(), ends.since(now));
            Action::Broadcast(PeerMessage::Intent(Intent { id, owed, lease }))
        };
        for (&number, own) in &mut self.intents.own {
            let more = linked.iter().filter(|peer| !own.asked.contains(peer));
            // So that an end that is still to come is told to them.
            let more: Vec<_> = more.copied().collect();
            own.asked.extend(more);
            let id = IntentId { origin, number };
            effects.actions.push(handed(id, &own.owed, own.ends));
        }
        for (&id, held) in &self.intents.held {
            if !linked.contains(&id.origin) {
                effects.actions.push(handed(id, &held.owed, held.ends));
            }
        }
    }
}
