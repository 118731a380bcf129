//! Dependencies found during a fill.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use grapevine_client::{CachedClient, Fill, GetOutcome, How};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::fake::{Method, Reply};
use crate::support::{setup, until};

async fn get(
    cached: &CachedClient,
    class: &str,
    found: &[&str],
    value: &'static str,
) -> GetOutcome {
    let fill = |fill: Fill| {
        for class in found {
            fill.depends_on(*class);
        }
        async move { Ok::<_, Infallible>(Bytes::from_static(value.as_bytes())) }
    };
    cached
        .get_or_fill("total::13", &[class], None, fill)
        .await
        .unwrap()
}

#[tokio::test]
async fn g3_a_bump_of_a_dependency_makes_the_value_stale() {
    let setup = setup();
    for class in ["versioned/13", "registered/13", "bucketed/13"] {
        let first = get(&setup.cached, class, &["prices/7", "prices/9"], "10").await;
        assert_eq!((first.how, first.stored), (How::Filled, true), "{class}");
        assert_eq!(
            get(&setup.cached, class, &[], "11").await.how,
            How::Hit,
            "{class}"
        );
        setup.fake.state.bump("unrelated");
        assert_eq!(
            get(&setup.cached, class, &[], "11").await.how,
            How::Hit,
            "{class}"
        );
        for bumped in ["prices/9", "prices"] {
            setup.fake.state.bump(bumped);
            let next = get(&setup.cached, class, &["prices/7", "prices/9"], "12").await;
            assert_eq!(
                (&next.value[..], next.how),
                (&b"12"[..], How::Filled),
                "{class} {bumped}"
            );
            assert_eq!(
                get(&setup.cached, class, &[], "13").await.how,
                How::Hit,
                "{class} {bumped}"
            );
        }
    }
    let committed = setup.fake.state.committed.lock();
    assert_eq!(committed.len(), 9);
    assert_eq!(committed[0].added_classes, ["prices/7", "prices/9"]);
}

#[tokio::test]
async fn g3_a_dependency_bumped_during_the_fill_condemns_it() {
    let setup = setup();
    let state = Arc::clone(&setup.fake.state);
    let fill = |fill: Fill| async move {
        state.bump("prices/7");
        fill.depends_on("prices/7");
        Ok::<_, Infallible>(Bytes::from_static(b"old"))
    };
    let outcome = setup
        .cached
        .get_or_fill("total::13", &["versioned/13"], None, fill)
        .await
        .unwrap();
    assert_eq!((&outcome.value[..], outcome.stored), (&b"old"[..], false));
    assert_eq!(setup.cached.stats().condemned, 1);
    assert_eq!(setup.cache.len(), 0);
}

#[tokio::test]
async fn dependencies_named_twice_or_known_already_count_once() {
    let setup = setup();
    let outcome = get(&setup.cached, "versioned/13", &["versioned/13"], "10").await;
    assert!(outcome.stored);
    assert_eq!(setup.fake.state.calls(Method::Commit), 0);
    setup.fake.state.bump("versioned/13");
    get(
        &setup.cached,
        "versioned/13",
        &["prices/7", "prices/7"],
        "10",
    )
    .await;
    assert_eq!(
        setup.fake.state.committed.lock()[0].added_classes,
        ["prices/7"]
    );
}

#[tokio::test]
async fn g10_dependencies_that_cannot_be_kept_are_not_forgotten_but_not_stored() {
    let setup = setup();
    let many: Vec<String> = (0..16).map(|number| format!("prices/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for found in [&many[..], &["not a class"], &["a//b"]] {
        let outcome = get(&setup.cached, "versioned/13", found, "10").await;
        assert_eq!(
            (outcome.how, outcome.stored),
            (How::Filled, false),
            "{found:?}"
        );
    }
    assert_eq!(setup.cached.stats().bad_dependencies, 3);
    assert!(
        get(&setup.cached, "versioned/13", &many[..15], "10")
            .await
            .stored
    );
    assert_eq!(
        get(&setup.cached, "versioned/13", &[], "10").await.how,
        How::Hit
    );
}

/// Starts a fill that depends on `prices/7` and waits inside; gives its task and the permit it waits for.
async fn leader(cached: &CachedClient) -> (tokio::task::JoinHandle<GetOutcome>, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&permits);
    let client = cached.clone();
    let fills = cached.stats().fills;
    let task = tokio::spawn(async move {
        let fill = |fill: Fill| async move {
            fill.depends_on("prices/7");
            waits.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Bytes::from_static(b"of the leader"))
        };
        client
            .get_or_fill("total::13", &["versioned/13"], None, fill)
            .await
            .unwrap()
    });
    until("the leader fills", || cached.stats().fills > fills).await;
    (task, permits)
}

#[tokio::test]
async fn g3_who_waited_does_not_get_a_value_whose_dependency_changed_before_it_asked() {
    let setup = setup();
    let (task, permits) = leader(&setup.cached).await;
    // The leader has read the price; now it changes, and only then does the other caller ask.
    setup.fake.state.bump("prices/7");
    let misses = setup.cached.stats().misses;
    let cached = setup.cached.clone();
    let waiter =
        tokio::spawn(
            async move { get(&cached, "versioned/13", &["prices/7"], "of the waiter").await },
        );
    until("the waiter missed", || setup.cached.stats().misses > misses).await;
    permits.add_permits(1);
    assert_eq!(&task.await.unwrap().value[..], b"of the leader");
    let outcome = waiter.await.unwrap();
    assert_eq!(
        (&outcome.value[..], outcome.how),
        (&b"of the waiter"[..], How::Filled)
    );
}

#[tokio::test]
async fn g3_a_value_that_is_being_stored_is_checked_by_who_comes_then() {
    let setup = setup();
    let storing = Arc::new(Semaphore::new(0));
    *setup.cache.write_permits.lock() = Some(Arc::clone(&storing));
    let (task, permits) = leader(&setup.cached).await;
    permits.add_permits(1);
    until("the leader stores", || {
        setup.cache.writes_begun.load(Ordering::SeqCst) == 1
    })
    .await;
    // Its fill was accepted, everybody may have its value; and now that becomes stale.
    let joined = get(&setup.cached, "versioned/13", &[], "not this one").await;
    assert_eq!(
        (&joined.value[..], joined.how),
        (&b"of the leader"[..], How::Waited)
    );
    setup.fake.state.bump("prices/7");
    *setup.cache.write_permits.lock() = None;
    let late = get(&setup.cached, "versioned/13", &["prices/7"], "new").await;
    assert_eq!((&late.value[..], late.how), (&b"new"[..], How::Filled));
    storing.add_permits(1);
    task.await.unwrap();
    assert_eq!(
        &get(&setup.cached, "versioned/13", &["prices/7"], "newest")
            .await
            .value[..],
        b"newest"
    );
}

#[tokio::test]
async fn who_waited_gets_a_value_whose_dependencies_hold() {
    let setup = setup();
    let (task, permits) = leader(&setup.cached).await;
    let misses = setup.cached.stats().misses;
    let cached = setup.cached.clone();
    let waiter =
        tokio::spawn(async move { get(&cached, "versioned/13", &[], "of the waiter").await });
    until("the waiter missed", || setup.cached.stats().misses > misses).await;
    permits.add_permits(1);
    task.await.unwrap();
    let outcome = waiter.await.unwrap();
    assert_eq!(
        (&outcome.value[..], outcome.how),
        (&b"of the leader"[..], How::Waited)
    );
}

#[tokio::test]
async fn a_look_up_of_dependencies_that_fails_makes_the_read_a_bypass() {
    let setup = setup();
    get(&setup.cached, "versioned/13", &["prices/7"], "10").await;
    // The look-up itself is answered, the one for the dependencies is not.
    setup
        .fake
        .state
        .next(Method::Resolve, Reply::Hold(Arc::new(Semaphore::new(1))));
    setup
        .fake
        .state
        .next(Method::Resolve, Reply::Status(Code::ResourceExhausted));
    let outcome = get(&setup.cached, "versioned/13", &["prices/7"], "11").await;
    assert!(matches!(outcome.how, How::Bypassed(_)), "{outcome:?}");
    assert_eq!(&outcome.value[..], b"11");
}
