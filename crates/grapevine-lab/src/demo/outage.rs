//! A sidecar is killed with -9 while the shop is open, and brought back on its own directory.
//!
//! What is to be seen: customers of its node go to the database, its writers' invalidations are taken by another
//! sidecar, the others stop vouching for what they cannot know (and bypass the cache, as their policy says), and once it is
//! back, it knows what it had missed before anybody is served from the cache again.

use std::time::Duration;

use anyhow::bail;
use grapevine_proto::v1::Freshness;
use tokio::time::Instant;

use super::load::{Figures, Load};
use super::scenario::REGISTERED;
use super::screen::{Screen, count, ms};
use super::stage::Stage;

const VICTIM: usize = 1;
const OPEN_BEFORE: Duration = Duration::from_secs(1);
const GONE_FOR: Duration = Duration::from_millis(1_500);
const OPEN_AFTER: Duration = Duration::from_secs(1);
const BACK_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Tells it; answers what the customers' auditors counted.
pub(crate) async fn tell(stage: &mut Stage, screen: &Screen) -> anyhow::Result<Figures> {
    let load = Load::start(&stage.world, REGISTERED);
    tokio::time::sleep(OPEN_BEFORE).await;
    let id = stage.cluster.nodes()[VICTIM].id.clone();
    let process = stage.cluster.process_id(VICTIM).unwrap_or_default();
    let killed = Instant::now();
    stage.cluster.kill(VICTIM).await?;
    screen.line(&format!(
        "{}: {}, process {process}.",
        screen.strong(&format!("{:>7}", "0 ms")),
        screen.code(&format!("`kill -9` of {id}")),
    ));
    let after = |what: String| {
        let since = screen.strong(&format!("{:>7}", ms(killed.elapsed())));
        screen.line(&format!("{since}: {what}"));
    };
    let invalidations = |load: &Load| {
        let live = load.live();
        live.invalidations
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let before = invalidations(&load);
    let back_at = killed + GONE_FOR;
    if wait(stage, back_at, |fresh| fresh.iter().all(|fresh| !fresh)).await? {
        after(
            "the others cannot show any more that they are fresh: reads go to the database.".into(),
        );
    }
    tokio::time::sleep_until(back_at).await;
    let missed = invalidations(&load) - before;
    stage.cluster.restart(VICTIM)?;
    after(format!(
        "{id} starts again on its directory; meanwhile the others took {} invalidations.",
        count(missed)
    ));
    let timeout = Instant::now() + BACK_TIMEOUT;
    if !wait(stage, timeout, |fresh| fresh.iter().all(|fresh| *fresh)).await? {
        bail!("{id} was brought back, and not every sidecar is fresh after {BACK_TIMEOUT:?}");
    }
    after("it has caught up, and all three are fresh.".into());
    tokio::time::sleep(OPEN_AFTER).await;
    let figures = load.finish().await?;
    drop(stage.world.take_convergence());
    screen.line(&format!(
        "Around it: {} reads, {} of them past the cache, {} stale; {} invalidations, {} by another sidecar, {} lost.",
        count(figures.tally.reads),
        count(figures.bypasses),
        screen.verdict(figures.tally.stale),
        count(figures.invalidations),
        count(figures.failed_over),
        screen.verdict(figures.failed_writes),
    ));
    Ok(figures)
}

/// Waits until the freshness of all sidecars is as wanted; one that does not answer counts as not fresh.
async fn wait(
    stage: &Stage,
    deadline: Instant,
    wanted: impl Fn(&[bool]) -> bool,
) -> anyhow::Result<bool> {
    loop {
        let mut fresh = Vec::new();
        for node in 0..stage.cluster.nodes().len() {
            let status = stage.cluster.status(node).await;
            fresh.push(status.is_ok_and(|status| status.freshness() == Freshness::Fresh));
        }
        if wanted(&fresh) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
}
