//! The story of cart 13, which the project is named for solving: every slice of it is cached, nobody knows under how many
//! addresses, an item is added, and all of them must go, on every node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use grapevine_client::How;
use tokio::task::JoinSet;

use super::load::{add_item, begin, judge};
use super::scenario::{Scenario, TTL};
use super::screen::{Screen, count, ms, things};
use super::stage::{NODES, Stage, World};
use crate::auditor::{Tally, Verdict};
use crate::converge::Convergence;

const CART: u32 = 13;
const WRITER: usize = 1;
/// All slices that customers could ask for.
const LIMITS: [u32; 5] = [10, 15, 20, 25, 50];
const OFFSETS: u64 = 300;
/// Readers on each node.
const READERS: u64 = 8;
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(2);
const CONVERGE_POLL: Duration = Duration::from_millis(1);

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
        "Cart {CART} is read on all nodes, {} different slices: {} in the cache.",
        count(first.tally.reads),
        screen.strong(&things(held, "address")),
    ));
    drop(world.take_convergence());
    let added = add_item(world, &scenario, WRITER, CART, None).await?;
    let knew = converged(world).await?;
    screen.line(&format!(
        "n{}: an item goes into the cart; {}: {}; {} of {} are left in the cache.",
        WRITER + 1,
        screen.code(&format!("`invalidate {}`", scenario.class(CART))),
        told(&world.convergence.lock(), added.outcome.addresses_purged),
        count(stage.cache.stats().items),
        count(held),
    ));
    screen.line(&format!(
        "     {} until all {NODES} nodes knew; the call took {}.",
        screen.strong(&ms(knew)),
        ms(added.took),
    ));
    let mut second = read_all(world, scenario).await?;
    screen.line(&read_again(&second, scenario, screen));
    second.tally.merge(&first.tally);
    Ok(second.tally)
}

/// What the sidecars said and did: events that the watchers saw, addresses that the answer says were deleted.
fn told(convergence: &Convergence, addresses_purged: u64) -> String {
    format!(
        "{}, {} deleted at once",
        things(convergence.events(), "event"),
        things(addresses_purged, "address")
    )
}

fn read_again(second: &Round, scenario: Scenario, screen: &Screen) -> String {
    let (reads, old) = (second.tally.reads, second.tally.lagging);
    if scenario.promises_writes() {
        return format!(
            "Read again: {} of {} slices are old; {} had to ask the database.",
            screen.verdict(old),
            count(reads),
            count(reads - second.hits),
        );
    }
    format!(
        "Read again: {} of {} slices are old, by up to {}; none may be older than {} s, and that is what was agreed.",
        count(old),
        count(reads),
        ms(second.tally.oldest()),
        TTL.as_secs(),
    )
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

/// How long the one event took to all nodes. That it cannot be told is a failure: somebody may not know of it.
async fn converged(world: &World) -> anyhow::Result<Duration> {
    let deadline = tokio::time::Instant::now() + CONVERGE_TIMEOUT;
    loop {
        if let Some(took) = world.convergence.lock().times().max() {
            return Ok(took);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "the invalidation of cart {CART} was not seen on all {NODES} nodes within {CONVERGE_TIMEOUT:?}"
            );
        }
        tokio::time::sleep(CONVERGE_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scenario::{EXPIRING, VERSIONED};
    use crate::truth::Moment;

    #[test]
    fn what_is_told_is_what_was_measured() {
        let mut convergence = Convergence::new(3, 10);
        assert_eq!(
            told(&convergence, 0),
            "0 events, 0 addresses deleted at once"
        );
        convergence.called(([1; 16], 4), Moment(1));
        assert_eq!(
            told(&convergence, 1_500),
            "1 event, 1,500 addresses deleted at once"
        );
    }

    #[test]
    fn the_second_round_tells_what_the_auditor_saw() {
        let mut round = Round {
            hits: 2,
            ..Round::default()
        };
        for verdict in [Verdict::Fresh, Verdict::Fresh, Verdict::Fresh] {
            round.tally.count(verdict);
        }
        let age = Duration::from_millis(300);
        round.tally.count(Verdict::Lagging { age });
        let screen = Screen::new(false);
        assert_eq!(
            read_again(&round, VERSIONED, &screen),
            "Read again: 1 of 4 slices are old; 2 had to ask the database."
        );
        assert!(
            read_again(&round, EXPIRING, &screen)
                .contains("1 of 4 slices are old, by up to 300 ms")
        );
    }
}
