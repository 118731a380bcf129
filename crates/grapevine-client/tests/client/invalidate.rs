//! Invalidations: what is sent, and who is asked when the own sidecar does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use grapevine_client::{CallError, Client, InvalidateError, InvalidateOutcome, Session, v1};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::fake::{Fake, Method, Reply};
use crate::support::{PATIENT, patient, stop_the_clock, until, until_soon};

/// Writes until the own sidecar takes it.
pub(crate) async fn own_answers(client: &Client, own: &Fake) {
    let deadline = Instant::now() + PATIENT;
    while *client.invalidate(["c"]).await.unwrap().answered_by != *own.endpoint {
        assert!(
            Instant::now() < deadline,
            "the own sidecar is never asked again"
        );
    }
}

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
async fn it_fails_over_when_the_own_sidecar_is_gone() {
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
}

#[tokio::test]
async fn a_client_that_only_writes_returns_to_its_own_sidecar() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    own.stop();
    let outcome = client.invalidate(["c"]).await.unwrap();
    assert_eq!(&*outcome.answered_by, other.endpoint);
    own.start();
    own_answers(&client, &own).await;
    assert_eq!(client.stats().resolve_rpcs, 0);
    let failovers = client.stats().invalidate_failovers;
    for _ in 0..10 {
        client.invalidate(["c"]).await.unwrap();
    }
    assert_eq!(client.stats().invalidate_failovers, failovers);
}

#[tokio::test]
async fn of_many_writers_one_at_a_time_finds_out_whether_a_sidecar_still_hangs() {
    let (own, other) = (Fake::unix(), Fake::tcp());
    let pause = Duration::from_mins(1);
    let client = Client::builder(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .backoff(pause, pause)
        .build()
        .unwrap();
    stop_the_clock();
    for _ in 0..10 {
        own.state.next(Method::Invalidate, Reply::Hang);
    }
    // Three deadlines in a row close the gate.
    for times in 1..=3 {
        let call = tokio::spawn(client.invalidate(["c"]).send());
        until_soon("the own one is asked", || {
            own.state.calls(Method::Invalidate) == times
        })
        .await;
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(call.await.unwrap().unwrap().repeated);
    }
    tokio::time::advance(pause).await;
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(client.invalidate(["c"]).send()))
        .collect();
    // The own one may be asked after that: it is another server.
    until_soon("the others went elsewhere at once", || {
        let went = calls.iter().filter(|call| call.is_finished()).count() == 49;
        went && own.state.calls(Method::Invalidate) == 4
    })
    .await;
    tokio::time::advance(Duration::from_secs(7)).await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
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

/// Makes the sidecar do the invalidation, and ends it before it answers.
async fn done_and_killed(
    client: &Client,
    own: &mut Fake,
) -> Result<InvalidateOutcome, InvalidateError> {
    own.state.next(Method::Invalidate, Reply::AfterHang);
    let bumps = own.state.bumps();
    let call = tokio::spawn(client.invalidate(["c"]).send());
    until("it is done", || own.state.bumps() > bumps).await;
    own.stop();
    call.await.unwrap()
}

#[tokio::test]
async fn g6_what_a_sidecar_did_before_it_was_killed_is_not_forgotten() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint).build().unwrap();
    let error = done_and_killed(&client, &mut own).await.unwrap_err();
    assert!(error.may_have_had_effect(), "{error}");
    let InvalidateError::NoSidecar { attempts } = error else {
        panic!("{error}");
    };
    assert!(
        matches!(
            &*attempts,
            [CallError::Broken { .. }, CallError::Unreachable { .. }]
        ),
        "{attempts:?}"
    );

    own.start();
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    let outcome = done_and_killed(&client, &mut own).await.unwrap();
    assert_eq!(&*outcome.answered_by, other.endpoint);
    assert!(outcome.repeated);
}

#[tokio::test]
async fn g6_a_second_try_at_the_same_sidecar_is_a_repetition() {
    let own = Fake::unix();
    let client = patient(&own.endpoint).build().unwrap();
    // What a sidecar says that stopped with the command in hand, and what it might say.
    for code in [Code::Unknown, Code::Aborted] {
        own.state.next(Method::Invalidate, Reply::After(code));
        let outcome = client.invalidate(["c"]).await.unwrap();
        assert!(outcome.repeated, "{code:?}");
    }
    assert_eq!(own.state.bumps(), 4);
    assert!(!client.invalidate(["c"]).await.unwrap().repeated);
    // A refusal after it says nothing about it.
    own.state
        .next(Method::Invalidate, Reply::After(Code::Unknown));
    own.state
        .next(Method::Invalidate, Reply::Status(Code::PermissionDenied));
    let error = client.invalidate(["c"]).await.unwrap_err();
    assert!(error.may_have_had_effect(), "{error}");
}

#[tokio::test]
async fn the_second_try_has_what_the_first_one_left() {
    let own = Fake::unix();
    let client = Client::builder(&own.endpoint)
        .invalidate_timeout(Duration::from_secs(4))
        .invalidate_slack(Duration::from_secs(1))
        .build()
        .unwrap();
    stop_the_clock();
    let began = tokio::time::Instant::now();
    let hold = Arc::new(Semaphore::new(0));
    for reply in [
        Reply::HoldAfter(Arc::clone(&hold), Code::Unknown),
        Reply::Hang,
    ] {
        own.state.next(Method::Invalidate, reply);
    }
    let call = tokio::spawn(client.invalidate(["c"]).send());
    let asked = |times| {
        let state = Arc::clone(&own.state);
        until_soon("it is asked", move || {
            state.calls(Method::Invalidate) == times
        })
    };
    asked(1).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    hold.add_permits(1);
    asked(2).await;
    // Timers go by whole milliseconds.
    tokio::time::advance(Duration::from_millis(2_001)).await;
    until_soon("its time is over", || call.is_finished()).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 5, "{error}");
    let InvalidateError::NoSidecar { attempts } = error else {
        panic!("{error}");
    };
    assert!(
        matches!(
            &*attempts,
            [CallError::Broken { .. }, CallError::Deadline { .. }]
        ),
        "{attempts:?}"
    );
    let timeouts = own.state.receipt_timeouts.lock();
    assert!(timeouts[0] == 4_000 && timeouts[1] <= 1_000, "{timeouts:?}");
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
        own_answers(&client, &own).await;
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

#[tokio::test]
async fn g5_a_write_that_the_own_sidecar_cannot_place_goes_to_one_that_has_seen_the_session() {
    let (own, mut other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    let issuer = patient(&other.endpoint).build().unwrap();
    let mut session = Session::new();
    let written = issuer.invalidate(["c"]).await.unwrap();
    session.add(&written.session_token).unwrap();
    let outcome = client.invalidate(["c"]).session(&session).await.unwrap();
    assert_eq!(
        (&*outcome.answered_by, outcome.repeated),
        (&*other.endpoint, false)
    );
    assert_eq!((own.state.bumps(), other.state.bumps()), (0, 2));

    // The one that has it is away: that the other one is behind is not the whole reason.
    other.stop();
    let error = client
        .invalidate(["c"])
        .session(&session)
        .await
        .unwrap_err();
    assert!(!error.may_have_had_effect());
    let InvalidateError::NoSidecar { attempts } = error else {
        panic!("{error}");
    };
    assert!(
        attempts
            .iter()
            .any(|error| matches!(error, CallError::SessionBehind { .. })),
        "{attempts:?}"
    );

    // Both answer, and neither has it.
    other.start();
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

#[tokio::test]
async fn g3_rows_that_changed_are_told_with_the_same_care_as_classes() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    let change = v1::RowChange {
        table: "items".to_owned(),
        ..Default::default()
    };
    let sqlite = v1::SqlDialect::Sqlite;
    let outcome = client.row_changed(sqlite, [change.clone()]).await.unwrap();
    assert_eq!(&*outcome.answered_by, own.endpoint);
    let mut session = Session::new();
    session.add(&outcome.session_token).unwrap();
    let rows = v1::RowsWhere {
        table: "items".to_owned(),
        ..Default::default()
    };
    let outcome = client.invalidate_where(sqlite, [rows]).session(&session);
    outcome.await.unwrap();
    own.stop();
    let sql = client.invalidate_by_sql(sqlite, "DELETE FROM items", []);
    assert_eq!(&*sql.await.unwrap().answered_by, other.endpoint);
    assert_eq!((own.state.bumps(), other.state.bumps()), (2, 1));
    let many = client.row_changed(sqlite, vec![change.clone(); 33]);
    for wrong in [many, client.row_changed(sqlite, [change]).match_all()] {
        let error = wrong.await.unwrap_err();
        assert!(matches!(error, InvalidateError::Invalid(_)), "{error}");
    }
}
