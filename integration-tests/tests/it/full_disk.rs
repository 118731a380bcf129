//! A full disk: a clear error, an end, and nothing acknowledged lost once there is space again (G1).

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use grapevine_integration_tests::{Cluster, Setup, SmallDisk};
use grapevine_proto::v1::ReceiptLevel;

use crate::support::{Superseded, numbered};

const DISK_MIB: usize = 12;
const BALLAST_BYTES: usize = 3 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn g1_a_full_disk_ends_the_sidecar_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount("g1_a_full_disk_ends_the_sidecar", DISK_MIB).unwrap() else {
        return;
    };
    // With a peer: one that is alone declares everything changed at each start, registrations included.
    let mut cluster = Setup::of(2).prepare().await.unwrap();
    let place = disk.path().join("data").display().to_string();
    cluster[0].set("data-dir", &place).unwrap();
    for node in 0..2 {
        cluster[node].start().unwrap();
    }
    cluster.wait_fresh().await.unwrap();
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let mut old = Superseded::default();
    old.bump_all(&cluster[0].api, &numbered("before/", 20))
        .await
        .unwrap();
    let (mut registered, bumped) = fill(&cluster, &mut old).await;
    assert!(!registered.is_empty() && bumped > 0);

    let ended = cluster[0].end(Duration::from_secs(30)).await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    let told = ended
        .output
        .lines()
        .any(|line| line.contains("ERROR") && line.contains("store"));
    let last = ended.output.lines().last().unwrap_or_default();
    assert!(
        told && last.contains("No space left"),
        "its last word is {last:?}"
    );

    // Still full: it does not start, or starts and ends again, and says why.
    cluster[0].start().unwrap();
    if cluster[0].wait_serving().await.is_ok() {
        let (more, _) = fill(&cluster, &mut old).await;
        registered.extend(more);
    }
    let ended = cluster[0].end(Duration::from_secs(30)).await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.output);

    fs::remove_file(&ballast).unwrap();
    // What it lists at once comes from its own disk: nobody else is there.
    cluster[1].kill().await.unwrap();
    cluster[0].start().unwrap();
    cluster[0].wait_serving().await.unwrap();
    old.check("n1", &cluster[0].api).await.unwrap();
    let listed: BTreeSet<String> = cluster[0]
        .api
        .addresses("kept")
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.address)
        .collect();
    let lost = registered.difference(&listed).count();
    assert_eq!(
        lost,
        0,
        "of {} acknowledged registrations",
        registered.len()
    );
    cluster[1].start().unwrap();
    cluster.wait_fresh().await.unwrap();
    old.check("n1", &cluster[0].api).await.unwrap();
    cluster[0]
        .api
        .register("kept", ["one::more".to_owned()])
        .await
        .unwrap();
}

/// Writes until it is refused; answers what was acknowledged.
async fn fill(cluster: &Cluster, old: &mut Superseded) -> (BTreeSet<String>, usize) {
    let api = &cluster[0].api;
    let (mut registered, mut bumped) = (BTreeSet::new(), 0);
    for batch in 0..10_000 {
        let addresses: Vec<String> = (0..500)
            .map(|_| {
                format!(
                    "{:032x}{:032x}",
                    rand::random::<u128>(),
                    rand::random::<u128>()
                )
            })
            .collect();
        if let Err(refused) = api.register("kept", addresses.clone()).await {
            assert!(!refused.message().is_empty());
            return (registered, bumped);
        }
        registered.extend(addresses);
        let class = format!("during/{}", batch % 50);
        let (before, _) = api.token(&class).await.unwrap_or_default();
        if api.invalidate(&class, ReceiptLevel::One).await.is_err() {
            return (registered, bumped);
        }
        old.add(&class, before);
        bumped += 1;
    }
    panic!("the disk was never full");
}
