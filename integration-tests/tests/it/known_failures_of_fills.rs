//! Failures that others have met in public, each by its name there: of fills that a write overtakes, and of caches that come back. As in
//! `known_failures`, the naive arm comes first.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Mutex;

use grapevine_client::{CachedClient, How};
use grapevine_integration_tests::{Api, CacheServer, Setup};
use grapevine_proto::v1::ReceiptLevel;

use crate::fence::{POLICIES, client};
use crate::naive;
use crate::naive::Pair;

/// One per strategy that keeps a value at a place where an old one can be found.
const CLASSES: [&str; 3] = ["users/1", "registered/1", "bucketed/1"];

async fn invalidate(api: &Api, class: &str) {
    let answer = api.invalidate(class, ReceiptLevel::All).await.unwrap();
    assert!(answer.receipt.unwrap().satisfied);
}

/// django-cacheops#478: a reader finds no user and is slow to say so; the user is created meanwhile, and nobody sees it afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn django_cacheops_478_g3_an_absence_that_was_read_before_the_user_was_made_is_not_kept() {
    let Some(memcached) = CacheServer::memcached("django_cacheops_478").await.unwrap() else {
        return;
    };
    let cache = memcached.client().unwrap();
    let kept = naive::store_what_was_read_before(&*cache, "no such user").await;
    assert_eq!(
        kept.unwrap().as_deref(),
        Some("no such user"),
        "the naive arm does not fail"
    );
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let reader = CachedClient::new(client(&cluster[0]), cache);
    for class in CLASSES {
        let classes = [class];
        let user = Mutex::new("no such user");
        let (user, writer) = (&user, &cluster[1].api);
        let slow = reader.get_or_fill(class, &classes, None, |_| async move {
            let read = *user.lock().unwrap();
            *user.lock().unwrap() = "Ada";
            invalidate(writer, class).await;
            Ok::<_, Infallible>(read.into())
        });
        // It may be stored: under a token that nobody asks for, or that no reader believes.
        assert_eq!(slow.await.unwrap().value, "no such user");
        for how in [How::Filled, How::Hit] {
            let next = reader.get_or_fill(class, &classes, None, |_| async {
                Ok::<_, Infallible>((*user.lock().unwrap()).into())
            });
            let next = next.await.unwrap();
            assert_eq!((&next.value[..], next.how), (&b"Ada"[..], how), "{class}");
        }
    }
}

/// django-cacheops#302: the value is put together from two queries, and what both read is written between them: half old, half new.
#[tokio::test(flavor = "multi_thread")]
async fn django_cacheops_302_g3_a_value_of_two_queries_with_a_write_between_them_is_not_kept() {
    let Some(memcached) = CacheServer::memcached("django_cacheops_302").await.unwrap() else {
        return;
    };
    let cache = memcached.client().unwrap();
    let kept = naive::store_what_was_read_before(&*cache, "old book, new author").await;
    assert_eq!(
        kept.unwrap().as_deref(),
        Some("old book, new author"),
        "the naive arm does not fail"
    );
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let reader = CachedClient::new(client(&cluster[0]), cache);
    for class in CLASSES {
        let classes = [class];
        let (book, author) = (Mutex::new("old book"), Mutex::new("old author"));
        let (book, author, writer) = (&book, &author, &cluster[1].api);
        let read = |query: &Mutex<&'static str>| *query.lock().unwrap();
        let mixed = reader.get_or_fill(class, &classes, None, |fill| async move {
            // The second one is found to matter only while the value is computed.
            fill.depends_on("authors");
            let first = read(book);
            (*book.lock().unwrap(), *author.lock().unwrap()) = ("new book", "new author");
            invalidate(writer, class).await;
            invalidate(writer, "authors").await;
            Ok::<_, Infallible>(format!("{first}, {}", read(author)).into())
        });
        let mixed = mixed.await.unwrap();
        assert_eq!(mixed.value, "old book, new author");
        assert!(!mixed.stored, "{class}: half of it is old: {mixed:?}");
        // A write of the second alone, of which the look-up knew nothing.
        let second = reader.get_or_fill(class, &classes, None, |fill| async move {
            fill.depends_on("authors");
            let value = format!("{}, {}", read(book), read(author));
            *author.lock().unwrap() = "newest author";
            invalidate(writer, "authors").await;
            Ok::<_, Infallible>(value.into())
        });
        second.await.unwrap();
        let last = reader.get_or_fill(class, &classes, None, |fill| async move {
            fill.depends_on("authors");
            Ok::<_, Infallible>(format!("{}, {}", read(book), read(author)).into())
        });
        assert_eq!(
            last.await.unwrap().value,
            "new book, newest author",
            "{class}"
        );
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
    assert_eq!(read(&readers[0]).await.how, How::Hit, "and it is cached");
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
