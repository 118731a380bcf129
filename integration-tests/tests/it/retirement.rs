//! Old runs on real sidecars: what is retired crosses the wire and the store, and superseded tokens stay so.

use std::time::Duration;

use anyhow::ensure;
use grapevine_integration_tests::{Setup, eventually};

use crate::support::{Superseded, numbered};

/// Runs are retired a second after they are over, if more than one is.
const FLAGS: [(&str, &str); 4] = [
    ("limits-old-runs-max", "1"),
    ("freshness-retire-after", "1s"),
    ("freshness-member-timeout", "1s"),
    ("lease-duration", "1s"),
];

fn retiring(nodes: usize) -> Setup {
    let setup = Setup::of(nodes);
    FLAGS
        .iter()
        .fold(setup, |setup, (name, value)| setup.flag(name, value))
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_g10_g12_real_sidecars_retire_runs_and_agree_also_after_starts() {
    let mut cluster = retiring(3).start().await.unwrap();
    let classes = numbered("p/", 20);
    let mut old = Superseded::default();
    for _ in 0..4 {
        old.bump_all(&cluster[2].api, &classes).await.unwrap();
        cluster[2].kill().await.unwrap();
        cluster[2].start_fresh().await.unwrap();
    }
    cluster.wait_fresh().await.unwrap();
    let soon = Duration::from_mins(1);
    eventually("runs are retired at the others", soon, async || {
        for node in &cluster.nodes()[..2] {
            let retired = node.api.counter("runs_retired").await?;
            let origins = node.api.status().await?.origins;
            ensure!(retired >= 2 && origins <= 8, "{retired}, {origins} left");
        }
        Ok(())
    })
    .await
    .unwrap();
    cluster.wait_fresh().await.unwrap();
    cluster.wait_agree(&classes, soon).await.unwrap();
    // One that reads from its disk what is retired, and one that gets it by a snapshot.
    for (node, wiped) in [(1, false), (0, true)] {
        cluster[node].kill().await.unwrap();
        if wiped {
            cluster[node].wipe().unwrap();
        }
        cluster[node].start_fresh().await.unwrap();
        cluster.wait_fresh().await.unwrap();
        cluster.wait_agree(&classes, soon).await.unwrap();
        for node in cluster.nodes() {
            old.check(&node.id, &node.api).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_g10_a_real_sidecar_alone_starts_over_and_shows_no_superseded_token() {
    let mut cluster = retiring(1).start().await.unwrap();
    let classes = numbered("p/", 20);
    let mut old = Superseded::default();
    let mut over = 0;
    for _ in 0..6 {
        old.bump_all(&cluster[0].api, &classes).await.unwrap();
        cluster[0].kill().await.unwrap();
        cluster[0].start_fresh().await.unwrap();
        old.check("n1", &cluster[0].api).await.unwrap();
        over += cluster[0].api.counter("started_over").await.unwrap();
        let origins = cluster[0].api.status().await.unwrap().origins;
        assert!(origins <= 6, "{origins}");
    }
    assert!(over > 0);
    assert!(cluster[0].log().contains("starts over"));
}
