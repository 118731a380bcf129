//! The schedule of a run: what applications do and what goes wrong, with every choice already made.
//!
//! A schedule is a plain list of operations, so that a violation can be shrunk by taking some of them out: an operation
//! draws nothing while it runs, and the streams of network and disks are their own.

use grapevine_core::event::PurgeMode;
use grapevine_core::index::Combine;
use grapevine_core::machine::effects::ReceiptLevel;

use crate::clock::{MILLISECOND, Micros};
use crate::shelves::{List, Shift};

/// One operation and when it begins.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// When.
    pub(crate) at: Micros,
    /// What.
    pub(crate) what: What,
}

/// Where a reader reads on a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// At read-committed isolation: what is committed when the statement begins.
    Primary,
    /// Inside a snapshot that began right after the look-up, as [`ReadOp::snapshot`] says.
    Snapshot,
    /// A replica that lags this much.
    Replica(Micros),
    /// Inside the database snapshot of this operation, which its sidecar was told of.
    Inside(usize),
}

/// A read through the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOp {
    /// At which sidecar.
    pub(crate) node: usize,
    /// Which address; for a session, which of those that its write covers.
    pub(crate) address: usize,
    /// From the look-up to the cache's answer.
    pub(crate) get: Micros,
    /// From the look-up to the begin of the snapshot, where there is one.
    pub(crate) snapshot: Micros,
    /// From the miss to the read of the database.
    pub(crate) query: Micros,
    /// From the read of the database to the store: what is computed, and whatever holds the application up.
    pub(crate) compute: Micros,
    /// How long a store is on its way to the cache.
    pub(crate) set: Micros,
    /// Where it reads on a miss.
    pub(crate) source: Source,
    /// Whether it carries the session of the write that was answered last.
    pub(crate) session: bool,
    /// The random number given to resolve.
    pub(crate) jitter: u32,
    /// Whether it takes what a soft write replaced, where policy lets it, and computes the value anew.
    pub(crate) stale: bool,
    /// How it asks for its turn, where policy says so.
    pub(crate) ask: AskOp,
    /// The local table of its process, if it has one: which of its sidecar's.
    pub(crate) local: Option<usize>,
}

/// What goes wrong with a client that has a local table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LocalFault {
    /// Its tasks hang for so long, and its readers go on.
    Hangs(Micros),
    /// Its process is stopped for so long.
    Stops(Micros),
    /// Its stream breaks, and each end learns of that after so long.
    Breaks {
        /// The sidecar.
        above: Micros,
        /// The client.
        below: Micros,
    },
    /// It releases its table, and opens another one.
    Releases,
}

/// How a reader asks for its turn to fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskOp {
    /// How long its sidecar is to wait at a time.
    pub(crate) wait: Micros,
    /// After how long its process is gone, counted from its first question.
    pub(crate) goes: Option<(Micros, Going)>,
}

/// How the process of a reader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    /// It dies, and its connections end.
    Dies,
    /// It hangs, and its connections stand.
    Hangs,
}

/// Several reads inside one database snapshot, which a sidecar is told of before it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InsideOp {
    /// At which sidecar.
    pub(crate) node: usize,
    /// For how long it is opened; zero for as long as a fill may take.
    pub(crate) lease: Micros,
    /// From its opening to the begin of the database snapshot.
    pub(crate) begins: Micros,
    /// The reads, and how long after that each looks up: not at the same moment.
    pub(crate) reads: [(Micros, ReadOp); 4],
}

/// A read of a list, by a reader that loads it where it is absent and prunes it where it has too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafOp {
    /// At which sidecar, where it reads the database, and how long each of its steps takes.
    pub(crate) read: ReadOp,
    /// Which list.
    pub(crate) list: List,
    /// Another list that it is read together with, as one.
    pub(crate) with: Option<(Combine, List)>,
    /// How many members it asks for.
    pub(crate) limit: usize,
    /// Whether members are left out of which the sidecar knows a newer version elsewhere.
    pub(crate) verified: bool,
    /// Of how many first ones it loads the list, where there are more; 0 for all.
    pub(crate) first: usize,
    /// Whether it stores what it has read in two parts.
    pub(crate) in_parts: bool,
}

/// A write, and the invalidation after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOp {
    /// At which sidecar.
    pub(crate) node: usize,
    /// Which kind.
    pub(crate) kind: usize,
    /// From the commit to the call.
    pub(crate) call: Micros,
    /// The receipt asked for.
    pub(crate) level: ReceiptLevel,
    /// Whether readers may have what it replaces for a while.
    pub(crate) soft: bool,
    /// Whether the application dies between commit and call.
    pub(crate) dies: bool,
    /// How it was declared before it was committed, if it was.
    pub(crate) declared: Option<Declared>,
    /// What it changes of rows that are in lists, if it does.
    pub(crate) shift: Option<Shift>,
}

impl WriteOp {
    /// What it asks to be done with known addresses.
    pub(crate) fn purge(&self) -> PurgeMode {
        if self.soft {
            PurgeMode::Soft
        } else {
            PurgeMode::Hard
        }
    }
}

/// A write intent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    /// The lease asked for.
    pub(crate) lease: Micros,
    /// From the call to the commit or abort; longer than the lease for an application that does not heed it.
    pub(crate) takes: Micros,
    /// What the application does then.
    pub(crate) then: Then,
}

/// What becomes of a declared write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is committed; whether that is told says [`WriteOp::dies`].
    Commits,
    /// It is aborted, and that is told at this sidecar.
    Aborts(usize),
    /// The application dies before it commits.
    Dies,
}

/// A path that is cut for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutOp {
    /// How long.
    pub(crate) lasts: Micros,
    /// Whether what is said meanwhile arrives when it heals, or is lost.
    pub(crate) holds: bool,
    /// After how long the links on it break, if they do.
    pub(crate) breaks: Option<Micros>,
}

/// What replaces a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: it is empty.
    Wiped,
    /// The last copy that was made of it.
    Restored,
}

/// What an operation does.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// An application reads.
    Read(ReadOp),
    /// An application reads inside a database snapshot.
    Inside(Box<InsideOp>),
    /// An application reads a list.
    Leaf(Box<LeafOp>),
    /// An application writes.
    Write(WriteOp),
    /// An application registers an address that it filled without a lease.
    Register {
        /// At which sidecar.
        node: usize,
        /// Which address.
        address: usize,
    },
    /// Something is wrong with a client that has a local table.
    Local {
        /// At which sidecar.
        node: usize,
        /// Which of its tables.
        local: usize,
        /// What.
        fault: LocalFault,
    },
    /// `kill -9`, and a start later.
    Crash {
        /// Which sidecar.
        node: usize,
        /// How long it is down.
        down: Micros,
        /// Which part of the flush under way reaches the disk, in 256ths.
        keep: u8,
        /// Whether its host vanishes, so that links end late.
        vanish: bool,
    },
    /// It leaves in order, and starts again.
    Drain {
        /// Which sidecar.
        node: usize,
        /// How long it is down.
        down: Micros,
    },
    /// It dies, and its disk is another one at the next start.
    Lose {
        /// Which sidecar.
        node: usize,
        /// How long it is down.
        down: Micros,
        /// What it finds.
        loss: Loss,
    },
    /// A copy is made of its disk.
    Copy {
        /// Which sidecar.
        node: usize,
    },
    /// All die at once.
    Mass {
        /// How long each is down, at most.
        down: Micros,
        /// Whether all disks are wiped.
        wipe: bool,
    },
    /// SIGSTOP for a while.
    Stop {
        /// Which sidecar.
        node: usize,
        /// How long.
        lasts: Micros,
    },
    /// One path is cut, one way.
    Cut {
        /// Who is not heard.
        from: usize,
        /// By whom.
        to: usize,
        /// How.
        cut: CutOp,
    },
    /// A sidecar is cut off from all others, both ways.
    Isolate {
        /// Which sidecar.
        node: usize,
        /// How.
        cut: CutOp,
    },
    /// The path between two is cut again and again.
    Flap {
        /// One.
        one: usize,
        /// The other.
        other: usize,
        /// How often.
        times: u32,
        /// How long it is cut, and how long it is not.
        each: Micros,
    },
    /// Messages are lost everywhere.
    Lossy {
        /// How long.
        lasts: Micros,
        /// How many of a hundred.
        percent: u32,
    },
    /// Flushes take long.
    SlowDisk {
        /// Whose.
        node: usize,
        /// How long.
        lasts: Micros,
    },
    /// A log is trimmed to what is not state yet.
    Compact {
        /// Whose.
        node: usize,
    },
    /// The cache is cut off from everybody, and comes back with what it had.
    CacheAway {
        /// How long.
        lasts: Micros,
    },
    /// Deletes get lost.
    LoseDeletes {
        /// How long.
        lasts: Micros,
    },
    /// The cache evicts a value.
    Evict {
        /// Which.
        pick: u64,
    },
    /// A wall clock is stepped.
    StepWall {
        /// Whose.
        node: usize,
        /// By how much.
        seconds: i32,
    },
    /// Gossip at one sidecar suspects another that is well.
    Suspect {
        /// Who suspects.
        node: usize,
        /// Whom.
        about: usize,
        /// How long.
        lasts: Micros,
    },
    /// A second process starts under a node id in use.
    Twin {
        /// Whose.
        node: usize,
        /// Whether it starts on a copy of the disk, or on none.
        copied: bool,
        /// How long it runs.
        lasts: Micros,
    },
    /// The sidecar crashes as soon as it has begun to receive a snapshot.
    TrapSnapshot {
        /// Which.
        node: usize,
        /// How long it is down.
        down: Micros,
    },
    /// The disk of a sidecar is lost once a view is taken over in which another one's seat was spared, and that one, or a
    /// third one, crashes with it.
    TrapSpared {
        /// Whose disk.
        node: usize,
        /// Who crashes as well.
        with: usize,
        /// How long after the view.
        late: Micros,
        /// How long both are down.
        down: Micros,
    },
}

impl What {
    /// The fault that it is, for counting; `None` for what applications do.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        Some(match self {
            Self::Read(_) | Self::Inside(_) | Self::Leaf(_) | Self::Register { .. } => return None,
            Self::Write(write) => {
                let dies = write
                    .declared
                    .is_some_and(|declared| declared.then == Then::Dies);
                return (write.dies || dies).then_some("application_died");
            }
            Self::Local { fault, .. } => match fault {
                LocalFault::Hangs(_) => "table_hangs",
                LocalFault::Stops(_) => "table_stopped",
                LocalFault::Breaks { .. } => "table_stream_broken",
                LocalFault::Releases => "table_released",
            },
            Self::Crash { vanish: false, .. } => "crash",
            Self::Crash { vanish: true, .. } => "host_vanished",
            Self::Drain { .. } => "drain",
            Self::Lose {
                loss: Loss::Wiped, ..
            } => "disk_wiped",
            Self::Lose {
                loss: Loss::Restored,
                ..
            } => "disk_restored",
            Self::Copy { .. } => "disk_copied",
            Self::Mass { wipe: false, .. } => "mass_restart",
            Self::Mass { wipe: true, .. } => "mass_wipe",
            Self::Stop { .. } => "stopped",
            Self::Cut { .. } => "one_way_partition",
            Self::Isolate { .. } => "partition",
            Self::Flap { .. } => "flapping_link",
            Self::Lossy { .. } => "message_loss",
            Self::SlowDisk { .. } => "slow_disk",
            Self::Compact { .. } => "log_compacted",
            Self::CacheAway { .. } => "cache_away",
            Self::LoseDeletes { .. } => "deletes_lost",
            Self::Evict { .. } => "cache_evicted",
            Self::StepWall { .. } => "wall_stepped",
            Self::Suspect { .. } => "wrong_suspicion",
            Self::Twin { .. } => "node_id_twice",
            Self::TrapSnapshot { .. } => "crash_in_snapshot",
            Self::TrapSpared { .. } => "trap_after_sparing",
        })
    }
}

/// When the last operation of a schedule begins at the latest.
pub(crate) const HORIZON: Micros = 8_000 * MILLISECOND;
