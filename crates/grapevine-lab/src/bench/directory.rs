//! A directory that is large for a small machine: ten million registrations in a million classes, in one sidecar.
//!
//! A second sidecar stands by, which is not measured: one that is alone invalidates everything when it starts again, and has no directory then. The warm-up registers, durably, in batches of 2,000 that are spread over 400 classes, and waits until both have all;
//! the rate of that is no figure of this bench. Then each round asks for the addresses of classes drawn at random, one listing after the other; looks at the
//! memory of the process and at the room of its files; kills it as `kill -9` does, starts it at once on what it left, and waits
//! until it says that it is fresh and lists a class. *Memory, peak* is the most that any of its processes so far had resident.
//! Memory and disk are looked at while it is filled, too, after each tenth, for a picture.
//! Every listing must have exactly the addresses of its class.
//!
//! The peer: Redis with a set for each class, and an append-only file that is synced every second.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use grapevine_proto::v1;
use parking_lot::Mutex;

use super::clients::{alone, application};
use super::contest::{Contest, Side};
use super::figure::{Figure, number};
use super::peers::Peer;
use super::peers::redis_disk::{RedisOnDisk, add, connect, members, packed};
use super::plot::{Line, Plot, Scale};
use super::registrations::{Pair, Registrations, scatter};
use super::sidecars;
use super::stage::Stage;
use super::usage;
use crate::cluster::Cluster;
use crate::histogram::Histogram;
use crate::ports::free_ports;

/// Visits that are registered by one call.
const VISITS: u64 = 400;
/// Callers that register side by side: while a batch is flushed the next one is taken.
const CALLERS: usize = 4;
/// Into so many parts registering is divided, to see what grows.
const PARTS: u64 = 10;
/// How long a registration may live in the cache.
const TTL_MS: u64 = 24 * 60 * 60 * 1_000;

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
    let set = Registrations {
        first_class: 1_000_000,
        classes: stage.amount(1_000_000, 2_000),
        per_class: 10,
        per_visit: 5,
    };
    let listings = stage.amount(50_000, 100);
    let cluster = sidecars::start(stage, 2, &sidecars::expecting(2), Vec::new()).await?;
    let (our_growth, their_growth) = (Growth::default(), Growth::default());
    let grapevine = Box::new(Ours {
        growth: our_growth.clone(),
        cluster,
        set,
        listings,
        loaded: false,
        peak: 0,
    });
    let port = free_ports(1)?[0];
    let place = dir.path().join("redis");
    let redis = RedisOnDisk::start(&place, port, None);
    let mut peers: Vec<(Peer, Box<dyn Side>)> = Vec::new();
    if let Some(server) = stage.peer(Peer::Redis, redis).await? {
        stage.started([server.command()]);
        let theirs = Theirs {
            growth: their_growth.clone(),
            server,
            set,
            listings,
            loaded: false,
            peak: 0,
        };
        peers.push((Peer::Redis, Box::new(theirs)));
    }
    stage
        .contest("a large directory", Contest { grapevine, peers })
        .await?;
    let both = [("grapevine", &our_growth), ("redis", &their_growth)];
    stage.plot(plot(
        "directory-memory",
        "Memory of a directory",
        both,
        |usage| usage.resident,
    ));
    stage.plot(plot(
        "directory-disk",
        "Disk of a directory",
        both,
        |usage| usage.disk,
    ));
    Ok(())
}

/// What a side took of the machine with so many registrations, while they came.
#[derive(Clone, Default)]
struct Growth(Arc<Mutex<Vec<(u64, Usage)>>>);

#[derive(Clone, Copy)]
struct Usage {
    resident: u64,
    disk: u64,
}

impl Growth {
    fn add(&self, registrations: u64, process: u32, disk: u64) -> anyhow::Result<()> {
        let resident = usage::memory(process)?.resident;
        let usage = Usage { resident, disk };
        self.0.lock().push((registrations, usage));
        Ok(())
    }
}

/// Something of the growth of both, of whoever was measured.
fn plot(
    name: &'static str,
    title: &'static str,
    both: [(&str, &Growth); 2],
    of: impl Fn(&Usage) -> u64,
) -> Plot {
    let millions = |count: u64| number(count) / 1e6;
    let lines = both.into_iter().filter_map(|(name, growth)| {
        let grown = growth.0.lock();
        let points = grown
            .iter()
            .map(|(count, usage)| (millions(*count), millions(of(usage))));
        let points: Vec<_> = points.collect();
        (!points.is_empty()).then(|| Line {
            side: name.to_owned(),
            what: "",
            dashed: false,
            points,
        })
    });
    Plot {
        name,
        title,
        across: "million registrations",
        up: "MB",
        scale: Scale::Linear,
        lines: lines.collect(),
    }
}

/// The batches of each part of registering, and how many registrations there are after it.
fn parts(set: Registrations) -> impl Iterator<Item = (Range<u64>, u64)> {
    let batches = set.batches(VISITS);
    let upto = move |part| batches * part / PARTS;
    (0..PARTS).map(move |part| {
        let range = upto(part)..upto(part + 1);
        let registered = (range.end * VISITS * set.per_visit).min(set.count());
        (range, registered)
    })
}

/// What a round found.
struct Round {
    times: Histogram,
    peak: u64,
    resident: u64,
    disk: u64,
    back: Duration,
}

impl Round {
    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::bytes("memory, peak", self.peak),
            Figure::bytes("memory, when it serves", self.resident),
            Figure::bytes("disk", self.disk),
            Figure::quantile("list a class, p50", &self.times, 500),
            Figure::quantile("list a class, p99", &self.times, 990),
            Figure::time("from kill -9 to serving", self.back),
        ]
    }
}

/// The classes whose addresses a round asks for.
fn drawn(set: Registrations, listings: u64) -> impl Iterator<Item = u64> {
    (0..listings).map(move |at| scatter(at + 1) % set.classes)
}

struct Ours {
    growth: Growth,
    cluster: Cluster,
    set: Registrations,
    listings: u64,
    loaded: bool,
    peak: u64,
}

#[async_trait]
impl Side for Ours {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let node = self.cluster.nodes()[0].clone();
        if !self.loaded {
            let process = self.cluster.process_id(0).context("the sidecar ended")?;
            for (batches, registered) in parts(self.set) {
                register_some(&node.app_unix, self.set, batches).await?;
                let disk = usage::disk(&node.data_dir)?;
                self.growth.add(registered, process, disk)?;
            }
            let all = |status: &v1::StatusResponse| status.registrations == self.set.count();
            sidecars::wait(&self.cluster, 1, all).await?;
            self.loaded = true;
        }
        let times = list(&node.app_unix, self.set, self.listings).await?;
        let process = self.cluster.process_id(0).context("the sidecar ended")?;
        let memory = usage::memory(process)?;
        self.peak = self.peak.max(memory.peak);
        let disk = usage::disk(&node.data_dir)?;
        let begun = Instant::now();
        self.cluster.kill(0).await?;
        self.cluster.restart(0)?;
        let held = sidecars::wait(&self.cluster, 0, |_| true)
            .await?
            .registrations;
        list(&node.app_unix, self.set, 1).await?;
        let back = begun.elapsed();
        ensure!(
            held == self.set.count(),
            "directory: {held} registrations of {} are left after kill -9",
            self.set.count()
        );
        let round = Round {
            times,
            peak: self.peak,
            resident: memory.resident,
            disk,
            back,
        };
        Ok(round.figures())
    }
}

/// A call that registers a batch.
pub(super) fn request(pairs: Vec<Pair>) -> v1::RegisterRequest {
    let registrations = pairs.into_iter().map(|(class, address)| v1::Registration {
        address,
        classes: vec![class],
        ttl_ms: TTL_MS,
        lease: Vec::new().into(),
    });
    v1::RegisterRequest {
        registrations: registrations.collect(),
    }
}

/// Registers all of a set, from a few callers.
pub(super) async fn register(socket: &Path, set: Registrations) -> anyhow::Result<()> {
    register_some(socket, set, 0..set.batches(VISITS)).await
}

async fn register_some(
    socket: &Path,
    set: Registrations,
    batches: Range<u64>,
) -> anyhow::Result<()> {
    let (next, end) = (Arc::new(AtomicU64::new(batches.start)), batches.end);
    let caller = || {
        let (socket, next) = (socket.to_owned(), Arc::clone(&next));
        alone(async move || {
            let mut client = application(&socket).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return Ok(());
                }
                let request = request(set.batch(VISITS, number));
                let wanted = request.registrations.len() as u64;
                let answer = client.register(request).await?.into_inner();
                ensure!(
                    answer.accepted == wanted,
                    "register: {} accepted of {wanted}",
                    answer.accepted
                );
            }
        })
    };
    futures::future::try_join_all((0..CALLERS).map(|_| caller())).await?;
    Ok(())
}

/// Lists classes, and looks at what comes.
async fn list(socket: &Path, set: Registrations, listings: u64) -> anyhow::Result<Histogram> {
    let socket = socket.to_owned();
    alone(async move || {
        let mut client = application(&socket).await?;
        let mut times = Histogram::default();
        for class in drawn(set, listings) {
            let request = v1::ListAddressesRequest {
                class: set.class(class),
                ..v1::ListAddressesRequest::default()
            };
            let begun = Instant::now();
            let mut chunks = client.list_addresses(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(chunk) = chunks.message().await? {
                found.extend(chunk.entries.into_iter().map(|entry| entry.address));
            }
            times.record(begun.elapsed());
            ensure!(
                found == set.addresses(class),
                "directory: {} has {found:?}",
                set.class(class)
            );
        }
        Ok(times)
    })
    .await
}

struct Theirs {
    growth: Growth,
    server: RedisOnDisk,
    set: Registrations,
    listings: u64,
    loaded: bool,
    peak: u64,
}

#[async_trait]
impl Side for Theirs {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let (set, listings, url) = (self.set, self.listings, self.server.url());
        if !self.loaded {
            let process = self.server.process()?;
            for (batches, registered) in parts(set) {
                let url = self.server.url();
                let register = move || {
                    let mut connection = connect(&url)?;
                    for number in batches {
                        let pairs = set.batch(VISITS, number);
                        add(&mut connection, &packed(&pairs), pairs.len())?;
                    }
                    anyhow::Ok(())
                };
                tokio::task::spawn_blocking(register).await??;
                self.growth.add(registered, process, self.server.disk()?)?;
            }
        }
        let times = move || list_of_redis(&mut connect(&url)?, set, listings);
        let times = tokio::task::spawn_blocking(times).await??;
        self.loaded = true;
        let memory = usage::memory(self.server.process()?)?;
        self.peak = self.peak.max(memory.peak);
        let disk = self.server.disk()?;
        self.server.written().await?;
        let begun = Instant::now();
        self.server.kill().await?;
        self.server.restart().await?;
        let url = self.server.url();
        let listed = move || list_of_redis(&mut connect(&url)?, set, 1);
        tokio::task::spawn_blocking(listed).await??;
        let round = Round {
            times,
            peak: self.peak,
            resident: memory.resident,
            disk,
            back: begun.elapsed(),
        };
        Ok(round.figures())
    }
}

fn list_of_redis(
    connection: &mut ::redis::Connection,
    set: Registrations,
    listings: u64,
) -> anyhow::Result<Histogram> {
    let mut times = Histogram::default();
    for class in drawn(set, listings) {
        let name = set.class(class);
        let begun = Instant::now();
        let mut found = members(connection, &name)?;
        times.record(begun.elapsed());
        found.sort_unstable();
        ensure!(found == set.addresses(class), "redis: {name} has {found:?}");
    }
    Ok(times)
}
