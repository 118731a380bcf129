//! Measures leaves: `cargo run --release -p grapevine-core --example leaves [members]`.
//!
//! One machine without a disk or a network: what a row costs that is added to ten leaves, how long a page of a large leaf takes, and how much memory
//! a member. Prints one line per measurement.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod alone;

use std::time::{Duration, Instant};

use alone::Alone;
use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Dialect, Raw, Shape, Table};
use grapevine_core::event::{Moment, PurgeMode, RowImage};
use grapevine_core::index::{
    Combine, LeafKey, Ordering, Place, RowId, RowIdentity, SortKey, Window,
};
use grapevine_core::machine::Limits;
use grapevine_core::machine::effects::{
    FillOutcome, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, ReceiptLevel, Reply, RowsChange,
};
use grapevine_core::policy::Policy;

const ADDS: u64 = 200_000;
const PAGES: u64 = 100_000;

fn start(members: usize) -> Alone {
    let limits = Limits {
        index_members_max: members.max(10_000_000),
        ..Limits::default()
    };
    Alone::start(Policy::fallback(), limits)
}

impl Alone {
    /// Tells where a row is.
    fn tell(&mut self, id: u64, version: u64) {
        let price = i64::try_from(id * 7_919 % 100_003).expect("invariant: it is small");
        let cells = [
            ("category", 5),
            ("stock", 1),
            ("seller", 9),
            ("price", price),
        ];
        let identity = RowIdentity {
            id: RowId::parse(&id.to_string()).expect("invariant: it is an id"),
            version,
        };
        let change = RowsChange {
            rows: vec![RowImage {
                rows: row(&cells),
                moment: Moment::After,
                identity: Some(identity),
            }],
            purge: PurgeMode::Hard,
            level: ReceiptLevel::None,
            deadline: self.now.plus(Duration::from_secs(5)),
        };
        let ticket = self.ticket();
        self.give(Input::RowsChanged(ticket, change));
    }

    /// Loads a leaf with these members.
    fn load(&mut self, leaf: &LeafKey, members: impl Iterator<Item = Place>) {
        let load = loop {
            let ticket = self.ticket();
            match self.give(Input::LoadLeaf(ticket, leaf.clone())) {
                Some(Reply::LeafTurn(LeafTurn::Load { load, .. })) => break load,
                Some(Reply::LeafTurn(LeafTurn::Wait { .. })) => {}
                other => panic!("no right to load: {other:?}"),
            }
        };
        let mut members = members.map(|place| (place, 0)).peekable();
        loop {
            let part: Vec<_> = members.by_ref().take(10_000).collect();
            let more = members.peek().is_some();
            let ticket = self.ticket();
            let fill = LeafFill {
                leaf: leaf.clone(),
                load,
                members: part,
                more,
                whole: true,
                keep: 0,
            };
            match self.give(Input::FillLeaf(ticket, fill)) {
                Some(Reply::LeafFilled(FillOutcome::Stored)) => return,
                Some(Reply::LeafFilled(FillOutcome::More)) => {}
                other => panic!("not filled: {other:?}"),
            }
        }
    }
}

fn row(cells: &[(&str, i64)]) -> Conjunction {
    let table = Table::parse("items").expect("invariant: it is a name");
    let mut row = Conjunction::all_of(table);
    for (column, value) in cells {
        let column = Column::parse(column).expect("invariant: it is a name");
        row.narrow(column, Cell::Is(datum(*value)));
    }
    row
}

fn datum(value: i64) -> Datum {
    Datum::of(Dialect::Postgres, Raw::Int(value)).expect("invariant: numbers have a normal form")
}

fn leaf(cells: &[(&str, i64)], order: Option<&str>) -> LeafKey {
    let rows = row(cells);
    let mut classes = Shape::of(&rows).classes_of_read(&rows);
    LeafKey {
        class: classes.pop().expect("invariant: a read has a class"),
        ordering: Ordering {
            by: order.map(|by| Column::parse(by).expect("invariant: it is a name")),
            descending: true,
            nulls_high: true,
        },
    }
}

fn place(price: i64, id: u64) -> Place {
    Place {
        key: SortKey::of(&datum(price).value, true),
        id: RowId::parse(&id.to_string()).expect("invariant: it is an id"),
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_u64) * 4_096
}

fn percentile(sorted: &[Duration], share: usize) -> Duration {
    sorted[(sorted.len() - 1) * share / 1_000]
}

/// What a row takes up whose newest version is remembered, of four columns of numbers.
fn versions() -> Alone {
    const ROWS: u64 = 100_000;
    let mut alone = start(0);
    alone.tell(0, 1);
    let before = resident_bytes();
    for id in 1..=ROWS {
        alone.tell(id, 1);
    }
    let bytes = resident_bytes().saturating_sub(before);
    println!(
        "{ROWS} rows with versions: {:.0} bytes each",
        bytes as f64 / ROWS as f64
    );
    alone
}

/// Rows that are each in ten leaves: of five sets of columns, by id and by price.
fn adds() {
    let mut alone = start(0);
    let sets: [&[(&str, i64)]; 5] = [
        &[("category", 5)],
        &[("stock", 1)],
        &[("category", 5), ("stock", 1)],
        &[("seller", 9)],
        &[("category", 5), ("seller", 9)],
    ];
    for cells in sets {
        for order in [None, Some("price")] {
            alone.load(&leaf(cells, order), std::iter::empty());
        }
    }
    let begun = Instant::now();
    for id in 0..ADDS {
        alone.tell(id, 0);
    }
    let took = begun.elapsed();
    let (leaves, members) = alone.core.leaf_counts();
    assert_eq!((leaves, members as u64), (10, 10 * ADDS));
    println!(
        "{ADDS} rows added to 10 leaves each: {:.2} s, {:.0} rows/s",
        took.as_secs_f64(),
        ADDS as f64 / took.as_secs_f64()
    );
}

/// A leaf of many members: its memory, and pages of 100 from anywhere in it.
fn pages(members: u64) {
    let mut alone = start(usize::try_from(members).unwrap_or(usize::MAX));
    let list = leaf(&[("category", 5)], Some("price"));
    let before = resident_bytes();
    let price = |id: u64| i64::try_from(id * 7_919 % 100_003).expect("invariant: it is small");
    let begun = Instant::now();
    alone.load(&list, (0..members).map(|id| place(price(id), id)));
    let loaded = begun.elapsed();
    let bytes = resident_bytes().saturating_sub(before);
    println!(
        "{members} members: loaded in {:.2} s, {:.0} bytes each",
        loaded.as_secs_f64(),
        bytes as f64 / members as f64
    );
    let mut times = Vec::with_capacity(usize::try_from(PAGES).unwrap_or(0));
    for round in 0..PAGES {
        let id = round * 104_729 % members;
        let query = LeafQuery {
            leaves: vec![list.clone()],
            combine: Combine::Any,
            window: Window {
                after: Some(place(price(id), id)),
                limit: 100,
                ..Window::default()
            },
            verified: false,
        };
        let begun = Instant::now();
        let answer = alone.core.read_leaf(&query, alone.now);
        times.push(begun.elapsed());
        assert!(matches!(answer, LeafAnswer::Found { .. }), "{answer:?}");
    }
    times.sort_unstable();
    println!(
        "100 of them, from anywhere: p50 {:?}, p99 {:?}, p99.9 {:?}",
        percentile(&times, 500),
        percentile(&times, 990),
        percentile(&times, 999)
    );
}

fn main() {
    let members = std::env::args().nth(1).and_then(|count| count.parse().ok());
    // What was freed would be used again, and not be seen.
    let kept = versions();
    pages(members.unwrap_or(1_000_000));
    adds();
    drop(kept);
}
