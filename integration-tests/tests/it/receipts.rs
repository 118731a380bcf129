//! Receipts (G6) and sessions (G5): what is said of who has an event is true, also of sidecars that stand still, are
//! gone, or were started again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Fault, Setup, eventually};
use grapevine_proto::v1::{
    Freshness, Holder, HolderState, InvalidateResponse, ReceiptLevel, Session,
};
use tonic::Code;

use crate::support::{SOON, numbered};

/// Enough for an answer that waits for nothing, on a busy machine; less than any timeout given here.
const PROMPT: Duration = Duration::from_secs(5);

fn row<'a>(answer: &'a InvalidateResponse, node: &str) -> &'a Holder {
    let rows = &answer.receipt.as_ref().unwrap().holders;
    rows.iter().find(|row| row.node_id == node).unwrap()
}

fn satisfied(answer: &InvalidateResponse) -> bool {
    answer.receipt.as_ref().unwrap().satisfied
}

async fn incarnation(api: &Api) -> Vec<u8> {
    api.status().await.unwrap().incarnation.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_every_level_is_reached_when_all_are_well() {
    let cluster = Setup::of(3).start().await.unwrap();
    let mut runs = Vec::new();
    for node in cluster.nodes() {
        runs.push(incarnation(&node.api).await);
    }
    for (level, least) in [
        (ReceiptLevel::None, 1),
        (ReceiptLevel::Unspecified, 2),
        (ReceiptLevel::One, 2),
        (ReceiptLevel::Quorum, 2),
        (ReceiptLevel::All, 3),
    ] {
        let answer = cluster[1].api.invalidate("class", level).await.unwrap();
        let receipt = answer.receipt.as_ref().unwrap();
        let asked = if level == ReceiptLevel::Unspecified {
            ReceiptLevel::One
        } else {
            level
        };
        assert_eq!((receipt.level(), receipt.satisfied), (asked, true));
        let names: Vec<_> = receipt
            .holders
            .iter()
            .map(|row| row.node_id.as_str())
            .collect();
        assert_eq!(
            names,
            ["n2", "n1", "n3"],
            "the answering one first, then by name"
        );
        for (node, run) in [("n1", 0), ("n2", 1), ("n3", 2)] {
            assert_eq!(row(&answer, node).incarnation.to_vec(), runs[run], "{node}");
        }
        let has = receipt
            .holders
            .iter()
            .filter(|row| row.state() == HolderState::Has)
            .count();
        assert!(has >= least, "{level:?}: {:?}", receipt.holders);
        let event = answer.event.unwrap();
        assert_eq!(event.incarnation.to_vec(), runs[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_peer_that_stands_still_has_not_and_then_cannot_serve() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    for round in 0..5 {
        let class = format!("still/{round}");
        let (before, _) = cluster[2].api.token(&class).await.unwrap();
        cluster[2].pause().await.unwrap();
        let (fast, slow) = (&cluster[0].api, &cluster[1].api);
        for level in [ReceiptLevel::One, ReceiptLevel::Quorum] {
            let begun = Instant::now();
            let answer = fast.invalidate_within(&class, level, 20_000).await.unwrap();
            assert!(satisfied(&answer) && begun.elapsed() < PROMPT, "{level:?}");
            assert_ne!(row(&answer, "n3").state(), HolderState::Has);
        }
        let answer = slow
            .invalidate_within(&class, ReceiptLevel::All, 20_000)
            .await
            .unwrap();
        assert!(satisfied(&answer), "its grant lapses: {:?}", answer.receipt);
        assert_eq!(row(&answer, "n1").state(), HolderState::Has);
        assert_eq!(row(&answer, "n3").state(), HolderState::CannotServe);
        // The word is kept: what it answers first, to calls that waited for it, is not fresh and old.
        let calls = (0..8).map(|_| {
            let (api, class) = (cluster[2].api.clone(), class.clone());
            tokio::spawn(async move { api.resolve_in("value", &class, None).await })
        });
        let calls: Vec<_> = calls.collect();
        cluster[2].resume().await.unwrap();
        for call in calls {
            let (resolution, freshness) = call.await.unwrap().unwrap();
            let served = freshness == Freshness::Fresh || !resolution.bypass;
            assert!(
                !served || resolution.token != before,
                "it could serve, though all was granted"
            );
        }
        cluster.wait_fresh().await.unwrap();
        cluster.wait_agree(&[class], SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_deadline_is_kept_and_the_rows_say_who_has_not() {
    // Grants outlast the test, so that nobody can be said to be unable to serve.
    let mut cluster = Setup::of(3)
        .flag("freshness-max-staleness", "50s")
        .start()
        .await
        .unwrap();
    cluster[2].pause().await.unwrap();
    let begun = Instant::now();
    let answer = cluster[0]
        .api
        .invalidate_within("class", ReceiptLevel::All, 400)
        .await
        .unwrap();
    assert!(!satisfied(&answer) && begun.elapsed() < PROMPT);
    assert_eq!(row(&answer, "n2").state(), HolderState::Has);
    assert_eq!(row(&answer, "n3").state(), HolderState::HasNot);
    cluster[1].pause().await.unwrap();
    for level in [ReceiptLevel::One, ReceiptLevel::Quorum] {
        let begun = Instant::now();
        let answer = cluster[0]
            .api
            .invalidate_within("class", level, 400)
            .await
            .unwrap();
        assert!(!satisfied(&answer) && begun.elapsed() < PROMPT, "{level:?}");
        assert_eq!(row(&answer, "n2").state(), HolderState::HasNot);
    }
    let answer = cluster[0]
        .api
        .invalidate_within("class", ReceiptLevel::None, 400)
        .await
        .unwrap();
    assert!(satisfied(&answer));
    cluster[1].resume().await.unwrap();
    cluster[2].resume().await.unwrap();
    // Unsatisfied is not undone: the events spread all the same.
    cluster
        .wait_agree(&["class".to_owned()], SOON)
        .await
        .unwrap();
    cluster.wait_fresh().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_peer_that_was_killed_cannot_serve_and_its_next_run_is_another_row() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    let first = incarnation(&cluster[2].api).await;
    let (caller, level) = (cluster[0].api.clone(), ReceiptLevel::All);
    // It has grants that hold for a while, and nobody can know that it is dead and not only silent.
    cluster[2].kill().await.unwrap();
    let waiting =
        tokio::spawn(async move { caller.invalidate_within("class", level, 20_000).await });
    cluster[2].start().unwrap();
    let answer = waiting.await.unwrap().unwrap();
    assert!(satisfied(&answer), "its grants lapse: {:?}", answer.receipt);
    let rows = answer.receipt.unwrap().holders;
    let old = rows
        .iter()
        .find(|row| *row.incarnation == *first)
        .expect("the run that was killed has a row");
    assert_eq!(old.state(), HolderState::CannotServe);

    cluster.wait_fresh().await.unwrap();
    let second = incarnation(&cluster[2].api).await;
    assert_ne!(first, second);
    let all_of_the_new = async || {
        let answer = cluster[0].api.invalidate("class", level).await?;
        ensure!(satisfied(&answer));
        let rows = &answer.receipt.as_ref().unwrap().holders;
        let of_n3: Vec<_> = rows.iter().filter(|row| row.node_id == "n3").collect();
        ensure!(of_n3.len() == 1, "{of_n3:?}");
        ensure!(*of_n3[0].incarnation == *second && of_n3[0].state() == HolderState::Has);
        Ok(())
    };
    eventually("only its next run is asked", SOON, all_of_the_new)
        .await
        .unwrap();
    cluster
        .wait_agree(&["class".to_owned()], SOON)
        .await
        .unwrap();
}

async fn session_token(api: &Api, class: &str) -> Session {
    let answer = api.invalidate(class, ReceiptLevel::None).await.unwrap();
    Session {
        tokens: vec![answer.session_token],
        wait_ms: 5_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_a_session_sees_its_write_at_every_sidecar() {
    let cluster = Setup::of(3).relays().start().await.unwrap();
    for (round, fault) in [Fault::Nothing, Fault::Delay(Duration::from_millis(30))]
        .into_iter()
        .enumerate()
    {
        for node in cluster.nodes() {
            node.hears(fault).unwrap();
        }
        for write in 0..15 {
            let (class, writer) = (format!("own/{round}-{write}"), write % 3);
            let mut before = Vec::new();
            for node in cluster.nodes() {
                before.push(node.api.token(&class).await.unwrap().0);
            }
            let session = session_token(&cluster[writer].api, &class).await;
            for (reader, node) in cluster.nodes().iter().enumerate() {
                let seen = node
                    .api
                    .resolve_in("value", &class, Some(session.clone()))
                    .await;
                let (resolution, _) = seen.unwrap();
                assert_ne!(
                    resolution.token, before[reader],
                    "{} does not see it",
                    node.id
                );
            }
        }
    }
    // Three writers, one session.
    let mut session = Session {
        wait_ms: 5_000,
        ..Default::default()
    };
    for (node, class) in cluster.nodes().iter().zip(numbered("three/", 3)) {
        session
            .tokens
            .extend(session_token(&node.api, &class).await.tokens);
    }
    for node in cluster.nodes() {
        node.api
            .resolve_in("value", "class", Some(session.clone()))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_a_sidecar_that_cannot_have_seen_it_says_so_in_time() {
    let cluster = Setup::of(3).relays().start().await.unwrap();
    cluster[1].hears(Fault::Silent).unwrap();
    let mut session = session_token(&cluster[0].api, "class").await;
    session.wait_ms = 300;
    let begun = Instant::now();
    let refused = cluster[1]
        .api
        .resolve_in("value", "class", Some(session.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert!(
        refused.message().contains("300 ms") && begun.elapsed() < PROMPT,
        "{refused}"
    );
    let begun = Instant::now();
    let write = grapevine_proto::v1::InvalidateRequest {
        classes: vec!["class".to_owned()],
        session: Some(session.clone()),
        ..Default::default()
    };
    let refused = cluster[1]
        .api
        .app
        .clone()
        .invalidate(write)
        .await
        .unwrap_err();
    assert!(
        refused.code() == Code::DeadlineExceeded && begun.elapsed() < PROMPT,
        "{refused}"
    );
    // Without a session it answers.
    cluster[1].api.token("class").await.unwrap();
    cluster[1].hears(Fault::Nothing).unwrap();
    sees(&cluster, 1, session).await.unwrap();
}

async fn sees(cluster: &Cluster, node: usize, session: Session) -> Result<()> {
    eventually("the session is seen", SOON, async || {
        let (_, freshness) = cluster[node]
            .api
            .resolve_in("value", "class", Some(session.clone()))
            .await?;
        ensure!(freshness == Freshness::Fresh, "it says {freshness:?}");
        Ok(())
    })
    .await
}
