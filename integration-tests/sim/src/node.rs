//! A slot for a sidecar: its process, when there is one, and what outlives it, disk and clocks.
//!
//! The process turns inputs and effects into I/O as `grapevined` does: one group of writes is on its way to the disk at a
//! time, what is gathered meanwhile becomes the next; when none is on its way, the core is told to seal. A stopped
//! process (SIGSTOP) does nothing; what comes for it waits, and its clocks go on.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_core::id::{Incarnation, Time};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{CommitId, PeerHello, PeerMessage, Ticket};
use grapevine_core::names::{ClassPath, NodeId};
use grapevine_core::roster::Mark;
use grapevine_core::store::Write;
use grapevine_core::table::TableId;
use rand::rngs::SmallRng;

use crate::arms::rules::Rule;
use crate::clock::{DriftClock, Micros, WallClock};
use crate::disk::Disk;
use crate::events::{Event, OfLocal};
use crate::network::{LinkId, SLOTS_MAX};

/// The writes of one input.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The writes.
    pub(crate) writes: Vec<Write>,
    /// Their name.
    pub(crate) commit: CommitId,
}

/// What a reply is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// A write's invalidation: which operation, and which attempt.
    Write(usize, u32),
    /// The declaration of a write: which operation, and which attempt.
    Declare(usize, u32),
    /// A declared write's abort.
    Abort(usize),
    /// A fill's commit.
    Fill(usize),
    /// A question for a turn to fill: which operation, and which attempt.
    Turn(usize, u32),
    /// What a reader of a list asks.
    List(usize),
    /// A local table that is opened, under which name.
    Local(OfLocal, TableId),
    /// A registration that nobody waits for.
    Plain,
}

/// A snapshot being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    /// On which link.
    pub(crate) link: LinkId,
    /// The requester's name for it.
    pub(crate) id: u64,
    /// What comes next.
    pub(crate) next: Part,
    /// Messages read and held back, by the arm that reads the cut last.
    pub(crate) held_back: Vec<PeerMessage>,
}

/// A part of a snapshot.
#[derive(Debug)]
pub(crate) enum Part {
    /// The cut.
    Begin(Vec<grapevine_core::progress::OriginHead>),
    /// Classes after this one.
    Classes(Option<ClassPath>),
    /// Floors: after the classes, for one that was evicted in between is in a floor by now.
    Floors,
    /// Registrations.
    Directory,
    /// The end.
    End,
}

/// One slot.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name, also when two slots share one.
    pub(crate) name: NodeId,
    /// How transcripts call the slot.
    pub(crate) letter: char,
    /// The running machine.
    pub(crate) core: Option<Core>,
    /// How many runs there were.
    pub(crate) run: u64,
    /// The last run's incarnation.
    pub(crate) incarnation: Incarnation,
    /// What is flushed.
    pub(crate) disk: Disk,
    /// An older state of the disk.
    pub(crate) copy: Option<Disk>,
    /// Groups being flushed; a crash keeps a prefix of them.
    pub(crate) flushing: Vec<Group>,
    /// Groups gathered for the next flush; a crash loses them.
    pub(crate) waiting: Vec<Group>,
    /// The duration clock.
    pub(crate) clock: DriftClock,
    /// The wall clock.
    pub(crate) wall: WallClock,
    /// Until when the process is stopped.
    pub(crate) stopped_until: Micros,
    /// When it went on last.
    pub(crate) went_on: Micros,
    /// What waits for a stopped process.
    pub(crate) deferred: Vec<Event>,
    /// Until when the disk is slow.
    pub(crate) slow_until: Micros,
    /// Which wake-up is wanted.
    pub(crate) wake_at: Micros,
    /// Links to peers.
    pub(crate) outs: BTreeMap<Incarnation, LinkId>,
    /// Links from peers.
    pub(crate) ins: BTreeMap<Incarnation, BTreeSet<LinkId>>,
    /// Whether a slot is being dialled, and the pause before the next time.
    pub(crate) dials: [(bool, Micros); SLOTS_MAX],
    /// How gossip saw each slot last.
    pub(crate) seen: Vec<Option<PeerHello>>,
    /// Whom this sidecar suspects wrongly, until when.
    pub(crate) suspects: [Micros; SLOTS_MAX],
    /// Snapshots being sent.
    pub(crate) sending: Vec<Sending>,
    /// Whether a snapshot is being received.
    pub(crate) receiving: bool,
    /// Calls that wait for a reply.
    pub(crate) calls: BTreeMap<Ticket, Call>,
    /// How the disk became what it is, if not by being written.
    pub(crate) disk_was: Option<&'static str>,
    /// The run and its view, when it was noted who has a seat.
    pub(crate) noted: Option<(Incarnation, Option<Mark>)>,
    /// Draws flush times and the like.
    pub(crate) rng: SmallRng,
    /// An arm's table of versions, kept beside the core's.
    pub(crate) rule: Option<Rule>,
    /// Whether it is to crash in its next snapshot, and for how long it is down then.
    pub(crate) trap: Option<Micros>,
    /// Whether the process leaves.
    pub(crate) draining: bool,
    /// Since when.
    pub(crate) drains_since: Micros,
}

impl Node {
    /// A slot that nothing runs in.
    pub(crate) fn new(
        name: NodeId,
        letter: char,
        (clock, wall): (DriftClock, WallClock),
        rng: SmallRng,
    ) -> Self {
        Self {
            name,
            letter,
            core: None,
            run: 0,
            incarnation: Incarnation::from_random(1, 0),
            disk: Disk::default(),
            copy: None,
            flushing: Vec::new(),
            waiting: Vec::new(),
            clock,
            wall,
            stopped_until: 0,
            went_on: 0,
            deferred: Vec::new(),
            slow_until: 0,
            wake_at: 0,
            outs: BTreeMap::new(),
            ins: BTreeMap::new(),
            dials: [(false, 0); SLOTS_MAX],
            seen: vec![None; SLOTS_MAX],
            suspects: [0; SLOTS_MAX],
            sending: Vec::new(),
            receiving: false,
            calls: BTreeMap::new(),
            disk_was: None,
            noted: None,
            rng,
            rule: None,
            trap: None,
            draining: false,
            drains_since: 0,
        }
    }

    /// Whether a process runs, stopped or not.
    pub(crate) fn up(&self) -> bool {
        self.core.is_some()
    }

    /// Whether its process is stopped.
    pub(crate) fn stopped(&self, now: Micros) -> bool {
        now < self.stopped_until
    }

    /// Whether it answers.
    pub(crate) fn answers(&self, now: Micros) -> bool {
        self.up() && !self.stopped(now)
    }

    /// Its own time, on the wall if the arm says so.
    pub(crate) fn time(&self, now: Micros, by_wall: bool) -> Time {
        if by_wall {
            self.wall.as_time(now)
        } else {
            self.clock.at(now)
        }
    }

    /// When its own time will have come.
    pub(crate) fn when(&self, time: Time, by_wall: bool) -> Micros {
        if by_wall {
            self.wall.when(time)
        } else {
            self.clock.when(time)
        }
    }
}
