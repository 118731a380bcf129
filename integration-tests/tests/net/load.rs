//! Applications beside every sidecar: readers, a writer that wants receipt `all`, a session that moves about, and one in Python that
//! does as the first two do and shares their cached values; and the judge.
//!
//! The judge is the lab's auditor. It knows the database's commits and which write calls have returned with their receipt satisfied, and asks
//! Grapevine nothing. A reader is owed every write whose receipt `all` was satisfied before its read began; a session is owed its own
//! writes, whatever their receipt. What a read of anybody may lag behind is measured and told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use grapevine_cache::Cache;
use grapevine_client::{CachedClient, Client, How, Session};
use grapevine_integration_tests::{CacheServer, Cluster, Python, PythonWorker};
use grapevine_lab::auditor::{Auditor, Begun, Promise, SessionPast, Tally, Verdict};
use grapevine_lab::oracle::Oracle;
use grapevine_lab::shop::{Shop, ShopError};
use grapevine_lab::truth::{CounterId, Moment, Subject, Truth, Versions};
use grapevine_proto::v1::ReceiptLevel;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

const CARTS: u32 = 60;
const READERS_PER_NODE: u64 = 3;
/// Pauses, so that the two cores of a CI machine are left to the sidecars.
const READ_EVERY: Duration = Duration::from_millis(8);
/// Python takes several times as long for a read.
const PYTHON_EVERY: Duration = Duration::from_millis(20);
const PYTHON_READS_A_WRITE: u32 = 20;
const WRITE_EVERY: Duration = Duration::from_millis(150);
/// Longer than any lease: a read that waited for a sidecar that stands still gets what that one says when it goes on.
const PATIENT: Duration = Duration::from_secs(20);
const IMPATIENT: Duration = Duration::from_millis(500);
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(4);
/// A reader may see a commit a moment before its writer has told the truth.
const TRUTH_DELAY_MAX: Duration = Duration::from_secs(2);

/// What was counted, so far or between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) reads: u64,
    pub(crate) hits: u64,
    pub(crate) bypassed: u64,
    pub(crate) oracle_hits: u64,
    pub(crate) writes: u64,
    /// Of them told before their receipt was satisfied, or not at all.
    pub(crate) unsatisfied: u64,
    pub(crate) session_reads: u64,
    /// Of the reads and the writes, those in Python.
    pub(crate) in_python: u64,
}

impl Figures {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            hits: self.hits - before.hits,
            bypassed: self.bypassed - before.bypassed,
            oracle_hits: self.oracle_hits - before.oracle_hits,
            writes: self.writes - before.writes,
            unsatisfied: self.unsatisfied - before.unsatisfied,
            session_reads: self.session_reads - before.session_reads,
            in_python: self.in_python - before.in_python,
        }
    }
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    hits: AtomicU64,
    bypassed: AtomicU64,
    writes: AtomicU64,
    unsatisfied: AtomicU64,
    session_reads: AtomicU64,
    in_python: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct World {
    shop: Shop,
    truth: Arc<Truth>,
    auditor: Auditor,
    began: Instant,
    oracle: Mutex<Oracle<u32>>,
    tally: Mutex<Tally>,
    stale: Mutex<Vec<String>>,
    counters: Counters,
    closed: AtomicBool,
    /// By node: what stands beside it, patient and not.
    desks: Vec<[CachedClient; 2]>,
}

/// Applications at work. Dropping it sends them away.
pub(crate) struct Load {
    world: Arc<World>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Opens them beside every sidecar of the cluster; the database lies in `dir`.
    pub(crate) async fn start(
        cluster: &Cluster,
        memcached: &CacheServer,
        python: Option<&Python>,
        dir: &std::path::Path,
        seed: u64,
    ) -> Self {
        let cache = &memcached.client().unwrap();
        let truth = Arc::new(Truth::new(CARTS + 1));
        let world = Arc::new(World {
            shop: Shop::create(dir, CARTS, 5, 8).await.unwrap(),
            auditor: Auditor::new(Arc::clone(&truth)),
            truth,
            began: Instant::now(),
            oracle: Mutex::default(),
            tally: Mutex::default(),
            stale: Mutex::default(),
            counters: Counters::default(),
            closed: AtomicBool::new(false),
            desks: (0..cluster.nodes().len())
                .map(|node| [PATIENT, IMPATIENT].map(|wait| desk(cluster, node, wait, cache)))
                .collect(),
        });
        let mut tasks = JoinSet::new();
        for node in 0..cluster.nodes().len() {
            let dice = |worker: u64| StdRng::seed_from_u64(seed ^ (node as u64) << 32 ^ worker);
            for reader in 0..READERS_PER_NODE {
                tasks.spawn(read(Arc::clone(&world), node, reader, dice(reader)));
            }
            tasks.spawn(write(Arc::clone(&world), node, dice(100)));
            tasks.spawn(session(Arc::clone(&world), node, dice(101)));
            if let Some(python) = python {
                let (socket, cache) = (
                    &cluster[node].app_unix,
                    &memcached.url["memcached://".len()..],
                );
                let worker = python.worker(socket, cache, &dir.join("shop.sqlite"));
                tasks.spawn(in_python(
                    Arc::clone(&world),
                    worker.unwrap(),
                    node,
                    dice(102),
                ));
            }
        }
        Self { world, tasks }
    }

    /// Reads every cart at one desk, by callers who wait for it as long as it takes; they go home with the others.
    pub(crate) fn wait_at(&mut self, node: usize) {
        for cart in 1..=CARTS {
            let world = Arc::clone(&self.world);
            let desk = world.desks[node][0].clone();
            self.tasks.spawn(async move {
                let who = format!("one who waited at n{}", node + 1);
                world.read(&who, &desk, cart, Promise::Everyone).await;
            });
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let counters = &self.world.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            reads: load(&counters.reads),
            hits: load(&counters.hits),
            bypassed: load(&counters.bypassed),
            oracle_hits: self.world.oracle.lock().unwrap().hits(),
            writes: load(&counters.writes),
            unsatisfied: load(&counters.unsatisfied),
            session_reads: load(&counters.session_reads),
            in_python: load(&counters.in_python),
        }
    }

    /// The first stale reads, in words.
    pub(crate) fn stale(&self) -> Vec<String> {
        self.world.stale.lock().unwrap().clone()
    }

    /// Sends them home once each has finished what it was at.
    pub(crate) async fn finish(mut self) -> (Figures, Tally, Vec<String>) {
        self.world.closed.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        let tally = self.world.tally.lock().unwrap().clone();
        (self.figures(), tally, self.stale())
    }
}

/// Beside a sidecar: over its Unix socket, which no network cuts, and with the others to turn to.
fn desk(cluster: &Cluster, node: usize, wait: Duration, cache: &Arc<dyn Cache>) -> CachedClient {
    let nodes = cluster.nodes();
    let at = |node: usize| format!("unix:{}", nodes[node].app_unix.display());
    let mut builder = Client::builder(at(node))
        .resolve_deadline(wait)
        .commit_deadline(Duration::from_secs(5))
        .invalidate_timeout(RECEIPT_TIMEOUT);
    for other in 1..nodes.len() {
        builder = builder.fail_over_to(at((node + other) % nodes.len()));
    }
    CachedClient::new(builder.build().unwrap(), Arc::clone(cache))
}

fn subject(cart: u32) -> Subject {
    let object = CounterId(cart);
    Subject {
        object,
        group: None,
    }
}

impl World {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_nanos()).unwrap())
    }

    fn open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Reads a cart at a desk and judges what it gave.
    async fn read(&self, who: &str, desk: &CachedClient, cart: u32, promise: Promise<'_>) {
        let begun = self.begin(cart, promise);
        let (address, classes) = (format!("cart::{cart}"), [format!("cart/{cart}")]);
        let shop = self.shop.clone();
        let got = desk.get_or_fill(&address, &classes, None, |_| async move {
            let slice = shop.items(cart, 0, 3).await?;
            Ok::<_, ShopError>(slice.version.to_be_bytes().to_vec().into())
        });
        let got = got.await.unwrap();
        let shown = u64::from_be_bytes(got.value[..].try_into().unwrap());
        match got.how {
            How::Hit | How::Stale | How::Waited => count(&self.counters.hits),
            How::Bypassed(_) => count(&self.counters.bypassed),
            How::Filled => {}
        }
        self.was_shown(who, (cart, &format!("{:?}", got.how)), &begun, shown)
            .await;
    }

    /// A read of a cart begins.
    fn begin(&self, cart: u32, promise: Promise<'_>) -> Begun {
        let begun = self.auditor.begin(subject(cart), promise, || self.now());
        self.oracle.lock().unwrap().read(subject(cart), [cart]);
        begun
    }

    /// Judges what a read was given, and how.
    async fn was_shown(&self, who: &str, (cart, how): (u32, &str), begun: &Begun, shown: u64) {
        let verdict = self.judge(begun, shown).await;
        if matches!(verdict, Verdict::Stale { .. } | Verdict::Ahead) {
            let mut told = self.stale.lock().unwrap();
            if told.len() < 20 {
                let at = self.began.elapsed();
                told.push(format!("{at:?}: {who} read cart {cart} {how}: {verdict:?}"));
            }
        }
        self.tally.lock().unwrap().count(verdict);
        count(&self.counters.reads);
    }

    /// The database shows a commit before its writer can tell: a value ahead of the truth is given a moment.
    async fn judge(&self, begun: &Begun, object: u64) -> Verdict {
        let until = Instant::now() + TRUTH_DELAY_MAX;
        loop {
            let shown = Versions { object, group: 0 };
            let verdict = self.auditor.judge(begun, shown);
            if verdict != Verdict::Ahead || Instant::now() >= until {
                return verdict;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Commits; answers the version.
    async fn commit(&self, cart: u32) -> u64 {
        let version = self.shop.add_item(cart, "wine".to_owned()).await.unwrap();
        let id = subject(cart).object;
        self.truth.committed_as(id, version, self.now());
        self.oracle.lock().unwrap().write(id);
        count(&self.counters.writes);
        version
    }
}

async fn read(world: Arc<World>, node: usize, reader: u64, mut dice: StdRng) {
    let who = format!("reader {reader} at n{}", node + 1);
    let desk = world.desks[node][usize::from(reader > 0)].clone();
    while world.open() {
        let cart = dice.random_range(1..=CARTS);
        world.read(&who, &desk, cart, Promise::Everyone).await;
        tokio::time::sleep(READ_EVERY).await;
    }
}

async fn write(world: Arc<World>, node: usize, mut dice: StdRng) {
    let desk = world.desks[node][1].client().clone();
    while world.open() {
        let cart = dice.random_range(1..=CARTS);
        let version = world.commit(cart).await;
        let done = desk
            .invalidate([format!("cart/{cart}")])
            .receipt(ReceiptLevel::All)
            .send()
            .await;
        if done.is_ok_and(|outcome| outcome.receipt.satisfied) {
            world.truth.acknowledge(subject(cart).object, version);
        } else {
            count(&world.counters.unsatisfied);
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

/// Reads, and now and then writes, as the worker does it; it knows nothing of the truth.
async fn in_python(world: Arc<World>, mut worker: PythonWorker, node: usize, mut dice: StdRng) {
    let who = format!("Python at n{}", node + 1);
    while world.open() {
        let cart = dice.random_range(1..=CARTS);
        if dice.random_ratio(1, PYTHON_READS_A_WRITE) {
            let version = world.commit(cart).await;
            if worker.ask(&format!("invalidate {cart}")).await.unwrap() == "reached" {
                world.truth.acknowledge(subject(cart).object, version);
            } else {
                count(&world.counters.unsatisfied);
            }
        } else {
            let begun = world.begin(cart, Promise::Everyone);
            let answer = worker.ask(&format!("read {cart}")).await.unwrap();
            let (how, shown) = answer.split_once(' ').unwrap();
            match how {
                "hit" => count(&world.counters.hits),
                "bypassed" => count(&world.counters.bypassed),
                _ => {}
            }
            let shown = shown.parse().unwrap();
            world.was_shown(&who, (cart, how), &begun, shown).await;
        }
        count(&world.counters.in_python);
        tokio::time::sleep(PYTHON_EVERY).await;
    }
}

/// Writes at home and reads what it wrote elsewhere.
async fn session(world: Arc<World>, node: usize, mut dice: StdRng) {
    let who = format!("the session of n{}", node + 1);
    let home = world.desks[node][1].client().clone();
    let new = || (Session::new().wait(IMPATIENT / 2), SessionPast::default());
    let (mut session, mut past) = new();
    while world.open() {
        let cart = dice.random_range(1..=CARTS);
        let version = world.commit(cart).await;
        let done = home.invalidate([format!("cart/{cart}")]).send().await;
        if let Ok(outcome) = done {
            if !outcome.receipt.satisfied {
                count(&world.counters.unsatisfied);
            }
            // Sidecars that were started again are other issuers, and a session holds three.
            if session.add(&outcome.session_token).is_err() {
                (session, past) = new();
                session.add(&outcome.session_token).unwrap();
            }
            past.wrote(subject(cart).object, version);
        } else {
            count(&world.counters.unsatisfied);
        }
        for _ in 0..3 {
            let at = dice.random_range(0..world.desks.len());
            let desk = world.desks[at][1].session(&session);
            let who = format!("{who}, at n{},", at + 1);
            world.read(&who, &desk, cart, Promise::Session(&past)).await;
            count(&world.counters.session_reads);
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
}
