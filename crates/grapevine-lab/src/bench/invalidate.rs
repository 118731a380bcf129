//! Invalidations of a class with many addresses.
//!
//! *Registered*: 1,519 addresses of one cart, whose values lie in memcached. Measured is one call, which answers when they are deleted
//! there. The peer keeps the addresses in a set in Redis: it asks for the members, deletes them from the same memcached by the same
//! client as the sidecar does, and deletes the set.
//!
//! *Versioned*: a class of 1,000,000 addresses, or 2,000 with `--short`, that were all looked up. Measured is one call, which answers
//! when the bump is on the disk; the addresses' tokens are others then. The peer has the values in Redis, and their keys in a set: it asks for the
//! members, and unlinks them and the set.
//!
//! Both peers keep nothing on a disk, and Grapevine does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use grapevine_cache::Cache;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use grapevine_proto::v1::{self, RegisterRequest};
use tonic::transport::Channel;

use super::clients::{alone, application};
use super::contest::{Contest, Side, on_own_thread};
use super::figure::Figure;
use super::peers::{Peer, redis};
use super::sidecars;
use super::stage::Stage;
use crate::caches::{CacheProcess, CacheServerError, MEMORY_MIB_DEFAULT};
use crate::demo::screen::count;
use crate::histogram::Histogram;

const CART: &str = "get_items_in_cart/13";
const CART_ADDRESSES: u32 = 1_519;
const CATALOGUE: &str = "catalogue/all";
const TTL: Duration = Duration::from_hours(1);
const VALUE_BYTES: usize = 100;
/// Values that are put into a cache at one time.
const SETS_AT_ONCE: usize = 64;
const PER_CALL: usize = 1_000;
/// Of Redis: room for a million values and a set of their keys.
const REDIS_MIB: u32 = 2_048;
/// Addresses of the large class whose tokens are looked at before and after.
const SAMPLE: usize = 500;

const POLICIES: &str =
    "[[policy]]\npattern = \"get_items_in_cart/**\"\nstrategy = \"registered\"\nttl = \"1h\"\n";

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
    let redis = CacheProcess::redis(dir.path(), REDIS_MIB);
    let redis = stage.peer(Peer::Redis, redis).await?;
    let memcached = match CacheProcess::memcached(dir.path(), MEMORY_MIB_DEFAULT).await {
        Ok(server) => {
            stage.tell_version(Peer::Memcached).await;
            Some(server)
        }
        Err(CacheServerError::NotInstalled(program)) => {
            stage.skip(Peer::Memcached, program);
            None
        }
        Err(error) => return Err(error.into()),
    };
    let commands = [&redis, &memcached].map(|server| server.as_ref().map(CacheProcess::command));
    stage.started(commands.into_iter().flatten());
    // A busy machine is no wrong answer: of the cache both sides wait for longer than services would.
    let cache = memcached
        .as_ref()
        .map(|server| format!("{}?timeout=30s", server.url()));
    let urls = cache.iter().cloned().collect();
    let cluster = sidecars::start(stage, 1, POLICIES, urls).await?;
    let socket = cluster.nodes()[0].app_unix.clone();

    if let Some(cache) = cache {
        let rounds = stage.amount(20, 2);
        let mut peers = Vec::new();
        if let Some(redis) = &redis {
            peers.push((Peer::Redis, set_of_addresses(redis, cache.clone(), rounds)));
        }
        let grapevine = registered(&socket, cache, rounds);
        stage
            .contest("registered", Contest { grapevine, peers })
            .await?;
    }

    let addresses = stage.amount(1_000_000, 2_000);
    stage.say("looking up the addresses of the large class");
    look_all_up(&socket, addresses).await?;
    let mut peers = Vec::new();
    if let Some(redis) = &redis {
        peers.push((Peer::Redis, set_of_keys(redis, addresses)));
    }
    let grapevine = versioned(&socket, addresses, stage.amount(500, 5));
    stage
        .contest("versioned", Contest { grapevine, peers })
        .await?;
    stage.say("ending");
    Ok(cluster.stop().await?)
}

fn registered_p50() -> String {
    let addresses = count(CART_ADDRESSES);
    format!("registered, {addresses} addresses gone from memcached, p50")
}

fn versioned_at(addresses: usize, quantile: &str) -> String {
    let addresses = count(addresses);
    format!("versioned, a class of {addresses} addresses, {quantile}")
}

fn cart_addresses() -> Arc<Vec<String>> {
    let address = |n| format!("get_items_in_cart::13:{}:{}", 10 + n % 49, n);
    Arc::new((0..CART_ADDRESSES).map(address).collect())
}

async fn fill(cache: &Arc<dyn Cache>, addresses: &[String]) -> anyhow::Result<()> {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let sets = stream::iter(addresses).map(|address| cache.set(address, value.clone(), TTL));
    let mut sets = sets.buffer_unordered(SETS_AT_ONCE);
    while let Some(set) = sets.next().await {
        set.context("memcached: set")?;
    }
    Ok(())
}

async fn all_gone(cache: &Arc<dyn Cache>, addresses: &[String]) -> anyhow::Result<()> {
    let left = cache.get_many(addresses).await.context("memcached: get")?;
    let left = left.iter().flatten().count();
    ensure!(
        left == 0,
        "{left} of {} addresses are still in memcached",
        addresses.len()
    );
    Ok(())
}

fn registered(socket: &Path, cache: String, rounds: usize) -> Box<dyn Side> {
    let (socket, addresses) = (socket.to_owned(), cart_addresses());
    on_own_thread(move || {
        let (socket, cache, addresses) = (socket.clone(), cache.clone(), Arc::clone(&addresses));
        async move {
            let cache = grapevine_cache::connect(&cache)?;
            let mut client = application(&socket).await?;
            let mut times = Histogram::default();
            for _ in 0..rounds {
                fill(&cache, &addresses).await?;
                register(&mut client, &addresses).await?;
                let begun = Instant::now();
                let done = invalidate(&mut client, CART).await?;
                times.record(begun.elapsed());
                let purged = done.addresses_purged;
                ensure!(
                    purged == u64::from(CART_ADDRESSES) && done.addresses_pending == 0,
                    "invalidate: {purged} addresses of {CART_ADDRESSES} were purged, {} are pending",
                    done.addresses_pending
                );
                all_gone(&cache, &addresses).await?;
            }
            Ok(vec![Figure::quantile(registered_p50(), &times, 500)])
        }
    })
}

async fn register(
    client: &mut ApplicationServiceClient<Channel>,
    addresses: &[String],
) -> anyhow::Result<()> {
    for addresses in addresses.chunks(PER_CALL) {
        let registration = |address: &String| v1::Registration {
            address: address.clone(),
            classes: vec![CART.to_owned()],
            ..v1::Registration::default()
        };
        let request = RegisterRequest {
            registrations: addresses.iter().map(registration).collect(),
        };
        let answer = client.register(request).await?.into_inner();
        let (accepted, asked) = (answer.accepted, addresses.len());
        ensure!(
            accepted == asked as u64,
            "register: {accepted} of {asked} were accepted"
        );
    }
    Ok(())
}

async fn invalidate(
    client: &mut ApplicationServiceClient<Channel>,
    class: &str,
) -> anyhow::Result<v1::InvalidateResponse> {
    let request = v1::InvalidateRequest {
        classes: vec![class.to_owned()],
        ..v1::InvalidateRequest::default()
    };
    Ok(client.invalidate(request).await?.into_inner())
}

fn set_of_addresses(server: &CacheProcess, cache: String, rounds: usize) -> Box<dyn Side> {
    let (url, addresses) = (server.url().to_owned(), cart_addresses());
    on_own_thread(move || {
        let (url, cache, addresses) = (url.clone(), cache.clone(), Arc::clone(&addresses));
        async move {
            let cache = grapevine_cache::connect(&cache)?;
            let mut redis = redis::connect(&url)?;
            let mut times = Histogram::default();
            for _ in 0..rounds {
                fill(&cache, &addresses).await?;
                redis::add(&mut redis, CART, &addresses)?;
                let begun = Instant::now();
                let members = redis::members(&mut redis, CART)?;
                let deleted = cache.delete_many(&members).await;
                redis::unlink(&mut redis, &[CART.to_owned()])?;
                times.record(begun.elapsed());
                let all = deleted.deleted == addresses.len() && deleted.is_complete();
                ensure!(all, "the set's members: {deleted:?}");
                all_gone(&cache, &addresses).await?;
            }
            Ok(vec![Figure::quantile(registered_p50(), &times, 500)])
        }
    })
}

fn catalogue_address(n: usize) -> String {
    format!("get_catalogue::{n:07}:10:30:price:desc")
}

fn look_up(addresses: impl Iterator<Item = usize>) -> v1::ResolveRequest {
    let item = |n| v1::ResolveItem {
        address: catalogue_address(n),
        classes: vec![CATALOGUE.to_owned()],
        page: None,
    };
    v1::ResolveRequest {
        items: addresses.map(item).collect(),
        ..v1::ResolveRequest::default()
    }
}

async fn look_all_up(socket: &Path, addresses: usize) -> anyhow::Result<()> {
    let socket = socket.to_owned();
    alone(async move || {
        let mut client = application(&socket).await?;
        for begin in (0..addresses).step_by(PER_CALL) {
            let end = addresses.min(begin + PER_CALL);
            let answer = client.resolve(look_up(begin..end)).await?.into_inner();
            ensure!(
                answer.results.len() == end - begin,
                "resolve: too few results"
            );
        }
        Ok(())
    })
    .await
}

fn versioned(socket: &Path, addresses: usize, rounds: usize) -> Box<dyn Side> {
    let socket = socket.to_owned();
    on_own_thread(move || {
        let socket = socket.clone();
        async move {
            let mut client = application(&socket).await?;
            let mut times = Histogram::default();
            let mut before = sampled(&mut client).await?;
            for _ in 0..rounds {
                let begun = Instant::now();
                invalidate(&mut client, CATALOGUE).await?;
                times.record(begun.elapsed());
                let after = sampled(&mut client).await?;
                let others = before
                    .iter()
                    .zip(&after)
                    .all(|(before, after)| before != after);
                ensure!(
                    others,
                    "versioned: an address is the same after the invalidation"
                );
                before = after;
            }
            Ok(vec![
                Figure::quantile(versioned_at(addresses, "p50"), &times, 500),
                Figure::quantile(versioned_at(addresses, "p99"), &times, 990),
            ])
        }
    })
}

/// The cache addresses of some of the large class's.
async fn sampled(client: &mut ApplicationServiceClient<Channel>) -> anyhow::Result<Vec<String>> {
    let answer = client.resolve(look_up(0..SAMPLE)).await?.into_inner();
    let targets = answer.results.into_iter().flat_map(|result| result.targets);
    let addresses: Vec<String> = targets.map(|target| target.address).collect();
    ensure!(
        addresses.len() == SAMPLE,
        "resolve: {} addresses of {SAMPLE}",
        addresses.len()
    );
    Ok(addresses)
}

fn set_of_keys(server: &CacheProcess, addresses: usize) -> Box<dyn Side> {
    let url = server.url().to_owned();
    on_own_thread(move || {
        let url = url.clone();
        async move {
            let mut redis = redis::connect(&url)?;
            let value = "x".repeat(VALUE_BYTES);
            for begin in (0..addresses).step_by(PER_CALL) {
                let end = addresses.min(begin + PER_CALL);
                let keys: Vec<String> = (begin..end).map(catalogue_address).collect();
                redis::add(&mut redis, CATALOGUE, &keys)?;
                let pairs: Vec<_> = keys.into_iter().map(|key| (key, value.clone())).collect();
                redis::set(&mut redis, &pairs)?;
            }
            let begun = Instant::now();
            let members = redis::members(&mut redis, CATALOGUE)?;
            let mut unlinked = 0;
            for members in members.chunks(10 * PER_CALL) {
                unlinked += redis::unlink(&mut redis, members)?;
            }
            redis::unlink(&mut redis, &[CATALOGUE.to_owned()])?;
            let mut times = Histogram::default();
            times.record(begun.elapsed());
            ensure!(
                unlinked == addresses,
                "redis: {unlinked} of {addresses} keys were there"
            );
            let what = versioned_at(addresses, "p50");
            Ok(vec![Figure::quantile(what, &times, 500)])
        }
    })
}
