//! What the machine answers.

use std::time::Duration;

use super::{FillOutcome, LeafTurn, PeerHello, ReceiptLevel, Refusal};
use crate::id::{EventId, Incarnation};
use crate::intent::IntentId;
use crate::lease::Lease;
use crate::names::{Address, ClassPath, NodeId};
use crate::token::Token;

/// What became of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be stored, with this token in its envelope.
    Accepted(Token),
    /// It must not be stored.
    Condemned(CondemnReason),
}

/// Why a fill or registration was condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CondemnReason {
    /// A class, an ancestor or a floor changed since the stamp.
    Bumped,
    /// The lease ended, or is not of this run.
    LeaseUnknown,
    /// The turn that the caller had won is over: another caller fills.
    Superseded,
    /// A class is of a shape that is not known here yet: changes of rows may have missed it.
    ShapeUnknown,
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To [`Input::Invalidate`](super::Input::Invalidate) and [`Input::CommitWrite`](super::Input::CommitWrite).
    Invalidated {
        /// The event.
        event: EventId,
        /// Who has it.
        receipt: Receipt,
        /// Up to which position local tables have been told of it; 0 if there are none.
        position: u64,
    },
    /// To any call: nothing was done.
    Refused(Refusal),
    /// To [`Input::BeginWrite`](super::Input::BeginWrite): it is durable here and, where there are peers, at one of them.
    Begun {
        /// Its name.
        intent: IntentId,
        /// The lease, counted from when the application made the call.
        lease: Duration,
    },
    /// To [`Input::AbortWrite`](super::Input::AbortWrite).
    Aborted(AbortOutcome),
    /// To [`Input::Register`](super::Input::Register): one verdict per item, in order.
    Registered(Vec<Verdict>),
    /// To [`Input::AcquireFill`](super::Input::AcquireFill).
    Fill(FillTurn),
    /// To [`Input::LoadLeaf`](super::Input::LoadLeaf).
    LeafTurn(LeafTurn),
    /// To [`Input::FillLeaf`](super::Input::FillLeaf).
    LeafFilled(FillOutcome),
    /// To [`Input::PruneLeaf`](super::Input::PruneLeaf): how many members were removed here.
    Pruned(usize),
    /// To [`Input::OpenTable`](super::Input::OpenTable): it is told of whatever is applied from now on.
    TableOpened {
        /// The position of the last notice before.
        position: u64,
    },
    /// To [`Input::Forget`](super::Input::Forget): it is being agreed on, or, without a majority, this sidecar goes on alone.
    Forgotten {
        /// Whether it goes on alone.
        alone: bool,
    },
}

/// What asking for a turn to fill came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillTurn {
    /// Fill it. Without a number nobody was asked, for want of room: others may fill it too.
    Won {
        /// The turn's number at this run, to be ended by [`Input::EndFill`](super::Input::EndFill).
        fill: Option<u64>,
    },
    /// Another caller has stored it.
    Filled,
    /// Another caller fills it still, or too many wait.
    Retry {
        /// When to try again.
        after: Duration,
    },
}

/// What an abort came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortOutcome {
    /// It came in time: nothing was bumped, and nothing will be.
    InTime,
    /// The intent had ended in this bump.
    Bumped(EventId),
    /// This sidecar does not know the intent: its classes may have been bumped, or will be when it ends.
    Unknown,
}

/// Who has an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What was asked for.
    pub level: ReceiptLevel,
    /// Whether it was reached.
    pub satisfied: bool,
    /// One row per member, this sidecar first.
    pub holders: Vec<Holder>,
}

/// One row of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub node_id: NodeId,
    /// The incarnation that the row speaks of.
    pub incarnation: Incarnation,
    /// Its standing.
    pub state: HolderState,
}

/// A sidecar's standing towards an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderState {
    /// Flushed and applied there, and no table of its clients serves what the event made stale.
    Has,
    /// Flushed there; a table of one of its clients may serve what the event made stale still.
    Flushed,
    /// Not acknowledged; it may still serve old data.
    HasNot,
    /// Not acknowledged, but it cannot call itself fresh without it.
    CannotServe,
}

/// What a resolve is about.
#[derive(Clone, Debug)]
pub struct Query {
    /// The application's address.
    pub address: Address,
    /// Its classes, the governing one first; 1 to 16.
    pub classes: Vec<ClassPath>,
    /// Set for a slice.
    pub slice: Option<crate::address::Slice>,
}

/// The answer to a resolve.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The addresses to use.
    pub targets: Vec<crate::address::Target>,
    /// The token of the classes.
    pub token: Token,
    /// The fill lease.
    pub lease: Lease,
    /// How long the lease holds.
    pub lease_duration: Duration,
    /// The strategy.
    pub strategy: crate::policy::Strategy,
    /// How long a value stored now may live.
    pub ttl: Duration,
    /// Read the source and store nothing.
    pub bypass: bool,
    /// That is so, if for nothing else, because a class is of a shape that is not known here:
    /// [`Input::MeetShapes`](super::Input::MeetShapes) is called for.
    pub new_shape: bool,
    /// Ask for a turn before filling.
    pub elect: bool,
    /// What may be served instead while it is filled, most recent first; at most two.
    pub stale: Vec<Stale>,
    /// What a fill must heed.
    pub filling: Filling,
}

/// What a fill must heed of where it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Nothing.
    Free,
    /// Its source may lag behind the last bump: it reads the primary.
    Primary,
    /// The caller's database snapshot, or its lagging source, does not show what is current: nothing that it computes may be
    /// stored.
    Forbidden,
}

/// A value that soft bumps alone have replaced, and policy lets be served still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The token that it carries.
    pub token: Token,
    /// Its cache address.
    pub address: Address,
}

impl Resolution {
    /// Whether values at the address are wrapped in an envelope.
    pub fn envelope(&self) -> bool {
        self.strategy != crate::policy::Strategy::Versioned
    }

    /// Whether a value may be stored only after a commit.
    pub fn commit_required(&self) -> bool {
        self.strategy == crate::policy::Strategy::Registered || self.elect
    }
}

/// What a sidecar can show of its own knowledge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// All of it.
    Fresh,
    /// It started and has not learned what it missed.
    CatchingUp(String),
    /// A member has not been heard from.
    Unknown(String),
}

/// A member as this sidecar sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// What it said of itself.
    pub hello: PeerHello,
    /// Whether it is linked and not suspected.
    pub alive: bool,
    /// How long it has been silent.
    pub silent: Duration,
    /// What is left of its grant.
    pub grant_left: Duration,
    /// Its bump lane's head.
    pub head: u64,
    /// What of that is applied here.
    pub watermark: u64,
    /// How many of its bumps are known to exist and not applied here.
    pub missing: u64,
    /// How many flushed bumps of this sidecar it has not said to have on disk.
    pub unacknowledged: u64,
}
