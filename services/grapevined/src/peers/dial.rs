//! The dialler: one task per member that keeps a stream to it.
//!
//! A task connects, says who it is, waits to be welcomed, hands the loop its queues, and then moves messages from the
//! queues to the stream until the stream ends. Then it tries again, after a pause that doubles up to a bound, with
//! jitter so that many sidecars do not call a restarted one together.

use std::collections::HashMap;
use std::time::Duration;

use grapevine_core::machine::effects::{Input, PeerHello, Side};
use grapevine_core::names::NodeId;
use grapevine_proto::v1;
use grapevine_proto::v1::peer_service_client::PeerServiceClient;
use rand::Rng as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tracing::{debug, warn};

use super::{LinkReceiver, link};
use crate::engine::{Command, Engine};
use crate::wire::peer as wire;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that does not answer pings for so long is gone.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Messages between the queues and the socket: few, so that an urgent one does not wait behind many.
const IN_FLIGHT: usize = 8;

/// What every dialling task needs.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) engine: Engine,
    pub(crate) cluster: String,
    pub(crate) hello: PeerHello,
    pub(crate) queue_urgent_max: usize,
    pub(crate) queue_bulk_max: usize,
    pub(crate) message_bytes_max: usize,
}

/// How long a link may take to bring its last messages over when this sidecar leaves.
const GOODBYE: Duration = Duration::from_secs(1);

/// Keeps one task per member, until the loop that names the members is gone; then each link says what is queued, and ends.
pub(crate) async fn run(dialler: Dialler, mut members: watch::Receiver<Vec<(NodeId, String)>>) {
    let mut tasks: HashMap<NodeId, (String, JoinHandle<()>)> = HashMap::new();
    loop {
        let wanted: HashMap<NodeId, String> = members.borrow_and_update().iter().cloned().collect();
        tasks.retain(|node, (address, task)| {
            let keep = wanted.get(node) == Some(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for (node, address) in wanted {
            let (dialler, to) = (dialler.clone(), address.clone());
            tasks
                .entry(node)
                .or_insert_with(|| (address, tokio::spawn(dialler.keep(to))));
        }
        if members.changed().await.is_err() {
            break;
        }
    }
    let until = tokio::time::Instant::now() + 2 * GOODBYE;
    for (_, mut task) in tasks.into_values() {
        if tokio::time::timeout_at(until, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Tells the loop that a link ended, also when its task is aborted.
struct LinkGuard {
    engine: Engine,
    hello: PeerHello,
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        let command = Command::LinkDown(self.hello.clone(), Side::Outbound);
        let urgent = self.engine.urgent.clone();
        // The queue may be full; the news must not be lost, and a drop cannot wait.
        if let Err(mpsc::error::TrySendError::Full(command)) = urgent.try_send(command) {
            tokio::spawn(async move { urgent.send(command).await });
        }
    }
}

impl Dialler {
    async fn keep(self, address: String) {
        let mut pause = PAUSE_MIN;
        while !self.engine.urgent.is_closed() {
            match self.dial(&address).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(status) => {
                    if status.code() == Code::AlreadyExists {
                        warn!(%address, reason = status.message(), "refused by a peer");
                        let reason = status.message().to_owned();
                        let _ = self
                            .engine
                            .urgent
                            .send(Command::Input(Input::NodeIdRefused { reason }))
                            .await;
                    } else if status.code() == Code::FailedPrecondition {
                        warn!(%address, reason = status.message(), "refused by a peer");
                        pause = PAUSE_MAX;
                    } else {
                        debug!(%address, reason = status.message(), "cannot reach a peer");
                    }
                }
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.engine.urgent.closed() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One link, from connecting to its end. An error before the welcome is told, the end of a link is not one.
    async fn dial(&self, address: &str) -> Result<(), Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(format!("{address}: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let mut client =
            PeerServiceClient::new(channel).max_decoding_message_size(self.message_bytes_max);
        let (requests, stream) = mpsc::channel(IN_FLIGHT);
        let hello = wire::hello(&self.hello, &self.cluster);
        let first = v1::ExchangeRequest {
            kind: Some(v1::exchange_request::Kind::Hello(hello)),
        };
        requests
            .send(first)
            .await
            .map_err(|_| Status::internal("the request stream is closed"))?;
        let answers = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let mut answers = client
                .exchange(ReceiverStream::new(stream))
                .await?
                .into_inner();
            let welcome = answers.message().await?.and_then(|answer| answer.welcome);
            Ok::<_, Status>((answers, welcome))
        });
        let (mut answers, welcome) = answers
            .await
            .map_err(|_| Status::deadline_exceeded("no welcome"))??;
        let welcome = welcome
            .ok_or_else(|| Status::failed_precondition("the peer closed without a welcome"))?;
        let peer = wire::read_hello(welcome)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        if peer.node_id == self.hello.node_id {
            return if peer.incarnation == self.hello.incarnation {
                Err(Status::failed_precondition(
                    "this address is this sidecar's own",
                ))
            } else {
                Err(Status::already_exists(format!(
                    "node id {} is in use by incarnation {} at {address}: give every sidecar its own node.id",
                    peer.node_id, peer.incarnation
                )))
            };
        }
        let (sender, receiver) = link(self.queue_urgent_max, self.queue_bulk_max);
        let up = Command::LinkUp(peer.clone(), Side::Outbound, Some(sender));
        if self.engine.urgent.send(up).await.is_err() {
            return Ok(());
        }
        let _guard = LinkGuard {
            engine: self.engine.clone(),
            hello: peer,
        };
        tokio::select! {
            () = pump(receiver, requests) => {
                // Everything is on its way, and the peer ends the stream when it has read it.
                let _ = tokio::time::timeout(GOODBYE, answers.message()).await;
            }
            // Nothing follows the welcome but the end of the stream.
            _ = answers.message() => {}
        }
        Ok(())
    }
}

async fn pump(mut queues: LinkReceiver, requests: mpsc::Sender<v1::ExchangeRequest>) {
    while let Some(message) = queues.next().await {
        if requests.send(wire::message(message)).await.is_err() {
            return;
        }
    }
}
