//! What goes into the machine and what comes out of it.
//!
//! Effects carry their order. `writes` are to be committed and flushed as one group (the loop may join the groups of
//! several calls, in order), and the flush is told back as [`Input::Flushed`]. `actions` may be carried out at once:
//! whatever depends on a write is only emitted in answer to its flush.

mod answer;
mod counters;
mod input;
mod leaf;
mod peer;
mod refusal;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use answer::{
    AbortOutcome, CondemnReason, FillTurn, Filling, Freshness, Holder, HolderState, MemberView,
    Query, Receipt, Reply, Resolution, Stale, Verdict,
};
pub use counters::Counters;
pub use input::{
    Announced, BeginWrite, Forget, Input, Invalidate, LeaseClaim, Purpose, ReceiptLevel,
    RegisterItem, RowsChange, Side, SnapshotClaim, TableWord, Written,
};
pub use leaf::{FillOutcome, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LoadId, Prune};
pub use peer::{PeerHello, PeerMessage, Sighting, Span};
pub use refusal::Refusal;

use crate::event::{BumpEvent, PurgeMode};
use crate::id::{EventId, Incarnation, Lane, UnixSeconds};
use crate::names::Address;
use crate::progress::OriginHead;
use crate::store::Write;
use crate::table::{Notice, TableId, TableLease};
use crate::vector::VersionVector;

/// Names a call that waits for a reply; chosen by the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a group of writes; rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub u64);

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// To be committed and flushed, in order.
    pub writes: Vec<Write>,
    /// The name of the last group in `writes`. Also set without any: something waits for the flush of what went before.
    pub commit: Option<CommitId>,
    /// To be carried out at once, in order.
    pub actions: Vec<Action>,
}

impl Effects {
    /// Drops what is to be said to peers.
    pub(super) fn fall_silent(&mut self) {
        let said = |action: &Action| matches!(action, Action::Send { .. } | Action::Broadcast(_));
        self.actions.retain(|action| !said(action));
    }

    pub(crate) fn send(&mut self, to: Incarnation, message: PeerMessage) {
        self.actions.push(Action::Send { to, message });
    }
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Say something to one peer, if there is a link.
    Send {
        /// To whom.
        to: Incarnation,
        /// What.
        message: PeerMessage,
    },
    /// Say something to every peer with a link.
    Broadcast(PeerMessage),
    /// Answer a call.
    Reply(Ticket, Reply),
    /// An event was applied: tell watchers, and whoever waits for it.
    Applied(EventId, Arc<BumpEvent>),
    /// A state was adopted whole: watchers must treat everything as changed.
    Resync,
    /// Tell every table that is open, behind all that was told it before. `event` is what it is about, if that is one.
    Notice {
        /// Its number: tables acknowledge it.
        position: u64,
        /// What changed.
        notice: Notice,
        /// By which event.
        event: Option<EventId>,
    },
    /// Give one table a lease, behind all that was told it before.
    Lease(TableId, TableLease),
    /// End a table's stream: it was silent about a notice for too long.
    EndTable(TableId),
    /// Delete addresses of condemned registrations from the caches.
    Purge {
        /// Which.
        addresses: Vec<Address>,
        /// When the last of their values has ended by itself.
        expires: UnixSeconds,
        /// How.
        mode: PurgeMode,
    },
    /// Read the log and send it, or say that it is compacted.
    ServeLog {
        /// To whom.
        to: Incarnation,
        /// Whose events.
        origin: Incarnation,
        /// Of which lane.
        lane: Lane,
        /// From here.
        first: u64,
        /// To here.
        last: u64,
    },
    /// Send a snapshot of what is stored.
    ServeSnapshot {
        /// To whom.
        to: Incarnation,
        /// The requester's name for it.
        id: u64,
        /// The cut to announce first.
        cut: Vec<OriginHead>,
    },
    /// This process must end, for this reason.
    Stop(String),
}

/// The vectors of both lanes as heads.
pub(crate) fn as_heads(bump: &VersionVector, directory: &VersionVector) -> Vec<OriginHead> {
    let mut heads: BTreeMap<Incarnation, (u64, u64)> = BTreeMap::new();
    for (origin, sequence) in bump.iter() {
        heads.entry(origin).or_default().0 = sequence;
    }
    for (origin, sequence) in directory.iter() {
        heads.entry(origin).or_default().1 = sequence;
    }
    heads
        .into_iter()
        .map(|(incarnation, (bump, directory))| OriginHead {
            incarnation,
            bump,
            directory,
        })
        .collect()
}
