//! Everything that the demo needs, running: three sidecars, a cache server, a shop, a counter of the shop on each node, and
//! whoever watches from outside.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use grapevine_client::{CachedClient, Client};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::DemoOptions;
use super::counter::{Counter, Counters};
use super::scenario::policies;
use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterConfig, Node};
use crate::converge::Convergence;
use crate::memcached_server::MemcachedServer;
use crate::shop::Shop;
use crate::truth::Truth;
use crate::watchers;

pub(crate) const NODES: u32 = 3;
pub(crate) const CARTS: u32 = 40;
/// Items of a cart when the shop opens.
pub(crate) const ITEMS_PER_CART: u32 = 300;
const SHOP_READERS: usize = 4;
/// How old a member's word may be for the others to vouch for themselves. Short, so that the demo can show what follows a crash.
pub(crate) const MAX_STALENESS: Duration = Duration::from_millis(500);
const MEMBER_TIMEOUT: Duration = Duration::from_secs(20);
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const RESOLVE_DEADLINE: Duration = Duration::from_millis(500);
const EVENTS_MAX: usize = 10_000;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// What is running. Dropping it ends it.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) cluster: Cluster,
    pub(crate) cache: MemcachedServer,
    _watchers: JoinSet<()>,
    // After the cluster, so that it goes last.
    _shop_dir: TempDir,
}

/// What readers and writers need. Clones share it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) counters: Counters,
    pub(crate) shop: Shop,
    /// A counter per cart, by its number.
    pub(crate) truth: Arc<Truth>,
    pub(crate) clock: Clock,
    pub(crate) convergence: Arc<Mutex<Convergence>>,
    pub(crate) seed: u64,
}

impl Stage {
    pub(crate) async fn set(options: &DemoOptions) -> anyhow::Result<Self> {
        let cache = MemcachedServer::start("127.0.0.1:0")
            .await
            .context("the cache server cannot listen")?;
        let cache_url = format!("memcached://{}", cache.addr());
        let shop_dir = tempfile::Builder::new()
            .prefix("grapevine-shop-")
            .tempdir()?;
        let shop = Shop::create(shop_dir.path(), CARTS, ITEMS_PER_CART, SHOP_READERS);
        let cluster = Cluster::start(ClusterConfig {
            executable: options.executable.clone(),
            nodes: NODES,
            name: "demo".to_owned(),
            config_toml: sidecar_config(),
            cache_urls: vec![cache_url.clone()],
            ready_timeout: READY_TIMEOUT,
        });
        let (shop, cluster) = tokio::join!(shop, cluster);
        let (shop, cluster) = (shop?, cluster?);
        let counters = counters(&cluster, &cache_url, &shop)?;
        let clients = counters
            .iter()
            .map(|counter| counter.cached.client().clone())
            .collect();
        let clock = Clock::start();
        let convergence = Arc::new(Mutex::new(Convergence::new(NODES, EVENTS_MAX)));
        let watchers = watchers::watch(clients, clock, &convergence).await?;
        let world = World {
            counters,
            shop,
            truth: Arc::new(Truth::new(CARTS + 1)),
            clock,
            convergence,
            seed: options.seed,
        };
        Ok(Self {
            world,
            cluster,
            cache,
            _watchers: watchers,
            _shop_dir: shop_dir,
        })
    }

    /// Ends the sidecars in order.
    pub(crate) async fn clear(self) -> anyhow::Result<()> {
        self.cluster.stop().await?;
        // Before the server, which it would miss.
        drop(self.world);
        self.cache.shutdown().await;
        Ok(())
    }
}

impl World {
    /// Waits until the watchers have told what they saw, or have had time enough.
    pub(crate) async fn settle(&self) {
        let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
        while self.convergence.lock().unknown() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// Begins to measure convergence anew, and hands out what was measured.
    pub(crate) fn take_convergence(&self) -> Convergence {
        let fresh = Convergence::new(NODES, EVENTS_MAX);
        std::mem::replace(&mut self.convergence.lock(), fresh)
    }
}

/// A counter on each node; its invalidations may go to the other sidecars when its own is gone.
fn counters(cluster: &Cluster, cache_url: &str, shop: &Shop) -> anyhow::Result<Counters> {
    let endpoint = |node: &Node| format!("unix:{}", node.app_unix.display());
    let nodes = cluster.nodes();
    let counter = |own: &Node| {
        let others = nodes.iter().filter(|node| node.id != own.id);
        let builder = Client::builder(endpoint(own)).resolve_deadline(RESOLVE_DEADLINE);
        let builder = others.fold(builder, |builder, other| {
            builder.fail_over_to(endpoint(other))
        });
        Ok(Counter {
            cached: CachedClient::new(builder.build()?, grapevine_cache::connect(cache_url)?),
            shop: shop.clone(),
        })
    };
    nodes.iter().map(counter).collect()
}

fn sidecar_config() -> String {
    format!(
        "[cluster]\nexpected_members = {NODES}\n\
         [freshness]\nmax_staleness = \"{}ms\"\nmember_timeout = \"{}s\"\n\
         [drain]\ntimeout = \"1s\"\n[log]\nfilter = \"warn\"\n\
         [policy_default]\non_unknown = \"bypass\"\n{}",
        MAX_STALENESS.as_millis(),
        MEMBER_TIMEOUT.as_secs(),
        policies()
    )
}
