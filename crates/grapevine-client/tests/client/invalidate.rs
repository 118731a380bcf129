//! Invalidations: what is sent, and who is asked when the own sidecar does not answer.

use std::time::{Duration, Instant};

use grapevine_client::{CallError, Client, InvalidateError, Session, v1};
use tonic::Code;

use crate::fake::{Fake, Method, Reply};
use crate::support::{PATIENT, patient};

#[tokio::test]
async fn an_outcome_tells_event_token_and_receipt() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let outcome = client
        .invalidate(["carts/1"])
        .receipt(v1::ReceiptLevel::All)
        .soft()
        .await
        .unwrap();
    assert_eq!(outcome.event.sequence, 1);
    assert_eq!(outcome.session_token.len(), 25);
    assert!(outcome.receipt.satisfied);
    assert_eq!(outcome.receipt.level(), v1::ReceiptLevel::All);
    assert_eq!(outcome.receipt.holders[0].state(), v1::HolderState::Has);
    assert_eq!(&*outcome.answered_by, fake.endpoint);
    assert!(!outcome.repeated);
    let mut session = Session::new();
    session.add(&outcome.session_token).unwrap();
    let second = client
        .invalidate(["a", "b"])
        .match_all()
        .session(&session)
        .timeout(Duration::from_secs(1));
    assert_eq!(second.send().await.unwrap().event.sequence, 3);
}

#[tokio::test]
async fn it_fails_over_when_the_own_sidecar_is_gone_and_returns_to_it() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    assert_eq!(
        &*client.invalidate(["c"]).await.unwrap().answered_by,
        own.endpoint
    );
    own.stop();
    for _ in 0..3 {
        let outcome = client.invalidate(["c"]).await.unwrap();
        assert_eq!(&*outcome.answered_by, other.endpoint);
    }
    assert_eq!(client.stats().invalidate_failovers, 3);
    assert_eq!(own.state.calls(Method::Invalidate), 1);
    // Look-ups do not fail over.
    client.resolve_one("a", &["c"], None).await.unwrap_err();
    assert_eq!(other.state.calls(Method::Resolve), 0);

    own.start();
    let deadline = Instant::now() + PATIENT;
    while client.resolve_one("a", &["c"], None).await.is_err() {
        assert!(Instant::now() < deadline, "never found again");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        &*client.invalidate(["c"]).await.unwrap().answered_by,
        own.endpoint
    );
}

#[tokio::test]
async fn with_nobody_left_it_is_a_typed_error() {
    let (mut own, mut other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    own.stop();
    other.stop();
    for _ in 0..2 {
        // The second time both are being left alone, and are asked nevertheless.
        let error = client.invalidate(["c"]).await.unwrap_err();
        assert!(!error.may_have_had_effect());
        let InvalidateError::NoSidecar { attempts } = error else {
            panic!("{error}");
        };
        assert_eq!(attempts.len(), 2);
        assert!(
            attempts
                .iter()
                .all(|error| matches!(error, CallError::Unreachable { .. })),
            "{attempts:?}"
        );
    }
    assert_eq!(client.stats().invalidate_failures, 2);
    other.start();
    client.invalidate(["c"]).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_never_came_is_repeated_elsewhere_and_told() {
    let (own, other) = (Fake::unix(), Fake::tcp());
    let client = Client::builder(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .invalidate_timeout(Duration::from_millis(20))
        .invalidate_slack(Duration::from_secs(1))
        .build()
        .unwrap();
    own.state.next(Method::Invalidate, Reply::Hang);
    let outcome = client.invalidate(["c"]).await.unwrap();
    assert_eq!(&*outcome.answered_by, other.endpoint);
    assert!(outcome.repeated);

    let client = patient(&own.endpoint).build().unwrap();
    own.state
        .next(Method::Invalidate, Reply::After(Code::Unknown));
    own.state
        .next(Method::Invalidate, Reply::After(Code::Internal));
    let error = client.invalidate(["c"]).await.unwrap_err();
    assert!(error.may_have_had_effect(), "{error}");
    assert!(matches!(error, InvalidateError::NoSidecar { .. }));
}

#[tokio::test]
async fn refusals_without_effect_go_on_and_are_not_repeats() {
    let (own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    for code in [
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
    ] {
        own.state.next(Method::Invalidate, Reply::Status(code));
        let outcome = client.invalidate(["c"]).await.unwrap();
        assert_eq!(
            (&*outcome.answered_by, outcome.repeated),
            (&*other.endpoint, false),
            "{code:?}"
        );
        // Opens the way to the own sidecar again.
        while client.resolve_one("a", &["c"], None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn what_every_sidecar_would_refuse_is_not_asked_of_another() {
    let (own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    let error = client.invalidate(["forbidden/1"]).await.unwrap_err();
    assert!(matches!(error, InvalidateError::Invalid(_)), "{error}");
    own.state
        .next(Method::Invalidate, Reply::Status(Code::PermissionDenied));
    let error = client.invalidate(["c"]).await.unwrap_err();
    assert!(matches!(error, InvalidateError::Refused(_)), "{error}");
    assert_eq!(other.state.calls(Method::Invalidate), 0);

    let asked = own.state.calls(Method::Invalidate);
    let malformed = [
        client.invalidate(Vec::<String>::new()),
        client.invalidate(["a b"]),
        client.invalidate(vec!["c"; 1_001]),
        client.invalidate(["c"]).match_all(),
        client.invalidate(vec!["c"; 9]).match_all(),
        client.invalidate(["c"]).timeout(Duration::ZERO),
        client.invalidate(["c"]).timeout(Duration::from_secs(61)),
    ];
    for request in malformed {
        let error = request.await.unwrap_err();
        assert!(matches!(error, InvalidateError::Invalid(_)), "{error}");
    }
    assert_eq!(own.state.calls(Method::Invalidate), asked);
}

#[tokio::test]
async fn g5_a_write_after_what_the_sidecar_has_not_seen_is_refused() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let mut session = Session::new();
    session
        .add(&bytes::Bytes::from_static(b"of somebody else"))
        .unwrap();
    let error = client
        .invalidate(["c"])
        .session(&session)
        .await
        .unwrap_err();
    assert!(
        matches!(error, InvalidateError::SessionBehind { .. }),
        "{error}"
    );
}
