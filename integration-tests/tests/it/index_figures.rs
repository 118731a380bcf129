//! Figures of indices over a socket, for docs/benchmarks.md: they are printed, and nothing is judged but the answers.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::ensure;
use grapevine_client::{How, Index, IndexRow, LeafExtent, LeafFill, Want};
use grapevine_integration_tests::{Setup, eventually};
use grapevine_proto::v1;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fence::client;
use crate::support::{SOON, column, row_change};

const MEMBERS: i64 = 1_000_000;
const PAGES: usize = 20_000;

async fn load(index: &Index, rows: impl Iterator<Item = i64>) {
    let right = eventually("there is a right to load", SOON, async || {
        let mut page = index.read().await?;
        ensure!(!page.loads.is_empty(), "{page:?}");
        Ok(page.loads.remove(0))
    })
    .await
    .unwrap();
    let rows = rows.map(|id| IndexRow::new(id).ordered_by(id)).collect();
    let outcome = right.fill(rows, LeafExtent::Whole).await.unwrap();
    assert_eq!(outcome, LeafFill::Stored);
}

/// 100 ids from anywhere in a leaf of a million, by one caller after the other. `GRAPEVINE_BIN` names a release build.
#[ignore = "a figure: a minute, and a gigabyte of rows"]
#[tokio::test(flavor = "multi_thread")]
async fn figure_a_page_of_a_large_leaf() {
    let cluster = Setup::of(1).start().await.unwrap();
    let client = client(&cluster[0]);
    let index = client.index("items", v1::SqlDialect::Sqlite);
    let index = index.by("category", 5).order_by("price").limit(100);
    let began = Instant::now();
    load(&index, 0..MEMBERS).await;
    println!("{MEMBERS} rows were loaded in {:.1?}", began.elapsed());
    let mut random = StdRng::seed_from_u64(1);
    let none = |_: Want| std::future::ready(Ok::<Vec<IndexRow>, Infallible>(Vec::new()));
    let mut times = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let first = random.random_range(0..MEMBERS - 100);
        let page = index.clone().between(Some(first.into()), None);
        let began = Instant::now();
        let page = page.ids(none).await.unwrap();
        times.push(began.elapsed());
        let ids = page.ids.iter().map(|id| id.id.parse::<i64>().unwrap());
        assert!(ids.eq(first..first + 100));
        assert_eq!(page.how, How::Hit);
    }
    times.sort_unstable();
    let at = |per_mille: usize| times[(PAGES - 1) * per_mille / 1_000];
    println!(
        "{PAGES} pages of 100: p50 {:.0?}, p99 {:.0?}, p99.9 {:.0?}",
        at(500),
        at(990),
        at(999)
    );
    assert!(at(500) > Duration::ZERO);
}

const ROWS: i64 = 100_000;
/// Rows in one call, and callers.
const OF_CALL: usize = 32;
const CALLERS: i64 = 16;

/// Rows that come into ten leaves each, by calls of 32 from 16 callers, through one sidecar with its disk. `GRAPEVINE_BIN` names a release build.
#[ignore = "a figure: half a minute"]
#[tokio::test(flavor = "multi_thread")]
async fn figure_rows_added_to_ten_leaves() {
    let cluster = Setup::of(1).start().await.unwrap();
    let client = client(&cluster[0]);
    let dialect = v1::SqlDialect::Sqlite;
    let criteria: [&[&str]; 5] = [
        &["category"],
        &["stock"],
        &["seller"],
        &["category", "stock"],
        &["category", "seller"],
    ];
    let leaves = || {
        criteria.iter().flat_map(|columns| {
            let mut index = client.index("items", dialect).limit(1_000);
            for column in *columns {
                index = index.by(*column, 5);
            }
            [index.clone(), index.order_by("price")]
        })
    };
    for index in leaves() {
        load(&index, 0..0).await;
    }
    let began = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let client = client.clone();
        tokio::spawn(async move {
            let ids = (0..ROWS).filter(|id| id / 32 % CALLERS == caller);
            let ids: Vec<_> = ids.collect();
            for some in ids.chunks(OF_CALL) {
                let rows = some.iter().map(|id| {
                    let mut cells: Vec<_> = ["category", "stock", "seller"]
                        .map(|name| column(name, 5))
                        .into();
                    cells.push(column("price", id * 7_919 % 100_003));
                    row_change("items", (None, Some(cells)), (*id, 0))
                });
                client.row_changed(dialect, rows).await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let took = began.elapsed();
    let counters = cluster[0].api.status().await.unwrap().counters;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = ROWS as f64 / took.as_secs_f64();
    println!(
        "{ROWS} rows into ten leaves each in {took:.1?}: {rate:.0} rows/s; members {}",
        counters["leaf_members"]
    );
    assert_eq!(counters["leaf_members"], 10 * ROWS.unsigned_abs());
}
