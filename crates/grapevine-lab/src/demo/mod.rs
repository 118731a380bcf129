//! The demo: a shop whose carts are cached on three nodes, told as a story on standard output.
//!
//! Three sidecars run as processes of their own; the cache server and the shop's counters run in this one. Each chapter
//! shows the same shop under another policy: first what one added item does to cart 13, then some seconds of customers on
//! every node. Between them a sidecar is killed and brought back. An auditor judges every read; the table at the end has its
//! verdicts.

mod counter;
mod load;
mod outage;
mod scenario;
mod screen;
mod stage;
mod story;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};

use self::load::{Figures, Load};
use self::scenario::{REGISTERED, Scenario, TTL};
use self::screen::{Screen, count, ms, percent};
use self::stage::{CARTS, ITEMS_PER_CART, NODES, Stage};
use crate::auditor::Tally;
use crate::histogram::Histogram;
use crate::interrupt::until_interrupted;

/// How long the shop is open under each policy.
const OPEN: Duration = Duration::from_secs(3);
const BAR_TICK: Duration = Duration::from_millis(100);

/// What the demo can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// The executable that understands `sidecar`, usually the running one.
    pub executable: PathBuf,
    /// What every draw begins from.
    pub seed: u64,
    /// Colours and bars; without them plain lines.
    pub fancy: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DemoOutcome {
    /// What was not as it should be, one sentence each; they have been printed. Empty stands for exit status 0.
    pub failures: Vec<String>,
}

/// One row of the table.
struct Row {
    scenario: Scenario,
    name: String,
    /// All reads of the chapter, those of cart 13's story included.
    judged: Tally,
    figures: Figures,
    /// Addresses in the cache at the end.
    held: Option<u64>,
    converge: Option<Histogram>,
}

/// Runs the demo, under a minute. Ends early, with an error and with everything that it started ended, on Ctrl-C and SIGTERM.
pub async fn run(options: DemoOptions) -> anyhow::Result<DemoOutcome> {
    until_interrupted(tell(&options)).await
}

async fn tell(options: &DemoOptions) -> anyhow::Result<DemoOutcome> {
    let begun = Instant::now();
    let screen = Screen::new(options.fancy);
    screen.heading("Grapevine", "");
    screen.line("Which cached entries does this write make stale, on every node, right now?");
    let mut stage = Stage::set(options).await?;
    opening(&stage, screen, begun.elapsed());
    let mut rows = Vec::new();
    for scenario in scenario::ALL {
        rows.push(chapter(&stage, scenario, screen).await?);
        if scenario == REGISTERED {
            rows.push(kill_chapter(&mut stage, screen).await?);
        }
    }
    stage.clear().await?;
    screen.heading("What the auditor saw", "");
    println!("{}", table(&rows));
    let failures: Vec<String> = rows.iter().flat_map(Row::failures).collect();
    for failure in &failures {
        screen.line(&screen.news(false, failure));
    }
    if failures.is_empty() {
        let stale = "No read was stale.";
        screen.line(&format!(
            "{} Under `ttl` none was older than {} s, which is all that a TTL promises. {:.0} s in all.",
            screen.news(true, stale),
            TTL.as_secs(),
            begun.elapsed().as_secs_f64(),
        ));
    }
    Ok(DemoOutcome { failures })
}

fn opening(stage: &Stage, screen: Screen, took: Duration) {
    let nodes = stage.cluster.nodes().iter().enumerate();
    let processes: Vec<String> = nodes
        .map(|(number, node)| {
            let process = stage.cluster.process_id(number).unwrap_or_default();
            format!("{} (pid {process})", node.id)
        })
        .collect();
    screen.line(&format!(
        "{NODES} sidecars, each a process: {}; found each other in {}.",
        processes.join(", "),
        ms(took)
    ));
    screen.line(&format!(
        "A shop in SQLite: {CARTS} carts of {ITEMS_PER_CART} items. A cache on {}.",
        stage.cache.addr()
    ));
    screen
        .line("Every read below is judged by an auditor that knows when each write had returned.");
}

async fn chapter(stage: &Stage, scenario: Scenario, screen: Screen) -> anyhow::Result<Row> {
    screen.heading(scenario.name, scenario.about);
    stage.cache.clear();
    let mut judged = story::tell(stage, scenario, &screen).await?;
    stage.cache.clear();
    drop(stage.world.take_convergence());
    let load = Load::start(&stage.world, scenario);
    watch(&load, screen).await;
    let figures = load.finish().await?;
    let held = stage.cache.stats().items;
    let convergence = stage.world.take_convergence();
    screen.line(&format!(
        "{:.0} s of customers on {NODES} nodes: {} reads, {} hits (perfect invalidation: {}), {} items added, {} stale.",
        OPEN.as_secs_f64(),
        count(figures.tally.reads),
        screen.strong(&percent(figures.hits, figures.tally.reads)),
        percent(figures.oracle_hits, figures.oracle_reads),
        count(figures.invalidations),
        screen.verdict(figures.tally.stale),
    ));
    judged.merge(&figures.tally);
    Ok(Row {
        scenario,
        name: scenario.name.to_owned(),
        judged,
        figures,
        held: Some(held),
        converge: Some(convergence.times().clone()),
    })
}

async fn kill_chapter(stage: &mut Stage, screen: Screen) -> anyhow::Result<Row> {
    screen.heading(
        "kill -9",
        "A sidecar dies while the shop is open, and comes back on its directory. The policy says: when in doubt, bypass.",
    );
    stage.cache.clear();
    let figures = outage::tell(stage, &screen).await?;
    Ok(Row {
        scenario: REGISTERED,
        name: "  around the kill".to_owned(),
        judged: figures.tally.clone(),
        figures,
        held: None,
        converge: None,
    })
}

/// Shows the customers at work, for as long as the shop is open.
async fn watch(load: &Load, screen: Screen) {
    let ticks = OPEN.as_millis() / BAR_TICK.as_millis();
    let bar = screen.bar(u64::try_from(ticks).unwrap_or(u64::MAX));
    for _ in 0..ticks {
        tokio::time::sleep(BAR_TICK).await;
        let live = load.live();
        let (reads, hits) = (
            live.reads.load(Ordering::Relaxed),
            live.hits.load(Ordering::Relaxed),
        );
        bar.inc(1);
        bar.set_message(format!(
            "{} reads, {} hits; last: an item into cart {}, every node knew in {}",
            count(reads),
            percent(hits, reads),
            live.last_cart.load(Ordering::Relaxed),
            ms(Duration::from_micros(live.last_us.load(Ordering::Relaxed))),
        ));
    }
    bar.finish_and_clear();
}

impl Row {
    fn failures(&self) -> Vec<String> {
        let (name, figures) = (self.name.trim(), &self.figures);
        let mut failures = Vec::new();
        let mut unless = |good: bool, what: String| {
            if !good {
                failures.push(format!("{name}: {what}"));
            }
        };
        let judged = &self.judged;
        unless(judged.stale == 0, format!("{} stale reads", judged.stale));
        unless(
            judged.ahead == 0,
            format!("{} values that nobody wrote", judged.ahead),
        );
        unless(
            figures.failed_reads == 0,
            format!("{} reads failed", figures.failed_reads),
        );
        unless(
            figures.failed_writes == 0,
            format!("{} invalidations failed", figures.failed_writes),
        );
        unless(figures.hits > 0, "no read hit the cache".to_owned());
        unless(
            self.scenario.promises_writes() || judged.oldest() <= TTL,
            format!(
                "a value {:?} old, the time to live is {TTL:?}",
                judged.oldest()
            ),
        );
        failures
    }

    fn cells(&self) -> Vec<String> {
        let figures = &self.figures;
        let quantile = |times: Option<&Histogram>, per_mille| {
            let time = times.and_then(|times| times.quantile(per_mille));
            time.map_or_else(|| "-".to_owned(), ms)
        };
        vec![
            self.name.clone(),
            count(self.judged.reads),
            percent(figures.hits, figures.tally.reads),
            percent(figures.oracle_hits, figures.oracle_reads),
            self.held.map_or_else(|| "-".to_owned(), count),
            count(figures.invalidations),
            quantile(Some(&figures.cost), 500),
            quantile(self.converge.as_ref(), 500),
            quantile(self.converge.as_ref(), 990),
            ms(self.judged.oldest()),
            count(self.judged.stale),
        ]
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "strategy",
        "reads",
        "hits",
        "oracle",
        "addresses\nheld",
        "invali-\ndations",
        "one costs\n(median)",
        "all nodes\nknow: p50",
        "p99",
        "oldest\nvalue",
        "stale\nreads",
    ]);
    for row in rows {
        table.add_row(row.cells());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
