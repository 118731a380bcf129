//! The peer service: checks who calls, welcomes, and hands every message to the loop.
//!
//! The loop's queues are bounded; while they are full the stream is not read, and HTTP/2 flow control makes the peer
//! wait. Pieces of snapshots wait in a queue of their own, and the peer is told as they are taken: it never has more of
//! them under way than that queue holds. A malformed message ends its stream: the peer is of another make, or hostile.

use std::time::Instant;

use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::machine::AdmitError;
use grapevine_core::machine::effects::{Input, PeerHello, PeerMessage, Side};
use grapevine_core::names::NodeId;
use grapevine_proto::v1;
use grapevine_proto::v1::peer_service_server::PeerService;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::warn;

use super::link::{LinkGuard, PIECES_MAX, is_piece, is_registrations};
use super::refusals::Refusals;
use crate::engine::{Command, Engine};
use crate::telemetry::Counter;
use crate::telemetry::traces::Carried;
use crate::wire::peer as wire;

/// How long a caller may take to introduce itself.
const HELLO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

type Answer = Result<v1::ExchangeResponse, Status>;

/// The peer service.
pub(crate) struct PeerServer {
    pub(crate) engine: Engine,
    pub(crate) cluster: String,
    pub(crate) hello: PeerHello,
    pub(crate) refusals: Refusals,
}

#[tonic::async_trait]
impl PeerService for PeerServer {
    type ExchangeStream = ReceiverStream<Answer>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, stream.message()).await;
        let Ok(first) = first else {
            let status = Status::deadline_exceeded("hello: none within 5 s");
            self.refused(&status);
            return Err(status);
        };
        let first = first.inspect_err(|status| {
            // Any other error is of a connection that broke off.
            if status.code() == Code::ResourceExhausted {
                self.refused(status);
            }
        })?;
        let peer = self
            .check(first)
            .inspect_err(|status| self.refused(status))?;
        // The welcome, a word for each piece of a snapshot, and the reason for the end.
        let (answers, responses) = mpsc::channel(PIECES_MAX + 2);
        let welcome = v1::ExchangeResponse {
            welcome: Some(wire::hello(&self.hello, &self.cluster)),
            pieces_taken: 0,
        };
        answers
            .send(Ok(welcome))
            .await
            .map_err(|_| Status::cancelled("the peer is gone"))?;
        if peer.incarnation != self.hello.incarnation {
            tokio::spawn(listen(self.engine.clone(), peer, stream, answers));
        }
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl PeerServer {
    fn refused(&self, status: &Status) {
        self.engine.counters.inc(Counter::PeerRejected);
        self.refusals.note(status, Instant::now());
    }

    fn check(&self, first: Option<v1::ExchangeRequest>) -> Result<PeerHello, Status> {
        let Some(v1::exchange_request::Kind::Hello(hello)) = first.and_then(|first| first.kind)
        else {
            return Err(Status::invalid_argument(
                "hello: the first message must be one",
            ));
        };
        if hello.cluster != self.cluster {
            let (theirs, ours) = (shorten(&hello.cluster), &self.cluster);
            return Err(Status::failed_precondition(format!(
                "hello.cluster: {theirs:?} is not {ours:?}"
            )));
        }
        if hello.protocol != wire::PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "hello.protocol: {} is not {}: run sidecars of versions that go together",
                hello.protocol,
                wire::PROTOCOL
            )));
        }
        let peer =
            wire::read_hello(hello).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = self.engine.clock.now();
        self.engine
            .core
            .read()
            .admit_peer(&peer, now)
            .map_err(|error| match error {
                AdmitError::OwnNodeId { .. } | AdmitError::NodeIdInUse { .. } => {
                    Status::already_exists(error.to_string())
                }
                // Not its name, so that it stays and tries again: the other one may be the liar.
                AdmitError::RunOfAnother { .. } => Status::failed_precondition(error.to_string()),
                AdmitError::TooMany { .. } => Status::resource_exhausted(error.to_string()),
            })?;
        Ok(peer)
    }
}

fn shorten(value: &str) -> String {
    value.chars().take(80).collect()
}

/// One inbound link, from its introduction to its end.
async fn listen(
    engine: Engine,
    peer: PeerHello,
    mut stream: Streaming<v1::ExchangeRequest>,
    answers: mpsc::Sender<Answer>,
) {
    let Some(guard) = LinkGuard::open(&engine, peer, Side::Inbound, None).await else {
        return;
    };
    let (from, node) = (guard.peer().incarnation, guard.peer().node_id.clone());
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let ended = tokio::select! {
        ended = hear(&engine, (from, &node), &mut stream, &pieces) => ended,
        // It ends only when the loop does.
        () = take_pieces(&engine, from, waiting, &answers) => Ok(()),
    };
    if let Err(status) = ended {
        if engine.core.read().is_parting(from) {
            return;
        }
        engine.counters.inc(Counter::PeerLinksBroken);
        let peer = &guard.peer().node_id;
        warn!(%peer, code = ?status.code(), reason = status.message(), "a link from a peer broke");
        // There is room, unless the peer is gone; the link ends either way.
        let _ = answers.try_send(Err(status));
    }
}

/// Follows the traces that a message carries, but of events that are applied already: of these nothing is to come.
fn follow(engine: &Engine, message: &v1::ExchangeRequest, peer: &NodeId) {
    let (carried, malformed) = wire::carried(message);
    engine
        .counters
        .add_len(Counter::PeerTracesMalformed, malformed);
    if carried.is_empty() {
        return;
    }
    let new = {
        let core = engine.core.read();
        let is_new = |(event, _): &(EventId, Carried)| !core.progress().has(*event);
        carried.into_iter().filter(is_new).collect::<Vec<_>>()
    };
    for (event, carried) in new {
        engine.traces.heard(event, &carried, peer.as_str());
    }
}

/// Hands messages to the loop until the stream ends.
async fn hear(
    engine: &Engine,
    (from, peer): (Incarnation, &NodeId),
    stream: &mut Streaming<v1::ExchangeRequest>,
    pieces: &mpsc::Sender<PeerMessage>,
) -> Result<(), Status> {
    while let Some(message) = stream.message().await? {
        if engine.traces.are_on() {
            follow(engine, &message, peer);
        }
        let message = wire::read_message(message).map_err(|error| {
            engine.counters.inc(Counter::PeerMessagesRefused);
            Status::invalid_argument(error.to_string())
        })?;
        if is_piece(&message) {
            // It never waits here: bumps, acknowledgements and grants come behind it on this stream.
            pieces.try_send(message).map_err(|_| {
                engine.counters.inc(Counter::PeerMessagesRefused);
                Status::resource_exhausted(format!(
                    "{PIECES_MAX} pieces of a snapshot wait to be taken already"
                ))
            })?;
            continue;
        }
        let registrations = is_registrations(&message);
        let input = Command::Input(Input::Peer { from, message });
        let taken = if registrations {
            // Bumps that follow must not wait for the disk: what finds no room is dropped, and pulled later.
            match engine.bulk.try_send(input) {
                Err(TrySendError::Full(_)) => {
                    engine.counters.inc(Counter::PushesDropped);
                    true
                }
                sent => sent.is_ok(),
            }
        } else {
            engine.urgent.send(input).await.is_ok()
        };
        if !taken {
            return Ok(());
        }
    }
    Ok(())
}

/// Hands pieces of snapshots to the loop at the pace that it takes them at, and tells the peer. None is ever dropped: the
/// end of a snapshot would hide the hole.
async fn take_pieces(
    engine: &Engine,
    from: Incarnation,
    mut pieces: mpsc::Receiver<PeerMessage>,
    answers: &mpsc::Sender<Answer>,
) {
    while let Some(message) = pieces.recv().await {
        let input = Command::Input(Input::Peer { from, message });
        if engine.bulk.send(input).await.is_err() {
            return;
        }
        let taken = v1::ExchangeResponse {
            welcome: None,
            pieces_taken: 1,
        };
        // One that does not listen gets no further pieces taken, and has its link broken for sending them all the same.
        if answers.send(Ok(taken)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
