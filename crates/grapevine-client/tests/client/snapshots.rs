//! Fills that read inside a database snapshot (G3).

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use grapevine_client::{BypassReason, CachedClient, Fill, How, PageFill, Snapshot};
use tokio::sync::Notify;
use tonic::Code;

use crate::fake::{Method, Reply};
use crate::support::{PATIENT, setup, until};

const FENCED: [&str; 3] = ["versioned", "registered", "bucketed"];
const FORBIDDEN: How = How::Bypassed(BypassReason::Snapshot);

async fn get(cached: &CachedClient, class: &str, value: &'static str) -> (Bytes, How, bool) {
    let fill = |_: Fill| async move { Ok::<_, Infallible>(Bytes::from_static(value.as_bytes())) };
    let got = cached.get_or_fill("cart::13", &[class], None, fill).await;
    let got = got.unwrap();
    (got.value, got.how, got.stored)
}

#[tokio::test]
async fn g3_a_fill_inside_a_database_snapshot_that_is_no_longer_current_is_not_stored() {
    let setup = setup();
    let client = setup.cached.client();
    for strategy in FENCED {
        let class = format!("{strategy}/13");
        let snapshot = client.open_snapshot().await.unwrap();
        assert!(!snapshot.remaining().is_zero());
        // The database's snapshot begins here; then the row changes, and the look-up comes last.
        client.invalidate([class.as_str()]).await.unwrap();
        let inside = setup.cached.in_snapshot(&snapshot);
        let old = get(&inside, &class, "old").await;
        assert_eq!(old, ("old".into(), FORBIDDEN, false), "{strategy}");
        let next = get(&setup.cached, &class, "new").await;
        assert_eq!(next, ("new".into(), How::Filled, true), "{strategy}");
        // What is current may be served inside of it, too.
        let hit = get(&inside, &class, "old").await;
        assert_eq!(hit, ("new".into(), How::Hit, false), "{strategy}");

        // The control: without the snapshot the old value would be stored as current.
        client.invalidate([class.as_str()]).await.unwrap();
        let control = get(&setup.cached, &class, "old").await;
        assert_eq!(control, ("old".into(), How::Filled, true), "{strategy}");
        client.invalidate([class.as_str()]).await.unwrap();

        // One that is current still is as good as none.
        let snapshot = client.open_snapshot().await.unwrap();
        let inside = setup.cached.in_snapshot(&snapshot);
        let filled = get(&inside, &class, "newest").await;
        assert_eq!(filled, ("newest".into(), How::Filled, true), "{strategy}");
    }
    assert_eq!(setup.cached.stats().bypass_snapshot, 3);
}

#[tokio::test]
async fn g3_a_snapshot_that_the_sidecar_does_not_know_is_served_and_stores_nothing() {
    let setup = setup();
    setup
        .fake
        .state
        .next(Method::OpenSnapshot, Reply::Status(Code::Unimplemented));
    let failed = setup.cached.client().open_snapshot().await;
    assert!(failed.is_err());
    let unknown = setup.cached.in_snapshot(&failed.unwrap_or_default());
    for strategy in ["versioned", "registered", "bucketed", "ttl"] {
        let class = format!("{strategy}/13");
        let missed = get(&unknown, &class, "apples").await;
        assert_eq!(missed, ("apples".into(), FORBIDDEN, false), "{strategy}");
        get(&setup.cached, &class, "pears").await;
        let hit = get(&unknown, &class, "apples").await;
        assert_eq!(hit, ("pears".into(), How::Hit, false), "{strategy}");
    }
    assert!(Snapshot::default().remaining().is_zero());
}

#[tokio::test]
async fn g3_a_dependency_that_changed_since_the_snapshot_was_opened_condemns_the_fill() {
    let setup = setup();
    let client = setup.cached.client();
    let snapshot = client.open_snapshot().await.unwrap();
    client.invalidate(["prices/9"]).await.unwrap();
    let fill = |fill: Fill| async move {
        fill.depends_on("prices/9");
        Ok::<_, Infallible>(Bytes::from_static(b"old"))
    };
    let inside = setup.cached.in_snapshot(&snapshot);
    let got = inside
        .get_or_fill("cart::13", &["versioned/13"], None, fill)
        .await
        .unwrap();
    assert_eq!((got.how, got.stored), (How::Filled, false));
    assert_eq!((setup.cached.stats().condemned, setup.cache.len()), (1, 0));
}

#[tokio::test]
async fn g3_who_waits_outside_is_not_given_what_an_old_snapshot_shows() {
    let setup = setup();
    let client = setup.cached.client();
    let snapshot = client.open_snapshot().await.unwrap();
    client.invalidate(["versioned/13"]).await.unwrap();
    let inside = setup.cached.in_snapshot(&snapshot);
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes_on) = (Arc::clone(&begun), Arc::clone(&go_on));
    let task = tokio::spawn(async move {
        let fill = |_: Fill| async move {
            begins.notify_one();
            goes_on.notified().await;
            Ok::<_, Infallible>(Bytes::from_static(b"old"))
        };
        let got = inside.get_or_fill("cart::13", &["versioned/13"], None, fill);
        got.await.unwrap().how
    });
    begun.notified().await;
    // Nobody waits for it.
    let outside = tokio::time::timeout(PATIENT, get(&setup.cached, "versioned/13", "new")).await;
    assert_eq!(outside, Ok(("new".into(), How::Filled, true)));
    go_on.notify_one();
    assert_eq!(task.await.unwrap(), FORBIDDEN);
    until("the new value is kept", || setup.cache.len() == 1).await;
}

#[tokio::test]
async fn g3_a_slice_of_an_old_snapshot_is_read_as_a_whole_from_it() {
    let setup = setup();
    let client = setup.cached.client();
    let items = |page: &PageFill, tag: &str| -> Vec<Bytes> {
        let end = page.offset + u64::from(page.limit);
        let names = (page.offset..end).map(|index| format!("{tag}{index}").into());
        names.collect()
    };
    let snapshot = client.open_snapshot().await.unwrap();
    client.invalidate(["paged/13"]).await.unwrap();
    let read = async |cached: &CachedClient, tag: &'static str, offset, limit| {
        let fill = |page: PageFill| async move { Ok::<_, Infallible>(items(&page, tag)) };
        let got = cached.get_or_fill_page("list", &["paged/13"], offset, limit, None, fill);
        got.await.unwrap()
    };
    // The first page is current, the second one is missing: pages of two ages are not put together.
    read(&setup.cached, "new", 0, 10).await;
    let inside = setup.cached.in_snapshot(&snapshot);
    let slice = read(&inside, "old", 5, 10).await;
    assert_eq!((slice.how, slice.stored), (FORBIDDEN, 0));
    assert!(slice.items.iter().all(|item| item.starts_with(b"old")));
    assert_eq!(slice.items.len(), 10);
}
