//! Texts alone: whatever changes the answer of a read bumps one of the read's classes (G3), told by the write's text or by the rows
//! that it changed; and how much of what is bumped did not change.

use std::collections::BTreeMap;

use grapevine_core::criteria::Conjunction;
use grapevine_sql::{Explanation, explain};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::database::{Answer, Changed, Rows, answer, open};
use crate::generate::{FORMS, Generator, Read, SHAPES};
use crate::{seeds, sqlite};

/// Reads and writes of a round: every read meets every write.
const READS: usize = 20;
const WRITES: usize = 25;
/// Rounds of the fixed seeds: so that a build without optimisation has them in seconds.
const ROUNDS: u64 = 120;

/// Of reads of one shape.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    pairs: u64,
    /// Answers that changed: with perfect knowledge, so many would be invalidated.
    changed: u64,
    /// Those invalidated by the rows that it changed, as they were and as they are.
    by_rows: u64,
    /// Those invalidated by what the write's text tells.
    by_text: u64,
    /// Those invalidated if every write concerned all reads of its table.
    by_table: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.changed += other.changed;
        self.by_rows += other.by_rows;
        self.by_text += other.by_text;
        self.by_table += other.by_table;
    }
}

#[derive(Debug, Default)]
struct Totals {
    by_shape: BTreeMap<&'static str, Tally>,
    reads: u64,
    refused: u64,
    /// Reads of which a table was widened to all of its rows.
    whole: u64,
    supported: u64,
    supported_whole: u64,
    forms: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn all(&self) -> Tally {
        let mut all = Tally::default();
        self.by_shape.values().for_each(|one| all.add(*one));
        all
    }

    /// As docs/benchmarks.md has it.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn print(&self) {
        println!(
            "| read | pairs | changed | by rows | by text | by table | rows / changed | in vain, of those by table |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        let all = self.all();
        let shapes = SHAPES
            .iter()
            .map(|shape| (*shape, self.by_shape.get(shape).copied()));
        for (shape, of) in shapes.chain([("all", Some(all))]) {
            let Tally {
                pairs,
                changed,
                by_rows,
                by_text,
                by_table,
            } = of.unwrap_or_default();
            let ratio = by_rows as f64 / changed.max(1) as f64;
            let vain = (by_rows - changed) as f64 / (by_table - changed).max(1) as f64 * 100.0;
            println!(
                "| {shape} | {pairs} | {changed} | {by_rows} | {by_text} | {by_table} | {ratio:.2} | {vain:.1} % |"
            );
        }
    }
}

/// A read, and what is known of it.
struct Asked {
    read: Read,
    explained: Explanation,
    before: Answer,
}

fn round(seed: u64, totals: &mut Totals) {
    let mut generator = Generator::new(StdRng::seed_from_u64(seed));
    let database = open(&mut generator);
    let mut reads = Vec::new();
    while reads.len() < READS {
        let read = generator.read();
        let explained = explain(&read.sql, &[], sqlite());
        let explained =
            explained.unwrap_or_else(|error| panic!("seed {seed}: {}: {error}", read.sql));
        // A name that means itself is the one thing that SQLite refuses of these.
        let Ok(before) = answer(&database, &read.sql) else {
            totals.refused += 1;
            continue;
        };
        let whole = explained.rows.iter().any(|rows| rows.cells.is_empty());
        totals.reads += 1;
        totals.whole += u64::from(whole);
        totals.supported += u64::from(read.supported);
        totals.supported_whole += u64::from(read.supported && whole);
        if read.supported && whole && std::env::var_os("GRAPEVINE_SHOW_WIDENED").is_some() {
            println!("widened: {}\n{:?}", read.sql, explained.widened);
        }
        reads.push(Asked {
            read,
            explained,
            before,
        });
    }
    let was = Rows::of(&database);
    for _ in 0..WRITES {
        let text = generator.write();
        let changes = explain(&text, &[], sqlite());
        let changes = changes.unwrap_or_else(|error| panic!("seed {seed}: {text}: {error}"));
        database.execute_batch("SAVEPOINT before").unwrap();
        if database.execute(&text, []).is_ok() {
            let rows = was.changed(&Rows::of(&database));
            let rows: Vec<_> = rows.iter().flat_map(Changed::images).collect();
            let write = Write {
                text: &text,
                by_text: &changes.rows,
                by_rows: &rows,
            };
            for asked in &reads {
                let changed = answer(&database, &asked.read.sql).unwrap() != asked.before;
                let judged = judge(seed, asked, &write, changed);
                let of_shape = totals.by_shape.entry(asked.read.shape).or_default();
                of_shape.add(judged);
            }
        }
        database
            .execute_batch("ROLLBACK TO before; RELEASE before")
            .unwrap();
    }
    for (form, count) in generator.forms {
        *totals.forms.entry(form).or_default() += count;
    }
}

/// A write, and the rows that it changed as its text and as the tables tell.
struct Write<'a> {
    text: &'a str,
    by_text: &'a [Conjunction],
    by_rows: &'a [Conjunction],
}

fn judge(seed: u64, asked: &Asked, write: &Write<'_>, changed: bool) -> Tally {
    let explained = &asked.explained;
    let concerns = |rows: &[Conjunction], what: &str| {
        let bumped = explained.is_invalidated_by(rows);
        assert!(
            bumped || !changed,
            "seed {seed}: {}\nchanges the answer of\n{}\nbut, by its {what}, bumps none of its classes\nread: {:?}\nwrite: {rows:?}",
            write.text,
            asked.read.sql,
            explained.invalidated_by,
        );
        u64::from(bumped)
    };
    let mut tables = write.by_text.iter().map(|rows| &rows.table);
    let shared = tables.any(|table| explained.tables.contains(&table.to_string()));
    Tally {
        pairs: 1,
        changed: u64::from(changed),
        by_rows: concerns(write.by_rows, "rows"),
        by_text: concerns(write.by_text, "text"),
        by_table: u64::from(shared),
    }
}

#[test]
fn g3_what_changes_an_answer_bumps_a_class_of_it() {
    let seeds = seeds(ROUNDS);
    let mut totals = Totals::default();
    for seed in seeds.clone() {
        round(seed, &mut totals);
    }
    println!("seeds {seeds:?}");
    totals.print();
    let Totals {
        reads,
        refused,
        whole,
        supported,
        supported_whole,
        ..
    } = totals;
    println!(
        "{reads} reads, {whole} of them of all rows of a table; {supported} supported ones, {supported_whole} of them so; SQLite refused {refused}"
    );
    println!("how often each form came: {:?}", totals.forms);
    assert!(refused * 50 < reads, "SQLite refused {refused} of them");
    assert!(
        supported * 2 > reads,
        "{supported} of {reads} are supported"
    );
    assert!(
        supported_whole * 10 <= supported,
        "{supported_whole} of {supported} supported reads depend on all rows of a table"
    );
    let all = totals.all();
    let (pairs, changed) = (all.pairs, all.changed);
    // It has to be able to fail, and to tell classes from tables.
    assert!(changed * 50 > pairs, "{changed} of {pairs} answers changed");
    assert!(all.by_text <= all.by_table && all.by_rows * 2 < all.by_table);
    for form in FORMS {
        let count = totals.forms.get(form).copied().unwrap_or_default();
        assert!(count >= 5, "{form} came {count} times only");
    }
    for shape in SHAPES {
        let of_shape = totals.by_shape.get(shape).copied().unwrap_or_default();
        assert!(of_shape.changed >= 5, "{shape}: {of_shape:?}");
    }
}
