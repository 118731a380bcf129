//! The roster: who is a member, agreed by majority, one view after another.
//!
//! A *view* numbers a set of *seats*: node ids, each with the run that holds it. The members of one view decide the next
//! one by a single-decree Paxos: a proposer prepares a ballot at them, proposes what the highest earlier ballot among
//! their promises had accepted, or else its own wish, and the next view is decided once a majority accepted it. Whoever
//! meets a member of a later view is told that view and takes it over whole.
//!
//! What Paxos asks of a member is that it forgets nothing it promised. Disks here may be lost or put back from older
//! copies, one at a time, so a member counts as *sure* only in a view that seats its present run. One that started
//! again *recovers* first: it has so many of the others close all earlier rounds that any decision its disk may have forgotten
//! was accepted by one of them, and takes over what they accepted. Members that started without any memory do not count
//! for that. Any number recover at once: who closes rounds is in the way of proposals, and of nobody else who does. See
//! docs/decisions/0010.
//!
//! The first view is decided by all of those it seats, without a majority to fall back on. It begins a *history*, which
//! every later view continues. Two histories never merge: members of one do not listen to those of another, but a member
//! that is alone in its view gives it up for a roster of more, unless it is the one that it left to go on alone.

mod attempt;
mod machine;
mod retired;

use std::collections::BTreeMap;

use crate::id::Incarnation;
use crate::names::NodeId;

pub use machine::Roster;
pub use retired::{LOT_MAX, Lot, RETIRED_MAX, Retired};

/// A proposal's number: later rounds win, and the proposer's run tells proposals of one round apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    /// The round.
    pub round: u64,
    /// The run that proposes.
    pub by: Incarnation,
}

impl Ballot {
    /// What no proposal is made by, below all of its round: who promises it heeds none of an earlier round.
    pub(crate) const fn closing(round: u64) -> Self {
        let by = Incarnation::FIRST;
        Self { round, by }
    }
}

/// The most seats of a view.
pub const SEATS_MAX: usize = 1_024;

/// The most closed logs that a view names, those that earlier views closed among them: first those that it closes itself.
/// One that finds no room is closed again, by a view that bumps everything, once somebody misses its events for long.
pub const CLOSED_MAX: usize = 256;

/// What a member would like the next view to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// The seats.
    pub seats: BTreeMap<NodeId, Incarnation>,
    /// Whether everything is bumped with it. The first view of a history always does.
    pub bump: bool,
    /// Whether a seat was taken without a bump, and what it shared with one other member may not be with two yet.
    pub spared: bool,
    /// The logs to close, further than they are; if there are any, everything is bumped.
    pub closed: BTreeMap<Incarnation, u64>,
    /// What it retires.
    pub retired: Lot,
}

/// Who the members are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Rising by one from 1, and by more where a run goes on alone in the history that it began; 0 before there is any view.
    pub number: u64,
    /// The history that it continues; `None` before there is any view.
    pub history: Option<Incarnation>,
    /// The latest view that bumped everything: the first one did.
    pub everything: u64,
    /// Whether a seat was taken without a bump in it or shortly before: what that one had acknowledged together with one
    /// other may be on the disk of this other alone.
    pub spared: bool,
    /// The logs that it or an earlier view closed: up to here nobody waits for missing events of these runs any more. Who
    /// closes one or closes it further bumps everything. At most [`CLOSED_MAX`].
    pub closed: BTreeMap<Incarnation, u64>,
    /// What it and earlier views retired.
    pub retired: Retired,
    /// The seats: which run holds each, by node id. At most [`SEATS_MAX`].
    pub seats: BTreeMap<NodeId, Incarnation>,
}

impl View {
    /// How many members decide the next view.
    pub fn majority(&self) -> usize {
        self.seats.len() / 2 + 1
    }

    /// How many others a member has to hear that may have forgotten what it accepted: any majority that it was in has
    /// one of them in it. A lone member has nobody to ask.
    pub fn recovery(&self) -> usize {
        let others = self.seats.len().saturating_sub(1);
        (self.seats.len() + 1 - self.majority().min(self.seats.len())).min(others)
    }

    /// The logs that nobody has to wait for any more. A run that has a seat has what it issued, and whoever misses any of it
    /// asks there.
    pub fn written_off(&self) -> impl Iterator<Item = (Incarnation, u64)> {
        let seated = |run: &Incarnation| self.seats.values().any(|seated| seated == run);
        let closed = self.closed.iter().filter(move |(run, _)| !seated(run));
        closed.map(|(run, end)| (*run, *end))
    }

    /// What is closed once these are, too.
    fn closed_too(&self, mut closed: BTreeMap<Incarnation, u64>) -> BTreeMap<Incarnation, u64> {
        for (run, end) in &self.closed {
            if closed.contains_key(run) || closed.len() < CLOSED_MAX {
                let known = closed.entry(*run).or_insert(*end);
                *known = (*known).max(*end);
            }
        }
        closed
    }

    /// Its place in its history.
    pub fn mark(&self) -> Mark {
        Mark {
            history: self.history,
            number: self.number,
        }
    }

    /// Whether it seats this node and nobody else.
    pub fn is_lone(&self, node: &NodeId) -> bool {
        self.seats.len() == 1 && self.seats.contains_key(node)
    }

    /// Whether a run holds a seat.
    pub fn seats_run(&self, node: &NodeId, run: Incarnation) -> bool {
        self.seats.get(node) == Some(&run)
    }
}

/// The place of a view in its history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Which history; `None` before there is any view.
    pub history: Option<Incarnation>,
    /// The view's number.
    pub number: u64,
}

/// What a member keeps on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The latest view that it knows to be decided.
    pub view: View,
    /// For the view after that: the highest ballot that it promised to.
    pub promised: Option<Ballot>,
    /// And what it accepted last, with its ballot.
    pub accepted: Option<(Ballot, View)>,
    /// Whether it began without a record and has seen no view since: it may have forgotten that it accepted a first one.
    pub blank: bool,
    /// Whether it began without a record, or with an older one than it must have had, and has this view from others, who may not
    /// know the last one, and has been seated in none since.
    pub lent: bool,
    /// The place at which it left the last history that it gave up, while it is in the one that it went to: it does not
    /// go back there, but to a later view.
    pub left: Mark,
}

/// What members say to each other. `number` is that of the view which is to be followed by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// "Promise to heed no lower ballot, and tell what you accepted."
    Prepare {
        /// The view that is to be followed.
        number: u64,
        /// The ballot.
        ballot: Ballot,
        /// Whether it is of one that recovers: nothing will be proposed by it, so it closes what is of an earlier round, and
        /// is answered by a promise in any case.
        recovers: bool,
    },
    /// "I do."
    Promise {
        /// Of the question.
        number: u64,
        /// Of the question.
        ballot: Ballot,
        /// What it accepted last.
        accepted: Option<(Ballot, View)>,
        /// How far its word goes.
        memory: Memory,
        /// To one that recovers: what it has promised to that is not closed by the question.
        above: Option<Ballot>,
        /// The run that promises; `None` from a member before 0.5.
        by: Option<Incarnation>,
        /// To one that proposes: which runs have closed earlier rounds here, to be sure of what their seats promised.
        recovering: BTreeMap<NodeId, Incarnation>,
    },
    /// "Accept this as the next view."
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// The view; its number is one above that of the view which it follows.
        next: View,
    },
    /// "I did."
    Accepted {
        /// Of the view that is to be followed.
        number: u64,
        /// Of the question.
        ballot: Ballot,
    },
    /// "I promised to a higher ballot."
    Refuse {
        /// Of the question.
        number: u64,
        /// That ballot.
        promised: Ballot,
    },
    /// "This view is decided."
    Decided(View),
}

impl Say {
    /// The number of the view that is to be followed, or of the one that is decided.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Prepare { number, .. }
            | Self::Promise { number, .. }
            | Self::Accepted { number, .. }
            | Self::Refuse { number, .. } => *number,
            Self::Accept { next, .. } => next.number.saturating_sub(1),
            Self::Decided(view) => view.number,
        }
    }
}

/// How much a member can be trusted to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// All that its seat ever promised: the view seats this very run, or the run has recovered.
    Sure,
    /// What its disk holds, which may be an older copy.
    Disk,
    /// Nothing: it started without a record and knows no view.
    None,
}

/// What came of an input: keep this first, then say that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// To be durable before anything in `say` leaves; `None` when nothing changed.
    pub keep: Option<Record>,
    /// What to say to whom; also to this member itself, as if it came from the network.
    pub say: Vec<(NodeId, Say)>,
    /// Whether that rests on what is being kept already, though nothing is to be kept now: it leaves behind that, too.
    pub after_kept: bool,
    /// Whether a later view was taken over.
    pub adopted: bool,
}
