//! Workers against nodes of a model: one cache for all, and tokens made of what each node knows of the writes, as under
//! `versioned`. A node that is not told learns of a write late, or from a session. Each fault must be seen from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;

use super::*;
use crate::truth::CounterId;
use crate::workload::{Workload, WorkloadConfig};

/// So many writes may be under way to the other nodes.
const WRITES_UNDER_WAY: usize = 30;
const OPERATIONS: u32 = 20_000;

#[derive(Debug, Clone, PartialEq)]
enum Fault {
    Nothing,
    /// A write makes the whole cache go.
    ForgetsAll,
    /// Whatever it did, it says that the value came from the cache.
    ClaimsHits,
    /// It asks the source behind the read's back.
    AsksBehindTheRead,
    /// It never says that a value came from the cache.
    DeniesHits,
    /// Its answers to writes have this for a session token.
    Token(Option<Bytes>),
}

#[derive(Default)]
struct Cluster {
    cache: Mutex<HashMap<String, Bytes>>,
    knowledge: Mutex<Knowledge>,
}

#[derive(Default)]
struct Knowledge {
    /// By node and object: the writes that it has applied.
    applied: HashMap<(usize, CounterId), BTreeSet<u64>>,
    under_way: VecDeque<(CounterId, u64)>,
    writes: u64,
}

struct Node {
    number: usize,
    nodes: usize,
    fault: Fault,
    source: Source,
    cluster: Arc<Cluster>,
}

impl Knowledge {
    fn write(&mut self, node: usize, object: CounterId) -> u64 {
        self.writes += 1;
        self.apply(node, object, self.writes);
        self.under_way.push_back((object, self.writes));
        self.writes
    }

    fn apply(&mut self, node: usize, object: CounterId, write: u64) {
        self.applied
            .entry((node, object))
            .or_default()
            .insert(write);
    }

    /// Lets the oldest writes arrive until no more than so many are under way.
    fn arrive(&mut self, nodes: usize, under_way_max: usize) {
        while self.under_way.len() > under_way_max {
            let (object, write) = self.under_way.pop_front().unwrap();
            for node in 0..nodes {
                self.apply(node, object, write);
            }
        }
    }
}

impl Access for Node {
    async fn read(
        &self,
        reading: &Reading,
        _: Option<Slice>,
        session: &Session,
    ) -> anyhow::Result<Got> {
        let step = reading.step();
        let address = {
            let mut knowledge = self.cluster.knowledge.lock();
            if !session.is_empty() {
                knowledge.arrive(self.nodes, 0);
            }
            let known = knowledge.applied.get(&(self.number, step.subject.object));
            format!("{:?} {known:?}", step.op.record)
        };
        let found = self.cluster.cache.lock().get(&address).cloned();
        let (value, origin) = match found {
            Some(found) => (found, Origin::Cache),
            None if self.fault == Fault::AsksBehindTheRead => {
                let behind = self.source.reading(step, crate::truth::Moment(0));
                (behind.value().await, Origin::Cache)
            }
            None => (reading.value().await, Origin::Filled),
        };
        let origin = match self.fault {
            Fault::ClaimsHits => Origin::Cache,
            Fault::DeniesHits => Origin::Filled,
            _ => origin,
        };
        self.cluster.cache.lock().insert(address, value.clone());
        Ok(Got {
            value: Value::Single(value),
            origin,
        })
    }

    async fn write(&self, step: Step, _: &Session) -> anyhow::Result<Written> {
        let mut knowledge = self.cluster.knowledge.lock();
        let write = knowledge.write(self.number, step.subject.object);
        knowledge.arrive(self.nodes, WRITES_UNDER_WAY);
        if self.fault == Fault::ForgetsAll {
            self.cluster.cache.lock().clear();
        }
        let session_token = match &self.fault {
            Fault::Token(token) => token.clone(),
            _ => Some(token(self.number, write)),
        };
        Ok(Written {
            told: true,
            session_token,
            ..Written::default()
        })
    }
}

/// A token of the first format.
fn token(issuer: usize, sequence: u64) -> Bytes {
    let mut token = vec![1; 17];
    token[1] = u8::try_from(issuer).unwrap();
    token.extend(sequence.to_be_bytes());
    token.into()
}

/// Runs few objects on so many nodes; answers what was counted, and the source's own count.
async fn ran(nodes: u32, fault: Fault, sessions: Sessions) -> (Counts, u64) {
    let truth = Arc::new(Truth::new(1_024));
    let source = Source::new(Arc::clone(&truth));
    let cluster = Arc::<Cluster>::default();
    let node = |number| Node {
        number,
        nodes: nodes as usize,
        fault: fault.clone(),
        source: source.clone(),
        cluster: Arc::clone(&cluster),
    };
    let config = WorkloadConfig {
        seed: 3,
        nodes,
        writes: 0.07,
        pages: None,
        read_back: false,
    };
    let record = |n: u32| Record::new(0, n.wrapping_mul(7_919) % 50, 0).unwrap();
    let records = (0..OPERATIONS).map(move |n| Ok(record(n)));
    let sequence = Sequence::new(records, Workload::new(config).unwrap());
    let run_of_it = Run {
        truth,
        source: source.clone(),
        clock: Clock::start(),
        owed: Owed::Session,
        sessions,
        convergence: Arc::new(Mutex::new(Convergence::new(0, 1))),
        live: Arc::default(),
    };
    let nodes: Arc<[Node]> = (0..nodes as usize).map(node).collect();
    let ran = run(Arc::new(run_of_it), nodes, sequence, 12).await.unwrap();
    assert_eq!(
        ran.counts.tally.reads + ran.counts.writes,
        u64::from(OPERATIONS)
    );
    (ran.counts, source.queries())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_session_that_carries_its_tokens_reads_its_writes() {
    for nodes in [2, 3, 5] {
        let (counts, queries) = ran(nodes, Fault::Nothing, Sessions::Carried).await;
        assert_eq!(
            (counts.tally.stale, counts.lost_tokens, counts.misreported),
            (0, 0, 0),
            "{nodes} nodes"
        );
        assert_eq!(counts.source_reads, queries);
        assert_eq!(counts.hits + counts.source_reads, counts.tally.reads);
        assert!(counts.hits > counts.tally.reads / 2, "{} hits", counts.hits);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_control_a_session_whose_tokens_are_ignored_is_caught() {
    for nodes in [2, 3, 5] {
        let (counts, _) = ran(nodes, Fault::Nothing, Sessions::Ignored).await;
        assert!(counts.tally.stale > 0, "{nodes} nodes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_token_that_cannot_be_kept_is_counted_and_its_write_stays_owed() {
    for token in [None, Some(Bytes::new()), Some(Bytes::from(vec![1; 65]))] {
        let (counts, _) = ran(3, Fault::Token(token), Sessions::Carried).await;
        assert_eq!(counts.lost_tokens, counts.writes);
        assert!(counts.tally.stale > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_go_without_a_reason_are_over_invalidations() {
    let (right, _) = ran(3, Fault::Nothing, Sessions::Carried).await;
    let (wrong, _) = ran(3, Fault::ForgetsAll, Sessions::Carried).await;
    // Beyond the few fills that a bump met on the way.
    assert!(
        right.over_invalidations < right.tally.reads / 100,
        "{}",
        right.over_invalidations
    );
    assert!(
        wrong.over_invalidations > wrong.tally.reads / 4,
        "{}",
        wrong.over_invalidations
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_are_the_sources_word_and_another_one_is_told() {
    let (claimed, queries) = ran(3, Fault::ClaimsHits, Sessions::Carried).await;
    assert_eq!(claimed.hits, claimed.tally.reads - queries);
    assert_eq!(claimed.misreported, queries);
    let (denied, queries) = ran(3, Fault::DeniesHits, Sessions::Carried).await;
    assert_eq!(denied.hits, denied.tally.reads - queries);
    assert_eq!(denied.misreported, denied.hits);
    let (hidden, queries) = ran(3, Fault::AsksBehindTheRead, Sessions::Carried).await;
    assert_eq!((hidden.source_reads, hidden.misreported), (0, 0));
    assert!(queries > 0);
}
