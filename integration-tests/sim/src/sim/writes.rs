//! Writers: commit, then invalidate, with a receipt, at another sidecar if the first does not answer; or die in between.

use std::time::Duration;

use grapevine_core::event::{BumpEvent, Event as Logged, Match, PurgeMode, RowImage};
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::intent::IntentId;
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{
    Input, Invalidate, Receipt, ReceiptLevel, Reply, RowsChange, Ticket, Written,
};
use grapevine_core::names::ClassPath;
use grapevine_core::store::Write;

use super::Sim;
use crate::arms::Arm;
use crate::clock::{MILLISECOND, Micros};
use crate::events::Event;
use crate::node::Call;
use crate::schedule::{What, WriteOp};
use crate::shelves::Begun;
use crate::tally::Race;

/// How long a sidecar may take for a receipt.
pub(super) const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a writer waits before it asks another sidecar.
pub(super) const OVERDUE: Micros = 2_500 * MILLISECOND;
/// How often it asks; by then everything has been well for a long time.
const ATTEMPTS_MAX: u32 = 20;

/// A write under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    index: u64,
    attempt: u32,
    done: bool,
    /// The intent, if it was declared, and the slot that took that.
    intent: Option<(IntentId, usize)>,
}

impl Writing {
    /// A write that was just committed.
    pub(super) fn new(index: u64, intent: Option<(IntentId, usize)>) -> Self {
        Self {
            index,
            attempt: 0,
            done: false,
            intent,
        }
    }
}

impl Sim<'_> {
    /// A writer commits, or declares that it will.
    pub(super) fn begin_write(&mut self, op: usize, write: &WriteOp) {
        if write.declared.is_some() {
            return self.declare(op, 0);
        }
        let index = self.commit(op, write, None);
        if !write.dies {
            self.writes[op] = Some(Writing::new(index, None));
            self.after(write.call, Event::Invalidate { op, attempt: 0 });
        }
    }

    /// A write is committed; its index.
    pub(super) fn commit(&mut self, op: usize, write: &WriteOp, begun: Option<Begun>) -> u64 {
        let kind = &self.shop.kinds[write.kind];
        let index = self.db.commit(self.now, kind.covers);
        if let Some(shift) = write.shift {
            self.shelves.commit(index, shift, begun);
        }
        self.tally.writes += 1;
        self.transcript.fold(&[30, op as u64, index]);
        let letter = self.nodes[write.node].letter;
        self.transcript.say(self.now, || {
            let classes: Vec<_> = kind.classes.iter().map(ClassPath::as_str).collect();
            let dies = if write.dies { ", and dies" } else { "" };
            if let Some(shift) = write.shift {
                return format!("writer {op} at {letter} commits write {index}, {shift:?}{dies}");
            }
            format!(
                "writer {op} at {letter} commits write {index}, which changes {:?} of {}{dies}",
                kind.matching,
                classes.join(" ")
            )
        });
        index
    }

    pub(super) fn write_op(&self, op: usize) -> Option<WriteOp> {
        match self.plan.ops[op].what {
            What::Write(write) => Some(write),
            _ => None,
        }
    }

    /// A writer calls a sidecar: its own at first, then others in turn.
    pub(super) fn invalidate(&mut self, op: usize, attempt: u32) {
        let (Some(write), Some(writing)) = (self.write_op(op), self.writes[op]) else {
            return;
        };
        // First where it was declared: only that one ends the intent without a detour.
        let first = writing.intent.map_or(write.node, |(_, at)| at);
        let at = (first + attempt as usize) % self.size;
        if !self.nodes[at].up() {
            return self.after(20 * MILLISECOND, Event::Overdue { op, attempt });
        }
        self.after(OVERDUE, Event::Overdue { op, attempt });
        if self.nodes[at].stopped(self.now) {
            // The request waits in the socket, and is taken from it also when its caller has given up.
            let event = Event::Invalidate { op, attempt };
            return self.nodes[at].deferred.push(event);
        }
        self.note_sides(at);
        self.note_newcomer(at);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let kind = &self.shop.kinds[write.kind];
        let deadline = self.time(at).plus(PATIENCE);
        let by_rows = match (write.shift, writing.intent) {
            (Some(_), _) => Some(self.shelves.images(writing.index)),
            (None, None) if !kind.rows.is_empty() => {
                Some(kind.rows.iter().cloned().map(RowImage::from).collect())
            }
            _ => None,
        };
        let written = match by_rows {
            Some(rows) => Written::Rows(RowsChange {
                rows,
                purge: write.purge(),
                level: write.level,
                deadline,
            }),
            None => Written::Classes(Invalidate {
                classes: self.classes_of((op, None), &write),
                matching: kind.matching,
                purge: write.purge(),
                level: write.level,
                deadline,
            }),
        };
        let input = match (writing.intent, written) {
            (Some((intent, _)), written) => Input::CommitWrite(ticket, intent, written),
            (None, Written::Rows(change)) => Input::RowsChanged(ticket, change),
            (None, Written::Classes(call)) => Input::Invalidate(ticket, call),
        };
        self.nodes[at]
            .calls
            .insert(ticket, Call::Write(op, attempt));
        let Some(effects) = self.handle(at, input) else {
            return;
        };
        let origin = self.nodes[at].incarnation;
        // The last one: what an intent owes beside it goes first.
        let mut issued = effects.writes.iter().rev();
        let issued = issued.find_map(|write| own_bump(write, origin));
        if let Some((event, soft)) = issued.map(|(event, bump)| (event, is_soft(bump))) {
            let core = self.nodes[at].core.as_ref();
            let everything = core.map_or(0, |core| core.roster().everything);
            let (covers, index) = (kind.covers, writing.index);
            self.checker
                .issued(event, (covers, soft), index, everything);
            self.shelves.tell(index, event);
            let stamp = self.nodes[at].wall.stamp(self.now);
            self.stamps.insert(event, stamp);
            let letter = self.nodes[at].letter;
            let index = writing.index;
            self.transcript.say(self.now, || {
                format!("writer {op} invalidates at {letter} for write {index}: {event:?}, receipt {:?}", write.level)
            });
        }
        self.carry_out(at, effects);
        self.settle(at);
    }

    /// Notes on which side of a cut a write is made.
    fn note_sides(&mut self, at: usize) {
        let now = self.now;
        self.cut_off.retain(|(_, until, ..)| *until > now);
        let mut both = 0;
        self.cut_off.retain_mut(|(node, _, inside, outside)| {
            *inside |= *node == at;
            *outside |= *node != at;
            let split = *inside && *outside;
            both += u64::from(split);
            !split
        });
        for _ in 0..both {
            self.tally.race(Race::SplitBrain);
        }
    }

    /// Notes a write at a run without a seat, which some have met and others have not.
    fn note_newcomer(&mut self, at: usize) {
        let run = self.nodes[at].incarnation;
        let seated = |core: &Core| core.roster().seats.values().any(|seat| *seat == run);
        if self.nodes[at].core.as_ref().is_none_or(seated) {
            return;
        }
        let others = (0..self.size).filter(|other| *other != at);
        let met = others.filter_map(|other| {
            let members = self.nodes[other].core.as_ref()?.members(self.time(other));
            let met = members.iter().any(|member| member.hello.incarnation == run);
            Some(met)
        });
        let met: Vec<_> = met.collect();
        if met.contains(&true) && met.contains(&false) {
            self.tally.race(Race::Newcomer);
        }
    }

    /// A writer has waited long enough.
    pub(super) fn overdue(&mut self, op: usize, attempt: u32) {
        let Some(writing) = &mut self.writes[op] else {
            return;
        };
        if writing.done || writing.attempt != attempt || attempt >= ATTEMPTS_MAX {
            return;
        }
        writing.attempt += 1;
        let attempt = writing.attempt;
        self.after(0, Event::Invalidate { op, attempt });
    }

    /// A sidecar answers a call.
    pub(super) fn replied(&mut self, at: usize, ticket: Ticket, reply: Reply) {
        let Some(call) = self.nodes[at].calls.remove(&ticket) else {
            return self.won_for_nobody(at, &reply);
        };
        match (call, reply) {
            (Call::Write(op, _), Reply::Invalidated { event, receipt, .. }) => {
                self.write_answered(at, op, event, &receipt);
            }
            (Call::Write(op, attempt), Reply::Refused(_)) => {
                self.tally.fault("refused");
                self.after(50 * MILLISECOND, Event::Overdue { op, attempt });
            }
            (Call::Declare(op, attempt), reply) => {
                self.declaration_answered(at, (op, attempt), &reply);
            }
            (Call::Abort(op), reply) => self.abort_answered(at, op, &reply),
            (Call::Turn(op, attempt), reply) => self.ask_answered(at, (op, attempt), &reply),
            (Call::Local(of, id), reply) => self.local_answered((of, id), &reply),
            (Call::List(op), reply) => self.listing_answered(at, op, &reply),
            (Call::Fill(op), Reply::Registered(verdicts)) => {
                if let Some(verdict) = verdicts.first() {
                    self.fill_answered(op, *verdict);
                }
            }
            _ => {}
        }
    }

    fn write_answered(&mut self, at: usize, op: usize, event: EventId, receipt: &Receipt) {
        let satisfied = receipt.satisfied;
        self.transcript
            .fold(&[31, op as u64, event.sequence, u64::from(satisfied)]);
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            let rows: Vec<_> = receipt
                .holders
                .iter()
                .map(|row| format!("{:?} {:?}", row.incarnation, row.state))
                .collect();
            let level = receipt.level;
            format!(
                "{letter} answers writer {op}: {event:?} {level:?} satisfied {satisfied}: {}",
                rows.join(", ")
            )
        });
        self.tally.answered += 1;
        let all = satisfied && receipt.level == ReceiptLevel::All;
        self.tally.all_satisfied += u64::from(all);
        let early = !self.caught_up(at);
        self.checker.answered(self.now, event, all, early);
        self.check_receipt(event, receipt);
        self.local_wrote(at, event);
        let shifts = self.write_op(op).is_some_and(|it| it.shift.is_some());
        if let Some(writing) = &mut self.writes[op] {
            writing.done = true;
            let session = if shifts {
                &mut self.list_session
            } else {
                &mut self.session
            };
            session.wrote(event, writing.index);
        }
        if self.is(Arm::NoFence)
            && let Some(known) = self.checker.known(event)
        {
            let covers = known.covers;
            self.delete_plainly(covers);
        }
    }
}

/// Whether what a bump replaces may be served for a while. What a conjunction does may not: its anchor keeps nothing.
pub(super) fn is_soft(event: &BumpEvent) -> bool {
    match event {
        BumpEvent::Bump(bump) => bump.purge == PurgeMode::Soft && bump.matching == Match::Any,
        BumpEvent::Rows(changed) => changed.purge == PurgeMode::Soft,
        BumpEvent::Floor(_) | BumpEvent::Shape(_) => false,
    }
}

/// The event that a write logs, if it is a bump of this run, of classes or of rows.
pub(super) fn own_bump(write: &Write, own: Incarnation) -> Option<(EventId, &BumpEvent)> {
    match write {
        Write::Log {
            origin,
            sequence,
            event: Logged::Bump(event),
        } if *origin == own => match &**event {
            BumpEvent::Bump(_) | BumpEvent::Rows(_) => {
                let (origin, sequence) = (*origin, *sequence);
                Some((EventId { origin, sequence }, event))
            }
            BumpEvent::Floor(_) | BumpEvent::Shape(_) => None,
        },
        _ => None,
    }
}
