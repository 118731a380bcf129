//! Elected fills: of all callers that miss a value at once, one reads the source (race 11), and whoever is killed, the
//! others go on and nobody is given what is stale (G3).
//!
//! An arbiter that is silent for 50 ms is not waited for, which a busy machine makes happen: a second read of the source is
//! right then, and the sidecars count it. So the tests count too, and allow as many reads more as were counted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use grapevine_cache::{MemoryCache, MemoryConfig};
use grapevine_client::{CachedClient, FillHold, FillTurn, GetOutcome, How};
use grapevine_integration_tests::{Cluster, Setup, eventually};
use grapevine_proto::v1::{CondemnReason, ReceiptLevel};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fence::client;
use crate::support::SOON;

/// `any` is elected by nobody; the others are of every strategy.
const POLICIES: &str = "
[[policy]]
pattern = \"any/**\"
[[policy]]
pattern = \"registered/**\"
strategy = \"registered\"
fill = \"one\"
[[policy]]
pattern = \"bucketed/**\"
strategy = \"bucketed(8)\"
fill = \"one\"
[[policy]]
pattern = \"one/**\"
fill = \"one\"
";
/// Callers of each client that read at the same time; the client's own single flight makes them one.
const CALLERS: usize = 10;

/// A source that counts its reads and answers none until it may.
#[derive(Clone)]
struct Source {
    reads: Arc<AtomicU64>,
    version: Arc<AtomicU64>,
    open: watch::Sender<bool>,
}

impl Source {
    fn shut() -> Self {
        Self {
            reads: Arc::default(),
            version: Arc::default(),
            open: watch::Sender::new(false),
        }
    }

    async fn read(self) -> String {
        let version = self.version.load(Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        version.to_string()
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }
}

/// So many clients at each sidecar, with one cache for all: each is a process of its own as far as single flight goes.
fn clients(cluster: &Cluster, each: usize, cache: &Arc<MemoryCache>) -> Vec<CachedClient> {
    let nodes = cluster.nodes().iter();
    nodes
        .flat_map(|node| (0..each).map(move |_| client(node)))
        .map(|client| CachedClient::new(client, cache.clone() as _))
        .collect()
}

/// All of them read a value at once, each by ten callers.
fn storm(clients: &[CachedClient], class: &str, source: &Source) -> Vec<JoinHandle<GetOutcome>> {
    let calls = clients.iter().flat_map(|client| vec![client; CALLERS]);
    calls
        .map(|client| {
            let (client, source, class) = (client.clone(), source.clone(), class.to_owned());
            tokio::spawn(async move {
                let classes = [&class];
                let fill = |_| async { Ok::<_, Infallible>(source.read().await.into()) };
                let read = client.get_or_fill(&class, &classes, None, fill);
                read.await.unwrap()
            })
        })
        .collect()
}

async fn all(calls: Vec<JoinHandle<GetOutcome>>) -> Vec<GetOutcome> {
    let mut outcomes = Vec::new();
    for call in calls {
        let outcome = tokio::time::timeout(SOON, call).await;
        outcomes.push(outcome.expect("a caller was never answered").unwrap());
    }
    outcomes
}

/// A counter's sum over some of the sidecars.
async fn sum(cluster: &Cluster, nodes: &[usize], counter: &str) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        sum += cluster[*node].api.counter(counter).await?;
    }
    Ok(sum)
}

fn bypassed(outcomes: &[GetOutcome]) -> u64 {
    let bypassed = outcomes
        .iter()
        .filter(|it| matches!(it.how, How::Bypassed(_)));
    bypassed.count() as u64
}

/// Lets the clients read a value and opens the source when each of them waits for it or for its turn. Tells how often the
/// source was read, and how often that was allowed.
async fn round(
    cluster: &Cluster,
    clients: &[CachedClient],
    class: &str,
    source: &Source,
) -> (u64, u64) {
    let nodes = [0, 1, 2];
    source.open.send_replace(false);
    let version = source.version.load(Ordering::SeqCst).to_string();
    let (read, unelected) = (
        source.reads(),
        sum(cluster, &nodes, "fills_unelected").await.unwrap(),
    );
    let calls = storm(clients, class, source);
    eventually("every client waits", SOON, async || {
        let waiting = sum(cluster, &nodes, "fills_waiting").await?;
        let reading = source.reads() - read;
        let all = clients.len() as u64;
        ensure!(
            waiting + reading >= all,
            "{waiting} wait, {reading} read, of {all}"
        );
        Ok(())
    })
    .await
    .unwrap();
    source.open.send_replace(true);
    let outcomes = all(calls).await;
    for outcome in &outcomes {
        assert_eq!(outcome.value, version, "{class}: nothing stale (G3)");
    }
    let unelected = sum(cluster, &nodes, "fills_unelected").await.unwrap() - unelected;
    (source.reads() - read, 1 + unelected + bypassed(&outcomes))
}

#[tokio::test(flavor = "multi_thread")]
async fn race11_one_of_360_callers_at_three_sidecars_reads_the_source() {
    let cluster = Setup::of(3).toml(POLICIES).start().await.unwrap();
    let cache = Arc::new(MemoryCache::new(MemoryConfig::default()));
    let clients = clients(&cluster, 12, &cache);
    for strategy in ["one", "registered", "bucketed"] {
        let source = Source::shut();
        for number in 0..3 {
            let class = format!("{strategy}/1");
            let (reads, allowed) = round(&cluster, &clients, &class, &source).await;
            assert!(
                reads <= allowed,
                "{strategy}, round {number}: {reads} reads of {allowed}"
            );
            source.version.fetch_add(1, Ordering::SeqCst);
            let answer = cluster[0].api.invalidate(&class, ReceiptLevel::All).await;
            assert!(answer.unwrap().receipt.unwrap().satisfied);
        }
    }
}

/// `cargo test -p grapevine-integration-tests --test it -- --ignored --nocapture measure_a_storm`: how often the source is read
/// when 360 callers in 36 clients at three sidecars miss each of eight values, with and without elections.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn measure_a_storm_with_and_without_elections() {
    const VALUES: u64 = 8;
    let cluster = Setup::of(3).toml(POLICIES).start().await.unwrap();
    let cache = Arc::new(MemoryCache::new(MemoryConfig::default()));
    let clients = clients(&cluster, 12, &cache);
    let callers = clients.len() * CALLERS;
    println!("| fill | values | callers of each | source reads | allowed beyond one a value |");
    for fill in ["any", "one"] {
        let (mut reads, mut more) = (0, 0);
        for value in 0..VALUES {
            let source = Source::shut();
            let class = format!("{fill}/{value}");
            let (read, allowed) = round(&cluster, &clients, &class, &source).await;
            reads += read;
            more += allowed - 1;
        }
        println!("| `{fill}` | {VALUES} | {callers} | {reads} | {more} |");
    }
}

/// One value at a cluster, and who has the turn to fill it.
struct Turns<'a> {
    cluster: &'a Cluster,
    class: String,
    address: String,
    token: u64,
}

impl<'a> Turns<'a> {
    async fn of(cluster: &'a Cluster, number: usize) -> Result<Self> {
        let class = format!("one/{number}");
        let (client, classes) = (client(&cluster[0]), [&class]);
        let resolved = client.resolve_one("value", &classes, None).await?;
        let resolution = resolved.resolution;
        Ok(Self {
            cluster,
            class,
            address: resolution.targets[0].address.clone(),
            token: resolution.token,
        })
    }

    async fn won(&self, node: usize) -> Result<FillHold> {
        let client = client(&self.cluster[node]);
        match client.acquire_fill(&self.address, self.token, SOON).await? {
            FillTurn::Won(hold) => Ok(hold),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Until so many wait at a sidecar.
    async fn waits(&self, node: usize) -> Result<()> {
        eventually("the next one waits", SOON / 3, async || {
            let waiting = self.cluster[node].api.counter("fills_waiting").await?;
            ensure!(waiting == 1, "{waiting} wait");
            Ok(())
        })
        .await
    }

    /// The verdict on a commit under a turn that was won at a sidecar.
    async fn commit(&self, node: usize, hold: &FillHold) -> Result<(bool, CondemnReason)> {
        let client = client(&self.cluster[node]);
        let resolved = client
            .resolve_one("value", &[&self.class], None)
            .await?
            .resolution;
        let fill = grapevine_client::v1::Fill {
            address: "value".to_owned(),
            classes: vec![self.class.clone()],
            lease: resolved.lease,
            fill: hold.fill().clone(),
            ..Default::default()
        };
        let verdict = client.commit_fill(fill).await?;
        Ok((verdict.accepted, verdict.reason()))
    }
}

/// Tries with one value after another until no sidecar had to do without its arbiter meanwhile: only then is it sure who has
/// the turn. What goes wrong otherwise is the test's failure.
async fn undisturbed(
    cluster: &Cluster,
    nodes: &[usize],
    attempt: impl AsyncFn(Turns<'_>) -> Result<()>,
) {
    for number in 0.. {
        let before = sum(cluster, nodes, "fills_unelected").await.unwrap();
        let turns = Turns::of(cluster, number).await.unwrap();
        let done = attempt(turns).await;
        let after = sum(cluster, nodes, "fills_unelected").await.unwrap();
        match done {
            Ok(()) => return,
            Err(error) if after == before || number == 9 => panic!("{error:#}"),
            Err(error) => println!("once more, an arbiter was silent: {error:#}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn race11_a_turn_that_is_given_up_goes_to_the_next_one_at_once() {
    let cluster = Setup::of(3).toml(POLICIES).start().await.unwrap();
    undisturbed(&cluster, &[0, 1, 2], async |turns| {
        let first = turns.won(0).await?;
        let gives_up = async {
            turns.waits(1).await?;
            drop(first);
            anyhow::Ok(Instant::now())
        };
        let (second, given_up) = tokio::try_join!(turns.won(1), gives_up)?;
        let waited = given_up.elapsed();
        ensure!(
            waited < Duration::from_secs(10),
            "{waited:?}, long before a lease ends"
        );
        second.finish(true).await.context("to finish")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn race11_a_turn_ends_with_its_lease_and_its_late_commit_is_condemned() {
    let setup = Setup::of(3).toml(POLICIES).flag("lease-duration", "2s");
    let cluster = setup.start().await.unwrap();
    undisturbed(&cluster, &[0, 1, 2], async |turns| {
        let first = turns.won(0).await?;
        // It hangs. The next one has the turn when its lease is over.
        let second = turns.won(1).await?;
        let verdict = turns.commit(0, &first).await?;
        ensure!(
            verdict == (false, CondemnReason::Superseded),
            "late: {verdict:?}"
        );
        let (accepted, reason) = turns.commit(1, &second).await?;
        ensure!(accepted, "in time: {reason:?}");
        second.finish(true).await.context("to finish")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn race11_a_winner_whose_sidecar_is_killed_leaves_its_turn_to_another_one() {
    // It is the end of the link that tells, and not that of a lease.
    let setup = Setup::of(3).toml(POLICIES).flag("lease-duration", "5m");
    let mut cluster = setup.start().await.unwrap();
    let (mut held, mut others) = (Vec::new(), Vec::new());
    // Of many values, each sidecar arbitrates some.
    for number in 0..12 {
        let turns = Turns::of(&cluster, number).await.unwrap();
        held.push(turns.won(2).await.unwrap());
        let (address, token) = (turns.address, turns.token);
        let next = client(&cluster[0]);
        others.push(tokio::spawn(async move {
            next.acquire_fill(&address, token, SOON).await
        }));
    }
    eventually("the others wait", SOON, async || {
        let waiting = cluster[0].api.counter("fills_waiting").await?;
        // One whose arbiter was silent has its turn already.
        let unelected = others.iter().filter(|next| next.is_finished()).count();
        ensure!(waiting + unelected as u64 == 12, "{waiting}, {unelected}");
        Ok(())
    })
    .await
    .unwrap();
    cluster[2].kill().await.unwrap();
    for next in others {
        let next = next.await.unwrap().unwrap();
        assert!(matches!(next, FillTurn::Won(_)), "{next:?}");
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn race11_an_arbiter_that_is_killed_stops_nobody_and_nothing_stale_is_given() {
    let mut cluster = Setup::of(3).toml(POLICIES).start().await.unwrap();
    let cache = Arc::new(MemoryCache::new(MemoryConfig::default()));
    let clients = clients(&cluster, 4, &cache);
    let (survivors, _) = clients.split_at(8);
    let source = Source::shut();
    // Of many values, each sidecar arbitrates some: of 30 the third one has none in one run of 190,000.
    let classes: Vec<_> = (0..30).map(|number| format!("one/{number}")).collect();
    let storms = classes.iter().map(|class| storm(survivors, class, &source));
    let storms: Vec<_> = storms.collect();
    let everyone = (classes.len() * survivors.len()) as u64;
    eventually("every client waits", SOON, async || {
        let waiting = sum(&cluster, &[0, 1], "fills_waiting").await?;
        let reading = source.reads();
        ensure!(waiting + reading >= everyone, "{waiting} and {reading}");
        let open = cluster[2].api.counter("elections_open").await?;
        ensure!(open > 0, "it arbitrates nothing");
        Ok(())
    })
    .await
    .unwrap();
    cluster[2].kill().await.unwrap();
    source.open.send_replace(true);
    let mut outside = 0;
    for storm in storms {
        let outcomes = all(storm).await;
        assert!(outcomes.iter().all(|outcome| outcome.value == "0"));
        outside += bypassed(&outcomes);
    }
    outside += sum(&cluster, &[0, 1], "fills_unelected").await.unwrap();
    let reads = source.reads();
    assert!(
        reads <= 2 * classes.len() as u64 + outside,
        "{reads} reads, {outside} of them unelected: of each value one a sidecar at most"
    );
    eventually("nobody waits any more", SOON, async || {
        let waiting = sum(&cluster, &[0, 1], "fills_waiting").await?;
        ensure!(waiting == 0, "{waiting} wait");
        Ok(())
    })
    .await
    .unwrap();
}
