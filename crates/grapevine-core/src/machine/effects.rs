//! What goes into the machine and what comes out of it.
//!
//! Effects carry their order. `writes` are to be committed and flushed as one group (the loop may join the groups of
//! several calls, in order), and the flush is told back as [`Input::Flushed`]. `actions` may be carried out at once:
//! whatever depends on a write is only emitted in answer to its flush.

mod leaf;
mod peer;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use leaf::{FillOutcome, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LoadId, Prune};
pub use peer::{PeerHello, PeerMessage, Sighting, Span};
pub use refusal::Refusal;

use crate::event::{BumpEvent, Match, PurgeMode, ROW_WEIGHT, RowImage};
use crate::fill::{FillId, FillKey};
use crate::id::{EventId, Incarnation, Lane, Time, UnixSeconds};
use crate::index::LeafKey;
use crate::intent::IntentId;
use crate::lease::{Lease, ReadSnapshot};
use crate::names::{Address, ClassPath, NodeId};
use crate::progress::OriginHead;
use crate::store::Write;
use crate::table::{Notice, TableId, TableLease};
use crate::token::Token;
use crate::vector::VersionVector;

/// Names a call that waits for a reply; chosen by the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a group of writes; rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub u64);

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

/// An answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To [`Input::Invalidate`] and [`Input::CommitWrite`].
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
    /// To [`Input::BeginWrite`]: it is durable here and, where there are peers, at one of them.
    Begun {
        /// Its name.
        intent: IntentId,
        /// The lease, counted from when the application made the call.
        lease: Duration,
    },
    /// To [`Input::AbortWrite`].
    Aborted(AbortOutcome),
    /// To [`Input::Register`]: one verdict per item, in order.
    Registered(Vec<Verdict>),
    /// To [`Input::AcquireFill`].
    Fill(FillTurn),
    /// To [`Input::LoadLeaf`].
    LeafTurn(LeafTurn),
    /// To [`Input::FillLeaf`].
    LeafFilled(FillOutcome),
    /// To [`Input::PruneLeaf`]: how many members were removed here.
    Pruned(usize),
    /// To [`Input::OpenTable`]: it is told of whatever is applied from now on.
    TableOpened {
        /// The position of the last notice before.
        position: u64,
    },
    /// To [`Input::Forget`]: it is being agreed on, or, without a majority, this sidecar goes on alone.
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
        /// The turn's number at this run, to be ended by [`Input::EndFill`].
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
    /// That is so, if for nothing else, because a class is of a shape that is not known here: [`Input::MeetShapes`] is called for.
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

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of decisions, since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Every counter: its stable name, what it counts, and its number; for metrics and `Status`.
            pub fn by_name(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name),)+]
            }
        }
    };
}

counters! {
    /// Own bumps.
    bumps_own,
    /// Bumps of others.
    bumps_remote,
    /// Events that were known already.
    events_duplicate,
    /// Buckets evicted by this sidecar.
    floors_own,
    /// Conjunctions widened to their anchor, and changes of rows to whole tables, for want of room.
    escalations,
    /// Shapes that this sidecar made known, or added to.
    shapes_made_known,
    /// Registrations made here.
    registrations_accepted,
    /// Registrations and fills condemned, here made or received.
    registrations_condemned,
    /// Registrations known already.
    registrations_suppressed,
    /// Messages of own events that were told by way of some peers.
    pushes_relayed,
    /// Messages of others' events passed on, counted by who was told.
    events_passed_on,
    /// Relays that were late, or whose link ended, so that this sidecar told those behind them itself.
    relays_stood_in_for,
    /// Pulls sent.
    pulls_sent,
    /// Pulls served.
    pulls_served,
    /// Snapshots asked for.
    snapshots_requested,
    /// Snapshots adopted.
    snapshots_adopted,
    /// Snapshots sent.
    snapshots_sent,
    /// Messages of peers that were malformed or not allowed.
    peer_messages_refused,
    /// Events that were known of, and that nobody had any more.
    events_written_off,
    /// Bumps of everything of histories that there is no room for, each made up for by an own one.
    histories_refused,
    /// Runs that were over and are followed no more.
    runs_retired,
    /// Starts with nothing of what the disk said, for it was left behind by more retirements than are remembered, or it is the
    /// only member's and knows too many runs that are over: 0 or 1.
    started_over,
    /// Write intents begun here, and answered.
    intents_begun,
    /// Commits of write intents taken here, whoever had begun them.
    intents_committed,
    /// Own write intents that were aborted in time.
    intents_aborted,
    /// Own write intents that ended with their lease, in a bump.
    intents_expired,
    /// Write intents held for another run that ended in a bump here.
    intents_expired_for_others,
    /// Write intents found open at the start: bumped then, and once more when their lease is certain to be over.
    intents_recovered,
    /// Write intents of peers that were not taken, for want of room or because this sidecar leaves.
    intents_declined,
    /// Turns to fill that an arbiter gave to callers of this sidecar.
    fills_elected,
    /// Turns to fill that callers took without an arbiter's word: it was late, or a table was full.
    fills_unelected,
    /// Turns to fill that ended with their lease.
    fills_superseded,
    /// Callers told to ask again later for a turn, for want of room or patience.
    fills_put_off,
    /// Turns to fill that this sidecar gave as the arbiter without remembering them, for want of room.
    elections_overfull,
    /// Leaves loaded.
    leaves_loaded,
    /// Loads of leaves given up because something changed meanwhile that could not be followed.
    leaves_condemned,
    /// Leaves dropped for want of room.
    leaves_evicted,
    /// Loads of leaves given up before their leases were over: for others, where too many were under way, or for want of room.
    loads_displaced,
    /// Readers that were given no right to load a leaf, because too many loads were under way.
    loads_refused,
    /// Members of leaves removed because somebody found their rows elsewhere, here or at a peer.
    members_pruned,
    /// Rows of writes under way that leaves do not show, for want of room.
    rows_not_shown,
    /// Local tables that clients have opened.
    tables_opened,
    /// Notices for local tables.
    table_notices,
    /// Local tables whose client was silent about a notice until their leases were over.
    tables_lapsed,
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
