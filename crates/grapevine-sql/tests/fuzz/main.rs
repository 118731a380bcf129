//! G10: whatever text `explain` is given, it neither panics nor takes more than its bounds.
//!
//! A case is a number: random text, or statements (`corpus`) of which words are shuffled, deleted, repeated, nested, cut off at any
//! byte (`texts`), with random parameters, in each dialect. `GRAPEVINE_CASES` says how many; `GRAPEVINE_SEEDS=A..B`
//! which; `GRAPEVINE_SHOW=1` shows them.
//!
//! What a case costs is counted in bytes that are allocated, by an allocator that counts, and not by a clock, which on a busy
//! machine tells nothing. All that are allocated are a measure of the work, for what parses and joins conditions allocates as it goes; and no
//! less than those that are held at one time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod corpus;
mod texts;

use std::alloc::System;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cap::Cap;
use grapevine_sql::{
    CONJUNCTIONS_MAX, Dialect, ExplainError, FACTS_MAX, Options, SQL_BYTES_MAX, Unsure,
    WIDENED_MAX, explain,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlparser::keywords::ALL_KEYWORDS;

use crate::texts::Texts;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Cases, so that a build without optimisation has them in seconds.
const CASES: u64 = 4_000;
/// What any statement may take.
const FIXED_BYTES: usize = 1 << 20;
/// What each byte of a statement may take. The most is taken by a chain of comparisons beside alternatives: with each of them, of 10 bytes, as
/// many conjunctions of as many facts as there may be are made anew, each fact of some 100 bytes.
const BYTES_PER_BYTE: usize = CONJUNCTIONS_MAX * FACTS_MAX * 16;
/// The same of words that are repeated, which are no conditions.
const BYTES_PER_REPEATED_BYTE: usize = 2_048;
/// What the longest statements may hold at one time: a small share of the above, for one joined condition replaces another.
const HELD_BYTES_MAX: usize = 32 << 20;

/// What is being explained, for whoever looks whether it ever ends.
static CASE: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// The most that was taken, as shares of the bounds in per mille.
#[derive(Debug, Default)]
struct Most {
    allocated: (usize, u64),
    held: (usize, u64),
    understood: u64,
    unparsable: u64,
    too_long: u64,
}

fn options(random: &mut StdRng) -> Options {
    let mut unsure = || [Unsure::Refuse, Unsure::Table][random.random_range(0..2)];
    let (volatile, unparsable) = (unsure(), unsure());
    Options {
        dialect: Dialect::ALL[random.random_range(0..3)],
        volatile,
        unparsable,
    }
}

fn case(number: u64, most: &mut Most) {
    let mut random = StdRng::seed_from_u64(number);
    let options = options(&mut random);
    let (sql, parameters) = Texts::new(random).statement();
    let given = sql.len().min(SQL_BYTES_MAX);
    let bound = FIXED_BYTES + given * BYTES_PER_BYTE;
    let (held, most_before) = (MEMORY.allocated(), MEMORY.max_allocated());
    if std::env::var_os("GRAPEVINE_SHOW").is_some() {
        eprintln!("case {number}, {options:?}: {sql}\n{parameters:?}");
    }
    let (explained, allocated) = bounded(number, bound, || {
        catch_unwind(AssertUnwindSafe(|| explain(&sql, &parameters, options)))
    });
    // Where this was not the case that held most so far, it held no more than that one.
    let most_after = MEMORY.max_allocated();
    let held = if most_after > most_before {
        most_after - held
    } else {
        0
    };
    let told = || {
        let beginning: String = sql.chars().take(2_000).collect();
        format!(
            "case {number}, {options:?}, {} bytes:\n{beginning}\n{parameters:?}",
            sql.len()
        )
    };
    let explained = explained.unwrap_or_else(|panic| {
        eprintln!("{}", told());
        resume_unwind(panic)
    });
    assert!(
        allocated <= bound,
        "{allocated} bytes, not {bound}, were allocated: {}",
        told()
    );
    assert!(held <= HELD_BYTES_MAX, "{held} bytes were held: {}", told());
    most.allocated = most.allocated.max((allocated * 1_000 / bound, number));
    most.held = most.held.max((held, number));
    match explained {
        Ok(explained) => {
            most.understood += 1;
            let few = explained.class_paths.len() <= 16 || !explained.cacheable;
            assert!(
                few && explained.widened.len() <= WIDENED_MAX + 1,
                "{}",
                told()
            );
        }
        Err(error) => {
            most.unparsable += u64::from(matches!(error, ExplainError::Unparsable { .. }));
            most.too_long += u64::from(matches!(error, ExplainError::TooLong { .. }));
            // Somebody is going to read it.
            assert!(error.to_string().len() < 4 * SQL_BYTES_MAX, "{}", told());
        }
    }
}

/// One at a time: what is counted is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// Statements that are as long as they may be, each with what it may take, in MiB: about twice what it did.
#[test]
fn g10_the_longest_statements_take_what_is_known() {
    let _alone = ALONE.lock().unwrap();
    let repeated = |before: &str, piece: &str, copies: usize, behind: &str| {
        format!("{before}{}{behind}", piece.repeat(copies))
    };
    let either = vec!["a = 1"; 64].join(" OR ");
    let tables: Vec<_> = (0..32).map(|at| format!("t x{at}")).collect();
    let x_either: Vec<_> = (0..64).map(|at| format!("x{}.a = {at}", at % 32)).collect();
    let (tables, x_either) = (tables.join(", "), x_either.join(" OR "));
    let chain = format!("SELECT * FROM t WHERE ({either})");
    let of_tables = format!("SELECT * FROM {tables} WHERE ({x_either})");
    let list = "SELECT * FROM t WHERE a IN (1";
    let hard = [
        (
            "a chain beside 64 alternatives",
            repeated(&chain, " AND b = 2", 600, ""),
            530,
        ),
        (
            "the same of 32 tables",
            repeated(&of_tables, " AND x1.b = x2.b", 450, ""),
            230,
        ),
        (
            "joins",
            repeated("SELECT * FROM t", " JOIN t", 1_900, ""),
            24,
        ),
        (
            "joins with conditions",
            repeated("SELECT * FROM t", " JOIN t ON a = 1", 700, ""),
            24,
        ),
        (
            "parts of a name",
            repeated("SELECT a", ".a", 1_900, " FROM t"),
            16,
        ),
        (
            "unions",
            repeated("SELECT 1", " UNION SELECT 1", 1_300, ""),
            36,
        ),
        (
            "values",
            repeated("INSERT INTO t (a) VALUES (1)", ", (1)", 12_000, ""),
            90,
        ),
        ("a list", repeated(list, ", 1", 20_000, ")"), 90),
        (
            "patterns",
            repeated("SELECT * FROM t WHERE a", " REGEXP a", 1_900, ""),
            24,
        ),
        ("cases", repeated("SELECT ", "CASE WHEN ", 1_900, "1"), 6),
        ("intervals", repeated("SELECT ", "INTERVAL ", 3_900, "1"), 6),
        (
            "queries in queries",
            repeated("", "SELECT * FROM (", 900, "t"),
            6,
        ),
    ];
    for (what, sql, mib) in hard {
        for dialect in Dialect::ALL {
            let options = Options {
                dialect,
                ..Options::default()
            };
            let before = MEMORY.total_allocated();
            let explained = explain(&sql, &[], options);
            let taken = (MEMORY.total_allocated() - before) >> 20;
            let end = if explained.is_ok() {
                "understood"
            } else {
                "refused"
            };
            println!("{what}, {} bytes, {dialect}: {taken} MiB, {end}", sql.len());
            assert!(taken <= mib, "{what}: {taken} MiB, not {mib}");
        }
    }
}

/// The parser tries twice to make something of some words, and whatever follows them: of none of them it may take twice as long for each.
#[test]
fn g10_no_word_takes_more_each_time_it_is_repeated() {
    // So few that they need no stack of their own, and enough for what doubles to be over the bound.
    const COPIES: usize = 10;
    let words = ALL_KEYWORDS.iter().chain(&["", "f", "a.", "-", "x 'y' "]);
    watched(|| {
        for (number, word) in words.enumerate() {
            for between in [" ", "(", " - "] {
                for before in ["SELECT ", "SELECT * FROM "] {
                    let words = format!("{word}{between}").repeat(COPIES);
                    let sql = format!("{before}{words}) FROM t");
                    for dialect in Dialect::ALL {
                        let options = Options {
                            dialect,
                            ..Options::default()
                        };
                        let bound = sql.len() * BYTES_PER_REPEATED_BYTE;
                        let (_, taken) =
                            bounded(number as u64, bound, || explain(&sql, &[], options));
                        assert!(taken <= bound, "{dialect}: {taken} bytes: {sql}");
                    }
                }
            }
        }
    });
}

/// Runs what is bounded, and ends the process where something goes on beyond its bound.
fn watched(run: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap();
    IS_OVER.store(false, Ordering::SeqCst);
    let watcher = std::thread::spawn(watch);
    run();
    IS_OVER.store(true, Ordering::SeqCst);
    watcher.join().unwrap();
}

/// Does something, and tells how many bytes were allocated.
fn bounded<T>(number: u64, bound: usize, work: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.total_allocated();
    CASE.store(number, Ordering::SeqCst);
    // Twice that, for what has ended says so itself.
    LIMIT.store(before + 2 * bound, Ordering::SeqCst);
    let done = work();
    LIMIT.store(usize::MAX, Ordering::SeqCst);
    (done, MEMORY.total_allocated() - before)
}

/// What takes more than its bound may never end: then somebody has to say which it is.
fn watch() {
    while !IS_OVER.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
        let limit = LIMIT.load(Ordering::SeqCst);
        if MEMORY.total_allocated() > limit {
            eprintln!(
                "case {} is over its bound and goes on",
                CASE.load(Ordering::SeqCst)
            );
            std::process::abort();
        }
    }
}

#[test]
fn g10_no_text_makes_explain_panic_or_exceed_its_bounds() {
    let cases = std::env::var("GRAPEVINE_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let numbers = match std::env::var("GRAPEVINE_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("GRAPEVINE_SEEDS is A..B");
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => 0..cases,
    };
    let mut most = Most::default();
    watched(|| {
        for number in numbers.clone() {
            case(number, &mut most);
        }
    });
    println!("cases {numbers:?}: {most:?}");
    let count = numbers.end - numbers.start;
    if count >= CASES {
        // It has to get past the tokenizer and the parser, and to meet the limits.
        assert!(most.understood * 10 > count, "{most:?}");
        assert!(most.unparsable * 10 > count, "{most:?}");
        assert!(most.too_long > 10, "{most:?}");
    }
}
