//! Failures that others have met in public, each by its name there: of fills that a write overtakes, and of caches that come back. As in
//! `known_failures`, the naive arm comes first.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;

use anyhow::ensure;
use grapevine_client::{CachedClient, How};
use grapevine_integration_tests::{Api, CacheServer, Setup, eventually};
use grapevine_proto::v1::ReceiptLevel;

use crate::arms::{Arm, Got, Grapevine, Naive};
use crate::fence::{POLICIES, client};
use crate::naive;
use crate::naive::Pair;
use crate::support::SOON;

/// One per strategy that keeps a value at a place where an old one can be found.
pub(crate) const CLASSES: [&str; 3] = ["users/1", "registered/1", "bucketed/1"];

async fn invalidate(api: &Api, class: &str) {
    let answer = api.invalidate(class, ReceiptLevel::All).await.unwrap();
    assert!(answer.receipt.unwrap().satisfied);
}

/// A user is made while another one's look-up, which was begun before, has yet to be stored. That answer, and those of two readers who come
/// afterwards.
async fn a_user_is_made_during_a_look_up(arm: &impl Arm, class: &str) -> [Got; 3] {
    let user = Cell::new("no such user");
    let slow = arm.read(0, class, &[], async || {
        let read = user.get();
        user.set("Ada");
        arm.written(1, class).await;
        read.to_owned()
    });
    let slow = slow.await;
    let next = async || {
        let read = arm.read(0, class, &[], async || user.get().to_owned());
        read.await
    };
    [slow, next().await, next().await]
}

/// django-cacheops#478: a reader finds no user and is slow to say so; the user is created meanwhile, and nobody sees it afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn django_cacheops_478_g3_an_absence_that_was_read_before_the_user_was_made_is_not_kept() {
    let Some(memcached) = CacheServer::memcached("django_cacheops_478").await.unwrap() else {
        return;
    };
    let cache = memcached.client().unwrap();
    let naive = Naive::new([cache.clone()]);
    let given = a_user_is_made_during_a_look_up(&naive, "naive/1").await;
    for next in &given[1..] {
        let stale = next.is("no such user", How::Hit);
        assert!(stale, "the naive arm does not fail: {given:?}");
    }
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let grapevine = Grapevine::new(&cluster, &[cache]);
    for class in CLASSES {
        let given = a_user_is_made_during_a_look_up(&grapevine, class).await;
        // It may be stored: under a token that nobody asks for, or that no reader believes.
        assert_eq!(given[0].value, "no such user");
        let right = given[1].is("Ada", How::Filled) && given[2].is("Ada", How::Hit);
        assert!(right, "{class}: {given:?}");
    }
}

/// What two queries read.
struct Shelf {
    book: Cell<&'static str>,
    author: Cell<&'static str>,
}

impl Shelf {
    fn old() -> Self {
        Self {
            book: Cell::new("old book"),
            author: Cell::new("old author"),
        }
    }

    /// Who comes now, and finds that the second query matters only while the value is computed.
    async fn read(&self, arm: &impl Arm, class: &str) -> Got {
        let both = async || format!("{}, {}", self.book.get(), self.author.get());
        arm.read(0, class, &["authors"], both).await
    }
}

/// Both are written between the two queries. What comes of it, and what the next one reads.
async fn both_are_written_in_between(arm: &impl Arm, class: &str) -> [Got; 2] {
    let shelf = Shelf::old();
    let mixed = arm.read(0, class, &["authors"], async || {
        let first = shelf.book.get();
        shelf.book.set("new book");
        shelf.author.set("new author");
        arm.written(1, class).await;
        arm.written(1, "authors").await;
        format!("{first}, {}", shelf.author.get())
    });
    [mixed.await, shelf.read(arm, class).await]
}

/// After both queries only what the second one read is written, of which the look-up knew nothing.
async fn the_second_is_written_afterwards(arm: &impl Arm, class: &str) -> [Got; 2] {
    let shelf = Shelf::old();
    let old = arm.read(0, class, &["authors"], async || {
        let value = format!("{}, {}", shelf.book.get(), shelf.author.get());
        shelf.author.set("newest author");
        arm.written(1, "authors").await;
        value
    });
    [old.await, shelf.read(arm, class).await]
}

/// django-cacheops#302: the value is put together from two queries, and what both read is written between them: half old, half new.
#[tokio::test(flavor = "multi_thread")]
async fn django_cacheops_302_g3_a_value_of_two_queries_with_a_write_between_them_is_not_kept() {
    let Some(memcached) = CacheServer::memcached("django_cacheops_302").await.unwrap() else {
        return;
    };
    let cache = memcached.client().unwrap();
    let naive = Naive::new([cache.clone()]);
    let [_, next] = both_are_written_in_between(&naive, "naive/1").await;
    let stale = next.is("old book, new author", How::Hit);
    assert!(stale, "the naive arm does not fail: {next:?}");
    let [_, next] = the_second_is_written_afterwards(&naive, "naive/2").await;
    let stale = next.is("old book, old author", How::Hit);
    assert!(stale, "the naive arm does not fail: {next:?}");
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let grapevine = Grapevine::new(&cluster, &[cache]);
    for class in CLASSES {
        let [mixed, next] = both_are_written_in_between(&grapevine, class).await;
        assert_eq!(mixed.value, "old book, new author");
        assert!(!mixed.stored, "{class}: half of it is old: {mixed:?}");
        let right = next.is("new book, new author", How::Filled);
        assert!(right, "{class}: {next:?}");
        let class = format!("{class}/again");
        let [old, next] = the_second_is_written_afterwards(&grapevine, &class).await;
        assert_eq!(old.value, "old book, old author");
        let right = next.is("old book, newest author", How::Filled);
        assert!(right, "{class}: {next:?}");
    }
}

/// mcrouter#190: one of several replicas is out of reach while a key is deleted and written; it is back, and gives what it had.
#[tokio::test(flavor = "multi_thread")]
async fn mcrouter_190_g3_a_replica_that_missed_a_delete_is_not_believed() {
    let Some(pair) = Pair::start("mcrouter_190").await.unwrap() else {
        return;
    };
    let given = naive::first_server_is_back(&pair).await.unwrap();
    assert_eq!(given.as_deref(), Some("old"), "the naive arm does not fail");
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &pair.url);
    let cluster = setup.start().await.unwrap();
    let replicas = grapevine_cache::connect(&pair.url).unwrap();
    let readers = [0, 1].map(|node| CachedClient::new(client(&cluster[node]), replicas.clone()));
    let (address, class, classes) = ("registered::190", "registered/190", ["registered/190"]);
    let source = RefCell::new("old");
    let read = async |reader: &CachedClient| {
        let got = reader.get_or_fill(address, &classes, None, |_| async {
            Ok::<_, Infallible>((*source.borrow()).into())
        });
        got.await.unwrap()
    };
    assert_eq!(read(&readers[0]).await.how, How::Filled);
    assert_eq!(read(&readers[1]).await.how, How::Hit);
    pair.cut().await.unwrap();
    source.replace("new");
    invalidate(&cluster[1].api, class).await;
    assert_eq!(read(&readers[0]).await.value, "new");
    // What the first one has is the old value still, unless its delete was tried again in time: both are as good.
    pair.mend("naive::3").await.unwrap();
    for round in 0..20 {
        let got = read(&readers[round % 2]).await;
        assert_eq!(got.value, "new", "round {round}: {got:?}");
    }
    // A delete that is tried again may take the new one, too.
    eventually("it is cached, and new", SOON, async || {
        let got = read(&readers[0]).await;
        assert_eq!(got.value, "new", "{got:?}");
        ensure!(got.how == How::Hit, "{got:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// mcrouter#202: a key's server is out of reach, another one takes over, and the first is back with the value of before.
#[tokio::test(flavor = "multi_thread")]
async fn mcrouter_202_g3_a_server_that_is_back_after_a_failover_serves_nothing_old() {
    let Some(pair) = Pair::start("mcrouter_202").await.unwrap() else {
        return;
    };
    let given = naive::first_server_is_back(&pair).await.unwrap();
    assert_eq!(given.as_deref(), Some("old"), "the naive arm does not fail");
    // No cache is told to the sidecars: no delete can help.
    let cluster = Setup::of(2).toml(POLICIES).start().await.unwrap();
    let reader = |cache: &std::sync::Arc<dyn grapevine_cache::Cache>| {
        CachedClient::new(client(&cluster[0]), cache.clone())
    };
    let (main, spare) = (reader(&pair.first), reader(&pair.other));
    let (address, class, classes) = ("registered::202", "registered/202", ["registered/202"]);
    let source = RefCell::new("hello1");
    let read = async |reader: &CachedClient| {
        let got = reader.get_or_fill(address, &classes, None, |_| async {
            Ok::<_, Infallible>((*source.borrow()).into())
        });
        got.await.unwrap()
    };
    assert!(read(&main).await.stored);
    assert_eq!(read(&main).await.how, How::Hit);
    pair.cut().await.unwrap();
    source.replace("hello2");
    invalidate(&cluster[1].api, class).await;
    assert_eq!(read(&spare).await.value, "hello2");
    assert_eq!(read(&spare).await.how, How::Hit);
    pair.mend(address).await.unwrap();
    let back = read(&main).await;
    assert_eq!((&back.value[..], back.how), (&b"hello2"[..], How::Filled));
    assert_eq!(read(&main).await.how, How::Hit);
}
