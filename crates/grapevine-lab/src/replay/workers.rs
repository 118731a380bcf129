//! Runs the sequence: one thread makes it, workers take it from a bounded queue in small batches and do each operation on the node
//! that was drawn for it, with an auditor beside each read.
//!
//! A worker does one thing at a time and is one session: what it wrote, its later reads must show on any node where the run
//! asks for that. So operations of different workers overlap, and happen in an order that differs from the sequence's by at
//! most a batch per worker; operations of one batch keep their order.
//!
//! A session holds tokens of three sidecars. So where sessions count, each worker writes at three nodes of its own, and reads
//! on all of them: its session is never given up, and is owed every write that it made from the beginning to the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use grapevine_client::{SESSION_TOKENS_MAX, Session};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::access::{Access, Got, Origin, Value, Written};
use super::source::{Reading, Source};
use crate::auditor::{Auditor, Promise, SessionPast, Verdict};
use crate::clock::Clock;
use crate::converge::Convergence;
use crate::report::Counts;
use crate::sequence::{Sequence, Step};
use crate::trace::{Record, TraceError};
use crate::truth::{Truth, Versions};
use crate::value::{WrongValue, check_single, check_slice};
use crate::workload::{Action, Slice, list_items};

/// Accesses that belong together stand together in a trace; so long a run of them is done by one worker, one after another, as
/// it was by the application. Raising it moves the order away from the sequence's.
const BATCH_STEPS: usize = 64;
/// When it is full the thread that makes the sequence waits.
const QUEUE_BATCHES: usize = 64;
/// So many problems are told; the others are only counted.
const PROBLEMS_TOLD: u64 = 20;

/// Which writes a read is owed, as [`Promise`] but without the session's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    Everyone,
    Session,
    Nobody,
}

/// What becomes of the tokens of a worker's own writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// There are none, or nobody collects them.
    Unused,
    /// The worker's reads and writes carry them.
    Carried,
    /// They are collected, and nothing carries them: what the auditor must catch.
    Ignored,
}

/// What all workers share.
pub(crate) struct Run {
    pub(crate) truth: Arc<Truth>,
    pub(crate) source: Source,
    pub(crate) clock: Clock,
    pub(crate) owed: Owed,
    pub(crate) sessions: Sessions,
    pub(crate) convergence: Arc<Mutex<Convergence>>,
    pub(crate) live: Arc<Live>,
}

/// What a progress bar shows while the workers run.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) reads: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) stale: AtomicU64,
    problems: AtomicU64,
}

impl Live {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells of something that is not as it should be, unless it was told often enough.
    fn problem(&self, what: &str, step: Step, problem: &dyn std::fmt::Display) {
        let told = self.problems.fetch_add(1, Ordering::Relaxed);
        if told < PROBLEMS_TOLD {
            tracing::warn!(
                ordinal = step.op.ordinal,
                node = step.op.node,
                "{what}: {problem:#}"
            );
        }
    }
}

/// What came of the run.
pub(crate) struct Ran {
    pub(crate) counts: Counts,
    pub(crate) oracle_reads_and_hits: (u64, u64),
}

/// Runs the whole sequence with `workers` workers over `nodes`.
pub(crate) async fn run<A: Access, R>(
    run: Arc<Run>,
    nodes: Arc<[A]>,
    sequence: Sequence<R>,
    workers: u32,
) -> anyhow::Result<Ran>
where
    R: Iterator<Item = Result<Record, TraceError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let maker = tokio::task::spawn_blocking(move || make(sequence, &sender));
    let mut tasks = JoinSet::new();
    for number in 0..workers {
        let worker = Worker {
            number,
            run: Arc::clone(&run),
            nodes: Arc::clone(&nodes),
            counts: Counts::default(),
            session: Session::new(),
            past: SessionPast::default(),
        };
        tasks.spawn(worker.work(Arc::clone(&receiver)));
    }
    // Workers hold the only receivers: when they are gone, the thread ends too.
    drop(receiver);
    let mut counts = Counts::default();
    while let Some(worker) = tasks.join_next().await {
        counts.merge(&worker?);
    }
    let oracle_reads_and_hits = maker.await??;
    Ok(Ran {
        counts,
        oracle_reads_and_hits,
    })
}

/// Makes the sequence; answers the oracle's reads and hits.
fn make<R: Iterator<Item = Result<Record, TraceError>>>(
    mut sequence: Sequence<R>,
    sender: &mpsc::Sender<Vec<Step>>,
) -> Result<(u64, u64), TraceError> {
    loop {
        let batch = sequence.by_ref().take(BATCH_STEPS);
        let batch = batch.collect::<Result<Vec<Step>, _>>()?;
        if batch.is_empty() || sender.blocking_send(batch).is_err() {
            return Ok(sequence.oracle_reads_and_hits());
        }
    }
}

struct Worker<A> {
    number: u32,
    run: Arc<Run>,
    nodes: Arc<[A]>,
    counts: Counts,
    session: Session,
    past: SessionPast,
}

impl<A: Access> Worker<A> {
    async fn work(
        mut self,
        receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<Vec<Step>>>>,
    ) -> Counts {
        loop {
            let batch = receiver.lock().await.recv().await;
            let Some(batch) = batch else {
                return self.counts;
            };
            for step in batch {
                match step.op.action {
                    Action::Read(slice) => self.read(step, slice).await,
                    Action::WriteObject | Action::WriteGroup => self.write(step).await,
                }
            }
        }
    }

    async fn read(&mut self, step: Step, slice: Option<Slice>) {
        let run = &self.run;
        let promise = match run.owed {
            Owed::Everyone => Promise::Everyone,
            Owed::Session => Promise::Session(&self.past),
            Owed::Nobody => Promise::Nobody,
        };
        let auditor = Auditor::new(Arc::clone(&run.truth));
        let begun = auditor.begin(step.subject, promise, || run.clock.now());
        let reading = run.source.reading(step, run.clock.now());
        let node = &self.nodes[step.op.node as usize];
        let got = match node.read(&reading, slice, &self.carried()).await {
            Ok(got) => got,
            Err(error) => {
                self.counts.source_reads += reading.asked();
                self.counts.failed_reads += 1;
                return run.live.problem("a read failed", step, &error);
            }
        };
        self.count_origin(&reading, &got);
        let verdict = match shown(step, slice, &got) {
            Ok(versions) => auditor.judge(&begun, versions),
            Err(wrong) => {
                self.counts.wrong_values += 1;
                return self.run.live.problem("a wrong value", step, &wrong);
            }
        };
        let live = &self.run.live;
        if let Verdict::Stale { age } = verdict {
            Live::add(&live.stale);
            let told = format!("{} ms old, {:?}", age.as_millis(), got.origin);
            live.problem("a stale read", step, &told);
        }
        self.counts.tally.count(verdict);
        Live::add(&live.reads);
    }

    /// Whether it was a hit is the source's to say; that the access says the same is checked.
    fn count_origin(&mut self, reading: &Reading, got: &Got) {
        let (counts, live) = (&mut self.counts, &self.run.live);
        let asked = reading.asked();
        counts.source_reads += asked;
        if asked == 0 {
            counts.hits += 1;
            Live::add(&live.hits);
        }
        let agreed = match (got.origin, &got.value) {
            // Pages that were read from the source may be looked up once more, and found in the cache then.
            (Origin::Cache, Value::Items(_)) => true,
            (Origin::Cache, Value::Single(_)) => asked == 0,
            (Origin::Filled | Origin::Bypassed, _) => asked > 0,
        };
        if !agreed {
            counts.misreported += 1;
            let told = format!("{:?}, and {asked} reads of the source", got.origin);
            live.problem("a wrong origin", reading.step(), &told);
        }
        if got.origin == Origin::Bypassed {
            counts.bypasses += 1;
        } else {
            counts.over_invalidations += u64::from(reading.asked_for_what_could_be_had());
            reading.filled(self.run.clock.now());
        }
    }

    async fn write(&mut self, step: Step) {
        let run = &self.run;
        let written = match (step.op.action, step.subject.group) {
            (Action::WriteGroup, Some(group)) => group,
            _ => step.subject.object,
        };
        let version = run.truth.commit(written, run.clock.now());
        self.counts.writes += 1;
        Live::add(&run.live.writes);
        let called = run.clock.now();
        let node = &self.nodes[self.writes_at(step.op.node)];
        let outcome = match node.write(step, &self.carried()).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.counts.failed_writes += 1;
                return run.live.problem("an invalidation failed", step, &error);
            }
        };
        run.truth.acknowledge(written, version);
        if let Some(event) = outcome.event {
            run.convergence.lock().called(event, called);
        }
        self.counts.invalidations += u64::from(outcome.told);
        self.counts.addresses_purged += outcome.purged;
        if run.sessions != Sessions::Unused {
            self.past.wrote(written, version);
            if let Err(error) = self.keep_token(&outcome) {
                // What it was owed it still is: a token that cannot be had must not end the promise.
                self.counts.lost_tokens += 1;
                let live = &self.run.live;
                live.problem("a session token that cannot be kept", step, &error);
            }
        }
    }

    /// The node that a write drawn for `node` goes to.
    fn writes_at(&self, node: u32) -> usize {
        let (node, number) = (node as usize, self.number as usize);
        if self.run.sessions == Sessions::Unused || self.nodes.len() <= SESSION_TOKENS_MAX {
            return node;
        }
        (number + node % SESSION_TOKENS_MAX) % self.nodes.len()
    }

    fn keep_token(&mut self, outcome: &Written) -> anyhow::Result<()> {
        let token = outcome.session_token.as_ref();
        let token = token.context("the answer has none")?;
        self.session.add(token)?;
        Ok(())
    }

    /// What reads and writes carry.
    fn carried(&self) -> Session {
        match self.run.sessions {
            Sessions::Carried => self.session.clone(),
            Sessions::Unused | Sessions::Ignored => Session::new(),
        }
    }
}

/// The writes that a value shows.
fn shown(step: Step, slice: Option<Slice>, got: &Got) -> Result<Versions, WrongValue> {
    let record = step.op.record;
    match (&got.value, slice) {
        (Value::Single(bytes), _) => check_single(record, bytes),
        (Value::Items(items), slice) => {
            let slice = slice.unwrap_or(Slice {
                offset: 0,
                limit: 0,
            });
            check_slice(record, slice, |version| list_items(record, version), items)
        }
    }
}

#[cfg(test)]
mod tests;
