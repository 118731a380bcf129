//! Without a usable look-up a read goes to the source, in time, and stores nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grapevine_client::{BypassReason, CachedClient, CallError, Fill, How, v1};
use tonic::Code;

use crate::fake::{Method, Reply};
use crate::support::{PATIENT, Setup, setup, setup_with};

async fn get(cached: &CachedClient) -> How {
    let fill = |fill: Fill| async move {
        fill.depends_on("prices");
        Ok::<_, Infallible>(Bytes::from_static(b"apples"))
    };
    let outcome = cached
        .get_or_fill("cart::13", &["registered/13"], None, fill)
        .await
        .unwrap();
    assert_eq!(&outcome.value[..], b"apples");
    assert!(!outcome.stored || outcome.how == How::Filled);
    outcome.how
}

fn nothing_stored(setup: &Setup) {
    assert_eq!(setup.cache.len(), 0);
    assert_eq!(setup.fake.state.calls(Method::Commit), 0);
}

#[tokio::test]
async fn g7_a_sidecar_that_is_gone_is_bypassed() {
    let mut setup = setup();
    setup.fake.stop();
    for _ in 0..100 {
        assert_eq!(
            get(&setup.cached).await,
            How::Bypassed(BypassReason::Unreachable)
        );
    }
    nothing_stored(&setup);
    let stats = setup.cached.stats();
    assert_eq!(
        (stats.bypass_unreachable, stats.bypasses(), stats.fills),
        (100, 100, 0)
    );
    setup.fake.start();
    let deadline = Instant::now() + PATIENT;
    while get(&setup.cached).await != How::Filled {
        assert!(Instant::now() < deadline, "never used again");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(get(&setup.cached).await, How::Hit);
}

/// Reads once or ten thousand times at once, with a clock that jumps to the next timer: what it shows is what deadlines add up
/// to, however busy the machine is. Timers go by whole milliseconds.
async fn all_bypassed_within(deadline: Duration, setup: &Setup, callers: u32) {
    let began = tokio::time::Instant::now();
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let cached = setup.cached.clone();
            tokio::spawn(async move { get(&cached).await })
        })
        .collect();
    for caller in callers {
        let how = caller.await.unwrap();
        assert!(
            matches!(
                how,
                How::Bypassed(BypassReason::Deadline | BypassReason::Overloaded)
            ),
            "{how:?}"
        );
    }
    let took = began.elapsed();
    assert!(
        took >= deadline && took <= deadline + Duration::from_millis(1),
        "{took:?}"
    );
}

#[tokio::test]
async fn g7_a_sidecar_that_hangs_is_bypassed_within_the_deadline() {
    let deadline = Duration::from_millis(40);
    for callers in [1, 10_000] {
        let setup = setup_with(|builder| builder.resolve_deadline(deadline));
        for _ in 0..20 {
            setup.fake.state.next(Method::Resolve, Reply::Hang);
        }
        tokio::time::pause();
        // Together, not one after the other.
        all_bypassed_within(deadline, &setup, callers).await;
        tokio::time::resume();
        nothing_stored(&setup);
    }
}

#[tokio::test]
async fn g7_policy_may_say_bypass() {
    let setup = setup();
    setup.fake.state.bypass.store(true, Ordering::SeqCst);
    assert_eq!(
        get(&setup.cached).await,
        How::Bypassed(BypassReason::Policy)
    );
    nothing_stored(&setup);
    assert_eq!(setup.cached.stats().bypass_policy, 1);
    setup.fake.state.bypass.store(false, Ordering::SeqCst);
    assert_eq!(get(&setup.cached).await, How::Filled);
}

#[tokio::test]
async fn refusals_are_bypassed_by_their_kind() {
    let setup = setup();
    for (code, reason) in [
        (Code::ResourceExhausted, BypassReason::Overloaded),
        (Code::FailedPrecondition, BypassReason::Refused),
        (Code::Unimplemented, BypassReason::Refused),
        (Code::Unavailable, BypassReason::Unreachable),
    ] {
        setup.fake.state.next(Method::Resolve, Reply::Status(code));
        assert_eq!(get(&setup.cached).await, How::Bypassed(reason));
    }
    nothing_stored(&setup);
}

#[tokio::test]
async fn g10_more_look_ups_than_the_queue_takes_are_bypassed() {
    let setup = setup_with(|builder| builder.resolve_queue_max(10).rpcs_in_flight_max(1));
    let hold = Arc::new(tokio::sync::Semaphore::new(0));
    setup
        .fake
        .state
        .next(Method::Resolve, Reply::Hold(Arc::clone(&hold)));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let cached = setup.cached.clone();
            tokio::spawn(async move { get(&cached).await })
        })
        .collect();
    crate::support::until("the rest is bypassed", || {
        setup.cached.stats().bypass_overloaded >= 80
    })
    .await;
    hold.add_permits(1);
    let mut bypassed = 0;
    for caller in callers {
        bypassed += u64::from(caller.await.unwrap() == How::Bypassed(BypassReason::Overloaded));
    }
    assert_eq!(setup.cached.stats().bypass_overloaded, bypassed);
    assert_eq!(setup.cached.client().stats().resolve_queue_full, bypassed);
}

/// How long a statement takes is up to the statement.
#[tokio::test]
async fn g7_statements_that_take_too_long_to_explain_do_not_bypass_the_sidecar() {
    let setup = setup_with(|builder| builder.call_deadline(Duration::from_millis(20)));
    for _ in 0..10 {
        setup.fake.state.next(Method::Explain, Reply::Hang);
        let request = v1::ExplainRequest::default();
        let error = setup.cached.client().explain(request).await.unwrap_err();
        assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    }
    assert_eq!(get(&setup.cached).await, How::Filled);
}
