//! What every scenario needs: a network, five sidecars, a cache, the load, and what is asked of them before, during and after trouble.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_integration_tests::{CacheServer, Cluster, Network, Python, Setup, eventually};
use grapevine_proto::v1::Freshness;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::load::{Figures, Load};

pub(crate) const NODES: usize = 5;
/// The kit's: how old a member's word may be.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(1);
/// What a cluster without trouble comes to, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(1);
/// So many reads show how a cluster does.
const READS_TO_TELL: u64 = 600;
/// One read in so many may miss its deadline on a busy machine, and go past the cache.
const LATE_ONE_IN: u64 = 50;
/// Of the hits that a cache with perfect invalidation would have had.
const HITS_PER_CENT: u64 = 90;

/// One scenario at a time: two cores are few for five sidecars.
static TURN: Mutex<()> = Mutex::const_new(());

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) network: Arc<Network>,
    _memcached: CacheServer,
    python: Option<Python>,
    name: String,
    load: Load,
    troubled: Option<Figures>,
    _dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// The network, and a setup on it; nothing where the test may be skipped.
pub(crate) async fn on_a_network(test: &str, nodes: usize) -> Option<(Arc<Network>, Setup)> {
    let network = Arc::new(Network::open(test).unwrap()?);
    let setup = Setup::of(nodes).network(&network);
    Some((network, setup))
}

pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

impl Stage {
    /// Five sidecars, set up and prepared as told, all of them fresh, and the load at work; nothing where the test may be skipped.
    pub(crate) async fn open(
        test: &str,
        set: impl FnOnce(Setup) -> Setup,
        prepare: impl FnOnce(&mut Cluster),
    ) -> Option<Self> {
        let turn = turn().await;
        let (network, setup) = on_a_network(test, NODES).await?;
        let memcached = CacheServer::memcached_at(test, network.host());
        let memcached = memcached.await.unwrap()?;
        let python = Python::prepare(test).await.unwrap();
        let setup = set(setup.flag("cache", &memcached.url));
        let mut cluster = setup.prepare().await.unwrap();
        prepare(&mut cluster);
        for node in 0..NODES {
            cluster[node].start().unwrap();
        }
        cluster.wait_fresh().await.unwrap();
        let seed = std::env::var("GRAPEVINE_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        eprintln!("{test}: GRAPEVINE_SEED={seed}");
        let dir = TempDir::new().unwrap();
        let load = Load::start(&cluster, &memcached, python.as_ref(), dir.path(), seed).await;
        let stage = Self {
            cluster,
            network,
            _memcached: memcached,
            python,
            name: test.to_owned(),
            load,
            troubled: None,
            _dir: dir,
            _turn: turn,
        };
        stage.calm().await;
        Some(stage)
    }

    /// Nobody was given what it was owed not to get.
    pub(crate) fn check(&self) -> Result<()> {
        let stale = self.load.stale();
        ensure!(stale.is_empty(), "stale reads: {stale:#?}");
        Ok(())
    }

    /// Waits until so many reads in a row hit as often as in a perfect cache, nearly, and hardly one goes past the cache.
    pub(crate) async fn calm(&self) {
        let begun = self.load.figures();
        let mut before = begun;
        eventually("hits are what they should be", SOON, async || {
            self.check()?;
            let now = self.load.figures();
            let figures = now.since(before);
            ensure!(figures.reads >= READS_TO_TELL, "{figures:?}");
            before = now;
            let enough = figures.hits * 100 >= figures.oracle_hits * HITS_PER_CENT;
            let few_late = figures.bypassed * LATE_ONE_IN <= figures.reads;
            ensure!(enough && few_late, "{figures:?}");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// From here on there is trouble: nothing is asked but that nobody is given what is stale.
    pub(crate) fn trouble(&mut self) {
        self.check().unwrap();
        self.troubled = Some(self.load.figures());
    }

    /// Lets the load go on for so long, and until enough of it was seen.
    pub(crate) async fn go_on_for(&self, during: Duration) {
        let (begun, before) = (Instant::now(), self.load.figures());
        eventually("the load goes on", during + SOON, async || {
            self.check()?;
            ensure!(begun.elapsed() >= during);
            let figures = self.load.figures().since(before);
            ensure!(figures.reads >= 300 && figures.writes >= 5, "{figures:?}");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// Lets callers ask a sidecar for every cart and wait for it as long as it takes.
    pub(crate) fn wait_at(&mut self, node: usize) {
        self.load.wait_at(node);
    }

    /// Waits until a sidecar says that it is not fresh; answers how long that took.
    pub(crate) async fn not_fresh(&self, node: usize, within: Duration) -> Duration {
        let begun = Instant::now();
        let api = self.cluster[node].api.clone();
        let what = format!("n{} says that it does not know", node + 1);
        eventually(&what, within, async || {
            let (_, freshness) = api.token("cart/1").await?;
            ensure!(freshness != Freshness::Fresh);
            Ok(())
        })
        .await
        .unwrap();
        begun.elapsed()
    }

    /// Waits until these are fresh; answers how long that took.
    pub(crate) async fn fresh(&self, nodes: &[usize], within: Duration) -> Duration {
        let begun = Instant::now();
        eventually(&format!("{nodes:?} are fresh"), within, async || {
            self.check()?;
            for node in nodes {
                let status = self.cluster[*node].api.status().await?;
                let known = status.missing_events == 0 && status.freshness() == Freshness::Fresh;
                ensure!(known, "n{}: {}", node + 1, status.freshness_reason);
            }
            Ok(())
        })
        .await
        .unwrap();
        begun.elapsed()
    }

    /// After trouble: these are fresh within so long and agree, and reads hit again. Ends the scenario and tells of it.
    pub(crate) async fn end(mut self, nodes: &[usize], within: Duration) -> Figures {
        let took = self.fresh(nodes, within).await;
        let troubled = self.load.figures().since(self.troubled.take().unwrap());
        self.calm().await;
        let (all, tally, stale) = self.load.finish().await;
        assert!(stale.is_empty(), "stale reads: {stale:#?}");
        assert_eq!((tally.stale, tally.ahead), (0, 0));
        assert!(troubled.reads > 0 && all.session_reads > 0 && all.writes > all.unsatisfied);
        assert!(self.python.is_none() || troubled.in_python > 0);
        let probes: Vec<String> = (1..10).map(|cart| format!("cart/{cart}")).collect();
        self.cluster.wait_agree(&probes, SOON).await.unwrap();
        eprintln!(
            "{}: fresh again {} ms after its end; in trouble {} of {} reads hit (perfect: {}), {} bypassed, {} of {} writes \
             unsatisfied; in all {} reads, 0 stale, oldest value {} ms, {} reads of sessions, {} calls from Python",
            self.name,
            took.as_millis(),
            troubled.hits,
            troubled.reads,
            troubled.oracle_hits,
            troubled.bypassed,
            troubled.unsatisfied,
            troubled.writes,
            all.reads,
            tally.oldest().as_millis(),
            all.session_reads,
            all.in_python,
        );
        troubled
    }
}
