//! A sidecar from start to end: open the store, start the machine, gossip, listen, serve, drain.

mod connection;
mod descriptors;
mod gossip;
mod incoming;
mod listen;
mod predecessor;
mod signals;
mod streams;
#[cfg(test)]
mod tests;
mod unix;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::{Input, PeerHello};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::roster::RETIRED_MAX;
use grapevine_core::store::Recovered;
use grapevine_store::Store;
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use crate::config::{Config, DeclaredIndex};
use crate::engine::{Clock, Command, Engine, EventLoop, Parts, Sessions, follow_limits};
use crate::peers::{Dialler, run_dialler};
use crate::purge::Purger;
use crate::telemetry::Counters;
use crate::telemetry::metrics::{self, Histograms};
use crate::telemetry::otel::Otel;
use crate::telemetry::readings::{Reader, Sources};
use crate::telemetry::traces::Traces;
use gossip::{follow_gossip, start_gossip};
use listen::{Listeners, serve};
use predecessor::outlast;
use signals::{Signals, cuts_off};

/// The largest difference between two members' clock rates that grants allow for: 500 parts per million, twice the worst
/// crystal and what an NTP daemon slews.
const CLOCK_RATE_PPM: u32 = 500;
/// How often, and after how long each time, it is looked whether gossip is nobody else's any more.
const GOSSIP_LOOKS: u32 = 50;
const GOSSIP_LOOK: Duration = Duration::from_millis(20);
/// How often it is told that opening the store takes long. A store of ten million registrations takes a second.
const OPENING_TOLD_EVERY: Duration = Duration::from_secs(5);
/// How long leaving may take once calls have ended: a flush, the last deletes, and the links' last messages.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Runs a sidecar until SIGTERM, SIGHUP, Ctrl-C or a `Drain`, then drains within the configured bound. A second signal ends it
/// at once, which is an error; one that comes before the listeners and the store are there does, too, which is none.
pub async fn run(config: Config) -> anyhow::Result<()> {
    for warning in config.warnings() {
        warn!("{warning}");
    }
    descriptors::raise(config.limits.connections_max);
    let mut signals = Signals::listen()?;
    let opened = async {
        // Before the listeners: until there is somebody to answer, callers are refused and go elsewhere, where they would wait.
        info!(path = %config.store.path.display(), "opening the store");
        let store = outlast(async || open_store(&config).await).await?;
        let listeners = outlast(async || Listeners::bind(&config).await).await?;
        anyhow::Ok((store, listeners))
    };
    let ((store, recovered), mut listeners) = tokio::select! {
        opened = opened => opened?,
        reason = signals.next() => {
            info!(reason, "ended before it had started");
            return Ok(());
        }
    };
    // Given up behind all that follows, however that ends.
    let _unix_held = listeners.unix_held.take();
    let peer_address = config.peer_advertise(listeners.peer.local_addr()?);
    let mut sidecar = Sidecar::start(&config, store, &recovered, peer_address).await?;
    drop(recovered);
    listeners.tell();
    let (drain_tx, mut drain_rx) = mpsc::channel(1);
    let (stop_tx, stop) = watch::channel(false);
    let mut servers = serve(&config, &sidecar, listeners, drain_tx, &stop)?;
    let (bound, by_call) = tokio::select! {
        reason = signals.next() => { info!(reason, "draining"); (config.drain.timeout, false) }
        Some(asked) = drain_rx.recv() => { info!("draining: asked to"); (asked.unwrap_or(config.drain.timeout), true) }
        ended = &mut sidecar.looping => return ended.context("the event loop panicked")?,
        Some(ended) = servers.join_next() => return ended.context("a server panicked")?,
    };
    stop_tx.send_replace(true);
    // What they wait for may never come, and the drain would take all of its time: they may wait at another sidecar.
    sidecar.engine.sessions.close();
    let drain = async {
        end_calls(&mut servers, bound).await;
        sidecar.leave().await
    };
    tokio::select! {
        left = drain => left?,
        reason = cuts_off(async || signals.next().await, by_call) => anyhow::bail!("{reason} during the drain: ended before it was over"),
    }
    info!("drained");
    Ok(())
}

/// What runs behind the listeners.
struct Sidecar {
    engine: Engine,
    otel: Otel,
    histograms: Histograms,
    /// What metrics are read from, for as long as this lives.
    sources: Arc<Sources>,
    hello: PeerHello,
    gossip: Arc<grapevine_gossip::Gossip>,
    looping: JoinHandle<anyhow::Result<()>>,
    dialling: JoinHandle<()>,
    following: JoinHandle<()>,
    limits: JoinHandle<()>,
}

impl Sidecar {
    /// Starts the machine on what a store held, the loop around it, gossip, and the dialler.
    async fn start(
        config: &Config,
        store: Arc<dyn Store>,
        recovered: &Recovered,
        peer_address: String,
    ) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let incarnation = new_incarnation()?;
        let core_config = core_config(config, incarnation);
        let hello = PeerHello {
            node_id: core_config.node_id.clone(),
            incarnation,
            peer_address,
            policy_digest: config.policies.digest(),
        };
        let (core, first) = Core::start(core_config, recovered, clock.now());
        if core.counters().started_over > 0 {
            warn_of_start_over();
        }
        let (gossip, views) = start_gossip(config, &hello).await?;
        let gossip = Arc::new(gossip);
        let counters = Arc::new(Counters::new());
        let (node, cluster) = (hello.node_id.as_str(), config.cluster.name.as_str());
        let scraped = config.metrics.listen.is_some();
        let otel = Otel::start(node, cluster, scraped, &counters)?;
        let histograms = Histograms::new(otel.metrics.as_ref());
        let (urgent, urgent_in) = mpsc::channel(config.limits.queue_commands_max);
        // Its messages are up to a thousand times larger, so it holds far fewer of them.
        let (bulk, bulk_in) = mpsc::channel((config.limits.queue_commands_max / 32).max(1));
        let (applied_tx, applied) = watch::channel(0);
        let (members_tx, members) = watch::channel(Vec::new());
        let engine = Engine {
            core: Arc::new(RwLock::new(core)),
            store,
            clock,
            counters: counters.clone(),
            traces: Traces::new(otel.traces.as_ref(), &counters),
            news: broadcast::Sender::new(config.limits.queue_watch_max),
            applied,
            sessions: Sessions::new(config.limits.session_waits_max, &counters),
            in_use: Arc::default(),
            urgent,
            bulk,
        };
        let caches = config.cache.url.iter().map(crate::config::CacheUrl::open);
        let caches = caches.collect::<Result<Vec<_>, _>>()?;
        let purger = Arc::new(Purger::start(caches, &config.purge, counters));
        let sources = Arc::new(Sources {
            engine: engine.clone(),
            gossip: gossip.clone(),
            purger: purger.clone(),
            registrations_max: config.limits.registrations_max as u64,
        });
        if let Some(provider) = &otel.metrics {
            metrics::observe(provider, Reader::new(&sources));
        }
        let parts = Parts {
            engine: engine.clone(),
            urgent: urgent_in,
            bulk: bulk_in,
            applied: applied_tx,
            members: members_tx,
            purger,
            histograms: histograms.clone(),
            gossip: gossip.clone(),
            writes_max: config.limits.queue_writes_max.saturating_mul(1_000),
        };
        let event_loop = EventLoop::new(parts, first).context("cannot start the writer thread")?;
        let looping = tokio::spawn(event_loop.run());
        let declared = config.index.declared.iter().map(DeclaredIndex::class);
        let declared: Vec<_> = declared.collect();
        if !declared.is_empty() {
            let meet = Command::Input(Input::MeetShapes(declared));
            // Without room for it each is met where it is read first.
            let _ = engine.urgent.try_send(meet);
        }
        let dialler = dialler(config, &engine, &hello);
        let expected = config.cluster.expected_members;
        let following = follow_gossip(engine.clone(), views, hello.clone(), expected);
        let limits = engine.clone();
        info!(node = %hello.node_id, %incarnation, cluster = config.cluster.name.as_str(), peer_address = hello.peer_address, "sidecar started");
        Ok(Self {
            engine,
            otel,
            histograms,
            sources,
            hello,
            gossip,
            looping,
            dialling: tokio::spawn(run_dialler(dialler, members)),
            following: tokio::spawn(following),
            limits: tokio::spawn(follow_limits(limits)),
        })
    }

    /// Leaves the cluster, whatever became of the calls, for the peers would wait for this sidecar otherwise: flushes,
    /// says so to them, and lets the links bring it over.
    async fn leave(self) -> anyhow::Result<()> {
        let Self {
            engine,
            otel,
            sources,
            gossip,
            looping,
            dialling,
            following,
            limits,
            ..
        } = self;
        following.abort();
        limits.abort();
        let left = async {
            let (done, drained) = oneshot::channel();
            // An error means that the loop has ended by itself; why is its own result.
            if engine.urgent.send(Command::Drain(done)).await.is_ok() {
                let _ = drained.await;
            }
            looping.await.context("the event loop panicked")??;
            dialling.await.context("the dialler panicked")
        };
        let left = tokio::time::timeout(LEAVE_MAX, left)
            .await
            .unwrap_or_else(|_| {
                warn!(
                    bound_ms = LEAVE_MAX.as_millis(),
                    "could not leave in order; the peers will wait for this sidecar"
                );
                Ok(())
            });
        // Also of one that failed: its last spans tell why.
        otel.end().await;
        left?;
        drop((engine, sources));
        // Somebody who scrapes at this moment has it for a moment more.
        for _ in 0..GOSSIP_LOOKS {
            if Arc::strong_count(&gossip) == 1 {
                break;
            }
            tokio::time::sleep(GOSSIP_LOOK).await;
        }
        if let Some(gossip) = Arc::into_inner(gossip) {
            gossip.shutdown().await;
        }
        Ok(())
    }
}

/// Waits for open calls to end, new ones being refused already; cuts them off after `bound`.
async fn end_calls(servers: &mut JoinSet<anyhow::Result<()>>, bound: Duration) {
    let ended = async {
        while let Some(ended) = servers.join_next().await {
            if let Ok(Err(error)) = ended {
                error!(%error, "a server failed while draining");
            }
        }
    };
    if tokio::time::timeout(bound, ended).await.is_err() {
        warn!(
            bound_ms = bound.as_millis(),
            "not every call ended within drain.timeout; cutting them off"
        );
        servers.abort_all();
    }
}

fn warn_of_start_over() {
    warn!(
        "this sidecar starts over: it was away while more runs were retired than the others remember, or it is the only \
         member and its store knew of more than limits.old_runs_max runs that are over; what the store said of \
         classes is dropped, and everything is invalidated once"
    );
}

fn dialler(config: &Config, engine: &Engine, hello: &PeerHello) -> Dialler {
    Dialler {
        engine: engine.clone(),
        cluster: config.cluster.name.as_str().to_owned(),
        hello: hello.clone(),
        queue_urgent_max: config.limits.queue_peer_urgent_max,
        queue_bulk_max: config.limits.queue_peer_bulk_max,
    }
}

fn new_incarnation() -> anyhow::Result<Incarnation> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(Incarnation::from_random(u128::from_be_bytes(random), 0))
}

async fn open_store(config: &Config) -> anyhow::Result<(Arc<dyn Store>, Recovered)> {
    let store_config = grapevine_store::StoreConfig {
        cache_bytes: config.store.cache_bytes.as_usize() as u64,
        log_bytes_max: config.store.log_bytes_max.as_usize() as u64 / 2,
        ..grapevine_store::StoreConfig::new(&config.store.path)
    };
    let path = config.store.path.display();
    let mut opening = tokio::task::spawn_blocking(move || grapevine_store::open(&store_config));
    let opened = loop {
        match tokio::time::timeout(OPENING_TOLD_EVERY, &mut opening).await {
            Ok(opened) => break opened?,
            Err(_) => {
                warn!(%path, "the store is still being opened: its disk, or what stands there in the place of a file, does not answer");
            }
        }
    };
    let (store, recovered, report) = opened.with_context(|| format!("store.path {path}"))?;
    if let Some(aside) = report.set_aside {
        let reason = report.reason.as_deref().unwrap_or("it cannot be read");
        error!(set_aside = %aside.display(), reason, "the store was damaged: starting empty, to be rebuilt from peers");
    }
    if report.commits_lost > 0 {
        let commits = report.commits_lost;
        error!(
            commits,
            "the store lost what it had flushed, as an older copy would: catching up from peers"
        );
    }
    Ok((Arc::new(store), recovered))
}

fn core_config(config: &Config, incarnation: Incarnation) -> CoreConfig {
    CoreConfig {
        node_id: config.node.id.clone(),
        incarnation,
        policies: config.policies.clone(),
        expected_members: config.cluster.expected_members,
        max_staleness: config.freshness.max_staleness,
        member_timeout: config.freshness.member_timeout,
        crash_timeout: config.freshness.crash_timeout,
        retire_after: config
            .freshness
            .retire_after
            .max(config.freshness.member_timeout)
            .max(config.lease.duration),
        lease_duration: config.lease.duration,
        clock_rate_ppm: CLOCK_RATE_PPM,
        limits: Limits {
            top_level_classes_max: config.limits.top_level_classes_max,
            classes_per_top_max: config.limits.classes_per_top_max,
            classes_max: config.limits.classes_max,
            receipts_max: config.limits.receipts_max,
            intents_max: config.limits.intents_max,
            local_tables_max: config.limits.local_tables_max,
            fill_waits_max: config.limits.fill_waits_max,
            origins_max: config.limits.origins_max,
            old_runs_max: config.limits.old_runs_max,
            retired_max: RETIRED_MAX,
            index_members_max: config.limits.index_members_max,
            index_rows_max: config.limits.index_rows_max,
            direct_pushes_max: config.limits.direct_pushes_max,
            ..Limits::default()
        },
    }
}
