//! Lists of rows: readers that read, load and prune them, and writers that move rows between them.
//!
//! Most of a run's readers and writers meet at one list. A row leaves it and comes back while somebody is about to prune it
//! (race 7); it is loaded while rows come into it, by one reader, or by a slow one and the next (race 8). Some writes are begun by
//! their rows, and read about while nobody knows what becomes of them; some lists are read together, as one.

use grapevine_core::index::Combine;
use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::declare;
use crate::generate::{BEGIN, Generator};
use crate::schedule::{Declared, HORIZON, LeafOp, Source, What, WriteOp};
use crate::shelves::{Before, CATEGORIES, List, Of, PRICES, ROWS, Shift, State, TABLES};

/// More than any list has.
const NO_LIMIT: usize = 2 * ROWS * PRICES;

/// Adds them to a schedule.
pub(crate) fn add(g: &mut Generator<'_>) {
    let main = list(g);
    for _ in 0..g.rng.random_range(50..90) {
        let at = g.rng.random_range(BEGIN / 2..HORIZON);
        let list = if g.rng.random_range(0..8) == 0 {
            list(g)
        } else {
            main
        };
        read_at_any(g, at, list);
    }
    for _ in 0..g.rng.random_range(4..14) {
        let at = g.rng.random_range(BEGIN..HORIZON);
        let shift = match g.rng.random_range(0..24) {
            0 => Shift::Category {
                table: main.table,
                from: g.rng.random_range(0..CATEGORIES),
            },
            1..5 => {
                let table = g.rng.random_range(0..TABLES.len());
                some_row(g, table)
            }
            _ => some_row(g, main.table),
        };
        if g.rng.random_range(0..3) == 0 {
            begun(g, at, shift);
        } else {
            write_at_any(g, at, shift);
        }
    }
    if g.climate.is_calm() {
        return;
    }
    for _ in 0..g.rng.random_range(1..3) {
        let at = g.moment();
        came_back(g, at, main);
        let at = g.moment();
        loaded(g, at, main);
        let at = g.moment();
        in_doubt(g, at, main);
    }
}

fn list(g: &mut Generator<'_>) -> List {
    let category = g.rng.random_range(0..CATEGORIES);
    let of = match g.rng.random_range(0..8) {
        0..4 => Of::Ordered(category),
        4..7 => Of::Category(category),
        _ => Of::Price(g.rng.random_range(0..PRICES)),
    };
    let table = g.rng.random_range(0..TABLES.len());
    List { table, of }
}

/// A row that is in a list.
fn row_in(g: &mut Generator<'_>, list: List) -> (usize, usize) {
    match list.of {
        Of::Category(category) | Of::Ordered(category) => (category, g.rng.random_range(0..PRICES)),
        Of::Price(price) => (g.rng.random_range(0..CATEGORIES), price),
    }
}

/// A row that has left a list, or its place there.
fn row_elsewhere(g: &mut Generator<'_>, list: List) -> (usize, usize) {
    match list.of {
        Of::Ordered(category) if g.rng.random_range(0..2) == 0 => (category, PRICES),
        Of::Category(category) | Of::Ordered(category) => ((category + 1) % CATEGORIES, 0),
        Of::Price(price) => (0, (price + 1) % PRICES),
    }
}

/// What a list may be read together with: what has the rows of another category, or the same rows only if they have a price too.
fn with(g: &mut Generator<'_>, list: List) -> Option<(Combine, List)> {
    let other = |category| (category + 1) % CATEGORIES;
    let (combine, of) = match (list.of, g.rng.random_range(0..8)) {
        (Of::Category(category), 0) => (Combine::Any, Of::Category(other(category))),
        (Of::Ordered(category), 0 | 1) => (Combine::Any, Of::Ordered(other(category))),
        (Of::Category(_), 1 | 2) => (Combine::All, Of::Price(g.rng.random_range(0..PRICES))),
        (Of::Price(_), 0 | 1) => {
            let category = g.rng.random_range(0..CATEGORIES);
            (Combine::All, Of::Category(category))
        }
        _ => return None,
    };
    let table = list.table;
    Some((combine, List { table, of }))
}

fn one(g: &mut Generator<'_>, table: usize, id: usize, to: State) -> Shift {
    let before = [Before::Told, Before::Hinted, Before::Untold][g.rng.random_range(0..3)];
    Shift::One {
        table,
        id,
        to,
        before,
    }
}

fn some_row(g: &mut Generator<'_>, table: usize) -> Shift {
    let id = g.rng.random_range(0..ROWS);
    let state = (
        g.rng.random_range(0..CATEGORIES),
        g.rng.random_range(0..PRICES),
    );
    let to = (g.rng.random_range(0..6) > 0).then_some(state);
    one(g, table, id, to)
}

/// A read of a list at a sidecar.
fn read_of(g: &mut Generator<'_>, node: usize, list: List) -> LeafOp {
    let mut read = g.read_of(node, 0);
    read.ask.goes = None;
    LeafOp {
        read,
        list,
        with: with(g, list),
        limit: [NO_LIMIT, NO_LIMIT, 2][g.rng.random_range(0..3)],
        verified: g.rng.random_range(0..2) == 0,
        first: [0, 0, 0, 2][g.rng.random_range(0..4)],
        in_parts: g.rng.random_range(0..3) == 0,
    }
}

fn read_at_any(g: &mut Generator<'_>, at: Micros, list: List) {
    let node = g.node();
    let read = read_of(g, node, list);
    g.put(at, What::Leaf(Box::new(read)));
}

/// Reads of a list everywhere within a span.
fn reads(g: &mut Generator<'_>, count: usize, list: List, (from, to): (Micros, Micros)) {
    for _ in 0..count {
        let at = g.rng.random_range(from..to);
        read_at_any(g, at, list);
    }
}

fn write_of(g: &mut Generator<'_>, node: usize, shift: Shift) -> WriteOp {
    let mut write = g.write_of(node, g.shop.shifts);
    write.soft = false;
    write.dies = !g.climate.is_calm() && g.rng.random_range(0..12) == 0;
    write.shift = Some(shift);
    write
}

fn write(g: &mut Generator<'_>, at: Micros, node: usize, shift: Shift) {
    let write = write_of(g, node, shift);
    g.put(at, What::Write(write));
}

/// A write that is begun by its rows.
fn begun(g: &mut Generator<'_>, at: Micros, shift: Shift) -> Declared {
    let node = g.node();
    let mut write = write_of(g, node, shift);
    let declared = declare::terms(g, node);
    write.dies = g.rng.random_range(0..3) == 0;
    write.declared = Some(declared);
    g.put(at, What::Write(write));
    declared
}

/// A row is about to come into a list, which is read, loaded and pruned meanwhile; another one may have the row as well.
fn in_doubt(g: &mut Generator<'_>, at: Micros, list: List) {
    let id = g.rng.random_range(0..ROWS);
    let there = row_in(g, list);
    let there = one(g, list.table, id, Some(there));
    let declared = begun(g, at, there);
    let ends = at + declared.lease.max(declared.takes);
    reads(g, 6, list, (at, ends));
    reads(g, 4, list, (ends, ends + 1_500 * MILLISECOND));
    if g.rng.random_range(0..2) == 0 {
        let state = (g.rng.random_range(0..3) > 0).then(|| row_elsewhere(g, list));
        let elsewhere = one(g, list.table, id, state);
        let then = g.rng.random_range(at..ends);
        write_at_any(g, then, elsewhere);
    }
}

fn write_at_any(g: &mut Generator<'_>, at: Micros, shift: Shift) {
    let node = g.node();
    write(g, at, node, shift);
}

/// A row leaves a list, a reader sees that and is about to prune it, and the row comes back.
fn came_back(g: &mut Generator<'_>, at: Micros, list: List) {
    let (reader, writer) = (g.node(), g.node());
    let id = g.rng.random_range(0..ROWS);
    let there = row_in(g, list);
    let there = one(g, list.table, id, Some(there));
    write(g, at, writer, there);
    reads(g, 3, list, (at, at + 40 * MILLISECOND));
    let elsewhere = row_elsewhere(g, list);
    let elsewhere = (g.rng.random_range(0..4) > 0).then_some(elsewhere);
    let gone = at + g.rng.random_range(45 * MILLISECOND..70 * MILLISECOND);
    let elsewhere = one(g, list.table, id, elsewhere);
    write(g, gone, writer, elsewhere);
    for node in [reader, g.node()] {
        let mut read = read_of(g, node, list);
        read.with = None;
        read.limit = NO_LIMIT;
        read.verified = false;
        read.read.session = false;
        read.read.query = g.rng.random_range(MILLISECOND..20 * MILLISECOND);
        read.read.compute = g.rng.random_range(3 * MILLISECOND..60 * MILLISECOND);
        let begins = gone + g.rng.random_range(0..15 * MILLISECOND);
        let looked = begins + read.read.query;
        let back = looked + g.rng.random_range(0..read.read.compute);
        g.put(begins, What::Leaf(Box::new(read)));
        let writer = g.node();
        write(g, back, writer, there);
        reads(g, 3, list, (back, back + 100 * MILLISECOND));
    }
}

/// A list is loaded while rows come into it.
fn loaded(g: &mut Generator<'_>, at: Micros, list: List) {
    let node = g.node();
    if g.rng.random_range(0..2) == 0 {
        let (table, from) = (list.table, g.rng.random_range(0..CATEGORIES));
        write_at_any(g, at, Shift::Category { table, from });
    }
    let mut read = read_of(g, node, list);
    read.with = None;
    let slow = g.rng.random_range(0..5) == 0;
    read.read.session = false;
    read.first = 0;
    read.read.compute = if slow {
        g.rng.random_range(1_900 * MILLISECOND..2_600 * MILLISECOND)
    } else {
        g.rng.random_range(10 * MILLISECOND..120 * MILLISECOND)
    };
    let begins = at + g.rng.random_range(10 * MILLISECOND..40 * MILLISECOND);
    let asks = begins + read.read.get;
    let ends = asks + read.read.query + read.read.compute;
    g.put(begins, What::Leaf(Box::new(read)));
    for _ in 0..g.rng.random_range(1..4) {
        let then = g.rng.random_range(asks..ends + 4 * MILLISECOND);
        let there = row_in(g, list);
        let id = g.rng.random_range(0..ROWS);
        let there = one(g, list.table, id, Some(there));
        write_at_any(g, then, there);
    }
    if slow {
        // The next one loads it while the slow one still has its answer.
        for _ in 0..3 {
            let mut next = read_of(g, node, list);
            next.with = None;
            next.read.source = Source::Primary;
            next.read.compute = g.rng.random_range(MILLISECOND..400 * MILLISECOND);
            let then = g
                .rng
                .random_range(asks + 1_950 * MILLISECOND..ends + 200 * MILLISECOND);
            g.put(then, What::Leaf(Box::new(next)));
        }
    }
    for _ in 0..4 {
        let read = read_of(g, node, list);
        let then = ends + g.rng.random_range(0..120 * MILLISECOND);
        g.put(then, What::Leaf(Box::new(read)));
    }
}
