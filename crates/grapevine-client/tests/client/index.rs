//! Reads, fills and prunes of leaves, and ids from them.

use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use grapevine_client::{
    BypassReason, CallError, Client, Cursor, GetError, How, IdPage, Index, IndexRow, LeafExtent,
    LeafFill, LeafState, ResolveError, Session, SqlScalar, Want, v1,
};
use parking_lot::Mutex;
use tonic::Code;

use crate::fake::{Fake, Method, Reply};
use crate::support::{PATIENT, patient};

fn client(fake: &Fake) -> Client {
    patient(&fake.endpoint).build().unwrap()
}

fn items(client: &Client) -> Index {
    let items = client.index("item", v1::SqlDialect::Postgresql);
    items.by("category_id", 5).load_wait(PATIENT)
}

fn have(fake: &Fake, ids: &[u32]) {
    let members = ids.iter().map(|id| (id.to_string(), 0));
    fake.state.leaves().lock().members = Some(members.collect());
}

fn has(fake: &Fake) -> Vec<String> {
    let members = fake.state.leaves().lock().members.clone().unwrap();
    members.into_iter().map(|(id, _)| id).collect()
}

fn rows(ids: impl IntoIterator<Item = u32>) -> Vec<IndexRow> {
    ids.into_iter().map(IndexRow::new).collect()
}

fn shown(page: &IdPage) -> Vec<&str> {
    page.ids.iter().map(|id| &*id.id).collect()
}

/// A database whose table has the rows 1 to 9, and which notes what it was asked.
#[derive(Default)]
struct Database {
    asked: Mutex<Vec<Want>>,
}

impl Database {
    fn load(&self, want: Want) -> Ready<Result<Vec<IndexRow>, CallError>> {
        let most = want
            .rows
            .map_or(9, |rows| u32::try_from(rows.min(9)).unwrap());
        self.asked.lock().push(want);
        ready(Ok(rows(1..=most)))
    }

    fn reads(&self) -> usize {
        self.asked.lock().len()
    }
}

#[tokio::test]
async fn a_leaf_is_asked_for_by_its_name_and_part_and_its_answer_is_typed() {
    let fake = Fake::unix();
    have(&fake, &[7, 8, 9]);
    let client = client(&fake);
    let index = items(&client)
        .by("shop", "north")
        .order_by("price")
        .descending()
        .between(Some(10.into()), Some(SqlScalar::NULL))
        .limit(2)
        .verified();
    let page = index.read().await.unwrap();
    assert_eq!(page.state, LeafState::Present);
    assert!(page.complete && page.more && page.loads.is_empty());
    let ids: Vec<&str> = page.members.iter().map(|member| &*member.id).collect();
    assert_eq!(ids, ["7", "8"]);
    let next = page.next.unwrap();
    let next = Cursor::from_bytes(&next.to_bytes()).unwrap();
    let rest = items(&client).after(next).limit(2).read().await.unwrap();
    assert_eq!(rest.members[0].id, "9");
    assert!(!rest.more);

    let asked = fake.state.leaves().lock().reads[0].clone();
    let leaf = asked.leaf.unwrap();
    assert_eq!((&*leaf.table, &*leaf.order_by), ("item", "price"));
    assert_eq!(leaf.equal[1].column, "shop");
    assert!(leaf.descending);
    assert_eq!(asked.from, Some(SqlScalar::from(10).into()));
    assert_eq!(asked.to, Some(v1::SqlValue { value: None }));
    assert_eq!(asked.consistency, i32::from(v1::IndexConsistency::Verified));
}

#[tokio::test]
async fn malformed_reads_and_rows_are_refused_here_with_field_value_and_limit() {
    let fake = Fake::unix();
    let client = client(&fake);
    let items = items(&client);
    for (index, field, value) in [
        (client.index("item", v1::SqlDialect::Mysql), "by", "0"),
        (
            client.index("", v1::SqlDialect::Mysql).by("a", 1),
            "table",
            "256",
        ),
        (items.clone().limit(10_001), "limit", "10001"),
        (items.clone().keep_first(0), "keep_first", "0"),
        (items.clone().offset(100_001), "offset", "100001"),
        (
            items.clone().between(Some(1.into()), None),
            "between",
            "order_by",
        ),
    ] {
        let error = index.read().await.unwrap_err();
        let ResolveError::Invalid(invalid) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(invalid.violations[0].field, field);
        assert!(invalid.violations[0].description.contains(value), "{error}");
    }
    assert_eq!(fake.state.calls(Method::IndexRead), 0);

    let first = LeafExtent::First { keep: 0 };
    for (rows, extent, field) in [
        (Vec::new(), first, "rows"),
        (vec![IndexRow::new("")], LeafExtent::Whole, "rows[0].id"),
        (vec![IndexRow::new("x".repeat(129))], first, "rows[0].id"),
        (vec![IndexRow::new(1).ordered_by(1)], first, "rows[0].order"),
        // Without the order by ids a row that is equal to the last one may be lacking.
        (rows([9, 10, 2]), first, "rows[2]"),
    ] {
        let load = items.read().await.unwrap().loads.remove(0);
        let Err(CallError::Invalid(invalid)) = load.fill(rows, extent).await else {
            panic!("{field}");
        };
        assert_eq!(invalid.violations[0].field, field);
        fake.state.leaves().lock().forget();
    }
    assert_eq!(fake.state.calls(Method::IndexFill), 0);
}

#[tokio::test]
async fn a_large_fill_travels_in_parts_and_a_large_prune_in_pieces() {
    let fake = Fake::unix();
    let client = client(&fake);
    let index = items(&client).limit(10_000);
    let load = index.read().await.unwrap().loads.remove(0);
    let filled = load.fill(rows(0..25_000), LeafExtent::Whole).await.unwrap();
    assert_eq!(filled, LeafFill::Stored);
    {
        let leaves = fake.state.leaves().lock();
        let parts = leaves.fills.iter().map(|fill| (fill.rows.len(), fill.more));
        let parts: Vec<_> = parts.collect();
        assert_eq!(parts, [(10_000, true), (10_000, true), (5_000, false)]);
        assert_eq!(leaves.members.as_ref().unwrap().len(), 25_000);
    }
    let page = index.read().await.unwrap();
    let places: Vec<_> = page
        .members
        .iter()
        .map(|member| member.place.clone())
        .collect();
    let evidence = page.evidence.unwrap();
    assert_eq!(evidence.prune(&places[..2_500]).await.unwrap(), 2_500);
    let leaves = fake.state.leaves().lock();
    let pieces: Vec<_> = leaves
        .prunes
        .iter()
        .map(|prune| prune.places.len())
        .collect();
    assert_eq!(pieces, [1_000, 1_000, 500]);
}

#[tokio::test]
async fn long_rows_travel_in_parts_that_a_sidecar_takes() {
    let fake = Fake::unix();
    let index = items(&client(&fake)).order_by("name");
    let load = index.read().await.unwrap().loads.remove(0);
    let long = |id: u32| IndexRow::new(id).ordered_by("x".repeat(1_000));
    let filled = load.fill((0..3_000).map(long).collect(), LeafExtent::Whole);
    assert_eq!(filled.await.unwrap(), LeafFill::Stored);
    assert_eq!(has(&fake).len(), 3_000);
}

#[tokio::test]
async fn another_sidecar_is_asked_and_rights_stay_with_the_one_that_gave_them() {
    let (mut own, other) = (Fake::unix(), Fake::tcp());
    let client = patient(&own.endpoint)
        .fail_over_to(&other.endpoint)
        .build()
        .unwrap();
    let index = items(&client);
    let of_own = index.read().await.unwrap().loads.remove(0);
    have(&own, &[1]);
    let own_page = index.read().await.unwrap();
    own.stop();
    let mut page = index.read().await.unwrap();
    assert_eq!(&*page.answered_by, &*other.endpoint);
    let of_other = page.loads.remove(0);
    of_own.fill(rows([1]), LeafExtent::Whole).await.unwrap_err();
    let place = own_page.members[0].place.clone();
    own_page
        .evidence
        .unwrap()
        .prune(&[place])
        .await
        .unwrap_err();
    assert_eq!(other.state.calls(Method::IndexFill), 0);
    assert_eq!(other.state.calls(Method::IndexPrune), 0);
    let filled = of_other.fill(rows([1]), LeafExtent::Whole).await.unwrap();
    assert_eq!(filled, LeafFill::Stored);
}

#[tokio::test]
async fn ids_come_from_the_leaf_without_the_database() {
    let fake = Fake::unix();
    have(&fake, &[1, 2, 2, 3]);
    let database = Database::default();
    let client = client(&fake);
    let page = items(&client)
        .ids(|want| database.load(want))
        .await
        .unwrap();
    // A row at two places of the order is shown once.
    assert_eq!(shown(&page), ["1", "2", "3"]);
    assert_eq!((page.how, database.reads()), (How::Hit, 0));
    assert_eq!(client.stats().index_hits, 1);
}

#[tokio::test]
async fn an_absent_leaf_is_loaded_from_its_start_once_and_kept() {
    let fake = Fake::unix();
    fake.state.leaves().lock().read_primary = true;
    let database = Database::default();
    let index = items(&client(&fake)).offset(2).limit(3);
    let page = index.ids(|want| database.load(want)).await.unwrap();
    assert_eq!(shown(&page), ["3", "4", "5"]);
    assert!(page.more && page.stored);
    assert_eq!(page.how, How::Filled);
    let whole = Want {
        part: None,
        rows: None,
        from: None,
        to: None,
        read_primary: true,
    };
    assert_eq!(*database.asked.lock(), [whole]);
    assert_eq!(has(&fake).len(), 9);
    // The page behind it is the leaf's, whoever showed the first one.
    let next = index.clone().offset(0).after(page.next.unwrap());
    let next = next.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&next), next.how), (vec!["6", "7", "8"], How::Hit));
    let end = index.offset(0).after(next.next.unwrap());
    let end = end.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&end), end.more), (vec!["9"], false));
    assert_eq!(database.reads(), 1);
}

#[tokio::test]
async fn a_leaf_keeps_its_first_rows_where_it_is_told_so() {
    let fake = Fake::unix();
    let database = Database::default();
    let index = items(&client(&fake)).keep_first(5).limit(2);
    let page = index.ids(|want| database.load(want)).await.unwrap();
    assert_eq!(shown(&page), ["1", "2"]);
    {
        let leaves = fake.state.leaves().lock();
        assert_eq!(leaves.fills[0].rows.len(), 5);
        assert!(leaves.fills[0].partial && leaves.fills[0].keep == 5);
    }
    // Beyond them the database is read, as far as the page goes.
    let page = index.clone().offset(6).limit(1);
    let page = page.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&page), page.how), (vec!["7"], How::Filled));
    assert_eq!(database.asked.lock()[1].rows, Some(8));
    // Fewer rows than were asked for are all that there are.
    let all = index.keep_first(50);
    fake.state.leaves().lock().members = None;
    all.ids(|want| database.load(want)).await.unwrap();
    assert!(!fake.state.leaves().lock().fills.last().unwrap().partial);
}

#[tokio::test]
async fn a_leaf_that_runs_short_is_loaded_anew_beside_its_page() {
    let fake = Fake::unix();
    have(&fake, &[1, 2]);
    fake.state.leaves().lock().refill = true;
    let database = Database::default();
    let index = items(&client(&fake)).limit(2);
    let page = index.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&page), page.how), (vec!["1", "2"], How::Hit));
    assert!(page.stored);
    assert_eq!(has(&fake).len(), 9);
}

#[tokio::test]
async fn who_finds_another_one_loading_looks_again_and_at_last_reads_the_database() {
    let fake = Fake::unix();
    fake.state.leaves().lock().loading = true;
    let database = Database::default();
    let index = items(&client(&fake)).limit(1);
    let impatient = index.clone().load_wait(Duration::ZERO);
    let page = impatient.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&page), page.stored), (vec!["1"], false));
    assert_eq!(database.asked.lock()[0].rows, Some(2));
    let looks = fake.state.calls(Method::IndexRead);
    let waiting = index.ids(|want| database.load(want));
    let loaded = async {
        while fake.state.calls(Method::IndexRead) < looks + 3 {
            tokio::task::yield_now().await;
        }
        have(&fake, &[42]);
    };
    let (page, ()) = tokio::join!(waiting, loaded);
    assert_eq!(shown(&page.unwrap()), ["42"]);
    assert_eq!(database.reads(), 1);
}

#[tokio::test]
async fn g9_what_a_change_overtook_is_shown_and_not_kept() {
    let fake = Fake::unix();
    fake.state.leaves().lock().condemn = true;
    let database = Database::default();
    let index = items(&client(&fake));
    let page = index.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((page.ids.len(), page.stored), (9, false));
    assert!(fake.state.leaves().lock().members.is_none());
}

#[tokio::test]
async fn a_range_is_cut_by_the_sidecar_or_read_as_such_but_not_here() {
    let fake = Fake::unix();
    let asked = Mutex::new(Vec::new());
    let load = |want: Want| {
        asked.lock().push(want.clone());
        let rows = if want.from.is_some() { 3..=4 } else { 1..=9 };
        let rows = rows.map(|id: u32| IndexRow::new(id).ordered_by(id));
        ready(Ok::<_, CallError>(rows.collect()))
    };
    let index = items(&client(&fake)).order_by("price");
    let index = index.between(Some(3.into()), Some(4.into()));
    // The fake knows nothing of ranges; that its whole leaf comes shows who cut.
    let page = index.ids(load).await.unwrap();
    assert_eq!((page.ids.len(), asked.lock().len()), (9, 1));
    assert!(page.stored);
    fake.state.leaves().lock().members = None;
    fake.state.leaves().lock().condemn = true;
    let page = index.ids(load).await.unwrap();
    assert_eq!(shown(&page), ["3", "4"]);
    assert_eq!(asked.lock()[2].to, Some(SqlScalar::from(4).into()));
}

#[tokio::test]
async fn without_a_sidecar_the_database_is_read_and_trouble_is_not_the_readers() {
    let mut fake = Fake::unix();
    let client = client(&fake);
    let database = Database::default();
    let index = items(&client).limit(2);
    let ids = async |index: &Index| index.ids(|want| database.load(want)).await.unwrap();
    fake.state.leaves().lock().bypass = true;
    assert_eq!(ids(&index).await.how, How::Bypassed(BypassReason::Policy));
    fake.state
        .next(Method::IndexRead, Reply::Status(Code::ResourceExhausted));
    assert_eq!(
        ids(&index).await.how,
        How::Bypassed(BypassReason::Overloaded)
    );
    let mut session = Session::new();
    session.add(&Bytes::from_static(&[9; 25])).unwrap();
    let past = index.clone().session(&session);
    assert_eq!(ids(&past).await.how, How::Bypassed(BypassReason::Session));
    // A replica may lack what the session has seen.
    let primary: Vec<_> = database
        .asked
        .lock()
        .iter()
        .map(|want| want.read_primary)
        .collect();
    assert_eq!(primary, [false, false, true]);
    fake.stop();
    let page = ids(&index).await;
    assert_eq!(page.how, How::Bypassed(BypassReason::Unreachable));
    assert_eq!((shown(&page), page.more), (vec!["1", "2"], true));
    let next = ids(&index.after(page.next.unwrap())).await;
    assert_eq!(shown(&next), ["3", "4"]);
}

#[tokio::test]
async fn a_loaders_error_is_the_reads_and_a_caller_s_mistake_too() {
    let fake = Fake::unix();
    let client = client(&fake);
    let calls = AtomicU64::new(0);
    let fail = |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        ready(Err::<Vec<IndexRow>, _>("no database"))
    };
    let error = items(&client).ids(fail).await.unwrap_err();
    assert!(matches!(error, GetError::Fill(error) if *error == "no database"));
    let forbidden = client.index("forbidden", v1::SqlDialect::Sqlite).by("a", 1);
    let error = forbidden.ids(fail).await.unwrap_err();
    assert!(matches!(error, GetError::Invalid(_)));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn of_several_leaves_each_is_loaded_by_itself_and_the_list_is_the_sidecars() {
    let fake = Fake::unix();
    let database = Database::default();
    let index = items(&client(&fake)).or([("category_id", 6)]).limit(3);
    let page = index.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&page), page.how), (vec!["1", "2", "3"], How::Filled));
    assert!(page.stored && page.more);
    // The fake has one leaf, which is the first one.
    let parts = |database: &Database| -> Vec<_> {
        let asked = database.asked.lock();
        asked.iter().map(|want| (want.part, want.rows)).collect()
    };
    assert_eq!(parts(&database), [(Some(0), None)]);
    let sent = fake.state.leaves().lock().reads[0].any_of.clone();
    assert_eq!(sent.len(), 1);
    // What is not kept is not waited for: the page is the database's, of the whole index.
    let fake = Fake::unix();
    fake.state.leaves().lock().condemn = true;
    let index = items(&client(&fake)).or([("category_id", 6)]).limit(3);
    let database = Database::default();
    let page = index.ids(|want| database.load(want)).await.unwrap();
    assert_eq!((shown(&page), page.stored), (vec!["1", "2", "3"], false));
    assert_eq!(parts(&database), [(Some(0), None), (None, Some(4))]);
    assert_eq!(fake.state.calls(Method::IndexRead), 1);
}

#[tokio::test]
async fn pages_behind_those_of_the_database_go_on_there_where_a_sidecar_counts_no_further() {
    let fake = Fake::unix();
    let index = items(&client(&fake)).or([("category_id", 6)]);
    let none = |_: Want| ready(Ok::<_, CallError>(Vec::new()));
    let deep = Cursor::from_bytes(&cursor_of_database(50_001)).unwrap();
    index.clone().after(deep).ids(none).await.unwrap();
    assert_eq!(fake.state.calls(Method::IndexRead), 0);
    let near = Cursor::from_bytes(&cursor_of_database(50_000)).unwrap();
    index.clone().after(near).ids(none).await.unwrap();
    assert!(fake.state.calls(Method::IndexRead) > 0);
    let wrong = index.offset(50_001).ids(none).await.unwrap_err();
    assert!(
        wrong.to_string().contains("50001 is above 50000"),
        "{wrong}"
    );
}

/// The byte form of a cursor that the database showed, behind so many rows (docs/formats.md).
fn cursor_of_database(passed: u64) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(passed.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(b"7");
    bytes
}
