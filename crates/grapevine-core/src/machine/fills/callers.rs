//! The sidecar's part: its own callers that miss the same value, and the one of them whose turn it is.
//!
//! For all its callers of a key a sidecar asks the arbiter once. Until the arbiter answers, for [`ASK_PATIENCE`], they
//! wait; if it does not, one of them fills without it. What the arbiter answers later changes nothing then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{ASK_PATIENCE, Chosen, LOST_MARGIN, RETRY_AFTER_MAX, RETRY_AFTER_MIN, Words};
use crate::fill::{FillKey, FillWord};
use crate::id::{Incarnation, Time};
use crate::machine::effects::{Counters, FillTurn, Ticket};

/// The most callers of one value that wait at one sidecar; of all values together as many as configured. A further one is
/// told when to try again.
pub(super) const WAITERS_PER_FILL_MAX: usize = 4_096;
/// The most values that callers of one sidecar fill or wait for at a time, some 300 bytes each; beyond, whoever asks wins.
pub(super) const FILLS_MAX: usize = 65_536;

/// The callers of this sidecar.
#[derive(Clone, Debug, Default)]
pub(super) struct Callers {
    fills: BTreeMap<FillKey, Fill>,
    /// The turns that callers of this sidecar have.
    held: BTreeMap<u64, FillKey>,
    waiting: BTreeMap<Ticket, FillKey>,
    timers: BTreeSet<(Time, FillKey)>,
    last: u64,
}

/// One value that callers miss.
#[derive(Clone, Debug)]
struct Fill {
    arbiter: Incarnation,
    turn: Turn,
    waiting: VecDeque<Waiter>,
    /// No later than the first deadline of those who wait.
    earliest: Option<Time>,
    timer: Time,
}

/// How the election stands, as this sidecar knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The arbiter was asked. At this time one of the callers fills all the same.
    Asked(Time),
    /// Another sidecar's caller fills. At this time the arbiter is asked again: its word may have been lost.
    Elsewhere(Time),
    /// A caller of this sidecar fills, under this number, until this time at most.
    Here(u64, Time),
}

#[derive(Clone, Debug)]
struct Waiter {
    ticket: Ticket,
    deadline: Time,
}

/// What the parts of a step share.
pub(super) struct Step<'a> {
    pub(super) now: Time,
    pub(super) lease: Duration,
    pub(super) waits_max: usize,
    pub(super) chosen: &'a Chosen,
    pub(super) words: &'a mut Words,
    pub(super) turns: &'a mut Vec<(Ticket, FillTurn)>,
    pub(super) counters: &'a mut Counters,
}

impl Callers {
    /// When something is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether a caller of this sidecar has that turn.
    pub(super) fn holds(&self, number: u64) -> bool {
        self.held.contains_key(&number)
    }

    /// How many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A caller misses the value and would fill it.
    pub(super) fn acquire(
        &mut self,
        ticket: Ticket,
        key: FillKey,
        deadline: Time,
        step: &mut Step<'_>,
    ) {
        let full = self.fills.len() >= FILLS_MAX;
        let Some(fill) = self.fills.get_mut(&key) else {
            if full || self.waiting.len() >= step.waits_max {
                step.counters.fills_unelected += 1;
                let turn = FillTurn::Won { fill: None };
                return step.turns.push((ticket, turn));
            }
            let arbiter = step.chosen.of(key);
            let mut waiting = VecDeque::new();
            waiting.push_back(Waiter { ticket, deadline });
            self.waiting.insert(ticket, key);
            let fill = Fill {
                arbiter,
                turn: Turn::Asked(step.now.plus(ASK_PATIENCE)),
                waiting,
                earliest: Some(deadline),
                timer: step.now,
            };
            self.fills.insert(key, fill);
            step.words.push((arbiter, key, FillWord::Ask));
            return self.rearm(key);
        };
        let no_room =
            fill.waiting.len() >= WAITERS_PER_FILL_MAX || self.waiting.len() >= step.waits_max;
        let impatient = deadline <= step.now && !matches!(fill.turn, Turn::Asked(_));
        if no_room || impatient {
            step.counters.fills_put_off += 1;
            let turn = put_off(fill.turn, step.now);
            return step.turns.push((ticket, turn));
        }
        fill.waiting.push_back(Waiter { ticket, deadline });
        let earliest = fill.earliest;
        fill.earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        self.waiting.insert(ticket, key);
        self.rearm(key);
    }

    /// A caller's turn has ended, with or without the value in the cache.
    pub(super) fn ended(&mut self, number: u64, stored: bool, step: &mut Step<'_>) {
        let Some(key) = self.held.remove(&number) else {
            return;
        };
        let Some(fill) = self.fills.get_mut(&key) else {
            return;
        };
        let done = FillWord::Done { stored };
        step.words.push((fill.arbiter, key, done));
        if stored {
            self.tell_filled(key, step);
            self.forget(key);
        } else {
            self.ask_or_forget(key, step);
        }
    }

    /// The arbiter says something.
    pub(super) fn told(
        &mut self,
        key: FillKey,
        from: Incarnation,
        word: FillWord,
        step: &mut Step<'_>,
    ) {
        let Some(fill) = self.fills.get_mut(&key).filter(|fill| fill.arbiter == from) else {
            if word == FillWord::Won {
                // Nobody waits for it here any more, or another arbiter is asked: let others have it.
                step.words
                    .push((from, key, FillWord::Done { stored: false }));
            }
            return;
        };
        match (word, fill.turn) {
            (FillWord::Won, Turn::Asked(_) | Turn::Elsewhere(_)) => {
                step.counters.fills_elected += 1;
                self.win(key, step);
            }
            (FillWord::Wait { left }, Turn::Asked(_) | Turn::Elsewhere(_)) => {
                fill.turn = Turn::Elsewhere(step.now.plus(left).plus(LOST_MARGIN));
                self.expire(key, step);
                self.rearm(key);
            }
            (FillWord::Filled, Turn::Asked(_) | Turn::Elsewhere(_)) => {
                self.tell_filled(key, step);
                self.forget(key);
            }
            (FillWord::Filled, Turn::Here(..)) => {
                self.tell_filled(key, step);
                self.rearm(key);
            }
            (FillWord::Superseded, Turn::Here(number, _)) => {
                step.counters.fills_superseded += 1;
                self.held.remove(&number);
                self.ask_or_forget(key, step);
            }
            _ => {}
        }
    }

    /// Gives the turn to the caller that has waited longest; without one, gives it back.
    fn win(&mut self, key: FillKey, step: &mut Step<'_>) {
        let Some(fill) = self.fills.get_mut(&key) else {
            return;
        };
        let Some(first) = fill.waiting.pop_front() else {
            let done = FillWord::Done { stored: false };
            step.words.push((fill.arbiter, key, done));
            return self.forget(key);
        };
        self.waiting.remove(&first.ticket);
        self.last += 1;
        fill.turn = Turn::Here(self.last, step.now.plus(step.lease));
        self.held.insert(self.last, key);
        let turn = FillTurn::Won {
            fill: Some(self.last),
        };
        step.turns.push((first.ticket, turn));
        self.rearm(key);
    }

    /// Asks the arbiter for the callers that still wait.
    fn ask_or_forget(&mut self, key: FillKey, step: &mut Step<'_>) {
        let Some(fill) = self.fills.get_mut(&key) else {
            return;
        };
        if fill.waiting.is_empty() {
            return self.forget(key);
        }
        fill.arbiter = step.chosen.of(key);
        // Those whom nobody has answered are not more patient for another arbiter: links that break again and again would
        // keep them waiting.
        if !matches!(fill.turn, Turn::Asked(_)) {
            fill.turn = Turn::Asked(step.now.plus(ASK_PATIENCE));
        }
        step.words.push((fill.arbiter, key, FillWord::Ask));
        self.rearm(key);
    }

    /// An arbiter may be gone: the next one is asked, also by who has a turn, so that it knows of it.
    pub(super) fn arbiter_gone(&mut self, peer: Incarnation, step: &mut Step<'_>) {
        let fills = self.fills.iter();
        let orphaned = fills.filter(|(_, fill)| fill.arbiter == peer);
        let orphaned: Vec<_> = orphaned.map(|(key, _)| *key).collect();
        for key in orphaned {
            let Some(fill) = self.fills.get_mut(&key) else {
                continue;
            };
            if let Turn::Here(..) = fill.turn {
                fill.arbiter = step.chosen.of(key);
                step.words.push((fill.arbiter, key, FillWord::Ask));
            } else {
                self.ask_or_forget(key, step);
            }
        }
    }

    /// Does what is due.
    pub(super) fn due(&mut self, step: &mut Step<'_>) {
        while let Some(&(at, key)) = self.timers.first()
            && at <= step.now
        {
            let Some(fill) = self.fills.get(&key) else {
                self.timers.remove(&(at, key));
                continue;
            };
            match fill.turn {
                Turn::Asked(until) if until <= step.now => {
                    step.counters.fills_unelected += 1;
                    self.win(key, step);
                }
                Turn::Elsewhere(until) if until <= step.now => self.ask_or_forget(key, step),
                Turn::Here(number, until) if until <= step.now => {
                    step.counters.fills_superseded += 1;
                    self.ended(number, false, step);
                }
                _ => self.expire(key, step),
            }
            self.rearm(key);
        }
    }

    /// Tells callers whose time is up when to try again, and forgets what nobody waits for.
    fn expire(&mut self, key: FillKey, step: &mut Step<'_>) {
        let Some(fill) = self.fills.get_mut(&key) else {
            return;
        };
        if matches!(fill.turn, Turn::Asked(_)) {
            return;
        }
        let turn = put_off(fill.turn, step.now);
        let (places, turns) = (&mut self.waiting, &mut *step.turns);
        fill.waiting.retain(|waiter| {
            let late = waiter.deadline <= step.now;
            if late {
                places.remove(&waiter.ticket);
                turns.push((waiter.ticket, turn));
            }
            !late
        });
        fill.earliest = fill.waiting.iter().map(|waiter| waiter.deadline).min();
        if fill.waiting.is_empty() && matches!(fill.turn, Turn::Elsewhere(_)) {
            self.leave(key, step);
        }
    }

    /// Nobody here waits for another sidecar's fill any more.
    fn leave(&mut self, key: FillKey, step: &mut Step<'_>) {
        if let Some(fill) = self.fills.get(&key) {
            let done = FillWord::Done { stored: false };
            step.words.push((fill.arbiter, key, done));
        }
        self.forget(key);
    }

    /// Callers gave up.
    pub(super) fn gone(&mut self, tickets: &BTreeSet<Ticket>, step: &mut Step<'_>) {
        let keys: BTreeSet<_> = tickets
            .iter()
            .filter_map(|ticket| self.waiting.remove(ticket))
            .collect();
        for key in keys {
            let Some(fill) = self.fills.get_mut(&key) else {
                continue;
            };
            fill.waiting
                .retain(|waiter| !tickets.contains(&waiter.ticket));
            if fill.waiting.is_empty() && !matches!(fill.turn, Turn::Here(..)) {
                self.leave(key, step);
            }
        }
    }

    /// Answers everybody who waits: this sidecar leaves.
    pub(super) fn dismiss(&mut self) -> Vec<Ticket> {
        for fill in self.fills.values_mut() {
            fill.waiting.clear();
            fill.earliest = None;
        }
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    fn tell_filled(&mut self, key: FillKey, step: &mut Step<'_>) {
        let Some(fill) = self.fills.get_mut(&key) else {
            return;
        };
        for waiter in fill.waiting.drain(..) {
            self.waiting.remove(&waiter.ticket);
            step.turns.push((waiter.ticket, FillTurn::Filled));
        }
        fill.earliest = None;
    }

    fn forget(&mut self, key: FillKey) {
        if let Some(fill) = self.fills.remove(&key) {
            self.timers.remove(&(fill.timer, key));
            if let Turn::Here(number, _) = fill.turn {
                self.held.remove(&number);
            }
        }
    }

    /// Sets the timer anew.
    fn rearm(&mut self, key: FillKey) {
        let Some(fill) = self.fills.get_mut(&key) else {
            return;
        };
        let (Turn::Asked(until) | Turn::Elsewhere(until) | Turn::Here(_, until)) = fill.turn;
        let next = match (fill.turn, fill.earliest) {
            (Turn::Asked(_), _) | (_, None) => until,
            (_, Some(earliest)) => until.min(earliest),
        };
        self.timers.remove(&(fill.timer, key));
        fill.timer = next;
        self.timers.insert((next, key));
    }
}

/// When to try again: when the turn that is under way may be over, and not much later than it is likely to be.
fn put_off(turn: Turn, now: Time) -> FillTurn {
    let (Turn::Asked(until) | Turn::Elsewhere(until) | Turn::Here(_, until)) = turn;
    let after = until.since(now).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
    FillTurn::Retry { after }
}
