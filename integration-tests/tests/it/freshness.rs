//! Who calls itself fresh, and what is served by who cannot (G7, G11).

use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Fault, Setup, always, eventually};
use grapevine_proto::v1;
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
    // One more would be a majority, but if its disk were an older copy it could have agreed with the third to go on
    // without the first, and not know it.
    cluster[1].start().unwrap();
    always("two of which one started anew", A_WHILE, async || {
        check_unknown(&lone, "class", true).await
    })
    .await
    .unwrap();
    cluster[2].start().unwrap();
    cluster.wait_fresh().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_a_crashed_member_loses_its_seat_and_the_others_go_on() {
    let mut cluster = Setup::of(3)
        .flag("freshness-member-timeout", "1s")
        .start()
        .await
        .unwrap();
    let before = cluster[0].api.token("class").await.unwrap().0;
    cluster[2].kill().await.unwrap();
    for survivor in 0..2 {
        let api = cluster[survivor].api.clone();
        eventually("the survivors are two and fresh", SOON, async || {
            let status = api.status().await?;
            ensure!(status.seats == 2, "{} seats", status.seats);
            ensure!(
                status.freshness() == Freshness::Fresh,
                "{}",
                status.freshness_reason
            );
            Ok(())
        })
        .await
        .unwrap();
    }
    // It was the only one that was gone, and the others were fresh: what it had acknowledged is on one of their disks.
    let after = cluster[0].api.token("class").await.unwrap().0;
    assert_eq!(before, after);
    let answer = cluster[0].api.invalidate("class", ReceiptLevel::All).await;
    assert!(answer.unwrap().receipt.unwrap().satisfied);
    cluster[2].start().unwrap();
    cluster.wait_fresh().await.unwrap();
    assert_eq!(cluster[1].api.status().await.unwrap().seats, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_an_operator_forgets_who_is_gone_for_good() {
    let setup = Setup::of(3).flag("freshness-member-timeout", "1s");
    let mut cluster = setup.start().await.unwrap();
    let forget = |node_id: &str, alone| v1::ForgetRequest {
        node_id: node_id.to_owned(),
        alone,
    };
    let mut admin = cluster[0].api.admin.clone();
    let refused = admin.forget(forget("n2", false)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("drain it instead"), "{refused}");
    let refused = admin.forget(forget("n9", false)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    cluster[1].kill().await.unwrap();
    cluster[2].kill().await.unwrap();
    eventually("without a majority it is refused", SOON, async || {
        let refused = admin.forget(forget("n3", false)).await;
        let refused = refused.err().map(|status| status.message().to_owned());
        let refused = refused.unwrap_or_default();
        ensure!(refused.contains("1 of the 3 members"), "{refused}");
        Ok(())
    })
    .await
    .unwrap();
    let done = admin.forget(forget("n3", true)).await.unwrap();
    assert!(done.into_inner().alone);
    let api = cluster[0].api.clone();
    eventually("it goes on alone", SOON, async || {
        ensure!(api.status().await?.freshness() == Freshness::Fresh);
        Ok(())
    })
    .await
    .unwrap();
    // What comes back joins it.
    cluster[1].start().unwrap();
    cluster[1].wait_fresh().await.unwrap();
    assert_eq!(api.status().await.unwrap().seats, 2);
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
    let setup = Setup::of(3).relays().toml(policies);
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
