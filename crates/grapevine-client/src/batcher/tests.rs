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
}

/// The item that makes a batch invalid.
const BAD: u64 = 1_000_013;
/// The item that makes the call panic.
const PANICS: u64 = 1_000_099;

impl BatchCall for Doubling {
    type Item = u64;
    type Answer = u64;
    const FIELD: &'static str = "items";

    async fn send(&self, items: Vec<u64>) -> Result<Vec<u64>, CallError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        self.sizes.lock().push(items.len());
        self.permits.acquire().await.unwrap().forget();
        self.running.fetch_sub(1, Ordering::SeqCst);
        assert!(!items.contains(&PANICS), "asked to");
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

struct Setup {
    batcher: Arc<Batcher<Doubling>>,
    permits: Arc<Semaphore>,
    sizes: Arc<Mutex<Vec<usize>>>,
    most_running: Arc<AtomicUsize>,
}

fn setup(limits: BatchLimits, names_items: bool) -> Setup {
    let permits = Arc::new(Semaphore::new(0));
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let most_running = Arc::new(AtomicUsize::new(0));
    let call = Doubling {
        permits: Arc::clone(&permits),
        sizes: Arc::clone(&sizes),
        running: Arc::default(),
        most_running: Arc::clone(&most_running),
        names_items,
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
    tokio::spawn(async move { batcher.send(item).await })
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
        setup.batcher.send(3).await,
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
        let alone = setup.batcher.send(BAD).await;
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
    let lost = tokio::time::timeout(Duration::from_secs(10), setup.batcher.send(PANICS))
        .await
        .unwrap();
    assert!(matches!(lost, Err(BatchError::Again { alone: true })));
    assert_eq!(setup.batcher.send(4).await.unwrap(), 8);
}
