#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;
use crate::error::Violation;

/// Answers twice the item, one permit per RPC.
struct Doubling {
    permits: Arc<Semaphore>,
    sizes: Arc<Mutex<Vec<usize>>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
    /// Whether a refusal names the items.
    names_items: bool,
    /// What it says of more than four items, and of [`TOO_MUCH`].
    too_much: Option<CallError>,
}

/// The item that makes a batch invalid.
const BAD: u64 = 1_000_013;
/// The item that makes the call panic.
const PANICS: u64 = 1_000_099;

impl BatchCall for Doubling {
    type Item = u64;
    type Answer = u64;
    const FIELD: &'static str = "items";

    fn bytes(item: &u64) -> usize {
        if *item >= LONG { LONG_BYTES } else { 8 }
    }

    async fn send(&self, items: Vec<u64>) -> Result<Vec<u64>, CallError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        self.sizes.lock().push(items.len());
        self.permits.acquire().await.unwrap().forget();
        self.running.fetch_sub(1, Ordering::SeqCst);
        assert!(!items.contains(&PANICS), "asked to");
        if let Some(refusal) = &self.too_much
            && (items.len() > 4 || items.contains(&TOO_MUCH))
        {
            return Err(refusal.clone());
        }
        let bad = |(index, item): (usize, &u64)| {
            (*item == BAD).then(|| Violation {
                field: format!("items[{index}].address"),
                description: "unlucky".to_owned(),
            })
        };
        let violations: Vec<Violation> = items.iter().enumerate().filter_map(bad).collect();
        if violations.is_empty() {
            return Ok(items.into_iter().map(|item| 2 * item).collect());
        }
        Err(CallError::Invalid(InvalidRequest {
            message: String::new(),
            violations: if self.names_items {
                violations
            } else {
                Vec::new()
            },
        }))
    }
}

/// Items from here on are long.
const LONG: u64 = 2_000_000;
/// So long that eight of them fill a batch.
const LONG_BYTES: usize = BATCH_BYTES_MAX / 8;
/// The item that is too much for every message.
const TOO_MUCH: u64 = 1_000_201;

struct Setup {
    batcher: Arc<Batcher<Doubling>>,
    permits: Arc<Semaphore>,
    sizes: Arc<Mutex<Vec<usize>>>,
    most_running: Arc<AtomicUsize>,
}

fn setup(limits: BatchLimits, names_items: bool) -> Setup {
    setup_with(limits, names_items, None)
}

fn setup_with(limits: BatchLimits, names_items: bool, too_much: Option<CallError>) -> Setup {
    let permits = Arc::new(Semaphore::new(0));
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let most_running = Arc::new(AtomicUsize::new(0));
    let call = Doubling {
        permits: Arc::clone(&permits),
        sizes: Arc::clone(&sizes),
        running: Arc::default(),
        most_running: Arc::clone(&most_running),
        names_items,
        too_much,
    };
    Setup {
        batcher: Arc::new(Batcher::new(call, limits)),
        permits,
        sizes,
        most_running,
    }
}

const LIMITS: BatchLimits = BatchLimits {
    queue: 10_000,
    batch: 1_000,
    in_flight: 1,
};

fn send(setup: &Setup, item: u64) -> tokio::task::JoinHandle<Result<u64, BatchError>> {
    let batcher = Arc::clone(&setup.batcher);
    tokio::spawn(async move { batcher.send(item, LIMITS.batch).await })
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_lone_item_leaves_at_once_and_the_rest_gathers_while_it_is_away() {
    let setup = setup(LIMITS, true);
    let first = send(&setup, 1);
    until("the first is away", || *setup.sizes.lock() == [1]).await;
    let others: Vec<_> = (2..1_500).map(|item| send(&setup, item)).collect();
    until("the others wait", || {
        setup.batcher.shared.state.lock().queue.len() == 1_498
    })
    .await;
    setup.permits.add_permits(10);
    assert_eq!(first.await.unwrap().unwrap(), 2);
    for (item, other) in (2..1_500).zip(others) {
        assert_eq!(other.await.unwrap().unwrap(), 2 * item);
    }
    assert_eq!(*setup.sizes.lock(), [1, 1_000, 498]);
    until("the slot is given back", || {
        setup.batcher.shared.state.lock().in_flight == 0
    })
    .await;
}

#[tokio::test]
async fn g10_a_full_queue_refuses_and_gone_callers_make_room() {
    let limits = BatchLimits {
        queue: 10,
        ..LIMITS
    };
    let setup = setup(limits, true);
    let _first = send(&setup, 1);
    until("the first is away", || *setup.sizes.lock() == [1]).await;
    let waiting: Vec<_> = (0..10).map(|item| send(&setup, item)).collect();
    until("the queue is full", || {
        setup.batcher.shared.state.lock().queue.len() == 10
    })
    .await;
    assert!(matches!(
        setup.batcher.send(3, LIMITS.batch).await,
        Err(BatchError::QueueFull { limit: 10 })
    ));
    for task in waiting {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    let late = send(&setup, 21);
    setup.permits.add_permits(10);
    assert_eq!(late.await.unwrap().unwrap(), 42);
    assert_eq!(
        *setup.sizes.lock(),
        [1, 1],
        "what nobody waits for is not sent"
    );
}

#[tokio::test]
async fn at_most_so_many_rpcs_are_in_flight() {
    let setup = setup(
        BatchLimits {
            in_flight: 3,
            batch: 5,
            ..LIMITS
        },
        true,
    );
    let tasks: Vec<_> = (0..100).map(|item| send(&setup, item + 100)).collect();
    until("three are away", || setup.sizes.lock().len() == 3).await;
    setup.permits.add_permits(1_000);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(setup.most_running.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn one_bad_item_fails_alone() {
    for names_items in [true, false] {
        let setup = setup(LIMITS, names_items);
        setup.permits.add_permits(1_000);
        let tasks: Vec<_> = [1, 2, BAD, 4].map(|item| send(&setup, item)).into();
        let mut verdicts = Vec::new();
        for task in tasks {
            verdicts.push(task.await.unwrap());
        }
        let expected_alone = !names_items;
        for (index, verdict) in verdicts.into_iter().enumerate() {
            match verdict {
                Err(BatchError::Call(CallError::Invalid(invalid))) if names_items && index == 2 => {
                    assert_eq!(invalid.violations[0].field, "items[0].address");
                }
                Err(BatchError::Again { alone }) => assert_eq!(alone, expected_alone),
                other => panic!("{names_items} {index} {other:?}"),
            }
        }
        let alone = setup.batcher.send(BAD, LIMITS.batch).await;
        assert!(
            matches!(alone, Err(BatchError::Call(CallError::Invalid(_)))),
            "{alone:?}"
        );
    }
}

#[tokio::test]
async fn a_panic_in_the_call_hangs_nobody_and_costs_no_slot() {
    let setup = setup(LIMITS, true);
    setup.permits.add_permits(1_000);
    let lost = tokio::time::timeout(
        Duration::from_secs(10),
        setup.batcher.send(PANICS, LIMITS.batch),
    )
    .await
    .unwrap();
    assert!(matches!(lost, Err(BatchError::Again { alone: true })));
    assert_eq!(setup.batcher.send(4, LIMITS.batch).await.unwrap(), 8);
}

#[tokio::test]
async fn g10_a_batch_is_bounded_in_bytes() {
    let setup = setup(LIMITS, true);
    let first = send(&setup, 1);
    until("the first is away", || *setup.sizes.lock() == [1]).await;
    let others: Vec<_> = (0..20).map(|item| send(&setup, LONG + item)).collect();
    until("the others wait", || {
        setup.batcher.shared.state.lock().queue.len() == 20
    })
    .await;
    setup.permits.add_permits(10);
    first.await.unwrap().unwrap();
    for (item, other) in (0..20).zip(others) {
        assert_eq!(other.await.unwrap().unwrap(), 2 * (LONG + item));
    }
    assert_eq!(*setup.sizes.lock(), [1, 8, 8, 4], "in order, none lost");
}

#[tokio::test]
async fn g10_what_is_too_much_for_one_message_travels_in_smaller_ones() {
    let endpoint: Arc<str> = Arc::from("x");
    let refusals = [
        CallError::Refused {
            endpoint: Arc::clone(&endpoint),
            code: Code::OutOfRange,
            message: "decoded message length too large".to_owned(),
        },
        CallError::Overloaded {
            endpoint,
            message: "received message larger than max".to_owned(),
            retry_after: None,
        },
        CallError::Invalid(InvalidRequest::one(
            "items",
            "12,000 pages are more than 10,000".to_owned(),
        )),
    ];
    for refusal in refusals {
        let setup = Arc::new(setup_with(LIMITS, true, Some(refusal.clone())));
        setup.permits.add_permits(1_000);
        let tasks: Vec<_> = (0..99)
            .chain([TOO_MUCH])
            .map(|item| {
                let setup = Arc::clone(&setup);
                tokio::spawn(async move { (item, setup.batcher.send_with(|| item).await) })
            })
            .collect();
        for task in tasks {
            match task.await.unwrap() {
                (TOO_MUCH, Err(BatchError::Call(error))) => {
                    assert_eq!(error.to_string(), refusal.to_string());
                }
                (item, answer) => assert_eq!(answer.unwrap(), 2 * item),
            }
        }
        let sizes = setup.sizes.lock();
        assert_eq!(sizes[0], 100);
        assert!(sizes.len() < 80, "halved, not sent one by one: {sizes:?}");
    }
}

#[tokio::test]
async fn a_sidecar_that_is_full_for_the_moment_is_not_sent_more_batches() {
    let full = CallError::Overloaded {
        endpoint: Arc::from("x"),
        message: "full".to_owned(),
        retry_after: Some(Duration::from_millis(50)),
    };
    let setup = Arc::new(setup_with(LIMITS, true, Some(full)));
    setup.permits.add_permits(1_000);
    let tasks: Vec<_> = (0..100)
        .map(|item| {
            let setup = Arc::clone(&setup);
            tokio::spawn(async move { setup.batcher.send_with(|| item).await })
        })
        .collect();
    for task in tasks {
        let refused = task.await.unwrap();
        assert!(
            matches!(refused, Err(BatchError::Call(CallError::Overloaded { .. }))),
            "{refused:?}"
        );
    }
    assert_eq!(*setup.sizes.lock(), [100]);
}
