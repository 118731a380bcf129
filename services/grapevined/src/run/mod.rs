//! A sidecar from start to end: open the store, start the machine, gossip, listen, serve, drain.

mod gossip;
mod listen;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::PeerHello;
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_store::Store;
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::engine::{Clock, Command, Engine, EventLoop, Parts};
use crate::peers::{Dialler, run_dialler};
use crate::purge::Purger;
use crate::telemetry::Counters;
use gossip::{follow_gossip, start_gossip};
use listen::{Listeners, serve};

/// The largest difference between two members' clock rates that grants allow for: 500 parts per million, twice the worst
/// crystal and what an NTP daemon slews.
const CLOCK_RATE_PPM: u32 = 500;
/// How long leaving may take once calls have ended: a flush, the last deletes, and the links' last messages.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Runs a sidecar until SIGTERM, Ctrl-C or a `Drain`, then drains within the configured bound.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&config).await?;
    let peer_address = config.peer_advertise(listeners.peer.local_addr()?);
    let clock = Clock::start();
    let incarnation = new_incarnation()?;
    let (store, recovered) = open_store(&config).await?;
    let core_config = core_config(&config, incarnation);
    let hello = PeerHello {
        node_id: core_config.node_id.clone(),
        incarnation,
        peer_address: peer_address.clone(),
        policy_digest: config.policies.digest(),
    };
    let (core, first) = Core::start(core_config, &recovered, clock.now());
    drop(recovered);
    let gossip = start_gossip(&config, &hello).await?;
    let (gossip, views) = (Arc::new(gossip.0), gossip.1);

    let counters = Arc::new(Counters::new());
    let (urgent, urgent_in) = mpsc::channel(config.limits.queue_commands_max);
    // Its messages are up to a thousand times larger, so it holds far fewer of them.
    let (bulk, bulk_in) = mpsc::channel((config.limits.queue_commands_max / 32).max(1));
    let (applied_tx, applied) = watch::channel(0);
    let (members_tx, members) = watch::channel(Vec::new());
    let news = broadcast::Sender::new(config.limits.queue_watch_max);
    let engine = Engine {
        core: Arc::new(RwLock::new(core)),
        store,
        clock,
        counters: counters.clone(),
        news,
        applied,
        urgent,
        bulk,
    };
    let caches = config
        .cache
        .url
        .iter()
        .map(crate::config::CacheUrl::open)
        .collect::<Result<Vec<_>, _>>()?;
    let parts = Parts {
        engine: engine.clone(),
        urgent: urgent_in,
        bulk: bulk_in,
        applied: applied_tx,
        members: members_tx,
        purger: Purger::start(caches, &config.purge, counters),
        gossip: gossip.clone(),
        writes_max: config.limits.queue_writes_max.saturating_mul(1_000),
    };
    let event_loop = EventLoop::new(parts, first).context("cannot start the writer thread")?;
    let mut looping = tokio::spawn(event_loop.run());
    let dialler = Dialler {
        engine: engine.clone(),
        cluster: config.cluster.name.as_str().to_owned(),
        hello: hello.clone(),
        queue_urgent_max: config.limits.queue_peer_urgent_max,
        queue_bulk_max: config.limits.queue_peer_bulk_max,
        message_bytes_max: config.limits.message_bytes_max.as_usize(),
    };
    let mut dialling = tokio::spawn(run_dialler(dialler, members));
    let following = tokio::spawn(follow_gossip(
        engine.clone(),
        views,
        hello.clone(),
        config.cluster.expected_members,
    ));

    info!(node = %hello.node_id, %incarnation, cluster = config.cluster.name.as_str(), %peer_address, "sidecar started");
    let (drain_tx, mut drain_rx) = mpsc::channel(1);
    let (stop_tx, stop) = watch::channel(false);
    let mut servers = serve(
        &config, &engine, listeners, &hello, &gossip, drain_tx, &stop,
    )?;
    let bound = tokio::select! {
        reason = wait_for_signal() => { info!(reason, "draining"); config.drain.timeout }
        Some(asked) = drain_rx.recv() => { info!("draining: asked to"); asked.unwrap_or(config.drain.timeout) }
        ended = &mut looping => return ended.context("the event loop panicked")?,
        Some(ended) = servers.join_next() => return ended.context("a server panicked")?,
    };
    stop_tx.send_replace(true);
    end_calls(&mut servers, bound).await;
    following.abort();
    leave(&engine, &mut looping, &mut dialling).await?;
    drop(engine);
    if let Some(gossip) = Arc::into_inner(gossip) {
        gossip.shutdown().await;
    }
    info!("drained");
    Ok(())
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

/// Leaves the cluster, whatever became of the calls, for the peers would wait for this sidecar otherwise: flushes, says
/// so to them, and lets the links bring it over.
async fn leave(
    engine: &Engine,
    looping: &mut JoinHandle<anyhow::Result<()>>,
    dialling: &mut JoinHandle<()>,
) -> anyhow::Result<()> {
    let left = async {
        let (done, drained) = oneshot::channel();
        // An error means that the loop has ended by itself; why is its own result.
        if engine.urgent.send(Command::Drain(done)).await.is_ok() {
            let _ = drained.await;
        }
        looping.await.context("the event loop panicked")??;
        dialling.await.context("the dialler panicked")
    };
    tokio::time::timeout(LEAVE_MAX, left)
        .await
        .unwrap_or_else(|_| {
            warn!(
                bound_ms = LEAVE_MAX.as_millis(),
                "could not leave in order; the peers will wait for this sidecar"
            );
            Ok(())
        })
}

fn new_incarnation() -> anyhow::Result<Incarnation> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(Incarnation::from_random(u128::from_be_bytes(random), 0))
}

async fn open_store(
    config: &Config,
) -> anyhow::Result<(Arc<dyn Store>, grapevine_core::store::Recovered)> {
    let store_config = grapevine_store::StoreConfig {
        cache_bytes: config.store.cache_bytes.as_usize() as u64,
        log_bytes_max: config.store.log_bytes_max.as_usize() as u64 / 2,
        ..grapevine_store::StoreConfig::new(&config.store.path)
    };
    let opened = tokio::task::spawn_blocking(move || grapevine_store::open(&store_config)).await?;
    let path = config.store.path.display();
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
        lease_duration: config.lease.duration,
        clock_rate_ppm: CLOCK_RATE_PPM,
        limits: Limits {
            top_level_classes_max: config.limits.top_level_classes_max,
            classes_per_top_max: config.limits.classes_per_top_max,
            classes_max: config.limits.classes_max,
            receipts_max: config.limits.receipts_max,
            origins_max: config.limits.origins_max,
        },
    }
}

async fn wait_for_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without a handler for SIGTERM, Ctrl-C is what is left.
        let _ = tokio::signal::ctrl_c().await;
        return "SIGINT";
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = tokio::signal::ctrl_c() => "SIGINT",
    }
}
