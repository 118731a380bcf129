//! G1: three sidecars are written to while one after the other is killed with -9 and brought back.
//!
//! Every acknowledged call is written down. After each restart: an acknowledged registration is listed, at once where it
//! was acknowledged and soon everywhere; a token that was read before an acknowledged bump is never given again, by
//! nobody, not even while catching up; and soon all sidecars give the same tokens.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Setup, eventually};
use grapevine_proto::v1::ReceiptLevel;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

const NODES: usize = 3;
const CLASSES: usize = 12;
const BUMPERS_PER_NODE: usize = 2;
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn g1_nothing_acknowledged_is_lost_when_killed_a_few_times() {
    kill_loop(4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: GRAPEVINE_KILLS kills, 50 unless set; a stage of its own in CI"]
async fn g1_nothing_acknowledged_is_lost_when_killed_in_a_loop() {
    let kills = std::env::var("GRAPEVINE_KILLS").map_or(50, |kills| kills.parse().unwrap());
    kill_loop(kills).await.unwrap();
}

/// What was acknowledged.
#[derive(Default)]
struct Ledger {
    /// By class: tokens that an acknowledged bump superseded.
    superseded: Mutex<BTreeMap<String, BTreeSet<u64>>>,
    /// By sidecar: addresses it acknowledged.
    registered: Mutex<[BTreeSet<String>; NODES]>,
    bumps: AtomicU64,
    stop: AtomicBool,
}

impl Ledger {
    fn check(&self, who: &str, classes: &[String], tokens: &[u64]) -> Result<()> {
        let superseded = self.superseded.lock().unwrap();
        for (class, token) in classes.iter().zip(tokens) {
            let back = superseded.get(class).is_some_and(|old| old.contains(token));
            ensure!(
                !back,
                "{who} gives a superseded token of {class}: {token:016x}"
            );
        }
        Ok(())
    }

    fn registered(&self, node: Option<usize>) -> BTreeSet<String> {
        let registered = self.registered.lock().unwrap();
        match node {
            Some(node) => registered[node].clone(),
            None => registered.iter().flatten().cloned().collect(),
        }
    }
}

fn classes() -> Vec<String> {
    (0..CLASSES)
        .map(|number| format!("item/{number}"))
        .collect()
}

async fn kill_loop(kills: usize) -> Result<()> {
    let seed = std::env::var("GRAPEVINE_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!(
        "kill loop: {kills} kills; again, with the same dice: GRAPEVINE_SEED={seed} GRAPEVINE_KILLS={kills} \
         cargo test --release -p grapevine-integration-tests --test kill_loop -- --ignored --nocapture"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Setup::of(NODES).start().await.unwrap();
    let ledger = Arc::new(Ledger::default());
    for kill in 0..kills {
        let victim = kill % NODES;
        write_and_kill(&mut cluster, victim, &ledger, &mut random)
            .await
            .unwrap();
        cluster[victim].start().unwrap();
        check_restarted(&mut cluster, victim, &ledger)
            .await
            .unwrap();
        cluster.wait_fresh().await.unwrap();
        let tokens = cluster.wait_agree(&classes(), SOON).await.unwrap();
        ledger.check("everyone", &classes(), &tokens).unwrap();
        let all = ledger.registered(None);
        for node in 0..NODES {
            let api = cluster[node].api.clone();
            let what = format!("n{} lists what was acknowledged anywhere", node + 1);
            eventually(&what, SOON, async || ensure_listed(&api, &all).await)
                .await
                .unwrap();
        }
        let bumps = ledger.bumps.load(Ordering::Relaxed);
        eprintln!(
            "kill {}: n{} is back; {bumps} bumps and {} registrations acknowledged so far",
            kill + 1,
            victim + 1,
            all.len()
        );
        assert!(
            bumps > 0 && !all.is_empty(),
            "nothing was acknowledged: nothing was tested"
        );
    }
    Ok(())
}

/// Writes to everyone, kills the victim in the middle, goes on for a moment and ends.
async fn write_and_kill(
    cluster: &mut Cluster,
    victim: usize,
    ledger: &Arc<Ledger>,
    random: &mut StdRng,
) -> Result<()> {
    ledger.stop.store(false, Ordering::Relaxed);
    let mut writers = tokio::task::JoinSet::new();
    for node in 0..NODES {
        let api = &cluster[node].api;
        for _ in 0..BUMPERS_PER_NODE {
            let random = StdRng::seed_from_u64(random.random());
            writers.spawn(bump(node, api.clone(), ledger.clone(), random));
        }
        let random = StdRng::seed_from_u64(random.random());
        writers.spawn(register(node, api.clone(), ledger.clone(), random));
    }
    // How far the writers come is the dice's to say: this is not waiting for something.
    tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
    cluster[victim].kill().await?;
    tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
    ledger.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Bumps classes until told to stop or the sidecar is gone.
async fn bump(node: usize, api: Api, ledger: Arc<Ledger>, mut random: StdRng) -> Result<()> {
    let all = classes();
    while !ledger.stop.load(Ordering::Relaxed) {
        let parent = random.random_ratio(1, 20);
        let (class, touched) = if parent {
            ("item".to_owned(), all.clone())
        } else {
            let class = all[random.random_range(0..CLASSES)].clone();
            (class.clone(), vec![class])
        };
        let Ok(before) = api.tokens(&touched).await else {
            return Ok(());
        };
        if api.invalidate(&class, ReceiptLevel::One).await.is_err() {
            return Ok(());
        }
        ledger.bumps.fetch_add(1, Ordering::Relaxed);
        {
            let mut superseded = ledger.superseded.lock().unwrap();
            for (class, token) in touched.iter().zip(&before) {
                superseded.entry(class.clone()).or_default().insert(*token);
            }
        }
        let Ok(after) = api.tokens(&touched).await else {
            return Ok(());
        };
        for (class, (before, after)) in touched.iter().zip(before.iter().zip(&after)) {
            ensure!(
                before != after,
                "n{}: an acknowledged bump left {class}'s token as it was",
                node + 1
            );
        }
    }
    Ok(())
}

/// Registers addresses until told to stop or the sidecar is gone.
async fn register(node: usize, api: Api, ledger: Arc<Ledger>, mut random: StdRng) -> Result<()> {
    while !ledger.stop.load(Ordering::Relaxed) {
        let batch: Vec<String> = (0..10)
            .map(|_| format!("value::{:016x}", random.random::<u64>()))
            .collect();
        let Ok(answer) = api.register("kept", batch.clone()).await else {
            return Ok(());
        };
        ensure!(
            answer.condemned.is_empty(),
            "nothing bumps what is registered"
        );
        ledger.registered.lock().unwrap()[node].extend(batch);
    }
    Ok(())
}

/// What must hold from the first answer of a restarted sidecar on.
async fn check_restarted(cluster: &mut Cluster, victim: usize, ledger: &Ledger) -> Result<()> {
    cluster[victim].wait_serving().await?;
    let who = format!("n{}, restarted,", victim + 1);
    let api = cluster[victim].api.clone();
    ensure_listed(&api, &ledger.registered(Some(victim))).await?;
    let fresh = async || {
        let tokens = api.tokens(&classes()).await?;
        ledger.check(&who, &classes(), &tokens).unwrap();
        let status = api.status().await?;
        ensure!(
            status.freshness() == grapevine_proto::v1::Freshness::Fresh,
            "{}",
            status.freshness_reason
        );
        Ok(())
    };
    eventually("the restarted sidecar is fresh", SOON, fresh).await
}

async fn ensure_listed(api: &Api, wanted: &BTreeSet<String>) -> Result<()> {
    let entries = api.addresses("kept").await?;
    let listed: BTreeSet<String> = entries.into_iter().map(|entry| entry.address).collect();
    let lost = wanted.difference(&listed).count();
    ensure!(
        lost == 0,
        "{lost} of {} acknowledged registrations are not listed",
        wanted.len()
    );
    Ok(())
}
