//! Peers' first messages, bounded before they are whole.
//!
//! Whoever reaches the peer port may begin a message, and pieces of snapshots are large. So the first message, which says
//! who calls, has a limit of its own: a caller that declares a longer one is refused by its first bytes, and what it sent
//! behind them is let go. It has few seconds for that message in any case.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// The longest introduction. Ours are of some 200 bytes; later releases may have more to say.
pub(super) const HELLO_BYTES_MAX: usize = 16 << 10;

/// The peer service, whose callers have to introduce themselves in few bytes.
#[derive(Clone, Debug)]
pub(crate) struct Introduced<S> {
    inner: S,
}

impl<S> Introduced<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: NamedService> NamedService for Introduced<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Introduced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        self.inner.call(request.map(|rest| {
            Body::new(Introduction {
                rest,
                head: [0; 5],
                head_bytes: 0,
            })
        }))
    }
}

/// A body whose first message may not be long.
struct Introduction {
    rest: Body,
    /// What comes before the first message: a flag, and its length.
    head: [u8; 5],
    head_bytes: usize,
}

impl Introduction {
    /// Takes a frame; an error if the first message is too long.
    fn came(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.head_bytes == self.head.len() {
            return Ok(());
        }
        let next = (self.head.len() - self.head_bytes).min(data.len());
        let end = self.head_bytes + next;
        self.head[self.head_bytes..end].copy_from_slice(&data[..next]);
        self.head_bytes = end;
        let [_, length @ ..] = self.head;
        let length = u32::from_be_bytes(length) as usize;
        if end < self.head.len() || length <= HELLO_BYTES_MAX {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "hello: {length} bytes; the limit of the first message is {HELLO_BYTES_MAX} bytes"
        )))
    }
}

impl http_body::Body for Introduction {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(Pin::new(&mut self.rest).poll_frame(cx));
        if let Some(Ok(frame)) = &next
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.came(data)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tonic::Code;

    use super::*;

    fn introduction() -> Introduction {
        Introduction {
            rest: Body::empty(),
            head: [0; 5],
            head_bytes: 0,
        }
    }

    #[test]
    fn g10_a_first_message_of_a_peer_that_declares_to_be_long_is_refused_by_its_head() {
        let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
        let mut ours = introduction();
        ours.came(&[0]).unwrap();
        ours.came(&length(HELLO_BYTES_MAX)).unwrap();
        // Whatever comes after the head is not this one's matter: later messages are long.
        ours.came(&[0xff; 1_000]).unwrap();
        let mut theirs = introduction();
        let head = [&[0], &length(15 << 20)[..], b"and"].concat();
        theirs.came(&head[..4]).unwrap();
        let refused = theirs.came(&head[4..]).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("15728640"), "{refused}");
        assert!(refused.message().contains("16384"), "{refused}");
    }
}
