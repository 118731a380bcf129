//! What can come next in a run.

use grapevine_core::event::PurgeMode;
use grapevine_core::machine::effects::{PeerMessage, Side, Ticket};
use grapevine_core::names::Address;
use grapevine_core::table::TableId;
use grapevine_core::token::Token;

use crate::local::Kept;
use crate::network::LinkId;

/// What a sidecar hears about a turn to fill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TurnWord {
    /// It is over.
    Ends {
        /// Its number.
        number: u64,
        /// Whether the value is in the cache.
        stored: bool,
    },
    /// Nobody waits for the answer any more.
    Gone(Ticket),
    /// By now it must have been answered.
    Due(Ticket),
}

/// A local table's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfLocal {
    /// The slot of its sidecar.
    pub(crate) at: usize,
    /// Which of its tables.
    pub(crate) nth: usize,
    /// Which of its streams.
    pub(crate) stream: u64,
}

/// An event of the queue. Those of a process name its run, and are void once that is over.
#[derive(Debug)]
pub(crate) enum Event {
    /// An operation of the schedule begins.
    Op(usize),
    /// A sidecar's flush is done.
    Flushed {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
    },
    /// A sidecar wanted to be woken now.
    Wake {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
        /// For when.
        at: u64,
    },
    /// Gossip tells a sidecar whom it sees.
    Gossip {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
    },
    /// A sidecar dials a slot.
    Dial {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
        /// Whom.
        to: usize,
    },
    /// The caller learns that its link stands.
    Welcomed {
        /// The link.
        link: LinkId,
    },
    /// One end of a link learns that it is over.
    LinkLost {
        /// The link.
        link: LinkId,
        /// Which end, as that end names its side.
        side: Side,
    },
    /// Links on a path break.
    BreakLinks {
        /// From this slot.
        from: usize,
        /// To that slot.
        to: usize,
    },
    /// A message arrives.
    Deliver {
        /// On which link.
        link: LinkId,
        /// What.
        message: Box<PeerMessage>,
    },
    /// A sidecar reads the next part of a snapshot that it sends.
    Pump {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
        /// On which link.
        link: LinkId,
    },
    /// A slot's process starts.
    Start {
        /// The slot.
        node: usize,
        /// The run that is over.
        run: u64,
    },
    /// A stopped process goes on.
    Resume {
        /// The slot.
        node: usize,
    },
    /// A path is cut again.
    Flap {
        /// The operation.
        op: usize,
        /// How many times are left.
        left: u32,
    },
    /// A sidecar that left ends.
    Exit {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
        /// How long it is down.
        down: u64,
    },
    /// A twin ends.
    TwinEnds,
    /// A seat was spared, and an operation waited for that.
    Spared {
        /// Which.
        op: usize,
    },
    /// A database snapshot begins that a sidecar was told of.
    InsideBegins {
        /// The operation.
        op: usize,
    },
    /// An application reads inside a database snapshot.
    InsideReads {
        /// The operation.
        op: usize,
        /// Which of its reads.
        nth: usize,
    },
    /// A reader of a list goes on.
    List {
        /// The operation.
        op: usize,
    },
    /// A reader that has a session looks again.
    Session {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// The cache answers a reader.
    Got {
        /// The operation.
        op: usize,
    },
    /// A reader asks for its turn to fill.
    Ask {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// A reader's question for its turn fails.
    AskFails {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
        /// Whether the sidecar was silent for too long.
        silent: bool,
    },
    /// A reader that was put off asks again.
    AskAgain {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// A reader's process is gone.
    ReaderGoes {
        /// The operation.
        op: usize,
    },
    /// A sidecar hears something about a turn, or is judged by one.
    Turn {
        /// The slot.
        node: usize,
        /// Its run.
        run: u64,
        /// What.
        word: TurnWord,
    },
    /// A reader reads the database.
    Query {
        /// The operation.
        op: usize,
    },
    /// A reader has its value.
    Computed {
        /// The operation.
        op: usize,
    },
    /// A store arrives at the cache.
    Set {
        /// The operation.
        op: usize,
        /// The token in the envelope.
        token: Token,
    },
    /// A delete arrives at the cache.
    Delete {
        /// Which address.
        address: Address,
        /// Whether it is only marked.
        mode: PurgeMode,
    },
    /// A client opens its local table.
    LocalOpens(OfLocal),
    /// A client hears from the sidecar about its table.
    LocalHears(OfLocal),
    /// A client asks for a lease of its table.
    LocalAsks(OfLocal),
    /// A client learns that its table's stream is over.
    LocalLost(OfLocal),
    /// A sidecar sends what a table is to be told.
    LocalPost {
        /// Which.
        of: OfLocal,
        /// The sidecar's run.
        run: u64,
    },
    /// A sidecar hears from a table's client.
    LocalSays {
        /// Of which.
        of: OfLocal,
        /// The sidecar's run.
        run: u64,
    },
    /// A sidecar learns that a table's stream is over.
    LocalEnds {
        /// Of which.
        of: OfLocal,
        /// The sidecar's run.
        run: u64,
        /// The table's name.
        id: TableId,
    },
    /// A look-up of a process with a table comes to its sidecar.
    LocalResolves {
        /// Of which table.
        of: OfLocal,
        /// The read.
        op: usize,
        /// Of which address.
        address: usize,
        /// How often something had changed that concerns the address, and the table's name, when it was sent.
        before: (u64, Option<TableId>),
    },
    /// An answer comes to a table.
    LocalKeeps {
        /// To which.
        of: OfLocal,
        /// Of which address.
        address: usize,
        /// What.
        kept: Box<Kept>,
    },
    /// A writer declares its write.
    Declare {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// A writer has waited long enough for its declaration to be taken.
    Undeclared {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// A writer whose declaration was taken commits or aborts.
    Decide {
        /// The operation.
        op: usize,
    },
    /// A writer calls its sidecar.
    Invalidate {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// A writer has waited long enough for an answer.
    Overdue {
        /// The operation.
        op: usize,
        /// Its attempt.
        attempt: u32,
    },
}
