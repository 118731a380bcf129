//! What core asks of a store, in types: no I/O happens here.
//!
//! Core emits [`Write`]s in order. A store commits a group of them atomically, in order, and flushes; only then does
//! core let anything out that depends on them. Writes are joins wherever two of them could cross, so a write
//! computed from a state that has since grown cannot shrink what is stored.

use std::sync::Arc;

use crate::criteria::Shape;
use crate::event::{Event, Floor, Match, PurgeMode, Registration};
use crate::id::{EventId, Incarnation, Lane, UnixSeconds};
use crate::intent::{Intent, IntentId};
use crate::names::{Address, ClassPath, NodeId};
use crate::roster::{Record, Retired};
use crate::vector::VersionVector;

/// One change to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Append an event to the log, under (origin, lane, sequence). Writing the same one again changes nothing.
    Log {
        /// Who issued it.
        origin: Incarnation,
        /// Its number in its lane.
        sequence: u64,
        /// The event.
        event: Event,
    },
    /// Join entries into a class. `others` empty: the class's own entries; else its conjunction with `others`.
    JoinClass {
        /// The class (of a conjunction: its anchor, the smallest).
        class: ClassPath,
        /// The conjunction's other classes, in byte order.
        others: Vec<ClassPath>,
        /// What to join.
        entries: VersionVector,
    },
    /// Join a floor, and drop those of the named classes (own entries and conjunctions alike) that it dominates.
    JoinFloor {
        /// The floor.
        floor: Floor,
        /// Classes of its bucket that may now be dominated.
        evict: Vec<ClassPath>,
    },
    /// Remember that a shape is known.
    PutShape(Shape),
    /// Raise the watermark of an incarnation's lane: everything up to it is applied. Never lowers one.
    Progress {
        /// Whose.
        origin: Incarnation,
        /// Which lane.
        lane: Lane,
        /// Up to where.
        watermark: u64,
    },
    /// Put registrations into the directory, under each of their classes. A repeated one keeps the later expiry.
    Register {
        /// The registrations.
        registrations: Vec<Registration>,
        /// Whether they were made at this sidecar, which then purges them whoever bumps.
        own: bool,
    },
    /// Take registrations out again (condemned ones), under each of their classes.
    Unregister {
        /// The registrations.
        registrations: Vec<Registration>,
    },
    /// Take everything registered at and below the classes out of the directory, and report it as [`Taken`].
    /// With [`Match::All`], only addresses registered under every one of the classes.
    Take {
        /// The bump that this is for.
        event: EventId,
        /// Its classes.
        classes: Vec<ClassPath>,
        /// Any or all of them.
        matching: Match,
        /// Report only what this sidecar registered itself (everything is taken out all the same).
        own_only: bool,
        /// Handed through to [`Taken`].
        purge: PurgeMode,
    },
    /// Remove registrations that lapsed, at most `limit` per call; without scanning what has not.
    Expire {
        /// The present.
        now: UnixSeconds,
        /// How many at most.
        limit: usize,
    },
    /// Remember a member, by node id.
    PutMember(MemberRecord),
    /// Forget a member.
    RemoveMember(NodeId),
    /// Remember this sidecar's part in the roster, in place of what was known of it.
    Roster(Box<Record>),
    /// Remember a write intent, of this sidecar or held for another one, by its name.
    PutIntent(Intent),
    /// Forget a write intent: it ended.
    RemoveIntent(IntentId),
    /// Remember that this sidecar ran as this incarnation.
    OwnIncarnation(Incarnation),
    /// Have the stored entries of retired runs say what they say from now on.
    Retire(Box<Retirement>),
    /// Forget a retired run: its watermarks, what the log has of it, that this sidecar ran as it, and up to where it was dropped.
    ForgetRun(Incarnation),
    /// Remember up to where a run was whole when it was dropped and everything was bumped, in place of what was remembered of it.
    Dropped {
        /// The run.
        run: Incarnation,
        /// Its last event below which none was missing.
        whole: u64,
    },
}

/// A piece of what is to be rewritten when runs are retired. Doing it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// What is retired: [`Retired::image`] says what becomes of a vector.
    pub retired: Arc<Retired>,
    /// The name of the history's retirements.
    pub name: Incarnation,
    /// The floors to rewrite: top-level class and bucket.
    pub floors: Vec<(ClassPath, u16)>,
    /// The classes to rewrite, own entries and conjunctions alike.
    pub classes: Vec<ClassPath>,
}

/// A member as remembered over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its configured name.
    pub node_id: NodeId,
    /// The incarnation last seen.
    pub incarnation: Incarnation,
    /// Where peers reach it: host:port.
    pub peer_address: String,
}

/// What a [`Write::Take`] removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The bump that asked for it.
    pub event: EventId,
    /// What to do with the values.
    pub purge: PurgeMode,
    /// The addresses, without repetitions.
    pub addresses: Vec<Address>,
    /// When the last of their values has ended by itself; the epoch's begin if there is none.
    pub expires: UnixSeconds,
}

/// What a store held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Incarnations that this sidecar ran as before.
    pub own_incarnations: Vec<Incarnation>,
    /// Up to where runs were whole when they were dropped, everything being bumped.
    pub dropped: VersionVector,
    /// Members remembered.
    pub members: Vec<MemberRecord>,
    /// Its part in the roster.
    pub roster: Option<Record>,
    /// Write intents that had not ended, by name.
    pub intents: Vec<Intent>,
    /// Each class's entries and conjunctions.
    pub classes: Vec<RecoveredClass>,
    /// Floors.
    pub floors: Vec<Floor>,
    /// Shapes that were known.
    pub shapes: Vec<Shape>,
    /// Each lane's watermark and the ranges (first, last) applied above it, ascending and apart.
    pub progress: Vec<RecoveredProgress>,
    /// Registrations in the directory, counting an address once per class.
    pub registrations: u64,
}

/// One class as recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredClass {
    /// Its path.
    pub class: ClassPath,
    /// Its own entries.
    pub entries: VersionVector,
    /// Its conjunctions: the other classes, and their entries.
    pub conjunctions: Vec<(Vec<ClassPath>, VersionVector)>,
}

/// One lane as recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredProgress {
    /// Whose.
    pub origin: Incarnation,
    /// Which lane.
    pub lane: Lane,
    /// Everything up to here was applied.
    pub watermark: u64,
    /// Ranges applied above the watermark.
    pub above: Vec<(u64, u64)>,
}
