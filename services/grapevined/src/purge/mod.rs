//! The purger: deletes addresses from the caches, or marks them stale.
//!
//! A [`Job`] is a list of addresses. Every configured cache has a *lane*: a task with a queue of jobs, a bounded number of
//! calls in flight, and a set of addresses to try again. A job goes to every lane; a lane cuts it into batches and makes
//! one call for each. What failed is tried again with growing pauses and jitter, until it is done or nobody needs it any
//! more, for its value has ended by itself. Nothing waits for a lane: the caller gets a
//! [`Submission`] that tells what the first attempt did, now or at a deadline.
//!
//! Deletes are hygiene. What keeps stale values from being served is the token in the address or in the envelope, so a
//! delete may be late, repeated, or given up. Order does not matter for the same reason: deleting is idempotent, a repeated
//! delete costs at most a needless miss, and where a hard and a soft purge of one address meet in the retry set, the hard
//! one counts.
//!
//! Two things are bounded, for each lane. *The queue*: a job is taken while fewer than `purge.queue_addresses_max` wait
//! (however large it is: its memory exists already), else it is refused and counted as `purge_dropped`. *The retry set*:
//! beyond `purge.retry_addresses_max` the oldest are given up, counted as `purge_expired`. A log line begins and ends each
//! such burst.

mod lane;
mod retries;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use grapevine_cache::Cache;
use grapevine_core::event::PurgeMode;
use grapevine_core::names::Address;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::PurgeConfig;
use crate::telemetry::{Counter, Counters};

/// Lifetimes beyond this are as good as this: no value lives for longer than ten years.
const LIFETIME_MAX: Duration = Duration::from_hours(11 * 365 * 24);

/// Addresses to delete.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which. Repetitions cost, but harm nothing.
    pub addresses: Vec<Address>,
    /// Delete them, or mark them stale where the cache can.
    pub mode: PurgeMode,
    /// How long the values can still live: a delete is not tried for longer.
    pub lifetime: Duration,
}

/// What became of a job's first attempt so far. With several caches, each number is that of the cache where it is largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Addresses that were in the cache and are deleted or marked stale.
    pub purged: u64,
    /// Addresses that were not in the cache.
    pub absent: u64,
    /// Addresses not done yet: not tried, or failed and being retried.
    pub pending: u64,
    /// Addresses that nobody will try, because the queue was full.
    pub dropped: u64,
}

/// A job that was handed over. Dropping it changes nothing for the job.
#[derive(Clone, Debug)]
pub struct Submission {
    progress: Arc<Progress>,
    attempted: watch::Receiver<usize>,
}

impl Submission {
    /// What is known by now.
    pub fn so_far(&self) -> Attempt {
        self.progress.attempt()
    }

    /// Waits until every address was tried once at every cache.
    pub async fn first_attempt(mut self) -> Attempt {
        let lanes = self.progress.lanes.len();
        // An error means that the lanes ended: nothing more will happen.
        let _ = self
            .attempted
            .wait_for(|attempted| *attempted >= lanes)
            .await;
        self.progress.attempt()
    }

    /// The same, but for at most so long; then what is known by then.
    pub async fn first_attempt_within(self, timeout: Duration) -> Attempt {
        let progress = self.progress.clone();
        tokio::time::timeout(timeout, self.first_attempt())
            .await
            .unwrap_or_else(|_| progress.attempt())
    }
}

/// A job on its way through the lanes, which share it. It is dropped when the last of them is done with it.
#[derive(Debug)]
struct ActiveJob {
    addresses: Vec<Address>,
    mode: PurgeMode,
    expires: Instant,
    progress: Arc<Progress>,
    /// How many lanes have tried every address once.
    attempted: watch::Sender<usize>,
}

/// How far the lanes got with a job.
#[derive(Debug)]
struct Progress {
    addresses: usize,
    lanes: Vec<LaneProgress>,
}

/// How far one lane got with a job.
#[derive(Debug, Default)]
struct LaneProgress {
    purged: AtomicUsize,
    absent: AtomicUsize,
    dropped: AtomicUsize,
    tried: AtomicUsize,
}

impl Progress {
    fn attempt(&self) -> Attempt {
        let mut attempt = Attempt::default();
        for lane in &self.lanes {
            let load = |number: &AtomicUsize| number.load(Ordering::Acquire);
            let (purged, absent, dropped) =
                (load(&lane.purged), load(&lane.absent), load(&lane.dropped));
            let pending = self.addresses.saturating_sub(purged + absent + dropped);
            attempt.purged = attempt.purged.max(as_u64(purged));
            attempt.absent = attempt.absent.max(as_u64(absent));
            attempt.dropped = attempt.dropped.max(as_u64(dropped));
            attempt.pending = attempt.pending.max(as_u64(pending));
        }
        attempt
    }
}

impl ActiveJob {
    /// A lane tried so many more addresses for the first time.
    fn tried(&self, lane: usize, count: usize) {
        let before = self.progress.lanes[lane]
            .tried
            .fetch_add(count, Ordering::AcqRel);
        if before + count == self.progress.addresses {
            self.attempted.send_modify(|attempted| *attempted += 1);
        }
    }
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Hands jobs to one lane.
#[derive(Debug)]
struct Intake {
    cache: String,
    jobs: mpsc::Sender<Arc<ActiveJob>>,
    depth: Arc<Depth>,
    refusing: AtomicBool,
}

/// How much waits in one lane.
#[derive(Debug, Default)]
struct Depth {
    /// Addresses not tried yet.
    fresh: AtomicUsize,
    /// Addresses to be tried again.
    retrying: AtomicUsize,
}

/// Deletes addresses from every configured cache. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Purger {
    /// Taken out by [`Purger::shutdown`], which closes the queues.
    intakes: Mutex<Option<Vec<Intake>>>,
    depths: Vec<Arc<Depth>>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
    queue_addresses_max: usize,
    retry_addresses_max: usize,
    counters: Arc<Counters>,
}

impl Purger {
    /// Starts a lane for each cache. Must be called inside a Tokio runtime.
    pub fn start(
        caches: Vec<Arc<dyn Cache>>,
        config: &PurgeConfig,
        counters: Arc<Counters>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let mut intakes = Vec::new();
        for (index, cache) in caches.into_iter().enumerate() {
            let name = format!("{} {}", cache.name(), cache.target());
            // As many messages as addresses: then only the bound on addresses, checked at submission, ever refuses.
            let (jobs, queue) = mpsc::channel(config.queue_addresses_max);
            let depth = Arc::new(Depth::default());
            let lane = lane::Lane::new(index, cache, config, depth.clone(), counters.clone());
            tasks.spawn(lane.run(queue));
            intakes.push(Intake {
                cache: name,
                jobs,
                depth,
                refusing: AtomicBool::new(false),
            });
        }
        Self {
            depths: intakes.iter().map(|intake| intake.depth.clone()).collect(),
            intakes: Mutex::new(Some(intakes)),
            tasks: tokio::sync::Mutex::new(tasks),
            queue_addresses_max: config.queue_addresses_max,
            retry_addresses_max: config.retry_addresses_max,
            counters,
        }
    }

    /// Hands a job to every lane, without waiting. See the module for what happens when a queue is full. Without caches,
    /// and after [`Purger::shutdown`], nothing happens.
    pub fn submit(&self, job: Job) -> Submission {
        let intakes = self.intakes.lock();
        let intakes = intakes.as_deref().unwrap_or_default();
        let progress = Arc::new(Progress {
            addresses: job.addresses.len(),
            lanes: intakes.iter().map(|_| LaneProgress::default()).collect(),
        });
        let (sender, attempted) = watch::channel(0);
        let lifetime = job.lifetime.min(LIFETIME_MAX);
        let job = Arc::new(ActiveJob {
            addresses: job.addresses,
            mode: job.mode,
            expires: Instant::now() + lifetime,
            progress: progress.clone(),
            attempted: sender,
        });
        if !job.addresses.is_empty() {
            for (lane, intake) in intakes.iter().enumerate() {
                self.hand_over(lane, intake, &job);
            }
        }
        Submission {
            progress,
            attempted,
        }
    }

    fn hand_over(&self, lane: usize, intake: &Intake, job: &Arc<ActiveJob>) {
        let count = job.addresses.len();
        let waiting = intake.depth.fresh.load(Ordering::Acquire);
        intake.depth.fresh.fetch_add(count, Ordering::AcqRel);
        if waiting < self.queue_addresses_max && intake.jobs.try_send(job.clone()).is_ok() {
            if waiting < self.queue_addresses_max / 2
                && intake.refusing.swap(false, Ordering::AcqRel)
            {
                info!(cache = intake.cache, "the queue of deletes has room again");
            }
            return;
        }
        intake.depth.fresh.fetch_sub(count, Ordering::AcqRel);
        self.counters.add_len(Counter::PurgeDropped, count);
        if !intake.refusing.swap(true, Ordering::AcqRel) {
            warn!(
                cache = intake.cache,
                waiting,
                limit = self.queue_addresses_max,
                "the queue of deletes is full: dead values stay in the cache, unused, until they end by themselves"
            );
        }
        job.progress.lanes[lane]
            .dropped
            .store(count, Ordering::Release);
        job.tried(lane, count);
    }

    /// Addresses waiting for their first attempt and for a further one, over all lanes.
    pub fn backlog(&self) -> (usize, usize) {
        let sum = |number: fn(&Depth) -> &AtomicUsize| {
            self.depths
                .iter()
                .map(|depth| number(depth).load(Ordering::Acquire))
                .sum()
        };
        (sum(|depth| &depth.fresh), sum(|depth| &depth.retrying))
    }

    /// How many may wait so, over all lanes.
    pub fn limits(&self) -> (usize, usize) {
        let lanes = self.depths.len();
        let (fresh, retrying) = (self.queue_addresses_max, self.retry_addresses_max);
        (fresh * lanes, retrying * lanes)
    }

    /// Takes no more jobs, and waits for at most so long until everything is deleted; then the rest is abandoned.
    /// Says how many addresses that were.
    pub async fn shutdown(&self, timeout: Duration) -> usize {
        drop(self.intakes.lock().take());
        let mut tasks = self.tasks.lock().await;
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(timeout, all_ended).await.is_ok() {
            return 0;
        }
        tasks.shutdown().await;
        let (fresh, retrying) = self.backlog();
        if fresh + retrying > 0 {
            info!(
                addresses = fresh + retrying,
                "stopped before everything was deleted from the caches"
            );
        }
        fresh + retrying
    }
}
