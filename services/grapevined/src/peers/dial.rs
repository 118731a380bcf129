//! The dialler: one task per member that keeps a stream to it.
//!
//! A task connects, says who it is, waits to be welcomed by the one that it meant to call, hands the loop its queues, and
//! then moves messages from the queues to the stream until the stream ends. Then it tries again, after a pause with
//! jitter, so that many sidecars do not call a restarted one together. The pause doubles up to a bound; only a link that
//! lasted for a while starts it from the beginning, for one that breaks as soon as it stands would be dialled without end.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::time::Duration;

use grapevine_core::machine::effects::{Input, PeerHello, Side};
use grapevine_core::names::NodeId;
use grapevine_proto::v1;
use grapevine_proto::v1::peer_service_client::PeerServiceClient;
use opentelemetry_sdk::trace::Span;
use rand::Rng as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tracing::{debug, warn};

use super::connect::Connector;
use super::link::{LinkGuard, LinkReceiver, PIECES_MAX, link};
use crate::engine::{Command, Engine};
use crate::telemetry::Counter;
use crate::telemetry::traces::Traces;
use crate::wire::peer as wire;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest pause after a peer's host was not reached. One that is gone costs each of the others a few packets a second while it is
/// a member; a network that has healed is found out within so long.
const PAUSE_UNREACHED: Duration = Duration::from_millis(300);
/// The pause after another sidecar than the one meant has answered: gossip will tell the right address.
const PAUSE_MISTAKEN: Duration = Duration::from_secs(10);
/// A link that lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that does not answer pings for so long is gone.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Messages between the queues and the socket: few, so that an urgent one does not wait behind many.
const IN_FLIGHT: usize = 8;
/// How often it is looked whether every member's task still runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a link may take to bring its last messages over when this sidecar leaves.
const GOODBYE: Duration = Duration::from_secs(1);

/// What every dialling task needs.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) engine: Engine,
    pub(crate) cluster: String,
    pub(crate) hello: PeerHello,
    pub(crate) queue_urgent_max: usize,
    pub(crate) queue_bulk_max: usize,
}

/// Keeps one task per member, until the loop that names the members is gone; then each link says what is queued, and ends.
pub(crate) async fn run(dialler: Dialler, mut members: watch::Receiver<Vec<(NodeId, String)>>) {
    let mut tasks: HashMap<NodeId, (String, JoinHandle<()>)> = HashMap::new();
    loop {
        let wanted: HashMap<NodeId, String> = members.borrow_and_update().iter().cloned().collect();
        tasks.retain(|node, (address, task)| {
            // One that panicked is begun again: without it the member would be cut off for good.
            let keep = wanted.get(node) == Some(address) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (node, address) in wanted {
            let (dialler, who, to) = (dialler.clone(), node.clone(), address.clone());
            tasks
                .entry(node)
                .or_insert_with(|| (address, tokio::spawn(dialler.keep(who, to))));
        }
        // Without news, a look at the tasks now and then.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_INTERVAL, members.changed()).await {
            break;
        }
    }
    let until = Instant::now() + 2 * GOODBYE;
    for (_, mut task) in tasks.into_values() {
        if tokio::time::timeout_at(until, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// How a link that stood ended.
struct Ended {
    lasted: Duration,
    /// Why, unless in order.
    broken: Option<Status>,
}

/// Why there is no link.
enum NoLink {
    /// The peer was not reached, or refused this sidecar.
    Status(Status),
    /// Another sidecar than the one meant answered.
    Mistaken(NodeId),
    /// Its host answered that nobody listens there: the network is well, and the sidecar is not up.
    Refused(String),
}

fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    causes.any(|error| error.downcast_ref().is_some_and(refused))
}

impl From<Status> for NoLink {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Dialler {
    async fn keep(self, node: NodeId, address: String) {
        let mut pause = PAUSE_MIN;
        let mut told = String::new();
        while !self.engine.urgent.is_closed() {
            match self.dial(&node, &address).await {
                Ok(ended) => {
                    if ended.lasted >= STEADY {
                        pause = PAUSE_MIN;
                    }
                    told.clear();
                    if let Some(status) = ended.broken {
                        self.engine.counters.inc(Counter::PeerLinksBroken);
                        warn!(peer = %node, %address, code = ?status.code(), reason = status.message(), "a link to a peer broke");
                    }
                }
                Err(why) => pause = self.no_link(&node, &address, why, pause, &mut told).await,
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.engine.urgent.closed() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tells why there is no link, once for each reason in turn; answers the pause.
    async fn no_link(
        &self,
        node: &NodeId,
        address: &str,
        why: NoLink,
        pause: Duration,
        told: &mut String,
    ) -> Duration {
        let (reason, pause) = match why {
            NoLink::Mistaken(other) => {
                let reason = format!("{other} answers there");
                (reason, PAUSE_MISTAKEN)
            }
            NoLink::Refused(reason) => {
                debug!(peer = %node, %address, reason, "nobody listens there");
                return pause;
            }
            NoLink::Status(status) => {
                let reason = status.message().to_owned();
                match status.code() {
                    Code::AlreadyExists => {
                        *self.engine.in_use.write() = Some(reason.clone());
                        let input = Input::NodeIdRefused {
                            reason: reason.clone(),
                        };
                        // An error means that the loop is gone, and then this task ends.
                        let _ = self.engine.urgent.send(Command::Input(input)).await;
                        (reason, pause)
                    }
                    Code::FailedPrecondition | Code::InvalidArgument | Code::ResourceExhausted => {
                        (reason, PAUSE_MAX)
                    }
                    _ => {
                        debug!(peer = %node, %address, reason, "cannot reach a peer");
                        return pause.min(PAUSE_UNREACHED);
                    }
                }
            }
        };
        if *told != reason {
            warn!(peer = %node, %address, reason, "refused by a peer");
            *told = reason;
        }
        pause
    }

    /// One link, from connecting to its end. An error means that it never stood.
    async fn dial(&self, node: &NodeId, address: &str) -> Result<Ended, NoLink> {
        let (requests, mut answers) = self.introduce(address).await?;
        let welcome = first(&mut answers).await?;
        let peer = wire::read_hello(welcome)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        self.check(node, address, &peer)?;
        let (sender, receiver) = link(self.queue_urgent_max, self.queue_bulk_max);
        let pieces = sender.pieces.clone();
        let begun = Instant::now();
        let run = peer.incarnation;
        let traces = self.engine.traces.clone();
        *self.engine.in_use.write() = None;
        let broken = match LinkGuard::open(&self.engine, peer, Side::Outbound, Some(sender)).await {
            None => None,
            Some(_guard) => tokio::select! {
                () = pump(receiver, requests, &traces, node) => {
                    // Everything is on its way, and the peer ends the stream when it has read it.
                    let _ = tokio::time::timeout(GOODBYE, hear(&mut answers, &pieces)).await;
                    None
                }
                ended = hear(&mut answers, &pieces) => ended.err(),
            },
        };
        // Whoever leaves ends its connections as it ends itself, in whatever way that looks from here.
        let parting = broken.is_some() && self.engine.core.read().is_parting(run);
        Ok(Ended {
            lasted: begun.elapsed(),
            broken: broken.filter(|_| !parting),
        })
    }

    /// Connects and says who this is.
    async fn introduce(
        &self,
        address: &str,
    ) -> Result<
        (
            mpsc::Sender<v1::ExchangeRequest>,
            Streaming<v1::ExchangeResponse>,
        ),
        NoLink,
    > {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(format!("{address}: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint
            .connect_with_connector(Connector)
            .await
            .map_err(|error| {
                let reason = format!("{error:?}");
                if is_refusal(&error) {
                    NoLink::Refused(reason)
                } else {
                    NoLink::Status(Status::unavailable(reason))
                }
            })?;
        let mut client =
            PeerServiceClient::new(channel).max_decoding_message_size(wire::MESSAGE_BYTES_MAX);
        let (requests, stream) = mpsc::channel(IN_FLIGHT);
        let hello = wire::hello(&self.hello, &self.cluster);
        let first = v1::ExchangeRequest {
            kind: Some(v1::exchange_request::Kind::Hello(hello)),
        };
        requests
            .send(first)
            .await
            .map_err(|_| Status::internal("the request stream is closed"))?;
        let exchange = client.exchange(ReceiverStream::new(stream));
        let answers = tokio::time::timeout(CONNECT_TIMEOUT, exchange)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))??;
        Ok((requests, answers.into_inner()))
    }

    /// Checks who answered.
    fn check(&self, node: &NodeId, address: &str, peer: &PeerHello) -> Result<(), NoLink> {
        if peer.node_id == self.hello.node_id {
            return Err(NoLink::Status(
                if peer.incarnation == self.hello.incarnation {
                    Status::failed_precondition("this address is this sidecar's own")
                } else {
                    Status::already_exists(format!(
                        "node id {} is in use by incarnation {} at {address}: give every sidecar its own node.id",
                        peer.node_id, peer.incarnation
                    ))
                },
            ));
        }
        if peer.node_id == *node {
            Ok(())
        } else {
            Err(NoLink::Mistaken(peer.node_id.clone()))
        }
    }
}

/// The welcome.
async fn first(answers: &mut Streaming<v1::ExchangeResponse>) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(CONNECT_TIMEOUT, answers.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no welcome"))??;
    first
        .and_then(|answer| answer.welcome)
        .ok_or_else(|| Status::failed_precondition("the peer closed without a welcome"))
}

/// Hears which pieces of snapshots the peer has taken, until the stream ends.
async fn hear(
    answers: &mut Streaming<v1::ExchangeResponse>,
    pieces: &Semaphore,
) -> Result<(), Status> {
    while let Some(answer) = answers.message().await? {
        let taken = usize::try_from(answer.pieces_taken).unwrap_or(usize::MAX);
        if answer.welcome.is_some()
            || taken > PIECES_MAX - pieces.available_permits().min(PIECES_MAX)
        {
            return Err(Status::invalid_argument(
                "pieces_taken: more than were sent, or a second welcome",
            ));
        }
        pieces.add_permits(taken);
    }
    Ok(())
}

async fn pump(
    mut queues: LinkReceiver,
    requests: mpsc::Sender<v1::ExchangeRequest>,
    traces: &Traces,
    peer: &NodeId,
) {
    while let Some((message, served)) = queues.next().await {
        for piece in wire::cut(message) {
            let mut request = wire::message(piece);
            let sending = traced(&mut request, served, traces, peer);
            if requests.send(request).await.is_err() {
                return;
            }
            // On its way.
            drop(sending);
        }
    }
}

/// Has a message carry the traces of its events, and makes the spans of sending these.
fn traced(
    request: &mut v1::ExchangeRequest,
    served: bool,
    traces: &Traces,
    peer: &NodeId,
) -> Vec<Span> {
    if !traces.know_any() {
        return Vec::new();
    }
    let events = wire::events(request).enumerate();
    let sending = events.filter_map(|(place, event)| {
        let (span, carried) = traces.sending(event, peer.as_str(), served)?;
        Some((span, (place, carried)))
    });
    let (spans, carried) = sending.unzip();
    wire::carry(request, carried);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_is_told_from_a_host_that_is_not_reached() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let refused = endpoint.connect_with_connector(Connector).await;
        assert!(is_refusal(&refused.unwrap_err()));
        // Nobody has such a name.
        let endpoint = Endpoint::from_static("http://grapevine.invalid:1");
        let unknown = endpoint.connect_with_connector(Connector).await;
        assert!(!is_refusal(&unknown.unwrap_err()));
    }
}
