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
use crate::support::SOON;

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
