//! The self-audit: what was put into the cache behind Grapevine's back is found, and what may differ is not blamed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use grapevine_cache::Cache as _;
use grapevine_client::{Envelope, Fill, GetOutcome, How, PageFill};
use tokio::sync::Semaphore;

use crate::fake::Method;
use crate::support::{Setup, setup, setup_with, stop_the_clock, until, until_soon};

const FENCED: [&str; 3] = ["versioned", "registered", "bucketed"];
const GRACE: Duration = Duration::from_secs(10);

/// Every hit is audited.
fn audited(grace: Duration) -> Setup {
    setup_with(|builder| builder.audit(1.0).audit_grace(grace))
}

async fn get(setup: &Setup, class: &str, source: &str) -> GetOutcome {
    let source = Bytes::copy_from_slice(source.as_bytes());
    let fill = |_: Fill| async move { Ok::<_, Infallible>(source) };
    let classes = [class];
    let read = setup.cached.get_or_fill("cart::13", &classes, None, fill);
    read.await.unwrap()
}

/// Puts another value where the cache has that of `cart::13`, as a bug or an old program might.
async fn poison(setup: &Setup, class: &str, value: &'static [u8]) {
    let client = setup.cached.client();
    let resolved = client
        .resolve_one("cart::13", &[class], None)
        .await
        .unwrap();
    let resolution = resolved.resolution;
    let value = Bytes::from_static(value);
    let stored = if resolution.envelope {
        let envelope = Envelope {
            token: resolution.token,
            address: "cart::13".to_owned(),
            dependencies: None,
            value,
        };
        envelope.encode().unwrap()
    } else {
        value
    };
    let target = &resolution.targets[0].address;
    setup.cache.set(target, stored, GRACE).await.unwrap();
}

#[tokio::test]
async fn g3_an_audit_finds_what_was_put_into_the_cache_behind_grapevine_s_back() {
    let setup = audited(Duration::from_millis(1));
    for (nth, strategy) in (1..).zip(FENCED) {
        let class = format!("{strategy}/13");
        get(&setup, &class, "apples").await;
        assert_eq!(get(&setup, &class, "apples").await.how, How::Hit);
        poison(&setup, &class, b"poison").await;
        let hit = get(&setup, &class, "apples").await;
        assert_eq!((&hit.value[..], hit.how), (&b"poison"[..], How::Hit));
        until(strategy, || setup.cached.stats().audit_mismatches == nth).await;
    }
    let stats = setup.cached.stats();
    assert_eq!(stats.audits, 6);
    assert_eq!(stats.audit_differed_innocent + stats.audits_undecided, 0);
    assert_eq!(stats.stored, 3, "what an audit computes is not stored");
}

#[tokio::test]
async fn g3_an_audit_finds_a_write_that_nobody_invalidates_under_the_classes_that_the_value_named()
{
    let setup = audited(Duration::from_millis(1));
    let read = async |source: &'static str| {
        let fill = |fill: Fill| async move {
            fill.depends_on("prices");
            Ok::<_, Infallible>(Bytes::from_static(source.as_bytes()))
        };
        let read = setup
            .cached
            .get_or_fill("cart::13", &["versioned/13"], None, fill);
        read.await.unwrap().how
    };
    read("cheap").await;
    assert_eq!(read("dear").await, How::Hit);
    until("found", || setup.cached.stats().audit_mismatches == 1).await;
}

#[tokio::test]
async fn g3_a_writer_that_has_committed_and_is_yet_to_invalidate_is_innocent() {
    let setup = audited(GRACE);
    get(&setup, "versioned/13", "old").await;
    stop_the_clock();
    let asked = setup.fake.state.calls(Method::Resolve);
    assert_eq!(get(&setup, "versioned/13", "new").await.how, How::Hit);
    // The read, the audit before the source, and after it: nobody has invalidated it yet.
    until_soon("asked", || {
        setup.fake.state.calls(Method::Resolve) == asked + 3
    })
    .await;
    // What is asked behind it is answered behind it: the grace has begun then, and not only the question been heard.
    let answered = || setup.cached.client().status();
    answered().await.unwrap();
    tokio::time::advance(GRACE / 2).await;
    setup.fake.state.bump("versioned/13");
    assert_eq!(
        setup.cached.stats().audit_differed_innocent,
        0,
        "not judged"
    );
    let innocent = || setup.cached.stats().audit_differed_innocent == 1;
    for _ in 0..100 {
        tokio::time::advance(GRACE / 50).await;
    }
    until_soon("judged", innocent).await;
    assert_eq!(setup.cached.stats().audit_mismatches, 0);
    // The same without the bump is none: the clock is what tells them apart.
    get(&setup, "versioned/13", "new").await;
    assert_eq!(get(&setup, "versioned/13", "newer").await.how, How::Hit);
    until_soon("asked", || {
        setup.fake.state.calls(Method::Resolve) == asked + 8
    })
    .await;
    answered().await.unwrap();
    for _ in 0..100 {
        tokio::time::advance(GRACE / 50).await;
    }
    until_soon("judged", || setup.cached.stats().audit_mismatches == 1).await;
}

#[tokio::test]
async fn g3_what_is_bumped_while_the_source_is_read_is_innocent_at_once() {
    let setup = audited(Duration::from_hours(1));
    get(&setup, "versioned/13", "old").await;
    let state = Arc::clone(&setup.fake.state);
    let fill = |_: Fill| async move {
        state.bump("versioned");
        Ok::<_, Infallible>(Bytes::from_static(b"new"))
    };
    let read = setup
        .cached
        .get_or_fill("cart::13", &["versioned/13"], None, fill);
    assert_eq!(read.await.unwrap().how, How::Hit);
    until("judged", || {
        setup.cached.stats().audit_differed_innocent == 1
    })
    .await;
}

#[tokio::test]
async fn g7_what_policy_lets_be_old_is_no_mismatch() {
    let setup = audited(Duration::from_millis(1));
    get(&setup, "ttl/13", "old").await;
    assert_eq!(get(&setup, "ttl/13", "new").await.how, How::Hit);
    assert_eq!(setup.cached.stats().audit_differed_innocent, 1);
    // A sidecar that is not fresh vouches for nothing, and the source is left alone.
    get(&setup, "versioned/13", "old").await;
    setup.fake.state.unknown.store(true, Ordering::SeqCst);
    assert_eq!(get(&setup, "versioned/13", "new").await.how, How::Hit);
    let stats = setup.cached.stats();
    assert_eq!((stats.audits, stats.audits_undecided), (2, 1));
    assert_eq!(stats.audit_mismatches, 0);
}

#[tokio::test]
async fn an_audit_that_fails_is_not_the_reader_s_trouble() {
    let setup = audited(GRACE);
    get(&setup, "versioned/13", "old").await;
    let fill = |_: Fill| async move { Err::<Bytes, _>("the database is away") };
    let read = setup
        .cached
        .get_or_fill("cart::13", &["versioned/13"], None, fill);
    assert_eq!(read.await.unwrap().how, How::Hit);
    assert_eq!(setup.cached.stats().audit_errors, 1);
}

#[tokio::test]
async fn without_audits_a_hit_costs_what_it_did() {
    let setup = setup();
    get(&setup, "versioned/13", "old").await;
    let asked = setup.fake.state.resolve_items.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert_eq!(get(&setup, "versioned/13", "new").await.how, How::Hit);
    }
    let now = setup.fake.state.resolve_items.load(Ordering::Relaxed);
    assert_eq!(now - asked, 100, "a look-up each");
    let stats = setup.cached.stats();
    assert_eq!((stats.audits, stats.audits_skipped, stats.fills), (0, 0, 1));
}

#[tokio::test]
async fn the_share_of_hits_that_is_drawn_is_the_one_that_was_asked_for() {
    let setup = setup_with(|builder| builder.audit(0.1));
    get(&setup, "versioned/13", "same").await;
    for _ in 0..3_000 {
        get(&setup, "versioned/13", "same").await;
    }
    let stats = setup.cached.stats();
    let drawn = stats.audits + stats.audits_skipped;
    // 300 expected, 16 to a standard deviation.
    assert!((200..400).contains(&drawn), "{drawn}");
    assert_eq!(stats.audit_mismatches + stats.audit_differed_innocent, 0);
}

#[tokio::test]
async fn g10_audits_at_once_and_in_a_second_are_limited() {
    let setup = audited(GRACE);
    get(&setup, "versioned/13", "same").await;
    stop_the_clock();
    let go_on = Arc::new(Semaphore::new(0));
    let begun = Arc::new(AtomicU64::new(0));
    let reads = (0..20).map(|_| {
        let (cached, go_on, begun) = (setup.cached.clone(), go_on.clone(), begun.clone());
        tokio::spawn(async move {
            let fill = |_: Fill| async move {
                begun.fetch_add(1, Ordering::SeqCst);
                go_on.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Bytes::from_static(b"same"))
            };
            let read = cached.get_or_fill("cart::13", &["versioned/13"], None, fill);
            assert_eq!(read.await.unwrap().how, How::Hit);
        })
    });
    let reads: Vec<_> = reads.collect();
    until_soon("all begun", || begun.load(Ordering::SeqCst) == 16).await;
    until_soon("skipped", || setup.cached.stats().audits_skipped == 4).await;
    go_on.add_permits(16);
    for read in reads {
        read.await.unwrap();
    }
    for _ in 0..200 {
        get(&setup, "versioned/13", "same").await;
    }
    assert_eq!(setup.cached.stats().audits, 100);
    tokio::time::advance(Duration::from_secs(1)).await;
    get(&setup, "versioned/13", "same").await;
    assert_eq!(setup.cached.stats().audits, 101);
}

#[tokio::test]
async fn pages_are_audited_item_by_item_and_as_the_application_compares() {
    let setup = audited(Duration::from_millis(1));
    let page = async |version: &'static str| {
        let fill = |page: PageFill| async move {
            let items = page.offset..page.offset + u64::from(page.limit);
            let items = items.map(|item| Bytes::from(format!("{item} {version}")));
            Ok::<_, Infallible>(items.collect())
        };
        let read = setup
            .cached
            .get_or_fill_page("list", &["paged/1"], 0, 10, None, fill);
        read.await.unwrap().how
    };
    page("at noon").await;
    let compared = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&compared);
    setup.cached.audit_by(move |address, one, other| {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(address.starts_with("list~p10."), "{address}");
        one.split(|byte| *byte == b' ').next() == other.split(|byte| *byte == b' ').next()
    });
    assert_eq!(page("at one").await, How::Hit);
    assert_eq!(setup.cached.stats().audits, 1);
    assert_eq!(compared.load(Ordering::SeqCst), 10, "items");
    setup.cached.audit_by(|_, _, _| false);
    assert_eq!(page("at one").await, How::Hit);
    until("found", || setup.cached.stats().audit_mismatches == 1).await;
}
