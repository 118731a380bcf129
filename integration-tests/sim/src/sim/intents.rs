//! Writers that declare their write before they commit it (G8), and what their sidecars owe them.
//!
//! A writer declares at its own sidecar and, if that does not answer, at the next; without an answer it does not write.
//! Its lease counts from its call. It commits or aborts when its time comes, unless its lease is over by then; one that
//! does not heed its lease commits all the same. Then it tells, or dies.
//!
//! What is judged: a write that was committed within its lease is *owed* a bump that is issued after its commit, at every
//! sidecar, once everything is well and the leases are over, whoever died in between. An abort that was answered as in
//! time is followed by no bump of the run that answered; by nobody's in calm weather (elsewhere a holder may not have
//! heard of it). Bumps that nobody called for carry markers, classes that name the write.
//!
//! Writes of rows that are in lists are declared by these, and carry markers in them. What is judged of them is that every sidecar is told of
//! them all the same, and what lists have of them (in `leaves`).

use std::collections::BTreeSet;
use std::time::Duration;

use grapevine_core::event::{BumpEvent, Match};
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::intent::{INTENT_GRACE, IntentId};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{AbortOutcome, Announced, BeginWrite, Input, Reply, Ticket};
use grapevine_core::names::ClassPath;

use super::Sim;
use super::writes::{OVERDUE, PATIENCE, Writing, is_soft};
use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::declare::LEASE_MAX;
use crate::events::Event;
use crate::node::Call;
use crate::schedule::{Declared, Then, WriteOp};
use crate::shelves::{Begun, Shift, begun};
use crate::shop::{Mask, marked, marker};
use crate::tally::Race;
use crate::violation::Guarantee;

/// How often a writer declares, at one sidecar after the other, before it gives its write up.
const ATTEMPTS_MAX: u32 = 4;
/// How long sidecars that are well may have intents: after a start one is held for its whole lease again, and clocks
/// differ.
pub(super) const INTENTS_LAST: Micros = 2 * LEASE_MAX + LEASE_MAX / 10 + 3 * SECOND;

/// A declaration under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Declaring {
    attempt: u32,
    /// When the writer made the call: its lease counts from then.
    called: Micros,
    /// The intent, the slot that took it, and the run there.
    taken: Option<(IntentId, usize, u64)>,
    /// Whether an abort was answered as in time.
    aborted: bool,
    /// The run that bumped it last without being called.
    bumped_by: Option<Incarnation>,
    /// Whether it was decided what becomes of the write, and its number if it is committed.
    decided: bool,
    index: Option<u64>,
}

/// A write that was committed within its lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) op: usize,
    pub(super) index: u64,
    /// When it was declared.
    pub(super) called: Micros,
}

impl Sim<'_> {
    /// What a write's calls name: its classes and, where that changes nothing, a marker of its declaration.
    pub(super) fn classes_of(
        &self,
        (op, attempt): (usize, Option<u32>),
        write: &WriteOp,
    ) -> Vec<ClassPath> {
        let kind = &self.shop.kinds[write.kind];
        let mut classes = kind.classes.clone();
        if let Some(attempt) = attempt
            && kind.matching == Match::Any
        {
            classes.push(marker(op, attempt));
        }
        classes
    }

    /// A writer declares its write: at its own sidecar first, then at others in turn.
    pub(super) fn declare(&mut self, op: usize, attempt: u32) {
        let Some((write, declared)) = self.declared_op(op) else {
            return;
        };
        let at = (write.node + attempt as usize) % self.size;
        // A call that waited at a stopped sidecar is taken also when its caller has given up.
        let anew = self
            .declaring
            .get(&op)
            .is_none_or(|it| it.attempt < attempt);
        if anew {
            let declaring = Declaring {
                attempt,
                called: self.now,
                taken: None,
                aborted: false,
                bumped_by: None,
                decided: false,
                index: None,
            };
            self.declaring.insert(op, declaring);
            self.last_declared = self.now;
            self.after(OVERDUE, Event::Undeclared { op, attempt });
        }
        if !self.nodes[at].up() {
            return self.after(20 * MILLISECOND, Event::Undeclared { op, attempt });
        }
        if self.nodes[at].stopped(self.now) {
            let event = Event::Declare { op, attempt };
            return self.nodes[at].deferred.push(event);
        }
        let call = BeginWrite {
            announced: self.announced((op, attempt), &write),
            purge: write.purge(),
            lease: Duration::from_micros(declared.lease),
            deadline: self.time(at).plus(PATIENCE),
            random: ((op as u64) << 16) | u64::from(attempt),
        };
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            let lease = declared.lease / MILLISECOND;
            format!(
                "writer {op} declares at {letter}, for {lease} ms: {:?}",
                call.announced
            )
        });
        let ticket = self.ticket(at, Call::Declare(op, attempt));
        self.input(at, Input::BeginWrite(ticket, call));
    }

    /// What a write will change, as its writer says before it.
    fn announced(&self, begun: Begun, write: &WriteOp) -> Announced {
        let Some(shift) = write.shift else {
            let (op, attempt) = begun;
            return Announced::Classes {
                classes: self.classes_of((op, Some(attempt)), write),
                matching: self.shop.kinds[write.kind].matching,
            };
        };
        let mut rows = self.shelves.images_of(shift, Some(begun));
        if !names_rows(begun.0) {
            for image in &mut rows {
                image.identity = None;
            }
        }
        Announced::Rows(rows)
    }

    /// The rows that a sidecar shows in lists because it has taken a write that is not decided: by operation, the table, the number and
    /// what it will be.
    pub(super) fn rows_begun_at(
        &self,
        at: usize,
    ) -> impl Iterator<Item = (usize, (usize, usize, (usize, usize)))> {
        let run = self.nodes[at].run;
        let here = move |it: &Declaring| it.taken.is_some_and(|(_, of, by)| (of, by) == (at, run));
        let declaring = self.declaring.iter();
        let open = declaring.filter(move |(_, it)| !it.decided && here(it));
        open.filter_map(|(op, it)| {
            let (write, declared) = self.declared_op(*op)?;
            let Some(Shift::One { table, id, to, .. }) = write.shift else {
                return None;
            };
            let shown = names_rows(*op) && self.now < it.called + declared.lease;
            to.filter(|_| shown).map(|to| (*op, (table, id, to)))
        })
    }

    fn declared_op(&self, op: usize) -> Option<(WriteOp, Declared)> {
        let write = self.write_op(op)?;
        Some((write, write.declared?))
    }

    pub(super) fn ticket(&mut self, at: usize, call: Call) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.nodes[at].calls.insert(ticket, call);
        ticket
    }

    /// A writer has waited long enough for its declaration to be taken.
    pub(super) fn undeclared(&mut self, op: usize, attempt: u32) {
        let waits = |it: &Declaring| it.taken.is_none() && it.attempt == attempt;
        if self.declaring.get(&op).is_some_and(waits) && attempt + 1 < ATTEMPTS_MAX {
            self.declare(op, attempt + 1);
        }
    }

    /// A sidecar answers a declaration.
    pub(super) fn declaration_answered(
        &mut self,
        at: usize,
        (op, attempt): (usize, u32),
        reply: &Reply,
    ) {
        let Reply::Begun { intent, .. } = reply else {
            self.tally.fault("refused");
            return self.after(50 * MILLISECOND, Event::Undeclared { op, attempt });
        };
        let (run, now) = (self.nodes[at].run, self.now);
        let (Some((_, declared)), Some(declaring)) =
            (self.declared_op(op), self.declaring.get_mut(&op))
        else {
            return;
        };
        if declaring.attempt != attempt || declaring.taken.is_some() {
            // Its writer has called another one since. It is nobody's, and ends with its lease.
            return;
        }
        declaring.taken = Some((*intent, at, run));
        let decides = (declaring.called + declared.takes).max(now);
        self.tally.intents.begun += 1;
        self.transcript.fold(&[32, op as u64, intent.number]);
        let letter = self.nodes[at].letter;
        self.transcript
            .say(now, || format!("{letter} answers writer {op}: {intent:?}"));
        self.after(decides - now, Event::Decide { op });
    }

    /// A writer that has its answer commits, aborts, or dies.
    pub(super) fn decide(&mut self, op: usize) {
        let (Some((write, declared)), Some(declaring)) =
            (self.declared_op(op), self.declaring.get(&op))
        else {
            return;
        };
        let Some((intent, at, run)) = declaring.taken else {
            return;
        };
        let (called, begun) = (declaring.called, (op, declaring.attempt));
        if let Some(declaring) = self.declaring.get_mut(&op) {
            declaring.decided = true;
        }
        let late = self.now >= called + declared.lease;
        match declared.then {
            Then::Dies => {}
            Then::Aborts(node) => {
                let elsewhere = node != write.node;
                self.abort(op, intent, if elsewhere { node } else { at });
            }
            // The answer took too long for one that heeds its lease.
            Then::Commits if late && declared.takes < declared.lease => {}
            Then::Commits => {
                let index = self.commit(op, &write, Some(begun));
                if let Some(declaring) = self.declaring.get_mut(&op) {
                    declaring.index = Some(index);
                }
                let gone = !self.nodes[at].up() || self.nodes[at].run != run;
                if write.dies || late || gone {
                    self.tally.race(Race::Orphaned);
                }
                if !late {
                    self.tally.intents.owed += 1;
                    self.owed.push(Owed { op, index, called });
                }
                if !write.dies {
                    self.writes[op] = Some(Writing::new(index, Some((intent, at))));
                    self.after(write.call, Event::Invalidate { op, attempt: 0 });
                }
            }
        }
    }

    fn abort(&mut self, op: usize, intent: IntentId, at: usize) {
        if !self.nodes[at].answers(self.now) {
            return;
        }
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("writer {op} aborts {intent:?} at {letter}")
        });
        let ticket = self.ticket(at, Call::Abort(op));
        self.input(at, Input::AbortWrite(ticket, intent));
    }

    /// A sidecar answers an abort.
    pub(super) fn abort_answered(&mut self, at: usize, op: usize, reply: &Reply) {
        let Reply::Aborted(outcome) = reply else {
            return;
        };
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("{letter} answers writer {op}: {outcome:?}")
        });
        let run = self.nodes[at].incarnation;
        let Some(declaring) = self.declaring.get_mut(&op) else {
            return;
        };
        let Some((intent, ..)) = declaring.taken else {
            return;
        };
        let lie = match outcome {
            AbortOutcome::InTime => {
                declaring.aborted = true;
                self.tally.intents.aborted += 1;
                let bumped = declaring.bumped_by == Some(run);
                (intent.origin != run || bumped).then_some("was in time")
            }
            AbortOutcome::Bumped(event) => {
                let known = self.checker.known(*event).is_some();
                (!known).then_some("came after a bump that was never issued")
            }
            AbortOutcome::Unknown => None,
        };
        if let Some(lie) = lie {
            let what = format!("{letter} says that the abort of {intent:?} {lie}");
            self.violated(Guarantee::G8, what);
        }
    }

    /// A sidecar issues a bump that nobody called for: an intent owed it.
    pub(super) fn issued_uncalled(&mut self, at: usize, event: EventId, owed: &BumpEvent) {
        let (covers, markers) = match owed {
            BumpEvent::Bump(bump) => {
                let covers = self.shop.covers(&bump.classes, bump.matching);
                (covers, bump.classes.iter().filter_map(marked).collect())
            }
            BumpEvent::Rows(changed) => {
                let markers: BTreeSet<_> = changed.rows.iter().filter_map(begun).collect();
                (Mask::default(), markers)
            }
            BumpEvent::Floor(_) | BumpEvent::Shape(_) => return,
        };
        let core = self.nodes[at].core.as_ref();
        let everything = core.map_or(0, |core| core.roster().everything);
        // It speaks of all that was committed so far.
        let index = self.db.index();
        let covers = (covers, is_soft(owed));
        self.checker.issued(event, covers, index, everything);
        let stamp = self.nodes[at].wall.stamp(self.now);
        self.stamps.insert(event, stamp);
        self.tally.intents.ended += 1;
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("{letter} bumps what intents owe: {event:?} {owed:?}")
        });
        for (op, attempt) in markers {
            let declaring = self.declaring.get_mut(&op);
            let Some(declaring) = declaring.filter(|it| it.attempt == attempt) else {
                continue;
            };
            declaring.bumped_by = Some(event.origin);
            if let Some(index) = declaring.index {
                self.shelves.tell(index, event);
            }
            let told = declaring.taken.filter(|_| declaring.aborted);
            if let Some((intent, ..)) = told
                && (intent.origin == event.origin || self.plan.calm)
            {
                let what = format!(
                    "{letter} bumps {intent:?} in {event:?}, whose abort was answered as in time"
                );
                self.violated(Guarantee::G8, what);
            }
        }
    }

    /// Whether sidecars have write intents.
    pub(super) fn intents_left(&self) -> bool {
        let mut cores = self.nodes.iter().filter_map(|node| node.core.as_ref());
        cores.any(|core| core.intents_open() + core.intents_held() > 0)
    }

    /// Every write that is owed a bump has one, at every sidecar, that was issued after its commit.
    pub(super) fn check_owed(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        // Who lost all disks at once has lost all intents.
        let wiped_at = self.wiped_at;
        for Owed { op, index, .. } in owed.into_iter().filter(|it| it.called > wiped_at) {
            let Some(write) = self.write_op(op) else {
                continue;
            };
            let covers = self.shop.kinds[write.kind].covers;
            let lacks = |at: &usize| {
                let progress = self.nodes[*at].core.as_ref().map(Core::progress);
                let all = progress.map_or(0, |progress| self.checker.newest_everything(progress));
                let newest = |address| self.checker.newest_applied(*at, address).max(all);
                let untold = write.shift.is_some() && all < index && {
                    let mut events = self.shelves.events(index).iter();
                    let has = |event| progress.is_some_and(|has| self.checker.has(has, event));
                    !events.any(|event| has(*event))
                };
                untold || covers.iter().any(|address| newest(address) < index)
            };
            if let Some(at) = (0..self.size).find(lacks) {
                let letter = self.nodes[at].letter;
                let what = format!(
                    "writer {op} committed write {index} within its lease, and no later bump of it came to {letter}"
                );
                self.violated(Guarantee::G8, what);
            }
        }
    }
}

/// Whether the rows that a writer declares carry their ids: one that are new may have none yet.
fn names_rows(op: usize) -> bool {
    !op.is_multiple_of(4)
}

const _: () = assert!(
    INTENT_GRACE.as_micros() < 2 * SECOND as u128,
    "what is waited for at the end of a run has room for the grace"
);
