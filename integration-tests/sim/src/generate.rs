//! From a seed to a plan: background load, and motifs that bring races about.
//!
//! Most of what can go wrong needs several things at once, which plain chance brings together too seldom. So faults come
//! as motifs: an isolated sidecar gets writes on both sides and readers within; a stopped one is read at the very moment
//! it goes on; a disk is copied, outdated and restored; a log is compacted and its reader crashed in the snapshot; an
//! origin is heard by one peer only and dies.

use std::time::Duration;

use grapevine_core::machine::effects::ReceiptLevel;
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::clock::{MILLISECOND, Micros};
use crate::declare;
use crate::inside;
use crate::leaves;
use crate::local_reads;
use crate::motifs;
use crate::network::Weather;
use crate::refresh;
use crate::rng::stream;
use crate::scenario::Scenario;
use crate::schedule::{AskOp, Going, HORIZON, Op, ReadOp, Source, What, WriteOp};
use crate::shop::{ADDRESSES_MAX, Shop};
use crate::stampede;

/// The end of the time in which a cluster comes up undisturbed.
pub(crate) const BEGIN: Micros = 400 * MILLISECOND;
/// After how long the only silent member loses its seat, by seed.
const CRASH_TIMEOUTS: [Duration; 3] = [
    Duration::from_millis(600),
    Duration::from_secs(2),
    Duration::from_hours(1),
];

/// Everything that a run needs to know beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The seed.
    pub(crate) seed: u64,
    /// Sidecars.
    pub(crate) size: usize,
    /// What happens, by time.
    pub(crate) ops: Vec<Op>,
    /// How messages fare.
    pub(crate) weather: Weather,
    /// How long a member may be gone.
    pub(crate) member_timeout: Duration,
    pub(crate) crash_timeout: Duration,
    /// How long a run must have been over before it is retired, and how many such runs may stay.
    pub(crate) retire_after: Duration,
    pub(crate) old_runs_max: usize,
    /// How many retirements views repeat.
    pub(crate) retired_max: usize,
    /// How many bumped classes a top-level class may have.
    pub(crate) classes_per_top: usize,
    /// How many members all leaves of a sidecar may have, with eight more for each leaf.
    pub(crate) index_members: usize,
    /// How many peers are told of bumps directly, and of how many runs every grant tells.
    pub(crate) direct: (usize, usize),
    /// Whether nothing goes wrong, so that hits are asserted.
    pub(crate) calm: bool,
}

/// What may go wrong in one run.
#[expect(
    clippy::struct_excessive_bools,
    reason = "any of them may go wrong together"
)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Climate {
    /// Messages and paths.
    pub(crate) network: bool,
    /// Crashes and disks.
    pub(crate) disks: bool,
    /// Stopped processes and walls.
    pub(crate) pauses: bool,
    /// The cache.
    pub(crate) caches: bool,
    /// Readers read a replica.
    pub(crate) replica: bool,
}

impl Climate {
    fn of(scenario: Scenario, rng: &mut SmallRng) -> Self {
        let none = Self::default();
        let all = Self {
            network: true,
            disks: true,
            pauses: true,
            caches: true,
            replica: false,
        };
        let network = Self {
            network: true,
            ..none
        };
        let disks = Self {
            disks: true,
            ..none
        };
        let pauses = Self {
            pauses: true,
            ..none
        };
        let caches = Self {
            caches: true,
            ..none
        };
        match scenario {
            Scenario::Calm => none,
            Scenario::Network => network,
            Scenario::Disks => disks,
            Scenario::Pauses => pauses,
            Scenario::Caches => caches,
            Scenario::ReplicaLag => Self {
                replica: true,
                ..none
            },
            Scenario::LongLife | Scenario::LostTrack => Self {
                pauses: true,
                disks: true,
                ..network
            },
            Scenario::ShortMemory => Self {
                disks: true,
                ..network
            },
            Scenario::Storm | Scenario::Relayed => match rng.random_range(0..12) {
                0 => none,
                1 => network,
                2 | 3 => disks,
                4 => pauses,
                5 => caches,
                _ => all,
            },
        }
    }

    pub(crate) fn is_calm(self) -> bool {
        !(self.network || self.disks || self.pauses || self.caches || self.replica)
    }
}

/// Makes a plan.
pub(crate) struct Generator<'a> {
    /// What is drawn from.
    pub(crate) rng: SmallRng,
    /// Sidecars.
    pub(crate) size: usize,
    /// What may go wrong.
    pub(crate) climate: Climate,
    /// After how long the only silent member loses its seat.
    pub(crate) crash_timeout: Duration,
    pub(crate) shop: &'a Shop,
    ops: Vec<Op>,
}

/// The plan of a seed.
pub(crate) fn generate(seed: u64, size: usize, scenario: Scenario, shop: &Shop) -> Plan {
    let mut rng = stream(seed, 0);
    let climate = Climate::of(scenario, &mut rng);
    let mut generator = Generator {
        rng,
        size,
        climate,
        crash_timeout: CRASH_TIMEOUTS[usize::try_from(seed % 3).expect("invariant: below 3")],
        shop,
        ops: Vec::new(),
    };
    generator.background();
    if !climate.is_calm() {
        motifs::add(&mut generator);
    }
    let weather = generator.weather();
    let rng = &mut generator.rng;
    let classes_per_top = if climate.is_calm() {
        1_000
    } else {
        [3, 4, 6, 1_000][rng.random_range(0..4)]
    };
    declare::add(&mut generator);
    stampede::add(&mut generator);
    refresh::add(&mut generator);
    inside::add(&mut generator);
    let index_members = if climate.is_calm() {
        1_000
    } else {
        [24, 36, 1_000][generator.rng.random_range(0..3)]
    };
    leaves::add(&mut generator);
    local_reads::add(&mut generator);
    let crash_timeout = generator.crash_timeout;
    let lost_track = scenario == Scenario::LostTrack;
    let relayed = scenario == Scenario::Relayed;
    // What was told in earlier views counts with those: views come and go here in one seed of two.
    let long_life =
        lost_track || scenario == Scenario::LongLife || relayed && seed.is_multiple_of(2);
    let mut ops = generator.ops;
    ops.sort_by_key(|op| op.at);
    Plan {
        seed,
        size,
        ops,
        weather,
        member_timeout: if lost_track || scenario == Scenario::ShortMemory {
            Duration::from_millis(900)
        } else {
            Duration::from_hours(1)
        },
        crash_timeout,
        retire_after: if long_life {
            Duration::from_millis(if lost_track { 800 } else { 200 })
        } else {
            Duration::from_hours(1)
        },
        old_runs_max: if long_life { 0 } else { 64 },
        retired_max: if lost_track { 3 } else { 1_024 },
        classes_per_top,
        index_members,
        direct: if relayed { (1, 0) } else { (64, 16) },
        calm: climate.is_calm(),
    }
}

impl Generator<'_> {
    fn weather(&mut self) -> Weather {
        let network = self.climate.network;
        let latency = if network {
            [150, 400, 2_000, 8_000][self.rng.random_range(0..4)]
        } else {
            [100, 250][self.rng.random_range(0..2)]
        };
        Weather {
            latency,
            slow_one_in: if network { 25 } else { 400 },
            twice_one_in: if network { 40 } else { 0 },
            lost_one_in: if network {
                [0, 200, 40][self.rng.random_range(0..3)]
            } else {
                0
            },
        }
    }

    /// A moment at which faults may begin.
    pub(crate) fn moment(&mut self) -> Micros {
        self.rng.random_range(BEGIN..HORIZON - 2_500 * MILLISECOND)
    }

    /// A sidecar.
    pub(crate) fn node(&mut self) -> usize {
        self.rng.random_range(0..self.size)
    }

    /// Another sidecar than this one.
    pub(crate) fn other(&mut self, than: usize) -> usize {
        (than + self.rng.random_range(1..self.size)) % self.size
    }

    /// Adds an operation, unless it lies behind the horizon.
    pub(crate) fn put(&mut self, at: Micros, what: What) {
        if at < HORIZON {
            self.ops.push(Op { at, what });
        }
    }

    fn background(&mut self) {
        let reads = self.rng.random_range(250..600);
        for _ in 0..reads {
            let at = self.rng.random_range(BEGIN / 2..HORIZON);
            // The first addresses are read more often than the last.
            let address = self.rng.random_range(0..ADDRESSES_MAX);
            let node = if self.climate.disks && self.rng.random_range(0..20) == 0 {
                // At the twin, should there be one.
                self.size
            } else {
                self.node()
            };
            let read = self.read_of(node, address);
            self.put(at, What::Read(read));
        }
        let writes = self.rng.random_range(25..90);
        for _ in 0..writes {
            let at = self.rng.random_range(BEGIN..HORIZON);
            let write = self.write_at_any();
            self.put(at, What::Write(write));
        }
        let evictions = if self.climate.caches { 12 } else { 0 };
        for _ in 0..evictions {
            let at = self.moment();
            let pick = self.rng.random();
            self.put(at, What::Evict { pick });
        }
        for _ in 0..8 {
            let (at, node) = (self.moment(), self.node());
            let address = self.rng.random_range(0..ADDRESSES_MAX);
            self.put(at, What::Register { node, address });
        }
    }

    /// How long something of an application takes: mostly a moment, now and then very long.
    pub(crate) fn delay(&mut self) -> Micros {
        let rng = &mut self.rng;
        match rng.random_range(0..100) {
            0..80 => rng.random_range(100..3 * MILLISECOND),
            80..95 => rng.random_range(3 * MILLISECOND..60 * MILLISECOND),
            95..99 => rng.random_range(60 * MILLISECOND..600 * MILLISECOND),
            _ => rng.random_range(600 * MILLISECOND..3_500 * MILLISECOND),
        }
    }

    /// A read of an address.
    pub(crate) fn read_of(&mut self, node: usize, address: usize) -> ReadOp {
        let source = match self.rng.random_range(0..10) {
            _ if self.climate.replica && self.rng.random_range(0..2) == 0 => {
                Source::Replica(self.rng.random_range(1..400) * MILLISECOND)
            }
            0..4 => Source::Snapshot,
            _ => Source::Primary,
        };
        ReadOp {
            node,
            address,
            get: self.rng.random_range(50..1_500),
            snapshot: self.rng.random_range(0..50),
            query: self.rng.random_range(50..2 * MILLISECOND),
            compute: self.delay(),
            set: self.rng.random_range(50..2 * MILLISECOND),
            source,
            session: self.rng.random_range(0..12) == 0,
            jitter: self.rng.random(),
            stale: self.rng.random_range(0..2) == 0,
            ask: self.ask(),
            local: None,
        }
    }

    /// How a reader asks for its turn.
    fn ask(&mut self) -> AskOp {
        let wait = [1_000, 1_000, 300, 40][self.rng.random_range(0..4)];
        let goes = (!self.climate.is_calm() && self.rng.random_range(0..6) == 0).then(|| {
            let hangs = self.rng.random_range(0..4) == 0;
            let how = if hangs { Going::Hangs } else { Going::Dies };
            (self.delay(), how)
        });
        AskOp {
            wait: wait * MILLISECOND,
            goes,
        }
    }

    /// Some kind of write: mostly one that matters to an address.
    pub(crate) fn kind(&mut self) -> usize {
        let common = self.shop.common;
        match self.rng.random_range(0..100) {
            0..75 => self.rng.random_range(0..common - 3),
            75..80 => self.rng.random_range(common - 3..common - 1),
            80 => common - 1,
            _ => self.rng.random_range(common..self.shop.shifts),
        }
    }

    /// Some kind of write that covers an address.
    pub(crate) fn kind_of(&mut self, address: usize) -> usize {
        let kinds = &self.shop.kinds[..self.shop.common - 1];
        let covering = kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| kind.covers.has(address));
        let covering: Vec<_> = covering.map(|(kind, _)| kind).collect();
        covering[self.rng.random_range(0..covering.len())]
    }

    fn level(&mut self) -> ReceiptLevel {
        match self.rng.random_range(0..10) {
            0..2 => ReceiptLevel::None,
            2..5 => ReceiptLevel::One,
            5..6 => ReceiptLevel::Quorum,
            _ => ReceiptLevel::All,
        }
    }

    /// A write of a kind at a sidecar.
    pub(crate) fn write_of(&mut self, node: usize, kind: usize) -> WriteOp {
        let covers = self.shop.kinds[kind].covers;
        let fades = self.shop.fading().into_iter().any(|it| covers.has(it));
        let soft_in = if fades { 3 } else { 40 };
        WriteOp {
            node,
            kind,
            soft: fades == (self.rng.random_range(0..soft_in) > 0),
            call: self.rng.random_range(50..2 * MILLISECOND),
            level: self.level(),
            dies: self.climate.disks && self.rng.random_range(0..40) == 0,
            declared: None,
            shift: None,
        }
    }

    fn write_at_any(&mut self) -> WriteOp {
        let (node, kind) = (self.node(), self.kind());
        self.write_of(node, kind)
    }

    /// A read of some address at a moment.
    pub(crate) fn read(&mut self, at: Micros, node: usize, address: usize) {
        let read = self.read_of(node, address);
        self.put(at, What::Read(read));
    }

    /// A write at a moment.
    pub(crate) fn write(&mut self, at: Micros, node: usize, kind: usize) {
        let write = self.write_of(node, kind);
        self.put(at, What::Write(write));
    }

    /// Some address.
    pub(crate) fn address(&mut self) -> usize {
        self.rng.random_range(0..ADDRESSES_MAX)
    }
}
