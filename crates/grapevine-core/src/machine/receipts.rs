//! Who has an event (G6), and the calls that wait to know.
//!
//! A call is looked at again when something happened to its event: a member acknowledged it, a grant lapsed, its time is
//! up. Only what changes the members, or what this sidecar knows of them, makes all calls be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Core;
use super::effects::{Action, Effects, Holder, HolderState, Receipt, ReceiptLevel, Reply, Ticket};
use super::flushed::Pending;
use super::members::Member;
use crate::id::{EventId, Incarnation, Time};
use crate::names::NodeId;

/// The least that a caller is asked to wait for a place: acknowledgements come within it where peers are well.
const PLACE_WAIT_MIN: Duration = Duration::from_millis(50);

/// A call that waits.
#[derive(Clone, Debug)]
struct Waiting {
    event: EventId,
    ticket: Ticket,
    level: ReceiptLevel,
    deadline: Time,
    /// The members when the event was flushed, or when this run was seated after that: the rows speak of these
    /// incarnations.
    rows: Vec<(NodeId, Incarnation)>,
    /// Whether they are a roster's.
    agreed: bool,
    /// How many of the rows, at the end, speak of runs that may still call themselves fresh although their seats are gone.
    former: usize,
    /// When it is to be looked at again whatever happens.
    wake: Time,
}

impl Waiting {
    /// How many members there were when the event was flushed, this sidecar among them.
    fn members(&self) -> usize {
        self.seats().len() + 1
    }

    /// The rows that count as members.
    fn seats(&self) -> &[(NodeId, Incarnation)] {
        &self.rows[..self.rows.len() - self.former]
    }
}

/// The calls that wait, by the sequence of their event.
#[derive(Clone, Debug, Default)]
pub(super) struct Receipts {
    waiting: BTreeMap<u64, Waiting>,
    /// When each of them is to be looked at again.
    wakes: BTreeSet<(Time, u64)>,
    reserved: usize,
}

impl Receipts {
    /// Counts a call that will wait once its event is flushed. One that wants no receipt will not.
    pub(super) fn reserve(&mut self, level: ReceiptLevel) {
        self.reserved += usize::from(level != ReceiptLevel::None);
    }

    fn release(&mut self, level: ReceiptLevel) {
        self.reserved -= usize::from(level != ReceiptLevel::None);
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.reserved
    }

    /// How long it may take until a place is free: the next call to be looked at, unless some event brings it sooner.
    pub(super) fn next_place(&self, now: Time) -> Duration {
        let wake = self.next_wake();
        wake.map_or(PLACE_WAIT_MIN, |at| at.since(now).max(PLACE_WAIT_MIN))
    }

    pub(super) fn next_wake(&self) -> Option<Time> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// The events of calls that wait for a member's word on these.
    pub(super) fn concerned(&self, from: u64, to: u64, above: &[u64]) -> Vec<u64> {
        let range = (from < to).then(|| self.waiting.range(from + 1..=to));
        let ranged = range.into_iter().flatten().map(|(sequence, _)| *sequence);
        let named = above.iter().copied();
        let named = named.filter(|sequence| self.waiting.contains_key(sequence));
        ranged.chain(named).collect()
    }

    fn take(&mut self, sequence: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&sequence)?;
        self.wakes.remove(&(waiting.wake, sequence));
        Some(waiting)
    }

    fn put(&mut self, waiting: Waiting) {
        let sequence = waiting.event.sequence;
        self.wakes.insert((waiting.wake, sequence));
        self.waiting.insert(sequence, waiting);
    }
}

impl Core {
    /// Lets a call wait; it is looked at with [`Self::settle`].
    pub(super) fn await_receipt(
        &mut self,
        event: EventId,
        (ticket, level, deadline): (Ticket, ReceiptLevel, Time),
        now: Time,
    ) {
        self.receipts.release(level);
        let (rows, former) = self.rows(now);
        self.receipts.put(Waiting {
            event,
            ticket,
            level,
            deadline,
            former,
            rows,
            agreed: self.seated(),
            wake: deadline,
        });
    }

    /// How many further calls may wait for receipts.
    pub fn receipt_places(&self) -> usize {
        let most = self.config.limits.receipts_max;
        most.saturating_sub(self.receipts.len())
    }

    /// Gives the places of calls back that nobody waits for: those whose events are flushed are answered as things
    /// stand, the others are answered by their flush.
    pub(super) fn gone(&mut self, tickets: &BTreeSet<Ticket>, now: Time, effects: &mut Effects) {
        let waiting = self.receipts.waiting.iter();
        let flushed: Vec<_> = waiting
            .filter(|(_, waiting)| tickets.contains(&waiting.ticket))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in flushed {
            if let Some(waiting) = self.receipts.take(sequence) {
                self.answer(&waiting, now, effects);
            }
        }
        for (_, pending) in &mut self.pending {
            if let Pending::OwnBump {
                call: Some((ticket, level, _)),
                ..
            } = pending
                && tickets.contains(ticket)
            {
                self.receipts.release(*level);
                *level = ReceiptLevel::None;
            }
        }
    }

    /// Of whom a receipt tells: the others with a seat, or, for a run that has none, whom it knows; and behind them, as
    /// many as told, those that may still call themselves fresh by grants of this run: superseded runs, and runs that a view
    /// took the seat of just when they were back.
    fn rows(&self, now: Time) -> (Vec<(NodeId, Incarnation)>, usize) {
        let mut rows: Vec<_> = if self.seated() {
            let seats = self.views.view().seats.iter();
            let others = seats.filter(|(node, _)| **node != self.config.node_id);
            others.map(|(node, run)| (node.clone(), *run)).collect()
        } else {
            self.members.iter().map(Member::seat).collect()
        };
        let members = rows.len();
        // Their seats may still be theirs, until the others have agreed to give them to their successors.
        let seats: BTreeSet<_> = rows.iter().map(|(_, run)| *run).collect();
        let superseded = self.members.former(now);
        let superseded = superseded.filter(|run| !seats.contains(&run.incarnation));
        rows.extend(superseded.map(|run| (run.node_id.clone(), run.incarnation)));
        let unseated = self.members.iter().filter(|member| {
            !seats.contains(&member.hello.incarnation) && member.given.until() > now
        });
        rows.extend(unseated.map(Member::seat));
        let former = rows.len() - members;
        (rows, former)
    }

    /// Answers the calls whose receipts are satisfied, or whose time is up: all of them are looked at.
    pub(super) fn settle_receipts(&mut self, now: Time, effects: &mut Effects) {
        let all: Vec<_> = self.receipts.waiting.keys().copied().collect();
        self.settle(all, now, effects);
    }

    /// The same for those whose moment has come.
    pub(super) fn settle_due(&mut self, now: Time, effects: &mut Effects) {
        let due = self.receipts.wakes.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<_> = due.map(|(_, sequence)| *sequence).collect();
        self.settle(due, now, effects);
    }

    /// The same for some.
    pub(super) fn settle(&mut self, sequences: Vec<u64>, now: Time, effects: &mut Effects) {
        for sequence in sequences {
            let Some(mut waiting) = self.receipts.take(sequence) else {
                continue;
            };
            // A run that was the only member a moment ago counts with who has joined it since.
            if (!waiting.agreed || waiting.members() == 1) && self.seated() {
                (waiting.rows, waiting.former) = self.rows(now);
                waiting.agreed = true;
            }
            if now >= waiting.deadline || self.satisfied(&waiting, now) {
                self.answer(&waiting, now, effects);
                continue;
            }
            let lapse = self.next_lapse(&waiting, now);
            waiting.wake = lapse.map_or(waiting.deadline, |at| at.min(waiting.deadline));
            self.receipts.put(waiting);
        }
    }

    /// Answers all calls as things stand: nothing more will be heard.
    pub(super) fn settle_for_good(&mut self, now: Time, effects: &mut Effects) {
        while let Some(&sequence) = self.receipts.waiting.keys().next() {
            if let Some(waiting) = self.receipts.take(sequence) {
                self.answer(&waiting, now, effects);
            }
        }
    }

    fn answer(&self, waiting: &Waiting, now: Time, effects: &mut Effects) {
        let own = Holder {
            node_id: self.config.node_id.clone(),
            incarnation: self.config.incarnation,
            state: if self.tables.serve_past(waiting.event) {
                HolderState::Has
            } else {
                HolderState::Flushed
            },
        };
        let sure = self.is_sure(waiting, now);
        let others = waiting.rows.iter().map(|row| Holder {
            node_id: row.0.clone(),
            incarnation: row.1,
            state: self.standing(waiting, row, sure, now),
        });
        let holders = std::iter::once(own).chain(others).collect();
        let receipt = Receipt {
            level: waiting.level,
            satisfied: self.satisfied(waiting, now),
            holders,
        };
        let reply = Reply::Invalidated {
            event: waiting.event,
            receipt,
            position: self.table_position(),
        };
        effects.actions.push(Action::Reply(waiting.ticket, reply));
    }

    /// When the next grant lapses that lets somebody serve without the event, or when this run stops having to think
    /// that there are such grants of the last one.
    fn next_lapse(&self, waiting: &Waiting, now: Time) -> Option<Time> {
        let sequence = waiting.event.sequence;
        let current = self.members.iter().map(|member| &member.given);
        let former = self.members.former(now).map(|former| &former.given);
        let lapses = current
            .chain(former)
            .filter_map(|given| given.without(sequence));
        lapses
            .chain(self.knows_grants_at())
            .filter(|at| *at > now)
            .min()
    }

    /// Whether this run can know who may call himself fresh without an event.
    fn is_sure(&self, waiting: &Waiting, now: Time) -> bool {
        waiting.agreed && self.knows_grants(now) && self.is_waited_for(waiting.event.sequence)
    }

    fn satisfied(&self, waiting: &Waiting, now: Time) -> bool {
        let sure = self.is_sure(waiting, now);
        let state = |row: &(NodeId, Incarnation)| self.standing(waiting, row, sure, now);
        // These levels are about disks.
        let flushed = |row: &(NodeId, Incarnation)| {
            matches!(state(row), HolderState::Has | HolderState::Flushed)
        };
        let have = waiting.seats().iter().filter(|row| flushed(row)).count();
        // The roster may have grown meanwhile, and a majority is one of all.
        let seats = self.views.view().seats.len();
        let members = waiting.members();
        match waiting.level {
            ReceiptLevel::None => true,
            // Runs without a seat may have it among themselves while those that have one vouch for each other, and hear
            // nothing of it: from a run without a seat it counts where a seat that it knows of has it. Before the first
            // view there is none, and this may be what is left of a cluster that goes on elsewhere.
            ReceiptLevel::One | ReceiptLevel::Quorum if !waiting.agreed => {
                let seats = &self.views.view().seats;
                let seated = |row: &&(NodeId, Incarnation)| seats.get(&row.0) == Some(&row.1);
                let rows = waiting.rows.iter().filter(seated);
                let have = rows.filter(|row| flushed(row)).count();
                let one = waiting.level == ReceiptLevel::One;
                have > if one { 0 } else { seats.len() / 2 }
            }
            ReceiptLevel::One => have >= 1 || members == 1,
            ReceiptLevel::Quorum => have + 1 > members.max(seats) / 2,
            ReceiptLevel::All => {
                let agreed = waiting.agreed && self.knows_grants(now);
                let done = |row| matches!(state(row), HolderState::Has | HolderState::CannotServe);
                agreed
                    && self.tables.serve_past(waiting.event)
                    && self.is_shared(waiting)
                    && waiting.rows.iter().all(done)
            }
        }
    }

    /// Whether a second disk has the event, where there is one: that of two seats the other one can no longer serve is not
    /// enough, for the disk of this one may be lost. A run that took its seat since counts, too.
    fn is_shared(&self, waiting: &Waiting) -> bool {
        let seats = &self.views.view().seats;
        let holds = |member: &Member| {
            let hello = &member.hello;
            let seated = seats.get(&hello.node_id) == Some(&hello.incarnation);
            let listed = waiting.seats().contains(&member.seat());
            (seated || listed) && member.flushed.has(waiting.event.sequence)
        };
        waiting.members() == 1 || self.members.iter().any(holds)
    }

    /// Where a run stands towards an event of this sidecar.
    fn standing(
        &self,
        waiting: &Waiting,
        (node, incarnation): &(NodeId, Incarnation),
        sure: bool,
        now: Time,
    ) -> HolderState {
        let sequence = waiting.event.sequence;
        let member = self
            .members
            .by_node(node)
            .filter(|member| member.hello.incarnation == *incarnation);
        let flushed = member.is_some_and(|member| member.flushed.has(sequence));
        let lacking = if flushed {
            HolderState::Flushed
        } else {
            HolderState::HasNot
        };
        let given = match member {
            Some(member) if member.acked.has(sequence) => return HolderState::Has,
            _ if !sure => return lacking,
            Some(member) => Some(&member.given),
            // A superseded run may still be there for as long as its grants hold; its successor catches up before it
            // serves. One that is not remembered at all left, or was silent for longer than any grant holds.
            None => self
                .members
                .former(now)
                .find(|former| former.incarnation == *incarnation)
                .map(|former| &former.given),
        };
        match given.and_then(|given| given.without(sequence)) {
            Some(ends) if ends > now => lacking,
            // Leases of its tables that it gave without the event are over as well.
            _ if flushed => HolderState::Has,
            _ => HolderState::CannotServe,
        }
    }
}
