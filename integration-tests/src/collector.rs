//! A collector that keeps the spans and metrics that it is sent, by OTLP over gRPC.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, Sum,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A running collector; ends when dropped.
#[derive(Debug)]
pub struct Collector {
    /// Where it takes spans and metrics.
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Seen>>>,
    metrics: Arc<Mutex<Vec<Measured>>>,
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

/// What a metric was at one moment, for one set of labels.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whose it is: the attributes of the resource, by name.
    pub resource: BTreeMap<String, String>,
    /// Its name.
    pub name: String,
    /// Of the Unified Code for Units of Measure; empty for what is counted.
    pub unit: String,
    /// Its labels.
    pub tags: BTreeMap<String, String>,
    /// Its number; of a histogram, how many values it has.
    pub value: f64,
    /// What the number is.
    pub kind: MeasuredKind,
}

/// What the number of a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasuredKind {
    /// It counts since the start, and only rises.
    Counter,
    /// It is what it is now.
    Gauge,
    /// It counts values since the start, sorted by their size.
    Histogram,
    /// Anything else, which no sidecar sends.
    Other,
}

impl Collector {
    /// Starts one on a port of its own.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (spans, metrics) = (Arc::default(), Arc::default());
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Kept(Arc::clone(&spans))))
            .add_service(MetricsServiceServer::new(Kept(Arc::clone(&metrics))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.expect("invariant: it listens") });
        Ok(Self {
            address,
            spans,
            metrics,
            task,
        })
    }

    /// The spans so far, in the order in which they came.
    pub fn spans(&self) -> Vec<Seen> {
        let spans = self.spans.lock();
        spans.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What metrics were so far, in the order in which that came.
    pub fn metrics(&self) -> Vec<Measured> {
        let metrics = self.metrics.lock();
        metrics.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Kept<T>(Arc<Mutex<Vec<T>>>);

#[tonic::async_trait]
impl TraceService for Kept<Seen> {
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

#[tonic::async_trait]
impl MetricsService for Kept<Measured> {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_metrics {
            let resource = of_resource.resource.unwrap_or_default();
            let resource = tags(resource.attributes);
            let metrics = of_resource.scope_metrics.into_iter();
            let metrics = metrics.flat_map(|scope| scope.metrics);
            kept.extend(metrics.flat_map(|metric| measured(&resource, metric)));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn measured(resource: &BTreeMap<String, String>, metric: Metric) -> Vec<Measured> {
    let (kind, points) = match metric.data {
        Some(Data::Gauge(gauge)) => (MeasuredKind::Gauge, numbers(gauge.data_points)),
        Some(Data::Sum(sum)) => (kind_of(&sum), numbers(sum.data_points)),
        Some(Data::Histogram(histogram)) => {
            let points = histogram.data_points.into_iter();
            let points = points.map(|point| (point.attributes, as_f64(point.count.cast_signed())));
            (MeasuredKind::Histogram, points.collect())
        }
        _ => (MeasuredKind::Other, Vec::new()),
    };
    let points = points.into_iter().map(|(attributes, value)| Measured {
        resource: resource.clone(),
        name: metric.name.clone(),
        unit: metric.unit.clone(),
        tags: tags(attributes),
        value,
        kind,
    });
    points.collect()
}

fn kind_of(sum: &Sum) -> MeasuredKind {
    let since_start = sum.aggregation_temporality() == AggregationTemporality::Cumulative;
    if sum.is_monotonic && since_start {
        MeasuredKind::Counter
    } else {
        MeasuredKind::Other
    }
}

fn numbers(points: Vec<NumberDataPoint>) -> Vec<(Vec<KeyValue>, f64)> {
    let points = points.into_iter().map(|point| {
        let value = match point.value {
            Some(Number::AsDouble(value)) => value,
            Some(Number::AsInt(value)) => as_f64(value),
            None => f64::NAN,
        };
        (point.attributes, value)
    });
    points.collect()
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

#[expect(clippy::cast_precision_loss, reason = "no test counts beyond 2^53")]
fn as_f64(value: i64) -> f64 {
    value as f64
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in bytes {
        write!(digits, "{byte:02x}").expect("invariant: a string takes what is written to it");
    }
    digits
}
