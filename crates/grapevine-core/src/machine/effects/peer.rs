//! What peers say to each other, and how they introduce themselves.

use std::sync::Arc;
use std::time::Duration;

use crate::criteria::Shape;
use crate::event::{BumpEvent, Floor, Registration, RegistrationBatch};
use crate::fill::{FillKey, FillWord};
use crate::id::{EventId, Incarnation, Lane};
use crate::index::{LeafKey, Place};
use crate::intent::{Intent, IntentId};
use crate::names::NodeId;
use crate::progress::{Hole, OriginHead};
use crate::roster::{Mark, Say};
use crate::store::RecoveredClass;
use crate::vector::VersionVector;

/// A peer's introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// Its configured name.
    pub node_id: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub peer_address: String,
    /// Its policies' digest.
    pub policy_digest: u64,
}

/// A peer as gossip sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What it says of itself.
    pub hello: PeerHello,
    /// Whether it is not suspected.
    pub alive: bool,
}

/// What part of what a run has to tell of heads a grant has: each change of them has a number of that run's, rising from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Heads that changed behind this number; 0 for all there are.
    pub since: u64,
    /// Up to this one; 0 where changes are not numbered.
    pub until: u64,
    /// Whether that is all that who asks has applied, by the digest in its question: then no heads are told but those of histories.
    pub same: bool,
}

/// What peers say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "the largest are words about the roster, and few are said"
)]
pub enum PeerMessage {
    /// Consecutive bump-lane events.
    Bumps {
        /// Whose.
        origin: Incarnation,
        /// The sequence of the first.
        first: u64,
        /// The events.
        events: Vec<Arc<BumpEvent>>,
    },
    /// Consecutive directory-lane events.
    Directory {
        /// Whose.
        origin: Incarnation,
        /// The sequence of the first.
        first: u64,
        /// The batches.
        batches: Vec<Arc<RegistrationBatch>>,
    },
    /// Events that are for others as well.
    Relayed {
        /// Who else is to have them by way of the hearer.
        to: Vec<Incarnation>,
        /// Whether each of them is to acknowledge at once.
        acknowledge: bool,
        /// [`Self::Bumps`] or [`Self::Directory`].
        message: Box<PeerMessage>,
    },
    /// "I flushed these of yours, and no table of my clients serves around them": everything up to the watermark, and those above.
    Ack {
        /// Up to here.
        watermark: u64,
        /// And these.
        above: Vec<u64>,
        /// What is flushed, up to where and above, if that is more.
        flushed: Option<(u64, Vec<u64>)>,
    },
    /// "Tell me your heads, and grant me freshness."
    Probe {
        /// Echoed.
        nonce: u64,
        /// The view that it has.
        mark: Mark,
        /// What the hearer told up to this number is applied here, so that no more than what it has to tell since is asked for; 0 for
        /// all of it.
        since: u64,
        /// Where that is all of it: a digest of the heads that are known and applied here, if none is known that is not
        /// ([`Progress::applied_digest`]).
        ///
        /// [`Progress::applied_digest`]: crate::progress::Progress::applied_digest
        applied: Option<u128>,
    },
    /// What members say to agree on views.
    Roster {
        /// The history of the view that the speaker has.
        history: Option<Incarnation>,
        /// What it says.
        say: Say,
    },
    /// The answer to a probe.
    Grant {
        /// Of the probe.
        nonce: u64,
        /// How long it holds; zero to who is no member of the same view.
        duration: Duration,
        /// Whether who grants has called itself fresh in this view.
        settled: bool,
        /// The heads of every incarnation, or of those that have changed.
        heads: Vec<OriginHead>,
        /// Which of the two.
        span: Span,
        /// What it lacks of closed logs, and so nobody has to wait for on its account; at most [`HOLES_MAX`].
        ///
        /// [`HOLES_MAX`]: crate::progress::HOLES_MAX
        lacked: Vec<Hole>,
    },
    /// "Send me what I miss."
    Pull {
        /// Whose.
        origin: Incarnation,
        /// Which lane.
        lane: Lane,
        /// The first one missing.
        first: u64,
        /// The last one missing.
        last: u64,
    },
    /// "That is compacted."
    Compacted {
        /// Whose.
        origin: Incarnation,
        /// Which lane.
        lane: Lane,
        /// From where.
        first: u64,
    },
    /// "Send me a snapshot."
    SnapshotRequest {
        /// The requester's name for it.
        id: u64,
    },
    /// A snapshot's cut.
    SnapshotBegin {
        /// Of the request.
        id: u64,
        /// Watermarks, read before the first chunk.
        cut: Vec<OriginHead>,
    },
    /// Versions of a snapshot.
    SnapshotVersions {
        /// Of the request.
        id: u64,
        /// Classes.
        classes: Vec<RecoveredClass>,
        /// Floors.
        floors: Vec<Floor>,
        /// Shapes.
        shapes: Vec<Shape>,
    },
    /// Registrations of a snapshot.
    SnapshotDirectory {
        /// Of the request.
        id: u64,
        /// The registrations.
        registrations: Vec<Registration>,
    },
    /// The snapshot is whole.
    SnapshotEnd {
        /// Of the request.
        id: u64,
    },
    /// "Hold this write intent: bump its classes if you do not hear of its end."
    Intent(Intent),
    /// "I hold these of yours durably." Also said again, to hear which of them have ended.
    IntentHeld(Vec<IntentId>),
    /// "This write intent ended."
    IntentSettled {
        /// Which one.
        intent: IntentId,
        /// The bump that it ended in; none if it was aborted.
        event: Option<EventId>,
    },
    /// "Rows are being written: show them." A hint: nothing is lost with it.
    RowsCome(Intent),
    /// About who fills a missing value.
    Fill {
        /// Which value.
        key: FillKey,
        /// What is said.
        word: FillWord,
    },
    /// "Rows were found elsewhere than this leaf has them." A hint: nothing is lost with it.
    Pruned {
        /// Which leaf.
        leaf: LeafKey,
        /// Which of its members.
        places: Vec<Place>,
        /// What the speaker had applied before the rows were read.
        stamp: VersionVector,
    },
    /// "I leave in order."
    Leave {
        /// The head of the leaver's bump lane.
        bump_head: u64,
        /// The head of its directory lane.
        directory_head: u64,
    },
}

impl PeerMessage {
    /// The events that are for others as well; anything else itself.
    pub fn relieved(&self) -> &Self {
        match self {
            Self::Relayed { message, .. } => message,
            other => other,
        }
    }
}
