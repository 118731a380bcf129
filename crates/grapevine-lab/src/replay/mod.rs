//! Replays a trace through real sidecars and a real cache, judged from outside.
//!
//! [`run`] starts the cache server and the sidecars itself, and ends them. Its standard output is the figures: one line of
//! JSON, or a table; progress and remarks go to standard error. A run that did not do what it must still tells its
//! figures: the caller asks [`Outcome::failures`] for the exit status.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::arm::Arm;
use crate::caches::CacheKind;
pub use crate::report::Outcome;

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
    /// The strategy or the control arm.
    pub strategy: Arm,
    /// Reads slices of lists, and writes groups of objects too.
    pub pages: bool,
    /// What a write waits for, and so what a read may count on.
    pub receipt: ReplayReceipt,
    /// Each worker's reads must show its own writes, by session token; with receipts below `all`.
    pub session: bool,
    /// What every draw begins from.
    pub seed: u64,
    /// The first records only.
    pub limit: Option<u64>,
    /// The time to live under the strategy `ttl`; above zero. The others' is long.
    pub ttl: Duration,
    /// Readers and writers per node, 1 to 1,024. More of them put more look-ups into one call.
    pub workers: u32,
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
            strategy,
            pages: false,
            receipt: ReplayReceipt::All,
            session: false,
            seed: 1,
            limit: None,
            ttl: Duration::from_secs(10),
            workers: 64,
            json: false,
            progress: true,
        }
    }
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

/// Replays. Ends early, with an error and with everything that it started ended, on Ctrl-C and SIGTERM.
///
/// An outcome whose [`failures`](Outcome::failures) are not empty stands for a non-zero exit status; they have been
/// printed to standard error then.
pub async fn run(options: ReplayOptions) -> anyhow::Result<Outcome> {
    std::future::ready(()).await;
    anyhow::bail!("not replayed: {}", options.trace.display())
}
