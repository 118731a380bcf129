//! The endpoint for scrapers: HTTP/1.1, `GET /metrics`, in Prometheus' text format.

use std::collections::VecDeque;
use std::convert::Infallible;
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
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// Scrapers at a time; the oldest connection is closed for a further one, so that those that only stand there keep nobody out.
const CONNECTIONS_MAX: usize = 64;
/// The pause after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// How long scrapers may take.
struct Patience {
    /// For a request's head.
    head: Duration,
    /// For a connection, which is for one request.
    connection: Duration,
}

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(2),
    connection: Duration::from_secs(10),
};

/// Answers scrapers, until its task is ended.
pub(crate) async fn serve(listener: TcpListener, registry: Registry) {
    accept(listener, registry, PATIENCE).await;
}

async fn accept(listener: TcpListener, registry: Registry, patience: Patience) {
    // In the order in which they came.
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "metrics.listen: cannot take a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if open.len() >= CONNECTIONS_MAX {
            open.retain(|connection| !connection.is_finished());
        }
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let registry = registry.clone();
        open.push_back(tokio::spawn(async move {
            let answer = service_fn(|request| {
                let registry = registry.clone();
                async move { Ok::<_, Infallible>(answer(registry, &request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .header_read_timeout(patience.head)
                .serve_connection(TokioIo::new(stream), answer);
            // One that lasts too long is cut.
            let ended = tokio::time::timeout(patience.connection, connection).await;
            if let Ok(Err(error)) = ended {
                debug!(%error, "a scraper's connection broke");
            }
        }));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn g10_connections_that_say_nothing_keep_no_scraper_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Patience {
            head: Duration::from_hours(1),
            connection: Duration::from_hours(1),
        };
        let serving = tokio::spawn(accept(listener, Registry::new(), patience));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX * 2 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let scrape = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(Duration::from_secs(30), scrape).await;
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
        // The oldest gave way, and only those.
        let mut buffer = [0];
        let oldest = silent[CONNECTIONS_MAX].read(&mut buffer);
        let oldest = tokio::time::timeout(Duration::from_secs(30), oldest).await;
        assert!(!matches!(oldest.unwrap(), Ok(1..)), "it said something");
        let left = silent[CONNECTIONS_MAX + 1].try_read(&mut [0]);
        assert_eq!(left.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        serving.abort();
    }
}
