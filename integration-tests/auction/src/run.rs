//! A run: three sidecars, and for each arm in turn a cache server, a database and the same visitors.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use grapevine_client::{CachedClient, Client, Session};
use grapevine_lab::caches::{CacheKind, CacheServer, CacheServerError, MEMORY_MIB_DEFAULT};
use grapevine_lab::cluster::{Cluster, ClusterConfig};
use grapevine_lab::histogram::Histogram;
use grapevine_lab::pool::blocking;
use grapevine_proto::v1;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::arm::{Arm, Node};
use crate::ask::Table;
use crate::catalogue::Catalogue;
use crate::database::Database;
use crate::figures::Figures;
use crate::judge::{Case, judge};
use crate::ledger::{Ledger, Read};
use crate::visitor::{Visit, Visitors};

/// Sidecars, each with a node of the application.
pub const NODES: u32 = 3;

const READY_TIMEOUT: Duration = Duration::from_mins(1);
const RESOLVE_DEADLINE: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `grapevine` program, which is started as sidecar.
    pub grapevine: PathBuf,
    /// What every draw begins from.
    pub seed: u64,
    /// Pages of all visitors together, in each arm.
    pub steps: u32,
    /// Visitors at one time.
    pub visitors: u32,
    /// What lies at least between the beginnings of two pages of a visitor, so that all arms take about as long: what a short time to live
    /// costs shows only in runs that are longer than it.
    pub think: Duration,
    /// Users when the auction opens.
    pub users: u32,
    /// Items when the auction opens.
    pub items: u32,
    /// The ways of caching, one after another.
    pub arms: Vec<Arm>,
    /// How far a write must have come before its page is shown: `one`, or `all`.
    pub receipt: v1::ReceiptLevel,
    /// How long an answer lives under timeouts only.
    pub ttl: Duration,
    /// The cache server.
    pub cache: CacheKind,
    /// Rows of this table are not told: for tests, which must see it.
    pub untold: Option<Table>,
}

impl Options {
    /// All arms, small.
    pub fn new(grapevine: PathBuf) -> Self {
        Self {
            grapevine,
            seed: 1,
            steps: 20_000,
            visitors: 24,
            think: Duration::from_millis(40),
            users: 1_000,
            items: 2_000,
            arms: Arm::ALL.to_vec(),
            receipt: v1::ReceiptLevel::One,
            ttl: Duration::from_secs(2),
            cache: CacheKind::Memcached,
            untold: None,
        }
    }
}

/// Runs every arm; `say` is told what is being done.
pub async fn run(options: &Options, say: impl Fn(&str)) -> anyhow::Result<Vec<Figures>> {
    // Before anything takes long: is it there at all?
    drop(cache_server(options.cache).await?);
    say(&format!("starting {NODES} sidecars"));
    let cluster = sidecars(options).await?;
    let catalogue = Catalogue::new(options.seed, options.users, options.items);
    let catalogue = Arc::new(catalogue);
    let mut figures = Vec::new();
    for arm in &options.arms {
        say(&format!("{arm}: {} pages", options.steps));
        let stage = Stage::set(options, *arm, &cluster, &catalogue).await?;
        let played = stage.play(options, &catalogue).await?;
        say(&format!("{arm}: judging {} reads", played.reads.len()));
        figures.push(played.judge(options, &catalogue).await?);
    }
    cluster.stop().await?;
    Ok(figures)
}

/// Starts the sidecars of a run.
pub async fn sidecars(options: &Options) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(ClusterConfig {
        executable: options.grapevine.clone(),
        nodes: NODES,
        name: "auction".to_owned(),
        config_toml: sidecar_config(),
        cache_urls: vec![],
        ready_timeout: READY_TIMEOUT,
    });
    Ok(cluster.await?)
}

/// What an arm needs, running.
pub struct Stage {
    arm: Arm,
    /// A node beside each sidecar.
    pub nodes: Arc<[Node]>,
    database: Database,
    ledger: Arc<Ledger>,
    _cache: CacheServer,
    // After the database, so that it goes last.
    _dir: TempDir,
}

impl Stage {
    /// Sets it, with an empty cache and a database as the catalogue has it.
    pub async fn set(
        options: &Options,
        arm: Arm,
        cluster: &Cluster,
        catalogue: &Arc<Catalogue>,
    ) -> anyhow::Result<Self> {
        let cache = cache_server(options.cache).await?;
        let dir = tempfile::Builder::new()
            .prefix("grapevine-auction-")
            .tempdir()?;
        let database = Database::create(dir.path(), catalogue).await?;
        let ledger = Arc::new(Ledger::default());
        let node = |place: &grapevine_lab::cluster::Node| {
            let client = Client::builder(format!("unix:{}", place.app_unix.display()));
            let client = client.resolve_deadline(RESOLVE_DEADLINE).build()?;
            let cached = CachedClient::new(client, grapevine_cache::connect(cache.url())?);
            anyhow::Ok(Node {
                arm,
                cached: cached.dialect(crate::arm::DIALECT),
                database: database.clone(),
                ledger: Arc::clone(&ledger),
                receipt: options.receipt,
                ttl: options.ttl,
                untold: options.untold,
            })
        };
        let nodes: anyhow::Result<_> = cluster.nodes().iter().map(node).collect();
        Ok(Self {
            arm,
            nodes: nodes?,
            database,
            ledger,
            _cache: cache,
            _dir: dir,
        })
    }

    async fn play(self, options: &Options, catalogue: &Arc<Catalogue>) -> anyhow::Result<Played> {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for place in 0..options.visitors {
            let places = (place, options.visitors);
            let visitors = Visitors::new(
                options.seed,
                Arc::clone(catalogue),
                places,
                self.nodes.len(),
            );
            // The first ones go the pages that are left over.
            let pages = (options.steps + options.visitors - 1 - place) / options.visitors;
            tasks.spawn(visit(
                visitors,
                Arc::clone(&self.nodes),
                pages,
                options.think,
            ));
        }
        let mut played = Played {
            arm: self.arm,
            reads: Vec::new(),
            page_times: Histogram::default(),
            write_times: Histogram::default(),
            pages: options.steps,
            elapsed: Duration::ZERO,
            queries: 0,
            database: self.database.clone(),
            ledger: Arc::clone(&self.ledger),
        };
        while let Some(seen) = tasks.join_next().await {
            let seen = seen.context("a visitor panicked")??;
            played.reads.extend(seen.reads);
            played.page_times.merge(&seen.page_times);
            played.write_times.merge(&seen.write_times);
        }
        played.elapsed = begun.elapsed();
        played.queries = self.database.queries();
        for node in &*self.nodes {
            tracing::debug!(arm = %self.arm, client = ?node.cached.client().stats(), cached = ?node.cached.stats(), "a node's client");
        }
        Ok(played)
    }
}

/// What the visitors of one place saw.
#[derive(Default)]
struct Seen {
    reads: Vec<Read>,
    page_times: Histogram,
    write_times: Histogram,
}

async fn visit(
    mut visitors: Visitors,
    nodes: Arc<[Node]>,
    pages: u32,
    think: Duration,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let (mut session, mut owed) = (Session::new(), Vec::new());
    let mut pace = tokio::time::interval(think);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..pages {
        pace.tick().await;
        let visit = visitors.next_visit();
        let node = &nodes[visit.node];
        if visit.new_session {
            (session, owed) = (Session::new(), Vec::new());
        }
        if let Some(write) = &visit.write {
            let begun = Instant::now();
            let written = node.database.write(write.clone()).await?;
            let told = node.tell(&written, &session).await;
            let token = told.with_context(|| format!("{:?} was not told", visit.state))?;
            node.ledger.told(written.commit);
            owed.push(written.commit);
            if let Some(token) = token {
                session.add(&token)?;
            }
            seen.write_times.record(begun.elapsed());
        }
        seen.show(&visit, node, &session, &owed).await?;
    }
    Ok(seen)
}

impl Seen {
    async fn show(
        &mut self,
        visit: &Visit,
        node: &Node,
        session: &Session,
        owed: &[u32],
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        for ask in &visit.asks {
            self.reads.push(node.read(ask, session, owed).await?);
        }
        if !visit.asks.is_empty() {
            self.page_times.record(begun.elapsed());
        }
        Ok(())
    }
}

/// What happened in an arm, before it is judged.
struct Played {
    arm: Arm,
    reads: Vec<Read>,
    page_times: Histogram,
    write_times: Histogram,
    pages: u32,
    elapsed: Duration,
    queries: u64,
    database: Database,
    ledger: Arc<Ledger>,
}

impl Played {
    async fn judge(self, options: &Options, catalogue: &Arc<Catalogue>) -> anyhow::Result<Figures> {
        let (log, asks) = (self.database.log(), self.ledger.asks());
        let mut figures = Figures {
            arm: self.arm,
            pages: self.pages,
            writes: log.len() as u64,
            queries: self.queries,
            shapes: std::collections::BTreeMap::new(),
            page_times: self.page_times,
            write_times: self.write_times,
            elapsed: self.elapsed,
        };
        let owed_to_all = options.receipt == v1::ReceiptLevel::All;
        let (reads, catalogue) = (self.reads, Arc::clone(catalogue));
        blocking(move || {
            let case = Case {
                catalogue: &catalogue,
                log: &log,
                asks: &asks,
                reads: &reads,
                owed_to_all,
            };
            let verdicts = judge(&case).context("the judge's database failed")?;
            for (read, verdict) in reads.iter().zip(verdicts) {
                let ask = &asks[read.key as usize];
                if figures.arm.promises_writes() && (verdict.stale || verdict.wrong) {
                    tracing::warn!(arm = %figures.arm, ?ask, ?read, ?verdict, "not as it should be");
                }
                figures.count(ask.shape, read, verdict);
            }
            Ok(figures)
        })
        .await
    }
}

async fn cache_server(kind: CacheKind) -> anyhow::Result<CacheServer> {
    match CacheServer::start(kind, MEMORY_MIB_DEFAULT).await {
        Err(CacheServerError::NotInstalled(program)) => anyhow::bail!(
            "`{program}` is not installed (not found in PATH): install it (on Debian `apt-get install {program}`), or take --embedded"
        ),
        started => Ok(started?),
    }
}

fn sidecar_config() -> String {
    format!(
        "[cluster]\nexpected_members = {NODES}\n\
         [freshness]\nmax_staleness = \"2s\"\nmember_timeout = \"30s\"\n\
         [drain]\ntimeout = \"1s\"\n[log]\nfilter = \"warn\"\n\
         [policy_default]\nttl = \"12h\"\non_unknown = \"bypass\"\n"
    )
}
