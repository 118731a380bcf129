//! Connecting to a peer, on a network that may lose packets or be healing just now.
//!
//! A link carries few, small messages. When one is lost there are no later packets whose acknowledgements would tell, so TCP waits
//! for a timeout, and doubles it each time: after four losses in a row a bump has waited for three seconds, and everything
//! behind it on that stream too. The kernel knows such *thin* streams and, asked to, does not double for the first six. It
//! does so only for streams whose congestion control has left its first slow start, which BBR never does on a stream that has
//! hardly anything to say; in its place these sockets take one that does. Both are hints: where the kernel refuses one,
//! the link works, and is slower when packets are lost.
//!
//! A lost packet that begins a connection is repeated by the kernel after a second at the earliest. A further attempt is
//! made beside it sooner, so that a network that heals is noticed soon; the first to succeed is it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

/// Between two attempts: above the round trip of most networks.
const AGAIN: Duration = Duration::from_millis(300);
/// Attempts that are under way together. The caller's own timeout ends them all.
const ATTEMPTS_MAX: usize = 6;

/// Makes connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connector;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let address = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
            let found = tokio::net::lookup_host(address.as_str()).await?.collect();
            first_of(found, attempt).await.map(TokioIo::new)
        })
    }
}

/// The first connection that stands; the others are given up. An error when every address has refused.
async fn first_of<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut attempts = JoinSet::new();
    let mut refused = 0;
    for address in addresses.iter().cycle() {
        if attempts.len() < ATTEMPTS_MAX {
            attempts.spawn(attempt(*address));
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended? {
                Ok(connection) => return Ok(connection),
                // The next address, at once.
                Err(_) if refused + 1 < addresses.len() => refused += 1,
                Err(error) => return Err(error),
            },
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the name has no address",
    ))
}

async fn attempt(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    repeat_soon(&socket);
    socket.connect(address).await
}

/// Has the kernel repeat what was lost without growing pauses, if it can.
#[cfg(target_os = "linux")]
fn repeat_soon(socket: &TcpSocket) {
    let socket = socket2::SockRef::from(socket);
    // A kernel that knows neither goes on as it did.
    let _ = socket.set_tcp_thin_linear_timeouts(true);
    let bbr = socket
        .tcp_congestion()
        .is_ok_and(|name| name.starts_with(b"bbr"));
    // What the system lets unprivileged processes choose need not include the first; everybody may choose the second.
    if bbr && socket.set_tcp_congestion(b"cubic").is_err() {
        let _ = socket.set_tcp_congestion(b"reno");
    }
}

#[cfg(not(target_os = "linux"))]
fn repeat_soon(_: &TcpSocket) {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        let address = |last| SocketAddr::from(([127, 0, 0, last], 1));
        (1..=count).map(address).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_does_not_hold_up_the_next() {
        // A network that heals: what was sent before is lost.
        let begun = Instant::now();
        let healing = move |_| async move {
            if begun.elapsed() < AGAIN * 5 / 2 {
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        first_of(addresses(1), healing).await.unwrap();
        assert_eq!(begun.elapsed(), 3 * AGAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn g10_attempts_under_way_are_bounded() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let silent = move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<io::Result<()>>()
        };
        let connecting = first_of(addresses(2), silent);
        let ended = tokio::time::timeout(100 * AGAIN, connecting).await;
        assert!(ended.is_err());
        assert_eq!(made.load(Ordering::Relaxed), ATTEMPTS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_is_tried_before_a_refusal_counts() {
        let begun = Instant::now();
        let last_one_takes = |address: SocketAddr| async move {
            let taken = address.to_string() == "127.0.0.3:1";
            taken
                .then_some(address)
                .ok_or(io::ErrorKind::ConnectionRefused.into())
        };
        first_of(addresses(3), last_one_takes).await.unwrap();
        let refused = first_of(addresses(2), last_one_takes).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        first_of(Vec::new(), last_one_takes).await.unwrap_err();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_link_s_socket_repeats_without_growing_pauses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = attempt(listener.local_addr().unwrap()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_thin_linear_timeouts().unwrap());
        assert!(!socket.tcp_congestion().unwrap().starts_with(b"bbr"));
    }
}
