//! Leaving in order: within a bound, with the peers told at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Setup, always, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::{Freshness, ReceiptLevel};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{SOON, Superseded, numbered};

/// Less than `max_staleness` in these clusters, which is 4 s: who is told at once does not wait for it.
const TOLD: Duration = Duration::from_secs(3);
/// And more than that.
const A_WHILE: Duration = Duration::from_secs(5);

async fn check_fresh(api: &Api) -> Result<()> {
    let status = api.status().await?;
    ensure!(
        status.freshness() == Freshness::Fresh,
        "{}",
        status.freshness_reason
    );
    Ok(())
}

async fn cluster() -> Cluster {
    let setup = Setup::of(3)
        .flag("freshness-max-staleness", "4s")
        .flag("drain-timeout", "1s");
    setup.start().await.unwrap()
}

/// The others drop it at once, and are fresh all along.
async fn check_left(cluster: &Cluster) {
    for node in 0..2 {
        let api = &cluster[node].api;
        eventually("the peers drop it", TOLD, async || {
            check_fresh(api).await.unwrap();
            ensure!(api.members().await?.len() == 2);
            Ok(())
        })
        .await
        .unwrap();
    }
    let api = &cluster[0].api;
    always("nobody waits for it", A_WHILE, async || {
        check_fresh(api).await
    })
    .await
    .unwrap();
    let answer = api.invalidate("class", ReceiptLevel::All).await.unwrap();
    let receipt = answer.receipt.unwrap();
    assert!(
        receipt.satisfied && receipt.holders.len() == 2,
        "{:?}",
        receipt.holders
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_within_the_bound_whatever_is_open() {
    let mut cluster = cluster().await;
    let api = cluster[2].api.clone();
    let mut old = Superseded::default();
    let classes = numbered("class/", 3);
    old.bump_all(&api, &classes).await.unwrap();
    api.register("kept", numbered("value::", 100))
        .await
        .unwrap();
    // Calls that would never end by themselves; a watch is ended at once, the others are cut off.
    let mut watch = api.watch(&[]).await.unwrap();
    let answers = api
        .app
        .clone()
        .resolve_stream(tokio_stream::pending())
        .await
        .unwrap();
    let mut stream = api.app.clone();
    let batches =
        tokio::spawn(async move { stream.register_stream(tokio_stream::pending()).await });

    let begun = Instant::now();
    cluster[2].terminate().await.unwrap();
    let ended = cluster[2].end(Duration::from_secs(30)).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(
        took < Duration::from_secs(10),
        "the bound of 1 s was left behind: {took:?}"
    );
    assert!(
        ended.output.contains("SIGTERM") && ended.output.contains("drained"),
        "{}",
        ended.output
    );
    while watch.message().await.unwrap().is_some() {}
    assert!(batches.await.unwrap().is_err());
    drop(answers);
    check_left(&cluster).await;
    old.check("n1", &cluster[0].api).await.unwrap();

    cluster[2].start_fresh().await.unwrap();
    cluster.wait_fresh().await.unwrap();
    cluster.wait_agree(&classes, SOON).await.unwrap();
    assert_eq!(cluster[2].api.addresses("kept").await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_call_ends_it_and_what_was_acknowledged_before_is_kept() {
    let mut cluster = cluster().await;
    let api = cluster[2].api.clone();
    let mut old = Superseded::default();
    // Nobody waits for these to spread: leaving sees to it.
    let class = "handed/over";
    let (before, _) = api.token(class).await.unwrap();
    api.invalidate(class, ReceiptLevel::None).await.unwrap();
    old.add(class, before);
    let request = v1::DrainRequest { timeout_ms: 200 };
    api.admin.clone().drain(request).await.unwrap();
    let ended = cluster[2].end(Duration::from_secs(30)).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    check_left(&cluster).await;
    for node in 0..2 {
        let (token, _) = cluster[node].api.token(class).await.unwrap();
        assert_ne!(token, before, "n{}", node + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_sidecar_takes_no_calls_and_says_so() {
    let mut cluster = cluster().await;
    let api = cluster[2].api.clone();
    let (before, _) = api.token("open").await.unwrap();
    // An open call: it waits for one that does not answer, until its deadline.
    cluster[1].pause().await.unwrap();
    let caller = api.clone();
    let open = tokio::spawn(async move {
        caller
            .invalidate_within("open", ReceiptLevel::All, 3_000)
            .await
    });
    eventually("the call is under way", TOLD, async || {
        ensure!(api.token("open").await?.0 != before);
        Ok(())
    })
    .await
    .unwrap();
    let request = v1::DrainRequest { timeout_ms: 15_000 };
    api.admin.clone().drain(request).await.unwrap();
    let newcomer = Api::new(cluster[2].app_tcp);
    eventually("new callers are refused", TOLD, async || {
        let refused = newcomer.invalidate("class", ReceiptLevel::One).await;
        ensure!(refused.is_err_and(|status| status.code() == tonic::Code::Unavailable));
        Ok(())
    })
    .await
    .unwrap();
    // As a supervisor does behind the hook that asked for the drain: the call stays open.
    cluster[2].terminate().await.unwrap();
    let answer = open.await.unwrap().unwrap();
    assert!(answer.receipt.is_some(), "the open call is answered");
    cluster[1].resume().await.unwrap();
    let begun = Instant::now();
    let ended = cluster[2].end(Duration::from_secs(30)).await.unwrap();
    assert!(
        ended.code == Some(0) && begun.elapsed() < Duration::from_secs(12),
        "it waits for nothing any more"
    );
    eventually("the others go on", SOON, async || {
        check_fresh(&cluster[0].api).await
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_never_end_by_themselves_end_when_it_drains() {
    let setup = Setup::of(1).flag("drain-timeout", "50s");
    let mut cluster = setup.start().await.unwrap();
    let api = cluster[0].api.clone();
    let look_ups = api
        .app
        .clone()
        .resolve_stream(tokio_stream::pending())
        .await
        .unwrap();
    let mut app = api.app.clone();
    let batches = tokio::spawn(async move { app.register_stream(tokio_stream::pending()).await });
    let request = HealthCheckRequest {
        service: "grapevine.v1.ApplicationService".to_owned(),
    };
    let mut health = HealthClient::new(api.channel.clone());
    let mut health = health.watch(request).await.unwrap().into_inner();
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let mut watch = api.watch(&[]).await.unwrap();
    let begun = Instant::now();
    cluster[0].terminate().await.unwrap();
    let refused = look_ups.into_inner().message().await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    let refused = batches.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert!(health.message().await.unwrap().is_none());
    while watch.message().await.unwrap().is_some() {}
    let ended = cluster[0].end(SOON).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(begun.elapsed() < Duration::from_secs(30), "it was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_who_waits_for_a_session_is_told_to_go_elsewhere_when_it_drains() {
    let setup = Setup::of(1)
        .flag("drain-timeout", "50s")
        .flag("limits-session-waits-max", "1");
    let mut cluster = setup.start().await.unwrap();
    let api = cluster[0].api.clone();
    let written = api.invalidate("class", ReceiptLevel::One).await.unwrap();
    // The last 8 bytes are the event's number; one so far ahead never comes.
    let mut token = written.session_token.to_vec();
    let number = token.len() - 8;
    token[number..].copy_from_slice(&u64::from(u32::MAX).to_be_bytes());
    let waiting = |wait_ms| v1::Session {
        tokens: vec![token.clone().into()],
        wait_ms,
    };
    let (caller, long) = (api.clone(), waiting(60_000));
    let open = tokio::spawn(async move {
        loop {
            let told = caller
                .resolve_in("value", "class", Some(long.clone()))
                .await;
            // The question below may have had the place just then.
            if !matches!(&told, Err(status) if status.code() == tonic::Code::ResourceExhausted) {
                return told;
            }
        }
    });
    eventually("it has the only place to wait", SOON, async || {
        let second = api.resolve_in("value", "class", Some(waiting(1))).await;
        ensure!(second.is_err_and(|status| status.code() == tonic::Code::ResourceExhausted));
        Ok(())
    })
    .await
    .unwrap();
    let begun = Instant::now();
    cluster[0].terminate().await.unwrap();
    let told = open.await.unwrap().unwrap_err();
    assert_eq!(told.code(), tonic::Code::Unavailable, "{told}");
    assert!(told.message().contains("call another one"), "{told}");
    let ended = cluster[0].end(SOON).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(begun.elapsed() < Duration::from_secs(30), "it was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_at_once_and_says_so() {
    let setup = Setup::of(3).flag("drain-timeout", "50s");
    let mut cluster = setup.start().await.unwrap();
    cluster[0].pause().await.unwrap();
    cluster[1].pause().await.unwrap();
    let api = cluster[2].api.clone();
    let open = tokio::spawn(async move {
        api.invalidate_within("open", ReceiptLevel::Quorum, 25_000)
            .await
    });
    // The call has to be there, or nothing keeps it from ending by itself.
    let api = cluster[2].api.clone();
    eventually("the call is under way", SOON, async || {
        ensure!(api.counter("bumps_own").await? > 0);
        Ok(())
    })
    .await
    .unwrap();
    cluster[2].terminate().await.unwrap();
    eventually("it drains", SOON, async || {
        ensure!(cluster[2].log().contains("draining"));
        Ok(())
    })
    .await
    .unwrap();
    let begun = Instant::now();
    cluster[2].terminate().await.unwrap();
    let ended = cluster[2].end(SOON).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(
        ended.output.contains("SIGTERM during the drain"),
        "{}",
        ended.output
    );
    assert!(open.await.unwrap().is_err(), "it was cut off");
    cluster[0].resume().await.unwrap();
    cluster[1].resume().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stands_still_does_not_keep_it_from_leaving() {
    let mut cluster = cluster().await;
    cluster[1].pause().await.unwrap();
    let begun = Instant::now();
    cluster[2].terminate().await.unwrap();
    let ended = cluster[2].end(Duration::from_secs(30)).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    cluster[1].resume().await.unwrap();
}
