//! What a replay can be told, what of it makes no sense, and what follows from it for writers, readers and sidecars.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::workers::{Owed, Sessions};
use super::{PAGE_ITEMS, TTL_LONG, WATCH_QUEUE};
use crate::arm::Arm;
use crate::caches::{CacheKind, MEMORY_MIB_DEFAULT};

const WORKERS_MAX: u32 = 1_024;
/// Readers and writers per node unless told otherwise.
pub const WORKERS_DEFAULT: u32 = 32;
/// Caches that count in whole seconds keep a shorter one for a second too.
const TTL_MIN: Duration = Duration::from_secs(1);

/// What to replay, and how.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each stands for a flag of the command line"
)]
pub struct ReplayOptions {
    /// The executable that understands `sidecar`, usually the running one.
    pub executable: PathBuf,
    /// The trace, xz-compressed.
    pub trace: PathBuf,
    /// Sidecars, 1 to 50; their clients run in this process.
    pub nodes: u32,
    /// The share of operations that write, 0 to 1.
    pub writes: f64,
    /// The cache server to start.
    pub cache: CacheKind,
    /// What it may hold, in MiB; more than a trace fills if it is not said. Otherwise hits show what the lack of room costs, and
    /// none are asked for.
    pub cache_memory_mib: Option<u32>,
    /// The strategy or the control arm.
    pub strategy: Arm,
    /// Reads slices of lists, and writes groups of objects too.
    pub pages: bool,
    /// What a write waits for, and so what a read may count on. [`Arm::IgnoreSession`] has `none`, whatever stands here.
    pub receipt: ReplayReceipt,
    /// Each worker's reads must show its own writes, by session token. Receipts below `all` promise nothing else, and so must
    /// come with it where a strategy promises writes at all.
    pub session: bool,
    /// What every draw begins from.
    pub seed: u64,
    /// The first records only.
    pub limit: Option<u64>,
    /// The time to live under the strategy `ttl` and in the arm `ttl-alone`; above zero. The others' is long.
    pub ttl: Duration,
    /// Readers and writers per node, 1 to 1,024. More of them put more look-ups into one call.
    pub workers: u32,
    /// Entries of a local table in each node's client; none has no table. Nothing without sidecars.
    pub local_table: Option<usize>,
    /// Prints one line of JSON instead of a table.
    pub json: bool,
    /// Shows a bar on standard error.
    pub progress: bool,
}

impl ReplayOptions {
    /// A replay of a whole trace with everything else at its default.
    pub fn new(executable: PathBuf, trace: PathBuf, strategy: Arm) -> Self {
        Self {
            executable,
            trace,
            nodes: 3,
            writes: 0.07,
            cache: CacheKind::Embedded,
            cache_memory_mib: None,
            strategy,
            pages: false,
            receipt: ReplayReceipt::All,
            session: false,
            seed: 1,
            limit: None,
            ttl: Duration::from_secs(10),
            workers: WORKERS_DEFAULT,
            local_table: None,
            json: false,
            progress: true,
        }
    }

    /// Whether it can be replayed; asked by [`run`](super::run) too, before anything is started.
    pub fn check(&self) -> Result<(), OptionsError> {
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return Err(OptionsError::Workers(self.workers));
        }
        if self.ttl < TTL_MIN {
            return Err(OptionsError::Ttl(self.ttl));
        }
        if self.cache_memory_mib.is_some() && self.cache == CacheKind::Embedded {
            return Err(OptionsError::EmbeddedMemory);
        }
        if self.strategy.is_grapevine()
            && self.strategy.promises_writes()
            && self.write_receipt() != ReplayReceipt::All
            && !self.judged_by_session()
        {
            return Err(OptionsError::NothingOwed(self.receipt));
        }
        Ok(())
    }

    /// What the cache is given, in MiB.
    pub(super) fn memory_mib(&self) -> u32 {
        self.cache_memory_mib.unwrap_or(MEMORY_MIB_DEFAULT)
    }

    /// What a write really waits for.
    pub(super) fn write_receipt(&self) -> ReplayReceipt {
        match self.strategy {
            Arm::IgnoreSession => ReplayReceipt::None,
            _ => self.receipt,
        }
    }

    fn judged_by_session(&self) -> bool {
        self.session || self.strategy == Arm::IgnoreSession
    }

    /// What becomes of session tokens.
    pub(super) fn sessions(&self) -> Sessions {
        match self.strategy {
            Arm::IgnoreSession => Sessions::Ignored,
            strategy if strategy.is_grapevine() && self.session => Sessions::Carried,
            _ => Sessions::Unused,
        }
    }

    /// Which writes a read is owed.
    pub(super) fn owed(&self) -> Owed {
        if !self.strategy.promises_writes() {
            // Age is what counts there.
            Owed::Nobody
        } else if !self.strategy.is_grapevine() || self.write_receipt() == ReplayReceipt::All {
            Owed::Everyone
        } else {
            Owed::Session
        }
    }

    /// How long a value lives in the cache at most.
    pub(super) fn value_ttl(&self) -> Duration {
        match self.strategy {
            Arm::Ttl | Arm::TtlAlone => self.ttl,
            _ => TTL_LONG,
        }
    }

    /// The sidecars' configuration.
    pub(crate) fn sidecar_config(&self) -> String {
        let strategy = self.strategy.policy_strategy().unwrap_or_default();
        let ttl = self.value_ttl();
        let ttl = if ttl.subsec_nanos() == 0 {
            format!("{}s", ttl.as_secs())
        } else {
            format!("{}ms", ttl.as_millis())
        };
        let paging = if self.pages {
            PAGE_ITEMS.to_string()
        } else {
            "\"off\"".to_owned()
        };
        format!(
            "[cluster]\nexpected_members = {nodes}\n\
             [freshness]\nmax_staleness = \"2s\"\nmember_timeout = \"30s\"\n\
             [limits]\nqueue_watch_max = {WATCH_QUEUE}\n\
             [policy_default]\nstrategy = \"{strategy}\"\nttl = \"{ttl}\"\npaging = {paging}\non_unknown = \"bypass\"\n",
            nodes = self.nodes,
        )
    }
}

/// Options that cannot be had, or not together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// The number of workers.
    #[error("workers: {0} is not between 1 and {WORKERS_MAX}")]
    Workers(u32),
    /// The time to live.
    #[error("ttl: {0:?} is below {TTL_MIN:?}, the least that every cache keeps to")]
    Ttl(Duration),
    /// A bound of memory for a cache that has none.
    #[error(
        "--cache-memory: the embedded cache throws nothing out; take --cache memcached or --cache redis"
    )]
    EmbeddedMemory,
    /// No read would be owed anything, so that none could be stale.
    #[error(
        "--receipt {0} without --session: such a write promises other sessions nothing, so no read could be stale; add --session, or take --receipt all"
    )]
    NothingOwed(ReplayReceipt),
}

/// What a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayReceipt {
    /// Every sidecar has it, or can no longer serve old data.
    All,
    /// The sidecar that was asked and one more have it.
    One,
    /// The sidecar that was asked has it.
    None,
}

/// A name that no receipt has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("receipt: `{0}` is none of all, one, none")]
pub struct UnknownReceipt(String);

impl FromStr for ReplayReceipt {
    type Err = UnknownReceipt;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "all" => Ok(Self::All),
            "one" => Ok(Self::One),
            "none" => Ok(Self::None),
            _ => Err(UnknownReceipt(name.to_owned())),
        }
    }
}

impl fmt::Display for ReplayReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::One => "one",
            Self::None => "none",
        })
    }
}
