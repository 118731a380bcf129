//! A proposer's own state: one ballot from its question to its decision. Lost with the process, which harms nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ballot, Memory, View};
use crate::id::Incarnation;
use crate::names::NodeId;

/// What an attempt is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// To have this view follow the present one.
    Next(View),
    /// To be sure again of what this member's seat promised.
    Recover {
        /// Whether the ballot is of a later round than whatever so many had promised to when they were asked first, and so of a later one than
        /// whatever this member's seat can have accepted.
        later: bool,
    },
}

/// One ballot.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ballot: Ballot,
    pub(super) goal: Goal,
    /// Whose answers count: by node id, what each promised with, once it has.
    promises: BTreeMap<NodeId, Option<Promised>>,
    /// Which runs have recovered, or tried to, as those who promised know.
    recovering: BTreeMap<NodeId, BTreeSet<Incarnation>>,
    /// Who has promised a higher ballot.
    refused: BTreeSet<NodeId>,
    /// What was proposed, and of those asked who accepted it.
    proposed: Option<(View, BTreeMap<NodeId, bool>)>,
}

/// What somebody promised with.
#[derive(Clone, Debug)]
pub(super) struct Promised {
    /// How much it remembers.
    pub(super) memory: Memory,
    /// What it had accepted.
    pub(super) accepted: Option<(Ballot, View)>,
    /// What it had promised to that the ballot does not close.
    pub(super) above: Option<Ballot>,
    /// Which run promised.
    pub(super) by: Option<Incarnation>,
}

impl Attempt {
    pub(super) fn new(ballot: Ballot, goal: Goal, asked: &[NodeId]) -> Self {
        Self {
            ballot,
            goal,
            promises: asked.iter().map(|node| (node.clone(), None)).collect(),
            recovering: BTreeMap::new(),
            refused: BTreeSet::new(),
            proposed: None,
        }
    }

    /// Notes a promise, of somebody who was asked.
    pub(super) fn promised(
        &mut self,
        from: &NodeId,
        promised: Promised,
        recovering: BTreeMap<NodeId, Incarnation>,
    ) {
        if let Some(promise) = self.promises.get_mut(from) {
            *promise = Some(promised);
            for (node, run) in recovering {
                self.recovering.entry(node).or_default().insert(run);
            }
        }
    }

    /// Notes that one who was asked has promised a higher ballot, and tells whether nothing can come of this one any more. Who sets out to
    /// be sure needs the word of so many others and nobody's in particular, and only members before 0.5 refuse it.
    pub(super) fn fails_without(&mut self, from: &NodeId, needed: usize) -> bool {
        if matches!(self.goal, Goal::Next(_)) {
            return true;
        }
        if self.promises.contains_key(from) {
            self.refused.insert(from.clone());
        }
        self.promises.len() - self.refused.len() < needed
    }

    /// How many promises carry at least so much memory, and are of runs that are not over.
    ///
    /// A run that recovers does not know what its seat's earlier runs have promised to whom it did not ask, and votes for lower ballots.
    /// So what those promised counts no more once anybody who promised this ballot tells of it, and of any majority with that seat in it
    /// somebody does: it let the run recover before, or else the run had heard of this ballot.
    pub(super) fn promises(&self, counts: impl Fn(Memory) -> bool) -> usize {
        let lasts = |node: &NodeId, by: Option<Incarnation>| {
            let runs = self.recovering.get(node);
            runs.is_none_or(|runs| runs.iter().all(|run| Some(*run) == by))
        };
        let given = self.promises.iter();
        let given = given.filter_map(|(node, promise)| Some((node, promise.as_ref()?)));
        given
            .filter(|(node, promise)| counts(promise.memory) && lasts(node, promise.by))
            .count()
    }

    /// The highest ballot that any of them had promised to and that this one does not close.
    pub(super) fn highest_above(&self) -> Option<Ballot> {
        let promises = self.promises.values().flatten();
        promises.filter_map(|promise| promise.above).max()
    }

    /// The view of the highest ballot that anybody who promised has accepted.
    pub(super) fn highest_accepted(&self) -> Option<&(Ballot, View)> {
        let promises = self.promises.values().flatten();
        let accepted = promises.filter_map(|promise| promise.accepted.as_ref());
        accepted.max_by_key(|(ballot, _)| *ballot)
    }

    /// For the first view, which only all of its seats together can decide: the accepted view that may have been decided. By
    /// a ballot that somebody seated there did not accept it cannot have been, but perhaps by an earlier one, whose view later
    /// ballots have proposed again.
    pub(super) fn highest_possible_first(&self) -> Option<&View> {
        let promises = self.promises.values().flatten();
        let mut accepted = promises.filter_map(|promise| promise.accepted.as_ref());
        let possible = accepted.any(|(ballot, view)| self.may_be_decided(*ballot, view));
        let highest = self.highest_accepted().map(|(_, view)| view);
        highest.filter(|_| possible)
    }

    /// Whether all seats of a first view may have accepted it by this ballot.
    fn may_be_decided(&self, ballot: Ballot, view: &View) -> bool {
        let may_have_accepted = |node: &NodeId| {
            let promise = self.promises.get(node).and_then(Option::as_ref);
            // Of one that has not answered nothing is known, and one without memory may have forgotten.
            promise.is_none_or(|promise| match &promise.accepted {
                Some((other, _)) => *other >= ballot,
                None => promise.memory == Memory::None,
            })
        };
        view.seats.keys().all(may_have_accepted)
    }

    /// Notes what is proposed to whom; `false` if something was already.
    pub(super) fn propose(&mut self, view: View, asked: &[NodeId]) -> bool {
        let first = self.proposed.is_none();
        let none_yet = || asked.iter().map(|node| (node.clone(), false)).collect();
        self.proposed.get_or_insert_with(|| (view, none_yet()));
        first
    }

    /// Notes who accepted; tells the proposal and how many did.
    pub(super) fn accepted(&mut self, from: &NodeId) -> Option<(&View, usize)> {
        let (view, by) = self.proposed.as_mut()?;
        *by.get_mut(from)? = true;
        Some((view, by.values().filter(|accepted| **accepted).count()))
    }
}
