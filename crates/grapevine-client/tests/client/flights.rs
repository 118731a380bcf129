//! Single flight: ten thousand callers, one fill; and nobody hangs when the one is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use grapevine_client::{CachedClient, Fill, GetError, GetOutcome, How};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::{PATIENT, Setup, setup, setup_with, until};

type Outcome = Result<GetOutcome, GetError<String>>;

/// What a fill function of these tests does once it is let go.
#[derive(Clone, Copy)]
enum Then {
    Value,
    Error,
    Panic,
}

struct Crowd {
    runs: Arc<AtomicU64>,
    permits: Arc<Semaphore>,
}

impl Crowd {
    fn new() -> Self {
        Self {
            runs: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
        }
    }

    fn caller(
        &self,
        cached: &CachedClient,
        class: &'static str,
        then: Then,
    ) -> JoinHandle<Outcome> {
        let (runs, permits) = (Arc::clone(&self.runs), Arc::clone(&self.permits));
        let cached = cached.clone();
        tokio::spawn(async move {
            let fill = |_: Fill| async move {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                permits.acquire().await.unwrap().forget();
                match then {
                    Then::Value => Ok(Bytes::from(format!("run {run}"))),
                    Then::Error => Err(format!("run {run} failed")),
                    Then::Panic => panic!("run {run} was asked to"),
                }
            };
            cached.get_or_fill("cart::13", &[class], None, fill).await
        })
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

async fn finish(task: JoinHandle<Outcome>) -> Outcome {
    tokio::time::timeout(PATIENT, task)
        .await
        .expect("a caller hangs")
        .unwrap()
}

async fn all_missed(setup: &Setup, callers: u64) {
    until("all have missed", || setup.cached.stats().misses == callers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_callers_of_one_address_run_the_function_once() {
    for class in ["versioned/13", "registered/13"] {
        let setup = setup_with(|builder| builder.resolve_queue_max(20_000));
        let crowd = Crowd::new();
        let callers: Vec<_> = (0..10_000)
            .map(|_| crowd.caller(&setup.cached, class, Then::Value))
            .collect();
        all_missed(&setup, 10_000).await;
        crowd.permits.add_permits(1);
        let mut filled = 0;
        for caller in callers {
            let outcome = finish(caller).await.unwrap();
            assert_eq!(&outcome.value[..], b"run 1");
            filled += u32::from(outcome.how == How::Filled);
        }
        assert_eq!((crowd.runs(), filled), (1, 1));
        // Who had missed, but not taken its seat when the first one was done, looked again and hit.
        let stats = setup.cached.stats();
        assert_eq!(stats.single_flight_waits + stats.hits, 9_999, "{stats:?}");
        assert!(stats.single_flight_waits > 9_000, "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_come_at_any_moment_run_the_function_once() {
    for round in 0..20 {
        let setup = setup();
        let crowd = Crowd::new();
        crowd.permits.add_permits(10);
        // The first is done, or storing, or gone, when the others look.
        let callers: Vec<_> = (0..200)
            .map(|_| crowd.caller(&setup.cached, "registered/13", Then::Value))
            .collect();
        for caller in callers {
            assert_eq!(&finish(caller).await.unwrap().value[..], b"run 1");
        }
        assert_eq!(crowd.runs(), 1, "round {round}");
    }
}

#[tokio::test]
async fn when_the_leader_is_cancelled_the_next_one_takes_over() {
    let setup = setup();
    let crowd = Crowd::new();
    let leader = crowd.caller(&setup.cached, "versioned/13", Then::Value);
    until("the leader fills", || crowd.runs() == 1).await;
    let callers: Vec<_> = (0..50)
        .map(|_| crowd.caller(&setup.cached, "versioned/13", Then::Value))
        .collect();
    all_missed(&setup, 51).await;
    leader.abort();
    until("another one fills", || crowd.runs() == 2).await;
    crowd.permits.add_permits(1);
    for caller in callers {
        assert_eq!(&finish(caller).await.unwrap().value[..], b"run 2");
    }
    assert_eq!(setup.cached.stats().takeovers, 1);
}

#[tokio::test]
async fn when_the_leader_panics_the_next_one_takes_over() {
    let setup = setup();
    let crowd = Crowd::new();
    let leader = crowd.caller(&setup.cached, "versioned/13", Then::Panic);
    until("the leader fills", || crowd.runs() == 1).await;
    let callers: Vec<_> = (0..50)
        .map(|_| crowd.caller(&setup.cached, "versioned/13", Then::Value))
        .collect();
    all_missed(&setup, 51).await;
    crowd.permits.add_permits(2);
    assert!(leader.await.unwrap_err().is_panic());
    for caller in callers {
        assert_eq!(&finish(caller).await.unwrap().value[..], b"run 2");
    }
    assert_eq!(crowd.runs(), 2);
}

#[tokio::test]
async fn an_error_is_shared_by_those_who_waited() {
    let setup = setup();
    let crowd = Crowd::new();
    let callers: Vec<_> = (0..50)
        .map(|_| crowd.caller(&setup.cached, "versioned/13", Then::Error))
        .collect();
    all_missed(&setup, 50).await;
    crowd.permits.add_permits(1);
    let mut errors = Vec::new();
    for caller in callers {
        match finish(caller).await {
            Err(GetError::Fill(error)) => errors.push(error),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        errors
            .iter()
            .all(|error| Arc::ptr_eq(error, &errors[0]) && **error == "run 1 failed")
    );
    // It was not kept.
    let retry = crowd.caller(&setup.cached, "versioned/13", Then::Value);
    crowd.permits.add_permits(1);
    assert_eq!(&finish(retry).await.unwrap().value[..], b"run 2");
}

#[tokio::test]
async fn callers_with_another_type_of_error_fill_for_themselves() {
    let setup = setup();
    let crowd = Crowd::new();
    let leader = crowd.caller(&setup.cached, "versioned/13", Then::Error);
    until("the leader fills", || crowd.runs() == 1).await;
    let cached = setup.cached.clone();
    let other = tokio::spawn(async move {
        let fill = |_: Fill| async { Err::<Bytes, u32>(7) };
        cached
            .get_or_fill("cart::13", &["versioned/13"], None, fill)
            .await
    });
    all_missed(&setup, 2).await;
    crowd.permits.add_permits(1);
    finish(leader).await.unwrap_err();
    assert!(matches!(other.await.unwrap(), Err(GetError::Fill(error)) if *error == 7));
}

#[tokio::test]
async fn g3_a_caller_who_asks_after_a_bump_does_not_join_the_fill_from_before_it() {
    for class in ["versioned/13", "registered/13", "bucketed/13"] {
        let setup = setup();
        let crowd = Crowd::new();
        let before = crowd.caller(&setup.cached, class, Then::Value);
        until("the first fills", || crowd.runs() == 1).await;
        setup.cached.client().invalidate([class]).await.unwrap();
        let after = crowd.caller(&setup.cached, class, Then::Value);
        until("the second fills", || crowd.runs() == 2).await;
        crowd.permits.add_permits(2);
        assert_eq!(&finish(before).await.unwrap().value[..], b"run 1");
        assert_eq!(&finish(after).await.unwrap().value[..], b"run 2");
        let next = crowd.caller(&setup.cached, class, Then::Value);
        crowd.permits.add_permits(1);
        assert_ne!(&finish(next).await.unwrap().value[..], b"run 1");
    }
}

#[tokio::test]
async fn g7_who_waited_is_not_given_a_value_older_than_its_ttl() {
    let setup = setup();
    let ttl = Duration::from_millis(30);
    for class in ["ttl/13", "versioned/13"] {
        let permits = Arc::new(Semaphore::new(0));
        let get = |value: &'static [u8], permits: &Arc<Semaphore>| {
            let (cached, permits) = (setup.cached.clone(), Arc::clone(permits));
            tokio::spawn(async move {
                let fill = |_: Fill| async move {
                    permits.acquire().await.unwrap().forget();
                    Ok::<_, String>(Bytes::from_static(value))
                };
                cached
                    .get_or_fill("cart::13", &[class], Some(ttl), fill)
                    .await
            })
        };
        let fills = setup.cached.stats().fills;
        let leader = get(b"read long ago", &permits);
        until("the leader fills", || setup.cached.stats().fills > fills).await;
        let misses = setup.cached.stats().misses;
        let follower = get(b"read now", &Arc::new(Semaphore::new(1)));
        until("the follower waits", || {
            setup.cached.stats().misses > misses
        })
        .await;
        tokio::time::sleep(ttl).await;
        permits.add_permits(1);
        assert_eq!(
            &finish(leader).await.unwrap().value[..],
            b"read long ago",
            "who computed it is given it"
        );
        let outcome = finish(follower).await.unwrap();
        assert_eq!(
            (&outcome.value[..], outcome.how),
            (&b"read now"[..], How::Filled),
            "{class}"
        );
    }
}
