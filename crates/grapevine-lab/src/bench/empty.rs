//! The floor under any gRPC service: a tonic server whose two calls take nothing and answer nothing, in a process of its own, and
//! its client. What a look-up takes beyond that is Grapevine's.
//!
//! The service has no `.proto`: its messages are empty, and `()` is such a message.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, StreamingService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::caches::CacheServerError;
use crate::process::{Process, Readiness};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const UNARY: &str = "/grapevine.bench.Empty/Unary";
const STREAM: &str = "/grapevine.bench.Empty/Stream";

type Codec = ProstCodec<(), ()>;

/// Serves on a Unix socket until the process is ended.
pub async fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let incoming = UnixListenerStream::new(listener);
    Server::builder()
        .add_service(Empty)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// The server's process; dropping it ends it.
pub(super) struct EmptyServer {
    process: Process,
    socket: PathBuf,
}

impl EmptyServer {
    /// Starts it in `dir`, which holds its socket and its log, and waits until it can be reached.
    pub(super) async fn start(executable: &Path, dir: &Path) -> Result<Self, CacheServerError> {
        let socket = dir.join("empty.sock");
        let arguments = ["bench-peer", &socket.display().to_string()];
        let log = dir.join("empty.log");
        let mut process = Process::start("tonic", executable, &arguments, &log)?;
        let probe = async || match UnixStream::connect(&socket).await {
            Ok(_) => Readiness::Ready,
            Err(error) => Readiness::NotYet(error.to_string()),
        };
        process.wait_ready(START_TIMEOUT, probe).await?;
        Ok(Self { process, socket })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn process_id(&self) -> Option<u32> {
        self.process.id()
    }

    /// How it was started.
    pub(super) fn command(&self) -> String {
        self.process.command().to_owned()
    }
}

#[derive(Clone, Copy)]
struct Empty;

impl NamedService for Empty {
    const NAME: &'static str = "grapevine.bench.Empty";
}

impl UnaryService<()> for Empty {
    type Response = ();
    type Future = Ready<Result<Response<()>, Status>>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}

impl StreamingService<()> for Empty {
    type Response = ();
    type ResponseStream = Streaming<()>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    /// What comes in goes out.
    fn call(&mut self, request: Request<Streaming<()>>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Empty {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let empty = *self;
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                UNARY => grpc.unary(empty, request).await,
                STREAM => grpc.streaming(empty, request).await,
                other => Status::unimplemented(format!("no call {other}")).into_http(),
            })
        })
    }
}

/// Its client.
pub(super) struct EmptyClient {
    grpc: tonic::client::Grpc<Channel>,
}

/// Answers to come.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<(), Status>> + Send>>;

impl EmptyClient {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            grpc: tonic::client::Grpc::new(channel),
        }
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))
    }

    pub(super) async fn unary(&mut self) -> Result<(), Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(UNARY);
        let answer = self.grpc.unary(Request::new(()), path, Codec::default());
        answer.await?;
        Ok(())
    }

    pub(super) async fn stream(
        &mut self,
        requests: impl Stream<Item = ()> + Send + 'static,
    ) -> Result<Answers, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(STREAM);
        let request = Request::new(requests);
        let answers = self.grpc.streaming(request, path, Codec::default());
        Ok(answers.await?.into_inner().boxed())
    }
}
