//! Sidecars that stand still, die, run out of disk or are told another time, on links that work.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use grapevine_integration_tests::{Setup, SmallDisk, eventually, skip};
use grapevine_proto::v1::{HolderState, ReceiptLevel};

use crate::stage::{MAX_STALENESS, NODES, SOON, Stage};

const BACK: Duration = Duration::from_secs(20);
/// `freshness.max_staleness` where nothing sets it.
const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(2);
const EVERYONE: [usize; NODES] = [0, 1, 2, 3, 4];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_one_stands_still_past_every_lease() {
    let test = "g7_one_stands_still_past_every_lease";
    let Some(mut stage) = Stage::open(test, |setup| setup, |_| {}).await else {
        return;
    };
    stage.trouble();
    for victim in [4, 0] {
        stage.cluster[victim].pause().await.unwrap();
        let other = (victim + 1) % NODES;
        stage.not_fresh(other, SOON).await;
        stage.go_on_for(MAX_STALENESS * 2).await;
        let api = &stage.cluster[other].api;
        let answer = api
            .invalidate_within("cart/1", ReceiptLevel::All, 10_000)
            .await
            .unwrap();
        let receipt = answer.receipt.unwrap();
        assert!(receipt.satisfied, "{receipt:?}");
        let name = &stage.cluster[victim].id;
        let row = receipt.holders.iter().find(|row| row.node_id == *name);
        assert_eq!(row.unwrap().state(), HolderState::CannotServe);
        // What they are owed was written while it stood still; what it knows is what was before.
        stage.wait_at(victim);
        stage.cluster[victim].resume().await.unwrap();
        stage.fresh(&EVERYONE, BACK).await;
    }
    stage.end(&EVERYONE, BACK).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g1_g7_one_after_the_other_is_killed() {
    let test = "g1_g7_one_after_the_other_is_killed";
    let Some(mut stage) = Stage::open(test, |setup| setup, |_| {}).await else {
        return;
    };
    stage.trouble();
    for round in 0..8 {
        let victim = round * 2 % NODES;
        stage.cluster[victim].kill().await.unwrap();
        if round % 2 == 0 {
            stage.go_on_for(Duration::from_millis(200)).await;
        }
        stage.cluster[victim].start().unwrap();
        stage.cluster.wait_fresh().await.unwrap();
    }
    stage.end(&EVERYONE, BACK).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_one_after_the_other_is_drained_and_started_again() {
    let test = "g7_one_after_the_other_is_drained_and_started_again";
    let Some(mut stage) = Stage::open(test, |setup| setup, |_| {}).await else {
        return;
    };
    stage.trouble();
    for node in EVERYONE {
        stage.cluster[node].terminate().await.unwrap();
        let ended = stage.cluster[node].end(SOON).await.unwrap();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        stage.cluster[node].start().unwrap();
        stage.cluster.wait_fresh().await.unwrap();
    }
    let troubled = stage.end(&EVERYONE, BACK).await;
    assert!(troubled.hits > 0, "the others serve meanwhile");
}

/// The figure, with every knob of freshness and gossip as it comes: fresh again within `max_staleness` + 5 s, and no operator.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_one_of_five_is_killed_for_good() {
    let test = "g7_one_of_five_is_killed_for_good";
    let bypass = "[policy_default]\non_unknown = \"bypass\"\n";
    let defaults = |setup: Setup| setup.as_it_comes().toml(bypass);
    let Some(mut stage) = Stage::open(test, defaults, |_| {}).await else {
        return;
    };
    stage.trouble();
    let killed = Instant::now();
    stage.cluster[2].kill().await.unwrap();
    let rest = [0, 1, 3, 4];
    stage.not_fresh(0, DEFAULT_MAX_STALENESS * 2).await;
    stage.fresh(&rest, SOON).await;
    let took = killed.elapsed();
    eprintln!("{test}: the rest is fresh again {took:?} after the kill");
    let wanted = DEFAULT_MAX_STALENESS + Duration::from_secs(5);
    assert!(took <= wanted, "{took:?}, and {wanted:?} are wanted");
    for node in rest {
        assert_eq!(stage.cluster[node].api.status().await.unwrap().seats, 4);
    }
    // Who was beside the killed one goes past the cache, so the others alone cannot be as good as a perfect cache.
    stage.go_on_for(Duration::from_secs(1)).await;
    stage.cluster[2].start().unwrap();
    stage.end(&EVERYONE, BACK).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g1_g7_one_runs_out_of_disk() {
    let test = "g1_g7_one_runs_out_of_disk";
    let Some(disk) = SmallDisk::mount(test, 24).unwrap() else {
        return;
    };
    let place = disk.path().join("data").display().to_string();
    let onto = |cluster: &mut grapevine_integration_tests::Cluster| {
        cluster[4].set("data-dir", &place).unwrap();
    };
    let Some(mut stage) = Stage::open(test, |setup| setup, onto).await else {
        return;
    };
    stage.trouble();
    let ballast = disk.path().join("ballast");
    // As much as there is: the write itself fails at the end.
    let full = fs::write(&ballast, vec![1; 24 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    eventually("it ends", SOON, async || {
        stage.check()?;
        ensure!(!stage.cluster[4].is_running()?);
        Ok(())
    })
    .await
    .unwrap();
    let ended = stage.cluster[4].end(SOON).await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    stage.go_on_for(Duration::from_secs(1)).await;
    fs::remove_file(&ballast).unwrap();
    stage.cluster[4].start().unwrap();
    stage.end(&EVERYONE, BACK).await;
}

/// Where Debian puts it, by architecture.
fn libfaketime() -> Option<String> {
    let libraries = fs::read_dir("/usr/lib").ok()?;
    let places = libraries.flatten().map(|dir| dir.path());
    let mut found = places.map(|dir| dir.join("faketime/libfaketimeMT.so.1"));
    let found = found.find(|library| Path::is_file(library))?;
    Some(found.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_the_clock_of_one_is_stepped_by_an_hour() {
    let test = "g7_the_clock_of_one_is_stepped_by_an_hour";
    let Some(library) = libfaketime() else {
        skip(test, "libfaketime is not installed").unwrap();
        return;
    };
    let dir = tempfile::TempDir::new().unwrap();
    let clock = dir.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let (library, file) = (
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
    );
    // Only the wall clock: what measures durations is not stepped on a real machine either. It is read anew at each look.
    let words = [
        "env",
        &library,
        &file,
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "DONT_FAKE_MONOTONIC=1",
    ];
    let Some(mut stage) =
        Stage::open(test, |setup| setup, |cluster| cluster[4].start_by(&words)).await
    else {
        return;
    };
    stage.trouble();
    for step in ["+3600", "-3600", "+0"] {
        fs::write(&clock, step).unwrap();
        stage.go_on_for(Duration::from_secs(2)).await;
    }
    // Once from its start, too.
    fs::write(&clock, "-3600").unwrap();
    stage.cluster[4].kill().await.unwrap();
    stage.cluster[4].start().unwrap();
    stage.fresh(&EVERYONE, BACK).await;
    let told = stage.cluster[4].log();
    let hours: std::collections::BTreeSet<&str> =
        told.lines().filter_map(|line| line.get(..13)).collect();
    assert!(
        hours.len() >= 2,
        "its log shows one hour only, so nothing was stepped: {hours:?}"
    );
    let troubled = stage.end(&EVERYONE, BACK).await;
    assert!(troubled.hits > 0);
}
