//! The endpoint for scrapers: HTTP/1.1, `GET /metrics`, in Prometheus' text format.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Scrapers at a time; a further one waits in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take. Who says nothing must not keep others out for as long as they wait.
const HEAD_WAIT: Duration = Duration::from_secs(2);
/// How long a connection may last, which is for one request.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// The pause after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers scrapers, until its task is ended.
pub(crate) async fn serve(listener: TcpListener, registry: Registry) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // An error would mean that it was closed, which nobody does.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "metrics.listen: cannot take a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let registry = registry.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(|request| {
                let registry = registry.clone();
                async move { Ok::<_, Infallible>(answer(registry, &request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .header_read_timeout(HEAD_WAIT)
                .serve_connection(TokioIo::new(stream), answer);
            // One that lasts too long is cut, and opens the next.
            let ended = tokio::time::timeout(CONNECTION_MAX, connection).await;
            if let Ok(Err(error)) = ended {
                debug!(%error, "a scraper's connection broke");
            }
        });
    }
}

async fn answer(registry: Registry, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return told(
            StatusCode::NOT_FOUND,
            "there is /metrics, and nothing else\n",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = told(StatusCode::METHOD_NOT_ALLOWED, "GET it\n");
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // The store is asked for its size, which may take a disk.
    let written = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let written = TextEncoder::new().encode(&registry.gather(), &mut text);
        written.map(|()| text).map_err(anyhow::Error::from)
    });
    let text = match written.await.map_err(anyhow::Error::from).flatten() {
        Ok(text) => text,
        Err(error) => {
            warn!(%error, "the metrics could not be written");
            let reason = "the sidecar's log has the reason\n";
            return told(StatusCode::INTERNAL_SERVER_ERROR, reason);
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if let Ok(kind) = TextEncoder::new().format_type().parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

fn told(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
