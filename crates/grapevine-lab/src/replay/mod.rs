//! Replays a trace through real sidecars and a real cache, judged from outside.
//!
//! [`run`] starts the cache server and the sidecars itself, and ends them. Its standard output is the figures: one line of
//! JSON, or a table; progress goes to standard error. A run that did not do what it must still tells its
//! figures: the caller asks [`Outcome::failures`] for the exit status.

mod access;
mod control;
mod grapevine;
mod ledger;
mod options;
mod progress;
mod source;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::access::Access;
use self::control::{ControlAccess, Filled};
use self::grapevine::GrapevineAccess;
pub use self::options::{
    OptionsError, ReplayOptions, ReplayReceipt, UnknownReceipt, WORKERS_DEFAULT,
};
use self::progress::Progress;
use self::source::Source;
use self::workers::{Run, Sessions};
use crate::caches::CacheServer;
use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterConfig, Node};
use crate::converge::Convergence;
use crate::interrupt::{output, print, until_interrupted};
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

/// Longer than any run: under the strategies that invalidate, only invalidations make values go.
const TTL_LONG: Duration = Duration::from_hours(12);
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// Events whose way to all sidecars is being measured at one time.
const CONVERGENCE_PENDING_MAX: usize = 100_000;
/// So that a watcher that is slow for a moment misses nothing.
const WATCH_QUEUE: u32 = 65_536;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(10);

/// Replays. Ends early, with [`Interrupted`](crate::Interrupted) and with everything that it started ended, on Ctrl-C and
/// SIGTERM.
///
/// An outcome whose [`failures`](Outcome::failures) are not empty stands for a non-zero exit status; telling them is left to
/// the caller.
pub async fn run(options: ReplayOptions) -> anyhow::Result<Outcome> {
    let outcome = until_interrupted(replay(&options)).await?;
    let report = outcome.report();
    if options.json {
        print(report.json_line());
    } else {
        print(report.table());
    }
    output()?;
    if outcome.converge_incomplete > 0 {
        tracing::warn!(
            invalidations = outcome.converge_incomplete,
            "how long some invalidations took to all sidecars is not known"
        );
    }
    Ok(outcome)
}

/// Replays without a word about the outcome.
pub(crate) async fn replay(options: &ReplayOptions) -> anyhow::Result<Outcome> {
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
        read_back: options.sessions() != Sessions::Unused,
    })?;
    let trace = TraceReader::open(&options.trace, options.limit)?;
    let progress = Progress::new(options, trace.progress());
    let sequence = Sequence::new(trace, workload.clone());
    progress.say("starting the cache server");
    let cache = CacheServer::start(options.cache, options.memory_mib()).await?;
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
                options.write_receipt(),
                options.local_table,
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
                ttl: self.options.value_ttl(),
                cache: grapevine_cache::connect(self.cache.url())?,
                filled: Arc::clone(&filled),
                workload: Arc::clone(&self.workload),
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
        let convergence = Convergence::new(watched_nodes, CONVERGENCE_PENDING_MAX);
        Run {
            truth: Arc::clone(&self.truth),
            source: self.source.clone(),
            clock: Clock::start(),
            owed: self.options.owed(),
            sessions: self.options.sessions(),
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
            source_queries: self.source.queries(),
            converge_ms: None,
            converge_incomplete: 0,
            elapsed: begun.elapsed(),
            ttl: options.ttl,
            roomy: options.cache_memory_mib.is_none(),
        })
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
