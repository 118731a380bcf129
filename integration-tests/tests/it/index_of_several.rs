//! G9 on real sidecars, of lists that several leaves make: OR and IN by union, AND by intersection, against SQLite.

use std::convert::Infallible;

use grapevine_client::{Client, Index, IndexRow, Session, SqlScalar, Want};
use grapevine_integration_tests::Setup;
use grapevine_proto::v1;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::{Connection, params};
use tonic_types::StatusExt as _;

use crate::fence::client;
use crate::support::{column, row_change};

const DIALECT: v1::SqlDialect = v1::SqlDialect::Sqlite;

/// A lot as the database has it; versions are counted.
#[derive(Clone, Debug)]
struct Lot {
    id: i64,
    category: i64,
    seller: i64,
    price: i64,
    version: u64,
}

struct House(Connection);

/// A list of two leaves, and the conditions of it and of them.
struct List {
    index: Index,
    parts: [&'static str; 2],
    whole: &'static str,
}

impl House {
    fn open() -> Self {
        let database = Connection::open_in_memory().unwrap();
        let schema = "CREATE TABLE lots (id INTEGER PRIMARY KEY, category INT, seller INT, price INT, version INT)";
        database.execute(schema, []).unwrap();
        Self(database)
    }

    fn get(&self, id: i64) -> Option<Lot> {
        let sql = "SELECT id, category, seller, price, version FROM lots WHERE id = ?";
        let row = self.0.query_row(sql, [id], |row| {
            Ok(Lot {
                id: row.get(0)?,
                category: row.get(1)?,
                seller: row.get(2)?,
                price: row.get(3)?,
                version: row.get::<_, i64>(4)?.unsigned_abs(),
            })
        });
        row.ok()
    }

    fn put(&self, lot: &Lot) {
        let sql = "INSERT OR REPLACE INTO lots VALUES (?, ?, ?, ?, ?)";
        let version = i64::try_from(lot.version).unwrap();
        let values = params![lot.id, lot.category, lot.seller, lot.price, version];
        self.0.execute(sql, values).unwrap();
    }

    fn remove(&self, id: i64) {
        let sql = "DELETE FROM lots WHERE id = ?";
        self.0.execute(sql, [id]).unwrap();
    }

    /// Ids, prices and versions.
    fn select(&self, condition: &str) -> Vec<[i64; 3]> {
        let sql = format!(
            "SELECT id, price, version FROM lots WHERE {condition} ORDER BY price DESC, id DESC"
        );
        let mut statement = self.0.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]));
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn ids(&self, condition: &str) -> Vec<String> {
        let rows = self.select(condition);
        rows.iter().map(|[id, ..]| id.to_string()).collect()
    }

    fn rows(&self, condition: &str) -> Vec<IndexRow> {
        let rows = self.select(condition).into_iter();
        let rows = rows.map(|[id, price, version]| {
            let row = IndexRow::new(id).ordered_by(price);
            row.version(version.unsigned_abs())
        });
        rows.collect()
    }
}

fn lists(client: &Client, session: &Session) -> [List; 2] {
    let index = || {
        let index = client.index("lots", DIALECT).by("category", 1);
        let index = index.order_by("price").descending();
        index.verified().session(session)
    };
    [
        List {
            index: index().or([("category", 2)]),
            parts: ["category = 1", "category = 2"],
            whole: "category IN (1, 2)",
        },
        List {
            index: index().and([("seller", 1)]),
            parts: ["category = 1", "seller = 1"],
            whole: "category = 1 AND seller = 1",
        },
    ]
}

/// Tells what was committed; the session.
async fn tell(
    client: &Client,
    id: i64,
    old: Option<&Lot>,
    new: Option<&Lot>,
    version: u64,
) -> Session {
    let columns = |lot: &Lot| {
        vec![
            column("category", lot.category),
            column("seller", lot.seller),
            column("price", lot.price),
        ]
    };
    let change = row_change("lots", (old.map(columns), new.map(columns)), (id, version));
    let told = client.row_changed(DIALECT, [change]).await.unwrap();
    let mut session = Session::new();
    session.add(&told.session_token).unwrap();
    session
}

/// Random lots, told at one sidecar and listed at another, page by page: of versions that are counted nothing is left to prune, so each
/// list is SQLite's. `GRAPEVINE_SEED` replays one.
#[tokio::test(flavor = "multi_thread")]
async fn g9_lists_that_several_leaves_make_are_those_of_the_database() {
    const STEPS: u64 = 300;
    let seed = std::env::var("GRAPEVINE_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("GRAPEVINE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Setup::of(3).start().await.unwrap();
    let clients = [0, 1, 2].map(|node| client(&cluster[node]));
    let house = House::open();
    let mut from_leaves = 0;
    for step in 1..=STEPS {
        let id = random.random_range(1..=12);
        let old = house.get(id);
        let new = random.random_bool(0.85).then(|| Lot {
            id,
            category: random.random_range(1..=3),
            seller: random.random_range(1..=2),
            price: random.random_range(1..=5),
            version: step,
        });
        match &new {
            Some(lot) => house.put(lot),
            None => house.remove(id),
        }
        let writer = &clients[random.random_range(0..3)];
        let session = tell(writer, id, old.as_ref(), new.as_ref(), step).await;
        let reader = &clients[random.random_range(0..3)];
        for list in lists(reader, &session) {
            let limit = random.random_range(1..=4);
            from_leaves += pages(&house, &list, limit, &format!("step {step}")).await;
        }
    }
    println!("{from_leaves} pages came from leaves");
    assert!(from_leaves > STEPS, "{from_leaves} pages came from leaves");
}

/// Reads all pages of a list, and compares them; how many came from leaves.
async fn pages(house: &House, list: &List, limit: u32, when: &str) -> u64 {
    let load = |want: Want| {
        let condition = want.part.map_or(list.whole, |part| list.parts[part]);
        let mut rows = house.rows(condition);
        if let Some(most) = want.rows {
            rows.truncate(usize::try_from(most).unwrap());
        }
        std::future::ready(Ok::<_, Infallible>(rows))
    };
    let mut listed = Vec::new();
    let mut from_leaves = 0;
    let mut index = list.index.clone().limit(limit);
    loop {
        let page = index.ids(load).await.unwrap();
        from_leaves += u64::from(page.how == grapevine_client::How::Hit);
        listed.extend(page.ids.into_iter().map(|id| id.id));
        match page.next.filter(|_| page.more) {
            Some(next) => index = index.after(next),
            None => break,
        }
    }
    let truth = house.ids(list.whole);
    assert_eq!(listed, truth, "{when}: {}", list.whole);
    from_leaves
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_combinations_of_leaves_are_told_field_and_limit() {
    let cluster = Setup::of(1).start().await.unwrap();
    let client = client(&cluster[0]);
    let index = || client.index("lots", DIALECT).by("category", 1);
    let told = async |index: Index| index.read().await.unwrap_err().to_string();
    let both = index().or([("category", 2)]).and([("seller", 1)]);
    assert!(told(both).await.contains("only one kind"));
    let many = (2..40).fold(index(), |index, category| {
        index.or([("category", category)])
    });
    assert!(told(many).await.contains("or: 39 leaves are more than 32"));
    let none = index().or::<&str, SqlScalar>([]);
    assert!(told(none).await.contains("or[0]"));
    let first = index().and([("seller", 1)]).keep_first(10);
    assert!(told(first).await.contains("keep_first"));
    // The sidecar says the same to those who ask without the client.
    let criteria = |count| vec![v1::IndexCriteria::default(); count];
    let request = v1::IndexReadRequest {
        leaf: Some(v1::IndexLeaf {
            table: "lots".to_owned(),
            equal: vec![column("category", 1)],
            ..Default::default()
        }),
        any_of: criteria(32),
        all_of: criteria(1),
        ..Default::default()
    };
    let refused = cluster[0].api.app.clone().index_read(request.clone()).await;
    let details = refused.unwrap_err().get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|wrong| &*wrong.field).collect();
    for field in ["any_of", "all_of"] {
        assert!(fields.contains(&field), "{field} in {fields:?}");
    }
    let request = v1::IndexReadRequest {
        any_of: Vec::new(),
        ..request
    };
    let refused = cluster[0].api.app.clone().index_read(request).await;
    let details = refused.unwrap_err().get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "all_of[0].equal");
}
