//! Registrations in durable batches: a million a round, 5,000 in each call, from four callers, all of them new.
//!
//! *One node*: until the last answer, which says that the batch is durable. *With two peers*: until both of them say that they have
//! as many in their directories, which is when they are on their disks, too. The requests are made beforehand. The processor time
//! is that of all sidecars, from the first request until then.
//!
//! The peer: Redis with an append-only file that is synced every second, one SADD for each registration, 5,000 in a pipeline, from four
//! connections; and the same with two replicas, until `WAIT` says that both have acknowledged all of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use grapevine_proto::v1;

use super::clients::{alone, application};
use super::contest::{Contest, Side};
use super::directory::request;
use super::figure::Figure;
use super::peers::Peer;
use super::peers::redis_disk::{RedisOnDisk, add, connect, packed, wait_for_replicas};
use super::registrations::Registrations;
use super::sidecars;
use super::stage::Stage;
use crate::cluster::Cluster;
use crate::ports::free_ports;
use crate::process::cpu_time;

/// Visits of five registrations that one call registers.
const VISITS: u64 = 1_000;
const CALLERS: u64 = 4;
const REPLICAS: usize = 2;

/// What the figures of a contest are called.
#[derive(Debug, Clone, Copy)]
struct Names {
    rate: &'static str,
    each: &'static str,
}

const ALONE: Names = Names {
    rate: "one node",
    each: "one node: processor time of each",
};
const TOGETHER: Names = Names {
    rate: "with two peers",
    each: "with two peers: processor time of each, of all three",
};

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let set = Registrations {
        first_class: 1_000_000,
        classes: stage.amount(100_000, 1_000),
        per_class: 10,
        per_visit: 5,
    };
    for (names, peers) in [(ALONE, 0), (TOGETHER, REPLICAS)] {
        let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
        let nodes = u32::try_from(1 + peers)?;
        let cluster =
            sidecars::start(stage, nodes, &sidecars::expecting(nodes), Vec::new()).await?;
        let grapevine = Box::new(Ours {
            cluster,
            names,
            set,
            round: 0,
        });
        let mut others: Vec<(Peer, Box<dyn Side>)> = Vec::new();
        let servers = start_redis(dir.path(), peers);
        if let Some(servers) = stage.peer(Peer::Redis, servers).await? {
            stage.started(servers.iter().map(RedisOnDisk::command));
            others.push((
                Peer::Redis,
                Box::new(Theirs {
                    servers,
                    names,
                    set,
                    round: 0,
                }),
            ));
        }
        let contest = Contest {
            grapevine,
            peers: others,
        };
        stage.contest(names.rate, contest).await?;
    }
    Ok(())
}

/// A server and so many replicas.
async fn start_redis(
    dir: &Path,
    replicas: usize,
) -> Result<Vec<RedisOnDisk>, crate::caches::CacheServerError> {
    let ports = free_ports(1 + replicas).map_err(|source| {
        let path = dir.to_owned();
        crate::caches::CacheServerError::Directory { path, source }
    })?;
    let mut servers = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        let place = dir.join(format!("redis-{number}"));
        let master = (number > 0).then_some(ports[0]);
        servers.push(RedisOnDisk::start(&place, *port, master).await?);
    }
    Ok(servers)
}

/// The registrations of a round: none of them was in an earlier one.
fn of_round(set: Registrations, round: u64) -> Registrations {
    Registrations {
        first_class: set.first_class + round * set.classes,
        ..set
    }
}

/// The batches that a caller sends.
fn of_caller(set: Registrations, caller: u64) -> impl Iterator<Item = u64> {
    (0..set.batches(VISITS)).filter(move |number| number % CALLERS == caller)
}

/// What a round took.
fn figures(names: Names, set: Registrations, elapsed: Duration, taken: Duration) -> Vec<Figure> {
    vec![
        Figure::rate(names.rate, set.count(), elapsed),
        Figure::cpu_each(names.each, taken, set.count()),
    ]
}

fn processor_time(processes: &[u32]) -> anyhow::Result<Duration> {
    let times = processes
        .iter()
        .map(|&id| cpu_time(id).context("a server's time on a core"));
    times.sum()
}

struct Ours {
    cluster: Cluster,
    names: Names,
    set: Registrations,
    round: u64,
}

#[async_trait]
impl Side for Ours {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let set = of_round(self.set, self.round);
        self.round += 1;
        let socket = self.cluster.nodes()[0].app_unix.clone();
        let nodes = self.cluster.nodes().len();
        let processes = (0..nodes).map(|node| self.cluster.process_id(node));
        let processes: Option<Vec<u32>> = processes.collect();
        let processes = processes.context("a sidecar ended")?;
        let requests = (0..CALLERS).map(|caller| {
            let batches = of_caller(set, caller).map(|number| request(set.batch(VISITS, number)));
            batches.collect::<Vec<_>>()
        });
        let requests: Vec<_> = requests.collect();
        let before = processor_time(&processes)?;
        let begun = Instant::now();
        let callers = requests.into_iter().map(|requests| {
            let socket = socket.clone();
            alone(async move || send(&socket, requests).await)
        });
        futures::future::try_join_all(callers).await?;
        let wanted = self.set.count() * self.round;
        for node in 1..nodes {
            sidecars::wait(&self.cluster, node, |status| status.registrations == wanted).await?;
        }
        let elapsed = begun.elapsed();
        let taken = processor_time(&processes)?.saturating_sub(before);
        let held = self.cluster.status(0).await?.registrations;
        ensure!(held == wanted, "register: {held} are held of {wanted}");
        Ok(figures(self.names, set, elapsed, taken))
    }
}

async fn send(socket: &Path, requests: Vec<v1::RegisterRequest>) -> anyhow::Result<()> {
    let mut client = application(socket).await?;
    for request in requests {
        let wanted = request.registrations.len() as u64;
        let accepted = client.register(request).await?.into_inner().accepted;
        ensure!(
            accepted == wanted,
            "register: {accepted} accepted of {wanted}"
        );
    }
    Ok(())
}

struct Theirs {
    /// The first is the one that is written to.
    servers: Vec<RedisOnDisk>,
    names: Names,
    set: Registrations,
    round: u64,
}

#[async_trait]
impl Side for Theirs {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let set = of_round(self.set, self.round);
        self.round += 1;
        let processes: anyhow::Result<Vec<u32>> =
            self.servers.iter().map(RedisOnDisk::process).collect();
        let processes = processes?;
        let replicas = self.servers.len() - 1;
        let pipelines = (0..CALLERS).map(|caller| {
            let batches = of_caller(set, caller).map(|number| {
                let pairs = set.batch(VISITS, number);
                (packed(&pairs), pairs.len())
            });
            batches.collect::<Vec<_>>()
        });
        let pipelines: Vec<_> = pipelines.collect();
        let before = processor_time(&processes)?;
        let begun = Instant::now();
        let callers = pipelines.into_iter().map(|pipelines| {
            let url = self.servers[0].url();
            async move {
                let sent = tokio::task::spawn_blocking(move || {
                    let mut connection = connect(&url)?;
                    for (packed, count) in pipelines {
                        add(&mut connection, &packed, count)?;
                    }
                    wait_for_replicas(&mut connection, replicas)
                });
                sent.await?
            }
        });
        futures::future::try_join_all(callers).await?;
        let elapsed = begun.elapsed();
        let taken = processor_time(&processes)?.saturating_sub(before);
        Ok(figures(self.names, set, elapsed, taken))
    }
}
