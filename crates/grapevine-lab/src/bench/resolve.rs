//! Look-ups over the Unix socket, by one client, of addresses of 10,000 carts, drawn at random.
//!
//! *One by one*: each call waits for the one before. *A hundred per call*: two callers, of either side, so that one is served while the
//! other reads.
//! *Stream*: one look-up per message, 32 under way. Before it measures, each side sees a bump: the cart's token, and only its, must
//! change. Every answer must be fresh, and its token and address what they were before.
//!
//! The peers: an empty call to a tonic server ([`super::empty`]), which is what gRPC takes in any case; `GET` of Redis and `get`
//! of memcached with a value of a version's size, over sockets that block, which is what a version in the cache takes.
//!
//! And look-ups in a client's own table ([`super::local`]), with the same sidecar.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use futures::{StreamExt, stream};
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use grapevine_proto::v1::{self, Freshness};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use super::clients::{alone, application, channel};
use super::contest::{Contest, Side, blocking, on_own_thread};
use super::empty::{EmptyClient, EmptyServer};
use super::figure::Figure;
use super::local;
use super::meter::{Measured, Meter};
use super::peers::{Peer, memcached, redis};
use super::sidecars;
use super::stage::Stage;
use crate::caches::{CacheProcess, MEMORY_MIB_DEFAULT};
use crate::histogram::Histogram;

const CARTS: u32 = 10_000;
const PER_CALL: usize = 100;
const CALLERS: usize = 2;
const IN_FLIGHT: usize = 32;
const SEED: u64 = 1;

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
    let cluster = sidecars::start(stage, 1, "", Vec::new()).await?;
    let server = Server {
        socket: cluster.nodes()[0].app_unix.clone(),
        process: cluster.process_id(0).context("the sidecar has ended")?,
    };
    let executable = stage.options.executable.clone();
    let empty = EmptyServer::start(&executable, dir.path());
    let empty_server = stage.peer(Peer::Tonic, empty).await?;
    let redis = CacheProcess::redis(dir.path(), MEMORY_MIB_DEFAULT);
    let redis = stage.peer(Peer::Redis, redis).await?;
    let memcached = CacheProcess::memcached(dir.path(), MEMORY_MIB_DEFAULT);
    let memcached = stage.peer(Peer::Memcached, memcached).await?;
    let commands = [
        empty_server.as_ref().map(EmptyServer::command),
        redis.as_ref().map(CacheProcess::command),
        memcached.as_ref().map(CacheProcess::command),
    ];
    stage.started(commands.into_iter().flatten());
    let of_empty = |server: &EmptyServer| {
        let process = server.process_id().context("the tonic server has ended");
        let socket = server.socket().to_owned();
        process.map(|process| Server { socket, process })
    };
    let empty = empty_server.as_ref().map(of_empty).transpose()?;

    let carts = Arc::new(Carts::known_to(&server.socket).await?);
    let calls = stage.amount(20_000, 50);
    let mut peers = Vec::new();
    if let Some(empty) = &empty {
        peers.push((Peer::Tonic, empty_one_by_one(empty.clone(), calls)));
    }
    if let Some(redis) = &redis {
        peers.push((Peer::Redis, redis_one_by_one(redis, calls)?));
    }
    if let Some(memcached) = &memcached {
        peers.push((Peer::Memcached, memcached_one_by_one(memcached, calls)?));
    }
    let grapevine = grapevine_side(&server, &carts, Way::OneByOne { calls });
    stage
        .contest("one by one", Contest { grapevine, peers })
        .await?;

    let calls = stage.amount(20_000, 10);
    let mut peers = Vec::new();
    if let Some(redis) = &redis {
        peers.push((Peer::Redis, redis_hundred(redis, calls)?));
    }
    let grapevine = grapevine_side(&server, &carts, Way::Hundred { calls });
    stage
        .contest(HUNDRED.0, Contest { grapevine, peers })
        .await?;

    let messages = stage.amount(400_000, 100);
    let mut peers = Vec::new();
    if let Some(empty) = empty {
        peers.push((Peer::Tonic, empty_stream(empty, messages)));
    }
    let grapevine = grapevine_side(&server, &carts, Way::Stream { messages });
    stage
        .contest(STREAM.0, Contest { grapevine, peers })
        .await?;
    local::hold(stage, &server.socket).await?;
    stage.say("ending");
    Ok(cluster.stop().await?)
}

fn one_by_one_figures(times: &Histogram, measured: &Measured, calls: usize) -> Vec<Figure> {
    vec![
        Figure::quantile("one by one, p50", times, 500),
        Figure::quantile("one by one, p99", times, 990),
        measured.cpu_each("one by one, the server's CPU for each", calls),
    ]
}

const HUNDRED: (&str, &str) = ("100 per call", "100 per call, the server's CPU for each");
const STREAM: (&str, &str) = ("stream, 32 in flight", "stream, the server's CPU for each");

/// What is looked up, and what the answers must be.
struct Carts {
    items: Vec<v1::ResolveItem>,
    /// Token and address by the cart's number.
    expected: Vec<(u64, String)>,
}

fn item(cart: u32) -> v1::ResolveItem {
    v1::ResolveItem {
        address: format!("get_items_in_cart::{cart}:10:30"),
        classes: vec![format!("get_items_in_cart/{cart}")],
        page: None,
    }
}

impl Carts {
    /// Bumps every other cart, so that the sidecar has versions to look at, and notes what it answers.
    async fn known_to(socket: &Path) -> anyhow::Result<Self> {
        let socket = socket.to_owned();
        alone(async move || {
            let mut client = application(&socket).await?;
            let classes: Vec<String> = (0..CARTS)
                .step_by(2)
                .map(|cart| format!("get_items_in_cart/{cart}"))
                .collect();
            for classes in classes.chunks(200) {
                let request = v1::InvalidateRequest {
                    classes: classes.to_vec(),
                    ..v1::InvalidateRequest::default()
                };
                client.invalidate(request).await?;
            }
            let items: Vec<_> = (0..CARTS).map(item).collect();
            let mut expected = Vec::with_capacity(items.len());
            for items in items.chunks(PER_CALL) {
                let request = v1::ResolveRequest {
                    items: items.to_vec(),
                    ..v1::ResolveRequest::default()
                };
                let answer = client.resolve(request).await?.into_inner();
                for result in answer.results {
                    let address = result.targets.into_iter().next();
                    let address = address.map(|target| target.address).unwrap_or_default();
                    expected.push((result.token, address));
                }
            }
            let different: HashSet<u64> = expected.iter().map(|(token, _)| *token).collect();
            ensure!(
                expected.len() == items.len() && different.len() == items.len(),
                "resolve: {} carts have {} tokens",
                items.len(),
                different.len()
            );
            Ok(Self { items, expected })
        })
        .await
    }

    /// Some of them, drawn at random.
    fn draw(&self, random: &mut SmallRng, count: usize) -> (Vec<usize>, v1::ResolveRequest) {
        let carts: Vec<usize> = (0..count)
            .map(|_| random.random_range(0..self.items.len()))
            .collect();
        let items = carts.iter().map(|&cart| self.items[cart].clone());
        let request = v1::ResolveRequest {
            items: items.collect(),
            ..v1::ResolveRequest::default()
        };
        (carts, request)
    }

    fn check(&self, carts: &[usize], answer: &v1::ResolveResponse) -> anyhow::Result<()> {
        ensure!(
            answer.freshness() == Freshness::Fresh && answer.results.len() == carts.len(),
            "resolve: {} results of {}, {:?}: {}",
            answer.results.len(),
            carts.len(),
            answer.freshness(),
            answer.freshness_reason
        );
        for (&cart, result) in carts.iter().zip(&answer.results) {
            let (token, address) = &self.expected[cart];
            let right = result.token == *token
                && matches!(&result.targets[..], [target] if target.address == *address)
                && !result.lease.is_empty();
            ensure!(right, "resolve: a wrong answer for cart {cart}: {result:?}");
        }
        Ok(())
    }

    /// A bump changes its cart's token and no other's.
    async fn see_a_bump(
        &self,
        client: &mut ApplicationServiceClient<Channel>,
    ) -> anyhow::Result<()> {
        const BUMPED: u32 = CARTS;
        let mut ask = async || {
            let request = v1::ResolveRequest {
                items: vec![item(BUMPED), self.items[0].clone()],
                ..v1::ResolveRequest::default()
            };
            let answer = client.resolve(request).await?.into_inner();
            let tokens = answer.results.iter().map(|result| result.token);
            let request = v1::InvalidateRequest {
                classes: item(BUMPED).classes,
                ..v1::InvalidateRequest::default()
            };
            client.invalidate(request).await?;
            anyhow::Ok(tokens.collect::<Vec<_>>())
        };
        let (before, after) = (ask().await?, ask().await?);
        let right = matches!((&before[..], &after[..]), ([old, same], [new, still]) if old != new && same == still);
        ensure!(
            right,
            "resolve: tokens {before:?} before a bump of the first, {after:?} after it"
        );
        Ok(())
    }
}

/// A gRPC server.
#[derive(Debug, Clone)]
struct Server {
    socket: PathBuf,
    process: u32,
}

/// How Grapevine is asked.
#[derive(Debug, Clone, Copy)]
enum Way {
    OneByOne { calls: usize },
    Hundred { calls: usize },
    Stream { messages: usize },
}

fn grapevine_side(server: &Server, carts: &Arc<Carts>, way: Way) -> Box<dyn Side> {
    let (server, carts) = (server.clone(), Arc::clone(carts));
    on_own_thread(move || {
        let (server, carts) = (server.clone(), Arc::clone(&carts));
        async move {
            let mut client = application(&server.socket).await?;
            carts.see_a_bump(&mut client).await?;
            let meter = Meter::begin(server.process)?;
            match way {
                Way::OneByOne { calls } => one_by_one(&mut client, &carts, calls, meter).await,
                Way::Hundred { calls } => hundred(&client, &carts, calls, meter).await,
                Way::Stream { messages } => streamed(&mut client, carts, messages, meter).await,
            }
        }
    })
}

async fn one_by_one(
    client: &mut ApplicationServiceClient<Channel>,
    carts: &Carts,
    calls: usize,
    meter: Meter,
) -> anyhow::Result<Vec<Figure>> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut times = Histogram::default();
    for _ in 0..calls {
        let (drawn, request) = carts.draw(&mut random, 1);
        let begun = Instant::now();
        let answer = client.resolve(request).await?.into_inner();
        times.record(begun.elapsed());
        carts.check(&drawn, &answer)?;
    }
    Ok(one_by_one_figures(&times, &meter.end()?, calls))
}

async fn hundred(
    client: &ApplicationServiceClient<Channel>,
    carts: &Carts,
    calls: usize,
    meter: Meter,
) -> anyhow::Result<Vec<Figure>> {
    let caller = async |caller: usize| {
        let mut client = client.clone();
        let mut random = SmallRng::seed_from_u64(SEED + caller as u64);
        for _ in 0..calls / CALLERS {
            let (drawn, request) = carts.draw(&mut random, PER_CALL);
            let answer = client.resolve(request).await?.into_inner();
            carts.check(&drawn, &answer)?;
        }
        anyhow::Ok(())
    };
    futures::future::try_join_all((0..CALLERS).map(caller)).await?;
    let looked_up = calls / CALLERS * CALLERS * PER_CALL;
    Ok(meter.end()?.rate(HUNDRED, looked_up).into())
}

async fn streamed(
    client: &mut ApplicationServiceClient<Channel>,
    carts: Arc<Carts>,
    messages: usize,
    meter: Meter,
) -> anyhow::Result<Vec<Figure>> {
    let (room, requests) = windowed(messages, {
        let carts = Arc::clone(&carts);
        move |random| v1::ResolveStreamRequest {
            request: Some(carts.draw(random, 1).1),
        }
    });
    // What was drawn is drawn once more: the same seed gives the same carts.
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut answers = client.resolve_stream(requests).await?.into_inner();
    for _ in 0..messages {
        let answer = answers.message().await?.and_then(|answer| answer.response);
        room.add_permits(1);
        let (drawn, _) = carts.draw(&mut random, 1);
        carts.check(&drawn, &answer.unwrap_or_default())?;
    }
    Ok(meter.end()?.rate(STREAM, messages).into())
}

/// Messages of a stream, of which the next one is made when there is room for it.
fn windowed<T: Send + 'static>(
    messages: usize,
    mut make: impl FnMut(&mut SmallRng) -> T + Send + 'static,
) -> (
    Arc<Semaphore>,
    impl futures::Stream<Item = T> + Send + 'static,
) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let free = Arc::clone(&room);
    let mut random = SmallRng::seed_from_u64(SEED);
    let requests = stream::iter(0..messages)
        .then(move |_| {
            let free = Arc::clone(&free);
            async move {
                let room = free.acquire_owned().await;
                room.expect("invariant: nobody closes it").forget();
            }
        })
        .map(move |()| make(&mut random));
    (room, requests)
}

fn empty_one_by_one(server: Server, calls: usize) -> Box<dyn Side> {
    on_own_thread(move || {
        let server = server.clone();
        async move {
            let mut client = EmptyClient::new(channel(&server.socket).await?);
            let meter = Meter::begin(server.process)?;
            let mut times = Histogram::default();
            for _ in 0..calls {
                let begun = Instant::now();
                client.unary().await?;
                times.record(begun.elapsed());
            }
            Ok(one_by_one_figures(&times, &meter.end()?, calls))
        }
    })
}

fn empty_stream(server: Server, messages: usize) -> Box<dyn Side> {
    on_own_thread(move || {
        let server = server.clone();
        async move {
            let mut client = EmptyClient::new(channel(&server.socket).await?);
            let (room, requests) = windowed(messages, |_| ());
            let meter = Meter::begin(server.process)?;
            let mut answers = client.stream(requests).await?;
            for answered in 0..messages {
                let answer = answers.next().await.transpose()?;
                ensure!(answer.is_some(), "tonic: {answered} answers of {messages}");
                room.add_permits(1);
            }
            Ok(meter.end()?.rate(STREAM, messages).into())
        }
    })
}

/// A version for every cart, as it would lie in a cache.
fn versions() -> Vec<(String, String)> {
    let version = |cart| {
        (
            format!("version:get_items_in_cart/{cart}"),
            format!("{cart:020}"),
        )
    };
    (0..CARTS).map(version).collect()
}

fn redis_with_versions(
    server: &CacheProcess,
) -> anyhow::Result<(::redis::Connection, Vec<(String, String)>)> {
    let mut connection = redis::connect(server.url())?;
    let versions = versions();
    redis::set(&mut connection, &versions)?;
    Ok((connection, versions))
}

fn redis_one_by_one(server: &CacheProcess, calls: usize) -> anyhow::Result<Box<dyn Side>> {
    let process = server.process_id().context("redis has ended")?;
    let (mut connection, versions) = redis_with_versions(server)?;
    Ok(blocking(move || {
        one_by_one_of(process, &versions, calls, |key, value| {
            redis::get(&mut connection, key, value)
        })
    }))
}

fn memcached_one_by_one(server: &CacheProcess, calls: usize) -> anyhow::Result<Box<dyn Side>> {
    let process = server.process_id().context("memcached has ended")?;
    let mut connection = memcached::Connection::new(server)?;
    let versions = versions();
    for (key, value) in &versions {
        connection.set(key, value)?;
    }
    Ok(blocking(move || {
        one_by_one_of(process, &versions, calls, |key, value| {
            connection.get(key, value)
        })
    }))
}

fn one_by_one_of(
    server: u32,
    versions: &[(String, String)],
    calls: usize,
    mut get: impl FnMut(&str, &str) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Figure>> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut times = Histogram::default();
    let meter = Meter::begin(server)?;
    for _ in 0..calls {
        let (key, value) = &versions[random.random_range(0..versions.len())];
        let begun = Instant::now();
        get(key, value)?;
        times.record(begun.elapsed());
    }
    Ok(one_by_one_figures(&times, &meter.end()?, calls))
}

fn redis_hundred(server: &CacheProcess, calls: usize) -> anyhow::Result<Box<dyn Side>> {
    let process = server.process_id().context("redis has ended")?;
    let (first, versions) = redis_with_versions(server)?;
    let mut connections = vec![first];
    while connections.len() < CALLERS {
        connections.push(redis::connect(server.url())?);
    }
    let call = move |connection: &mut ::redis::Connection, caller: usize| {
        let mut random = SmallRng::seed_from_u64(SEED + caller as u64);
        for _ in 0..calls / CALLERS {
            let mut draw = || versions[random.random_range(0..versions.len())].clone();
            let drawn: Vec<_> = (0..PER_CALL).map(|_| draw()).collect();
            redis::get_all(connection, &drawn)?;
        }
        anyhow::Ok(())
    };
    Ok(blocking(move || {
        let meter = Meter::begin(process)?;
        std::thread::scope(|scope| {
            let callers = connections.iter_mut().enumerate();
            let call = &call;
            let callers: Vec<_> = callers
                .map(|(caller, connection)| scope.spawn(move || call(connection, caller)))
                .collect();
            let mut ends = callers.into_iter().map(|caller| match caller.join() {
                Ok(end) => end,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ends.try_for_each(|end| end)
        })?;
        let looked_up = calls / CALLERS * CALLERS * PER_CALL;
        Ok(meter.end()?.rate(HUNDRED, looked_up).into())
    }))
}
