//! One member's part in deciding views: acceptor always, proposer when asked to.

use std::collections::BTreeMap;

use super::attempt::{Attempt, Goal, Promised};
use super::{Ballot, Draft, Mark, Memory, Outcome, Record, Retired, Say, View};
use crate::id::Incarnation;
use crate::names::NodeId;

/// One member.
#[derive(Clone, Debug)]
pub struct Roster {
    node: NodeId,
    run: Incarnation,
    record: Record,
    memory: Memory,
    attempt: Option<Attempt>,
    /// The highest round heard of.
    round: u64,
    /// Which runs have had this one close earlier rounds, in the present view. The next run of this member knows nothing of that, and need
    /// not: who asked this one for a promise before asks the next one by another ballot.
    recovering: BTreeMap<NodeId, Incarnation>,
}

impl Roster {
    /// A run of a node that starts with what its disk held.
    pub fn start(node: NodeId, run: Incarnation, record: Option<Record>) -> Self {
        let record = record.unwrap_or(Record {
            blank: true,
            ..Record::default()
        });
        let memory = if record.blank {
            Memory::None
        } else {
            Memory::Disk
        };
        Self {
            node,
            run,
            record,
            memory,
            attempt: None,
            round: 0,
            recovering: BTreeMap::new(),
        }
    }

    /// The latest view known to be decided; number 0 before there is one.
    pub fn view(&self) -> &View {
        &self.record.view
    }

    /// Whether its view is from others, for it began without a record or with one from before a view of which its node was the
    /// only member, and it has been seated in none since.
    pub fn is_lent(&self) -> bool {
        self.record.lent
    }

    /// How far this member's word goes in the present view.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Whether this run holds a seat.
    pub fn seated(&self) -> bool {
        self.record.view.seats_run(&self.node, self.run)
    }

    /// What this member accepted as the next view, if it is not known to be decided.
    pub fn accepted_next(&self) -> Option<&View> {
        self.record.accepted.as_ref().map(|(_, view)| view)
    }

    /// Whether an attempt of this member is under way.
    pub fn is_trying(&self) -> bool {
        self.attempt.is_some()
    }

    /// Has a view follow the present one; another attempt of this member is given up.
    pub fn propose(&mut self, draft: Draft) -> Outcome {
        let Draft {
            seats,
            bump,
            spared,
            closed,
            retired,
        } = draft;
        let view = &self.record.view;
        let number = view.number + 1;
        let history = view.history.unwrap_or(self.run.as_history());
        let further = |(run, end): (&Incarnation, &u64)| view.closed.get(run) < Some(end);
        let bump = bump || closed.iter().any(further) || view.number == 0;
        let everything = if bump { number } else { view.everything };
        let closed = view.closed_too(closed);
        self.attempt_at(Goal::Next(View {
            number,
            history: Some(history),
            everything,
            spared: spared && !bump,
            closed,
            retired: view.retired.with(&retired, number),
            seats,
        }))
    }

    /// Follows another history. What this member promised in its own is of no use any more: for that one it is gone.
    pub fn defect(&mut self, view: View) -> Outcome {
        if view.number == 0 || view.history.is_none() {
            return Outcome::default();
        }
        self.decided(view)
    }

    /// Has a history of this member alone begin, whatever the others of its view say: an operator vouches for it that
    /// they are gone. `history`: one that nobody has heard of yet, for its first view bumps everything where that is news,
    /// and a member that comes back tells by it that this one went on without it.
    pub fn secede(&mut self, history: Incarnation) -> Outcome {
        self.decided(View {
            number: 1,
            history: Some(history),
            everything: 1,
            spared: false,
            closed: BTreeMap::new(),
            retired: Retired::default(),
            seats: BTreeMap::from([(self.node.clone(), self.run)]),
        })
    }

    /// Sets out to be sure of what this member's seat promised. Nothing comes of it unless its disk holds a record.
    pub fn recover(&mut self) -> Outcome {
        if self.memory == Memory::Sure || !self.record.view.seats.contains_key(&self.node) {
            return Outcome::default();
        }
        if self.record.view.recovery() == 0 {
            // Alone, it can only believe its disk.
            self.memory = Memory::Sure;
            return Outcome::default();
        }
        self.attempt_at(Goal::Recover { later: false })
    }

    /// Takes what another member, or this one itself, said of its view's history.
    pub fn heard(&mut self, from: &NodeId, history: Option<Incarnation>, say: Say) -> Outcome {
        if let Say::Decided(view) = say {
            return self.told(from, view);
        }
        let number = say.number();
        let own = self.record.view.mark();
        let other_history = history != own.history && own.number > 0 && number > 0;
        if number < own.number || other_history {
            let told = Say::Decided(self.record.view.clone());
            return Outcome {
                say: vec![(from.clone(), told)],
                ..Outcome::default()
            };
        }
        if number > self.record.view.number {
            // It will be told that view by whoever it answers next.
            return Outcome::default();
        }
        if !self.has_a_say(from) {
            // It may be told the view, and be given a seat. Its word counts for nothing, and costs no round. A later run of
            // a node with a seat is another matter: it recovers, and is Sure then.
            return Outcome::default();
        }
        match say {
            Say::Prepare {
                ballot, recovers, ..
            } => self.prepare(from, ballot, recovers),
            Say::Promise {
                ballot,
                accepted,
                memory,
                above,
                by,
                recovering,
                ..
            } => {
                let promised = Promised {
                    memory,
                    accepted,
                    above,
                    by,
                };
                self.promise(from, ballot, promised, recovering)
            }
            Say::Accept { ballot, next } => self.accept(from, ballot, next),
            Say::Accepted { ballot, .. } => self.accepted(from, ballot),
            Say::Refuse { promised, .. } => {
                self.round = self.round.max(promised.round);
                let needed = self.record.view.recovery();
                self.attempt
                    .take_if(|it| it.ballot < promised && it.fails_without(from, needed));
                Outcome::default()
            }
            Say::Decided(_) => unreachable!("invariant: taken above"),
        }
    }

    fn attempt_at(&mut self, goal: Goal) -> Outcome {
        let promised = self.record.promised.map_or(0, |ballot| ballot.round);
        self.round = self.round.max(promised) + 1;
        let (round, by) = (self.round, self.run);
        let (number, ballot) = (self.record.view.number, Ballot { round, by });
        let asked: Vec<NodeId> = match &goal {
            Goal::Next(next) if number == 0 => next.seats.keys().cloned().collect(),
            Goal::Next(_) => self.record.view.seats.keys().cloned().collect(),
            Goal::Recover { .. } => self.others(),
        };
        let recovers = matches!(goal, Goal::Recover { .. });
        self.attempt = Some(Attempt::new(ballot, goal, &asked));
        Outcome {
            say: asked
                .into_iter()
                .map(|node| {
                    let prepare = Say::Prepare {
                        number,
                        ballot,
                        recovers,
                    };
                    (node, prepare)
                })
                .collect(),
            ..Outcome::default()
        }
    }

    fn others(&self) -> Vec<NodeId> {
        let seats = self.record.view.seats.keys();
        seats.filter(|node| **node != self.node).cloned().collect()
    }

    /// Whether a node has a say in what follows the present view: it has a seat there, or there is no view yet.
    fn has_a_say(&self, node: &NodeId) -> bool {
        self.record.view.number == 0 || self.record.view.seats.contains_key(node)
    }

    fn prepare(&mut self, from: &NodeId, ballot: Ballot, recovers: bool) -> Outcome {
        self.round = self.round.max(ballot.round);
        if !self.has_a_say(&self.node) {
            return Outcome::default();
        }
        let number = self.record.view.number;
        // Who recovers proposes nothing: earlier rounds are closed for it, which is the same for all who ask that.
        let asked = if recovers {
            Ballot::closing(ballot.round)
        } else {
            ballot
        };
        let above = self.record.promised.filter(|promised| *promised > asked);
        if let Some(promised) = above.filter(|_| !recovers) {
            return answer(from, Say::Refuse { number, promised });
        }
        let recovering = if recovers {
            self.recovering.insert(from.clone(), ballot.by);
            BTreeMap::new()
        } else {
            self.recovering.clone()
        };
        let promise = Say::Promise {
            number,
            ballot,
            accepted: self.record.accepted.clone(),
            memory: self.memory,
            above,
            by: Some(self.run),
            recovering,
        };
        let answer = answer(from, promise);
        if self.record.promised >= Some(asked) {
            let after_kept = true;
            return Outcome {
                after_kept,
                ..answer
            };
        }
        self.record.promised = Some(asked);
        self.kept(answer)
    }

    fn promise(
        &mut self,
        from: &NodeId,
        ballot: Ballot,
        promised: Promised,
        recovering: BTreeMap<NodeId, Incarnation>,
    ) -> Outcome {
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.ballot == ballot) else {
            return Outcome::default();
        };
        attempt.promised(from, promised, recovering);
        match &attempt.goal {
            Goal::Recover { later } => {
                let later = *later;
                self.recovered(later)
            }
            Goal::Next(_) => self.prepared(),
        }
    }

    /// Enough promises: proposes.
    fn prepared(&mut self) -> Outcome {
        let view = &self.record.view;
        let Some(attempt) = self.attempt.as_mut() else {
            return Outcome::default();
        };
        let Goal::Next(wish) = &attempt.goal else {
            return Outcome::default();
        };
        let (next, asked) = if view.number == 0 {
            if attempt.promises(|_| true) < wish.seats.len() {
                return Outcome::default();
            }
            let next = attempt.highest_possible_first().unwrap_or(wish).clone();
            let asked = next.seats.keys().cloned().collect();
            (next, asked)
        } else {
            if attempt.promises(|memory| memory == Memory::Sure) < view.majority() {
                return Outcome::default();
            }
            let next = attempt.highest_accepted().map_or(wish, |(_, view)| view);
            (next.clone(), view.seats.keys().cloned().collect::<Vec<_>>())
        };
        if !attempt.propose(next.clone(), &asked) {
            return Outcome::default();
        }
        let ballot = attempt.ballot;
        let ask = |node| {
            let next = next.clone();
            (node, Say::Accept { ballot, next })
        };
        Outcome {
            say: asked.into_iter().map(ask).collect(),
            ..Outcome::default()
        }
    }

    /// Enough of the others promised: nothing that this member's seat accepted can be unknown to all of them, nor be
    /// decided by an earlier round any more.
    ///
    /// What the seat accepted was promised by a majority before, so one of them tells of that ballot, or of a later one. If the question
    /// does not close it, it is asked once more, of a later round. What is promised in between is of no concern: the
    /// seat's former runs had nothing to do with it.
    fn recovered(&mut self, later: bool) -> Outcome {
        let needed = self.record.view.recovery();
        let enough =
            |attempt: &Attempt| attempt.promises(|memory| memory != Memory::None) >= needed;
        let Some(attempt) = self.attempt.take_if(|attempt| enough(attempt)) else {
            return Outcome::default();
        };
        let above = attempt.highest_above();
        if let Some(above) = above.filter(|_| !later) {
            self.round = self.round.max(above.round);
            return self.attempt_at(Goal::Recover { later: true });
        }
        let theirs = attempt.highest_accepted().cloned();
        self.record.lent |= theirs.as_ref().is_some_and(|(_, view)| self.forgot(view));
        let own = self.record.accepted.take();
        self.record.accepted = [own, theirs]
            .into_iter()
            .flatten()
            .max_by_key(|(ballot, _)| *ballot);
        let closes = Ballot::closing(attempt.ballot.round);
        self.record.promised = self.record.promised.max(above).max(Some(closes));
        self.memory = Memory::Sure;
        self.kept(Outcome::default())
    }

    fn accept(&mut self, from: &NodeId, ballot: Ballot, next: View) -> Outcome {
        self.round = self.round.max(ballot.round);
        let number = self.record.view.number;
        if let Some(promised) = self.record.promised.filter(|promised| *promised > ballot) {
            return answer(from, Say::Refuse { number, promised });
        }
        let may = if number == 0 {
            next.seats.contains_key(&self.node)
        } else {
            self.has_a_say(&self.node) && self.memory == Memory::Sure
        };
        if !may {
            return Outcome::default();
        }
        self.record.promised = Some(ballot);
        self.record.lent |= self.forgot(&next);
        self.record.accepted = Some((ballot, next));
        self.kept(answer(from, Say::Accepted { number, ballot }))
    }

    fn accepted(&mut self, from: &NodeId, ballot: Ballot) -> Outcome {
        let view = &self.record.view;
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.ballot == ballot) else {
            return Outcome::default();
        };
        let Some((next, count)) = attempt.accepted(from) else {
            return Outcome::default();
        };
        let needed = if view.number == 0 {
            next.seats.len()
        } else {
            view.majority()
        };
        if count < needed {
            return Outcome::default();
        }
        let next = next.clone();
        let mut told: Vec<NodeId> = view
            .seats
            .keys()
            .chain(next.seats.keys())
            .cloned()
            .collect();
        told.sort_unstable();
        told.dedup();
        let mut outcome = self.decided(next.clone());
        let others = told.into_iter().filter(|node| *node != self.node);
        outcome.say = others
            .map(|node| (node, Say::Decided(next.clone())))
            .collect();
        outcome
    }

    /// A view is said to be decided. One of another history counts only for a member that has none, or is alone in its
    /// own: then the one with others in it wins, and of two lone ones the one with the lower name. Who left a history
    /// follows it only where it went on since: what an operator had it leave would come back with any member else.
    ///
    /// Whose node has a seat neither in that view nor in the present one is not believed. It has nothing to say about either,
    /// and those who have tell it themselves: who has no seat has been told by one of them.
    fn told(&mut self, from: &NodeId, view: View) -> Outcome {
        let own = &self.record.view;
        // A view in which nobody but this node has a seat is told by anybody to who has none: its only member has lost its
        // disk, and those who wait for a seat are all that still know of it.
        let forgot = own.number == 0 && view.is_lone(&self.node);
        if !view.seats.contains_key(from) && !own.seats.contains_key(from) && !forgot {
            return Outcome::default();
        }
        let follows = if own.number == 0 || view.history == own.history {
            view.number > own.number
        } else {
            let Mark { history, number } = self.record.left;
            let left = view.history == history && view.number <= number;
            let more = view.seats.len() > 1 || view.history < own.history;
            own.is_lone(&self.node) && more && !left
        };
        if follows && view.number > 0 && view.history.is_some() {
            self.decided(view)
        } else {
            Outcome::default()
        }
    }

    /// Takes a later view over: what was promised and accepted for an earlier one is of no use any more.
    fn decided(&mut self, view: View) -> Outcome {
        self.attempt = None;
        self.recovering.clear();
        let own = self.record.view.mark();
        let other = own.number > 0 && own.history != view.history;
        let left = if other { own } else { self.record.left };
        let unseated = !view.seats_run(&self.node, self.run);
        let forgot = self.record.blank || self.record.lent || self.forgot(&view);
        self.record = Record {
            lent: unseated && forgot,
            view,
            left,
            ..Record::default()
        };
        // This run has promised nothing for what follows this view, and no earlier one of its seat has, if it is seated.
        // Where it comes back to a history in which it had a seat, it may have, and has forgotten it.
        self.memory = if self.seated() && (!other || self.is_lone()) {
            Memory::Sure
        } else {
            Memory::Disk
        };
        let mut outcome = self.kept(Outcome::default());
        outcome.adopted = true;
        outcome
    }

    /// Whether a view that comes from others shows that this node's disk may be an older copy: its only member is an earlier run of
    /// this node, and the disk knows nothing of that. Then it may not be that run's last view either. (Or the others left
    /// together while this node was down, and it was never told. That cannot be told from the former.)
    fn forgot(&self, view: &View) -> bool {
        let earlier = view.is_lone(&self.node) && !view.seats_run(&self.node, self.run);
        earlier && self.accepted_next() != Some(view)
    }

    fn is_lone(&self) -> bool {
        self.record.view.is_lone(&self.node)
    }

    fn kept(&self, outcome: Outcome) -> Outcome {
        Outcome {
            keep: Some(self.record.clone()),
            ..outcome
        }
    }
}

fn answer(to: &NodeId, say: Say) -> Outcome {
    Outcome {
        say: vec![(to.clone(), say)],
        ..Outcome::default()
    }
}
