//! Who calls itself fresh, and what is served by who cannot (G7, G11).

use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Fault, Setup, always, eventually};
use grapevine_proto::v1::{Freshness, ReceiptLevel};

use crate::support::{SOON, check_catching_up};

/// Longer than `max_staleness` in the kit's clusters.
const A_WHILE: Duration = Duration::from_millis(2_500);

/// It does not know, and says whether to bypass as expected.
async fn check_unknown(api: &Api, class: &str, bypass: bool) -> Result<()> {
    let (resolution, freshness) = api.resolve_in("value", class, None).await?;
    ensure!(freshness == Freshness::Unknown, "it says {freshness:?}");
    ensure!(
        resolution.bypass == bypass,
        "{class}: bypass is {}",
        resolution.bypass
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_a_minority_is_never_fresh() {
    let mut cluster = Setup::of(3)
        .flag("freshness-member-timeout", "1s")
        .prepare()
        .await
        .unwrap();
    cluster[0].start().unwrap();
    cluster[0].wait_serving().await.unwrap();
    let lone = cluster[0].api.clone();
    always("one of three catches up for ever", A_WHILE, async || {
        check_catching_up(&lone).await
    })
    .await
    .unwrap();
    cluster[1].start().unwrap();
    cluster[2].start().unwrap();
    cluster.wait_fresh().await.unwrap();

    cluster[1].kill().await.unwrap();
    cluster[2].kill().await.unwrap();
    let bypasses = async || check_unknown(&lone, "class", true).await;
    eventually("the survivor says that it does not know", SOON, bypasses)
        .await
        .unwrap();
    // Longer than the member timeout: giving members up makes no majority.
    always("and goes on saying so", A_WHILE * 2, bypasses)
        .await
        .unwrap();
    for level in [ReceiptLevel::One, ReceiptLevel::Quorum, ReceiptLevel::All] {
        let answer = lone.invalidate_within("class", level, 300).await.unwrap();
        assert!(
            !answer.receipt.unwrap().satisfied,
            "a minority grants no {level:?}"
        );
    }
    cluster[1].start().unwrap();
    cluster.wait_fresh().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_policy_says_how_long_to_serve_while_freshness_is_unknown() {
    let policies = r#"
[[policy]]
pattern = "patient/**"
on_unknown = "serve"
serve_unknown_for = "3s"

[[policy]]
pattern = "timed/**"
strategy = "ttl"
"#;
    let setup = Setup::of(2).relays().toml(policies);
    let cluster = setup.start().await.unwrap();
    let api = cluster[1].api.clone();
    let (before, _) = api.token("patient/1").await.unwrap();
    cluster[1].hears(Fault::Silent).unwrap();
    eventually("it does not know any more", SOON, async || {
        check_unknown(&api, "strict/1", true).await
    })
    .await
    .unwrap();
    check_unknown(&api, "patient/1", false).await.unwrap();
    check_unknown(&api, "timed/1", false).await.unwrap();
    let told = api.status().await.unwrap();
    assert!(
        told.freshness_reason.contains("n1"),
        "{}",
        told.freshness_reason
    );
    eventually("its patience ends", SOON, async || {
        check_unknown(&api, "patient/1", true).await
    })
    .await
    .unwrap();
    check_unknown(&api, "timed/1", false).await.unwrap();
    let answer = cluster[0]
        .api
        .invalidate("patient/1", ReceiptLevel::All)
        .await
        .unwrap();
    assert!(
        answer.receipt.unwrap().satisfied,
        "what bypasses cannot serve"
    );
    cluster[1].hears(Fault::Nothing).unwrap();
    eventually("it knows again", SOON, async || {
        let (resolution, freshness) = api.resolve_in("value", "patient/1", None).await?;
        ensure!(
            freshness == Freshness::Fresh && !resolution.bypass,
            "it says {freshness:?}"
        );
        ensure!(resolution.token != before, "fresh without the event");
        Ok(())
    })
    .await
    .unwrap();
}
