//! Slices of lists: what comes back is what slicing the list itself would give, whatever is cached.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use grapevine_cache::Cache as _;
use grapevine_client::{BypassReason, CachedClient, Fill, GetError, How, PageFill, PageOutcome};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use crate::fake::{Method, PAGE_SIZE};
use crate::support::{PATIENT, setup, until};

/// A list in the source, and how often it was read.
#[derive(Clone, Default)]
struct Source {
    items: Arc<Mutex<Vec<Bytes>>>,
    reads: Arc<AtomicU64>,
}

impl Source {
    fn of(count: u32) -> Self {
        let source = Self::default();
        source.set(0, count);
        source
    }

    fn set(&self, generation: u32, count: u32) {
        *self.items.lock() = (0..count)
            .map(|number| Bytes::from(format!("{generation}:{number}")))
            .collect();
    }

    fn slice(&self, offset: u64, limit: u32) -> Vec<Bytes> {
        let offset = usize::try_from(offset).unwrap();
        self.items
            .lock()
            .iter()
            .skip(offset)
            .take(limit as usize)
            .cloned()
            .collect()
    }

    async fn get(
        &self,
        cached: &CachedClient,
        class: &str,
        offset: u64,
        limit: u32,
    ) -> PageOutcome {
        let fill = |page: PageFill| {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let items = self.slice(page.offset, page.limit);
            async move { Ok::<_, Infallible>(items) }
        };
        cached
            .get_or_fill_page("cart::13", &[class], offset, limit, None, fill)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_slice_fills_the_pages_it_touches_and_shares_them() {
    let setup = setup();
    for class in ["paged/13", "paged_registered/13"] {
        let source = Source::of(95);
        let first = source.get(&setup.cached, class, 5, 20).await;
        assert_eq!(first.items, source.slice(5, 20));
        assert_eq!(
            (first.how, first.pages, first.hits, first.stored),
            (How::Filled, 3, 0, 3),
            "{class}"
        );
        let second = source.get(&setup.cached, class, 10, 15).await;
        assert_eq!(second.items, source.slice(10, 15));
        assert_eq!((second.how, second.pages, second.hits), (How::Hit, 2, 2));
        let third = source.get(&setup.cached, class, 25, 10).await;
        assert_eq!(
            (third.how, third.pages, third.hits, third.stored),
            (How::Filled, 2, 1, 1)
        );
        assert_eq!(source.reads.load(Ordering::SeqCst), 4);
    }
}

#[tokio::test]
async fn a_short_page_ends_the_list_and_later_pages_are_not_filled() {
    let setup = setup();
    let source = Source::of(13);
    let outcome = source.get(&setup.cached, "paged/13", 0, 1_000).await;
    assert_eq!(outcome.items, source.slice(0, 1_000));
    assert_eq!((outcome.pages, source.reads.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(
        source.get(&setup.cached, "paged/13", 13, 5).await.items,
        Vec::<Bytes>::new()
    );
    assert_eq!(source.reads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn g3_a_bump_makes_every_page_stale() {
    let setup = setup();
    for class in ["paged/13", "paged_registered/13"] {
        let source = Source::of(40);
        source.get(&setup.cached, class, 0, 40).await;
        source.set(1, 35);
        setup.fake.state.bump(class);
        let outcome = source.get(&setup.cached, class, 0, 40).await;
        assert_eq!(outcome.items, source.slice(0, 40), "{class}");
        assert_eq!((outcome.hits, outcome.pages), (0, 4));
    }
}

#[tokio::test]
async fn g3_dependencies_count_per_page() {
    let setup = setup();
    let source = Source::of(40);
    let get = async || {
        let fill = |page: PageFill| {
            page.depends_on(format!("items/{}", page.offset));
            let items = source.slice(page.offset, page.limit);
            async move { Ok::<_, Infallible>(items) }
        };
        setup
            .cached
            .get_or_fill_page("cart::13", &["paged/13"], 0, 30, None, fill)
            .await
            .unwrap()
    };
    assert_eq!(get().await.stored, 3);
    assert_eq!(get().await.hits, 3);
    setup.fake.state.bump("items/10");
    let outcome = get().await;
    assert_eq!(
        (outcome.how, outcome.hits, outcome.stored),
        (How::Filled, 2, 1)
    );
}

#[tokio::test]
async fn a_stored_page_that_is_none_is_a_miss() {
    let setup = setup();
    let source = Source::of(40);
    source.get(&setup.cached, "paged/13", 0, 10).await;
    let page = grapevine_client::v1::Page {
        offset: 0,
        limit: 10,
    };
    let resolved = setup
        .cached
        .client()
        .resolve_one("cart::13", &["paged/13"], Some(page))
        .await
        .unwrap();
    let target = &resolved.resolution.targets[0].address;
    setup
        .cache
        .set(target, Bytes::from_static(b"none"), crate::fake::POLICY_TTL)
        .await
        .unwrap();
    let outcome = source.get(&setup.cached, "paged/13", 0, 10).await;
    assert_eq!(
        (outcome.items, outcome.how),
        (source.slice(0, 10), How::Filled)
    );
    assert_eq!(setup.cached.stats().envelope_mismatch, 1);
}

#[tokio::test]
async fn a_whole_value_under_the_name_of_a_page_is_not_taken_for_it() {
    let setup = setup();
    let source = Source::of(40);
    // Read whole, this address has the cache address, the token and the classes of the list's first page.
    let name = format!("cart::13~p{PAGE_SIZE}.0");
    let permits = Arc::new(Semaphore::new(0));
    let (cached, waits) = (setup.cached.clone(), Arc::clone(&permits));
    let whole = tokio::spawn(async move {
        let fill = |_: Fill| async move {
            waits.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Bytes::from_static(b"no page"))
        };
        cached.get_or_fill(&name, &["paged/13"], None, fill).await
    });
    until("the whole value is being read", || {
        setup.cached.stats().fills == 1
    })
    .await;
    let slice = source.get(&setup.cached, "paged/13", 0, 10);
    let slice = tokio::time::timeout(PATIENT, slice)
        .await
        .expect("it waits for the whole value, which is another thing");
    assert_eq!((slice.items, slice.how), (source.slice(0, 10), How::Filled));
    permits.add_permits(1);
    assert_eq!(whole.await.unwrap().unwrap().value, "no page");
    // The last store won; it is no page.
    let slice = source.get(&setup.cached, "paged/13", 0, 10).await;
    assert_eq!((slice.items, slice.how), (source.slice(0, 10), How::Filled));
}

#[tokio::test]
async fn a_bypass_reads_the_slice_itself() {
    let mut setup = setup();
    setup.fake.stop();
    let source = Source::of(40);
    let outcome = source.get(&setup.cached, "paged/13", 7, 9).await;
    assert_eq!(outcome.items, source.slice(7, 9));
    assert_eq!(outcome.how, How::Bypassed(BypassReason::Unreachable));
    assert_eq!(
        (source.reads.load(Ordering::SeqCst), setup.cache.len()),
        (1, 0)
    );
}

#[tokio::test]
async fn errors_and_malformed_slices_are_told() {
    let setup = setup();
    let fill = |_: PageFill| async { Err("no such cart") };
    for (class, offset, limit) in [
        ("versioned/13", 0, 10),
        ("paged/13", 0, 0),
        ("paged/13", u64::MAX, 1),
    ] {
        let error = setup
            .cached
            .get_or_fill_page("a", &[class], offset, limit, None, fill)
            .await
            .unwrap_err();
        assert!(matches!(error, GetError::Invalid(_)), "{error}");
    }
    let error = setup
        .cached
        .get_or_fill_page("a", &["paged/13"], 0, 10, None, fill)
        .await
        .unwrap_err();
    assert!(matches!(error, GetError::Fill(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_slices_fill_each_page_once() {
    let setup = setup();
    let source = Source::of(1_000);
    let tasks: Vec<_> = (0..500_u64)
        .map(|number| {
            let (source, cached) = (source.clone(), setup.cached.clone());
            tokio::spawn(async move {
                let outcome = source
                    .get(&cached, "paged_registered/13", number % 90, 20)
                    .await;
                assert_eq!(outcome.items, source.slice(number % 90, 20));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(source.reads.load(Ordering::SeqCst), 11);
    assert_eq!(setup.fake.state.committed.lock().len(), 11);
    assert!(setup.fake.state.calls(Method::Commit) <= 11);
}

#[derive(Debug, Clone)]
enum Step {
    Read {
        offset: u64,
        limit: u32,
    },
    /// The list changes and its class is bumped.
    Write {
        count: u32,
    },
    /// A page is lost from the cache.
    Lose {
        index: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let read = (0_u64..60, 1_u32..45).prop_map(|(offset, limit)| Step::Read { offset, limit });
    let write = (0_u32..70).prop_map(|count| Step::Write { count });
    let lose = (0_u64..7).prop_map(|index| Step::Lose { index });
    prop_oneof![6 => read, 1 => write, 1 => lose]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn g3_slices_through_the_cache_equal_slices_of_the_list(
        count in 0_u32..70,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let setup = setup();
            let source = Source::of(count);
            let class = "paged_registered/13";
            for (generation, step) in (1..).zip(steps) {
                match step {
                    Step::Read { offset, limit } => {
                        let outcome = source.get(&setup.cached, class, offset, limit).await;
                        assert_eq!(outcome.items, source.slice(offset, limit));
                    }
                    Step::Write { count } => {
                        source.set(generation, count);
                        setup.fake.state.bump(class);
                    }
                    Step::Lose { index } => {
                        let lost = format!("cart::13~p{PAGE_SIZE}.{index}");
                        assert!(setup.cache.delete_many(&[lost]).await.is_complete());
                    }
                }
            }
        });
    }
}
