//! Runs the sequence: one thread makes it, workers take it from a bounded queue in small batches and do each operation on the node
//! that was drawn for it, with an auditor beside each read.
//!
//! A worker does one thing at a time and is one session: what it wrote, its later reads must show on any node where the run
//! asks for that. So operations of different workers overlap, and happen in an order that differs from the sequence's by at
//! most a batch per worker; operations of one batch keep their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grapevine_client::Session;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::access::{Access, Got, Origin, Value};
use crate::auditor::{Auditor, Promise, SessionPast, Verdict};
use crate::clock::Clock;
use crate::converge::Convergence;
use crate::report::Counts;
use crate::sequence::{Sequence, Step};
use crate::trace::{TraceError, TraceReader};
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

/// What all workers share.
pub(crate) struct Run {
    pub(crate) truth: Arc<Truth>,
    pub(crate) clock: Clock,
    pub(crate) owed: Owed,
    /// Reads carry the tokens of the worker's own writes.
    pub(crate) sessions: bool,
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
pub(crate) async fn run<A: Access>(
    run: Arc<Run>,
    nodes: Arc<[A]>,
    sequence: Sequence<TraceReader>,
    workers: u32,
) -> anyhow::Result<Ran> {
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let maker = tokio::task::spawn_blocking(move || make(sequence, &sender));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let worker = Worker {
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
fn make(
    mut sequence: Sequence<TraceReader>,
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
        let node = &self.nodes[step.op.node as usize];
        let got = match node.read(step, slice, &self.session).await {
            Ok(got) => got,
            Err(error) => {
                self.counts.failed_reads += 1;
                return run.live.problem("a read failed", step, &error);
            }
        };
        let verdict = match shown(step, slice, &got) {
            Ok(Some(versions)) => auditor.judge(&begun, versions),
            Ok(None) => Verdict::Fresh,
            Err(wrong) => {
                self.counts.wrong_values += 1;
                return run.live.problem("a wrong value", step, &wrong);
            }
        };
        if let Verdict::Stale { age } = verdict {
            Live::add(&run.live.stale);
            let told = format!("{} ms old, {:?}", age.as_millis(), got.origin);
            run.live.problem("a stale read", step, &told);
        }
        self.counts.tally.count(verdict);
        Live::add(&run.live.reads);
        match got.origin {
            Origin::Cache => {
                self.counts.hits += 1;
                Live::add(&run.live.hits);
            }
            Origin::Filled | Origin::Bypassed => {
                self.counts.over_invalidations += u64::from(step.oracle_hit);
            }
        }
        self.counts.bypasses += u64::from(got.origin == Origin::Bypassed);
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
        let node = &self.nodes[step.op.node as usize];
        let outcome = match node.write(step, &self.session).await {
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
        if run.sessions {
            if let Some(token) = &outcome.session_token
                && self.session.add(token).is_err()
            {
                // A fourth node: a new session, which is owed what it writes from here on.
                self.session = Session::new();
                self.past = SessionPast::default();
                // One token alone always fits; if it is malformed, the session is owed nothing.
                if self.session.add(token).is_err() {
                    return;
                }
            }
            self.past.wrote(written, version);
        }
    }
}

/// The writes that a value shows; nothing for a slice beyond its list's end.
fn shown(step: Step, slice: Option<Slice>, got: &Got) -> Result<Option<Versions>, WrongValue> {
    let record = step.op.record;
    match (&got.value, slice) {
        (Value::Single(bytes), _) => check_single(record, bytes).map(Some),
        (Value::Items(items), slice) => {
            let slice = slice.unwrap_or(Slice {
                offset: 0,
                limit: 0,
            });
            let left = list_items(record).saturating_sub(slice.offset);
            let wanted = left.min(u64::from(slice.limit));
            check_slice(record, slice.offset, wanted, items)
        }
    }
}
