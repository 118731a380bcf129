//! Failures that others have met in public, each by its name there: none of them here.
//!
//! Each begins with the naive arm (see `naive`), which fails in the schedule of the report, and then does the same to Grapevine.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::ensure;
use grapevine_client::{CachedClient, Envelope, How};
use grapevine_integration_tests::{CacheServer, Fault, Setup, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::ReceiptLevel;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::arms::{Arm, Got, Grapevine, Naive};
use crate::fence::{POLICIES, client};
use crate::known_failures_of_fills::CLASSES;
use crate::naive;
use crate::support::{SOON, Superseded, numbered};

/// symfony#44015: the version of a tag is evicted, and with it gone entries from before it are current again.
#[tokio::test(flavor = "multi_thread")]
async fn symfony_44015_g2_evicted_versions_revive_nothing() {
    let Some(memcached) = CacheServer::memcached("symfony_44015").await.unwrap() else {
        return;
    };
    let revived = naive::version_of_evicted_tag(&*memcached.client().unwrap()).await;
    assert!(revived.unwrap(), "the naive arm does not fail");
    let setup = Setup::of(2).flag("limits-classes-per-top-max", "256");
    let mut cluster = setup.start().await.unwrap();
    let mut old = Superseded::default();
    old.bump(&cluster[0].api, "neighbour/1").await.unwrap();
    let neighbour = cluster[0].api.token("neighbour/1").await.unwrap().0;
    let classes = numbered("crowd/", 1_500);
    for (node, chunk) in classes.chunks(100).enumerate() {
        let api = &cluster[node % 2].api;
        let before = api.tokens(chunk).await.unwrap();
        let request = v1::InvalidateRequest {
            classes: chunk.to_vec(),
            receipt: ReceiptLevel::All.into(),
            ..Default::default()
        };
        api.app.clone().invalidate(request).await.unwrap();
        for (class, token) in chunk.iter().zip(before) {
            old.add(class, token);
        }
        old.check("who evicts", api).await.unwrap();
    }
    let mut evicted = 0;
    for node in cluster.nodes() {
        evicted += node.api.counter("floors_own").await.unwrap();
        let held = node.api.status().await.unwrap().classes;
        assert!(held < 1_000, "{} holds {held} classes", node.id);
    }
    assert!(evicted > 0, "nothing was evicted: nothing was tested");
    cluster.wait_agree(&classes, SOON).await.unwrap();
    cluster[0].kill().await.unwrap();
    cluster[0].start_fresh().await.unwrap();
    for node in cluster.nodes() {
        old.check(&node.id, &node.api).await.unwrap();
    }
    cluster.wait_agree(&classes, SOON).await.unwrap();
    let now = cluster[1].api.token("neighbour/1").await.unwrap().0;
    assert_eq!(
        now, neighbour,
        "G10: a neighbour within its quota keeps its values"
    );
}

/// django-cacheops#340: 72.9 million members in one set, of keys that had long expired.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: what has lapsed leaves in slots of 64 s"]
async fn cacheops_340_registrations_leave_when_their_values_have() {
    let Some(redis) = CacheServer::redis("cacheops_340").await.unwrap() else {
        return;
    };
    let left = naive::set_of_lapsed_keys(&redis, 1_000).await.unwrap();
    assert_eq!(left, [1_000, 0], "the naive arm does not fail");
    let setup = Setup::of(2)
        .flag("lease-duration", "100ms")
        .flag("lease-registration-margin", "1s");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    let addresses = numbered("short::", 2_000);
    let registrations = addresses.into_iter().map(|address| v1::Registration {
        address,
        classes: vec!["set/1".to_owned(), "set/2".to_owned()],
        ttl_ms: 1,
        ..Default::default()
    });
    let request = v1::RegisterRequest {
        registrations: registrations.collect(),
    };
    api.app.clone().register(request).await.unwrap();
    api.register("set/1", numbered("long::", 10)).await.unwrap();
    eventually("what is dead leaves everywhere", SOON * 4, async || {
        for node in cluster.nodes() {
            let held = node.api.status().await?.registrations;
            ensure!(held == 10, "{} holds {held}", node.id);
            ensure!(node.api.addresses("set").await?.len() == 10);
        }
        Ok(())
    })
    .await
    .unwrap();
}

/// laravel#61328: a tag is flushed between the registration of a key and the set of its value, which is then neither
/// found nor ever flushed.
#[tokio::test(flavor = "multi_thread")]
async fn laravel_61328_a_value_set_after_its_class_was_flushed_is_neither_served_nor_in_the_way() {
    let Some(memcached) = CacheServer::memcached("laravel_61328").await.unwrap() else {
        return;
    };
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let cache = memcached.client().unwrap();
    let orphan = naive::tag_set_before_value(&*cache).await.unwrap();
    assert_eq!(
        orphan.as_deref(),
        Some("old"),
        "the naive arm does not fail"
    );
    let reader = CachedClient::new(client(&cluster[0]), cache.clone());
    let (address, classes) = ("registered::1", ["registered/1"]);
    let api = &cluster[0].api;
    let resolution = api.resolve(address, classes[0]).await.unwrap();
    let verdict = api.commit(address, classes[0], &resolution).await.unwrap();
    assert!(verdict.accepted);
    cluster[1]
        .api
        .invalidate(classes[0], ReceiptLevel::All)
        .await
        .unwrap();
    let late = Envelope {
        token: verdict.token,
        address: address.to_owned(),
        dependencies: None,
        value: b"old".to_vec().into(),
    };
    cache
        .set(address, late.encode().unwrap(), Duration::from_hours(1))
        .await
        .unwrap();
    let read = async || {
        let read = reader.get_or_fill(address, &classes, None, |_| async {
            Ok::<_, Infallible>(b"new".to_vec().into())
        });
        read.await.unwrap()
    };
    let first = read().await;
    assert!(
        first.value == "new" && first.how == How::Filled && first.stored,
        "{first:?}"
    );
    assert_eq!(read().await.how, How::Hit, "the place is usable again");
    let answer = cluster[1]
        .api
        .invalidate(classes[0], ReceiptLevel::All)
        .await
        .unwrap();
    assert!(
        answer.addresses_purged + answer.addresses_pending > 0,
        "and it can be flushed"
    );
    eventually("the value is deleted", SOON, async || {
        ensure!(cache.get(address).await?.is_none());
        Ok(())
    })
    .await
    .unwrap();
}

/// redis#15632: the connection that brings invalidations dies silently, and the reader serves what is stale for ever.
#[tokio::test(flavor = "multi_thread")]
async fn redis_15632_g7_a_silent_link_is_noticed_within_max_staleness() {
    let Some(redis) = CacheServer::redis("redis_15632").await.unwrap() else {
        return;
    };
    let given = naive::tracked_connection_is_gone(&redis).await.unwrap();
    assert_eq!(given, ["old", "new"], "the naive arm does not fail");
    let cluster = Setup::of(3).relays().start().await.unwrap();
    let api = cluster[1].api.clone();
    let (before, _) = api.token("class").await.unwrap();
    cluster[1].hears(Fault::Silent).unwrap();
    cluster[0]
        .api
        .invalidate("class", ReceiptLevel::One)
        .await
        .unwrap();
    let written = Instant::now();
    loop {
        let asked = Instant::now();
        let (resolution, _) = api.resolve_in("value", "class", None).await.unwrap();
        if resolution.bypass || resolution.token != before {
            break;
        }
        // By the clock of who asks, and with the time that asking takes.
        let stale_for = asked.duration_since(written);
        assert!(
            stale_for < Duration::from_secs(1),
            "old values are served for {stale_for:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster[1].hears(Fault::Nothing).unwrap();
    cluster
        .wait_agree(&["class".to_owned()], SOON)
        .await
        .unwrap();
}

/// A node with a cache of its own writes; before it has the answer, which it keeps, it is told of a later write of another one. What it reads
/// afterwards, twice, and what the other one does.
async fn an_answer_is_overtaken(arm: &impl Arm, class: &str) -> [Got; 3] {
    let (near, other) = (1, 0);
    let source = Cell::new("nothing");
    let own = arm.read(near, class, &[], async || {
        source.set("mine");
        let answer = source.get().to_owned();
        arm.written(near, class).await;
        source.set("later");
        arm.written(other, class).await;
        answer
    });
    assert_eq!(own.await.value, "mine");
    let read = async |node| {
        let read = arm.read(node, class, &[], async || source.get().to_owned());
        read.await
    };
    [read(near).await, read(near).await, read(other).await]
}

/// IGNITE-627: updates arrive in another order at another node, and it is stale for ever.
#[tokio::test(flavor = "multi_thread")]
async fn ignite_627_g12_reordered_and_interrupted_news_lead_to_the_same_tokens() {
    let seed = std::env::var("GRAPEVINE_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("reordered news: GRAPEVINE_SEED={seed}");
    let near = || (0..3).map(|_| grapevine_cache::connect("memory://").unwrap());
    let given = an_answer_is_overtaken(&Naive::new(near()), "naive/1").await;
    let stale = given[0].is("mine", How::Hit) && given[1].is("mine", How::Hit);
    assert!(
        stale && given[2].is("later", How::Filled),
        "the naive arm does not fail: {given:?}"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let setup = Setup::of(3).toml(POLICIES).relays();
    let mut cluster = setup.start().await.unwrap();
    let near: Vec<_> = near().collect();
    let grapevine = Grapevine::new(&cluster, &near);
    for class in CLASSES {
        let given = an_answer_is_overtaken(&grapevine, class).await;
        for (got, how) in given.iter().zip([How::Filled, How::Hit, How::Filled]) {
            assert!(got.is("later", how), "{class}: {given:?}");
        }
    }
    let classes = numbered("mixed/", 6);
    let mut old = Superseded::default();
    let faults = [
        Fault::Nothing,
        Fault::Delay(Duration::from_millis(5)),
        Fault::Delay(Duration::from_millis(60)),
        Fault::Silent,
        Fault::Cut,
    ];
    for _ in 0..60 {
        let node = random.random_range(0..3);
        cluster[node]
            .hears(*faults.choose(&mut random).unwrap())
            .unwrap();
        for _ in 0..3 {
            let api = &cluster[random.random_range(0..3)].api;
            let class = if random.random_ratio(1, 8) {
                "mixed"
            } else {
                classes.choose(&mut random).unwrap()
            };
            // A parent's bump supersedes them all.
            let touched = if class == "mixed" {
                classes.clone()
            } else {
                vec![class.to_owned()]
            };
            let before = api.tokens(&touched).await.unwrap();
            api.invalidate(class, ReceiptLevel::None).await.unwrap();
            for (class, token) in touched.iter().zip(before) {
                old.add(class, token);
            }
            api.register(class, [format!("value::{}", random.random_range(0..50))])
                .await
                .unwrap();
        }
    }
    for node in cluster.nodes() {
        node.hears(Fault::Nothing).unwrap();
    }
    cluster.wait_agree(&classes, SOON).await.unwrap();
    cluster.wait_fresh().await.unwrap();
    for node in cluster.nodes() {
        old.check(&node.id, &node.api).await.unwrap();
    }
}
