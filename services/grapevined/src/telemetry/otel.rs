//! Where telemetry goes: spans and metrics to a collector by OTLP over gRPC, and metrics to whoever scrapes them.
//!
//! The standard `OTEL_*` variables say where and how much. Nothing is sent unless one of them names an endpoint: a sidecar
//! that nobody watches must not look for a collector. A collector that is down, or slow, costs spans, which are counted, and nothing
//! else: so many wait for it at most, and whoever makes a span never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData,
    SpanExporter as Exporter, SpanProcessor,
};
use prometheus::Registry;
use thiserror::Error;
use tracing::{info, warn};

use super::{Counter, Counters};

/// The spans that may wait for the collector, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise.
const SPANS_WAITING_MAX: usize = 2_048;
/// How long the last spans and metrics may take to be sent when a sidecar ends.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Why telemetry could not be set up.
#[derive(Debug, Error)]
pub(crate) enum OtelError {
    /// A variable has a value that is not understood, or not supported.
    #[error("{variable}: {value:?} is not supported: {expected}")]
    Variable {
        /// Which.
        variable: &'static str,
        /// As it was set.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// The exporter could not be made from the variables.
    #[error("OTEL_EXPORTER_OTLP_*: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The endpoint for scrapers could not be made.
    #[error("metrics.listen: {0}")]
    Scraping(String),
}

/// Which signals are sent to a collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    traces: bool,
    metrics: bool,
}

/// What one signal's variables are.
struct Signal {
    exporter: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
}

const TRACES: Signal = Signal {
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
};
const METRICS: Signal = Signal {
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
};
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
/// The samplers that the SDK knows.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
const QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const SPANS: [&str; 2] = [QUEUE, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"];
const COMPRESSIONS: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
];
const MILLISECONDS: [&str; 6] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
];

/// Whether this process's variables are understood.
pub(crate) fn check() -> Result<(), OtelError> {
    Wanted::read(&|variable| std::env::var(variable).ok()).map(|_| ())
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Wanted {
    fn read(environment: Environment<'_>) -> Result<Self, OtelError> {
        let disabled = environment("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(Self::default());
        }
        let wanted = Self {
            traces: TRACES.is_wanted(environment)?,
            metrics: METRICS.is_wanted(environment)?,
        };
        // What the SDK does not understand it takes for its default: a typing error would trace every call.
        if wanted != Self::default() {
            check_sampler(environment)?;
            check_numbers(environment)?;
        }
        Ok(wanted)
    }
}

fn check_sampler(environment: Environment<'_>) -> Result<(), OtelError> {
    let given = |variable| environment(variable).filter(|value| !value.is_empty());
    let Some(sampler) = given(SAMPLER) else {
        return Ok(());
    };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return Err(OtelError::Variable {
            variable: SAMPLER,
            value: sampler,
            expected: "always_on, always_off or traceidratio, or one of these behind parentbased_",
        });
    }
    let ratio = given(SAMPLER_ARG);
    let share = ratio.as_ref().and_then(|it| it.parse().ok());
    let good = share.is_some_and(|share: f64| (0.0..=1.0).contains(&share));
    if sampler.ends_with("traceidratio") && !good {
        return Err(OtelError::Variable {
            variable: SAMPLER_ARG,
            value: ratio.unwrap_or_default(),
            expected: "a number from 0 to 1",
        });
    }
    Ok(())
}

fn check_numbers(environment: Environment<'_>) -> Result<(), OtelError> {
    let given = |variable| environment(variable).filter(|value| !value.is_empty());
    let numbers = |variables: &[&'static str], most: u32, expected| {
        for &variable in variables {
            let good = |number: u32| (1..=most).contains(&number);
            let bad = |value: &String| !value.parse().is_ok_and(good);
            if let Some(value) = given(variable).filter(bad) {
                return Err(OtelError::Variable {
                    variable,
                    value,
                    expected,
                });
            }
        }
        Ok(())
    };
    numbers(
        &SPANS,
        65_536,
        "a whole number from 1 to 65536: there is room for so many spans from the start",
    )?;
    numbers(
        &MILLISECONDS,
        u32::MAX,
        "a whole number of milliseconds above 0",
    )?;
    for variable in COMPRESSIONS {
        if let Some(value) = given(variable).filter(|value| value != "none") {
            return Err(OtelError::Variable {
                variable,
                value,
                expected: "none",
            });
        }
    }
    Ok(())
}

impl Signal {
    fn is_wanted(&self, environment: Environment<'_>) -> Result<bool, OtelError> {
        // By the specification an empty variable is one that is not set.
        let given = |variable| environment(variable).filter(|value| !value.is_empty());
        match given(self.exporter).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(false),
            Some(other) => {
                return Err(OtelError::Variable {
                    variable: self.exporter,
                    value: other.to_owned(),
                    expected: "otlp or none",
                });
            }
        }
        let either = |own: &'static str, common| {
            given(own).map_or((common, given(common)), |it| (own, Some(it)))
        };
        let (variable, Some(endpoint)) = either(self.endpoint, ENDPOINT) else {
            return Ok(false);
        };
        if !endpoint.starts_with("http://") {
            return Err(OtelError::Variable {
                variable,
                value: endpoint,
                expected: "http://HOST:PORT of a collector beside this sidecar, which may go on over TLS",
            });
        }
        match either(self.protocol, PROTOCOL) {
            (variable, Some(value)) if value != "grpc" => Err(OtelError::Variable {
                variable,
                value,
                expected: "grpc",
            }),
            _ => Ok(true),
        }
    }
}

/// What spans and metrics are made with.
#[derive(Debug, Default)]
pub(crate) struct Otel {
    pub(crate) traces: Option<SdkTracerProvider>,
    pub(crate) metrics: Option<SdkMeterProvider>,
    /// What a scraper is answered from.
    pub(crate) registry: Option<Registry>,
}

impl Otel {
    /// As the variables say; `scraped` has metrics kept for scrapers, too. Must be called inside a Tokio runtime.
    pub(crate) fn start(
        node: &str,
        cluster: &str,
        scraped: bool,
        counters: &Arc<Counters>,
    ) -> Result<Self, OtelError> {
        let wanted = Wanted::read(&|variable| std::env::var(variable).ok())?;
        let resource = resource(node, cluster);
        let traces = wanted
            .traces
            .then(|| tracing(resource.clone(), counters))
            .transpose()?;
        let registry = scraped.then(Registry::new);
        let metrics = (wanted.metrics || scraped)
            .then(|| metering(resource, wanted.metrics, registry.as_ref()))
            .transpose()?;
        if wanted != Wanted::default() {
            let Wanted { traces, metrics } = wanted;
            info!(
                traces,
                metrics, "telemetry goes to the collector of OTEL_EXPORTER_OTLP_*"
            );
        }
        Ok(Self {
            traces,
            metrics,
            registry,
        })
    }

    /// Sends what is left, within a bound.
    pub(crate) async fn end(self) {
        let (sender, mut ended) = tokio::sync::mpsc::channel(2);
        let traces = self.traces.map(|provider| {
            let end = move || provider.shutdown_with_timeout(LAST_WORDS_MAX);
            Box::new(end) as Box<dyn FnOnce() -> OTelSdkResult + Send>
        });
        let metrics = self.metrics.map(|provider| {
            let end = move || provider.shutdown_with_timeout(LAST_WORDS_MAX);
            Box::new(end) as Box<dyn FnOnce() -> OTelSdkResult + Send>
        });
        for end in [traces, metrics].into_iter().flatten() {
            let sender = sender.clone();
            // Not the runtime's: that would wait for one that does not keep its bound, and the process ends without it.
            std::thread::spawn(move || sender.blocking_send(end()));
        }
        drop(sender);
        let all = async {
            while let Some(end) = ended.recv().await {
                if let Err(error) = end {
                    warn!(%error, "the last of the telemetry was not sent");
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS_MAX, all).await.is_err() {
            warn!("the collector did not take the last of the telemetry in time");
        }
    }
}

fn resource(node: &str, cluster: &str) -> Resource {
    let own = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "grapevine"),
            KeyValue::new("service.namespace", cluster.to_owned()),
            KeyValue::new("service.instance.id", node.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    // What the variables say counts for more, and the name of whoever says none is not for the SDK to invent.
    let given = Resource::builder_empty()
        .with_detector(Box::new(
            opentelemetry_sdk::resource::EnvResourceDetector::new(),
        ))
        .build();
    let name = std::env::var("OTEL_SERVICE_NAME").ok();
    let name = name.filter(|name| !name.is_empty());
    let pairs = own.iter().chain(given.iter());
    let pairs = pairs.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let name = name.map(|name| KeyValue::new("service.name", name));
    Resource::builder_empty()
        .with_attributes(pairs.chain(name))
        .build()
}

fn tracing(resource: Resource, counters: &Arc<Counters>) -> Result<SdkTracerProvider, OtelError> {
    let waiting = Arc::default();
    let exporter = Counting {
        inner: SpanExporter::builder().with_tonic().build()?,
        waiting: Arc::clone(&waiting),
        counters: counters.clone(),
    };
    let most = std::env::var(QUEUE).ok();
    let most = most.and_then(|most| most.parse().ok());
    let most = most.unwrap_or(SPANS_WAITING_MAX);
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(most)
        .build();
    let processor = Bounded {
        inner: BatchSpanProcessor::builder(exporter)
            .with_batch_config(config)
            .build(),
        waiting,
        most,
        counters: counters.clone(),
    };
    // The sampler is the one that OTEL_TRACES_SAMPLER names: the provider reads it.
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(processor)
        .build())
}

fn metering(
    resource: Resource,
    pushed: bool,
    scraped: Option<&Registry>,
) -> Result<SdkMeterProvider, OtelError> {
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    if pushed {
        let exporter = MetricExporter::builder().with_tonic().build()?;
        builder = builder.with_reader(PeriodicReader::builder(exporter).build());
    }
    if let Some(registry) = scraped {
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| OtelError::Scraping(error.to_string()))?;
        builder = builder.with_reader(reader);
    }
    Ok(builder.build())
}

/// Takes spans while so few wait for the collector; further ones are dropped and counted.
#[derive(Debug)]
struct Bounded<P> {
    inner: P,
    waiting: Arc<AtomicUsize>,
    most: usize,
    counters: Arc<Counters>,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.most {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counters.inc(Counter::SpansDropped);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what the collector took, and what it did not.
#[derive(Debug)]
struct Counting<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

/// A batch on its way. It counts as lost unless it arrives.
struct Batch<'a> {
    spans: usize,
    waiting: &'a AtomicUsize,
    counters: &'a Counters,
    end: Counter,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.spans, Ordering::Relaxed);
        self.counters.add_len(self.end, self.spans);
    }
}

impl<E: Exporter> Exporter for Counting<E> {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let mut batch = Batch {
            spans: spans.len(),
            waiting: &self.waiting,
            counters: &self.counters,
            end: Counter::SpansDropped,
        };
        self.inner.export(spans).await?;
        batch.end = Counter::SpansExported;
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Result<Wanted, String> {
        let read = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Wanted::read(&read).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_named() {
        let both = Wanted {
            traces: true,
            metrics: true,
        };
        let traces = Wanted {
            metrics: false,
            ..both
        };
        assert_eq!(wanted(&[]), Ok(Wanted::default()));
        assert_eq!(wanted(&[(ENDPOINT, "")]), Ok(Wanted::default()));
        assert_eq!(wanted(&[(ENDPOINT, "http://c:4317")]), Ok(both));
        assert_eq!(wanted(&[(TRACES.endpoint, "http://c:4317")]), Ok(traces));
        let none = [(ENDPOINT, "http://c:4317"), (METRICS.exporter, "none")];
        assert_eq!(wanted(&none), Ok(traces));
        let disabled = [(ENDPOINT, "http://c:4317"), ("OTEL_SDK_DISABLED", "true")];
        assert_eq!(wanted(&disabled), Ok(Wanted::default()));
    }

    #[test]
    fn what_is_not_supported_is_told_by_the_variables_name() {
        let refused = |name, value: &'static str| {
            wanted(&[(ENDPOINT, "http://c:4317"), (name, value)]).unwrap_err()
        };
        assert!(refused(TRACES.exporter, "zipkin").starts_with("OTEL_TRACES_EXPORTER: \"zipkin\""));
        let protocol = refused(PROTOCOL, "http/protobuf");
        assert!(
            protocol.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL: \"http/protobuf\""),
            "{protocol}"
        );
        let endpoint = refused(METRICS.endpoint, "https://c:4317");
        assert!(
            endpoint.starts_with("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
            "{endpoint}"
        );
    }

    #[test]
    fn samplers_and_numbers_that_the_sdk_would_take_for_its_defaults_are_refused() {
        let refused = |variables: &[(&str, &str)]| {
            let endpoint = [(ENDPOINT, "http://c:4317")];
            wanted(&[&endpoint, variables].concat()).unwrap_err()
        };
        let sampler = refused(&[(SAMPLER, "ratio")]);
        assert!(
            sampler.starts_with("OTEL_TRACES_SAMPLER: \"ratio\""),
            "{sampler}"
        );
        let by_ratio = (SAMPLER, "parentbased_traceidratio");
        for share in ["1%", "1.5", "-0.1", "nan"] {
            let message = refused(&[by_ratio, (SAMPLER_ARG, share)]);
            let named = format!("OTEL_TRACES_SAMPLER_ARG: \"{share}\"");
            assert!(message.starts_with(&named), "{message}");
        }
        refused(&[by_ratio]);
        refused(&[("OTEL_BSP_SCHEDULE_DELAY", "0")]);
        refused(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]);
        for value in ["0", "-1", "many", "65537"] {
            let message = refused(&[(QUEUE, value)]);
            let named = format!("OTEL_BSP_MAX_QUEUE_SIZE: \"{value}\"");
            assert!(message.starts_with(&named), "{message}");
        }
        let good = [(ENDPOINT, "http://c:4317"), by_ratio, (SAMPLER_ARG, "0.01")];
        wanted(&good).unwrap();
        // Where nothing is sent, nothing of it counts.
        assert_eq!(wanted(&[(SAMPLER, "ratio")]), Ok(Wanted::default()));
    }

    /// A collector that never takes anything.
    #[derive(Debug)]
    struct Dead;

    impl Exporter for Dead {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Err(OTelSdkError::InternalFailure("nobody listens".to_owned()))
        }
    }

    #[test]
    fn a_dead_collector_costs_spans_which_are_counted() {
        let counters = Arc::new(Counters::new());
        let waiting = Arc::<AtomicUsize>::default();
        let exporter = Counting {
            inner: Dead,
            waiting: waiting.clone(),
            counters: counters.clone(),
        };
        // It is asked to export only when it is flushed.
        let config = BatchConfigBuilder::default()
            .with_scheduled_delay(Duration::from_hours(1))
            .with_max_queue_size(1_000)
            .with_max_export_batch_size(1_000)
            .build();
        let processor = Bounded {
            inner: BatchSpanProcessor::builder(exporter)
                .with_batch_config(config)
                .build(),
            waiting: waiting.clone(),
            most: 10,
            counters: counters.clone(),
        };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        for _ in 0..15 {
            drop(tracer.start("span"));
        }
        assert_eq!(waiting.load(Ordering::Relaxed), 10, "no more wait");
        assert_eq!(counters.get(Counter::SpansDropped), 5);
        // Whether that is an error is the processor's to say.
        let _ = provider.force_flush();
        assert_eq!(waiting.load(Ordering::Relaxed), 0, "there is room again");
        assert_eq!(counters.get(Counter::SpansDropped), 15);
        assert_eq!(counters.get(Counter::SpansExported), 0);
    }
}
