//! Links that are cut, lose and delay, between sidecars that all run.

use std::time::Duration;

use grapevine_integration_tests::{Fault, Setup};
use grapevine_proto::v1::ReceiptLevel;

use crate::stage::{MAX_STALENESS, NODES, SOON, Stage};

/// How long a healed cluster may take on a busy machine. The figures are smaller, and measured elsewhere.
const HEALED: Duration = Duration::from_secs(15);
const EVERYONE: [usize; NODES] = [0, 1, 2, 3, 4];

fn short_timeout(setup: Setup) -> Setup {
    setup.flag("freshness-member-timeout", "2s")
}

/// What `part` cannot say while it is cut off.
async fn vouches_for_nothing(stage: &Stage, part: &[usize]) {
    for node in part {
        let within = MAX_STALENESS + Duration::from_secs(2);
        stage.not_fresh(*node, within).await;
        let api = &stage.cluster[*node].api;
        let answer = api
            .invalidate_within("elsewhere/1", ReceiptLevel::All, 500)
            .await
            .unwrap();
        let receipt = answer.receipt.unwrap();
        assert!(!receipt.satisfied, "n{}: {receipt:?}", node + 1);
    }
}

async fn cut_off(test: &str, minority: &[usize]) {
    let Some(mut stage) = Stage::open(test, short_timeout, |_| {}).await else {
        return;
    };
    let majority: Vec<usize> = (0..NODES).filter(|node| !minority.contains(node)).collect();
    stage.trouble();
    stage.network.cut(minority, &majority).unwrap();
    vouches_for_nothing(&stage, minority).await;
    let took = stage.fresh(&majority, SOON).await;
    eprintln!("{test}: the others are fresh without it, {took:?} later");
    stage.go_on_for(Duration::from_secs(2)).await;
    stage.network.heal().unwrap();
    let troubled = stage.end(&EVERYONE, HEALED).await;
    assert!(troubled.hits > 0, "the majority serves");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_one_of_five_is_cut_off() {
    cut_off("g7_one_of_five_is_cut_off", &[4]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_two_of_five_are_cut_off() {
    cut_off("g7_two_of_five_are_cut_off", &[1, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_one_is_not_heard_and_then_does_not_hear() {
    let test = "g7_one_is_not_heard_and_then_does_not_hear";
    let Some(mut stage) = Stage::open(test, |setup| setup, |_| {}).await else {
        return;
    };
    stage.trouble();
    for other in 0..4 {
        stage.network.cut_one_way(4, other).unwrap();
    }
    stage.go_on_for(MAX_STALENESS * 3).await;
    stage.network.heal().unwrap();
    stage.fresh(&EVERYONE, HEALED).await;
    for other in 0..4 {
        stage.network.cut_one_way(other, 4).unwrap();
    }
    stage.go_on_for(MAX_STALENESS * 3).await;
    stage.network.heal().unwrap();
    stage.end(&EVERYONE, HEALED).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_every_link_loses_one_packet_in_twenty_and_then_one_in_five() {
    let test = "g7_every_link_loses_one_packet_in_twenty_and_then_one_in_five";
    let Some(mut stage) = Stage::open(test, |setup| setup, |_| {}).await else {
        return;
    };
    stage.trouble();
    for per_mille in [50, 200] {
        stage.network.heal().unwrap();
        stage.network.lose(per_mille).unwrap();
        stage.go_on_for(Duration::from_secs(5)).await;
    }
    stage.network.heal().unwrap();
    let troubled = stage.end(&EVERYONE, HEALED).await;
    assert!(troubled.hits > 0, "loss is no reason to serve nothing");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes root; the stage `net` of CI"]
async fn g7_every_link_is_slow() {
    let test = "g7_every_link_is_slow";
    let Some(mut stage) = Stage::open(test, Setup::relays, |_| {}).await else {
        return;
    };
    stage.trouble();
    for delay_ms in [20, 80] {
        for node in stage.cluster.nodes() {
            node.hears(Fault::Delay(Duration::from_millis(delay_ms)))
                .unwrap();
        }
        stage.go_on_for(Duration::from_secs(4)).await;
    }
    for node in stage.cluster.nodes() {
        node.hears(Fault::Nothing).unwrap();
    }
    let troubled = stage.end(&EVERYONE, HEALED).await;
    assert!(troubled.hits > 0, "delay is no reason to serve nothing");
}
