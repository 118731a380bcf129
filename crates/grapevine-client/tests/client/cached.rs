//! Cached reads: the fence, the envelope, and what is stored.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use grapevine_cache::Cache as _;
use grapevine_client::{CachedClient, Envelope, Fill, GetError, GetOutcome, How, Session};
use tokio::sync::{Notify, Semaphore};
use tonic::Code;

use crate::fake::{Method, POLICY_TTL, Reply};
use crate::support::{Setup, setup, stop_the_clock, until};

const STRATEGIES: [&str; 4] = ["versioned", "registered", "bucketed", "ttl"];
/// Those that bumps concern.
const FENCED: [&str; 3] = ["versioned", "registered", "bucketed"];

async fn get(cached: &CachedClient, address: &str, class: &str, value: &'static str) -> GetOutcome {
    let fill = |_: Fill| async move { Ok::<_, Infallible>(Bytes::from_static(value.as_bytes())) };
    cached
        .get_or_fill(address, &[class], None, fill)
        .await
        .unwrap()
}

/// The one address that the cache holds for `address` and `class`.
async fn target(setup: &Setup, address: &str, class: &str) -> String {
    let resolved = setup
        .cached
        .client()
        .resolve_one(address, &[class], None)
        .await
        .unwrap();
    resolved.resolution.targets[0].address.clone()
}

#[tokio::test]
async fn the_first_read_fills_and_the_second_hits() {
    let setup = setup();
    for strategy in STRATEGIES {
        let class = format!("{strategy}/13");
        let address = format!("{strategy}_cart::13");
        let first = get(&setup.cached, &address, &class, "apples").await;
        assert_eq!((first.how, first.stored), (How::Filled, true), "{strategy}");
        let second = get(&setup.cached, &address, &class, "pears").await;
        assert_eq!(
            (&second.value[..], second.how, second.stored),
            (&b"apples"[..], How::Hit, false),
            "{strategy}"
        );
        assert_eq!(second.token, first.token);
    }
    let stats = setup.cached.stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.fills, stats.stored),
        (4, 4, 4, 4)
    );
    assert_eq!(stats.bypasses() + stats.cache_errors() + stats.condemned, 0);
    assert_eq!(stats.named()[0], ("hits", 4));
    // A directory entry was asked for where the policy wants one, and nowhere else.
    let committed = setup.fake.state.committed.lock();
    assert_eq!(committed.len(), 1);
    assert_eq!(
        (&*committed[0].address, &*committed[0].classes[0]),
        ("registered_cart::13", "registered/13")
    );
    assert_eq!(
        committed[0].ttl_ms,
        u64::try_from(POLICY_TTL.as_millis()).unwrap()
    );
}

#[tokio::test]
async fn g3_a_bumped_value_is_not_served() {
    let setup = setup();
    for strategy in FENCED {
        for bumped in [format!("{strategy}/13"), strategy.to_owned()] {
            let class = format!("{strategy}/13");
            get(&setup.cached, "cart::13", &class, "old").await;
            setup.cached.client().invalidate([bumped]).await.unwrap();
            let next = get(&setup.cached, "cart::13", &class, "new").await;
            assert_eq!(
                (&next.value[..], next.how),
                (&b"new"[..], How::Filled),
                "{strategy}"
            );
            setup.fake.state.bump(strategy);
        }
    }
}

#[tokio::test]
async fn g3_a_fill_that_a_bump_overtook_is_given_to_its_caller_and_to_nobody_else() {
    let setup = setup();
    for strategy in FENCED {
        let class = format!("{strategy}/13");
        let state = Arc::clone(&setup.fake.state);
        let bumped = class.clone();
        let fill = move |_: Fill| async move {
            // The read has begun, the row changes, the read ends with the old row.
            state.bump(&bumped);
            Ok::<_, Infallible>(Bytes::from_static(b"old"))
        };
        let first = setup
            .cached
            .get_or_fill("cart::13", &[&class], None, fill)
            .await
            .unwrap();
        assert_eq!((&first.value[..], first.how), (&b"old"[..], How::Filled));
        assert_eq!(first.stored, strategy != "registered", "{strategy}");
        let next = get(&setup.cached, "cart::13", &class, "new").await;
        assert_eq!(
            (&next.value[..], next.how),
            (&b"new"[..], How::Filled),
            "{strategy}"
        );
        assert_eq!(
            get(&setup.cached, "cart::13", &class, "newer").await.how,
            How::Hit,
            "{strategy}"
        );
    }
    assert_eq!(setup.cached.stats().condemned, 1);
}

#[tokio::test]
async fn g3_a_late_set_that_lands_after_bump_and_refill_is_not_served() {
    let setup = setup();
    for strategy in FENCED {
        let class = format!("{strategy}/13");
        let permits = Arc::new(Semaphore::new(0));
        *setup.cache.write_permits.lock() = Some(Arc::clone(&permits));
        let begun = setup.cache.writes_begun.load(Ordering::SeqCst);
        let (cached, slow_class) = (setup.cached.clone(), class.clone());
        let slow = tokio::spawn(async move { get(&cached, "cart::13", &slow_class, "old").await });
        // It read the old value, and was allowed to store it where that had to be asked.
        until("the slow fill is being stored", || {
            setup.cache.writes_begun.load(Ordering::SeqCst) > begun
        })
        .await;
        setup.fake.state.bump(&class);
        *setup.cache.write_permits.lock() = None;

        // Another process refills at once, and then the old value lands.
        let other = CachedClient::new(setup.cached.client().clone(), Arc::clone(&setup.cache) as _);
        assert_eq!(
            get(&other, "cart::13", &class, "new").await.how,
            How::Filled
        );
        permits.add_permits(1);
        assert!(slow.await.unwrap().stored);

        let read = get(&other, "cart::13", &class, "newest").await;
        let expected = if strategy == "versioned" {
            "new"
        } else {
            "newest"
        };
        assert_eq!(read.value, expected, "{strategy}");
        assert_eq!(
            get(&other, "cart::13", &class, "never").await.how,
            How::Hit,
            "{strategy}"
        );
    }
}

#[tokio::test]
async fn a_ttl_value_is_served_until_its_ttl_whatever_is_bumped() {
    let setup = setup();
    let fill = |fill: Fill| async move {
        fill.depends_on("prices");
        Ok::<_, Infallible>(Bytes::from_static(b"apples"))
    };
    let first = setup
        .cached
        .get_or_fill("cart::13", &["ttl/13"], None, fill)
        .await
        .unwrap();
    assert_eq!((first.how, first.stored), (How::Filled, true));
    setup.fake.state.bump("ttl");
    setup.fake.state.bump("prices");
    assert_eq!(
        get(&setup.cached, "cart::13", "ttl/13", "pears").await.how,
        How::Hit
    );
    assert_eq!(setup.fake.state.calls(Method::Commit), 0);
}

#[tokio::test]
async fn a_value_lives_from_its_look_up_and_not_from_its_store() {
    let setup = setup();
    let ttl = Duration::from_millis(20);
    let fill = |_: Fill| async move {
        tokio::time::sleep(ttl).await;
        Ok::<_, Infallible>(Bytes::from_static(b"old already"))
    };
    for class in ["ttl/13", "versioned/13"] {
        let outcome = setup
            .cached
            .get_or_fill("cart::13", &[class], Some(ttl), fill)
            .await
            .unwrap();
        assert_eq!((outcome.how, outcome.stored), (How::Filled, false));
    }
    assert_eq!(setup.cache.len(), 0);
}

#[tokio::test]
async fn a_value_ends_with_its_ttl_in_a_cache_that_counts_in_seconds() {
    let setup = setup();
    *setup.cache.ttl_grain.lock() = Duration::from_secs(1);
    stop_the_clock();
    let age = async |class: &str, ttl_ms: u64| {
        let begun = tokio::time::Instant::now();
        let fill = |_: Fill| async {
            tokio::time::advance(Duration::from_millis(600)).await;
            Ok::<_, Infallible>(Bytes::from_static(b"slowly read"))
        };
        let ttl = Some(Duration::from_millis(ttl_ms));
        let classes = [class];
        let read = setup.cached.get_or_fill("cart::13", &classes, ttl, fill);
        assert_eq!(read.await.unwrap().how, How::Filled);
        let target = target(&setup, "cart::13", class).await;
        while setup.cache.get(&target).await.unwrap().is_some() {
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        begun.elapsed().as_millis()
    };
    for class in ["ttl/13", "versioned/13", "registered/13", "bucketed/13"] {
        // Of 1,000 ms there are 400 left when it is stored, of 3,000 ms there are 2,400.
        assert_eq!(age(class, 1_000).await, 600, "{class}: it is not stored");
        assert_eq!(age(class, 1_599).await, 600, "{class}: it is not stored");
        assert_eq!(age(class, 1_600).await, 1_600, "{class}");
        assert_eq!(
            age(class, 3_000).await,
            2_600,
            "{class}: down to whole ones"
        );
    }
    assert_eq!(setup.cached.stats().too_short_to_store, 8);
}

#[tokio::test]
async fn g3_a_commit_without_an_answer_stores_nothing() {
    let setup = setup();
    for reply in [
        Reply::Status(Code::Unavailable),
        Reply::Status(Code::FailedPrecondition),
    ] {
        setup.fake.state.next(Method::Commit, reply);
        let outcome = get(&setup.cached, "cart::13", "registered/13", "apples").await;
        assert_eq!((outcome.how, outcome.stored), (How::Filled, false));
        while setup
            .cached
            .client()
            .resolve_one("a", &["registered"], None)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(setup.cached.stats().commit_failures, 2);
    assert_eq!(setup.cache.len(), 0);
}

#[tokio::test]
async fn g3_what_does_not_carry_the_token_or_the_address_is_a_miss() {
    let setup = setup();
    let (address, class) = ("cart::13", "registered/13");
    let token = get(&setup.cached, address, class, "apples")
        .await
        .token
        .unwrap();
    let key = target(&setup, address, class).await;
    let envelope = |token, address: &str| Envelope {
        token,
        address: address.to_owned(),
        dependencies: None,
        value: Bytes::from_static(b"wrong"),
    };
    let wrong = [
        envelope(token ^ 1, address).encode().unwrap(),
        envelope(token, "cart::14").encode().unwrap(),
        envelope(token, address).encode().unwrap().slice(..12),
        Bytes::from_static(b"wrong"),
        Bytes::new(),
    ];
    for (index, stored) in wrong.into_iter().enumerate() {
        setup
            .cache
            .set(&key, stored, Duration::from_mins(1))
            .await
            .unwrap();
        let outcome = get(&setup.cached, address, class, "right").await;
        assert_eq!(
            (&outcome.value[..], outcome.how),
            (&b"right"[..], How::Filled),
            "{index}"
        );
    }
    assert_eq!(setup.cached.stats().envelope_mismatch, 5);
    setup
        .cache
        .set(
            &key,
            envelope(token, address).encode().unwrap(),
            Duration::from_mins(1),
        )
        .await
        .unwrap();
    assert_eq!(
        get(&setup.cached, address, class, "right").await.how,
        How::Hit
    );
}

#[tokio::test]
async fn addresses_that_share_a_bucket_do_not_serve_each_other() {
    let setup = setup();
    let class = "bucketed/13";
    get(&setup.cached, "cart::13:10:0", class, "first").await;
    let second = get(&setup.cached, "cart::13:10:10", class, "second").await;
    assert_eq!(
        (&second.value[..], second.how),
        (&b"second"[..], How::Filled)
    );
    assert_eq!(setup.cache.len(), 1);
    assert_eq!(setup.cached.stats().envelope_mismatch, 1);
    assert_eq!(
        get(&setup.cached, "cart::13:10:10", class, "third")
            .await
            .how,
        How::Hit
    );
}

#[tokio::test]
async fn versioned_values_are_stored_as_they_are_unless_they_look_like_envelopes() {
    let setup = setup();
    let class = "versioned/13";
    get(&setup.cached, "plain", class, "apples").await;
    let key = target(&setup, "plain", class).await;
    assert_eq!(setup.cache.get(&key).await.unwrap().unwrap(), "apples");

    let odd = Bytes::from_static(b"\xc7\x01\x00 not an envelope");
    let fill = |_: Fill| {
        let odd = odd.clone();
        async move { Ok::<_, Infallible>(odd) }
    };
    setup
        .cached
        .get_or_fill("odd", &[class], None, fill)
        .await
        .unwrap();
    let key = target(&setup, "odd", class).await;
    let stored = Envelope::parse(&setup.cache.get(&key).await.unwrap().unwrap()).unwrap();
    assert_eq!((&stored.value, stored.dependencies), (&odd, None));
    let outcome = get(&setup.cached, "odd", class, "other").await;
    assert_eq!((outcome.value, outcome.how), (odd, How::Hit));
}

#[tokio::test]
async fn the_shorter_ttl_counts_and_zero_is_refused() {
    let setup = setup();
    let get = async |address: &str, ttl| {
        let fill = |_: Fill| async { Ok::<_, Infallible>(Bytes::new()) };
        setup
            .cached
            .get_or_fill(address, &["registered"], ttl, fill)
            .await
    };
    get("a", None).await.unwrap();
    get("b", Some(Duration::from_millis(1_500))).await.unwrap();
    get("c", Some(Duration::MAX)).await.unwrap();
    let stored = setup.cache.ttls.lock().clone();
    let short = Duration::from_millis(1_500);
    assert_eq!(stored.len(), 3);
    // Less by what the fill took.
    assert!(stored[0] <= POLICY_TTL && stored[0] > short);
    assert!(stored[1] <= short && stored[2] <= POLICY_TTL && stored[2] > short);
    assert_eq!(setup.fake.state.committed.lock()[1].ttl_ms, 1_500);
    assert!(matches!(
        get("d", Some(Duration::ZERO)).await,
        Err(GetError::Invalid(_))
    ));
}

#[tokio::test]
async fn malformed_reads_are_errors_and_run_nothing() {
    let setup = setup();
    let runs = AtomicU64::new(0);
    let fill = |_: Fill| {
        runs.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Bytes::new()) }
    };
    let long = "a".repeat(240);
    for (address, class) in [("", "c"), ("a b", "c"), ("a", "c//d"), (&long, "c")] {
        let error = setup
            .cached
            .get_or_fill(address, &[class], None, fill)
            .await
            .unwrap_err();
        assert!(matches!(error, GetError::Invalid(_)), "{error}");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_cache_that_fails_is_a_miss_and_never_an_error() {
    let setup = setup();
    get(&setup.cached, "cart::13", "versioned/13", "apples").await;
    setup.cache.fails.store(true, Ordering::SeqCst);
    let outcome = get(&setup.cached, "cart::13", "versioned/13", "pears").await;
    assert_eq!(
        (&outcome.value[..], outcome.how, outcome.stored),
        (&b"pears"[..], How::Filled, false)
    );
    let stats = setup.cached.stats();
    assert_eq!((stats.cache_get_errors, stats.cache_set_errors), (1, 1));
    setup.cache.fails.store(false, Ordering::SeqCst);
    assert_eq!(
        get(&setup.cached, "cart::13", "versioned/13", "plums")
            .await
            .how,
        How::Hit
    );
}

#[tokio::test]
async fn an_error_of_the_fill_function_reaches_the_caller_and_is_not_stored() {
    let setup = setup();
    let fill = |_: Fill| async { Err("no such cart") };
    let error = setup
        .cached
        .get_or_fill("cart::13", &["versioned/13"], None, fill)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the fill function failed: no such cart");
    assert_eq!(setup.cached.stats().fill_errors, 1);
    assert_eq!(
        get(&setup.cached, "cart::13", "versioned/13", "apples")
            .await
            .how,
        How::Filled
    );
}

#[tokio::test]
async fn g5_a_session_read_sees_the_write_or_goes_to_the_source() {
    let setup = setup();
    let outcome = setup
        .cached
        .client()
        .invalidate(["versioned/13"])
        .await
        .unwrap();
    let mut session = Session::new();
    session.add(&outcome.session_token).unwrap();
    let mine = setup.cached.session(&session);
    assert_eq!(
        get(&mine, "cart::13", "versioned/13", "apples").await.how,
        How::Filled
    );
    assert_eq!(
        get(&mine, "cart::13", "versioned/13", "apples").await.how,
        How::Hit
    );
    assert_eq!(
        get(&setup.cached, "cart::13", "versioned/13", "apples")
            .await
            .how,
        How::Hit
    );

    let mut ahead = Session::new().wait(Duration::from_millis(1));
    ahead.add(&Bytes::from_static(b"not seen yet")).unwrap();
    let outcome = get(
        &setup.cached.session(&ahead),
        "cart::13",
        "versioned/13",
        "pears",
    )
    .await;
    assert_eq!(
        outcome.how,
        How::Bypassed(grapevine_client::BypassReason::Session)
    );
    assert_eq!(&outcome.value[..], b"pears");
    assert_eq!(setup.cached.stats().bypass_session, 1);
}

#[tokio::test]
async fn reads_can_be_spawned() {
    let setup = setup();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes_on) = (Arc::clone(&begun), Arc::clone(&go_on));
    let cached = setup.cached.clone();
    let task = tokio::spawn(async move {
        let fill = |_: Fill| async move {
            begins.notify_one();
            goes_on.notified().await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"apples"))
        };
        cached
            .get_or_fill("cart::13", &["versioned/13"], None, fill)
            .await
            .unwrap()
            .how
    });
    begun.notified().await;
    go_on.notify_one();
    assert_eq!(task.await.unwrap(), How::Filled);
}
