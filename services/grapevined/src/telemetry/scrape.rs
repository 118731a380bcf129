//! The endpoint for scrapers: HTTP/1.1, `GET /metrics`, in Prometheus' text format.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
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

/// Scrapers at a time; for a further one the oldest connection that has asked for nothing is closed, so that those that only stand there keep
/// nobody out.
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

/// A connection.
struct Open {
    /// Whether its request has come.
    asked: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

/// The connections of scrapers, in the order in which they came.
#[derive(Default)]
struct Line(VecDeque<Open>);

impl Line {
    /// Takes a further one, in the place of another if there are too many.
    fn join(&mut self, open: Open) {
        if self.0.len() >= CONNECTIONS_MAX {
            self.0.retain(|open| !open.serving.is_finished());
        }
        if self.0.len() >= CONNECTIONS_MAX {
            let silent = self.0.iter().position(|open| !open.asked.load(Relaxed));
            if let Some(oldest) = self.0.remove(silent.unwrap_or_default()) {
                oldest.serving.abort();
            }
        }
        self.0.push_back(open);
    }
}

async fn accept(listener: TcpListener, registry: Registry, patience: Patience) {
    let mut line = Line::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "metrics.listen: cannot take a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let registry = registry.clone();
        let asked = Arc::new(AtomicBool::new(false));
        let has_asked = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            let answer = service_fn(|request| {
                has_asked.store(true, Relaxed);
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
        });
        line.join(Open { asked, serving });
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
        let scrape = async |stream: &mut TcpStream| {
            let request = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
            let mut answer = String::new();
            let asked = async {
                stream.write_all(request).await?;
                stream.read_to_string(&mut answer).await
            };
            let asked = tokio::time::timeout(Duration::from_secs(30), asked).await;
            asked.unwrap().map(|_| answer)
        };
        let mut scraper = TcpStream::connect(address).await.unwrap();
        let answer = scrape(&mut scraper).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The oldest have given way, and only those.
        let closed = scrape(&mut silent[CONNECTIONS_MAX]).await;
        assert!(closed.is_err() || closed.is_ok_and(|answer| answer.is_empty()));
        let answer = scrape(&mut silent[CONNECTIONS_MAX + 1]).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        serving.abort();
    }

    #[tokio::test]
    async fn g10_who_is_being_answered_gives_way_to_nobody_while_others_only_stand_there() {
        let mut line = Line::default();
        let mut join = |asked| {
            let serving = tokio::spawn(std::future::pending());
            let ended = serving.abort_handle();
            let asked = Arc::new(AtomicBool::new(asked));
            line.join(Open { asked, serving });
            ended
        };
        let scraper = join(true);
        let silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| join(false)).collect();
        // An aborted task has ended once it was given a turn.
        tokio::task::yield_now().await;
        assert!(!scraper.is_finished() && silent[0].is_finished());
        assert!(silent[1..].iter().all(|open| !open.is_finished()));
    }
}
