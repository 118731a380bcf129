//! What goes into the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{CommitId, LeafFill, PeerHello, PeerMessage, Prune, Sighting, Ticket};
use crate::event::{Match, PurgeMode, ROW_WEIGHT, RowImage};
use crate::fill::{FillId, FillKey};
use crate::id::{Incarnation, Time, UnixSeconds};
use crate::index::LeafKey;
use crate::intent::IntentId;
use crate::lease::{Lease, ReadSnapshot};
use crate::names::{Address, ClassPath, NodeId};
use crate::progress::OriginHead;
use crate::table::TableId;

/// One thing that happened.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the largest are words about the roster, and few are said"
)]
pub enum Input {
    /// An application declares classes changed.
    Invalidate(Ticket, Invalidate),
    /// An application declares rows changed.
    RowsChanged(Ticket, RowsChange),
    /// Reads are made of classes whose shapes are not known here.
    MeetShapes(Vec<ClassPath>),
    /// An application is about to commit a write.
    BeginWrite(Ticket, BeginWrite),
    /// An application committed a write that it had declared.
    CommitWrite(Ticket, IntentId, Written),
    /// An application did not commit a write that it had declared.
    AbortWrite(Ticket, IntentId),
    /// An application commits fills or registers addresses.
    Register(Ticket, Vec<RegisterItem>),
    /// An application misses a value that one caller is to fill, and waits for its turn until then.
    AcquireFill(Ticket, FillKey, Time),
    /// A turn to fill has ended, with or without the value in the cache.
    EndFill(FillId, bool),
    /// An application found a leaf absent, and would load it.
    LoadLeaf(Ticket, LeafKey),
    /// An application tells what the database has of a leaf.
    FillLeaf(Ticket, LeafFill),
    /// An application found rows elsewhere than a leaf has them.
    PruneLeaf(Ticket, Prune),
    /// A client opens a local table.
    OpenTable(Ticket, TableId),
    /// It has something to say of it.
    Table(TableId, TableWord),
    /// Nobody waits for these answers any more: what is asked for is done, and a receipt or a turn for nobody is not
    /// waited for.
    Gone(BTreeSet<Ticket>),
    /// An operator says that a member is gone for good.
    Forget(Ticket, Forget),
    /// The loop has no more inputs at hand and its writer is idle: what was gathered may go.
    Seal,
    /// Every write up to and including this group is flushed.
    Flushed(CommitId),
    /// A link to or from a peer stands.
    LinkUp {
        /// Who it is.
        hello: PeerHello,
        /// Who dialled.
        side: Side,
    },
    /// A link ended.
    LinkDown {
        /// Whose.
        peer: Incarnation,
        /// Who had dialled.
        side: Side,
    },
    /// A peer refused this sidecar, because its node id is in use.
    NodeIdRefused {
        /// What the peer said.
        reason: String,
    },
    /// A peer said something.
    Peer {
        /// Who.
        from: Incarnation,
        /// What.
        message: PeerMessage,
    },
    /// Who gossip sees: all of them, each time.
    Seen(Vec<Sighting>),
    /// Heads that gossip tells of running members, each of its own run. Hints: anybody can send a datagram.
    HeadsSeen(Vec<OriginHead>),
    /// The last sweep of lapsed registrations left some.
    ExpiryBacklog,
    /// The moment that [`crate::machine::Core::next_wake`] named has come.
    Wake,
    /// This sidecar leaves in order.
    Drain,
}

/// Who dialled a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer did: what it says comes here.
    Inbound,
    /// This sidecar did: what this sidecar says goes there.
    Outbound,
}

/// A call to invalidate.
#[derive(Clone, Debug)]
pub struct Invalidate {
    /// 1 to 1,000 classes, in any order.
    pub classes: Vec<ClassPath>,
    /// Any or all of them.
    pub matching: Match,
    /// What to do with known addresses.
    pub purge: PurgeMode,
    /// Who must have it before the reply.
    pub level: ReceiptLevel,
    /// When to reply whatever the receipt says.
    pub deadline: Time,
}

/// A call to tell of changed rows.
#[derive(Clone, Debug)]
pub struct RowsChange {
    /// What is known of them, as they were and as they are: at least one. What is more than an event can say counts as
    /// all rows of the tables.
    pub rows: Vec<RowImage>,
    /// What to do with known addresses.
    pub purge: PurgeMode,
    /// Who must have it before the reply.
    pub level: ReceiptLevel,
    /// When to reply whatever the receipt says.
    pub deadline: Time,
}

/// What a client says of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableWord {
    /// What was told up to a position shows: nothing older is served.
    Acknowledges(u64),
    /// It asks for a lease, by a number of its own.
    Asks(u64),
    /// It has given its lease up.
    Released,
    /// Its stream has ended.
    Ended,
}

/// What an operator knows of a member that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Which.
    pub node_id: NodeId,
    /// Go on alone if no majority is left to agree: the operator vouches for it that all others are stopped, for they
    /// might go on without this sidecar.
    pub alone: bool,
}

/// What a write will change.
#[derive(Clone, Debug)]
pub enum Announced {
    /// Classes.
    Classes {
        /// 1 to 1,000 of them, in any order.
        classes: Vec<ClassPath>,
        /// Any or all of them.
        matching: Match,
    },
    /// Rows, as they are before it and will be after it.
    Rows(Vec<RowImage>),
}

impl Announced {
    /// As how much work it counts.
    pub fn weight(&self) -> usize {
        match self {
            Self::Classes { classes, .. } => classes.len(),
            Self::Rows(rows) => rows
                .iter()
                .map(|image| ROW_WEIGHT + image.rows.cells.len())
                .sum(),
        }
    }
}

/// What a write has changed.
#[derive(Clone, Debug)]
pub enum Written {
    /// Classes.
    Classes(Invalidate),
    /// Rows.
    Rows(RowsChange),
}

/// A call to begin a write.
#[derive(Clone, Debug)]
pub struct BeginWrite {
    /// What it will change.
    pub announced: Announced,
    /// What to do with known addresses when that is bumped.
    pub purge: PurgeMode,
    /// How long the application may take from now on, between [`INTENT_LEASE_MIN`](crate::intent::INTENT_LEASE_MIN) and
    /// [`INTENT_LEASE_MAX`](crate::intent::INTENT_LEASE_MAX).
    pub lease: Duration,
    /// When to refuse it if no peer holds it by then.
    pub deadline: Time,
    /// 64 random bits, which become the intent's number: who was not told it cannot guess it.
    pub random: u64,
}

/// Which sidecars must have an event before the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptLevel {
    /// This one.
    None,
    /// This one and, where there are peers, one more.
    #[default]
    One,
    /// A majority of the members.
    Quorum,
    /// Every member has it or cannot call itself fresh without it.
    All,
}

/// One address to commit or register.
#[derive(Clone, Debug)]
pub struct RegisterItem {
    /// The cache address.
    pub address: Address,
    /// Its classes, sorted, without repetitions, at most 16.
    pub classes: Vec<ClassPath>,
    /// When the value is certain to be gone.
    pub expires: UnixSeconds,
    /// The lease, where the value was read under one.
    pub lease: LeaseClaim,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a [`RegisterItem`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The directory is to know the address.
    Directory,
    /// Its strategy needs no more than the verdict.
    Verdict,
    /// It lapses (`ttl`), whatever is bumped: always accepted, with no token.
    Lapses,
}

/// What a caller showed of a lease.
#[derive(Clone, Copy, Debug)]
pub enum LeaseClaim {
    /// None: the stamp is the moment of the call.
    Absent,
    /// Bytes that are not a lease.
    Malformed,
    /// This one.
    Lease(Lease),
    /// This one, for a fill whose turn was won.
    Elected(Lease, FillId),
}

/// What a caller showed of a database snapshot that its fills read inside.
#[derive(Clone, Copy, Debug, Default)]
pub enum SnapshotClaim {
    /// None: reads begin after the look-up.
    #[default]
    Absent,
    /// Bytes that are not a snapshot.
    Malformed,
    /// This one.
    Snapshot(ReadSnapshot),
}
