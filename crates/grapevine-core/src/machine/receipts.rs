//! Who has an event (G6), and the calls that wait to know.

use std::collections::BTreeMap;

use super::Core;
use super::effects::{Action, Effects, Holder, HolderState, Receipt, ReceiptLevel, Reply, Ticket};
use super::members::{Member, Members};
use crate::id::{EventId, Incarnation, Time};
use crate::names::NodeId;

/// A call that waits.
#[derive(Debug)]
struct Waiting {
    event: EventId,
    ticket: Ticket,
    level: ReceiptLevel,
    deadline: Time,
    /// The members when the event was flushed: the rows speak of these incarnations.
    rows: Vec<(NodeId, Incarnation)>,
}

/// The calls that wait, by the sequence of their event.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    waiting: BTreeMap<u64, Waiting>,
    reserved: usize,
}

impl Receipts {
    /// Counts a call that will wait once its event is flushed.
    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.reserved
    }

    pub(super) fn next_wake(&self, members: &Members, now: Time) -> Option<Time> {
        // The oldest waits for the lapse that comes first; the others are settled with it or woken for again.
        let deadline = self
            .waiting
            .values()
            .map(|waiting| waiting.deadline)
            .min()?;
        let oldest = self.waiting.keys().next()?;
        let lapse = members
            .iter()
            .filter_map(|member| member.may_serve_without(*oldest))
            .filter(|at| *at > now)
            .min();
        Some(lapse.map_or(deadline, |at| at.min(deadline)))
    }
}

impl Core {
    pub(super) fn await_receipt(
        &mut self,
        event: EventId,
        ticket: Ticket,
        level: ReceiptLevel,
        deadline: Time,
        now: Time,
        effects: &mut Effects,
    ) {
        self.receipts.reserved -= 1;
        let rows = self
            .members
            .iter()
            .map(|member| (member.hello.node_id.clone(), member.hello.incarnation))
            .collect();
        let waiting = Waiting {
            event,
            ticket,
            level,
            deadline,
            rows,
        };
        self.receipts.waiting.insert(event.sequence, waiting);
        self.settle_receipts(now, effects);
    }

    /// Answers the calls whose receipts are satisfied, or whose time is up.
    pub(super) fn settle_receipts(&mut self, now: Time, effects: &mut Effects) {
        let members = &self.members;
        let settled: Vec<u64> = self
            .receipts
            .waiting
            .iter()
            .filter(|(_, waiting)| now >= waiting.deadline || self.satisfied(waiting, members, now))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in settled {
            let Some(waiting) = self.receipts.waiting.remove(&sequence) else {
                continue;
            };
            let satisfied = self.satisfied(&waiting, &self.members, now);
            let own = Holder {
                node_id: self.config.node_id.clone(),
                incarnation: self.config.incarnation,
                state: HolderState::Has,
            };
            let others = waiting.rows.iter().map(|(node, incarnation)| Holder {
                node_id: node.clone(),
                incarnation: *incarnation,
                state: standing(self.members.by_node(node), *incarnation, sequence, now),
            });
            let holders = std::iter::once(own).chain(others).collect();
            let receipt = Receipt {
                level: waiting.level,
                satisfied,
                holders,
            };
            let reply = Reply::Invalidated {
                event: waiting.event,
                receipt,
            };
            effects.actions.push(Action::Reply(waiting.ticket, reply));
        }
    }

    fn satisfied(&self, waiting: &Waiting, members: &Members, now: Time) -> bool {
        let state = |row: &(NodeId, Incarnation)| {
            standing(members.by_node(&row.0), row.1, waiting.event.sequence, now)
        };
        let have = waiting
            .rows
            .iter()
            .filter(|row| state(row) == HolderState::Has)
            .count();
        match waiting.level {
            ReceiptLevel::None => true,
            // A cluster that expects peers has not acknowledged anything while it knows of none.
            ReceiptLevel::One => {
                have >= 1 || (waiting.rows.is_empty() && self.config.expected_members <= 1)
            }
            ReceiptLevel::Quorum => {
                let members = (waiting.rows.len() + 1).max(self.config.expected_members);
                have + 1 > members / 2
            }
            // Until it has caught up, a sidecar does not know whom its last run granted freshness.
            ReceiptLevel::All => {
                (self.caught_up || now.since(self.started) > self.config.max_staleness * 2)
                    && waiting.rows.len() + 1 > self.config.expected_members / 2
                    && waiting
                        .rows
                        .iter()
                        .all(|row| state(row) != HolderState::HasNot)
            }
        }
    }
}

fn standing(
    member: Option<&Member>,
    incarnation: Incarnation,
    sequence: u64,
    now: Time,
) -> HolderState {
    match member {
        // It left, or was silent for longer than any grant holds.
        None => HolderState::CannotServe,
        Some(member) if member.hello.incarnation == incarnation && member.acked.has(sequence) => {
            HolderState::Has
        }
        // Also for a run that was superseded: it may still be there, for as long as its grants hold.
        Some(member) => match member.may_serve_without(sequence) {
            Some(ends) if ends > now => HolderState::HasNot,
            _ => HolderState::CannotServe,
        },
    }
}
