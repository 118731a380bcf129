//! The peer service: checks who calls, welcomes, and hands every message to the loop.
//!
//! The loop's queues are bounded; while they are full the stream is not read, and HTTP/2 flow control makes the peer
//! wait. A malformed message ends its stream: the peer is of another make, or hostile.

use grapevine_core::machine::AdmitError;
use grapevine_core::machine::effects::{Input, PeerHello, PeerMessage, Side};
use grapevine_proto::v1;
use grapevine_proto::v1::peer_service_server::PeerService;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::is_bulk;
use crate::engine::{Command, Engine};
use crate::telemetry::Counter;
use crate::wire::peer as wire;

/// How long a caller may take to introduce itself.
const HELLO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The peer service.
pub(crate) struct PeerServer {
    pub(crate) engine: Engine,
    pub(crate) cluster: String,
    pub(crate) hello: PeerHello,
}

#[tonic::async_trait]
impl PeerService for PeerServer {
    type ExchangeStream = ReceiverStream<Result<v1::ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, stream.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello within 5 s"))??;
        let peer = self.check(first).inspect_err(|status| {
            self.engine.counters.inc(Counter::PeerRejected);
            warn!(reason = status.message(), "refused a peer");
        })?;
        // The welcome, and the reason for the end.
        let (answers, responses) = mpsc::channel(2);
        let welcome = v1::ExchangeResponse {
            welcome: Some(wire::hello(&self.hello, &self.cluster)),
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
                AdmitError::TooMany { .. } => Status::resource_exhausted(error.to_string()),
            })?;
        Ok(peer)
    }
}

fn shorten(value: &str) -> String {
    value.chars().take(80).collect()
}

async fn listen(
    engine: Engine,
    peer: PeerHello,
    mut stream: Streaming<v1::ExchangeRequest>,
    answers: mpsc::Sender<Result<v1::ExchangeResponse, Status>>,
) {
    if engine
        .urgent
        .send(Command::LinkUp(peer.clone(), Side::Inbound, None))
        .await
        .is_err()
    {
        return;
    }
    while let Ok(Some(message)) = stream.message().await {
        let message = match wire::read_message(message) {
            Ok(message) => message,
            Err(error) => {
                engine.counters.inc(Counter::PeerRejected);
                warn!(peer = %peer.node_id, %error, "malformed message; closing the link");
                // There is room, unless the peer is gone; the link ends either way.
                let _ = answers.try_send(Err(Status::invalid_argument(error.to_string())));
                break;
            }
        };
        let (bulk, registrations) = (
            is_bulk(&message),
            matches!(message, PeerMessage::Directory { .. }),
        );
        let input = Command::Input(Input::Peer {
            from: peer.incarnation,
            message,
        });
        let taken = if registrations {
            // Bumps that follow must not wait for the disk: what finds no room is dropped, and pulled later.
            match engine.bulk.try_send(input) {
                Err(TrySendError::Full(_)) => {
                    engine.counters.inc(Counter::PushesDropped);
                    true
                }
                sent => sent.is_ok(),
            }
        } else if bulk {
            // A piece of a snapshot is never dropped: the end of the snapshot would hide the hole.
            engine.bulk.send(input).await.is_ok()
        } else {
            engine.urgent.send(input).await.is_ok()
        };
        if !taken {
            return;
        }
    }
    let _ = engine
        .urgent
        .send(Command::LinkDown(peer, Side::Inbound))
        .await;
}
