//! Figures: printed, and kept in docs/benchmarks.md with the command. Nothing here fails for being slow.
//!
//! `cargo test --release -p grapevine-integration-tests --test net -- --ignored figure_ --nocapture`. They mean something on a machine
//! that does nothing else. `GRAPEVINE_CONVERGE`, `GRAPEVINE_EVENTS`, `GRAPEVINE_PARTITION_S` and `GRAPEVINE_SIDECARS` make the long
//! ones shorter.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Setup, eventually};
use grapevine_proto::v1::{self, HolderState, ReceiptLevel};

use crate::stage::{MAX_STALENESS, SOON, on_a_network, turn};

/// Classes of one call.
const CALL: usize = 500;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// Times, sorted as they are told.
struct Times(Vec<Duration>);

impl Times {
    fn told(mut self) -> String {
        self.0.sort_unstable();
        let at = |per_cent: usize| self.0[(self.0.len() * per_cent / 100).min(self.0.len() - 1)];
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        format!(
            "p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms of {}",
            ms(at(50)),
            ms(at(99)),
            ms(at(100)),
            self.0.len()
        )
    }
}

/// From the call of an invalidation until every sidecar has applied it, as its watchers are told. The watch begins before.
async fn converge(cluster: &Cluster, events: usize) -> Result<Times> {
    let mut watches = Vec::new();
    for node in cluster.nodes() {
        watches.push(node.api.watch(&[]).await?);
    }
    let mut times = Vec::new();
    for event in 0..events {
        let class = format!("converge/{event}");
        let api = cluster[event % cluster.nodes().len()].api.clone();
        let begun = Instant::now();
        let call = {
            let class = class.clone();
            tokio::spawn(async move { api.invalidate(&class, ReceiptLevel::None).await })
        };
        // One after the other: the last to tell decides.
        for watch in &mut watches {
            until_told(watch, &class).await?;
        }
        times.push(begun.elapsed());
        call.await??;
    }
    Ok(Times(times))
}

async fn until_told(watch: &mut tonic::Streaming<v1::WatchResponse>, class: &str) -> Result<()> {
    loop {
        let message = tokio::time::timeout(SOON, watch.message()).await??;
        let kind = message.and_then(|message| message.kind);
        ensure!(kind.is_some(), "a watch ended");
        if let Some(v1::watch_response::Kind::Bump(bump)) = kind
            && bump.classes.iter().any(|seen| seen == class)
        {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_convergence_and_receipts_with_and_without_loss() {
    let test = "figure_convergence";
    let _turn = turn().await;
    let Some((network, setup)) = on_a_network(test, 5).await else {
        return;
    };
    let cluster = setup.start().await.unwrap();
    let events = number("GRAPEVINE_CONVERGE", 400);
    for per_mille in [0, 50, 200] {
        network.heal().unwrap();
        if per_mille > 0 {
            network.lose(per_mille).unwrap();
        }
        let times = converge(&cluster, events).await.unwrap();
        eprintln!(
            "figure: {} % loss, five sidecars, from the call until all have it: {}",
            per_mille / 10,
            times.told()
        );
    }
    network.heal().unwrap();
    for level in [ReceiptLevel::One, ReceiptLevel::All] {
        let mut times = Vec::new();
        for event in 0..1_000 {
            let api = &cluster[event % 5].api;
            let begun = Instant::now();
            let answer = api.invalidate(&format!("receipt/{event}"), level).await;
            assert!(answer.unwrap().receipt.unwrap().satisfied);
            times.push(begun.elapsed());
        }
        eprintln!(
            "figure: receipt {level:?}, five well: {}",
            Times(times).told()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_receipt_all_with_one_frozen() {
    let _turn = turn().await;
    let Some((_network, setup)) = on_a_network("figure_frozen", 5).await else {
        return;
    };
    let mut cluster = setup.start().await.unwrap();
    let mut times = Vec::new();
    for round in 0..10 {
        cluster[4].pause().await.unwrap();
        let begun = Instant::now();
        let answer = cluster[0]
            .api
            .invalidate_within(&format!("frozen/{round}"), ReceiptLevel::All, 20_000)
            .await
            .unwrap();
        times.push(begun.elapsed());
        let receipt = answer.receipt.unwrap();
        assert!(receipt.satisfied, "{receipt:?}");
        let row = receipt.holders.iter().find(|row| row.node_id == "n5");
        assert_eq!(row.unwrap().state(), HolderState::CannotServe);
        cluster[4].resume().await.unwrap();
        cluster.wait_fresh().await.unwrap();
    }
    eprintln!(
        "figure: receipt all, one of five frozen, max_staleness {MAX_STALENESS:?}, `cannot serve`: {}",
        Times(times).told()
    );
}

/// Bumps so many classes, many calls under way at once.
async fn bump_many(api: &Api, prefix: &str, events: usize) -> Result<()> {
    let mut calls = tokio::task::JoinSet::new();
    for event in 0..events {
        let (api, class) = (api.clone(), format!("{prefix}/{event}"));
        calls.spawn(async move { api.invalidate(&class, ReceiptLevel::None).await });
        if calls.len() >= CALL
            && let Some(done) = calls.join_next().await
        {
            done??;
        }
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(())
}

/// A partition during which every class of some is bumped; then how long until what was missed is applied.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_everything_missed_is_applied_after_a_partition() {
    let _turn = turn().await;
    let Some((network, setup)) = on_a_network("figure_partition", 5).await else {
        return;
    };
    let cluster = setup.start().await.unwrap();
    let seconds = number("GRAPEVINE_PARTITION_S", 60);
    network.cut(&[3, 4], &[0, 1, 2]).unwrap();
    let begun = Instant::now();
    let mut bumped = 0;
    while begun.elapsed() < Duration::from_secs(seconds as u64) {
        for node in [0, 3] {
            bump_many(&cluster[node].api, &format!("side{node}/{bumped}"), 100)
                .await
                .unwrap();
        }
        bumped += 200;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    network.heal().unwrap();
    let healed = Instant::now();
    let mut probes: Vec<String> = Vec::new();
    for group in (0..bumped).step_by(200) {
        probes.extend([0, 3].map(|node| format!("side{node}/{group}/99")));
    }
    cluster.wait_agree(&probes, SOON).await.unwrap();
    let agreed = healed.elapsed();
    for node in cluster.nodes() {
        let api = node.api.clone();
        eventually("nothing is missing", SOON, async || {
            let missing = api.status().await?.missing_events;
            ensure!(missing == 0, "{missing} are missing");
            Ok(())
        })
        .await
        .unwrap();
    }
    eprintln!(
        "figure: {seconds} s partition of two from three, {bumped} invalidations: tokens agree {agreed:?}, nothing is missing {:?} after \
         its end",
        healed.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_bytes_that_a_lagging_sidecar_fetches() {
    let _turn = turn().await;
    let Some((network, setup)) = on_a_network("figure_lagging", 3).await else {
        return;
    };
    let events = number("GRAPEVINE_EVENTS", 1_000_000);
    let cluster = setup
        .flag("limits-classes-per-top-max", "2000000")
        .flag("limits-classes-max", "2000000")
        .start()
        .await
        .unwrap();
    bump_many(&cluster[0].api, "many", events - 1_000)
        .await
        .unwrap();
    let last = |prefix: &str, count: usize| vec![format!("{prefix}/{}", count - 1)];
    cluster
        .wait_agree(&last("many", events - 1_000), SOON * 3)
        .await
        .unwrap();
    network.cut(&[2], &[0, 1]).unwrap();
    bump_many(&cluster[0].api, "missed", 1_000).await.unwrap();
    // What flows for other reasons in the same time is told beside it.
    let (before, begun) = (network.traffic(2).unwrap(), Instant::now());
    network.heal().unwrap();
    cluster
        .wait_agree(&last("missed", 1_000), SOON)
        .await
        .unwrap();
    let api = cluster[2].api.clone();
    eventually("nothing is missing", SOON, async || {
        ensure!(api.status().await?.missing_events == 0);
        Ok(())
    })
    .await
    .unwrap();
    let (after, took) = (network.traffic(2).unwrap(), begun.elapsed());
    let snapshots = api.counter("snapshots_adopted").await.unwrap();
    tokio::time::sleep(took).await;
    let idle = network.traffic(2).unwrap();
    eprintln!(
        "figure: 1,000 events missed of {events}: {} bytes received and {} sent in {took:?}, of which an idle sidecar would have received \
         {}; {snapshots} snapshots",
        after.received - before.received,
        after.sent - before.sent,
        idle.received - after.received,
    );
}

/// Ticks of user and system time, and resident bytes, from `/proc`.
fn usage(process: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The fields after the program's name, which stands in parentheses: user and system time are the 12th and 13th.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let pages: u64 = fields[21].parse().unwrap();
    (ticks, pages * 4_096)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_an_idle_sidecar_in_a_cluster_of_fifty() {
    let _turn = turn().await;
    let sidecars = number("GRAPEVINE_SIDECARS", 50);
    let toml = "\n[freshness]\nmax_staleness = \"2s\"\n[policy_default]\non_unknown = \"bypass\"\n";
    let mut cluster = Setup::defaults(sidecars)
        .toml(toml)
        .prepare()
        .await
        .unwrap();
    for node in 0..sidecars {
        cluster[node].start().unwrap();
    }
    for node in 0..sidecars {
        let api = cluster[node].api.clone();
        eventually("it is fresh among all", SOON * 3, async || {
            let status = api.status().await?;
            ensure!(status.seats as usize == sidecars, "{} seats", status.seats);
            ensure!(status.freshness() == v1::Freshness::Fresh);
            Ok(())
        })
        .await
        .unwrap();
    }
    let processes: Vec<u32> = cluster
        .nodes()
        .iter()
        .map(|node| node.process_id().unwrap())
        .collect();
    // Members that have answered at once for a while are asked less often.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let before: Vec<_> = processes.iter().map(|process| usage(*process)).collect();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let mut shares: Vec<f64> = Vec::new();
    let mut resident: Vec<u64> = Vec::new();
    for (process, (ticks, _)) in processes.iter().zip(before) {
        let (now, bytes) = usage(*process);
        // A tick is 10 ms on every Linux that CI has.
        shares.push(f64::from(u32::try_from(now - ticks).unwrap()) / seconds);
        resident.push(bytes >> 10);
    }
    shares.sort_by(f64::total_cmp);
    resident.sort_unstable();
    eprintln!(
        "figure: {sidecars} idle sidecars: {:.2} % of a core in the middle, {:.2} % at most; {} KiB resident in the middle, {} KiB at most",
        shares[sidecars / 2],
        shares[sidecars - 1],
        resident[sidecars / 2],
        resident[sidecars - 1],
    );
}
