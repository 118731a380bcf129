//! A sidecar with an empty disk joins three that hold a million registrations, while one of those is asked.
//!
//! A round asks the first sidecar for one address every millisecond, for two seconds; then starts the fourth, and goes on asking until
//! that says that it is fresh, lacks no event, and holds as many registrations as the others. Then it leaves, and its disk is wiped.
//! The times of look-ups before and meanwhile are told, and how many times the one the other is. Before, each must be fresh;
//! meanwhile there is a moment in which the members vouch for each other in a new roster, and the share is told that was not fresh. Nothing is
//! invalidated, so each fresh answer must have the token of before.
//!
//! The peer: a Redis replica with an empty disk, from its start until its link says that it is up and it has all keys; with a GET
//! at its master every millisecond.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use async_trait::async_trait;
use grapevine_proto::v1::{self, Freshness};

use super::clients::{alone, application};
use super::contest::{Contest, Side};
use super::directory::register;
use super::figure::{Figure, Unit};
use super::peers::Peer;
use super::peers::redis_disk::{RedisOnDisk, add, connect, is_in_sync, packed};
use super::registrations::Registrations;
use super::sidecars;
use super::stage::Stage;
use crate::cluster::Cluster;
use crate::histogram::Histogram;
use crate::ports::free_ports;

const PACE: Duration = Duration::from_millis(1);
const QUIET: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(5);
const SYNC_TIMEOUT: Duration = Duration::from_mins(2);
/// Visits in a pipeline.
const VISITS: u64 = 1_000;

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
    let set = Registrations {
        first_class: 1_000_000,
        classes: stage.amount(100_000, 1_000),
        per_class: 10,
        per_visit: 5,
    };
    let quiet = stage.amount(QUIET, QUIET / 20);
    let cluster = sidecars::start_some(stage, 4, 3, &sidecars::expecting(3), Vec::new()).await?;
    stage.started(["a fourth one of the same kind joins them in each round".to_owned()]);
    stage.say("registering");
    register(&cluster.nodes()[0].app_unix, set).await?;
    for node in 0..3 {
        sidecars::wait(&cluster, node, |status| status.registrations == set.count()).await?;
    }
    let grapevine = Box::new(Ours {
        cluster,
        set,
        quiet,
    });
    let ports = free_ports(2)?;
    let place = dir.path().join("redis-0");
    let master = RedisOnDisk::start(&place, ports[0], None);
    let mut peers: Vec<(Peer, Box<dyn Side>)> = Vec::new();
    if let Some(master) = stage.peer(Peer::Redis, master).await? {
        let replica = "a replica in each round: the same with --replicaof".to_owned();
        stage.started([master.command(), replica]);
        let url = master.url();
        let filled = tokio::task::spawn_blocking(move || {
            let mut connection = connect(&url)?;
            for number in 0..set.batches(VISITS) {
                let pairs = set.batch(VISITS, number);
                add(&mut connection, &packed(&pairs), pairs.len())?;
            }
            Ok::<_, anyhow::Error>(())
        });
        filled.await??;
        let theirs = Theirs {
            master,
            ports: [ports[0], ports[1]],
            dir: dir.path().to_owned(),
            round: 0,
            set,
            quiet,
        };
        peers.push((Peer::Redis, Box::new(theirs)));
    }
    stage
        .contest("a sidecar joins", Contest { grapevine, peers })
        .await?;
    // Until here: what the peer keeps lies in it.
    drop(dir);
    Ok(())
}

/// Classes that are asked for in turn.
const ASKED: u64 = 1_000;

/// The token of each of these classes that was fresh at least once.
type Tokens = BTreeMap<u64, u64>;

/// What an asker saw.
#[derive(Default)]
struct Asked {
    times: Histogram,
    /// What was seen first, before or meanwhile.
    tokens: Tokens,
    /// Look-ups that were not fresh.
    unknown: u32,
}

fn figures(sync: Duration, before: &Histogram, meanwhile: &Histogram) -> Vec<Figure> {
    let before = Figure::quantile("others' look-ups before, p99", before, 990);
    let meanwhile = Figure::quantile("others' look-ups meanwhile, p99", meanwhile, 990);
    let times = Figure {
        what: "others' look-ups, p99, meanwhile to before".into(),
        unit: Unit::Times,
        value: meanwhile.value / before.value,
    };
    vec![
        Figure::time("in sync, from its start", sync),
        before,
        meanwhile,
        times,
    ]
}

/// Asks the first sidecar until it is told to stop; what was seen of a class before must be seen again.
async fn ask(
    socket: &Path,
    set: Registrations,
    tokens: Tokens,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Asked> {
    let socket = socket.to_owned();
    alone(async move || {
        let mut client = application(&socket).await?;
        let mut asked = Asked {
            tokens,
            ..Asked::default()
        };
        while !stop.load(Ordering::Relaxed) {
            let class = asked.times.total() % set.classes.min(ASKED);
            let item = v1::ResolveItem {
                address: format!("a::{class}"),
                classes: vec![set.class(class)],
                page: None,
            };
            let request = v1::ResolveRequest {
                items: vec![item],
                ..v1::ResolveRequest::default()
            };
            let begun = Instant::now();
            let answer = client.resolve(request).await?.into_inner();
            asked.times.record(begun.elapsed());
            let fresh = answer.freshness() == Freshness::Fresh;
            let results = answer.results.len();
            ensure!(results == 1, "join: a look-up has {results} results");
            let token = answer.results[0].token;
            if fresh {
                let known = *asked.tokens.entry(class).or_insert(token);
                ensure!(
                    known == token,
                    "join: class {class} has another token, {token}, than before, {known}"
                );
            } else {
                asked.unknown += 1;
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(asked)
    })
    .await
}

struct Ours {
    cluster: Cluster,
    set: Registrations,
    quiet: Duration,
}

#[async_trait]
impl Side for Ours {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let socket = self.cluster.nodes()[0].app_unix.clone();
        let set = self.set;
        let stop = Arc::new(AtomicBool::new(false));
        let asking = tokio::spawn({
            let (socket, stop) = (socket.clone(), Arc::clone(&stop));
            async move { ask(&socket, set, Tokens::new(), stop).await }
        });
        tokio::time::sleep(self.quiet).await;
        stop.store(true, Ordering::Relaxed);
        let before = asking.await??;
        let stop = Arc::new(AtomicBool::new(false));
        let asking = tokio::spawn({
            let (stop, tokens) = (Arc::clone(&stop), before.tokens);
            async move { ask(&socket, set, tokens, stop).await }
        });
        let begun = Instant::now();
        self.cluster.restart(3)?;
        let synced = sidecars::wait(&self.cluster, 3, |status| {
            status.registrations == set.count() && status.missing_events == 0
        })
        .await;
        let sync = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let meanwhile = asking.await??;
        synced?;
        self.cluster.leave(3).await?;
        self.cluster.wipe(3)?;
        let unknown = before.unknown;
        ensure!(
            unknown == 0,
            "join: {unknown} look-ups were not fresh before"
        );
        for node in 0..3 {
            sidecars::wait(&self.cluster, node, |status| status.seats == 3).await?;
        }
        let mut figures = figures(sync, &before.times, &meanwhile.times);
        let total = u32::try_from(meanwhile.times.total())?;
        figures.push(Figure {
            what: "others' look-ups meanwhile, share not fresh".into(),
            unit: Unit::Share,
            value: f64::from(meanwhile.unknown) / f64::from(total.max(1)),
        });
        Ok(figures)
    }
}

struct Theirs {
    master: RedisOnDisk,
    /// The master's, and that of the replica.
    ports: [u16; 2],
    /// Each replica has a directory of its own in it: a child that rewrites its file outlives a killed one for a while.
    dir: PathBuf,
    round: u32,
    set: Registrations,
    quiet: Duration,
}

/// Asks the master until it is told to stop.
fn get(url: &str, stop: &AtomicBool) -> anyhow::Result<Histogram> {
    let mut connection = connect(url)?;
    redis::cmd("SET")
        .arg("version")
        .arg(7)
        .exec(&mut connection)?;
    let mut times = Histogram::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let got: u64 = redis::cmd("GET").arg("version").query(&mut connection)?;
        times.record(begun.elapsed());
        ensure!(got == 7, "redis: GET: {got}");
        std::thread::sleep(PACE);
    }
    Ok(times)
}

#[async_trait]
impl Side for Theirs {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let spawn = || {
            let stop = Arc::new(AtomicBool::new(false));
            let (url, told) = (self.master.url(), Arc::clone(&stop));
            (stop, tokio::task::spawn_blocking(move || get(&url, &told)))
        };
        let (stop, asking) = spawn();
        tokio::time::sleep(self.quiet).await;
        stop.store(true, Ordering::Relaxed);
        let before = asking.await??;
        let (stop, asking) = spawn();
        let begun = Instant::now();
        self.round += 1;
        let place = self.dir.join(format!("replica-{}", self.round));
        let mut replica = RedisOnDisk::start(&place, self.ports[1], Some(self.ports[0])).await?;
        // The one that is asked for is a key, too.
        let keys = self.set.classes + 1;
        loop {
            let url = replica.url();
            let synced = tokio::task::spawn_blocking(move || is_in_sync(&url, keys));
            if synced.await?? {
                break;
            }
            ensure!(
                begun.elapsed() < SYNC_TIMEOUT,
                "redis: the replica is not in sync within {SYNC_TIMEOUT:?}"
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
        let sync = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let meanwhile = asking.await??;
        replica.kill().await?;
        Ok(figures(sync, &before, &meanwhile))
    }
}
