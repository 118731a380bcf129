//! Against SQLite: whatever changes the answer of a read must bump one of the read's classes (G3), as far as their texts tell.
//!
//! Random tables, rows, reads and writes of the supported forms; each read is asked before and after each write. A seed stands for a
//! round; `GRAPEVINE_SEEDS=A..B` chooses others than a few fixed ones, and any failure names its own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod generate;

use std::collections::BTreeMap;
use std::ops::Range;

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Raw, Table};
use grapevine_sql::{Dialect, Explanation, Options, explain};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::generate::Generator;

/// Reads and writes of a round: every read meets every write.
const READS: usize = 20;
const WRITES: usize = 25;
/// Rounds of the fixed seeds: so that a build without optimisation has them in seconds.
const ROUNDS: u64 = 120;

#[derive(Debug, Default)]
struct Tally {
    pairs: u64,
    /// Answers that changed: with perfect knowledge, so many would be invalidated.
    changed: u64,
    /// Those invalidated by what the write's text tells.
    by_text: u64,
    /// Those invalidated by the rows that it changed, as they were and as they are.
    by_rows: u64,
    /// Those invalidated if every write concerned all reads of its table.
    by_table: u64,
    reads: u64,
    whole: u64,
    refused: u64,
    forms: BTreeMap<&'static str, u64>,
}

fn sqlite() -> Options {
    Options {
        dialect: Dialect::Sqlite,
        ..Options::default()
    }
}

fn answer(database: &Connection, sql: &str) -> Result<Vec<Vec<Value>>, rusqlite::Error> {
    let mut statement = database.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?;
    rows.collect()
}

fn seeds() -> Range<u64> {
    let Ok(range) = std::env::var("GRAPEVINE_SEEDS") else {
        return 0..ROUNDS;
    };
    let (from, to) = range.split_once("..").expect("GRAPEVINE_SEEDS is A..B");
    from.parse().unwrap()..to.parse().unwrap()
}

fn round(seed: u64, tally: &mut Tally) {
    let mut generator = Generator::new(StdRng::seed_from_u64(seed));
    let database = Connection::open_in_memory().unwrap();
    for statement in generator.schema() {
        database.execute_batch(&statement).unwrap();
    }
    for _ in 0..40 {
        let insert = generator.row();
        // One that breaks a constraint is not there.
        let _ = database.execute(&insert, []);
    }
    let mut reads = Vec::new();
    while reads.len() < READS {
        let read = generator.read();
        let explained = explain(&read, &[], sqlite());
        let explained = explained.unwrap_or_else(|error| panic!("seed {seed}: {read}: {error}"));
        // A name that means itself is the one thing that SQLite refuses of these.
        let Ok(before) = answer(&database, &read) else {
            tally.refused += 1;
            continue;
        };
        tally.reads += 1;
        tally.whole += u64::from(explained.rows.iter().any(|rows| rows.cells.is_empty()));
        reads.push((read, explained, before));
    }
    let was = Rows::of(&database);
    for _ in 0..WRITES {
        let write = generator.write();
        let changes = explain(&write, &[], sqlite());
        let changes = changes.unwrap_or_else(|error| panic!("seed {seed}: {write}: {error}"));
        database.execute_batch("SAVEPOINT before").unwrap();
        if database.execute(&write, []).is_ok() {
            let rows = was.changed(&Rows::of(&database));
            let write = Write {
                text: &write,
                by_text: &changes.rows,
                by_rows: &rows,
            };
            for (read, explained, before) in &reads {
                let changed = answer(&database, read).unwrap() != *before;
                judge(seed, (read, explained), &write, changed, tally);
            }
        }
        database
            .execute_batch("ROLLBACK TO before; RELEASE before")
            .unwrap();
    }
    for (form, count) in generator.forms {
        *tally.forms.entry(form).or_default() += count;
    }
}

/// A write, and the rows that it changed as its text and as the tables tell.
struct Write<'a> {
    text: &'a str,
    by_text: &'a [Conjunction],
    by_rows: &'a [Conjunction],
}

fn judge(
    seed: u64,
    (read, explained): (&str, &Explanation),
    write: &Write<'_>,
    changed: bool,
    tally: &mut Tally,
) {
    let concerns = |rows: &[Conjunction], what: &str| {
        let bumped = explained.is_invalidated_by(rows);
        assert!(
            bumped || !changed,
            "seed {seed}: {}\nchanges the answer of\n{read}\nbut, by its {what}, bumps none of its classes\nread: {:?}\nwrite: {rows:?}",
            write.text,
            explained.invalidated_by,
        );
        u64::from(bumped)
    };
    tally.by_text += concerns(write.by_text, "text");
    tally.by_rows += concerns(write.by_rows, "rows");
    let mut tables = write.by_text.iter().map(|rows| &rows.table);
    let shared = tables.any(|table| explained.tables.contains(&table.to_string()));
    tally.pairs += 1;
    tally.changed += u64::from(changed);
    tally.by_table += u64::from(shared);
}

/// All rows of all tables, by table and id, with the names of their columns.
struct Rows(BTreeMap<(&'static str, i64), Vec<Value>>);

impl Rows {
    fn of(database: &Connection) -> Self {
        let mut all = BTreeMap::new();
        for table in generate::TABLES {
            let columns = generate::ALL_COLUMNS.join(", ");
            for row in answer(database, &format!("SELECT {columns} FROM {table}")).unwrap() {
                let Value::Integer(id) = row[0] else {
                    panic!("an id is an integer");
                };
                all.insert((table, id), row);
            }
        }
        Self(all)
    }

    /// Rows that differ, as they were and as they are.
    fn changed(&self, now: &Self) -> Vec<Conjunction> {
        let differs = |other: &Self| {
            let other = other.0.clone();
            move |(key, row): &(&(&'static str, i64), &Vec<Value>)| other.get(key) != Some(row)
        };
        let before = self.0.iter().filter(differs(now));
        let after = now.0.iter().filter(differs(self));
        before
            .chain(after)
            .map(|((table, _), row)| whole_row(table, row))
            .collect()
    }
}

fn whole_row(table: &str, row: &[Value]) -> Conjunction {
    let mut rows = Conjunction::all_of(Table::parse(table).unwrap());
    for (name, value) in generate::ALL_COLUMNS.into_iter().zip(row) {
        let raw = match value {
            Value::Null => Raw::Null,
            Value::Integer(value) => Raw::Int(*value),
            Value::Real(value) => Raw::Float(*value),
            Value::Text(value) => Raw::Text(value),
            Value::Blob(value) => Raw::Bytes(value),
        };
        if let Some(datum) = Datum::of(Dialect::Sqlite, raw) {
            rows.narrow(Column::parse(name).unwrap(), Cell::Is(datum));
        }
    }
    rows
}

#[test]
fn g3_what_changes_an_answer_bumps_a_class_of_it() {
    let seeds = seeds();
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        round(seed, &mut tally);
    }
    println!("seeds {seeds:?}: {tally:#?}");
    assert!(
        tally.refused * 50 < tally.reads,
        "SQLite refused {} of them",
        tally.refused
    );
    let (pairs, changed) = (tally.pairs, tally.changed);
    // It has to be able to fail, and to tell classes from tables.
    assert!(changed * 50 > pairs, "{changed} of {pairs} answers changed");
    assert!(tally.by_text <= tally.by_table && tally.by_rows * 2 < tally.by_table);
    for form in generate::FORMS {
        let count = tally.forms.get(form).copied().unwrap_or_default();
        assert!(count >= 5, "{form} came {count} times only");
    }
}
