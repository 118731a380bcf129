//! Customers: on every node some read slices of carts as fast as they get them, and one adds items, with an auditor beside each of
//! them and an oracle that is told the same.
//!
//! The oracle sees reads when they begin and writes when they are committed, one after the other under a lock: a cache with
//! perfect invalidation and no delay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use grapevine_client::How;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::scenario::{PAGE_ITEMS, Scenario};
use super::stage::{CARTS, ITEMS_PER_CART, World};
use crate::auditor::{Auditor, Begun, Promise, Tally, Verdict};
use crate::histogram::Histogram;
use crate::oracle::Oracle;
use crate::truth::{CounterId, Subject, Versions};

const READERS_PER_NODE: u32 = 8;
const WRITE_EVERY: Duration = Duration::from_millis(60);
/// And no sooner than after so many reads on all nodes: on a slow machine there are fewer of both, and the mix stays.
const READS_PER_WRITE_MIN: u64 = 150;
const LIMITS: [u32; 3] = [10, 15, 25];
/// A reader may see a commit a moment before its writer has told the truth.
const TRUTH_DELAY_MAX: Duration = Duration::from_secs(1);
const TRUTH_POLL: Duration = Duration::from_millis(1);

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) tally: Tally,
    pub(crate) hits: u64,
    pub(crate) bypasses: u64,
    pub(crate) oracle_hits: u64,
    pub(crate) oracle_reads: u64,
    pub(crate) failed_reads: u64,
    /// Invalidations acknowledged.
    pub(crate) invalidations: u64,
    pub(crate) failed_writes: u64,
    pub(crate) addresses_purged: u64,
    /// Invalidations that another sidecar than the node's own acknowledged.
    pub(crate) failed_over: u64,
    /// What an invalidation took, until every sidecar had it.
    pub(crate) cost: Histogram,
}

impl Figures {
    fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
        self.hits += other.hits;
        self.bypasses += other.bypasses;
        self.failed_reads += other.failed_reads;
        self.invalidations += other.invalidations;
        self.failed_writes += other.failed_writes;
        self.addresses_purged += other.addresses_purged;
        self.failed_over += other.failed_over;
        self.cost.merge(&other.cost);
    }
}

/// Counts that others may look at while customers come and go.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) reads: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    /// The last write: its cart, and what its invalidation took in microseconds.
    pub(crate) last_cart: AtomicU64,
    pub(crate) last_us: AtomicU64,
}

/// An address, for the oracle: the cart, and the limit and offset or the page.
type OracleAddress = (u32, u32, u64);

/// Customers at work. Dropping it sends them away.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Figures>,
}

struct Shared {
    world: World,
    scenario: Scenario,
    oracle: Mutex<Oracle<OracleAddress>>,
    closed: AtomicBool,
    live: Live,
}

impl Load {
    /// Opens the shop.
    pub(crate) fn start(world: &World, scenario: Scenario) -> Self {
        let shared = Arc::new(Shared {
            world: world.clone(),
            scenario,
            oracle: Mutex::new(Oracle::default()),
            closed: AtomicBool::new(false),
            live: Live::default(),
        });
        let mut tasks = JoinSet::new();
        for node in 0..world.counters.len() {
            tasks.spawn(write(Arc::clone(&shared), node));
            for reader in 0..READERS_PER_NODE {
                tasks.spawn(read(Arc::clone(&shared), node, reader));
            }
        }
        Self { shared, tasks }
    }

    pub(crate) fn live(&self) -> &Live {
        &self.shared.live
    }

    /// Closes the shop once every customer has finished.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Figures> {
        self.shared.closed.store(true, Ordering::Relaxed);
        let mut figures = Figures::default();
        while let Some(done) = self.tasks.join_next().await {
            figures.merge(&done?);
        }
        let oracle = self.shared.oracle.lock();
        (figures.oracle_reads, figures.oracle_hits) = (oracle.reads(), oracle.hits());
        Ok(figures)
    }
}

/// What the auditor calls a cart.
pub(crate) fn subject(cart: u32) -> Subject {
    Subject {
        object: CounterId(cart),
        group: None,
    }
}

/// Begins a read under a scenario's promise.
pub(crate) fn begin(world: &World, scenario: &Scenario, cart: u32) -> Begun {
    let promise = if scenario.promises_writes() {
        Promise::Everyone
    } else {
        Promise::Nobody
    };
    let auditor = Auditor::new(Arc::clone(&world.truth));
    auditor.begin(subject(cart), promise, || world.clock.now())
}

/// Judges a read. The database shows a commit before its writer can tell: a value ahead of the truth is given a moment.
pub(crate) async fn judge(world: &World, begun: &Begun, version: Option<u64>) -> Verdict {
    let Some(object) = version else {
        return Verdict::Fresh;
    };
    let auditor = Auditor::new(Arc::clone(&world.truth));
    let shown = Versions { object, group: 0 };
    let deadline = tokio::time::Instant::now() + TRUTH_DELAY_MAX;
    loop {
        let verdict = auditor.judge(begun, shown);
        if verdict != Verdict::Ahead || tokio::time::Instant::now() >= deadline {
            return verdict;
        }
        tokio::time::sleep(TRUTH_POLL).await;
    }
}

async fn read(shared: Arc<Shared>, node: usize, reader: u32) -> Figures {
    let Shared {
        world,
        scenario,
        live,
        ..
    } = &*shared;
    let mut random = SmallRng::seed_from_u64(
        world.seed ^ (node as u64) << 32 ^ u64::from(reader) << 16 ^ u64::from(READERS_PER_NODE),
    );
    let mut figures = Figures::default();
    while !shared.closed.load(Ordering::Relaxed) {
        let cart = draw_cart(&mut random);
        let limit = LIMITS[random.random_range(0..LIMITS.len())];
        let offset = draw_offset(&mut random, limit);
        let begun = begin(world, scenario, cart);
        let addresses = oracle_addresses(scenario, cart, offset, limit);
        shared.oracle.lock().read(subject(cart), addresses);
        let seen = match world.counters[node]
            .read(scenario, cart, offset, limit)
            .await
        {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(cart, "a read failed: {error:#}");
                figures.failed_reads += 1;
                continue;
            }
        };
        figures
            .tally
            .count(judge(world, &begun, seen.version).await);
        let hit = matches!(seen.how, How::Hit | How::Waited);
        figures.hits += u64::from(hit);
        figures.bypasses += u64::from(matches!(seen.how, How::Bypassed(_)));
        live.reads.fetch_add(1, Ordering::Relaxed);
        live.hits.fetch_add(u64::from(hit), Ordering::Relaxed);
    }
    figures
}

async fn write(shared: Arc<Shared>, node: usize) -> Figures {
    let Shared {
        world,
        scenario,
        live,
        ..
    } = &*shared;
    let mut random = SmallRng::seed_from_u64(world.seed ^ (node as u64) << 32);
    let mut figures = Figures::default();
    let mut next_after_reads = 0;
    let mut interval = tokio::time::interval(WRITE_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.closed.load(Ordering::Relaxed) {
        interval.tick().await;
        let reads = live.reads.load(Ordering::Relaxed);
        if reads < next_after_reads {
            continue;
        }
        next_after_reads = reads + READS_PER_WRITE_MIN;
        let cart = draw_cart(&mut random);
        let added = match add_item(world, scenario, node, cart, Some(&shared.oracle)).await {
            Ok(added) => added,
            Err(error) => {
                tracing::warn!(cart, "an item's invalidation failed: {error:#}");
                figures.failed_writes += 1;
                continue;
            }
        };
        let own = world.counters[node].cached.client();
        let own = own.endpoints().next().unwrap_or_default();
        figures.failed_over += u64::from(&*added.outcome.answered_by != own);
        figures.invalidations += 1;
        figures.addresses_purged += added.outcome.addresses_purged;
        figures.cost.record(added.took);
        live.invalidations.fetch_add(1, Ordering::Relaxed);
        live.last_cart.store(cart.into(), Ordering::Relaxed);
        let us = u64::try_from(added.took.as_micros()).unwrap_or(u64::MAX);
        live.last_us.store(us, Ordering::Relaxed);
    }
    figures
}

/// Adds an item to a cart at a node's counter: commits, tells the truth and the oracle, then invalidates.
pub(crate) async fn add_item(
    world: &World,
    scenario: &Scenario,
    node: usize,
    cart: u32,
    oracle: Option<&Mutex<Oracle<OracleAddress>>>,
) -> anyhow::Result<super::counter::Added> {
    let product = format!("wine from n{}", node + 1);
    let version = world.shop.add_item(cart, product).await?;
    let id = subject(cart).object;
    world.truth.committed_as(id, version, world.clock.now());
    if let Some(oracle) = oracle {
        oracle.lock().write(id);
    }
    let added = world.counters[node].invalidate(scenario, cart).await?;
    world.truth.acknowledge(id, version);
    let event = &added.outcome.event;
    if let Some(event) = crate::converge::event_key(&event.incarnation, event.sequence) {
        let called = world.clock.at(added.called);
        world.convergence.lock().called(event, called);
    }
    Ok(added)
}

fn oracle_addresses(scenario: &Scenario, cart: u32, offset: u64, limit: u32) -> Vec<OracleAddress> {
    if !scenario.paged {
        return vec![(cart, limit, offset)];
    }
    // Slices end before the cart does, so none is cut short.
    let size = u64::from(PAGE_ITEMS);
    let last = (offset + u64::from(limit) - 1) / size;
    (offset / size..=last)
        .map(|page| (cart, PAGE_ITEMS, page))
        .collect()
}

/// Few carts are busy: half of all reads go to a quarter of them.
fn draw_cart(random: &mut SmallRng) -> u32 {
    let spread = random.random_range(0..CARTS);
    1 + random.random_range(0..=spread)
}

/// People begin at the front, at multiples of 5, and each step on is half as likely.
fn draw_offset(random: &mut SmallRng, limit: u32) -> u64 {
    let steps = random.random::<u64>().trailing_zeros() * 2 + random.random_range(0..2);
    let last = (ITEMS_PER_CART - limit) / 5;
    u64::from(steps.min(last)) * 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scenario::{VERSIONED, VERSIONED_PAGES};

    #[test]
    fn slices_lie_within_the_cart() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..10_000 {
            let limit = LIMITS[random.random_range(0..LIMITS.len())];
            let offset = draw_offset(&mut random, limit);
            assert!(offset + u64::from(limit) <= u64::from(ITEMS_PER_CART));
            assert!((1..=CARTS).contains(&draw_cart(&mut random)));
        }
    }

    #[test]
    fn a_slice_is_one_address_or_its_pages() {
        assert_eq!(oracle_addresses(&VERSIONED, 7, 35, 15), [(7, 15, 35)]);
        assert_eq!(
            oracle_addresses(&VERSIONED_PAGES, 7, 35, 15),
            [(7, 10, 3), (7, 10, 4)]
        );
    }
}
