//! Turns to fill, as a client asks for them: a sidecar that hangs costs a stated time, and a caller's turn is used.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use grapevine_client::{CachedClient, Fill, GetOutcome, How};

use crate::fake::{Method, Reply};
use crate::support::{Setup, setup_with, stop_the_clock, until_soon};

const DEADLINE: Duration = Duration::from_millis(300);
/// How long a client asks its sidecar to wait at a time.
const ASKED: Duration = Duration::from_secs(1);

async fn get(cached: &CachedClient) -> GetOutcome {
    let fill = |_: Fill| async { Ok::<_, Infallible>(Bytes::from_static(b"apples")) };
    let outcome = cached.get_or_fill("cart::13", &["registered/13"], None, fill);
    outcome.await.unwrap()
}

fn elected() -> Setup {
    let setup = setup_with(|builder| builder.turn_deadline(DEADLINE));
    setup.fake.state.elect.store(true, Ordering::SeqCst);
    setup
}

async fn a_miss_is_held_up_for_a_stated_time_by(silence: Reply) {
    let setup = elected();
    setup.fake.state.next(Method::Acquire, silence);
    stop_the_clock();
    let cached = setup.cached.clone();
    let reader = tokio::spawn(async move { get(&cached).await });
    until_soon("it asks for its turn", || {
        setup.fake.state.calls(Method::Acquire) == 1
    })
    .await;
    let almost = DEADLINE.saturating_sub(Duration::from_millis(2));
    tokio::time::advance(ASKED + almost).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!reader.is_finished(), "it waits for others");
    tokio::time::advance(Duration::from_millis(4)).await;
    until_soon("it reads the source", || reader.is_finished()).await;
    let outcome = reader.await.unwrap();
    assert_eq!((outcome.how, outcome.stored), (How::Filled, false));
    // It does not wait for a commit on top of that.
    assert_eq!(setup.fake.state.calls(Method::Commit), 0);
    assert_eq!(setup.cache.len(), 0);
    assert_eq!(setup.cached.stats().turn_failures, 1);
}

#[tokio::test]
async fn race11_a_sidecar_that_says_nothing_holds_a_miss_up_for_a_stated_time() {
    a_miss_is_held_up_for_a_stated_time_by(Reply::Hang).await;
}

#[tokio::test]
async fn race11_a_sidecar_that_stops_while_it_answers_holds_a_miss_up_for_a_stated_time() {
    a_miss_is_held_up_for_a_stated_time_by(Reply::AfterHang).await;
}

#[tokio::test]
async fn race11_a_caller_who_has_its_turn_fills_and_stores() {
    let setup = elected();
    let outcome = get(&setup.cached).await;
    assert_eq!((outcome.how, outcome.stored), (How::Filled, true));
    assert_eq!(setup.fake.state.committed.lock()[0].fill, "turn");
    let waits = setup.fake.state.turn_waits.lock().clone();
    assert!(waits.len() == 1 && waits[0] <= 1_000, "{waits:?}");
    assert_eq!(get(&setup.cached).await.how, How::Hit);
}
