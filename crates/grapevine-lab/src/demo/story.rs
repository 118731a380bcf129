//! The story of cart 13, which the project is named for solving: every slice of it is cached, nobody knows under how many
//! addresses, an item is added, and all of them must go, on every node.

use std::sync::Arc;
use std::time::Duration;

use grapevine_client::How;
use tokio::task::JoinSet;

use super::load::{add_item, begin, judge};
use super::scenario::Scenario;
use super::screen::{Screen, count, ms};
use super::stage::{NODES, Stage, World};
use crate::auditor::{Tally, Verdict};

const CART: u32 = 13;
const WRITER: usize = 1;
/// All slices that customers could ask for.
const LIMITS: [u32; 5] = [10, 15, 20, 25, 50];
const OFFSETS: u64 = 300;
/// Readers on each node.
const READERS: u64 = 8;
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(2);

/// What one round over all slices came to.
#[derive(Debug, Default)]
struct Round {
    tally: Tally,
    hits: u64,
}

/// Tells it; answers the tally of its reads.
pub(crate) async fn tell(
    stage: &Stage,
    scenario: Scenario,
    screen: &Screen,
) -> anyhow::Result<Tally> {
    let world = &stage.world;
    let first = read_all(world, scenario).await?;
    let held = stage.cache.stats().items;
    screen.line(&format!(
        "Cart {CART} is read on all nodes, {} different slices: {} addresses in the cache.",
        count(first.tally.reads),
        screen.strong(&count(held)),
    ));
    drop(world.take_convergence());
    let added = add_item(world, &scenario, WRITER, CART, None).await?;
    let knew = converged(world).await;
    screen.line(&format!(
        "n{}: an item goes into the cart; {}: {}.",
        WRITER + 1,
        screen.code(&format!("`invalidate {}`", scenario.class(CART))),
        told(&scenario, &added.outcome, held),
    ));
    screen.line(&format!(
        "     {} until all {NODES} nodes knew; the call took {}.",
        screen.strong(&knew.map_or_else(|| "unknown time".to_owned(), ms)),
        ms(added.took),
    ));
    let mut second = read_all(world, scenario).await?;
    let old = second.tally.lagging;
    screen.line(&if scenario.promises_writes() {
        format!(
            "Read again: {} of {} slices are old; {} had to ask the database.",
            screen.verdict(old),
            count(second.tally.reads),
            count(second.tally.reads - second.hits),
        )
    } else {
        format!(
            "Read again: {} of {} slices are old, as agreed: none may be older than {} s.",
            count(old),
            count(second.tally.reads),
            super::scenario::TTL.as_secs(),
        )
    });
    second.tally.merge(&first.tally);
    Ok(second.tally)
}

fn told(scenario: &Scenario, outcome: &grapevine_client::InvalidateOutcome, held: u64) -> String {
    match scenario.strategy {
        "versioned" => format!(
            "1 event, {} addresses that nobody asks for again",
            count(held)
        ),
        "ttl" => "1 event, and nothing is deleted".to_owned(),
        _ => format!(
            "1 event, {} addresses deleted",
            count(outcome.addresses_purged)
        ),
    }
}

/// Reads every slice once, spread over the nodes and their readers.
async fn read_all(world: &World, scenario: Scenario) -> anyhow::Result<Round> {
    let mut readers = JoinSet::new();
    let lanes = READERS * u64::from(NODES);
    for lane in 0..lanes {
        let world = world.clone();
        readers.spawn(async move {
            let mut round = Round::default();
            let slices = (0..OFFSETS).flat_map(|offset| LIMITS.map(|limit| (offset, limit)));
            for (number, (offset, limit)) in (0..).zip(slices) {
                if number % lanes == lane {
                    round.read(&world, scenario, offset, limit).await?;
                }
            }
            anyhow::Ok(round)
        });
    }
    let mut all = Round::default();
    while let Some(round) = readers.join_next().await {
        let round = round??;
        all.tally.merge(&round.tally);
        all.hits += round.hits;
    }
    Ok(all)
}

impl Round {
    async fn read(
        &mut self,
        world: &World,
        scenario: Scenario,
        offset: u64,
        limit: u32,
    ) -> anyhow::Result<()> {
        let counters = Arc::clone(&world.counters);
        let node = usize::try_from(offset % u64::from(NODES))?;
        let begun = begin(world, &scenario, CART);
        let seen = counters[node].read(&scenario, CART, offset, limit).await?;
        self.hits += u64::from(matches!(seen.how, How::Hit | How::Waited));
        let verdict: Verdict = judge(world, &begun, seen.version).await;
        self.tally.count(verdict);
        Ok(())
    }
}

/// How long the one event took to all nodes.
async fn converged(world: &World) -> Option<Duration> {
    let deadline = tokio::time::Instant::now() + CONVERGE_TIMEOUT;
    loop {
        let took = world.convergence.lock().times().max();
        if took.is_some() || tokio::time::Instant::now() >= deadline {
            return took;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
