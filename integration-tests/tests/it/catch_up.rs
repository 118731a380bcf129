//! Catching up on much at once: what is missed is pulled in messages that a peer takes, whatever it takes on disk.

use std::time::Duration;

use anyhow::ensure;
use grapevine_integration_tests::{Cluster, Fault, Setup, always, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::ReceiptLevel;

use crate::support::SOON;

/// Classes of one bump: names that differ at their ends only, so that the log has a few bytes for each.
const CLASSES: usize = 900;
/// Together they take more on the wire than a peer takes in one message, and less than what is read of a log at once.
const BUMPS: usize = 100;

fn classes() -> Vec<String> {
    let stem = "x".repeat(185);
    (0..CLASSES)
        .map(|number| format!("top/{stem}{number:05}"))
        .collect()
}

async fn bump_all(cluster: &Cluster, receipt: ReceiptLevel) {
    let request = v1::InvalidateRequest {
        classes: classes(),
        receipt: receipt.into(),
        ..Default::default()
    };
    let mut app = cluster[0].api.app.clone();
    app.invalidate(request).await.unwrap();
}

/// Links that stand keep standing.
async fn check_steady(cluster: &Cluster) {
    let broken = async |node: usize| cluster[node].api.counter("peer_links_broken").await;
    let before = [broken(0).await.unwrap(), broken(1).await.unwrap()];
    always("no link breaks", Duration::from_secs(2), async || {
        ensure!(before == [broken(0).await?, broken(1).await?]);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_bumps_small_on_disk_and_large_on_the_wire_are_caught_up_with() {
    let mut cluster = Setup::of(2).relays().start().await.unwrap();
    cluster[1].hears(Fault::Cut).unwrap();
    for _ in 0..BUMPS {
        bump_all(&cluster, ReceiptLevel::None).await;
    }
    let pulled = cluster[1].api.counter("pulls_sent").await.unwrap();
    cluster[1].hears(Fault::Nothing).unwrap();
    let some = [&classes()[..10], &classes()[CLASSES - 10..]].concat();
    cluster.wait_agree(&some, SOON * 4).await.unwrap();
    cluster.wait_fresh().await.unwrap();
    let status = cluster[1].api.status().await.unwrap();
    let counter = |name: &str| status.counters[name];
    assert_eq!(
        counter("snapshots_adopted"),
        0,
        "the log has all of it: nothing was tested"
    );
    let pulls = counter("pulls_sent") - pulled;
    assert!(pulls >= 10, "{pulls} pulls for 17 MB");
    check_steady(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_what_the_log_no_longer_has_comes_as_a_snapshot_beside_bumps_and_grants() {
    let setup = Setup::of(2).relays().flag("store-log-bytes-max", "1MiB");
    let mut cluster = setup.start().await.unwrap();
    cluster[1].hears(Fault::Cut).unwrap();
    // Registrations of long names, and bumps that crowd the first ones out of the log.
    for batch in 0..5 {
        let address = |number| format!("{:0>200}", batch * 1_000 + number);
        let addresses = (0..1_000).map(address);
        cluster[0].api.register("kept", addresses).await.unwrap();
    }
    for round in 0..150 {
        let request = v1::InvalidateRequest {
            classes: (0..500)
                .map(|_| format!("top{}/{:032x}", round % 8, rand::random::<u128>()))
                .collect(),
            receipt: ReceiptLevel::None.into(),
            ..Default::default()
        };
        let mut app = cluster[0].api.app.clone();
        app.invalidate(request).await.unwrap();
    }
    cluster[1].hears(Fault::Nothing).unwrap();
    let api = cluster[1].api.clone();
    eventually("it has the whole directory", SOON * 4, async || {
        let held = api.status().await?;
        ensure!(held.registrations == 5_000, "{}", held.registrations);
        ensure!(held.counters["snapshots_adopted"] > 0, "no snapshot");
        Ok(())
    })
    .await
    .unwrap();
    cluster.wait_fresh().await.unwrap();
    let tops: Vec<_> = (0..8).map(|top| format!("top{top}/x")).collect();
    cluster.wait_agree(&tops, SOON).await.unwrap();
    check_steady(&cluster).await;
}
