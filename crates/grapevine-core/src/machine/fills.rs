//! Who fills: of all callers in the cluster that miss the same value at once, one reads the source (race 11).
//!
//! The key (an address and its token) has an *arbiter*: of this sidecar and the seated ones that it has a link to, the one
//! with the highest rendezvous hash. A sidecar asks it once for all its callers (`callers`), and the arbiter gives the turn
//! to one sidecar after another until one of them has stored the value (`arbiter`). Nothing of it is written to disk, and
//! nothing is safe because of it: two sidecars that choose different arbiters, an arbiter that dies, a word that is lost
//! or a table at its limit cost a second read of the source, and tokens fence what is stored (G3). The words are small,
//! go over the peers' streams with the other small messages, and nothing else waits for them.
//!
//! A turn that ended without the value (the caller said so or is gone, its sidecar's link is down, its lease is over) goes
//! to the next one who waits. The caller that had it is *superseded*: where its sidecar knows of that by then, its commit is
//! refused. That is thrift, too: what it stores under a token that still holds is right.

mod arbiter;
mod callers;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use self::arbiter::Arbiter;
use self::callers::{Callers, Step};
use super::Core;
use super::effects::{Action, Effects, PeerMessage, Refusal, Reply, Ticket};
use crate::fill::{FillId, FillKey, FillWord};
use crate::id::{Incarnation, Time};

/// How long an arbiter may take to answer: many round trips within a data centre, and little beside a read of a source
/// that is worth an election. Raising it makes a miss wait longer when an arbiter has just died.
pub const ASK_PATIENCE: Duration = Duration::from_millis(50);
/// How long behind the end of another sidecar's turn the arbiter is asked again.
const LOST_MARGIN: Duration = Duration::from_millis(500);
/// When callers who cannot wait are to try again, at the earliest and at the latest.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// What is to be said to whom; this sidecar may be among them.
type Words = Vec<(Incarnation, FillKey, FillWord)>;

/// The runs of which one arbitrates, this one among them.
struct Chosen(Vec<Incarnation>);

impl Chosen {
    fn of(&self, key: FillKey) -> Incarnation {
        let heaviest = self.0.iter().max_by_key(|run| (key.weight(**run), **run));
        *heaviest.expect("invariant: this run is among them")
    }
}

/// Fills under way, as this sidecar knows them.
#[derive(Clone, Debug, Default)]
pub(super) struct Fills {
    callers: Callers,
    arbiter: Arbiter,
}

impl Fills {
    pub(super) fn next_wake(&self) -> Option<Time> {
        let both = [self.callers.next_wake(), self.arbiter.next_wake()];
        both.into_iter().flatten().min()
    }
}

impl Core {
    /// Of whom one is a key's arbiter. A seated run without a link is not asked: it may be gone.
    fn chosen(&self) -> Chosen {
        let linked = self.members.iter().filter(|member| member.linked());
        let seated = linked.filter(|member| {
            let hello = &member.hello;
            let view = self.views.view();
            view.seats_run(&hello.node_id, hello.incarnation)
        });
        let runs = seated.map(|member| member.hello.incarnation);
        Chosen(runs.chain([self.config.incarnation]).collect())
    }

    /// Takes a step with both parts, and hands on what they say to each other until nothing is left to say here.
    fn step_fills(
        &mut self,
        now: Time,
        effects: &mut Effects,
        take: impl FnOnce(&mut Fills, &mut Step<'_>),
    ) {
        let chosen = self.chosen();
        let (own, lease) = (self.config.incarnation, self.config.lease_duration);
        let waits_max = self.config.limits.fill_waits_max;
        let (mut words, mut turns) = (Words::new(), Vec::new());
        let fills = &mut self.fills;
        let mut step = Step {
            now,
            lease,
            waits_max,
            chosen: &chosen,
            words: &mut words,
            turns: &mut turns,
            counters: &mut self.counters,
        };
        take(fills, &mut step);
        let mut said: VecDeque<_> = step.words.drain(..).collect();
        while let Some((to, key, word)) = said.pop_front() {
            if to == own {
                fills.hear(own, key, word, &mut step);
                said.extend(step.words.drain(..));
            } else {
                effects.send(to, PeerMessage::Fill { key, word });
            }
        }
        let replies = turns.into_iter();
        effects
            .actions
            .extend(replies.map(|(ticket, turn)| Action::Reply(ticket, Reply::Fill(turn))));
    }

    /// A caller misses a value and would fill it; it waits for its turn until the deadline.
    pub(super) fn acquire_fill(
        &mut self,
        ticket: Ticket,
        (key, deadline): (FillKey, Time),
        now: Time,
        effects: &mut Effects,
    ) {
        if self.draining {
            let reply = Reply::Refused(Refusal::Draining);
            return effects.actions.push(Action::Reply(ticket, reply));
        }
        self.step_fills(now, effects, |fills, step| {
            fills.callers.acquire(ticket, key, deadline, step);
        });
    }

    /// A caller's turn has ended.
    pub(super) fn end_fill(
        &mut self,
        fill: FillId,
        stored: bool,
        now: Time,
        effects: &mut Effects,
    ) {
        if fill.origin == self.config.incarnation {
            self.step_fills(now, effects, |fills, step| {
                fills.callers.ended(fill.number, stored, step);
            });
        }
    }

    /// A peer says something about a fill.
    pub(super) fn fill_word(
        &mut self,
        from: Incarnation,
        (key, word): (FillKey, FillWord),
        now: Time,
        effects: &mut Effects,
    ) {
        self.step_fills(now, effects, |fills, step| {
            fills.hear(from, key, word, step);
        });
    }

    /// A link to or from a peer ended.
    pub(super) fn fill_peer_gone(&mut self, peer: Incarnation, now: Time, effects: &mut Effects) {
        self.step_fills(now, effects, |fills, step| {
            fills.arbiter.gone(peer, (step.now, step.lease), step.words);
            fills.callers.arbiter_gone(peer, step);
        });
    }

    /// Callers gave up.
    pub(super) fn fill_callers_gone(
        &mut self,
        tickets: &BTreeSet<Ticket>,
        now: Time,
        effects: &mut Effects,
    ) {
        if self.fills.callers.waiting() > 0 {
            self.step_fills(now, effects, |fills, step| {
                fills.callers.gone(tickets, step);
            });
        }
    }

    /// Does what is due.
    pub(super) fn fills_due(&mut self, now: Time, effects: &mut Effects) {
        if self.fills.next_wake().is_some_and(|at| at <= now) {
            self.step_fills(now, effects, |fills, step| {
                fills.arbiter.lapse((step.now, step.lease), step.words);
                fills.callers.due(step);
            });
        }
    }

    /// Sends everybody who waits elsewhere: this sidecar leaves.
    pub(super) fn dismiss_fills(&mut self, effects: &mut Effects) {
        for ticket in self.fills.callers.dismiss() {
            let reply = Reply::Refused(Refusal::Draining);
            effects.actions.push(Action::Reply(ticket, reply));
        }
    }

    /// Whether a turn of this run is over. Of other runs' turns nothing is known here.
    pub(super) fn is_superseded(&self, fill: FillId) -> bool {
        fill.origin == self.config.incarnation && !self.fills.callers.holds(fill.number)
    }

    /// How many callers wait for a fill, and how many elections this sidecar arbitrates.
    pub fn fills_open(&self) -> (usize, usize) {
        (self.fills.callers.waiting(), self.fills.arbiter.len())
    }
}

impl Fills {
    fn hear(&mut self, from: Incarnation, key: FillKey, word: FillWord, step: &mut Step<'_>) {
        let at = (step.now, step.lease);
        match word {
            FillWord::Ask => {
                if !self
                    .arbiter
                    .asked(key, from, at, step.waits_max, step.words)
                {
                    step.counters.elections_overfull += 1;
                }
            }
            FillWord::Done { stored } => self.arbiter.done(key, from, stored, at, step.words),
            FillWord::Won | FillWord::Wait { .. } | FillWord::Filled | FillWord::Superseded => {
                self.callers.told(key, from, word, step);
            }
        }
    }
}
