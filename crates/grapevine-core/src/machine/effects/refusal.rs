//! Why a call had no effect.

use std::time::Duration;

use thiserror::Error;

use crate::names::{ClassPath, NodeId};

/// Why a call had no effect.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Too few or too many classes.
    #[error("classes: {value} of them; the limits are {least} to {most}")]
    ClassCount {
        /// How many.
        value: usize,
        /// At least.
        least: usize,
        /// At most.
        most: usize,
    },
    /// A new top-level class beyond the limit.
    #[error(
        "top-level class {class:?} would be number {count}; the limit is {limit} (limits.top_level_classes_max)"
    )]
    TopLevelClasses {
        /// The class.
        class: ClassPath,
        /// How many there would be.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many calls wait for receipts.
    #[error("{limit} invalidations wait for receipts already (limits.receipts_max); try again")]
    Receipts {
        /// How many may wait.
        limit: usize,
        /// When one of them is looked at again, at the latest.
        after: Duration,
    },
    /// Too many local tables are open.
    #[error(
        "{limit} local tables are open already, or were until just now (limits.local_tables_max); look up at the sidecar, and try again"
    )]
    Tables {
        /// How many may be open.
        limit: usize,
        /// When the leases of one that is gone are over, or at any time.
        after: Duration,
    },
    /// Too many writes are open.
    #[error(
        "{open} writes that name {classes} classes are open; the limits are {limit} writes (limits.intents_max) and {classes_max} classes; commit or abort some, or try again"
    )]
    Intents {
        /// How many are open.
        open: usize,
        /// How many classes they and this one name.
        classes: usize,
        /// How many may be open.
        limit: usize,
        /// How many classes they may name together.
        classes_max: usize,
    },
    /// No peer took a write intent in time.
    #[error(
        "no peer can hold the write intent: none is linked or has room, or none answered before the deadline, and this sidecar alone is not enough; nothing was begun; call another one, or refuse the write"
    )]
    IntentNotHeld,
    /// A leaf has more members than all leaves may have.
    #[error(
        "members: the leaf has {count} or more; the limit for all leaves is {limit} (limits.index_members_max); load only its first ones"
    )]
    LeafTooLarge {
        /// How many came.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The first rows of a leaf that are not certain to be those.
    #[error(
        "rows: the first rows of a leaf come in its order, by order_by and then by id (whole numbers before other ids), and every part of them says that it is partial"
    )]
    LeafOutOfOrder,
    /// The sidecar is leaving.
    #[error("this sidecar is draining; call another one")]
    Draining,
    /// Nobody to forget.
    #[error("node_id: {node_id} has no seat in the roster of view {view}")]
    NoSeat {
        /// Whom.
        node_id: NodeId,
        /// The view's number.
        view: u64,
    },
    /// It is the sidecar that is asked.
    #[error(
        "node_id: {node_id} is this sidecar itself; drain it, or ask another member to forget it when it is gone"
    )]
    ForgetOneself {
        /// Whom.
        node_id: NodeId,
    },
    /// A member that is there is not forgotten.
    #[error("node_id: {node_id} is connected; drain it instead")]
    Connected {
        /// Whom.
        node_id: NodeId,
    },
    /// Too few are left to agree.
    #[error(
        "node_id: without {node_id} this sidecar sees {seen} of the {seats} members, and {needed} are needed to agree; if all others are stopped for good, say so (alone)"
    )]
    NoMajority {
        /// Whom.
        node_id: NodeId,
        /// Members seen, this one among them.
        seen: usize,
        /// Members.
        seats: usize,
        /// How many must agree.
        needed: usize,
    },
}
