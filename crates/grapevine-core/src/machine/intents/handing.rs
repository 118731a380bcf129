//! How intents are handed on: by who holds them for runs that have lost their seats, and by who leaves.

use std::time::Duration;

use super::{HOLD_RETRY, Held, Outcome, refuse};
use crate::id::{Incarnation, Time};
use crate::intent::{INTENT_GRACE, Intent, IntentId, Owed};
use crate::machine::Core;
use crate::machine::effects::{Action, Effects, PeerMessage, Refusal};

/// Who has a held intent besides this sidecar and its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// Nobody that is known.
    No,
    /// One peer was asked to hold it, or all. Unless one has said by then that it does, all are, and have twice as long.
    Asked {
        one: Option<Incarnation>,
        again: Time,
        patience: Duration,
    },
    /// This run, as it said.
    To(Incarnation),
    /// This run, which asked this sidecar to hold it.
    From(Incarnation),
}

impl Core {
    /// A view was taken over, or there is somebody more who may hold intents. What is held here for a run that has no seat
    /// may be held by nobody else, so all peers are asked to hold it as well: this sidecar may be the next that is gone.
    /// Where another one did so and is gone by now, all whom it asked come here at once, and each asks one.
    pub(super) fn hand_over_orphans(&mut self, now: Time, effects: &mut Effects) {
        let view = self.views.view();
        if view.number == 0 {
            return;
        }
        let (seats, holders) = (&view.seats, self.possible_holders());
        let seated = |run: &Incarnation| seats.values().any(|it| it == run);
        let lacks = |(id, held): &(&IntentId, &Held)| {
            let there = match held.handed {
                Handed::No | Handed::Asked { one: None, .. } => false,
                Handed::Asked { one: Some(run), .. } | Handed::To(run) | Handed::From(run) => {
                    seated(&run) || holders.contains(&run)
                }
            };
            !there && !seated(&id.origin)
        };
        let lacking = self.intents.held.iter().filter(lacks);
        let lacking: Vec<_> = lacking.map(|(id, held)| (*id, held.handed)).collect();
        let mut behind = holders.range(self.config.incarnation..);
        let next = behind.next().or_else(|| holders.first()).copied();
        for (id, handed) in lacking {
            if let Some(held) = self.intents.held.get_mut(&id) {
                held.handed = Handed::No;
            }
            let was_one = matches!(handed, Handed::From(_) | Handed::Asked { one: Some(_), .. });
            let one = next.filter(|_| was_one);
            self.hand_over(id, one, now, effects);
        }
    }

    /// Asks one peer, or all, to hold what is held here, and asks again later if there is anybody who can say that it does.
    pub(super) fn hand_over(
        &mut self,
        id: IntentId,
        one: Option<Incarnation>,
        now: Time,
        effects: &mut Effects,
    ) {
        let nobody = self.possible_holders().is_empty();
        let Some(held) = self.intents.held.get_mut(&id) else {
            return;
        };
        let patience = match held.handed {
            Handed::Asked { patience, .. } => patience * 2,
            _ => HOLD_RETRY,
        };
        held.handed = if nobody {
            Handed::No
        } else {
            let again = now.plus(patience);
            Handed::Asked {
                one,
                again,
                patience,
            }
        };
        let (owed, left) = (held.owed.clone(), held.ends.since(now));
        let told = |lease| PeerMessage::Intent(Intent { id, owed, lease });
        if let Some(to) = one {
            effects.send(to, told(left));
        } else {
            // For a little longer, so that this sidecar bumps first.
            let told = told(left + INTENT_GRACE);
            effects.actions.push(Action::Broadcast(told));
        }
        if !left.is_zero() {
            self.intents.rewake_held(id);
        }
    }

    /// A peer says that it holds what is held here for another run.
    pub(super) fn handed_to(&mut self, id: IntentId, to: Incarnation) {
        let counts = self.possible_holders().contains(&to);
        let Some(held) = self.intents.held.get_mut(&id) else {
            return;
        };
        if counts && let Handed::Asked { again, .. } = held.handed {
            let lasts = held.look() == again;
            held.handed = Handed::To(to);
            if lasts {
                self.intents.rewake_held(id);
            }
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
