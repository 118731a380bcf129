//! A proposer's own state: one ballot from its question to its decision. Lost with the process, which harms nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ballot, Memory, View};
use crate::names::NodeId;

/// What an attempt is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// To have this view follow the present one.
    Next(View),
    /// To be sure again of what this member's seat promised.
    Recover,
}

/// One ballot.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ballot: Ballot,
    pub(super) goal: Goal,
    /// Whose answers count: by node id, what each promised with, once it has.
    promises: BTreeMap<NodeId, Option<Promised>>,
    /// Who has promised a higher ballot.
    refused: BTreeSet<NodeId>,
    /// What was proposed, and of those asked who accepted it.
    proposed: Option<(View, BTreeMap<NodeId, bool>)>,
}

/// How much who promised remembers, and what it had accepted.
type Promised = (Memory, Option<(Ballot, View)>);

impl Attempt {
    pub(super) fn new(ballot: Ballot, goal: Goal, asked: &[NodeId]) -> Self {
        Self {
            ballot,
            goal,
            promises: asked.iter().map(|node| (node.clone(), None)).collect(),
            refused: BTreeSet::new(),
            proposed: None,
        }
    }

    /// Notes a promise, of somebody who was asked.
    pub(super) fn promised(
        &mut self,
        from: &NodeId,
        memory: Memory,
        accepted: Option<(Ballot, View)>,
    ) {
        if let Some(promise) = self.promises.get_mut(from) {
            *promise = Some((memory, accepted));
        }
    }

    /// Notes that one who was asked has promised a higher ballot, and tells whether nothing can come of this one any more. Who sets out to
    /// be sure needs the word of so many others and nobody's in particular: where many start at once, ballots that each end at the first
    /// refusal all end, but for the highest.
    pub(super) fn fails_without(&mut self, from: &NodeId, needed: usize) -> bool {
        if self.goal != Goal::Recover {
            return true;
        }
        if self.promises.contains_key(from) {
            self.refused.insert(from.clone());
        }
        self.promises.len() - self.refused.len() < needed
    }

    /// How many promises carry at least so much memory.
    pub(super) fn promises(&self, counts: impl Fn(Memory) -> bool) -> usize {
        let promises = self.promises.values().flatten();
        promises.filter(|(memory, _)| counts(*memory)).count()
    }

    /// The view of the highest ballot that anybody who promised has accepted.
    pub(super) fn highest_accepted(&self) -> Option<&(Ballot, View)> {
        let promises = self.promises.values().flatten();
        let accepted = promises.filter_map(|(_, accepted)| accepted.as_ref());
        accepted.max_by_key(|(ballot, _)| *ballot)
    }

    /// For the first view, which only all of its seats together can decide: the accepted view that may have been decided. By
    /// a ballot that somebody seated there did not accept it cannot have been, but perhaps by an earlier one, whose view later
    /// ballots have proposed again.
    pub(super) fn highest_possible_first(&self) -> Option<&View> {
        let promises = self.promises.values().flatten();
        let mut accepted = promises.filter_map(|(_, accepted)| accepted.as_ref());
        let possible = accepted.any(|(ballot, view)| self.may_be_decided(*ballot, view));
        let highest = self.highest_accepted().map(|(_, view)| view);
        highest.filter(|_| possible)
    }

    /// Whether all seats of a first view may have accepted it by this ballot.
    fn may_be_decided(&self, ballot: Ballot, view: &View) -> bool {
        let may_have_accepted = |node: &NodeId| match self.promises.get(node) {
            Some(Some((_, Some((other, _))))) => *other >= ballot,
            Some(Some((Memory::Sure | Memory::Disk, None))) => false,
            // Unknown, or it may have forgotten.
            Some(Some((Memory::None, None)) | None) | None => true,
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
