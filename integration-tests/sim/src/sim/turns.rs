//! Turns to fill (`fill = "one"`, decision 0012): of many readers that miss the same value, one reads the source.
//!
//! A reader that misses asks its sidecar as the client library does: for a while at a time, again when it is put off, and
//! in the end it fills without a turn; who wins looks into the cache once more. The answer is a stream that
//! stays open while the reader has the turn, so a reader whose process dies ends it, and one that hangs does not. A turn that
//! a sidecar gives to somebody who has gone meanwhile it takes back, as `grapevined` does when it drops what it held.
//!
//! What is judged, beside what is served and stored: whoever waits is answered by its deadline and the patience that an
//! arbiter is given; once the lease of a turn is over, its sidecar refuses its commit. How often two readers
//! had a turn for one value is counted: nothing promises that there is one, since tokens fence what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use grapevine_core::fill::{FillId, FillKey};
use grapevine_core::id::Time;
use grapevine_core::machine::effects::{
    CondemnReason, FillTurn, Filling, Input, Reply, Ticket, Verdict,
};
use grapevine_core::machine::fills::ASK_PATIENCE;

use super::reads::{Reading, target};
use super::{LEASE, Sim};
use crate::arms::Arm;
use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::events::{Event, TurnWord};
use crate::node::Call;
use crate::schedule::{Going, What};
use crate::tally::Race;
use crate::violation::Guarantee;

/// How long a reader waits for others before it fills without a turn. Clients wait for a minute, which would only make
/// runs longer.
const WAIT_MAX: Micros = 5 * SECOND;
/// How much longer than it was asked to wait a sidecar may be silent.
const SILENT_MAX: Micros = SECOND;
/// So often a reader is told that the value is there, does not find it, and asks again; then it fills without a turn.
const DISAPPOINTED_MAX: u32 = 2;
/// How long a word takes from an application to its sidecar.
const TELL: Micros = 150;
/// What wake-ups may come late by.
const MARGIN: Micros = MILLISECOND;

/// Turns that readers have, by slot, run there and number.
pub(super) type OpenTurns = BTreeMap<(usize, u64, u64), FillKey>;

/// How it stands with a reader's turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asking {
    /// When it asked first.
    first: Option<Micros>,
    attempt: u32,
    /// When it asked last, and for how long its sidecar is to wait.
    asked: (Micros, Micros),
    /// The question that waits for an answer.
    ticket: Option<Ticket>,
    disappointed: u32,
    /// Whether it asks no more, and fills.
    settled: bool,
    turn: Option<Turn>,
    /// Whether the lease of its turn was over when it committed.
    over: bool,
}

/// A turn that was won.
#[derive(Clone, Copy, Debug)]
struct Turn {
    node: usize,
    run: u64,
    fill: FillId,
    until: Time,
}

impl Asking {
    pub(super) fn has_asked(&self) -> bool {
        self.first.is_some()
    }

    pub(super) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// The turn's name, to be given to a commit.
    pub(super) fn fill(&self) -> Option<FillId> {
        self.turn.map(|turn| turn.fill)
    }
}

impl Sim<'_> {
    /// A reader found nothing: it asks for its turn, or reads the database.
    pub(super) fn missed(&mut self, op: usize) {
        let now = self.now;
        let Some(reading) = self.reads[op].as_mut() else {
            return;
        };
        let (query, asking) = (reading.read.query, &mut reading.asking);
        let forbidden = reading.resolution.filling == Filling::Forbidden;
        let asks = reading.resolution.elect && !forbidden && !asking.settled;
        if asks && asking.turn.is_none() {
            let again = asking.has_asked();
            asking.disappointed += u32::from(again);
            if !again {
                asking.first = Some(now);
                if let Some((after, _)) = reading.read.ask.goes {
                    self.after(after, Event::ReaderGoes { op });
                }
            }
            return self.ask_next(op);
        }
        asking.settled = true;
        self.after(query, Event::Query { op });
    }

    /// Asks once more, or fills without a turn.
    fn ask_next(&mut self, op: usize) {
        let now = self.now;
        let Some(reading) = self.reads[op].as_mut() else {
            return;
        };
        let (wait, query) = (reading.read.ask.wait, reading.read.query);
        let asking = &mut reading.asking;
        let until = asking.first.unwrap_or(now) + WAIT_MAX;
        let left = until.saturating_sub(now);
        if asking.disappointed > DISAPPOINTED_MAX || left == 0 {
            asking.settled = true;
            return self.after(query, Event::Query { op });
        }
        asking.attempt += 1;
        asking.asked = (now, wait.min(left));
        let (attempt, silent) = (asking.attempt, true);
        let fails = Event::AskFails {
            op,
            attempt,
            silent,
        };
        self.after(wait.min(left) + SILENT_MAX, fails);
        self.after(TELL, Event::Ask { op, attempt });
    }

    /// A reader's question arrives at its sidecar.
    pub(super) fn ask(&mut self, op: usize, attempt: u32) {
        let Some(reading) = self.reads[op].as_ref() else {
            return;
        };
        let (at, waits) = (reading.at, reading.asking.attempt == attempt);
        let (wait, key) = (
            reading.asking.asked.1,
            FillKey::new(target(reading), reading.resolution.token),
        );
        if !self.nodes[at].up() {
            let silent = false;
            let fails = Event::AskFails {
                op,
                attempt,
                silent,
            };
            return self.after(TELL, fails);
        }
        if self.nodes[at].stopped(self.now) {
            // The question waits in the socket, and is taken from it also when its caller has given up.
            return self.nodes[at].deferred.push(Event::Ask { op, attempt });
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = self.time(at).plus(Duration::from_micros(wait));
        if waits {
            if let Some(reading) = self.reads[op].as_mut() {
                reading.asking.ticket = Some(ticket);
            }
            self.nodes[at].calls.insert(ticket, Call::Turn(op, attempt));
            self.tally.turns.asked += 1;
            let by_wall = self.is(Arm::WallClockLease);
            let due = self.nodes[at].when(deadline.plus(ASK_PATIENCE), by_wall);
            self.tell_turn_at(due.max(self.now) + MARGIN, at, TurnWord::Due(ticket));
        } else {
            self.tell_turn_at(self.now, at, TurnWord::Gone(ticket));
        }
        self.transcript.fold(&[27, op as u64, u64::from(attempt)]);
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("reader {op} asks {letter} for its turn to fill {key:?}")
        });
        self.input(at, Input::AcquireFill(ticket, key, deadline));
    }

    fn tell_turn_at(&mut self, when: Micros, node: usize, word: TurnWord) {
        let run = self.nodes[node].run;
        self.queue.push(when, Event::Turn { node, run, word });
    }

    /// A reader's question is answered.
    pub(super) fn ask_answered(&mut self, at: usize, (op, attempt): (usize, u32), reply: &Reply) {
        let now = self.now;
        let waits = |reading: &&mut Box<Reading>| reading.asking.attempt == attempt;
        let Some(reading) = self.reads[op].as_mut().filter(waits) else {
            // A process that hangs takes what it is given.
            if !self.hangs(op) {
                self.won_for_nobody(at, reply);
            }
            return;
        };
        let (get, asking) = (reading.read.get, &mut reading.asking);
        asking.ticket = None;
        // From here on nothing fails this attempt any more.
        asking.attempt += 1;
        let (letter, number) = (self.nodes[at].letter, asking.attempt);
        self.transcript
            .fold(&[28, op as u64, u64::from(number), turn_code(reply)]);
        self.transcript.say(now, || {
            format!("{letter} answers reader {op}, which asked for its turn: {reply:?}")
        });
        match *reply {
            Reply::Fill(FillTurn::Won { fill: Some(number) }) => {
                self.won(at, op, number);
                self.after(get, Event::Got { op });
            }
            Reply::Fill(FillTurn::Won { fill: None }) => {
                asking.settled = true;
                self.after(get, Event::Got { op });
            }
            Reply::Fill(FillTurn::Filled) => {
                self.tally.race(Race::Stampede);
                self.after(get, Event::Got { op });
            }
            Reply::Fill(FillTurn::Retry { after }) => {
                self.tally.turns.put_off += 1;
                let (asked, wait) = asking.asked;
                let pause = u64::try_from(after.as_micros()).unwrap_or(Micros::MAX);
                let left = (asking.first.unwrap_or(now) + WAIT_MAX).saturating_sub(now);
                if now >= asked + wait {
                    self.ask_next(op);
                } else if pause < left {
                    let attempt = number;
                    self.after(pause, Event::AskAgain { op, attempt });
                } else {
                    self.fill_unelected(op);
                }
            }
            _ => self.fill_unelected(op),
        }
    }

    /// A reader that was put off asks again.
    pub(super) fn ask_again(&mut self, op: usize, attempt: u32) {
        let reading = self.reads[op].as_ref();
        if reading.is_some_and(|reading| reading.asking.attempt == attempt) {
            self.ask_next(op);
        }
    }

    fn fill_unelected(&mut self, op: usize) {
        if let Some(reading) = self.reads[op].as_mut() {
            reading.asking.settled = true;
            let query = reading.read.query;
            self.after(query, Event::Query { op });
        }
    }

    fn won(&mut self, at: usize, op: usize, number: u64) {
        let until = self.time(at).plus(LEASE);
        let run = self.nodes[at].run;
        let origin = self.nodes[at].incarnation;
        let Some(reading) = self.reads[op].as_mut() else {
            return;
        };
        let key = FillKey::new(target(reading), reading.resolution.token);
        reading.asking.turn = Some(Turn {
            node: at,
            run,
            fill: FillId { origin, number },
            until,
        });
        self.tally.turns.won += 1;
        let same = self.turns.values().any(|open| *open == key);
        if same {
            self.transcript.say(self.now, || {
                format!("reader {op} is not the only one whose turn it is")
            });
        }
        self.tally.turns.doubled += u64::from(same);
        self.turns.insert((at, run, number), key);
    }

    /// A turn is given to somebody who has gone: the sidecar takes it back.
    pub(super) fn won_for_nobody(&mut self, at: usize, reply: &Reply) {
        if let Reply::Fill(FillTurn::Won { fill: Some(number) }) = *reply {
            let stored = false;
            self.tell_turn_at(self.now, at, TurnWord::Ends { number, stored });
        }
    }

    /// A reader's question fails: it fills without a turn, or, if its sidecar was silent, for itself only.
    pub(super) fn ask_fails(&mut self, op: usize, attempt: u32, silent: bool) {
        let Some(reading) = self.reads[op].as_mut() else {
            return;
        };
        if reading.asking.attempt != attempt || reading.asking.settled {
            return;
        }
        reading.asking.attempt += 1;
        if silent {
            reading.resolution.filling = Filling::Forbidden;
        }
        self.give_up_asking(op);
        self.fill_unelected(op);
    }

    fn give_up_asking(&mut self, op: usize) {
        let Some(reading) = self.reads[op].as_mut() else {
            return;
        };
        let at = reading.at;
        if let Some(ticket) = reading.asking.ticket.take()
            && self.nodes[at].calls.contains_key(&ticket)
        {
            self.tell_turn_at(self.now + TELL, at, TurnWord::Gone(ticket));
        }
    }

    fn going(&self, op: usize) -> Option<Going> {
        match &self.plan.ops.get(op)?.what {
            What::Read(read) => read.ask.goes.map(|(_, how)| how),
            _ => None,
        }
    }

    fn hangs(&self, op: usize) -> bool {
        self.reads[op].is_none() && self.going(op) == Some(Going::Hangs)
    }

    /// A reader's process is gone.
    pub(super) fn reader_goes(&mut self, op: usize) {
        let Some(asking) = self.reads[op].as_ref().map(|reading| reading.asking) else {
            return;
        };
        self.tally.turns.abandoned += u64::from(asking.has_turn());
        self.transcript.fold(&[29, op as u64]);
        let how = self.going(op);
        self.transcript
            .say(self.now, || format!("reader {op} is gone: {how:?}"));
        if how == Some(Going::Dies) {
            self.tally.fault("reader_died");
            self.give_up_asking(op);
            self.end_turn(&asking, false);
        } else {
            self.tally.fault("reader_hung");
        }
        self.reads[op] = None;
    }

    /// A reader's turn is over.
    pub(super) fn end_turn(&mut self, asking: &Asking, stored: bool) {
        if let Some(turn) = asking.turn {
            let (node, run, number) = (turn.node, turn.run, turn.fill.number);
            let word = TurnWord::Ends { number, stored };
            self.after(TELL, Event::Turn { node, run, word });
        }
    }

    /// A sidecar hears about a turn.
    pub(super) fn hear_of_turn(&mut self, at: usize, word: TurnWord) {
        match word {
            TurnWord::Ends { number, stored } => {
                let run = self.nodes[at].run;
                self.turns.remove(&(at, run, number));
                let origin = self.nodes[at].incarnation;
                self.input(at, Input::EndFill(FillId { origin, number }, stored));
            }
            TurnWord::Gone(ticket) => {
                self.nodes[at].calls.remove(&ticket);
                self.input(at, Input::Gone(BTreeSet::from([ticket])));
            }
            TurnWord::Due(ticket) => self.judge_wait(at, ticket),
        }
    }

    /// Whoever waits must have been answered by now, unless its sidecar was stopped: then it has its arbiter's patience again.
    fn judge_wait(&mut self, at: usize, ticket: Ticket) {
        if !self.nodes[at].calls.contains_key(&ticket) || self.is(Arm::WallClockLease) {
            return;
        }
        let patience = u64::try_from(ASK_PATIENCE.as_micros()).unwrap_or(0);
        let patience = patience + patience / 100 + MARGIN;
        let again = self.nodes[at].went_on + patience;
        if self.now < again {
            return self.tell_turn_at(again, at, TurnWord::Due(ticket));
        }
        let letter = self.nodes[at].letter;
        let what =
            format!("at {letter} a reader waits for its turn beyond its deadline: {ticket:?}");
        self.violated(Guarantee::Turns, what);
    }

    /// A winner has its value: notes whether the lease of its turn is over.
    pub(super) fn judge_turn(&mut self, reading: &mut Reading) {
        let Some(turn) = reading.asking.turn else {
            return;
        };
        let same_run = self.nodes[turn.node].run == turn.run;
        let margin = Duration::from_micros(MARGIN);
        let over = self.time(turn.node) >= turn.until.plus(margin);
        reading.asking.over = same_run && over;
        self.tally.turns.outlived += u64::from(reading.asking.over);
    }

    /// A commit was accepted.
    pub(super) fn judge_accepted(&mut self, at: usize, asking: &Asking) {
        if asking.over && !self.is(Arm::WallClockLease) {
            let letter = self.nodes[at].letter;
            let what = format!(
                "{letter} accepts a fill whose turn was over: {:?}",
                asking.turn
            );
            self.violated(Guarantee::Turns, what);
        }
    }

    /// A commit was refused.
    pub(super) fn turn_condemned(&mut self, asking: &Asking, verdict: Verdict) {
        let superseded = verdict == Verdict::Condemned(CondemnReason::Superseded);
        self.tally.turns.superseded += u64::from(superseded);
        self.end_turn(asking, false);
    }

    /// The turns of a run end with it.
    pub(super) fn turns_end(&mut self, at: usize) {
        self.turns.retain(|(slot, ..), _| *slot != at);
        if let Some(core) = &self.nodes[at].core {
            self.tally.turns.unelected += core.counters().fills_unelected;
        }
    }
}

/// An answer as a number, for the transcript's hash.
fn turn_code(reply: &Reply) -> u64 {
    match reply {
        Reply::Fill(FillTurn::Won { fill }) => 10 + fill.unwrap_or(0),
        Reply::Fill(FillTurn::Filled) => 1,
        Reply::Fill(FillTurn::Retry { .. }) => 2,
        _ => 3,
    }
}
