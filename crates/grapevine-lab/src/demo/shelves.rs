//! Lists of ids: items wander between categories, on three nodes at once, and the lists follow.
//!
//! Each node's worker moves an item, tells its own sidecar what the item is now, and reads the list of the category where it went at the next
//! node, with the session. The item must be there, unless another worker has moved it on by then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use grapevine_client::{Client, How, IndexRow, Session, Want};
use grapevine_proto::v1;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::screen::{Screen, count, percent};
use super::stage::{NODES, Stage};

const OPEN: Duration = Duration::from_secs(2);
const ITEMS: usize = 60;
const CATEGORIES: usize = 6;

/// An item as the database has it.
#[derive(Clone, Copy)]
struct Item {
    category: usize,
    version: u64,
}

/// The database: a commit is a change under the lock.
type Items = Arc<Mutex<Vec<Item>>>;

/// What the readers saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    moves: u64,
    from_the_leaf: u64,
    loads: u64,
    /// Ids that were left out because their items had been told to be elsewhere.
    moved_on: u64,
    /// Lists without an item that had come, and not gone on.
    pub(super) missing: u64,
}

/// Tells it.
pub(super) async fn tell(stage: &Stage, screen: Screen) -> anyhow::Result<Seen> {
    let item = |id| Item {
        category: id % CATEGORIES,
        version: 1,
    };
    let items: Items = Arc::new(Mutex::new((0..ITEMS).map(item).collect()));
    let counters = stage.world.counters.iter();
    let clients: Vec<Client> = counters
        .map(|counter| counter.cached.client().clone())
        .collect();
    let until = Instant::now() + OPEN;
    let mut workers = JoinSet::new();
    for node in 0..clients.len() {
        let random = StdRng::seed_from_u64(stage.world.seed.wrapping_add(node as u64));
        let reader = clients[(node + 1) % clients.len()].clone();
        let worker = wander(
            items.clone(),
            (clients[node].clone(), reader),
            random,
            until,
        );
        workers.spawn(worker);
    }
    let mut all = Seen::default();
    while let Some(worker) = workers.join_next().await {
        let seen = worker.context("a worker of the lists panicked")??;
        all.moves += seen.moves;
        all.from_the_leaf += seen.from_the_leaf;
        all.loads += seen.loads;
        all.moved_on += seen.moved_on;
        all.missing += seen.missing;
    }
    screen.line(&format!(
        "{:.0} s of {ITEMS} items that wander between {CATEGORIES} categories on {NODES} nodes: {} moves, each followed by a read at another node.",
        OPEN.as_secs_f64(),
        count(all.moves),
    ));
    screen.line(&format!(
        "{} of the lists came from the sidecar, {} were loaded from the database; {} ids were left out, for their items had moved on.",
        screen.strong(&percent(all.from_the_leaf, all.moves)),
        count(all.loads),
        count(all.moved_on),
    ));
    screen.line(&format!(
        "Lists without an item that had come: {}.",
        screen.verdict(all.missing)
    ));
    Ok(all)
}

async fn wander(
    items: Items,
    (writer, reader): (Client, Client),
    mut random: StdRng,
    until: Instant,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    while Instant::now() < until {
        let (id, to) = (
            random.random_range(0..ITEMS),
            random.random_range(0..CATEGORIES),
        );
        let version = {
            let mut items = items.lock();
            let item = &mut items[id];
            item.category = to;
            item.version += 1;
            item.version
        };
        let told = writer.row_changed(v1::SqlDialect::Sqlite, [arrived(id, to, version)]);
        let told = told.await.context("a move was not told")?;
        let mut session = Session::new();
        session.add(&told.session_token)?;
        let category = i64::try_from(to).unwrap_or(i64::MAX);
        let index = reader.index("items", v1::SqlDialect::Sqlite);
        let index = index
            .by("category", category)
            .limit(1_000)
            .verified()
            .session(&session);
        let load = |_: Want| std::future::ready(Ok::<_, Infallible>(rows_of(&items, to)));
        let page = index.ids(load).await;
        let page = page.context("a list was not read")?;
        seen.moves += 1;
        seen.from_the_leaf += u64::from(page.how == How::Hit);
        seen.loads += u64::from(page.stored);
        seen.moved_on += u64::from(page.filtered);
        let there = page.ids.iter().any(|listed| listed.id == id.to_string());
        let stays = items.lock()[id].version == version;
        seen.missing += u64::from(stays && !there);
    }
    Ok(seen)
}

/// An item as it is since it moved; where it was nobody need know.
fn arrived(id: usize, category: usize, version: u64) -> v1::RowChange {
    let value = v1::sql_value::Value::Integer(i64::try_from(category).unwrap_or(i64::MAX));
    v1::RowChange {
        table: "items".to_owned(),
        kind: v1::RowChangeKind::Insert.into(),
        new: vec![v1::ColumnValue {
            column: "category".to_owned(),
            value: Some(v1::SqlValue { value: Some(value) }),
        }],
        id: id.to_string(),
        version,
        ..Default::default()
    }
}

/// The database's list of a category.
fn rows_of(items: &Items, category: usize) -> Vec<IndexRow> {
    let items = items.lock();
    let rows = items.iter().enumerate();
    let rows = rows.filter(|(_, item)| item.category == category);
    rows.map(|(id, item)| IndexRow::new(id).version(item.version))
        .collect()
}
