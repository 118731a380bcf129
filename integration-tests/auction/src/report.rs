//! The figures as tables for people and as one line of JSON.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use grapevine_lab::histogram::{Histogram, SummaryMs};
use serde_json::{Value, json};

use crate::arm::Arm;
use crate::ask::Shape;
use crate::figures::{Counts, Figures, over_invalidation, ratio};

/// The arms that are compared with classes of tables.
const COMPARED: [Arm; 2] = [Arm::Grapevine, Arm::Lists];

/// For people.
pub fn text(figures: &[Figures]) -> String {
    let mut text = arms(figures).to_string();
    for arm in COMPARED {
        if let Some(share) = over_invalidation(figures, arm) {
            let _ = write!(
                text,
                "\n{arm}: {} of what table-level invalidated needlessly",
                percent(share)
            );
        }
    }
    for figures in figures {
        let _ = write!(
            text,
            "\n\n{}, by the shapes of questions\n{}",
            figures.arm,
            shapes(figures)
        );
    }
    text
}

fn arms(figures: &[Figures]) -> Table {
    let mut table = framed([
        "arm",
        "reads",
        "hits",
        "oracle",
        "database\nqueries",
        "saved",
        "stale",
        "old",
        "invali-\ndations",
        "needless\nreads",
        "bypasses",
        "seconds",
        "page ms\np50",
        "p99",
        "write ms\np50",
        "p99",
    ]);
    for figures in figures {
        let all = figures.all();
        let ((page, page_99), (write, write_99)) =
            (ms(&figures.page_times), ms(&figures.write_times));
        table.add_row([
            figures.arm.to_string(),
            all.reads.to_string(),
            percent(ratio(all.hits, all.reads)),
            percent(ratio(all.oracle_hits, all.reads)),
            figures.queries.to_string(),
            percent(figures.saved()),
            all.stale.to_string(),
            all.old.to_string(),
            invalidations(figures).to_string(),
            all.needless.to_string(),
            all.bypasses.to_string(),
            format!("{:.0}", figures.elapsed.as_secs_f64()),
            page,
            page_99,
            write,
            write_99,
        ]);
    }
    aligned(table)
}

fn shapes(figures: &Figures) -> Table {
    let mut table = framed([
        "shape",
        "reads",
        "hits",
        "oracle",
        "stale",
        "old",
        "needless\nreads",
        "bypasses",
    ]);
    for (shape, counts) in &figures.shapes {
        table.add_row([
            shape.name().to_owned(),
            counts.reads.to_string(),
            percent(ratio(counts.hits, counts.reads)),
            percent(ratio(counts.oracle_hits, counts.reads)),
            counts.stale.to_string(),
            counts.old.to_string(),
            counts.needless.to_string(),
            counts.bypasses.to_string(),
        ]);
    }
    aligned(table)
}

fn framed<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn ms(times: &Histogram) -> (String, String) {
    times.summary_ms().map_or_else(
        || ("-".to_owned(), "-".to_owned()),
        |times| (format!("{:.1}", times.p50), format!("{:.1}", times.p99)),
    )
}

fn invalidations(figures: &Figures) -> u64 {
    if figures.arm.promises_writes() {
        figures.writes
    } else {
        0
    }
}

/// For scripts: one line, without its end.
pub fn json_line(figures: &[Figures], seed: u64, failures: &[String]) -> String {
    let share = |arm| over_invalidation(figures, arm).map(rounded);
    json!({
        "seed": seed,
        "arms": figures.iter().map(arm_json).collect::<Vec<_>>(),
        "over_invalidation_of_table_level": {
            "grapevine": share(Arm::Grapevine),
            "grapevine-lists": share(Arm::Lists),
        },
        "failures": failures,
    })
    .to_string()
}

fn arm_json(figures: &Figures) -> Value {
    let mut value = counts_json(&figures.all());
    let shape = |(shape, counts): (&Shape, &Counts)| {
        let mut value = counts_json(counts);
        value["shape"] = shape.name().into();
        value
    };
    value["arm"] = figures.arm.to_string().into();
    value["pages"] = figures.pages.into();
    value["writes"] = figures.writes.into();
    value["invalidations"] = invalidations(figures).into();
    value["database_queries"] = figures.queries.into();
    value["database_queries_saved"] = rounded(figures.saved()).into();
    value["page_ms"] = times_json(&figures.page_times);
    value["write_ms"] = times_json(&figures.write_times);
    value["elapsed_s"] = rounded(figures.elapsed.as_secs_f64()).into();
    value["shapes"] = figures.shapes.iter().map(shape).collect();
    value
}

fn counts_json(counts: &Counts) -> Value {
    json!({
        "reads": counts.reads,
        "hits": counts.hits,
        "hit_ratio": rounded(ratio(counts.hits, counts.reads)),
        "oracle_hit_ratio": rounded(ratio(counts.oracle_hits, counts.reads)),
        "bypasses": counts.bypasses,
        "needless_reads": counts.needless,
        "stale": counts.stale,
        "old": counts.old,
        "wrong": counts.wrong,
    })
}

fn times_json(times: &Histogram) -> Value {
    let times = times.summary_ms().map(SummaryMs::rounded);
    times.map_or(
        Value::Null,
        |times| json!({"p50": times.p50, "p99": times.p99, "max": times.max}),
    )
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
