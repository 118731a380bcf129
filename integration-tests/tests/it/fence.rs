//! The fill fence: values and registrations that an invalidation overtook (G3, G4).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_cache::Cache;
use grapevine_client::{CachedClient, Client, Envelope, How};
use grapevine_integration_tests::{Api, CacheServer, Cluster, Fault, Node, Setup, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::{CondemnReason, Freshness, ReceiptLevel};

use crate::support::SOON;

pub(crate) const POLICIES: &str = r#"
[[policy]]
pattern = "registered/**"
strategy = "registered"

[[policy]]
pattern = "bucketed/**"
strategy = "bucketed(8)"

[[policy]]
pattern = "lapsing/**"
strategy = "ttl"
"#;

/// A client with time for a busy machine.
pub(crate) fn client(node: &Node) -> Client {
    let builder = Client::builder(node.app_tcp.to_string());
    let patient = builder
        .resolve_deadline(Duration::from_secs(5))
        .commit_deadline(Duration::from_secs(5));
    patient.build().unwrap()
}

fn fill(classes: &[&str], added: &[&str], lease: &v1::Resolution) -> v1::CommitFillRequest {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let fill = v1::Fill {
        address: "value".to_owned(),
        classes: owned(classes),
        added_classes: owned(added),
        lease: lease.lease.clone(),
        ..Default::default()
    };
    v1::CommitFillRequest { fills: vec![fill] }
}

async fn verdict(api: &Api, request: v1::CommitFillRequest) -> v1::FillVerdict {
    let answer = api.app.clone().commit_fill(request).await.unwrap();
    answer.into_inner().verdicts.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_fill_that_an_invalidation_overtook_is_condemned() {
    let cluster = Setup::of(2).toml(POLICIES).start().await.unwrap();
    let api = &cluster[0].api;
    for (strategy, round) in [("registered", 0), ("bucketed", 1), ("other", 2)] {
        let (class, neighbour) = (format!("{strategy}/{round}"), format!("{strategy}/other"));
        let below = format!("{class}/below");
        // What is bumped in between, where, and whether it overtakes.
        for (bumped, by, overtakes) in [
            (None, 0, false),
            (Some(&neighbour), 0, false),
            (Some(&below), 1, false),
            (Some(&class), 0, true),
            (Some(&class), 1, true),
            (Some(&strategy.to_owned()), 1, true),
        ] {
            let lease = api.resolve("value", &class).await.unwrap();
            if let Some(bumped) = bumped {
                let answer = cluster[by]
                    .api
                    .invalidate(bumped, ReceiptLevel::All)
                    .await
                    .unwrap();
                assert!(answer.receipt.unwrap().satisfied);
            }
            let given = verdict(api, fill(&[&class], &[], &lease)).await;
            assert_eq!(
                given.accepted, !overtakes,
                "{class}: {bumped:?} by {by}: {given:?}"
            );
            if overtakes {
                assert_eq!(given.reason(), CondemnReason::Bumped);
            } else {
                assert_eq!(given.token, lease.token);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_lapses_is_accepted_whatever_was_bumped() {
    let cluster = Setup::of(1).toml(POLICIES).start().await.unwrap();
    let api = &cluster[0].api;
    let lease = api.resolve("value", "lapsing/1").await.unwrap();
    api.invalidate("lapsing/1", ReceiptLevel::None)
        .await
        .unwrap();
    for classes in [&["lapsing/1"][..], &["lapsing/1", "other"]] {
        let given = verdict(api, fill(classes, &[], &lease)).await;
        assert!(given.accepted && given.token == 0, "{given:?}");
    }
    assert!(api.addresses("lapsing").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_dependency_that_was_bumped_during_the_fill_condemns_it() {
    let cluster = Setup::of(2).toml(POLICIES).start().await.unwrap();
    let api = &cluster[0].api;
    let lease = api.resolve("value", "registered/1").await.unwrap();
    let good = verdict(
        api,
        fill(&["registered/1"], &["prices", "registered/2"], &lease),
    )
    .await;
    assert!(good.accepted && good.token != lease.token);
    let lease = api.resolve("value", "registered/1").await.unwrap();
    cluster[1]
        .api
        .invalidate("prices", ReceiptLevel::All)
        .await
        .unwrap();
    let late = verdict(api, fill(&["registered/1"], &["prices"], &lease)).await;
    assert!(!late.accepted && late.reason() == CondemnReason::Bumped);
    // It was not named, so it does not matter.
    assert!(
        verdict(api, fill(&["registered/1"], &[], &lease))
            .await
            .accepted
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_lease_that_is_not_known_condemns_its_fill() {
    let mut cluster = Setup::of(2)
        .toml(POLICIES)
        .flag("lease-duration", "500ms")
        .start()
        .await
        .unwrap();
    let class = "registered/1";
    let lease = cluster[0].api.resolve("value", class).await.unwrap();
    let unknown =
        |given: &v1::FillVerdict| !given.accepted && given.reason() == CondemnReason::LeaseUnknown;
    let elsewhere = verdict(&cluster[1].api, fill(&[class], &[], &lease)).await;
    assert!(unknown(&elsewhere), "another sidecar's: {elsewhere:?}");
    let api = cluster[0].api.clone();
    eventually("a lease ends", SOON, async || {
        let late = verdict(&api, fill(&[class], &[], &lease)).await;
        ensure!(unknown(&late), "{late:?}");
        Ok(())
    })
    .await
    .unwrap();
    for bytes in [&b""[..], b"x", &[0; 64], &[255; 64]] {
        let lease = v1::Resolution {
            lease: bytes.to_vec().into(),
            ..Default::default()
        };
        let garbage = verdict(&api, fill(&[class], &[], &lease)).await;
        assert!(unknown(&garbage), "{bytes:?}: {garbage:?}");
    }
    let lease = api.resolve("value", class).await.unwrap();
    cluster[0].kill().await.unwrap();
    cluster[0].start_fresh().await.unwrap();
    let after = verdict(&api, fill(&[class], &[], &lease)).await;
    assert!(unknown(&after), "of the run before: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_no_strategy_serves_a_value_whose_read_began_before_the_invalidation() {
    let Some(memcached) = CacheServer::memcached("g3_no_strategy_serves")
        .await
        .unwrap()
    else {
        return;
    };
    let cluster = Setup::of(3)
        .toml(POLICIES)
        .flag("cache", &memcached.url)
        .start()
        .await
        .unwrap();
    let cache = memcached.client().unwrap();
    let readers: Vec<CachedClient> = cluster
        .nodes()
        .iter()
        .map(|node| CachedClient::new(client(node), cache.clone()))
        .collect();
    for strategy in ["versioned", "registered", "bucketed"] {
        let truth = Arc::new(AtomicU64::new(0));
        let (address, classes) = (format!("{strategy}::7"), [format!("{strategy}/7")]);
        let class = &classes[0];
        let mut hits = 0;
        for round in 0..10 {
            let (reader, writer) = (round % 3, cluster[(round + 1) % 3].api.clone());
            // The fill reads the old row; the writer commits and invalidates; the set comes last.
            let late = readers[reader].get_or_fill(&address, &classes, None, |_| async {
                let row = truth.load(Ordering::SeqCst);
                truth.fetch_add(1, Ordering::SeqCst);
                let done = writer.invalidate(class, ReceiptLevel::All).await.unwrap();
                assert!(done.receipt.unwrap().satisfied);
                Ok::<_, Infallible>(row.to_string().into())
            });
            late.await.unwrap();
            for reader in &readers {
                let read = reader.get_or_fill(&address, &classes, None, |_| async {
                    Ok::<_, Infallible>(truth.load(Ordering::SeqCst).to_string().into())
                });
                let read = read.await.unwrap();
                let now = truth.load(Ordering::SeqCst).to_string();
                assert_eq!(read.value, now, "{strategy}, round {round}: {:?}", read.how);
                hits += u32::from(read.how == How::Hit);
            }
            // So that the next round's fill misses.
            writer.invalidate(class, ReceiptLevel::All).await.unwrap();
        }
        // Of three reads after each invalidation the first one fills, and the others find its value.
        assert!(
            hits >= 18,
            "{strategy}: {hits} hits of 20: the fence refuses what it need not"
        );
    }
}

/// What was stored, and under which token.
struct Stored {
    class: String,
    token: u64,
}

/// Resolves, commits and stores as a client does; nothing when it was condemned.
async fn store(api: &Api, cache: &dyn Cache, address: &str, class: &str) -> Result<Option<Stored>> {
    let resolution = api.resolve(address, class).await?;
    ensure!(resolution.commit_required && resolution.targets[0].address == address);
    let verdict = api.commit(address, class, &resolution).await?;
    if !verdict.accepted {
        return Ok(None);
    }
    let envelope = Envelope {
        token: verdict.token,
        address: address.to_owned(),
        dependencies: None,
        value: b"old".to_vec().into(),
    };
    let hour = Duration::from_hours(1);
    cache.set(address, envelope.encode()?, hour).await?;
    Ok(Some(Stored {
        class: class.to_owned(),
        token: verdict.token,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_registering_here_and_invalidating_there_at_once_leaves_nothing_in_memcached() {
    let Some(memcached) = CacheServer::memcached("g4_registering_here").await.unwrap() else {
        return;
    };
    let cluster = Setup::of(3)
        .relays()
        .toml(POLICIES)
        .flag("cache", &memcached.url)
        .start()
        .await
        .unwrap();
    let cache = memcached.client().unwrap();
    let mut stored = BTreeMap::new();
    for round in 0..30 {
        let (here, there, third) = (round % 3, (round + 1) % 3, (round + 2) % 3);
        let class = format!("registered/{}", round % 4);
        // The registration comes late to who invalidates; or the news of the bump to who registered; or nobody hears
        // in time and one stands still.
        let delayed = match round % 4 {
            0 => None,
            1 => Some(there),
            2 => Some(here),
            _ => {
                cluster[third].pause().await.unwrap();
                None
            }
        };
        if let Some(node) = delayed {
            cluster[node]
                .hears(Fault::Delay(Duration::from_millis(20)))
                .unwrap();
        }
        let address = format!("value::{round}");
        let put = store(&cluster[here].api, &*cache, &address, &class)
            .await
            .unwrap();
        let put = put.expect("nothing bumps the class meanwhile");
        let answer = cluster[there]
            .api
            .invalidate(&class, ReceiptLevel::One)
            .await
            .unwrap();
        assert!(answer.receipt.unwrap().satisfied);
        let now = cluster[there].api.token(&class).await.unwrap();
        assert_ne!(now.0, put.token, "who invalidated refuses it at once");
        stored.insert(address, put);
        if delayed.is_none() && round % 4 == 3 {
            cluster[third].resume().await.unwrap();
        }
        if let Some(node) = delayed {
            cluster[node].hears(Fault::Nothing).unwrap();
        }
    }
    nothing_is_left(&cluster, &*cache, &stored).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_registrations_that_race_with_invalidations_are_refused_or_deleted() {
    let Some(memcached) = CacheServer::memcached("g4_registrations_that_race")
        .await
        .unwrap()
    else {
        return;
    };
    let cluster = Setup::of(3)
        .toml(POLICIES)
        .flag("cache", &memcached.url)
        .start()
        .await
        .unwrap();
    let cache = memcached.client().unwrap();
    let (mut tried, mut registered) = (0, Vec::new());
    for round in 0..20 {
        let class = format!("registered/{}", round % 2);
        // Addresses that other programs filled: values first, then the registrations, while a bump is on its way.
        let addresses: Vec<String> = (0..20)
            .map(|number| format!("race::{round}:{number}"))
            .collect();
        for address in &addresses {
            let hour = Duration::from_hours(1);
            cache
                .set(address, b"old".to_vec().into(), hour)
                .await
                .unwrap();
        }
        let lease = cluster[round % 3]
            .api
            .resolve("value", &class)
            .await
            .unwrap()
            .lease;
        let registrations = addresses.iter().map(|address| v1::Registration {
            address: address.clone(),
            classes: vec![class.clone()],
            ttl_ms: 3_600_000,
            lease: lease.clone(),
        });
        let request = v1::RegisterRequest {
            registrations: registrations.collect(),
        };
        let (mut here, there) = (
            cluster[round % 3].api.app.clone(),
            cluster[(round + 1) % 3].api.clone(),
        );
        let (register, bump) = tokio::join!(
            async move { here.register(request).await },
            there.invalidate(&class, ReceiptLevel::All),
        );
        tried += addresses.len();
        let condemned = register.unwrap().into_inner().condemned;
        assert!(bump.unwrap().receipt.unwrap().satisfied);
        // Where the bump came first, the sidecar said so and deletes; where it came after, it took the registration.
        registered.extend(addresses);
        assert!(condemned.len() <= 20);
    }
    assert_eq!(tried, registered.len());
    eventually("memcached holds none of them", SOON, async || {
        gone(&*cache, &registered).await
    })
    .await
    .unwrap();
    for node in cluster.nodes() {
        let left = node.api.addresses("registered").await.unwrap();
        assert!(left.is_empty(), "{}: {left:?}", node.id);
    }
}

async fn gone(cache: &dyn Cache, addresses: &[String]) -> Result<()> {
    let found = cache.get_many(addresses).await?;
    let left: Vec<_> = addresses
        .iter()
        .zip(found)
        .filter(|(_, found)| found.is_some())
        .map(|(address, _)| address)
        .collect();
    ensure!(
        left.is_empty(),
        "{} are left: {:?}",
        left.len(),
        &left[..left.len().min(5)]
    );
    Ok(())
}

async fn nothing_is_left(
    cluster: &Cluster,
    cache: &dyn Cache,
    stored: &BTreeMap<String, Stored>,
) -> Result<()> {
    let addresses: Vec<String> = stored.keys().cloned().collect();
    eventually("memcached holds none of them", SOON, async || {
        gone(cache, &addresses).await
    })
    .await?;
    eventually(
        "nobody lists them, and everybody refuses their tokens",
        SOON,
        async || {
            for node in cluster.nodes() {
                let left = node.api.addresses("registered").await?;
                ensure!(left.is_empty(), "{} lists {}", node.id, left.len());
                for put in stored.values() {
                    let (token, freshness) = node.api.token(&put.class).await?;
                    ensure!(
                        freshness == Freshness::Fresh,
                        "{} is {freshness:?}",
                        node.id
                    );
                    ensure!(
                        token != put.token,
                        "{} would serve an old value of {}",
                        node.id,
                        put.class
                    );
                }
            }
            Ok(())
        },
    )
    .await
}

/// memcached counts in whole seconds: what was slow to compute must not gain the rest of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_in_memcached_is_never_older_than_its_ttl() {
    let Some(memcached) = CacheServer::memcached("a_value_in_memcached")
        .await
        .unwrap()
    else {
        return;
    };
    let setup = Setup::of(1).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let reader = CachedClient::new(client(&cluster[0]), memcached.client().unwrap());
    // The TTL, how long the source takes, and whether another reader can get it: of 1 s a slow one leaves nothing.
    let cases = [
        (1_000, 700, false),
        (1_000, 900, false),
        (4_000, 1_500, true),
    ];
    let clock = Instant::now();
    let now_ms = move || u64::try_from(clock.elapsed().as_millis()).unwrap();
    // Several of each, begun at different moments of memcached's second.
    let reads = (0..24)
        .zip(cases.into_iter().cycle())
        .map(|(number, case)| {
            let (ttl_ms, slow_ms, can_hit) = case;
            let (reader, ttl) = (reader.clone(), Duration::from_millis(ttl_ms));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 41)).await;
                let address = format!("lapsing::{number}");
                // A value tells when the look-up for it had ended: how old it is at least.
                let read = async |slow_ms| {
                    let fill = async move |_| {
                        let begun = now_ms();
                        tokio::time::sleep(Duration::from_millis(slow_ms)).await;
                        Ok::<_, Infallible>(begun.to_string().into())
                    };
                    let read = reader.get_or_fill(&address, &["lapsing/1"], Some(ttl), fill);
                    let read = read.await.unwrap();
                    let begun: u64 = std::str::from_utf8(&read.value).unwrap().parse().unwrap();
                    (begun, read.how)
                };
                let (begun, _) = read(slow_ms).await;
                let mut hits = 0;
                loop {
                    let age_ms = now_ms() - begun;
                    match read(0).await {
                        (_, How::Hit) => hits += 1,
                        (_, how) => {
                            break assert_eq!((how, hits > 0), (How::Filled, can_hit), "{number}");
                        }
                    }
                    assert!(
                        age_ms < ttl_ms,
                        "{number}: a hit {age_ms} ms after the look-up of {ttl_ms}"
                    );
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
}
