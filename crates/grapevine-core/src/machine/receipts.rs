//! Who has an event (G6), and the calls that wait to know.

use std::collections::BTreeMap;

use super::Core;
use super::effects::{Action, Effects, Holder, HolderState, Receipt, ReceiptLevel, Reply, Ticket};
use super::members::Members;
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
    /// How many of the rows, at the end, speak of superseded runs that may still call themselves fresh.
    former: usize,
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
        let current = members.iter().map(|member| &member.given);
        let former = members.former(now).map(|former| &former.given);
        let lapse = current
            .chain(former)
            .filter_map(|given| given.without(*oldest))
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
        let current = self
            .members
            .iter()
            .map(|member| (member.hello.node_id.clone(), member.hello.incarnation));
        let superseded = self.members.former(now);
        let superseded = superseded.map(|run| (run.node_id.clone(), run.incarnation));
        let mut rows: Vec<_> = current.collect();
        let members = rows.len();
        rows.extend(superseded);
        let waiting = Waiting {
            event,
            ticket,
            level,
            deadline,
            former: rows.len() - members,
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
                state: standing(&self.members, node, *incarnation, sequence, now),
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
        self.leave_if_nobody_waits(effects);
    }

    fn satisfied(&self, waiting: &Waiting, members: &Members, now: Time) -> bool {
        let state = |row: &(NodeId, Incarnation)| {
            standing(members, &row.0, row.1, waiting.event.sequence, now)
        };
        let have = waiting
            .rows
            .iter()
            .filter(|row| state(row) == HolderState::Has)
            .count();
        let members = waiting.rows.len() - waiting.former + 1;
        let expected = self.config.expected_members;
        match waiting.level {
            ReceiptLevel::None => true,
            // A cluster that expects peers has not acknowledged anything while it knows of none.
            ReceiptLevel::One => have >= 1 || (members == 1 && expected <= 1),
            ReceiptLevel::Quorum => have + 1 > members.max(expected) / 2,
            ReceiptLevel::All => {
                // Whom its last run granted freshness a sidecar learns by catching up, if it then knows everybody.
                let since_start = now.since(self.started);
                let knows = self.caught_up && members >= expected;
                (knows || since_start > self.config.max_staleness * 2)
                    && members > expected / 2
                    && waiting
                        .rows
                        .iter()
                        .all(|row| state(row) != HolderState::HasNot)
            }
        }
    }
}

/// Where a run stands towards an event of this sidecar.
fn standing(
    members: &Members,
    node: &NodeId,
    incarnation: Incarnation,
    sequence: u64,
    now: Time,
) -> HolderState {
    let member = members
        .by_node(node)
        .filter(|member| member.hello.incarnation == incarnation);
    let given = match member {
        Some(member) if member.acked.has(sequence) => return HolderState::Has,
        Some(member) => Some(&member.given),
        // A superseded run may still be there for as long as its grants hold; its successor catches up before it
        // serves. One that is not remembered at all left, or was silent for longer than any grant holds.
        None => members
            .former(now)
            .find(|former| former.incarnation == incarnation)
            .map(|former| &former.given),
    };
    match given.and_then(|given| given.without(sequence)) {
        Some(ends) if ends > now => HolderState::HasNot,
        _ => HolderState::CannotServe,
    }
}
