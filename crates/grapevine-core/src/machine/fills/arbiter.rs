//! The arbiter's part: whose turn it is, of the sidecars that asked.
//!
//! A turn goes to a sidecar, which gives it to one of its callers. It ends when that sidecar says so, when a link to it
//! ends, or with the lease; then the next sidecar that asked has it, or, if the value was stored, all of them are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Words;
use crate::fill::{FillKey, FillWord};
use crate::id::{Incarnation, Time};

/// The most elections that one sidecar arbitrates at a time, some 200 bytes each; beyond, whoever asks wins: as much is
/// read from the source as without elections.
pub(super) const ELECTIONS_MAX: usize = 65_536;

/// The elections that this sidecar arbitrates.
#[derive(Clone, Debug, Default)]
pub(super) struct Arbiter {
    elections: BTreeMap<FillKey, Election>,
    ends: BTreeSet<(Time, FillKey)>,
    /// How many sidecars wait, of all elections together.
    waiting: usize,
}

/// One turn and who waits for the next. Each sidecar waits at most once: there are no more of them than members; of all
/// elections together as many as callers may wait. A further one wins at once, as beyond the limit on elections.
#[derive(Clone, Debug)]
struct Election {
    holder: Incarnation,
    until: Time,
    waiting: VecDeque<Incarnation>,
}

impl Election {
    /// A sidecar waits no more; tells how many places that gives back.
    fn no_more(&mut self, from: Incarnation) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != from);
        before - self.waiting.len()
    }
}

impl Arbiter {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.elections.len()
    }

    /// When a turn ends by itself.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// A sidecar asks; tells whether there was room to remember that.
    pub(super) fn asked(
        &mut self,
        key: FillKey,
        from: Incarnation,
        (now, lease): (Time, Duration),
        waits_max: usize,
        words: &mut Words,
    ) -> bool {
        let full = self.elections.len() >= ELECTIONS_MAX;
        match self.elections.get_mut(&key) {
            // It asks again because an answer was lost, or because another arbiter is gone.
            Some(election) if election.holder == from => words.push((from, key, FillWord::Won)),
            Some(election) => {
                if !election.waiting.contains(&from) {
                    if self.waiting >= waits_max {
                        words.push((from, key, FillWord::Won));
                        return false;
                    }
                    election.waiting.push_back(from);
                    self.waiting += 1;
                }
                let left = election.until.since(now);
                words.push((from, key, FillWord::Wait { left }));
            }
            None => {
                words.push((from, key, FillWord::Won));
                if full {
                    return false;
                }
                let until = now.plus(lease);
                let waiting = VecDeque::new();
                let election = Election {
                    holder: from,
                    until,
                    waiting,
                };
                self.elections.insert(key, election);
                self.ends.insert((until, key));
            }
        }
        true
    }

    /// A sidecar's turn has ended.
    pub(super) fn done(
        &mut self,
        key: FillKey,
        from: Incarnation,
        stored: bool,
        (now, lease): (Time, Duration),
        words: &mut Words,
    ) {
        let Some(election) = self.elections.get_mut(&key) else {
            return;
        };
        if stored {
            // In the cache is in the cache, whoever's turn it was.
            self.ends.remove(&(election.until, key));
            if let Some(election) = self.elections.remove(&key) {
                self.waiting -= election.waiting.len();
                let told = election.waiting.into_iter();
                words.extend(told.map(|to| (to, key, FillWord::Filled)));
            }
        } else if election.holder == from {
            self.pass_on(key, (now, lease), words);
        } else {
            self.waiting -= election.no_more(from);
        }
    }

    /// Gives the turn to the next one.
    fn pass_on(&mut self, key: FillKey, (now, lease): (Time, Duration), words: &mut Words) {
        let Some(election) = self.elections.get_mut(&key) else {
            return;
        };
        self.ends.remove(&(election.until, key));
        match election.waiting.pop_front() {
            Some(next) => {
                self.waiting -= 1;
                election.holder = next;
                election.until = now.plus(lease);
                self.ends.insert((election.until, key));
                words.push((next, key, FillWord::Won));
            }
            None => drop(self.elections.remove(&key)),
        }
    }

    /// A link to or from a sidecar ended: it may be gone.
    pub(super) fn gone(
        &mut self,
        peer: Incarnation,
        (now, lease): (Time, Duration),
        words: &mut Words,
    ) {
        let mut held = Vec::new();
        for (key, election) in &mut self.elections {
            self.waiting -= election.no_more(peer);
            if election.holder == peer {
                held.push(*key);
            }
        }
        for key in held {
            self.pass_on(key, (now, lease), words);
        }
    }

    /// Ends the turns whose lease is over.
    pub(super) fn lapse(&mut self, (now, lease): (Time, Duration), words: &mut Words) {
        while let Some(&(until, key)) = self.ends.first()
            && until <= now
        {
            if let Some(election) = self.elections.get(&key) {
                words.push((election.holder, key, FillWord::Superseded));
            }
            self.pass_on(key, (now, lease), words);
        }
    }
}
