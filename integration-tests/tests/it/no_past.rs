//! Directories are wiped, and nobody holds what was in them: still, what was superseded must not be current again (G2).

use grapevine_integration_tests::Setup;

use crate::support::{Superseded, numbered};

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_lone_sidecar_that_was_wiped_gives_no_superseded_token() {
    let mut cluster = Setup::of(1).start().await.unwrap();
    let mut old = Superseded::default();
    for _ in 0..3 {
        old.bump_all(&cluster[0].api, &numbered("alone/", 5))
            .await
            .unwrap();
        cluster[0].kill().await.unwrap();
        cluster[0].wipe().unwrap();
        cluster[0].start_fresh().await.unwrap();
        old.check("n1, wiped,", &cluster[0].api).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_cluster_whose_directories_are_all_wiped_gives_no_superseded_token() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    let mut old = Superseded::default();
    old.bump_all(&cluster[0].api, &numbered("all/", 5))
        .await
        .unwrap();
    for node in 0..3 {
        cluster[node].kill().await.unwrap();
        cluster[node].wipe().unwrap();
    }
    for node in 0..3 {
        cluster[node].start().unwrap();
    }
    cluster.wait_fresh().await.unwrap();
    for node in cluster.nodes() {
        old.check(&node.id, &node.api).await.unwrap();
    }
}
