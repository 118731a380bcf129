//! The listeners: applications and operators on one pair, peers on another, health and reflection beside the first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grapevine_core::machine::effects::PeerHello;
use grapevine_proto::v1;
use grapevine_proto::v1::admin_service_server::AdminServiceServer;
use grapevine_proto::v1::application_service_server::ApplicationServiceServer;
use grapevine_proto::v1::peer_service_server::PeerServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tracing::error;

use crate::config::Config;
use crate::engine::Engine;
use crate::peers::PeerServer;
use crate::service::admin::Admin;
use crate::service::application::{Application, UNDER_WAY_MAX};

/// What a peer may have under way to this sidecar.
const PEER_WINDOW_BYTES: u32 = 4 << 20;
/// Streams of one connection.
const STREAMS_MAX: u32 = 1_024;

/// The sockets of a sidecar, bound before anything else so that a port in use is told at once.
pub(super) struct Listeners {
    unix: Option<UnixListener>,
    tcp: Option<TcpListener>,
    pub(super) peer: TcpListener,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
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
pub(super) fn serve(
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
        stop: stop.clone(),
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
    // Many small messages wait unread while this sidecar is busy; small windows would make HTTP/2 cut the link for that.
    let router = builder()
        .initial_stream_window_size(PEER_WINDOW_BYTES)
        .initial_connection_window_size(PEER_WINDOW_BYTES)
        .add_service(peers);
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

/// Serving while listening, to operators too; the application service only while this sidecar is caught up.
async fn report_health(
    engine: Engine,
    reporter: tonic_health::server::HealthReporter,
    mut stop: watch::Receiver<bool>,
) {
    use grapevine_core::machine::effects::Freshness;
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
