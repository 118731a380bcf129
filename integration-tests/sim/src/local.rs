//! A client's local table, as its process keeps it, and the stream between it and its sidecar.
//!
//! The stream is in order both ways, and takes its time. The client's tasks may hang while its readers go on, its process may
//! be stopped as a whole, and a stream may break so that each end learns of it at another time. Its clock has a rate of its own.

use std::collections::{BTreeMap, VecDeque};

use grapevine_core::id::{EventId, Incarnation, Time};
use grapevine_core::machine::effects::{Resolution, TableWord};
use grapevine_core::table::{Letter, Mailbox, TableId};
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::clock::{DriftClock, MILLISECOND, Micros};
use crate::shop::ADDRESSES_MAX;

/// Tables at each sidecar.
pub(crate) const LOCALS: usize = 2;

/// What goes down a stream.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    /// The table is open, under this name, and is told what comes behind this position.
    Opened(TableId, u64),
    /// The sidecar drains.
    Closing,
    /// What the sidecar tells.
    Letter(Letter),
}

/// What a look-up was answered, as the table has it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The answer.
    pub(crate) resolution: Resolution,
    /// How often something had changed that concerns the address, before the look-up was sent.
    pub(crate) changes: u64,
    /// The newest write whose bump the sidecar had applied then.
    pub(crate) applied: u64,
}

/// One table.
#[derive(Debug)]
pub(crate) struct Local {
    /// The client's clock.
    pub(crate) clock: DriftClock,
    /// Draws how long messages take.
    pub(crate) rng: SmallRng,
    /// Which stream it is; what belongs to an earlier one is void.
    pub(crate) stream: u64,
    /// The sidecar's end: the table's name while that has the stream.
    pub(crate) id: Option<TableId>,
    /// The run that opened it.
    pub(crate) of: Incarnation,
    pub(crate) mailbox: Mailbox,
    /// Whether the sidecar is about to take a message out of it.
    pub(crate) posting: bool,
    /// On its way up, and until when the way is taken.
    pub(crate) up: VecDeque<TableWord>,
    up_until: Micros,
    /// The same of the way down.
    pub(crate) down: VecDeque<Down>,
    down_until: Micros,
    /// Notices told of, with the events that they are about, behind what the client has heard.
    pub(crate) noted: VecDeque<(u64, Option<EventId>)>,
    /// The client's end: whether it has a stream, and what its table is called.
    pub(crate) connected: bool,
    pub(crate) named: Option<TableId>,
    /// Until when nothing need be asked.
    pub(crate) lease_ends: Time,
    /// Requests for leases that were not answered, and when they were sent.
    pub(crate) asked: BTreeMap<u64, Time>,
    pub(crate) requests: u64,
    /// How often something has changed that concerns an address.
    pub(crate) changes: [u64; ADDRESSES_MAX],
    /// The position up to which it has heard, and the newest writes that it was told of so.
    pub(crate) heard: u64,
    pub(crate) applied: [u64; ADDRESSES_MAX],
    /// Up to which position answers were ahead of that: until it has heard as much it says nothing.
    pub(crate) needed: u64,
    /// The newest writes of each address that its sidecar had applied when it answered anything here, or that were made here.
    pub(crate) shown: [u64; ADDRESSES_MAX],
    pub(crate) kept: Vec<Option<Kept>>,
    /// Until when its tasks hang.
    pub(crate) hangs_until: Micros,
    /// Until when its process is stopped.
    pub(crate) stopped_until: Micros,
}

impl Local {
    /// A table that was never opened.
    pub(crate) fn new(clock: DriftClock, rng: SmallRng) -> Self {
        Self {
            clock,
            rng,
            stream: 0,
            id: None,
            of: Incarnation::from_random(1, 0),
            mailbox: Mailbox::default(),
            posting: false,
            up: VecDeque::new(),
            up_until: 0,
            down: VecDeque::new(),
            down_until: 0,
            noted: VecDeque::new(),
            connected: false,
            named: None,
            lease_ends: Time::ZERO,
            asked: BTreeMap::new(),
            requests: 0,
            changes: [0; ADDRESSES_MAX],
            heard: 0,
            applied: [0; ADDRESSES_MAX],
            needed: 0,
            shown: [0; ADDRESSES_MAX],
            kept: vec![None; ADDRESSES_MAX],
            hangs_until: 0,
            stopped_until: 0,
        }
    }

    /// When its tasks do anything again.
    pub(crate) fn tasks_from(&self) -> Micros {
        self.hangs_until.max(self.stopped_until)
    }

    /// Whether its lease holds, by its own clock.
    pub(crate) fn is_leased(&self, now: Micros) -> bool {
        self.clock.at(now) < self.lease_ends
    }

    /// The client has lost its stream, or gives its lease up: the table is empty.
    pub(crate) fn empty(&mut self) {
        self.lease_ends = Time::ZERO;
        self.asked.clear();
        self.named = None;
        self.needed = 0;
        self.kept.fill(None);
        self.forget();
    }

    /// Whatever it has is from before something.
    pub(crate) fn forget(&mut self) {
        for changes in &mut self.changes {
            *changes += 1;
        }
    }

    /// Both ends begin anew.
    pub(crate) fn begin(&mut self) {
        self.stream += 1;
        self.connected = true;
        self.id = None;
        self.mailbox = Mailbox::default();
        self.posting = false;
        self.up.clear();
        self.down.clear();
        self.noted.clear();
        self.requests = 0;
        self.heard = 0;
        self.needed = 0;
    }

    /// How long a message takes on this machine: a moment, now and then long.
    fn latency(&mut self) -> Micros {
        match self.rng.random_range(0..40) {
            0 => self.rng.random_range(MILLISECOND..60 * MILLISECOND),
            _ => self.rng.random_range(15..300),
        }
    }

    /// How long a look-up is under way, each way.
    pub(crate) fn look_up(&mut self) -> Micros {
        match self.rng.random_range(0..8) {
            0 => self.rng.random_range(MILLISECOND..80 * MILLISECOND),
            _ => self.rng.random_range(20..400),
        }
    }

    /// When a message that is said now is heard above.
    pub(crate) fn way_up(&mut self, now: Micros) -> Micros {
        self.up_until = self.up_until.max(now + self.latency());
        self.up_until
    }

    /// When a message that is said now is heard below.
    pub(crate) fn way_down(&mut self, now: Micros) -> Micros {
        self.down_until = self.down_until.max(now + self.latency());
        self.down_until
    }
}
