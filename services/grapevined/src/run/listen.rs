//! The listeners: applications and operators on one pair, with health and reflection beside them; peers on another; probes and scrapers,
//! where they have one of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grapevine_proto::v1;
use grapevine_proto::v1::admin_service_server::AdminServiceServer;
use grapevine_proto::v1::application_service_server::ApplicationServiceServer;
use grapevine_proto::v1::peer_service_server::PeerServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tracing::{error, info};

#[cfg(test)]
mod tests;

use super::Sidecar;
use super::incoming::{Accept, Door, Incoming};
use super::unix;
use crate::config::Config;
use crate::engine::{Engine, Places};
use crate::peers::{Introduced, PeerServer, Refusals};
use crate::service::admin::Admin;
use crate::service::application::{
    Application, EXPLAINS_MAX, EXPLAINS_WAITING_MAX, LARGE_LOOK_UPS_MAX, UNDER_WAY_MAX,
};
use crate::service::intake::Intake;
use crate::service::unread::{Counted, Unread};
use crate::telemetry::rpc::{Calls, Observed};
use crate::telemetry::scrape;
use crate::wire::peer::MESSAGE_BYTES_MAX;

/// What a peer may have under way to this sidecar.
const PEER_WINDOW_BYTES: u32 = 4 << 20;
/// Room for questions after health.
const PROBES_BYTES_MAX: usize = 8 << 20;
/// Streams of one connection.
pub(super) const STREAMS_MAX: u32 = 1_024;
/// Streams of a peer's connection, of which it needs one.
const PEER_STREAMS_MAX: u32 = 4;
/// Streams of reflection, and watches of health, at a time. What they have to say waits uncharged, some 30 KB of the former.
const REFLECTIONS_MAX: usize = 64;
const HEALTH_WATCHES_MAX: usize = 256;
/// The most metadata of a call, as HTTP/2 counts them: names, values and 32 bytes each. Beyond, HTTP answers 431. Sessions are
/// the largest that Grapevine knows of, some 200 bytes; what services add to that is theirs.
const METADATA_BYTES_MAX: u32 = 16 << 10;

/// The sockets of a sidecar. Who calls from now on waits until it is served, which takes no more than a moment.
pub(super) struct Listeners {
    unix: Option<UnixListener>,
    /// The right to its path, for as long as this process runs.
    pub(super) unix_held: Option<unix::Held>,
    tcp: Option<TcpListener>,
    health: Option<TcpListener>,
    metrics: Option<TcpListener>,
    pub(super) peer: TcpListener,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let tcp = async |knob: &str, address: SocketAddr| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("{knob}: cannot listen on {address}"))
        };
        let optional = async |knob: &str, address: Option<SocketAddr>| match address {
            Some(address) => tcp(knob, address).await.map(Some),
            None => Ok(None),
        };
        let (unix, unix_held) = match &config.app.unix {
            Some(path) => {
                let bound = unix::bind(path.as_path(), config.app.unix_mode).await?;
                (Some(bound.0), Some(bound.1))
            }
            None => (None, None),
        };
        Ok(Self {
            unix,
            unix_held,
            tcp: optional("app.tcp", config.app.tcp).await?,
            health: optional("health.listen", config.health.listen).await?,
            metrics: optional("metrics.listen", config.metrics.listen).await?,
            peer: tcp("peer.listen", config.peer.listen).await?,
        })
    }

    /// Tells where it listens, which nobody knows of a port 0.
    pub(super) fn tell(&self) {
        let unix = self.unix.as_ref().map(UnixListener::local_addr);
        if let Some(Ok(address)) = &unix
            && let Some(path) = address.as_pathname()
        {
            info!(app_unix = %path.display(), "listening");
        }
        let bound = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        if let Some(address) = bound(&self.tcp) {
            info!(app_tcp = %address, "listening");
        }
        if let Some(address) = bound(&self.health) {
            info!(health = %address, "listening");
        }
        if let Some(address) = bound(&self.metrics) {
            info!(metrics = %address, "listening");
        }
        if let Ok(address) = self.peer.local_addr() {
            info!(peer = %address, "listening");
        }
    }
}

/// The application service of a sidecar; `stop` ends its streams.
pub(super) fn application(
    config: &Config,
    engine: &Engine,
    stop: &watch::Receiver<bool>,
) -> Application {
    let limits = &config.limits;
    Application {
        engine: engine.clone(),
        policies: Arc::new(config.policies.clone()),
        registrations_max: limits.registrations_max as u64,
        write_duration: config.lease.write_duration,
        slack: config.lease.duration + config.lease.registration_margin,
        local_tables: Places::new(
            limits.local_tables_max,
            "local tables are open already (limits.local_tables_max)",
            &engine.counters,
        ),
        watchers: Places::new(
            limits.watchers_max,
            "watchers are there already (limits.watchers_max)",
            &engine.counters,
        ),
        streams: Places::new(
            limits.streams_max,
            "streams and listings are open already (limits.streams_max)",
            &engine.counters,
        ),
        stop: stop.clone(),
        under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        large_look_ups: Arc::new(Semaphore::new(LARGE_LOOK_UPS_MAX)),
        explains: Arc::new(Semaphore::new(EXPLAINS_MAX)),
        explains_waiting: Arc::new(Semaphore::new(EXPLAINS_WAITING_MAX)),
        unread: Unread::new(limits.answers_bytes_max.as_usize(), engine.counters.clone()),
    }
}

/// Starts the servers; each ends when `stop` turns true and its open calls have ended.
pub(super) fn serve(
    config: &Config,
    sidecar: &Sidecar,
    listeners: Listeners,
    drain: mpsc::Sender<Option<Duration>>,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let engine = &sidecar.engine;
    let bytes_max = config.limits.message_bytes_max.as_usize();
    let application = application(config, engine, stop);
    let unread = application.unread.clone();
    let calls_bytes_max = config.limits.calls_bytes_max.as_usize();
    let intake = Intake::new(calls_bytes_max, engine.counters.clone());
    // However full it is: who asks for its health would end it otherwise.
    let probes = Intake::new(PROBES_BYTES_MAX, engine.counters.clone());
    let application =
        ApplicationServiceServer::new(application).max_decoding_message_size(bytes_max);
    let admin = AdminServiceServer::new(Admin {
        engine: engine.clone(),
        cluster: config.cluster.name.as_str().to_owned(),
        peer_address: sidecar.hello.peer_address.clone(),
        gossip: sidecar.gossip.clone(),
        drain,
    })
    .max_decoding_message_size(bytes_max);
    let (reporter, health) = tonic_health::server::health_reporter();
    let health = health.max_decoding_message_size(bytes_max);
    tokio::spawn(report_health(engine.clone(), reporter, stop.clone()));
    let reflections = Places::new(
        REFLECTIONS_MAX,
        "streams of reflection are open already",
        &engine.counters,
    );
    let health_watches = Places::new(
        HEALTH_WATCHES_MAX,
        "watches of health are open already",
        &engine.counters,
    );
    let calls = Calls::new(
        engine.traces.clone(),
        sidecar.histograms.clone(),
        &[
            v1::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
        ],
    );
    let ask = Counted::new(health.clone(), probes.clone(), unread.clone())
        .with_streams(health_watches.clone());
    let app = || -> anyhow::Result<Router> {
        let reflect = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflect_v1 = reflect().build_v1()?.max_decoding_message_size(bytes_max);
        let reflect_v1alpha = reflect()
            .build_v1alpha()?
            .max_decoding_message_size(bytes_max);
        Ok(builder()
            .add_service(Observed::new(
                Counted::new(application.clone(), intake.clone(), unread.clone()),
                calls.clone(),
            ))
            .add_service(Observed::new(
                Counted::new(admin.clone(), intake.clone(), unread.clone()),
                calls.clone(),
            ))
            .add_service(Observed::new(ask.clone(), calls.clone()))
            .add_service(
                Counted::new(reflect_v1, intake.clone(), unread.clone())
                    .with_streams(reflections.clone()),
            )
            .add_service(
                Counted::new(reflect_v1alpha, intake.clone(), unread.clone())
                    .with_streams(reflections.clone()),
            ))
    };
    let health = builder().add_service(ask.clone());
    accept(config, sidecar, listeners, (app, health), stop)
}

/// Serves what is bound: `app` makes the services of a listener of applications, `health` answers probes.
fn accept(
    config: &Config,
    sidecar: &Sidecar,
    listeners: Listeners,
    (app, health): (impl Fn() -> anyhow::Result<Router>, Router),
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut servers = JoinSet::new();
    let connections_max = config.limits.connections_max;
    // Each listener has its own: whoever floods one of them keeps nobody out of the other.
    let counters = &sidecar.engine.counters;
    let door = |whose| Door::new(whose, connections_max, counters.clone());
    if let Some(listener) = listeners.unix {
        let incoming = Incoming::new(listener, door("callers at app.unix"));
        spawn(&mut servers, "app.unix", app()?, incoming, stop);
    }
    if let Some(listener) = listeners.tcp {
        let incoming = Incoming::new(listener, door("callers at app.tcp"));
        spawn(&mut servers, "app.tcp", app()?, incoming, stop);
    }
    if let Some(listener) = listeners.health {
        let incoming = Incoming::new(listener, door("probes at health.listen"));
        spawn(
            &mut servers,
            "health.listen",
            health,
            incoming.giving_way(),
            stop,
        );
    }
    if let Some((listener, registry)) = listeners.metrics.zip(sidecar.otel.registry.clone()) {
        // Until the process ends: who scrapes during a drain sees it.
        tokio::spawn(scrape::serve(listener, registry));
    }
    let incoming = Incoming::new(listeners.peer, door("peers"));
    let peers = peer_router(config, sidecar);
    // Peers' streams never end by themselves: theirs is cut when the process ends.
    tokio::spawn(async move {
        if let Err(error) = peers.serve_with_incoming(incoming).await {
            error!(%error, "the peer listener failed");
        }
    });
    Ok(servers)
}

fn spawn<L: Accept>(
    servers: &mut JoinSet<anyhow::Result<()>>,
    knob: &'static str,
    router: Router,
    incoming: Incoming<L>,
    stop: &watch::Receiver<bool>,
) {
    let incoming = incoming.stopping(stop.clone());
    let stop = stopped(stop.clone());
    servers.spawn(async move {
        router
            .serve_with_incoming_shutdown(incoming, stop)
            .await
            .context(knob)
    });
}

pub(super) fn peer_router(config: &Config, sidecar: &Sidecar) -> Router {
    let peers = PeerServiceServer::new(PeerServer {
        refusals: Refusals::default(),
        engine: sidecar.engine.clone(),
        cluster: config.cluster.name.as_str().to_owned(),
        hello: sidecar.hello.clone(),
    })
    .max_decoding_message_size(MESSAGE_BYTES_MAX);
    // Many small messages wait unread while this sidecar is busy; small windows would make HTTP/2 cut the link for that.
    builder()
        .initial_stream_window_size(PEER_WINDOW_BYTES)
        .initial_connection_window_size(PEER_WINDOW_BYTES)
        .max_concurrent_streams(PEER_STREAMS_MAX)
        .add_service(Introduced::new(peers))
}

fn builder() -> Server {
    // After a pause of this process, calls whose deadlines passed meanwhile are there together with their resets. HTTP/2's
    // default takes more than 20 of them for an attack, and closes the connection with all that is on it. Both numbers
    // bound what is remembered, and no more than so many streams can be open.
    let resets_max = Some(STREAMS_MAX as usize);
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(METADATA_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(resets_max)
        .http2_max_local_error_reset_streams(resets_max)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can stop it any more, which is as good as being told to.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serving while listening, to operators too; the application service only while this sidecar is caught up.
async fn report_health(
    engine: Engine,
    mut reporter: tonic_health::server::HealthReporter,
    mut stop: watch::Receiver<bool>,
) {
    use grapevine_core::machine::effects::Freshness;
    use tonic::server::NamedService as _;
    type Service = ApplicationServiceServer<Application>;
    type ForOperators = AdminServiceServer<Admin>;
    reporter.set_serving::<ForOperators>().await;
    let mut applied = engine.applied.clone();
    loop {
        if *stop.borrow() {
            reporter.set_not_serving::<Service>().await;
            reporter.set_not_serving::<ForOperators>().await;
            reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
            // Watches hear that, and then end: they would keep the sidecar waiting otherwise.
            for service in ["", Service::NAME, ForOperators::NAME] {
                reporter.clear_service_status(service).await;
            }
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
