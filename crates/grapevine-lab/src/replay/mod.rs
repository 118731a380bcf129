//! Replays a trace through real sidecars and a real cache, judged from outside.
//!
//! [`run`] starts the cache server and the sidecars itself, and ends them. Its standard output is the figures: one line of
//! JSON, or a table; progress and remarks go to standard error. A run that did not do what it must still tells its
//! figures: the caller asks [`Outcome::failures`] for the exit status.

mod access;
mod control;
mod grapevine;
mod progress;
mod source;
mod workers;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use parking_lot::Mutex;
use thiserror::Error;

use self::access::Access;
use self::control::{ControlAccess, Filled};
use self::grapevine::GrapevineAccess;
use self::progress::Progress;
use self::source::Source;
use self::workers::{Owed, Run};
use crate::arm::Arm;
use crate::caches::{CacheKind, CacheServer};
use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterConfig, Node};
use crate::converge::Convergence;
use crate::interrupt::until_interrupted;
pub use crate::report::Outcome;
use crate::sequence::{COUNTERS_MAX, Sequence};
use crate::trace::TraceReader;
use crate::truth::Truth;
use crate::watchers;
use crate::workload::{PagesConfig, Workload, WorkloadConfig};

/// Groups of ids per type, with pages.
pub const GROUPS: u32 = 64;
/// Items of a page.
pub const PAGE_ITEMS: u32 = 10;

const WORKERS_MAX: u32 = 1_024;
/// Readers and writers per node unless told otherwise.
pub const WORKERS_DEFAULT: u32 = 32;
/// Caches that count in whole seconds keep a shorter one for a second too.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Longer than any run: under the strategies that invalidate, only invalidations make values go.
const TTL_LONG: Duration = Duration::from_hours(12);
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// Events whose way to all sidecars is being measured at one time.
const CONVERGENCE_PENDING_MAX: usize = 100_000;
/// So that a watcher that is slow for a moment misses nothing.
const WATCH_QUEUE: u32 = 65_536;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(10);

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
            workers: WORKERS_DEFAULT,
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
    let outcome = until_interrupted(replay(&options)).await?;
    let report = outcome.report();
    if options.json {
        println!("{}", report.json_line());
    } else {
        println!("{}", report.table());
    }
    if outcome.converge_incomplete > 0 {
        eprintln!(
            "replay: how long {} invalidations took to all sidecars is not known",
            outcome.converge_incomplete
        );
    }
    for failure in outcome.failures() {
        eprintln!("replay: {failure}");
    }
    Ok(outcome)
}

async fn replay(options: &ReplayOptions) -> anyhow::Result<Outcome> {
    options.check()?;
    let pages = options.pages.then_some(PagesConfig {
        groups: GROUPS,
        page_items: PAGE_ITEMS,
    });
    let workload = Workload::new(WorkloadConfig {
        seed: options.seed,
        nodes: options.nodes,
        writes: options.writes,
        pages,
    })?;
    let trace = TraceReader::open(&options.trace, options.limit)?;
    let progress = Progress::new(options, trace.progress());
    let sequence = Sequence::new(trace, workload.clone());
    progress.say("starting the cache server");
    let cache = CacheServer::start(options.cache).await?;
    let truth = Arc::new(Truth::new(COUNTERS_MAX));
    let parts = Parts {
        options,
        workload: Arc::new(workload),
        source: Source::new(Arc::clone(&truth)),
        truth,
        cache,
        progress,
    };
    let outcome = if options.strategy.is_grapevine() {
        parts.with_sidecars(sequence).await?
    } else {
        parts.without_sidecars(sequence).await?
    };
    Ok(outcome)
}

/// What every arm needs.
struct Parts<'a> {
    options: &'a ReplayOptions,
    workload: Arc<Workload>,
    truth: Arc<Truth>,
    source: Source,
    cache: CacheServer,
    progress: Progress,
}

impl Parts<'_> {
    async fn with_sidecars(self, sequence: Sequence<TraceReader>) -> anyhow::Result<Outcome> {
        let options = self.options;
        self.progress
            .say(&format!("starting {} sidecars", options.nodes));
        let cluster = Cluster::start(ClusterConfig {
            executable: options.executable.clone(),
            nodes: options.nodes,
            name: "replay".to_owned(),
            config_toml: options.sidecar_config(),
            cache_urls: vec![self.cache.url().to_owned()],
            ready_timeout: READY_TIMEOUT,
        })
        .await?;
        let access = |node: &Node| {
            GrapevineAccess::new(
                format!("unix:{}", node.app_unix.display()),
                grapevine_cache::connect(self.cache.url())?,
                Arc::clone(&self.workload),
                self.source.clone(),
                options.receipt,
            )
        };
        let nodes: Arc<[GrapevineAccess]> = cluster
            .nodes()
            .iter()
            .map(access)
            .collect::<anyhow::Result<_>>()?;
        let run = Arc::new(self.run(options.nodes));
        let clients = nodes
            .iter()
            .map(|node| node.cached().client().clone())
            .collect();
        let watchers = watchers::watch(clients, run.clock, &run.convergence).await?;
        let mut outcome = self
            .work(Arc::clone(&run), Arc::clone(&nodes), sequence)
            .await?;
        settle(&run.convergence).await;
        drop(watchers);
        outcome.set_convergence(&run.convergence.lock());
        for node in &*nodes {
            tracing::debug!(client = ?node.cached().client().stats(), cached = ?node.cached().stats(), "a node's client");
        }
        self.progress.say("ending the sidecars");
        cluster.stop().await?;
        self.progress.end();
        Ok(outcome)
    }

    async fn without_sidecars(self, sequence: Sequence<TraceReader>) -> anyhow::Result<Outcome> {
        let filled = Arc::new(Filled::default());
        let access = |_| {
            Ok(ControlAccess {
                arm: self.options.strategy,
                cache: grapevine_cache::connect(self.cache.url())?,
                filled: Arc::clone(&filled),
                workload: Arc::clone(&self.workload),
                source: self.source.clone(),
            })
        };
        let nodes = (0..self.options.nodes)
            .map(access)
            .collect::<anyhow::Result<_>>()?;
        let outcome = self.work(Arc::new(self.run(0)), nodes, sequence).await?;
        self.progress.end();
        Ok(outcome)
    }

    fn run(&self, watched_nodes: u32) -> Run {
        let options = self.options;
        let receipt = options.strategy.is_grapevine().then_some(options.receipt);
        let owed = match receipt {
            _ if !options.strategy.promises_writes() => Owed::Nobody,
            None | Some(ReplayReceipt::All) => Owed::Everyone,
            Some(_) if options.session => Owed::Session,
            Some(_) => Owed::Nobody,
        };
        let convergence = Convergence::new(watched_nodes, CONVERGENCE_PENDING_MAX);
        Run {
            truth: Arc::clone(&self.truth),
            clock: Clock::start(),
            owed,
            sessions: options.session,
            convergence: Arc::new(Mutex::new(convergence)),
            live: Arc::clone(self.progress.live()),
        }
    }

    async fn work<A: Access>(
        &self,
        run: Arc<Run>,
        nodes: Arc<[A]>,
        sequence: Sequence<TraceReader>,
    ) -> anyhow::Result<Outcome> {
        let options = self.options;
        self.progress.begin();
        let begun = Instant::now();
        let ran = workers::run(run, nodes, sequence, options.workers * options.nodes).await?;
        Ok(Outcome {
            arm: options.strategy,
            counts: ran.counts,
            oracle_reads_and_hits: ran.oracle_reads_and_hits,
            converge_ms: None,
            converge_incomplete: 0,
            elapsed: begun.elapsed(),
            ttl: options.ttl,
        })
    }
}

impl ReplayOptions {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=WORKERS_MAX).contains(&self.workers),
            "workers: {} is not between 1 and {WORKERS_MAX}",
            self.workers
        );
        ensure!(
            self.ttl >= TTL_MIN,
            "ttl: {:?} is below {TTL_MIN:?}, the least that every cache keeps to",
            self.ttl
        );
        Ok(())
    }

    /// The sidecars' configuration.
    fn sidecar_config(&self) -> String {
        let strategy = self.strategy.policy_strategy().unwrap_or_default();
        let ttl = if self.strategy == Arm::Ttl {
            self.ttl
        } else {
            TTL_LONG
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
             [log]\nfilter = \"warn\"\n\
             [policy_default]\nstrategy = \"{strategy}\"\nttl = \"{ttl_ms}ms\"\npaging = {paging}\non_unknown = \"bypass\"\n",
            nodes = self.nodes,
            ttl_ms = ttl.as_millis(),
        )
    }
}

/// Waits until the watchers have told what they saw, or have had time enough.
async fn settle(convergence: &Mutex<Convergence>) {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while convergence.lock().incomplete() > 0 && Instant::now() < deadline {
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

#[cfg(test)]
mod tests;
