//! G9 on real sidecars: indices whose leaves follow the rows of a real database (SQLite), from node to node.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use grapevine_integration_tests::{Setup, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::{Connection, params};
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::support::{SOON, column, integer, row_change};

type App = ApplicationServiceClient<Channel>;

/// The items of a category, by falling price.
fn items_of(category: i64) -> v1::IndexLeaf {
    v1::IndexLeaf {
        table: "Items".to_owned(),
        equal: vec![column("Category", category)],
        order_by: "Price".to_owned(),
        descending: true,
        dialect: v1::SqlDialect::Sqlite.into(),
    }
}

/// The database.
struct Shop(Connection);

/// An item as the database has it.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    id: i64,
    category: i64,
    price: i64,
    version: u64,
}

impl Shop {
    fn open() -> Self {
        let database = Connection::open_in_memory().unwrap();
        let schema =
            "CREATE TABLE items (id INTEGER PRIMARY KEY, category INT, price INT, version INT)";
        database.execute(schema, []).unwrap();
        Self(database)
    }

    fn put(&self, item: &Item) {
        let sql = "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)";
        let Item {
            id,
            category,
            price,
            version,
        } = item;
        let values = params![id, category, price, i64::try_from(*version).unwrap()];
        self.0.execute(sql, values).unwrap();
    }

    fn remove(&self, id: i64) {
        let sql = "DELETE FROM items WHERE id = ?";
        self.0.execute(sql, [id]).unwrap();
    }

    fn select(&self, sql: &str, value: i64) -> Vec<Item> {
        let mut statement = self.0.prepare(sql).unwrap();
        let rows = statement.query_map([value], |row| {
            Ok(Item {
                id: row.get(0)?,
                category: row.get(1)?,
                price: row.get(2)?,
                version: row.get::<_, i64>(3)?.unsigned_abs(),
            })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn get(&self, id: i64) -> Option<Item> {
        self.select("SELECT * FROM items WHERE id = ?", id).pop()
    }

    fn of_category(&self, category: i64) -> Vec<Item> {
        let sql = "SELECT * FROM items WHERE category = ? ORDER BY price DESC, id DESC";
        self.select(sql, category)
    }
}

/// Tells a sidecar of a change that was committed; the session token.
async fn tell(
    app: &App,
    (old, new): (Option<&Item>, Option<&Item>),
    receipt: v1::ReceiptLevel,
    (id, version): (i64, u64),
) -> Vec<u8> {
    let columns = |item: &Item| {
        vec![
            column("category", item.category),
            column("price", item.price),
        ]
    };
    let change = row_change("items", (old.map(columns), new.map(columns)), (id, version));
    let call = v1::RowChangedRequest {
        changes: vec![change],
        dialect: v1::SqlDialect::Sqlite.into(),
        receipt: receipt.into(),
        ..Default::default()
    };
    let answer = app.clone().row_changed(call).await;
    let outcome = answer.unwrap().into_inner().outcome.unwrap();
    assert!(outcome.receipt.unwrap().satisfied);
    outcome.session_token.into()
}

async fn read(app: &App, request: v1::IndexReadRequest) -> v1::IndexReadResponse {
    app.clone().index_read(request).await.unwrap().into_inner()
}

fn whole(leaf: v1::IndexLeaf) -> v1::IndexReadRequest {
    v1::IndexReadRequest {
        leaf: Some(leaf),
        limit: 10_000,
        ..Default::default()
    }
}

/// Tells a sidecar what the database has of a leaf.
async fn fill(app: &App, category: i64, load: &[u8], items: &[Item]) -> v1::IndexFillOutcome {
    let rows = items.iter().map(|item| v1::IndexRow {
        id: item.id.to_string(),
        order_value: Some(integer(item.price)),
        version: item.version,
    });
    let call = v1::IndexFillRequest {
        leaf: Some(items_of(category)),
        load: load.to_vec().into(),
        rows: rows.collect(),
        ..Default::default()
    };
    let answer = app.clone().index_fill(call).await;
    answer.unwrap().into_inner().outcome()
}

/// The right to load the leaf, if there is one.
fn right_of(answer: &v1::IndexReadResponse) -> Option<Vec<u8>> {
    let turn = answer.turns.first()?;
    (!turn.load.is_empty()).then(|| turn.load.to_vec())
}

/// Reads a leaf, and loads it from the database where it is absent.
async fn present(
    app: &App,
    shop: &Shop,
    category: i64,
    session: Option<v1::Session>,
) -> v1::IndexReadResponse {
    let mut request = whole(items_of(category));
    request.session = session;
    eventually("the leaf is present", SOON, async || {
        let answer = read(app, request.clone()).await;
        if let Some(load) = right_of(&answer) {
            let items = shop.of_category(category);
            fill(app, category, &load, &items).await;
        }
        ensure!(answer.state() == v1::IndexState::Present, "{answer:?}");
        Ok(answer)
    })
    .await
    .unwrap()
}

fn ids(answer: &v1::IndexReadResponse) -> Vec<i64> {
    let ids = answer.members.iter();
    ids.map(|member| member.id.parse().unwrap()).collect()
}

async fn prune(
    app: &App,
    category: i64,
    read: &v1::IndexReadResponse,
    is_gone: impl Fn(i64) -> bool,
) -> u32 {
    let members = read.members.iter().zip(ids(read));
    let gone = members.filter(|(_, id)| is_gone(*id));
    remove(
        app,
        category,
        read,
        gone.map(|(member, _)| member).collect(),
    )
    .await
}

async fn remove(
    app: &App,
    category: i64,
    read: &v1::IndexReadResponse,
    members: Vec<&v1::IndexMember>,
) -> u32 {
    let call = v1::IndexPruneRequest {
        leaf: Some(items_of(category)),
        evidence: read.evidence.clone(),
        places: members
            .into_iter()
            .map(|member| member.place.clone())
            .collect(),
    };
    let answer = app.clone().index_prune(call).await;
    answer.unwrap().into_inner().removed
}

/// The essay's example: an item goes from category 5 to 6 and back, told at one sidecar and read at others.
#[tokio::test(flavor = "multi_thread")]
async fn g9_an_item_that_wanders_is_in_the_list_of_its_category_at_every_sidecar() {
    let cluster = Setup::of(3).start().await.unwrap();
    let [reader, writer, other] = [0, 1, 2].map(|node| cluster[node].api.app.clone());
    let shop = Shop::open();
    let item = |id, category, price, version| Item {
        id,
        category,
        price,
        version,
    };
    for id in 1..=3 {
        shop.put(&item(id, 5, id * 10, 1));
    }
    let five = present(&reader, &shop, 5, None).await;
    assert_eq!(ids(&five), [3, 2, 1], "the dearest first");
    assert!(five.complete && !five.more);
    present(&reader, &shop, 6, None).await;
    // 5 -> 6, told with the new row alone.
    shop.put(&item(3, 6, 30, 2));
    let moved = item(3, 6, 30, 2);
    tell(&writer, (None, Some(&moved)), v1::ReceiptLevel::All, (3, 2)).await;
    let six = read(&reader, whole(items_of(6))).await;
    assert_eq!(ids(&six), [3], "added at once, where it is");
    let before = read(&reader, whole(items_of(5))).await;
    assert_eq!(ids(&before), [3, 2, 1], "and removed where somebody looks");
    let mut verified = whole(items_of(5));
    verified.consistency = v1::IndexConsistency::Verified.into();
    let checked = read(&reader, verified).await;
    assert_eq!((ids(&checked), checked.filtered), (vec![2, 1], 1));
    // 6 -> 5 before whoever looked at it comes with its prune.
    shop.put(&item(3, 5, 30, 3));
    let back = item(3, 5, 30, 3);
    tell(
        &other,
        (Some(&moved), Some(&back)),
        v1::ReceiptLevel::All,
        (3, 3),
    )
    .await;
    assert_eq!(prune(&reader, 5, &before, |id| id == 3).await, 0);
    let five = read(&reader, whole(items_of(5))).await;
    assert_eq!(ids(&five), [3, 2, 1]);
    // It has left 6 with what it was, and with its version: nobody has to look.
    assert_eq!(ids(&read(&reader, whole(items_of(6))).await), []);
    shop.remove(2);
    tell(&other, (None, None), v1::ReceiptLevel::All, (2, 2)).await;
    let five = read(&reader, whole(items_of(5))).await;
    assert_eq!(
        prune(&reader, 5, &five, |id| id == 2).await,
        u32::from(ids(&five).contains(&2))
    );
    assert_eq!(ids(&read(&reader, whole(items_of(5))).await), [3, 1]);
}

/// A load is overtaken: by a row that is added, which it keeps, and by a change of unknown rows, which condemns it.
#[tokio::test(flavor = "multi_thread")]
async fn g9_what_changes_while_a_leaf_is_loaded_is_in_it_or_condemns_it() {
    let cluster = Setup::of(2).start().await.unwrap();
    let [reader, mut writer] = [0, 1].map(|node| cluster[node].api.app.clone());
    let load = |category| {
        let reader = &reader;
        eventually("there is a right to load", SOON, async move || {
            let answer = read(reader, whole(items_of(category))).await;
            right_of(&answer).ok_or_else(|| anyhow!("{answer:?}"))
        })
    };
    let right = load(5).await.unwrap();
    let early = read(&reader, whole(items_of(5))).await;
    assert!(
        right_of(&early).is_none() && early.turns[0].retry_after_ms > 0,
        "one loads"
    );
    let added = Item {
        id: 7,
        category: 5,
        price: 1,
        version: 0,
    };
    tell(&writer, (None, Some(&added)), v1::ReceiptLevel::All, (7, 0)).await;
    let outcome = fill(&reader, 5, &right, &[]).await;
    assert_eq!(outcome, v1::IndexFillOutcome::Stored);
    assert_eq!(ids(&read(&reader, whole(items_of(5))).await), [7]);
    assert_eq!(
        fill(&reader, 5, &right, &[]).await,
        v1::IndexFillOutcome::Over,
        "a right is for one load"
    );
    let right = load(6).await.unwrap();
    let answer = writer.invalidate_where(v1::InvalidateWhereRequest {
        sql: "UPDATE items SET category = 6 WHERE price > 100".to_owned(),
        dialect: v1::SqlDialect::Sqlite.into(),
        receipt: v1::ReceiptLevel::All.into(),
        ..Default::default()
    });
    answer.await.unwrap();
    let outcome = fill(&reader, 6, &right, &[]).await;
    assert_eq!(outcome, v1::IndexFillOutcome::Condemned);
    let answer = read(&reader, whole(items_of(6))).await;
    assert_eq!(
        answer.state(),
        v1::IndexState::Absent,
        "unknown, never empty"
    );
    let answer = read(&reader, whole(items_of(5))).await;
    assert_eq!(
        answer.state(),
        v1::IndexState::Absent,
        "so is whatever it may have met"
    );
}

/// Reads by the columns of an index that is declared need not make its shape known first.
#[tokio::test(flavor = "multi_thread")]
async fn a_declared_index_is_known_before_it_is_read() {
    let toml = "[index]\ndeclared = [\"items:category\", \"bids:item+bidder\"]\n";
    let cluster = Setup::of(2).toml(toml).start().await.unwrap();
    for node in cluster.nodes() {
        eventually("both are known", SOON, async || {
            let known = node.api.counter("shapes_made_known").await?;
            ensure!(known >= 2, "{}: {known}", node.id);
            Ok(())
        })
        .await
        .unwrap();
        let first = read(&node.api.app, whole(items_of(5))).await;
        assert!(right_of(&first).is_some(), "{first:?}");
    }
}

/// A row is announced at one sidecar: it is in the list of another one at once, whoever looks for it in vain; and is a member once it is committed.
/// Another one is never committed: nobody knows, and its list is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn g8_g9_a_row_that_is_being_written_is_in_the_list_until_its_write_ends() {
    let cluster = Setup::of(2).start().await.unwrap();
    let [writer, other] = [0, 1].map(|node| crate::fence::client(&cluster[node]));
    let shop = Shop::open();
    let reader = cluster[1].api.app.clone();
    present(&reader, &shop, 5, None).await;
    let change = |id: i64| v1::RowChange {
        table: "items".to_owned(),
        kind: v1::RowChangeKind::Insert.into(),
        new: vec![column("category", 5), column("price", id)],
        id: id.to_string(),
        ..Default::default()
    };
    let shown = |expected: &'static [i64]| {
        let reader = &reader;
        eventually("it is shown", SOON, async move || {
            let answer = read(reader, whole(items_of(5))).await;
            let present = answer.state() == v1::IndexState::Present;
            ensure!(present && ids(&answer) == expected, "{answer:?}");
            Ok(answer)
        })
    };
    let dialect = v1::SqlDialect::Sqlite;
    let write = writer.begin_row_write(dialect, [change(7)]).await.unwrap();
    let early = shown(&[7]).await.unwrap();
    assert_eq!(prune(&reader, 5, &early, |id| id == 7).await, 0, "in doubt");
    shown(&[7]).await.unwrap();
    write.commit().receipt(v1::ReceiptLevel::All).await.unwrap();
    assert_eq!(
        prune(&reader, 5, &early, |id| id == 7).await,
        0,
        "it came since"
    );
    shown(&[7]).await.unwrap();
    // What was announced is gone with the abort, whoever is told of it.
    let write = writer.begin_row_write(dialect, [change(8)]).await.unwrap();
    shown(&[8, 7]).await.unwrap();
    other.abort_write(write.intent().clone()).await.unwrap();
    shown(&[7]).await.unwrap();
    let lease = Duration::from_secs(1);
    let write = writer.begin_row_write(dialect, [change(9)]).lease(lease);
    drop(write.await.unwrap());
    eventually("the list is unknown", SOON, async || {
        let answer = read(&reader, whole(items_of(5))).await;
        let state = answer.state();
        ensure!(state == v1::IndexState::Absent, "{answer:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Random rows and changes, told at any sidecar with or without what they were, and read at any other with the session: what is read,
/// looked at and pruned is what SQLite has. `GRAPEVINE_SEED` replays one.
#[tokio::test(flavor = "multi_thread")]
async fn g5_g9_lists_that_are_read_with_the_session_are_those_of_the_database() {
    const STEPS: usize = 600;
    let seed = std::env::var("GRAPEVINE_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("GRAPEVINE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Setup::of(3).start().await.unwrap();
    let apps = [0, 1, 2].map(|node| cluster[node].api.app.clone());
    let shop = Shop::open();
    let (mut extra, mut reads) = (0, 0);
    for step in 0..STEPS {
        let id = random.random_range(1..=20);
        let counted = id % 2 == 0;
        let old = shop.get(id);
        let version = if counted { step as u64 + 1 } else { 0 };
        let new = random.random_bool(0.8).then(|| Item {
            id,
            category: random.random_range(1..=3),
            price: random.random_range(1..=9),
            version,
        });
        match &new {
            Some(item) => shop.put(item),
            None => shop.remove(id),
        }
        let told = old.as_ref().filter(|_| random.random_bool(0.5));
        let app = &apps[random.random_range(0..3)];
        let receipt = [v1::ReceiptLevel::None, v1::ReceiptLevel::One][random.random_range(0..2)];
        let token = tell(app, (told, new.as_ref()), receipt, (id, version)).await;
        let app = &apps[random.random_range(0..3)];
        let category = random.random_range(1..=3);
        let session = v1::Session {
            tokens: vec![token.into()],
            ..Default::default()
        };
        let answer = present(app, &shop, category, Some(session)).await;
        let listed = ids(&answer);
        let truth = shop.of_category(category);
        let here: BTreeSet<i64> = truth.iter().map(|item| item.id).collect();
        let missing = here.iter().find(|id| !listed.contains(id));
        assert_eq!(missing, None, "step {step}: {listed:?} of {truth:?}");
        // What is at the place of its price is there, and whatever else is extra.
        let stale = |member: &v1::IndexMember, id: i64| {
            let row = truth.iter().find(|item| item.id == id);
            row.is_none_or(|item| place_of(item) != member.place)
        };
        let gone = answer.members.iter().zip(&listed);
        let gone: Vec<_> = gone.filter(|(member, id)| stale(member, **id)).collect();
        extra += gone.len();
        reads += 1;
        if !gone.is_empty() {
            let members = gone.iter().map(|(member, _)| *member).collect();
            let pruned = remove(app, category, &answer, members).await as usize;
            assert_eq!(pruned, gone.len(), "nobody writes meanwhile");
            let answer = read(app, whole(items_of(category))).await;
            let truth: Vec<_> = truth.iter().map(|item| item.id).collect();
            assert_eq!(
                ids(&answer),
                truth,
                "step {step}, after one pass of pruning"
            );
        }
    }
    println!("{reads} reads, {extra} members that were elsewhere");
    assert!(extra > 50, "{extra} members were pruned");
}

/// The byte form of an item's place (docs/formats.md).
fn place_of(item: &Item) -> Vec<u8> {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let bits = (item.price as f64).to_bits() | 1 << 63;
    let mut place = vec![1, 0];
    place.extend_from_slice(&bits.to_be_bytes());
    place.extend_from_slice(item.id.to_string().as_bytes());
    place
}

/// The fields that a refusal names.
fn fields(status: &tonic::Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let fields = violations.iter().map(|violation| violation.field.clone());
    fields.collect()
}

/// In a column of text `05` and `5` are two values, with rows of their own.
#[tokio::test(flavor = "multi_thread")]
async fn g9_a_value_that_may_be_two_to_the_database_has_no_leaf() {
    let cluster = Setup::of(1).start().await.unwrap();
    let app = &cluster[0].api.app;
    let of = |text: &str| v1::ColumnValue {
        column: "category".to_owned(),
        value: Some(v1::SqlValue {
            value: Some(v1::sql_value::Value::Text(text.to_owned())),
        }),
    };
    let with = |mut request: v1::IndexReadRequest, text: &str| {
        request.leaf.as_mut().unwrap().equal = vec![of(text)];
        request
    };
    for (text, state) in [
        ("5", v1::IndexState::Absent),
        ("05", v1::IndexState::Bypass),
        ("5.0", v1::IndexState::Bypass),
        ("books", v1::IndexState::Absent),
    ] {
        let answer = read(app, with(whole(items_of(5)), text)).await;
        assert_eq!(answer.state(), state, "{text}");
        assert_eq!(answer.turns.is_empty(), state == v1::IndexState::Bypass);
        // Beside another leaf it is as bad.
        let mut two = with(whole(items_of(5)), "6");
        two.any_of = vec![v1::IndexCriteria {
            equal: vec![of(text)],
        }];
        assert_eq!(read(app, two).await.state(), state, "6 or {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_order_that_all_agree_on_is_refused_where_it_matters() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    // Texts have no order that databases agree on, whatever they read as.
    for text in ["yes", "a", "12"] {
        let mut bad = whole(items_of(5));
        bad.from = Some(v1::SqlValue {
            value: Some(v1::sql_value::Value::Text(text.to_owned())),
        });
        let refused = app.index_read(bad).await.unwrap_err();
        assert_eq!(fields(&refused), ["from"], "{text}");
    }
    let mut times = whole(items_of(5));
    times.from = Some(v1::SqlValue {
        value: Some(v1::sql_value::Value::Text("2026-01-05".to_owned())),
    });
    app.index_read(times).await.unwrap();
    let mut deep = whole(items_of(5));
    deep.any_of = vec![v1::IndexCriteria {
        equal: vec![column("category", 6)],
    }];
    deep.offset = 50_001;
    let refused = app.index_read(deep).await.unwrap_err();
    assert_eq!(fields(&refused), ["offset"]);
    let refused = app.index_fill(v1::IndexFillRequest {
        leaf: Some(v1::IndexLeaf {
            order_by: String::new(),
            ..items_of(5)
        }),
        load: [&[3; 17][..], &[0; 8]].concat().into(),
        rows: vec![v1::IndexRow {
            id: "a".to_owned(),
            ..Default::default()
        }],
        partial: true,
        ..Default::default()
    });
    assert_eq!(fields(&refused.await.unwrap_err()), ["partial"]);
    let nothing = app.invalidate_where(v1::InvalidateWhereRequest {
        sql: "DELETE FROM items WHERE 1 = 0".to_owned(),
        ..Default::default()
    });
    assert_eq!(fields(&nothing.await.unwrap_err()), ["sql"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_calls_of_indices_are_told_field_value_and_limit() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let mut bad = whole(items_of(5));
    bad.limit = 10_001;
    bad.offset = 100_001;
    bad.cursor = vec![9].into();
    bad.consistency = 7;
    let refused = app.index_read(bad).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        ["limit", "offset", "consistency", "cursor"]
    );
    let mut bad = whole(items_of(5));
    let leaf = bad.leaf.as_mut().unwrap();
    leaf.order_by.clear();
    leaf.equal.push(column("category", 6));
    bad.from = Some(integer(1));
    let refused = app.index_read(bad).await.unwrap_err();
    assert_eq!(fields(&refused), ["leaf.equal[1].column", "from"]);
    let refused = app.index_read(v1::IndexReadRequest::default()).await;
    assert_eq!(fields(&refused.unwrap_err()), ["leaf"]);
    let refused = app.index_fill(v1::IndexFillRequest {
        leaf: Some(items_of(5)),
        load: vec![1; 25].into(),
        rows: vec![v1::IndexRow::default()],
        ..Default::default()
    });
    assert_eq!(fields(&refused.await.unwrap_err()), ["load", "rows[0].id"]);
    // The first rows only: of what the database orders as the sidecar does.
    let text = v1::SqlValue {
        value: Some(v1::sql_value::Value::Text("a".to_owned())),
    };
    let truth = v1::SqlValue {
        value: Some(v1::sql_value::Value::Text("yes".to_owned())),
    };
    for (values, field) in [
        ([integer(1 << 54), integer(1)], "partial"),
        ([text, integer(1)], "partial"),
        ([truth, integer(1)], "partial"),
    ] {
        let rows = values.into_iter().zip(1..).map(|(value, id)| v1::IndexRow {
            id: id.to_string(),
            order_value: Some(value),
            version: 0,
        });
        let refused = app.index_fill(v1::IndexFillRequest {
            leaf: Some(items_of(5)),
            load: [&[3; 17][..], &[0; 8]].concat().into(),
            rows: rows.collect(),
            partial: true,
            ..Default::default()
        });
        assert_eq!(fields(&refused.await.unwrap_err()), [field]);
    }
    let refused = app.index_prune(v1::IndexPruneRequest {
        leaf: Some(items_of(5)),
        ..Default::default()
    });
    assert_eq!(fields(&refused.await.unwrap_err()), ["evidence", "places"]);
    let refused = app.row_changed(v1::RowChangedRequest {
        changes: vec![v1::RowChange {
            table: "items".to_owned(),
            version: 3,
            ..Default::default()
        }],
        ..Default::default()
    });
    assert_eq!(fields(&refused.await.unwrap_err()), ["changes[0].version"]);
    tokio::time::timeout(
        Duration::from_secs(5),
        present(&app, &Shop::open(), 5, None),
    )
    .await
    .expect("it serves on");
}

/// A tenth of a leaf's members have moved on, and nobody said where they had been: whoever reads it once and prunes what is elsewhere leaves it
/// as the database has it.
#[tokio::test(flavor = "multi_thread")]
async fn g9_a_leaf_of_a_thousand_with_a_tenth_elsewhere_is_clean_after_one_pass() {
    const ROWS: i64 = 1_000;
    let cluster = Setup::of(1).start().await.unwrap();
    let app = cluster[0].api.app.clone();
    let shop = Shop::open();
    let item = |id: i64, category: i64| Item {
        id,
        category,
        price: id % 97,
        version: 0,
    };
    for id in 1..=ROWS {
        shop.put(&item(id, 5));
    }
    let answer = present(&app, &shop, 5, None).await;
    assert_eq!(answer.members.len(), 1_000);
    for id in (1..=ROWS).filter(|id| id % 10 == 0) {
        let moved = item(id, 6);
        shop.put(&moved);
        tell(&app, (None, Some(&moved)), v1::ReceiptLevel::One, (id, 0)).await;
    }
    let answer = read(&app, whole(items_of(5))).await;
    assert_eq!(answer.members.len(), 1_000, "who left is extra");
    let pruned = prune(&app, 5, &answer, |id| id % 10 == 0).await;
    assert_eq!(pruned, 100);
    let truth: Vec<_> = shop.of_category(5).iter().map(|item| item.id).collect();
    let answer = read(&app, whole(items_of(5))).await;
    assert_eq!(ids(&answer), truth);
}
