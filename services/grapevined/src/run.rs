//! A sidecar from start to end: open the store, start the machine, gossip, listen, serve, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::{Input, PeerHello, Sighting};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::NodeId;
use grapevine_proto::v1;
use grapevine_proto::v1::admin_service_server::AdminServiceServer;
use grapevine_proto::v1::application_service_server::ApplicationServiceServer;
use grapevine_proto::v1::peer_service_server::PeerServiceServer;
use grapevine_store::Store;
use parking_lot::RwLock;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::engine::{Clock, Command, Engine, EventLoop, Parts};
use crate::peers::{Dialler, PeerServer, run_dialler};
use crate::purge::Purger;
use crate::service::admin::Admin;
use crate::service::application::{Application, UNDER_WAY_MAX};
use crate::telemetry::Counters;
use crate::wire;

/// The largest difference between two members' clock rates that grants allow for: 500 parts per million, twice the worst
/// crystal and what an NTP daemon slews.
const CLOCK_RATE_PPM: u32 = 500;
/// Streams of one connection.
const STREAMS_MAX: u32 = 1_024;

/// The sockets of a sidecar, bound before anything else so that a port in use is told at once.
struct Listeners {
    unix: Option<UnixListener>,
    tcp: Option<TcpListener>,
    peer: TcpListener,
}

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
    let background = [
        tokio::spawn(run_dialler(dialler, members)),
        tokio::spawn(follow_gossip(
            engine.clone(),
            views,
            hello.clone(),
            config.cluster.expected_members,
        )),
    ];

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
    let drained = drain(&engine, &stop_tx, &mut servers);
    if tokio::time::timeout(bound, drained).await.is_err() {
        warn!(
            bound_ms = bound.as_millis(),
            "not every call ended within drain.timeout; cutting them off"
        );
        servers.abort_all();
    }
    background.iter().for_each(tokio::task::JoinHandle::abort);
    if let Ok(result) = tokio::time::timeout(Duration::from_secs(5), &mut looping).await {
        result.context("the event loop panicked")??;
    }
    drop(engine);
    if let Some(gossip) = Arc::into_inner(gossip) {
        gossip.shutdown().await;
    }
    info!("drained");
    Ok(())
}

/// Refuses new calls, lets open ones end, and leaves the cluster once what they wrote is flushed.
async fn drain(
    engine: &Engine,
    stop: &watch::Sender<bool>,
    servers: &mut JoinSet<anyhow::Result<()>>,
) {
    stop.send_replace(true);
    while let Some(ended) = servers.join_next().await {
        if let Ok(Err(error)) = ended {
            error!(%error, "a server failed while draining");
        }
    }
    let (done, drained) = oneshot::channel();
    if engine.urgent.send(Command::Drain(done)).await.is_ok() {
        // An error means that the loop has ended: then it is drained.
        let _ = drained.await;
    }
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
        error!(set_aside = %aside.display(), "the store was damaged: starting empty, to be rebuilt from peers");
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

async fn start_gossip(
    config: &Config,
    hello: &PeerHello,
) -> anyhow::Result<(
    grapevine_gossip::Gossip,
    watch::Receiver<grapevine_gossip::View>,
)> {
    let gossip_config = grapevine_gossip::GossipConfig {
        seeds: config
            .gossip
            .seeds
            .iter()
            .map(ToString::to_string)
            .collect(),
        interval: config.gossip.interval,
        suspect_after: config.gossip.suspect_after,
        dead_grace: config.gossip.dead_grace,
        expected_members: config.cluster.expected_members,
        max_peers: config.gossip.max_peers,
        ..grapevine_gossip::GossipConfig::new(
            config.cluster.name.as_str(),
            hello.node_id.as_str(),
            hello.incarnation.get(),
            config.gossip.listen,
            config.gossip_advertise(),
        )
    };
    let facts = grapevine_gossip::Facts {
        peer_address: hello.peer_address.clone(),
        bump_head: 0,
        directory_head: 0,
        protocol: wire::peer::PROTOCOL,
        policy_digest: hello.policy_digest,
    };
    grapevine_gossip::Gossip::start(gossip_config, facts)
        .await
        .context("gossip.listen")
}

/// Turns gossip's views into inputs, and says what an operator should know of them.
async fn follow_gossip(
    engine: Engine,
    mut views: watch::Receiver<grapevine_gossip::View>,
    hello: PeerHello,
    expected: usize,
) {
    let mut mismatched = Vec::new();
    loop {
        let sightings: Vec<_> = {
            let view = views.borrow_and_update();
            for conflict in &view.conflicts {
                error!(
                    node = conflict.node_id,
                    "several processes use one node id: give every sidecar its own node.id"
                );
            }
            view.peers
                .iter()
                .filter_map(|(node, peer)| sighting(node, peer))
                .collect()
        };
        let differing: Vec<_> = sightings
            .iter()
            .filter(|seen| seen.alive && seen.hello.policy_digest != hello.policy_digest)
            .map(|seen| seen.hello.node_id.clone())
            .collect();
        if differing != mismatched {
            if !differing.is_empty() {
                warn!(
                    ?differing,
                    "members hold other policies: roll the same configuration out to all of them"
                );
            }
            mismatched = differing;
        }
        info!(
            alive = sightings.iter().filter(|seen| seen.alive).count() + 1,
            expected, "gossip"
        );
        if engine
            .urgent
            .send(Command::Input(Input::Seen(sightings)))
            .await
            .is_err()
            || views.changed().await.is_err()
        {
            return;
        }
    }
}

fn sighting(node: &str, peer: &grapevine_gossip::Peer) -> Option<Sighting> {
    let hello = PeerHello {
        node_id: NodeId::parse(node).ok()?,
        incarnation: Incarnation::new(peer.incarnation)?,
        peer_address: peer.facts.peer_address.clone(),
        policy_digest: peer.facts.policy_digest,
    };
    // One that left, or that speaks another protocol, is not worth dialling.
    Some(Sighting {
        hello,
        alive: peer.alive && !peer.left && peer.facts.protocol == wire::peer::PROTOCOL,
    })
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let tcp = async |knob: &str, address| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("{knob}: cannot listen on {address}"))
        };
        Ok(Self {
            unix: match &config.app.unix {
                Some(path) => Some(bind_unix(path.as_path()).await?),
                None => None,
            },
            tcp: match config.app.tcp {
                Some(address) => Some(tcp("app.tcp", address).await?),
                None => None,
            },
            peer: tcp("peer.listen", config.peer.listen).await?,
        })
    }
}

/// Binds a Unix socket; a socket file that nobody answers on is one that a dead process left.
async fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;
    let shown = path.display();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        anyhow::ensure!(
            metadata.file_type().is_socket(),
            "app.unix: {shown} exists and is not a socket"
        );
        let answered = tokio::net::UnixStream::connect(path).await.is_ok();
        anyhow::ensure!(!answered, "app.unix: {shown} is in use by another process");
        std::fs::remove_file(path).with_context(|| format!("app.unix: cannot replace {shown}"))?;
    }
    UnixListener::bind(path).with_context(|| format!("app.unix: cannot listen on {shown}"))
}

/// Starts the servers; each ends when `stop` turns true and its open calls have ended.
fn serve(
    config: &Config,
    engine: &Engine,
    listeners: Listeners,
    hello: &PeerHello,
    gossip: &Arc<grapevine_gossip::Gossip>,
    drain: mpsc::Sender<Option<Duration>>,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let bytes_max = config.limits.message_bytes_max.as_usize();
    let cluster = config.cluster.name.as_str().to_owned();
    let application = Application {
        engine: engine.clone(),
        registrations_max: config.limits.registrations_max as u64,
        slack: config.lease.duration + config.lease.registration_margin,
        watchers: Arc::new(tokio::sync::Semaphore::new(config.limits.watchers_max)),
        under_way: Arc::new(tokio::sync::Semaphore::new(UNDER_WAY_MAX)),
    };
    let application = ApplicationServiceServer::new(application)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max);
    let admin = AdminServiceServer::new(Admin {
        engine: engine.clone(),
        cluster: cluster.clone(),
        peer_address: hello.peer_address.clone(),
        gossip: gossip.clone(),
        drain,
    });
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(engine.clone(), reporter, stop.clone()));
    let app = || -> anyhow::Result<Router> {
        let reflect = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        Ok(builder()
            .add_service(application.clone())
            .add_service(admin.clone())
            .add_service(health.clone())
            .add_service(reflect().build_v1()?)
            .add_service(reflect().build_v1alpha()?))
    };
    let mut servers = JoinSet::new();
    if let Some(listener) = listeners.unix {
        let (router, stop) = (app()?, stopped(stop.clone()));
        let incoming = UnixListenerStream::new(listener);
        servers.spawn(async move {
            router
                .serve_with_incoming_shutdown(incoming, stop)
                .await
                .context("app.unix")
        });
    }
    if let Some(listener) = listeners.tcp {
        let (router, stop) = (app()?, stopped(stop.clone()));
        let incoming = without_delay(listener);
        servers.spawn(async move {
            router
                .serve_with_incoming_shutdown(incoming, stop)
                .await
                .context("app.tcp")
        });
    }
    let peers = PeerServiceServer::new(PeerServer {
        engine: engine.clone(),
        cluster,
        hello: hello.clone(),
    })
    .max_decoding_message_size(bytes_max);
    let router = builder().add_service(peers);
    let incoming = without_delay(listeners.peer);
    // Peers' streams never end by themselves: theirs is cut when the process ends.
    tokio::spawn(async move {
        if let Err(error) = router.serve_with_incoming(incoming).await {
            error!(%error, "the peer listener failed");
        }
    });
    Ok(servers)
}

/// Connections that send small messages at once: the server's own setting does not reach listeners bound elsewhere.
fn without_delay(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can stop it any more, which is as good as being told to.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serving while listening; the application service only while this sidecar is caught up.
async fn report_health(
    engine: Engine,
    reporter: tonic_health::server::HealthReporter,
    mut stop: watch::Receiver<bool>,
) {
    use grapevine_core::machine::effects::Freshness;
    type Service = ApplicationServiceServer<Application>;
    let mut applied = engine.applied.clone();
    loop {
        if *stop.borrow() {
            reporter.set_not_serving::<Service>().await;
            reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
            return;
        }
        let ready = !matches!(
            engine.core.read().freshness(engine.clock.now()),
            Freshness::CatchingUp(_)
        );
        if ready {
            reporter.set_serving::<Service>().await;
        } else {
            reporter.set_not_serving::<Service>().await;
        }
        tokio::select! {
            _ = stop.changed() => {}
            // Catching up ends with an event or a grant; the latter wakes nobody, so look now and then.
            _ = applied.changed(), if !ready => {}
            () = tokio::time::sleep(Duration::from_millis(if ready { 1_000 } else { 50 })) => {}
        }
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
