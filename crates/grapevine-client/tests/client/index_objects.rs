//! Objects of a leaf's members: from the cache, from one query of the database, and what is pruned on whose evidence.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use grapevine_client::{
    Ask, How, Index, IndexObjects, IndexRow, ObjectPage, Objects, Session, Snapshot, Want, v1,
};
use parking_lot::Mutex;
use tonic::Code;

use crate::fake::{Method, Reply};
use crate::support::{Setup, setup};

/// Items with their categories, in a primary and a replica of it.
#[derive(Default)]
struct Shop {
    primary: Mutex<BTreeMap<u32, u32>>,
    /// What the replica has, if it lags.
    replica: Mutex<Option<BTreeMap<u32, u32>>>,
    /// Reads the replica whatever it is asked for.
    careless: bool,
    asked: Mutex<Vec<Ask>>,
    /// What happens when the database is asked.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Shop {
    fn with(items: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let shop = Self::default();
        shop.primary.lock().extend(items);
        shop
    }

    fn put(&self, id: u32, category: u32) {
        self.primary.lock().insert(id, category);
    }

    /// The ids that were asked for, call by call.
    fn asked(&self) -> Vec<(Vec<String>, bool)> {
        let asked = std::mem::take(&mut *self.asked.lock()).into_iter();
        asked.map(|ask| (ask.ids, ask.primary)).collect()
    }
}

impl IndexObjects for Shop {
    type Error = std::convert::Infallible;

    fn address(&self, id: &str) -> String {
        format!("item::{id}")
    }

    fn classes(&self, id: &str) -> Vec<String> {
        vec![format!("items/{id}")]
    }

    fn meets(&self, _: &str, object: &Bytes) -> bool {
        **object == *b"5"
    }

    async fn ids(&self, want: Want) -> Result<Vec<IndexRow>, Self::Error> {
        let most = usize::try_from(want.rows.unwrap_or(u64::MAX)).unwrap();
        let items = self.primary.lock().clone().into_iter();
        let rows = items.filter(|(_, category)| *category == 5);
        Ok(rows.map(|(id, _)| IndexRow::new(id)).take(most).collect())
    }

    async fn objects(&self, ask: Ask) -> Result<Objects, Self::Error> {
        if let Some(meanwhile) = self.meanwhile.lock().take() {
            meanwhile();
        }
        let replica = self.replica.lock().clone();
        let from_primary = replica.is_none() || ask.primary && !self.careless;
        let items = match replica {
            Some(replica) if !from_primary => replica,
            _ => self.primary.lock().clone(),
        };
        let found = ask.ids.iter().filter_map(|id| {
            let category = items.get(&id.parse().unwrap())?;
            Some((id.clone(), Bytes::from(category.to_string())))
        });
        let found: Vec<_> = found.collect();
        self.asked.lock().push(ask);
        Ok(if from_primary {
            Objects::in_primary(found)
        } else {
            Objects::in_replica(found)
        })
    }
}

fn have(setup: &Setup, ids: impl IntoIterator<Item = u32>) {
    let members = ids.into_iter().map(|id| (id.to_string(), 0));
    setup.fake.state.leaves().lock().members = Some(members.collect());
}

fn has(setup: &Setup) -> Vec<String> {
    let members = setup.fake.state.leaves().lock().members.clone();
    members.unwrap().into_iter().map(|(id, _)| id).collect()
}

fn index(setup: &Setup) -> Index {
    let client = setup.cached.client();
    client
        .index("item", v1::SqlDialect::Postgresql)
        .by("category_id", 5)
}

async fn objects(setup: &Setup, shop: &Shop) -> ObjectPage {
    index(setup).objects(&setup.cached, shop).await.unwrap()
}

fn shown(page: &ObjectPage) -> Vec<&str> {
    page.objects.iter().map(|object| &*object.id).collect()
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test]
async fn what_the_cache_lacks_is_read_in_one_query_and_stored() {
    let setup = setup();
    let shop = Shop::with((1..=200).map(|id| (id, 5)));
    have(&setup, 1..=100);
    let page = objects(&setup, &shop).await;
    assert_eq!(
        (page.objects.len(), page.hits, page.how),
        (100, 0, How::Hit)
    );
    let asked = shop.asked();
    assert_eq!((asked.len(), asked[0].0.len()), (1, 100));
    // Nothing is suspect: a replica will do.
    assert!(!asked[0].1);
    setup.fake.state.bump("items/7");
    let page = objects(&setup, &shop).await;
    assert_eq!((page.objects.len(), page.hits), (100, 99));
    assert_eq!(shop.asked(), [(ids(&["7"]), false)]);
    let page = objects(&setup, &shop).await;
    assert_eq!((page.hits, shop.asked()), (100, Vec::new()));
}

#[tokio::test]
async fn g9_a_row_that_the_primary_shows_elsewhere_is_left_out_pruned_and_made_up_for() {
    let setup = setup();
    let shop = Shop::with([(1, 5), (2, 6), (4, 5), (5, 5)]);
    have(&setup, 1..=5);
    let first = index(&setup).limit(3);
    let page = first.objects(&setup.cached, &shop).await.unwrap();
    // 2 has moved, 3 is gone.
    assert_eq!(shown(&page), ["1", "4", "5"]);
    assert_eq!((page.elsewhere, page.pruned, page.undecided), (2, 2, 0));
    assert_eq!(has(&setup), ["1", "4", "5"]);
}

#[tokio::test]
async fn g9_the_page_behind_one_with_moved_rows_lacks_none_without_the_sidecar() {
    let mut setup = setup();
    let shop = Shop::with([(1, 5), (2, 6), (3, 6), (4, 5), (5, 5), (6, 5)]);
    have(&setup, 1..=6);
    let page = index(&setup).limit(1);
    let first = page.objects(&setup.cached, &shop).await.unwrap();
    let then = page.clone().limit(2).after(first.next.unwrap());
    let then = then.objects(&setup.cached, &shop).await.unwrap();
    assert_eq!(shown(&then), ["4", "5"]);
    setup.fake.stop();
    // Also where the page's last row has moved since.
    shop.put(5, 6);
    let last = page.after(then.next.unwrap());
    let last = last.objects(&setup.cached, &shop).await.unwrap();
    assert_eq!(shown(&last), ["6"]);
}

#[tokio::test]
async fn g9_what_the_cache_shows_is_no_evidence() {
    let setup = setup();
    let shop = Shop::with([(1, 5), (2, 6)]);
    have(&setup, [1]);
    objects(&setup, &shop).await;
    have(&setup, [2]);
    objects(&setup, &shop).await;
    assert!(has(&setup).is_empty());
    shop.asked();
    // 2 has come back, and nobody has invalidated its object.
    shop.put(2, 5);
    have(&setup, [1, 2]);
    let page = objects(&setup, &shop).await;
    assert_eq!(shown(&page), ["1", "2"]);
    assert_eq!(shop.asked(), [(ids(&["2"]), true)]);
    assert_eq!((page.hits, page.elsewhere), (1, 0));
    assert_eq!(has(&setup), ["1", "2"]);
    // What was read has replaced it.
    assert_eq!(objects(&setup, &shop).await.hits, 2);
}

#[tokio::test]
async fn g9_what_a_replica_lacks_is_asked_of_the_primary() {
    let setup = setup();
    let shop = Shop::with([(1, 5), (2, 5), (3, 6)]);
    *shop.replica.lock() = Some(BTreeMap::from([(1, 5), (2, 6), (3, 6)]));
    have(&setup, 1..=3);
    let page = objects(&setup, &shop).await;
    assert_eq!(shown(&page), ["1", "2"]);
    let asked = shop.asked();
    assert_eq!(
        asked,
        [(ids(&["1", "2", "3"]), false), (ids(&["2", "3"]), true)]
    );
    assert_eq!(has(&setup), ["1", "2"]);
}

#[tokio::test]
async fn g9_a_replica_that_is_read_instead_of_the_primary_prunes_nothing() {
    let setup = setup();
    let mut shop = Shop::with([(1, 5), (2, 5)]);
    shop.careless = true;
    *shop.replica.lock() = Some(BTreeMap::from([(1, 5), (2, 6)]));
    have(&setup, 1..=2);
    let page = objects(&setup, &shop).await;
    assert_eq!((shown(&page), page.undecided), (vec!["1"], 1));
    assert_eq!(setup.fake.state.calls(Method::IndexPrune), 0);
}

#[tokio::test]
async fn g9_the_database_is_asked_after_the_leaf() {
    let setup = setup();
    let shop = Shop::with([(1, 6)]);
    have(&setup, [1]);
    let state = Arc::clone(&setup.fake.state);
    *shop.meanwhile.lock() = Some(Box::new(move || {
        assert_eq!(state.calls(Method::IndexRead), 1);
    }));
    objects(&setup, &shop).await;
    let prunes = setup.fake.state.leaves().lock().prunes.clone();
    assert_eq!(prunes[0].places, [Bytes::from_static(b"at 1")]);
}

#[tokio::test]
async fn g9_a_snapshot_that_had_begun_before_prunes_nothing() {
    let setup = setup();
    let shop = Shop::with([(1, 5), (2, 6)]);
    have(&setup, 1..=2);
    let inside = setup.cached.in_snapshot(&Snapshot::default());
    let page = index(&setup).objects(&inside, &shop).await.unwrap();
    assert_eq!((shown(&page), page.elsewhere), (vec!["1"], 1));
    assert_eq!(setup.fake.state.calls(Method::IndexPrune), 0);
    assert_eq!(setup.cache.len(), 0);
}

#[tokio::test]
async fn g3_an_object_that_a_bump_overtook_is_shown_and_not_served_again() {
    let setup = setup();
    let shop = Shop::with([(1, 5)]);
    have(&setup, [1]);
    let state = Arc::clone(&setup.fake.state);
    *shop.meanwhile.lock() = Some(Box::new(move || {
        state.bump("items/1");
    }));
    assert_eq!(shown(&objects(&setup, &shop).await), ["1"]);
    assert_eq!(objects(&setup, &shop).await.hits, 0);
}

#[tokio::test]
async fn an_absent_leaf_is_loaded_and_its_objects_are_cached() {
    let setup = setup();
    let shop = Shop::with([(1, 5), (2, 6), (3, 5)]);
    let page = objects(&setup, &shop).await;
    assert_eq!((shown(&page), page.how), (vec!["1", "3"], How::Filled));
    assert_eq!(has(&setup), ["1", "3"]);
    // In a task of its own, as a server's readers are.
    let (index, cached) = (index(&setup), setup.cached.clone());
    let reader = async move { index.objects(&cached, &shop).await.unwrap() };
    let page = tokio::spawn(reader).await.unwrap();
    assert_eq!((page.hits, page.how), (2, How::Hit));
}

#[tokio::test]
async fn trouble_with_sidecar_and_cache_is_not_the_readers() {
    let mut setup = setup();
    let shop = Shop::with([(1, 5), (2, 6)]);
    have(&setup, 1..=2);
    let fails = &setup.cache.fails;
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    setup
        .fake
        .state
        .next(Method::IndexPrune, Reply::Status(Code::Internal));
    let page = objects(&setup, &shop).await;
    assert_eq!(
        (shown(&page), page.elsewhere, page.pruned),
        (vec!["1"], 1, 0)
    );
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    // The leaf answers, the look-ups do not: the cache is left alone.
    setup
        .fake
        .state
        .next(Method::Resolve, Reply::Status(Code::Internal));
    let page = objects(&setup, &shop).await;
    assert_eq!((shown(&page), setup.cache.len()), (vec!["1"], 0));
    setup.fake.stop();
    let page = objects(&setup, &shop).await;
    assert_eq!(shown(&page), ["1"]);
    assert!(matches!(page.how, How::Bypassed(_)));
}

#[tokio::test]
async fn g5_the_session_counts_for_the_objects_too() {
    let setup = setup();
    let shop = Shop::with([(1, 5)]);
    have(&setup, [1]);
    objects(&setup, &shop).await;
    let written = setup.cached.client().invalidate(["items/1"]).await.unwrap();
    let mut session = Session::new();
    session.add(&written.session_token).unwrap();
    let page = index(&setup).session(&session);
    let page = page.objects(&setup.cached, &shop).await.unwrap();
    assert_eq!((shown(&page), page.hits), (vec!["1"], 0));
    let past = setup.fake.state.leaves().lock().reads[1].session.clone();
    let expected = std::slice::from_ref(&written.session_token);
    assert_eq!(past.unwrap().tokens, expected);
    let past = setup.fake.state.resolve_session.lock().clone();
    assert_eq!(past.unwrap().tokens, [written.session_token]);
}
