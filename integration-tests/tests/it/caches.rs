//! Cache servers in trouble: down, silent, slow, and back with what they held before.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use grapevine_cache::Cache;
use grapevine_client::{CachedClient, How};
use grapevine_integration_tests::{Api, CacheServer, Fault, Relay, Setup, eventually};
use grapevine_proto::v1::{InvalidateRequest, PurgeMode, ReceiptLevel};

use crate::fence::{POLICIES, client};
use crate::support::{SOON, numbered};

const HOUR: Duration = Duration::from_hours(1);

async fn set_all(cache: &dyn Cache, addresses: &[String]) {
    for address in addresses {
        cache
            .set(address, b"old".to_vec().into(), HOUR)
            .await
            .unwrap();
    }
}

async fn wait_gone(cache: &dyn Cache, addresses: &[String]) {
    eventually("the values are deleted", SOON, async || {
        let left = cache
            .get_many(addresses)
            .await?
            .into_iter()
            .flatten()
            .count();
        ensure!(left == 0, "{left} of {} are left", addresses.len());
        Ok(())
    })
    .await
    .unwrap();
}

/// A relay before a memcached, and the URL of the memcached as seen through it.
async fn relay_to(memcached: &CacheServer) -> (Relay, String) {
    let address: SocketAddr = memcached
        .url
        .trim_start_matches("memcached://")
        .parse()
        .unwrap();
    let relay = Relay::start(address).await.unwrap();
    let url = format!("memcached://{}", relay.address);
    (relay, url)
}

/// Invalidates within a second, and tells how many addresses were deleted and how many are still to be.
async fn invalidate(api: &Api, class: &str) -> (u64, u64) {
    let begun = Instant::now();
    let answer = api
        .invalidate_within(class, ReceiptLevel::All, 1_000)
        .await
        .unwrap();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(8),
        "the deadline of 1 s was left behind: {took:?}"
    );
    (answer.addresses_purged, answer.addresses_pending)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_reaches_every_cache_that_is_configured() {
    let test = "a_purge_reaches_every_cache";
    let (Some(memcached), Some(redis)) = (
        CacheServer::memcached(test).await.unwrap(),
        CacheServer::redis(test).await.unwrap(),
    ) else {
        return;
    };
    let setup = Setup::of(2)
        .flag("cache", &memcached.url)
        .flag("cache", &redis.url);
    let cluster = setup.start().await.unwrap();
    let addresses = numbered("value::", 100);
    for cache in [&memcached, &redis] {
        set_all(&*cache.client().unwrap(), &addresses).await;
    }
    cluster[0]
        .api
        .register("class/1", addresses.clone())
        .await
        .unwrap();
    eventually("the other one knows them", SOON, async || {
        ensure!(cluster[1].api.addresses("class").await?.len() == 100);
        Ok(())
    })
    .await
    .unwrap();
    // Told by another sidecar than the one that they were registered at.
    let (purged, pending) = invalidate(&cluster[1].api, "class").await;
    assert!(
        purged + pending >= 100,
        "{purged} purged, {pending} pending"
    );
    for cache in [&memcached, &redis] {
        wait_gone(&*cache.client().unwrap(), &addresses).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_wait_for_a_memcached_that_is_down() {
    let Some(mut memcached) = CacheServer::memcached("deletes_wait_for_a_memcached")
        .await
        .unwrap()
    else {
        return;
    };
    let (relay, url) = relay_to(&memcached).await;
    let cluster = Setup::of(1).flag("cache", &url).start().await.unwrap();
    let api = &cluster[0].api;
    let addresses = numbered("value::", 50);
    api.register("class/1", addresses.clone()).await.unwrap();
    memcached.kill().await.unwrap();
    let (purged, pending) = invalidate(api, "class").await;
    assert_eq!((purged, pending), (0, 50));
    // Reads do without it.
    let reader = CachedClient::new(client(&cluster[0]), memcached.client().unwrap());
    let read = reader.get_or_fill("value::1", &["class/1"], None, |_| async {
        Ok::<_, Infallible>(b"new".to_vec().into())
    });
    assert_eq!(read.await.unwrap().value, "new");
    assert!(api.counter("purge_failed").await.unwrap() >= 50);
    // It is back with its values, as after a partition: the sidecar finds it only once it has them.
    relay.set(Fault::Cut);
    memcached.restart().await.unwrap();
    let cache = memcached.client().unwrap();
    set_all(&*cache, &addresses).await;
    relay.set(Fault::Nothing);
    wait_gone(&*cache, &addresses).await;
    assert!(api.counter("purge_retried").await.unwrap() >= 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_memcached_that_is_back_with_old_values_serves_none_of_them() {
    let Some(memcached) = CacheServer::memcached("g3_a_memcached_that_is_back")
        .await
        .unwrap()
    else {
        return;
    };
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    // With the usual timeouts: it is to be silent.
    let cache = grapevine_cache::connect(&memcached.url).unwrap();
    let reader = CachedClient::new(client(&cluster[1]), cache.clone());
    let read = async |strategy: &str, truth: &'static str| {
        let (address, classes) = (format!("{strategy}::1"), [format!("{strategy}/1")]);
        let read = reader.get_or_fill(&address, &classes, None, |_| async move {
            Ok::<_, Infallible>(truth.as_bytes().to_vec().into())
        });
        read.await.unwrap()
    };
    let strategies = ["versioned", "registered", "bucketed"];
    for strategy in strategies {
        eventually("a value is cached", SOON, async || {
            ensure!(read(strategy, "one").await.how == How::Hit, "{strategy}");
            Ok(())
        })
        .await
        .unwrap();
    }
    memcached.pause().await.unwrap();
    for strategy in strategies {
        let (purged, pending) = invalidate(&cluster[0].api, &format!("{strategy}/1")).await;
        // What has no registrations is left to its token and its time to live.
        let known = u64::from(strategy == "registered");
        assert_eq!((purged, pending), (0, known), "{strategy}");
        let begun = Instant::now();
        assert_eq!(
            read(strategy, "two").await.value,
            "two",
            "{strategy}: while it is silent"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
    }
    memcached.resume().await.unwrap();
    for _ in 0..20 {
        for strategy in strategies {
            assert_eq!(
                read(strategy, "two").await.value,
                "two",
                "{strategy}: just after it is back"
            );
        }
    }
    // And what the retried delete did not take is refilled, so that reads hit again.
    eventually("reads hit again", SOON, async || {
        for strategy in strategies {
            let read = read(strategy, "two").await;
            ensure!(read.value == "two");
            ensure!(read.how == How::Hit, "{strategy}: {:?}", read.how);
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_or_silent_memcached_slows_nobody_else() {
    let Some(memcached) = CacheServer::memcached("a_slow_or_silent_memcached")
        .await
        .unwrap()
    else {
        return;
    };
    let (relay, url) = relay_to(&memcached).await;
    let cluster = Setup::of(1).flag("cache", &url).start().await.unwrap();
    let api = &cluster[0].api;
    let direct = memcached.client().unwrap();
    for (round, fault) in [
        Fault::Delay(Duration::from_millis(200)),
        Fault::Silent,
        Fault::Cut,
    ]
    .into_iter()
    .enumerate()
    {
        let addresses = numbered(&format!("value::{round}:"), 50);
        set_all(&*direct, &addresses).await;
        api.register("class/1", addresses.clone()).await.unwrap();
        relay.set(fault);
        let (purged, pending) = invalidate(api, "class/1").await;
        assert_eq!(purged + pending, 50, "{fault:?}");
        if fault != Fault::Delay(Duration::from_millis(200)) {
            assert_eq!(purged, 0, "{fault:?}");
        }
        for _ in 0..20 {
            let begun = Instant::now();
            api.token("class/1").await.unwrap();
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{fault:?}: look-ups wait: {:?}",
                begun.elapsed()
            );
        }
        relay.set(Fault::Nothing);
        wait_gone(&*direct, &addresses).await;
    }
}

/// Invalidates one class with a soft purge, and waits for everybody.
async fn invalidate_softly(api: &Api, class: &str) {
    let request = InvalidateRequest {
        classes: vec![class.to_owned()],
        purge: PurgeMode::Soft.into(),
        receipt: ReceiptLevel::All.into(),
        ..Default::default()
    };
    api.app.clone().invalidate(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_purge_marks_stale_in_a_real_memcached_and_a_hard_one_deletes() {
    let Some(memcached) = CacheServer::memcached("a_soft_purge_marks_stale")
        .await
        .unwrap()
    else {
        return;
    };
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let cache = memcached.client().unwrap();
    let reader = CachedClient::new(client(&cluster[0]), cache.clone());
    let read = async |truth: &'static str| {
        let read = reader.get_or_fill("registered::1", &["registered/1"], None, |_| async move {
            Ok::<_, Infallible>(truth.as_bytes().to_vec().into())
        });
        read.await.unwrap()
    };
    assert!(read("one").await.stored);
    assert_eq!(read("two").await.value, "one", "it is cached");
    let stored = async || cache.get_even_stale("registered::1").await;
    assert!(!stored().await.unwrap().unwrap().stale);
    // At another sidecar, which learns of the address from its peer.
    let other = &cluster[1].api;
    eventually("the other one knows the address", SOON, async || {
        ensure!(other.addresses("registered").await?.len() == 1);
        Ok(())
    })
    .await
    .unwrap();
    invalidate_softly(other, "registered/1").await;
    eventually("the value is marked stale, and kept", SOON, async || {
        let hit = stored().await?;
        ensure!(hit.is_some_and(|hit| hit.stale));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(read("two").await.value, "two", "its token gives it away");
    eventually("it is cached again", SOON, async || {
        ensure!(read("three").await.how == How::Hit);
        Ok(())
    })
    .await
    .unwrap();
    other
        .invalidate("registered/1", ReceiptLevel::All)
        .await
        .unwrap();
    eventually("the value is deleted", SOON, async || {
        ensure!(stored().await?.is_none());
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_serves_every_strategy_and_dependencies_found_during_a_fill() {
    let Some(redis) = CacheServer::redis("redis_serves_every_strategy")
        .await
        .unwrap()
    else {
        return;
    };
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &redis.url);
    let cluster = setup.start().await.unwrap();
    let cache = redis.client().unwrap();
    let reader = CachedClient::new(client(&cluster[0]), cache.clone());
    let read = async |strategy: &str, truth: &'static str| {
        let (address, classes) = (format!("{strategy}::1"), [format!("{strategy}/1")]);
        let read = reader.get_or_fill(&address, &classes, None, |fill| async move {
            fill.depends_on("prices/13");
            Ok::<_, Infallible>(truth.as_bytes().to_vec().into())
        });
        read.await.unwrap()
    };
    for strategy in ["versioned", "registered", "bucketed"] {
        let first = read(strategy, "one").await;
        assert!(
            first.how == How::Filled && first.stored,
            "{strategy}: {first:?}"
        );
        let again = read(strategy, "two").await;
        assert!(
            again.how == How::Hit && again.value == "one",
            "{strategy}: {again:?}"
        );
        // Its own class, then one that only the fill knew; told elsewhere, both times.
        for (class, truth) in [
            (format!("{strategy}/1"), "three"),
            ("prices/13".to_owned(), "four"),
        ] {
            let other = &cluster[1].api;
            other.invalidate(&class, ReceiptLevel::All).await.unwrap();
            let after = read(strategy, truth).await;
            assert!(
                after.how == How::Filled && after.value == truth,
                "{strategy} after {class}: {after:?}"
            );
            // The delete that belongs to the bump may come behind the fill, once.
            eventually("it hits again", SOON, async || {
                let read = read(strategy, truth).await;
                ensure!(read.value == truth && read.how == How::Hit, "{read:?}");
                Ok(())
            })
            .await
            .unwrap();
        }
        let other = &cluster[1].api;
        other
            .invalidate("prices/14", ReceiptLevel::All)
            .await
            .unwrap();
        assert_eq!(
            read(strategy, "no").await.how,
            How::Hit,
            "{strategy}: nothing that it depends on changed"
        );
    }
    // And what is registered is deleted there; the last bump of the prices took it out of the directory before.
    assert!(read("registered", "five").await.stored);
    let (purged, pending) = invalidate(&cluster[0].api, "registered/1").await;
    assert!(purged + pending >= 1);
    wait_gone(&*cache, &["registered::1".to_owned()]).await;
}
