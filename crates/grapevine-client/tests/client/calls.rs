//! Registrations, listings and the admin calls.

use std::time::Duration;

use bytes::Bytes;
use grapevine_client::{BeginWriteError, CallError, Client, InvalidateError, Session, v1};
use tonic::Code;

use crate::fake::{Fake, Method, Reply};
use crate::support::patient;

fn registration(number: usize) -> v1::Registration {
    v1::Registration {
        address: format!("cart::{number}"),
        classes: vec![format!("carts/{number}")],
        ttl_ms: 1_000,
        lease: Bytes::new(),
    }
}

fn client(fake: &Fake) -> Client {
    patient(&fake.endpoint).build().unwrap()
}

#[tokio::test]
async fn registrations_are_listed_in_chunks_and_resumed() {
    let fake = Fake::unix();
    let client = client(&fake);
    let answer = client
        .register((0..3).map(registration).collect())
        .await
        .unwrap();
    assert_eq!((answer.accepted, answer.condemned), (3, Vec::new()));
    let batches: Vec<Vec<_>> = vec![
        vec![registration(3)],
        vec![registration(4), registration(5)],
    ];
    let summary = client
        .register_stream(tokio_stream::iter(batches))
        .await
        .unwrap();
    assert_eq!(summary.accepted, 3);

    let mut listing = client
        .list_addresses("carts", 4, Bytes::new())
        .await
        .unwrap();
    let first = listing.next_chunk().await.unwrap().unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(
        (&*first[0].class, &*first[0].address),
        ("carts/0", "cart::0")
    );
    listing.next_chunk().await.unwrap().unwrap();
    assert_eq!(listing.next_chunk().await.unwrap(), None);
    let rest = client
        .list_addresses("carts", 0, listing.resume_at().clone())
        .await
        .unwrap();
    let rest = rest.collect().await.unwrap();
    assert_eq!(
        rest.iter().map(|entry| &*entry.address).collect::<Vec<_>>(),
        ["cart::4", "cart::5"]
    );

    client.invalidate(["carts/2"]).await.unwrap();
    let classes = client
        .list_classes("", 0, Bytes::new())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert_eq!(classes[0].class, "carts/2");
}

#[tokio::test]
async fn malformed_calls_are_refused_here() {
    let fake = Fake::unix();
    let client = client(&fake);
    assert!(matches!(
        client.register(Vec::new()).await,
        Err(CallError::Invalid(_))
    ));
    assert!(matches!(
        client.register(vec![registration(1); 10_001]).await,
        Err(CallError::Invalid(_))
    ));
    assert!(matches!(
        client.list_addresses("", 0, Bytes::new()).await,
        Err(CallError::Invalid(_))
    ));
    assert!(matches!(
        client.list_classes("a//b", 0, Bytes::new()).await,
        Err(CallError::Invalid(_))
    ));
    assert!(matches!(
        client.watch(vec!["c"; 101]),
        Err(CallError::Invalid(_))
    ));
}

#[tokio::test]
async fn admin_calls_go_to_the_own_sidecar() {
    let mut fake = Fake::unix();
    let client = client(&fake);
    assert_eq!(client.status().await.unwrap().node_id, "fake");
    assert_eq!(client.members().await.unwrap().len(), 1);
    client.drain(None).await.unwrap();
    client.drain(Some(Duration::from_secs(2))).await.unwrap();
    client.drain(Some(Duration::from_micros(1))).await.unwrap();
    fake.stop();
    let error = client.status().await.unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Unreachable { .. } | CallError::Broken { .. }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_sidecar_without_room_for_registrations_is_asked_again_for_as_long_as_a_call_may_take() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint)
        .call_deadline(Duration::from_secs(5))
        .build()
        .unwrap();
    let full = Reply::NoRoom(Duration::from_millis(200));
    for _ in 0..3 {
        fake.state.next(Method::Register, full.clone());
    }
    client.register(vec![registration(1)]).await.unwrap();
    assert_eq!(fake.state.calls(Method::Register), 4);
    // Not beyond, and not where it is said to last.
    let longer = Reply::NoRoom(Duration::from_secs(4));
    fake.state.next(Method::Register, longer);
    let error = client.register(vec![registration(1)]).await.unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error}");
    assert_eq!(fake.state.calls(Method::Register), 5);
}

#[tokio::test]
async fn statements_are_explained_by_the_sidecar() {
    let fake = Fake::unix();
    let request = v1::ExplainRequest {
        sql: "SELECT 1".into(),
        ..v1::ExplainRequest::default()
    };
    let told = client(&fake).explain(request).await.unwrap();
    assert_eq!(told.tables, ["SELECT 1"]);
}

#[tokio::test]
async fn g5_registrations_listings_and_writes_that_begin_carry_their_session() {
    let fake = Fake::unix();
    let client = client(&fake);
    let outcome = client.invalidate(["carts/1"]).await.unwrap();
    let mut seen = Session::new();
    seen.add(&outcome.session_token).unwrap();
    let registrations = || vec![registration(1)];
    client.register_in(&seen, registrations()).await.unwrap();
    let batches = || tokio_stream::iter([registrations()]);
    client.register_stream_in(&seen, batches()).await.unwrap();
    client
        .list_addresses_in(&seen, "carts", 0, Bytes::new())
        .await
        .unwrap();
    client
        .list_classes_in(&seen, "carts", 0, Bytes::new())
        .await
        .unwrap();
    let write = client.begin_write(["carts/1"]).session(&seen);
    write.await.unwrap().abort().await.unwrap();

    let mut ahead = Session::new().wait(Duration::from_millis(5));
    ahead.add(&Bytes::from_static(b"of somebody else")).unwrap();
    let behind = |error: CallError| {
        assert!(matches!(error, CallError::SessionBehind { .. }), "{error}");
        assert!(!error.may_have_had_effect());
    };
    behind(
        client
            .register_in(&ahead, registrations())
            .await
            .unwrap_err(),
    );
    let stream = client.register_stream_in(&ahead, batches());
    behind(stream.await.unwrap_err());
    let addresses = client.list_addresses_in(&ahead, "carts", 0, Bytes::new());
    behind(addresses.await.unwrap_err());
    let classes = client.list_classes_in(&ahead, "carts", 0, Bytes::new());
    behind(classes.await.unwrap_err());
    let write = client.begin_write(["carts/1"]).session(&ahead);
    let error = write.await.unwrap_err();
    assert!(
        matches!(error, BeginWriteError::SessionBehind { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn g6_who_gave_up_waiting_for_a_disk_may_have_invalidated_all_the_same() {
    let fake = Fake::unix();
    let client = client(&fake);
    fake.state
        .next(Method::Invalidate, Reply::After(Code::DeadlineExceeded));
    let error = client.invalidate(["carts/1"]).await.unwrap_err();
    assert!(error.may_have_had_effect(), "{error}");
    assert!(
        matches!(error, InvalidateError::NoSidecar { .. }),
        "{error}"
    );
    assert_eq!(fake.state.bumps(), 1);
}
