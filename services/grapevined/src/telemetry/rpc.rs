//! What every call costs, in a histogram, and the span of those that are sampled; under the stable names of OpenTelemetry's conventions
//! for RPCs.
//!
//! A call ends with the status in its trailers, or when nobody is left to hear it. Methods are those of the services
//! here: whatever else is asked for has one name together, so that nobody makes up labels.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;
use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, Status as SpanStatus};
use opentelemetry_sdk::trace::Span;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::metrics::Histograms;
use super::traces::{self, Traces};

/// What there is of a method that no service here has.
const OTHER: &str = "_OTHER";

/// What calls are told to.
#[derive(Clone)]
pub(crate) struct Calls {
    traces: Traces,
    histograms: Histograms,
    /// By path.
    methods: Arc<HashMap<String, &'static str>>,
}

impl Calls {
    /// `descriptors` are those of the services whose methods are told by name.
    pub(crate) fn new(traces: Traces, histograms: Histograms, descriptors: &[&[u8]]) -> Self {
        let sets = descriptors
            .iter()
            .map(|set| FileDescriptorSet::decode(*set));
        let files = sets.filter_map(Result::ok).flat_map(|set| set.file);
        let mut methods = HashMap::new();
        for file in files {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    // They are few, and last as long as the process does.
                    let known: &'static str = name.clone().leak();
                    methods.insert(format!("/{name}"), known);
                }
            }
        }
        Self {
            traces,
            histograms,
            methods: Arc::new(methods),
        }
    }

    fn are_told(&self) -> bool {
        self.traces.are_on() || self.histograms.are_on()
    }

    fn begin(&self, path: &str, headers: &HeaderMap) -> Told {
        let method = self.methods.get(path).copied().unwrap_or(OTHER);
        let attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
        ];
        Told {
            span: self.traces.call(method, headers, attributes),
            histograms: self.histograms.clone(),
            method,
            began: Instant::now(),
            ended: None,
        }
    }
}

/// A call, until it is over.
struct Told {
    span: Option<Span>,
    histograms: Histograms,
    method: &'static str,
    began: Instant,
    /// How, if that was seen.
    ended: Option<Code>,
}

impl Drop for Told {
    fn drop(&mut self) {
        let code = self.ended.unwrap_or(Code::Cancelled);
        let status = name_of(code);
        let mut attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", self.method),
            KeyValue::new("rpc.response.status_code", status),
        ];
        // What a caller has to answer for is no error of the server.
        let failed = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        if failed {
            attributes.push(KeyValue::new("error.type", status));
        }
        self.histograms.call(self.began.elapsed(), &attributes);
        if let Some(mut span) = self.span.take() {
            span.set_attributes(attributes.into_iter().skip(2));
            if failed {
                span.set_status(SpanStatus::error(status));
            }
        }
    }
}

fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A service whose calls are told.
#[derive(Clone)]
pub(crate) struct Observed<S> {
    inner: S,
    calls: Calls,
}

impl<S> Observed<S> {
    pub(crate) fn new(inner: S, calls: Calls) -> Self {
        Self { inner, calls }
    }
}

impl<S: NamedService> NamedService for Observed<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future = Pin<Box<dyn Future<Output = Answer> + Send>>,
        >,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !self.calls.are_told() {
            return self.inner.call(request);
        }
        let mut told = self.calls.begin(request.uri().path(), request.headers());
        let span = told.span.as_ref().map(|span| span.span_context().clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match span {
                Some(span) => traces::within(span, answer).await?,
                None => answer.await?,
            };
            // A call that fails at once has its status in the head.
            told.ended = Status::from_header_map(answer.headers()).map(|status| status.code());
            if told.ended.is_some() {
                return Ok(answer);
            }
            Ok(answer.map(|body| Body::new(Watched { body, told })))
        })
    }
}

/// The body of an answer, at whose end there is the status.
struct Watched {
    body: Body,
    told: Told,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &next {
            Some(Ok(frame)) => {
                let trailers = frame.trailers_ref();
                if let Some(status) = trailers.and_then(Status::from_header_map) {
                    self.told.ended = Some(status.code());
                }
            }
            Some(Err(status)) => self.told.ended = Some(status.code()),
            None => {}
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
