//! What RPCs carried of trace contexts, by their methods.

use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::State;

/// A service that notes what is asked of it.
#[derive(Clone)]
pub(super) struct Noting<S> {
    pub(super) service: S,
    pub(super) state: Arc<State>,
}

/// An RPC as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
}

impl<S: Service<http::Request<B>>, B> Service<http::Request<B>> for Noting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> S::Future {
        let path = request.uri().path();
        let field = |name: &str| {
            let mut values = request.headers().get_all(name).iter();
            let value = values
                .next()
                .map(|value| value.to_str().unwrap().to_owned());
            assert!(values.next().is_none(), "{path}: {name} comes twice");
            value
        };
        self.state.heard.lock().push(Heard {
            method: path.rsplit('/').next().unwrap().to_owned(),
            traceparent: field("traceparent"),
            tracestate: field("tracestate"),
        });
        self.service.call(request)
    }
}

impl<S: NamedService> NamedService for Noting<S> {
    const NAME: &'static str = S::NAME;
}

impl State {
    /// The RPCs since the last time.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.heard.lock())
    }
}
