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
pub(crate) mod screen;
mod shelves;
mod stage;
mod story;
mod table;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::load::Load;
use self::scenario::{REGISTERED, Scenario, TTL};
use self::screen::{Screen, count, ms, percent};
use self::stage::{CARTS, ITEMS_PER_CART, NODES, Stage};
use self::table::Row;
use crate::interrupt::{print, until_interrupted};

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
    /// Prints the table as one line of JSON, and no story.
    pub json: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DemoOutcome {
    /// What was not as it should be, one sentence each. Empty stands for exit status 0.
    pub failures: Vec<String>,
}

/// Runs the demo, under a minute. Ends early, with [`Interrupted`](crate::Interrupted) and with everything that it started
/// ended, on Ctrl-C and SIGTERM.
pub async fn run(options: DemoOptions) -> anyhow::Result<DemoOutcome> {
    until_interrupted(tell(&options)).await
}

async fn tell(options: &DemoOptions) -> anyhow::Result<DemoOutcome> {
    let begun = Instant::now();
    let screen = if options.json {
        Screen::silent()
    } else {
        Screen::new(options.fancy)
    };
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
    screen.heading(
        "lists",
        "Lists of ids by category. Items are added where they come, at once, and left out where they were.",
    );
    let lists = shelves::tell(&stage, screen).await?;
    stage.clear().await?;
    if options.json {
        print(table::json_line(&rows, begun.elapsed()));
    }
    screen.heading("What the auditor saw", "");
    screen.block(table::table(&rows));
    screen.line(table::NOTE);
    let mut failures: Vec<String> = rows.iter().flat_map(Row::failures).collect();
    if lists.missing > 0 {
        let missing = lists.missing;
        failures.push(format!("lists: {missing} lacked an item that had come"));
    }
    for failure in &failures {
        screen.line(&screen.news(false, failure));
    }
    if failures.is_empty() {
        let judged = rows.iter().map(|row| row.judged.reads).sum::<u64>();
        screen.line(&format!(
            "{} All {} reads were judged, those of cart 13's story among them. Under `ttl` none was older than {} s, \
             which is all that a TTL promises. {:.0} s in all.",
            screen.news(true, "No read was stale."),
            count(judged),
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
    stage.world.settle().await;
    let convergence = stage.world.take_convergence();
    for counter in &*stage.world.counters {
        tracing::debug!(cached = ?counter.cached.stats(), "a node's client so far");
    }
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
        convergence: Some(convergence),
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
        name: "  around the kill *".to_owned(),
        judged: figures.tally.clone(),
        figures,
        held: None,
        convergence: None,
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
