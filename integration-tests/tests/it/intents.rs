//! G8: writes that were begun are bumped whoever dies: the application, its sidecar, the one that holds the intent.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Setup, eventually, grapevine, run_to_end};
use grapevine_proto::v1::{AbortOutcome, ReceiptLevel};

use crate::support::SOON;

const LEASE: Duration = Duration::from_secs(2);
const LEASE_MS: u32 = 2_000;
/// A lease that does not end in a test.
const LONG_MS: u32 = 600_000;

async fn token(api: &Api, class: &str) -> u64 {
    api.token(class).await.unwrap().0
}

/// Waits until the sidecar gives another token.
async fn changes(api: &Api, class: &str, before: u64) -> Result<()> {
    eventually("the class is bumped", SOON, async || {
        let (now, _) = api.token(class).await?;
        ensure!(now != before, "it is still {now:016x}");
        Ok(())
    })
    .await
}

/// Waits until no sidecar has an intent that could bump anything any more.
async fn nothing_is_open(cluster: &Cluster) {
    for node in cluster.nodes() {
        eventually("every intent ended", SOON, async || {
            for name in ["intents_open", "intents_held"] {
                let open = node.api.counter(name).await?;
                ensure!(open == 0, "{}: {name} is {open}", node.id);
            }
            Ok(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_the_origin_is_killed_and_the_others_see_the_bump() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    let class = "carts/1";
    // One token for all: it was bumped before.
    let receipt = ReceiptLevel::All;
    cluster[0].api.invalidate(class, receipt).await.unwrap();
    let before = token(&cluster[1].api, class).await;
    assert_eq!(token(&cluster[2].api, class).await, before);
    let begun_at = Instant::now();
    let begun = cluster[0].api.begin_write(class, LEASE_MS).await.unwrap();
    assert_eq!((begun.intent.len(), begun.lease_ms), (25, LEASE_MS));
    cluster[0].kill().await.unwrap();
    for node in &cluster.nodes()[1..] {
        changes(&node.api, class, before).await.unwrap();
        let waited = begun_at.elapsed();
        assert!(
            waited >= LEASE,
            "it may have been committed after {waited:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_the_application_ends_and_its_sidecar_bumps() {
    let cluster = Setup::of(2).start().await.unwrap();
    let class = "carts/1";
    let before = token(&cluster[1].api, class).await;
    // A process of its own, which is gone, with its connection, once it has its answer.
    let endpoint = cluster[0].app_tcp.to_string();
    let line = [
        "write",
        "begin",
        class,
        "--lease",
        "2s",
        "--endpoint",
        &endpoint,
    ];
    let ended = run_to_end(grapevine().unwrap(), line, SOON).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    changes(&cluster[1].api, class, before).await.unwrap();
    assert_eq!(cluster[0].api.counter("intents_expired").await.unwrap(), 1);
    nothing_is_open(&cluster).await;
    let others = cluster[1].api.counter("intents_expired_for_others").await;
    assert_eq!(others.unwrap(), 0, "it heard of the bump");
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_a_commit_at_another_sidecar_bumps_and_ends_the_intent() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    let class = "carts/1";
    let begun = cluster[0].api.begin_write(class, LONG_MS).await.unwrap();
    let before = token(&cluster[2].api, class).await;
    let answer = cluster[1].api.commit_write(&begun, class).await.unwrap();
    assert!(answer.receipt.unwrap().satisfied && answer.event.is_some());
    changes(&cluster[2].api, class, before).await.unwrap();
    nothing_is_open(&cluster).await;
    // And when its origin is gone altogether.
    let begun = cluster[0].api.begin_write(class, LONG_MS).await.unwrap();
    let before = token(&cluster[2].api, class).await;
    cluster[0].kill().await.unwrap();
    let answer = cluster[2].api.commit_write(&begun, class).await.unwrap();
    assert!(answer.event.is_some());
    assert_ne!(token(&cluster[2].api, class).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_an_abort_bumps_nothing() {
    let cluster = Setup::of(2).start().await.unwrap();
    let class = "carts/1";
    let before = token(&cluster[0].api, class).await;
    let begun = cluster[0].api.begin_write(class, LEASE_MS).await.unwrap();
    let answer = cluster[0].api.abort_write(&begun).await.unwrap();
    assert_eq!(answer.outcome(), AbortOutcome::NothingBumped);
    nothing_is_open(&cluster).await;
    for node in cluster.nodes() {
        assert_eq!(token(&node.api, class).await, before);
    }
    // One that comes too late says what was bumped.
    let begun = cluster[0].api.begin_write(class, 100).await.unwrap();
    changes(&cluster[0].api, class, before).await.unwrap();
    let answer = cluster[0].api.abort_write(&begun).await.unwrap();
    assert_eq!(answer.outcome(), AbortOutcome::Bumped);
    assert!(answer.event.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_a_killed_sidecar_bumps_what_was_open_when_it_starts_again() {
    let mut cluster = Setup::of(1).start().await.unwrap();
    let class = "carts/1";
    let begun = cluster[0].api.begin_write(class, LONG_MS).await.unwrap();
    let before = token(&cluster[0].api, class).await;
    cluster[0].kill().await.unwrap();
    cluster[0].start_fresh().await.unwrap();
    assert_ne!(token(&cluster[0].api, class).await, before);
    let recovered = cluster[0].api.counter("intents_recovered").await;
    assert_eq!(recovered.unwrap(), 1);
    let answer = cluster[0].api.abort_write(&begun).await.unwrap();
    assert_eq!(answer.outcome(), AbortOutcome::Bumped);
    nothing_is_open(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_without_a_peer_to_hold_it_nothing_is_begun() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    cluster[1].kill().await.unwrap();
    let status = cluster[0]
        .api
        .begin_write("carts/1", 300)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("nothing was begun"), "{status}");
    nothing_is_open_here(&cluster[0].api).await;
    cluster[1].start_fresh().await.unwrap();
    cluster[0]
        .api
        .begin_write("carts/1", LONG_MS)
        .await
        .unwrap();
}

async fn nothing_is_open_here(api: &Api) {
    assert_eq!(api.counter("intents_open").await.unwrap(), 0);
}
