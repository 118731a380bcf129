//! One cache's share of the purger: a task that owns the cache's calls in flight and its retry set.
//!
//! First attempts are made in the order of their jobs. Retries that are due go first, so that a busy sidecar catches up, and
//! get at most half of the calls in flight, so that a cache that hangs slows new deletes but does not stop them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use grapevine_cache::{Cache, DeleteOutcome};
use grapevine_core::event::PurgeMode;
use grapevine_core::names::Address;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::retries::{Retries, Waiting, pause};
use super::{ActiveJob, Depth};
use crate::config::PurgeConfig;
use crate::telemetry::{Counter, Counters};

/// A lane's state, owned by its task.
pub(super) struct Lane {
    index: usize,
    cache: Arc<dyn Cache>,
    name: String,
    config: PurgeConfig,
    depth: Arc<Depth>,
    counters: Arc<Counters>,
    /// The job being cut into batches, and where it goes on.
    current: Option<(Arc<ActiveJob>, usize)>,
    calls: JoinSet<DeleteOutcome>,
    /// What each of those calls is about. It stays here, so that a call that panics is known all the same.
    under_way: HashMap<Id, What>,
    retry_calls: usize,
    /// Addresses in those calls.
    retrying_now: usize,
    retries: Retries,
    /// Whether the last word on this cache was a failure.
    failing: bool,
    /// Addresses crowded out of the retry set in the present burst.
    crowded_out: usize,
}

/// What a call was about.
enum What {
    /// A part of a job.
    Fresh(Arc<ActiveJob>, Range<usize>),
    /// Addresses from the retry set.
    Retry(Vec<Waiting>),
}

impl Lane {
    pub(super) fn new(
        index: usize,
        cache: Arc<dyn Cache>,
        config: &PurgeConfig,
        depth: Arc<Depth>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            index,
            name: format!("{} {}", cache.name(), cache.target()),
            cache,
            config: config.clone(),
            depth,
            counters,
            current: None,
            calls: JoinSet::new(),
            under_way: HashMap::new(),
            retry_calls: 0,
            retrying_now: 0,
            retries: Retries::new(config.retry_addresses_max),
            failing: false,
            crowded_out: 0,
        }
    }

    /// Runs until the queue is closed and everything is deleted or given up.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Arc<ActiveJob>>) {
        let mut open = true;
        while open || self.has_work() {
            let due = self.start_retries(Instant::now());
            self.start_fresh();
            tokio::select! {
                Some(ended) = self.calls.join_next_with_id() => match ended {
                    Ok((call, outcome)) => self.ended(call, &outcome),
                    Err(panic) => self.panicked(&panic),
                },
                job = queue.recv(), if open && self.current.is_none() => match job {
                    Some(job) => self.current = Some((job, 0)),
                    None => open = false,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn has_work(&self) -> bool {
        self.current.is_some() || !self.calls.is_empty() || self.retries.len() > 0
    }

    /// Starts what is due, as far as calls are free. Says when to look again, unless a call that ends will tell.
    fn start_retries(&mut self, now: Instant) -> Option<Instant> {
        let retry_calls_max = (self.config.concurrency / 2).max(1);
        while self.retry_calls < retry_calls_max && self.calls.len() < self.config.concurrency {
            let due = self.retries.take_due(now, self.config.batch_max);
            self.counters.add_len(Counter::PurgeExpired, due.expired);
            if due.batch.is_empty() {
                self.settle();
                return self.retries.next_due();
            }
            self.counters
                .add_len(Counter::PurgeRetried, due.batch.len());
            self.retry_calls += 1;
            self.retrying_now += due.batch.len();
            let mode = due.batch[0].mode;
            let keys = keys(due.batch.iter().map(|waiting| &waiting.address));
            self.call(What::Retry(due.batch), keys, mode);
        }
        None
    }

    fn start_fresh(&mut self) {
        while self.calls.len() < self.config.concurrency
            && let Some((job, start)) = self.current.take()
        {
            let end = job.addresses.len().min(start + self.config.batch_max);
            if end < job.addresses.len() {
                self.current = Some((job.clone(), end));
            }
            let keys = keys(&job.addresses[start..end]);
            let mode = job.mode;
            self.call(What::Fresh(job, start..end), keys, mode);
        }
    }

    fn call(&mut self, what: What, keys: Vec<String>, mode: PurgeMode) {
        let cache = self.cache.clone();
        let call = self.calls.spawn(async move {
            match mode {
                PurgeMode::Hard => cache.delete_many(&keys).await,
                PurgeMode::Soft => cache.mark_stale_many(&keys).await,
            }
        });
        self.under_way.insert(call.id(), what);
    }

    /// A call that panicked counts as one that failed: its addresses are tried again, and its place is free.
    fn panicked(&mut self, panic: &JoinError) {
        error!(cache = self.name, %panic, "a delete call ended wrongly");
        let failed = match self.under_way.get(&panic.id()) {
            Some(What::Fresh(job, range)) => keys(&job.addresses[range.clone()]),
            Some(What::Retry(batch)) => keys(batch.iter().map(|waiting| &waiting.address)),
            None => Vec::new(),
        };
        let outcome = DeleteOutcome {
            failed,
            ..DeleteOutcome::default()
        };
        self.ended(panic.id(), &outcome);
    }

    fn ended(&mut self, call: Id, outcome: &DeleteOutcome) {
        let Some(what) = self.under_way.remove(&call) else {
            return;
        };
        self.counters
            .add_len(Counter::PurgeDeleted, outcome.deleted);
        self.counters.add_len(Counter::PurgeAbsent, outcome.absent);
        self.counters
            .add_len(Counter::PurgeFailed, outcome.failed.len());
        self.tell_health(outcome);
        match what {
            What::Fresh(job, range) => self.fresh_ended(&job, range, outcome),
            What::Retry(batch) => {
                self.retry_calls -= 1;
                self.retrying_now -= batch.len();
                self.again(&outcome.failed, batch);
            }
        }
        self.settle();
    }

    fn fresh_ended(&mut self, job: &ActiveJob, range: Range<usize>, outcome: &DeleteOutcome) {
        let count = range.len();
        let progress = &job.progress.lanes[self.index];
        progress.purged.fetch_add(outcome.deleted, Ordering::AcqRel);
        progress.absent.fetch_add(outcome.absent, Ordering::AcqRel);
        if !outcome.is_complete() {
            let first_time = |address: &Address| Waiting {
                address: address.clone(),
                mode: job.mode,
                expires: job.expires,
                attempts: 0,
                age: None,
            };
            let batch = job.addresses[range].iter().map(first_time).collect();
            self.again(&outcome.failed, batch);
        }
        self.depth.fresh.fetch_sub(count, Ordering::AcqRel);
        job.tried(self.index, count);
    }

    /// Puts those of a batch that failed into the retry set.
    fn again(&mut self, failed: &[String], batch: Vec<Waiting>) {
        if failed.is_empty() {
            return;
        }
        let failed: HashSet<&str> = failed.iter().map(String::as_str).collect();
        let (min, max) = (
            self.config.retry_interval_min,
            self.config.retry_interval_max,
        );
        // One draw for all of them, so that they stay one call.
        let random = rand::rng().random::<f64>();
        let now = Instant::now();
        let mut crowded_out = 0;
        for mut waiting in batch {
            if failed.contains(waiting.address.as_str()) {
                waiting.attempts += 1;
                let due = now + pause(waiting.attempts, min, max, random);
                crowded_out += self.retries.add(waiting, due);
            }
        }
        self.tell_crowded_out(crowded_out);
    }

    /// After anything changed: what can be seen from outside, and the ends of bursts.
    fn settle(&mut self) {
        let waiting = self.retries.len() + self.retrying_now;
        self.depth.retrying.store(waiting, Ordering::Release);
        if self.failing && waiting == 0 {
            self.failing = false;
            info!(
                cache = self.name,
                "deletes work again, and what had failed is done or given up"
            );
        }
        if self.crowded_out > 0 && waiting <= self.config.retry_addresses_max / 2 {
            info!(
                cache = self.name,
                given_up = self.crowded_out,
                "deletes to be tried again have room again"
            );
            self.crowded_out = 0;
        }
    }

    /// Counts what had to give way, and tells the first of a burst.
    fn tell_crowded_out(&mut self, count: usize) {
        self.counters.add_len(Counter::PurgeExpired, count);
        if count > 0 && self.crowded_out == 0 {
            warn!(
                cache = self.name,
                limit = self.config.retry_addresses_max,
                "too many deletes are to be tried again: the oldest are given up, and their values stay in the cache, unused, until they end by themselves"
            );
        }
        self.crowded_out += count;
    }

    /// Tells when a cache begins to fail.
    fn tell_health(&mut self, outcome: &DeleteOutcome) {
        if let Some(cause) = &outcome.cause {
            if self.failing {
                debug!(cache = self.name, %cause, "deletes fail");
            } else {
                warn!(cache = self.name, %cause, "deletes fail and will be tried again");
            }
            self.failing = true;
        }
    }
}

fn keys<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> Vec<String> {
    addresses
        .into_iter()
        .map(|address| address.as_str().to_owned())
        .collect()
}
