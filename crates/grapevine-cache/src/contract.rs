//! What every [`Cache`] promises, as tests that run against any implementation.
//!
//! Each check panics with what was promised. They use keys of their own and may run against a server that others use.
//! Compiled for this crate's tests, and for other crates' with the feature `contract-tests`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{Cache, CacheError, KEY_BYTES_MAX};

/// What differs between implementations.
#[derive(Debug, Clone, Copy)]
pub struct Expectations {
    /// Soft purges mark stale; otherwise they delete.
    pub marks_stale: bool,
    /// The largest value.
    pub value_bytes_max: usize,
}

/// The essay's class: every limit/offset of one cart.
const KEYS_OF_ONE_CART: usize = 1_519;

const MINUTE: Duration = Duration::from_mins(1);

/// Runs every check, one after the other.
pub async fn keeps_the_contract(cache: Arc<dyn Cache>, expect: Expectations) {
    what_is_set_is_got(&*cache).await;
    a_set_replaces(&*cache).await;
    many_reads_keep_their_order(&*cache).await;
    deletes_are_counted_and_final(&*cache).await;
    bad_keys_are_refused(&*cache).await;
    a_value_ends_with_its_ttl(&*cache).await;
    absurd_ttls_are_refused_or_shortened(&*cache).await;
    values_up_to_the_limit_fit(&*cache, expect.value_bytes_max).await;
    soft_purges_hide_the_value(&*cache, expect.marks_stale).await;
    each_task_gets_its_own_answer(Arc::clone(&cache)).await;
    a_cancelled_read_keeps_its_answer_to_itself(cache).await;
}

async fn what_is_set_is_got(cache: &dyn Cache) {
    let long_key = "k".repeat(KEY_BYTES_MAX);
    let awkward = Bytes::from_static(b"END\r\nVA 3\r\n\0\xff\r\n");
    for (key, value) in [
        ("contract:plain", Bytes::from_static(b"value")),
        ("contract:empty", Bytes::new()),
        ("contract:awkward", awkward),
        (
            "contract:K\u{e4}se/\u{1f347}::1:2:3~1abcdefghijk",
            Bytes::from_static(b"utf-8"),
        ),
        (long_key.as_str(), Bytes::from(vec![b'x'; 50_000])),
    ] {
        cache
            .set(key, value.clone(), MINUTE)
            .await
            .expect("a set succeeds");
        assert_eq!(
            cache.get(key).await,
            Ok(Some(value)),
            "what is set at {key} is got"
        );
    }
    assert_eq!(
        cache.get("contract:never-set").await,
        Ok(None),
        "what was never set is absent"
    );
}

async fn a_set_replaces(cache: &dyn Cache) {
    for value in ["one", "two", "a longer one than before", "3"] {
        cache
            .set("contract:replace", value.into(), MINUTE)
            .await
            .expect("a set succeeds");
        assert_eq!(
            cache.get("contract:replace").await,
            Ok(Some(value.into())),
            "the last set counts"
        );
    }
}

async fn many_reads_keep_their_order(cache: &dyn Cache) {
    assert_eq!(
        cache.get_many(&[]).await,
        Ok(Vec::new()),
        "no keys, no values"
    );
    let keys: Vec<_> = (0..KEYS_OF_ONE_CART)
        .map(|number| format!("contract:many:{number}"))
        .collect();
    for (number, key) in keys
        .iter()
        .enumerate()
        .filter(|(number, _)| !number.is_multiple_of(3))
    {
        cache
            .set(key, number.to_string().into(), MINUTE)
            .await
            .expect("a set succeeds");
    }
    let mut asked = keys.clone();
    asked.reverse();
    asked.push(keys[1].clone());
    let values = cache.get_many(&asked).await.expect("many reads succeed");
    assert_eq!(values.len(), asked.len(), "one answer per key");
    for (key, value) in asked.iter().zip(values) {
        let number: usize = key
            .rsplit(':')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("invariant: set above");
        let expected = (!number.is_multiple_of(3)).then(|| Bytes::from(number.to_string()));
        assert_eq!(value, expected, "the answer for {key} stands in its place");
    }
}

async fn deletes_are_counted_and_final(cache: &dyn Cache) {
    assert!(
        cache.delete_many(&[]).await.is_complete(),
        "no keys, nothing to do"
    );
    let keys: Vec<_> = (0..KEYS_OF_ONE_CART)
        .map(|number| format!("contract:delete:{number}"))
        .collect();
    let present = keys.iter().step_by(2).count();
    for key in keys.iter().step_by(2) {
        cache
            .set(key, "v".into(), MINUTE)
            .await
            .expect("a set succeeds");
    }
    let outcome = cache.delete_many(&keys).await;
    assert_eq!(
        (outcome.deleted, outcome.absent, outcome.failed.len()),
        (present, KEYS_OF_ONE_CART - present, 0),
        "deleted and absent keys are told apart: {:?}",
        outcome.cause
    );
    let left = cache.get_many(&keys).await.expect("many reads succeed");
    assert!(left.iter().all(Option::is_none), "nothing deleted is left");
    assert_eq!(
        cache.delete_many(&keys).await.absent,
        KEYS_OF_ONE_CART,
        "the second time all are absent"
    );
}

async fn bad_keys_are_refused(cache: &dyn Cache) {
    let bad = [
        "",
        "with space",
        "line\r\nfeed",
        "\u{7f}",
        &"k".repeat(KEY_BYTES_MAX + 1),
    ]
    .map(str::to_owned);
    let is_bad_key = |error: &CacheError| matches!(error, CacheError::BadKey { .. });
    for key in &bad {
        assert!(
            cache.get(key).await.is_err_and(|error| is_bad_key(&error)),
            "get {key:?} is refused"
        );
        let set = cache.set(key, "v".into(), MINUTE).await;
        assert!(
            set.is_err_and(|error| is_bad_key(&error)),
            "set {key:?} is refused"
        );
        let many = ["contract:plain".to_owned(), key.clone()];
        assert!(
            cache
                .get_many(&many)
                .await
                .is_err_and(|error| is_bad_key(&error)),
            "{key:?} among others is refused"
        );
    }
    assert_eq!(
        cache.delete_many(&bad).await.absent,
        bad.len(),
        "a key that cannot be is absent"
    );
}

async fn a_value_ends_with_its_ttl(cache: &dyn Cache) {
    let begun = Instant::now();
    // Rounded down to one second by memcached, up to one second from below.
    for (key, ttl_ms) in [("contract:ttl:1", 1_900), ("contract:ttl:2", 20)] {
        cache
            .set(key, "v".into(), Duration::from_millis(ttl_ms))
            .await
            .expect("a set succeeds");
    }
    cache
        .set("contract:ttl:3", "v".into(), MINUTE)
        .await
        .expect("a set succeeds");
    for key in ["contract:ttl:1", "contract:ttl:2"] {
        while cache.get(key).await.expect("a get succeeds").is_some() {
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "the value at {key} ends soon after its TTL"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(
        cache.get("contract:ttl:3").await,
        Ok(Some("v".into())),
        "no value ends early"
    );
}

async fn absurd_ttls_are_refused_or_shortened(cache: &dyn Cache) {
    let zero = cache
        .set("contract:absurd", "v".into(), Duration::ZERO)
        .await;
    assert!(
        matches!(zero, Err(CacheError::BadTtl { .. })),
        "a TTL of zero is refused"
    );
    // More than thirty days is a point in time for memcached: long past, when misread.
    for days in [31, 300, 100_000] {
        let ttl = Duration::from_hours(days * 24);
        cache
            .set("contract:absurd", "v".into(), ttl)
            .await
            .expect("a set succeeds");
        assert_eq!(
            cache.get("contract:absurd").await,
            Ok(Some("v".into())),
            "a TTL of {days} days keeps the value"
        );
    }
    cache
        .set("contract:absurd", "v".into(), Duration::MAX)
        .await
        .expect("a set succeeds");
    assert_eq!(
        cache.get("contract:absurd").await,
        Ok(Some("v".into())),
        "the longest TTL keeps the value"
    );
}

async fn values_up_to_the_limit_fit(cache: &dyn Cache, value_bytes_max: usize) {
    let key = "contract:large";
    let value = Bytes::from(vec![b'v'; value_bytes_max]);
    cache
        .set(key, value.clone(), MINUTE)
        .await
        .expect("a value of the limit's size fits");
    let got = cache.get(key).await.expect("a get succeeds");
    assert!(got == Some(value), "a value of the limit's size is got");
    let larger = Bytes::from(vec![b'v'; value_bytes_max + 1]);
    let expected = CacheError::TooLarge {
        key: key.to_owned(),
        size_bytes: value_bytes_max + 1,
        limit_bytes: value_bytes_max,
    };
    assert_eq!(
        cache.set(key, larger, MINUTE).await,
        Err(expected),
        "a byte more is refused"
    );
    assert!(cache.delete_many(&[key.to_owned()]).await.is_complete());
}

async fn soft_purges_hide_the_value(cache: &dyn Cache, marks_stale: bool) {
    let keys = ["contract:soft:1", "contract:soft:2"].map(str::to_owned);
    cache
        .set(&keys[0], "old".into(), MINUTE)
        .await
        .expect("a set succeeds");
    let outcome = cache.mark_stale_many(&keys).await;
    assert_eq!(
        (outcome.deleted, outcome.absent, outcome.failed.len()),
        (1, 1, 0),
        "marks are counted"
    );
    assert_eq!(
        cache.get_many(&keys).await,
        Ok(vec![None, None]),
        "stale is a miss for reads of many"
    );
    let stale = cache
        .get_even_stale(&keys[0])
        .await
        .expect("a get succeeds");
    assert_eq!(
        stale.map(|hit| (hit.value, hit.stale)),
        marks_stale.then(|| ("old".into(), true))
    );
    assert_eq!(
        cache.get(&keys[0]).await,
        Ok(None),
        "stale is a miss for a read"
    );
    cache
        .set(&keys[0], "new".into(), MINUTE)
        .await
        .expect("a set succeeds");
    assert_eq!(
        cache.get(&keys[0]).await,
        Ok(Some("new".into())),
        "a set clears the mark"
    );
    let fresh = cache
        .get_even_stale(&keys[0])
        .await
        .expect("a get succeeds")
        .expect("it is there");
    assert_eq!(
        (fresh.stale, fresh.refill),
        (false, false),
        "a new value is not stale"
    );
}

async fn each_task_gets_its_own_answer(cache: Arc<dyn Cache>) {
    let mut tasks = JoinSet::new();
    for task in 0..32 {
        let cache = Arc::clone(&cache);
        tasks.spawn(async move {
            for number in 0..50 {
                let key = format!("contract:own:{task}:{number}");
                // Of many lengths, so that a slip of one byte shows.
                let value = Bytes::from(format!(
                    "{key}={}",
                    "x".repeat((task * 131 + number * 17) % 900)
                ));
                cache
                    .set(&key, value.clone(), MINUTE)
                    .await
                    .expect("a set succeeds");
                assert_eq!(
                    cache.get(&key).await,
                    Ok(Some(value)),
                    "each reader gets its own key's value"
                );
                if number.is_multiple_of(3) {
                    assert_eq!(
                        cache.delete_many(std::slice::from_ref(&key)).await.deleted,
                        1
                    );
                    assert_eq!(
                        cache.get(&key).await,
                        Ok(None),
                        "a deleted key is absent to its deleter"
                    );
                }
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no task panics");
    }
}

async fn a_cancelled_read_keeps_its_answer_to_itself(cache: Arc<dyn Cache>) {
    let keys: Vec<_> = (0..100)
        .map(|number| format!("contract:cancel:{number}"))
        .collect();
    for key in &keys {
        cache
            .set(key, key.clone().into(), MINUTE)
            .await
            .expect("a set succeeds");
    }
    let mut tasks = JoinSet::new();
    for task in 0..16_u64 {
        let (cache, keys) = (Arc::clone(&cache), keys.clone());
        tasks.spawn(async move {
            for round in 0..200_u64 {
                let mixed = (task * 200 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let key = &keys[usize::try_from(mixed % 100).expect("invariant: below 100")];
                let pause = Duration::from_micros((mixed >> 32) % 300);
                // Dropped at some point between before it was queued and after it was answered.
                if let Ok(answer) = timeout(pause, cache.get(key)).await {
                    assert_eq!(
                        answer,
                        Ok(Some(key.clone().into())),
                        "an answer is its own key's"
                    );
                }
                if let Ok(answers) = timeout(pause, cache.get_many(&keys[..10])).await {
                    let expected = keys[..10]
                        .iter()
                        .map(|key| Some(key.clone().into()))
                        .collect();
                    assert_eq!(answers, Ok(expected), "answers are their own keys'");
                }
                assert_eq!(
                    cache.get(key).await,
                    Ok(Some(key.clone().into())),
                    "after a cancelled one too"
                );
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no task panics");
    }
}
