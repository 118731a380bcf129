//! A collector that keeps the spans that it is sent, by OTLP over gRPC.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A running collector; ends when dropped.
#[derive(Debug)]
pub struct Collector {
    /// Where it takes spans.
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// A span that was sent. Ids are in hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The sidecar that made it, by its node id.
    pub node: String,
    /// Its trace.
    pub trace: String,
    /// What it is.
    pub name: String,
    /// Its id.
    pub id: String,
    /// What it is a part of; empty for the first one of a trace.
    pub parent: String,
    /// Spans that it is linked to.
    pub links: Vec<String>,
    /// What it tells, by name.
    pub tags: BTreeMap<String, String>,
}

impl Collector {
    /// Starts one on a port of its own.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let spans = Arc::default();
        let server = TraceServiceServer::new(Kept(Arc::clone(&spans)));
        let serving = tonic::transport::Server::builder()
            .add_service(server)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.expect("invariant: it listens") });
        Ok(Self {
            address,
            spans,
            task,
        })
    }

    /// The spans so far, in the order in which they came.
    pub fn spans(&self) -> Vec<Seen> {
        let spans = self.spans.lock();
        spans.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Kept(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let resource = tags(resource.attributes);
            let node = resource.get("service.instance.id");
            let node = node.cloned().unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter();
            let spans = spans.flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| seen(node.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn seen(node: String, span: Span) -> Seen {
    let links = span.links.iter();
    Seen {
        node,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: links.map(|link| hex(&link.span_id)).collect(),
        name: span.name,
        tags: tags(span.attributes),
    }
}

fn tags(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let told = attributes.into_iter().map(|attribute| {
        let value = attribute.value.and_then(|value| value.value);
        let text = match value {
            Some(Value::StringValue(text)) => text,
            Some(Value::BoolValue(it)) => it.to_string(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key, text)
    });
    told.collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in bytes {
        write!(digits, "{byte:02x}").expect("invariant: a string takes what is written to it");
    }
    digits
}
