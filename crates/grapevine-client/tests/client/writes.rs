//! Writes that are declared before their commit (G8): what is sent, who is asked, and what a guard does when it goes.

use std::time::Duration;

use grapevine_client::{
    AbortOutcome, BeginWriteError, CallError, Client, InvalidateError, Session, v1,
};
use tonic::Code;

use crate::fake::{Ended, Fake, Method, Reply};
use crate::invalidate::own_answers;
use crate::support::{patient, stop_the_clock, until_soon};

fn ended(fake: &Fake) -> Vec<Ended> {
    let writes = fake.state.writes.lock();
    writes.iter().map(|write| write.ended.clone()).collect()
}

#[tokio::test]
async fn g8_a_commit_bumps_what_was_begun() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let write = client
        .begin_write(["carts/1", "carts/2"])
        .match_all()
        .soft()
        .lease(Duration::from_secs(3))
        .timeout(Duration::from_millis(700))
        .await
        .unwrap();
    assert_eq!(write.intent().len(), 25);
    assert_eq!(write.lease(), Duration::from_secs(3));
    assert!(write.remaining() <= Duration::from_secs(3));
    assert_eq!(write.begun_by(), fake.endpoint);
    let begun = fake.state.writes.lock()[0].begun.clone();
    assert_eq!(begun.classes, ["carts/1", "carts/2"]);
    assert_eq!(begun.r#match(), v1::Match::All);
    assert_eq!(begun.purge(), v1::PurgeMode::Soft);
    assert_eq!((begun.lease_ms, begun.timeout_ms), (3_000, 700));
    let outcome = write.commit().receipt(v1::ReceiptLevel::All).await.unwrap();
    assert_eq!(outcome.event.sequence, 2);
    assert!(outcome.receipt.satisfied && !outcome.repeated);
    let [Ended::Committed(sent)] = &ended(&fake)[..] else {
        panic!("{:?}", ended(&fake));
    };
    assert_eq!(sent.classes, begun.classes);
    assert_eq!(sent.r#match(), v1::Match::All);
    assert_eq!(sent.purge(), v1::PurgeMode::Soft);
    assert_eq!(sent.receipt(), v1::ReceiptLevel::All);
}

#[tokio::test]
async fn g8_a_write_of_rows_begins_and_commits_by_rows() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let change = |table: &str| v1::RowChange {
        table: table.to_owned(),
        ..Default::default()
    };
    let dialect = v1::SqlDialect::Mysql;
    let begin = |table| client.begin_row_write(dialect, [change(table)]);
    let write = begin("items").soft().await.unwrap();
    let begun = fake.state.writes.lock()[0].begun.clone();
    assert_eq!(begun.changes, [change("items")]);
    assert_eq!(begun.dialect(), dialect);
    assert!(begun.classes.is_empty());
    write.commit().await.unwrap();
    let other = begin("items").await.unwrap();
    other.commit_rows(dialect, [change("bids")]).await.unwrap();
    let by_classes = client.begin_write(["carts/1"]).await.unwrap();
    let by_classes = by_classes.commit_rows(dialect, [change("carts")]);
    by_classes.await.unwrap();
    let [
        Ended::Committed(as_begun),
        Ended::Committed(as_written),
        Ended::Committed(_),
    ] = &ended(&fake)[..]
    else {
        panic!("{:?}", ended(&fake));
    };
    assert_eq!(as_begun.classes, ["items"]);
    assert_eq!(as_begun.purge(), v1::PurgeMode::Soft);
    assert_eq!(as_written.classes, ["bids"]);
    // Whatever it was begun with, it is told whose rules say which values are equal.
    let told = fake.state.row_commits.lock().clone();
    let dialects: Vec<_> = told.iter().map(v1::RowChangedRequest::dialect).collect();
    assert_eq!(dialects, [dialect; 3]);
    let none = client.begin_row_write(dialect, []).await.unwrap_err();
    assert!(none.to_string().contains("changes"), "{none}");
    let many = vec![change("items"); 33];
    let many = client.begin_row_write(dialect, many).await.unwrap_err();
    assert!(many.to_string().contains("changes"), "{many}");
    let all = begin("items").match_all().await.unwrap_err();
    assert!(all.to_string().contains("match_all"), "{all}");
}

#[tokio::test]
async fn g8_a_dropped_guard_leaves_the_write_open_for_nobody_knows_whether_it_was_committed() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    drop(client.begin_write(["c"]).await.unwrap());
    // A call behind it: whatever the guard had sent has arrived.
    client.invalidate(["d"]).await.unwrap();
    assert_eq!(ended(&fake), [Ended::Open]);
    assert_eq!(fake.state.calls(Method::Abort), 0);
}

#[tokio::test]
async fn g8_an_abort_tells_what_it_came_to() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let write = client.begin_write(["c"]).await.unwrap();
    let intent = write.intent().clone();
    assert_eq!(write.abort().await.unwrap(), AbortOutcome::NothingBumped);
    assert_eq!(ended(&fake), [Ended::Aborted]);
    // The same from another process.
    let again = client.abort_write(intent).await.unwrap();
    assert_eq!(again, AbortOutcome::NothingBumped);
    let unknown = client.abort_write(vec![9; 25]).await.unwrap();
    assert_eq!(unknown, AbortOutcome::Unknown);
    let write = client.begin_write(["c"]).await.unwrap();
    let intent = write.intent().clone();
    client.commit_write(intent.clone(), ["c"]).await.unwrap();
    let late = client.abort_write(intent).await.unwrap();
    assert!(matches!(late, AbortOutcome::Bumped { .. }), "{late:?}");
}

#[tokio::test]
async fn g8_a_commit_fails_over_with_its_classes() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    let write = client.begin_write(["c"]).await.unwrap();
    own.stop();
    let outcome = write.commit().await.unwrap();
    assert_eq!(&*outcome.answered_by, other.endpoint);
    assert_eq!(other.state.calls(Method::CommitWrite), 1);
    assert_eq!(outcome.event.sequence, 1);
}

#[tokio::test]
async fn g8_a_write_begun_elsewhere_ends_there_first() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    own.stop();
    let write = client.begin_write(["c"]).await.unwrap();
    assert_eq!(write.begun_by(), other.endpoint);
    let aborted = client.begin_write(["d"]).await.unwrap();
    own.start();
    own_answers(&client, &own).await;
    let outcome = write.commit().await.unwrap();
    assert_eq!(&*outcome.answered_by, other.endpoint);
    assert_eq!(aborted.abort().await.unwrap(), AbortOutcome::NothingBumped);
    assert_eq!(own.state.calls(Method::CommitWrite), 0);
    assert_eq!(own.state.calls(Method::Abort), 0);
}

#[tokio::test]
async fn g8_a_write_that_nobody_begins_is_a_typed_error() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    own.stop();
    other
        .state
        .next(Method::Begin, Reply::Status(Code::ResourceExhausted));
    let error = client.begin_write(["c"]).await.unwrap_err();
    let BeginWriteError::NoSidecar { attempts } = &error else {
        panic!("{error}");
    };
    assert!(matches!(attempts[0], CallError::Unreachable { .. }));
    assert!(matches!(attempts[1], CallError::Overloaded { .. }));
    let error = client.begin_write(["forbidden"]).await.unwrap_err();
    assert!(matches!(error, BeginWriteError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn what_no_sidecar_would_take_is_refused_before_anybody_is_asked() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let none: [&str; 0] = [];
    for call in [
        client.begin_write(none),
        client.begin_write(["a//b"]),
        client.begin_write(["a"]).match_all(),
        client.begin_write(["a"]).lease(Duration::from_millis(99)),
        client.begin_write(["a"]).lease(Duration::from_secs(601)),
        client.begin_write(["a"]).timeout(Duration::ZERO),
    ] {
        let error = call.await.unwrap_err();
        assert!(matches!(error, BeginWriteError::Invalid(_)), "{error}");
    }
    assert_eq!(fake.state.calls(Method::Begin), 0);
}

#[tokio::test]
async fn g8_the_lease_counts_from_before_the_call() {
    let fake = Fake::unix();
    let client = Client::builder(&fake.endpoint).build().unwrap();
    stop_the_clock();
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    fake.state
        .next(Method::Begin, Reply::Hold(std::sync::Arc::clone(&permits)));
    let lease = Duration::from_secs(4);
    let call = tokio::spawn(client.begin_write(["c"]).lease(lease).send());
    until_soon("it is asked", || fake.state.calls(Method::Begin) == 1).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    permits.add_permits(1);
    let write = call.await.unwrap().unwrap();
    assert!(write.remaining() <= Duration::from_secs(3));
    tokio::time::advance(lease).await;
    assert_eq!(write.remaining(), Duration::ZERO);
    // It commits all the same.
    assert_eq!(write.commit().await.unwrap().event.sequence, 1);
}

#[tokio::test]
async fn g8_a_commit_that_nobody_answered_is_an_error_that_may_have_had_an_effect() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let write = client.begin_write(["c"]).await.unwrap();
    for _ in 0..2 {
        let answer = Reply::After(Code::Unknown);
        fake.state.next(Method::CommitWrite, answer);
    }
    let error = write.commit().session(&Session::new()).await.unwrap_err();
    assert!(
        matches!(error, InvalidateError::NoSidecar { .. }),
        "{error}"
    );
    assert!(error.may_have_had_effect());
}
