//! Metrics, as OpenTelemetry has them: one instrument for each number of [`Reader`], and the histograms that are recorded as
//! things happen.
//!
//! Scrapers see them under Prometheus' names: `grapevine.resolves` is `grapevine_resolves_total` there, and a size in bytes ends in
//! `_bytes`.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::readings::{Kind, Reader};

/// The bounds of calls' durations in seconds. A look-up takes tens of microseconds, a receipt may take seconds.
const CALL_BOUNDS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
    5.0,
];
/// The bounds of convergence in seconds.
const CONVERGENCE_BOUNDS: [f64; 12] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 5.0,
];

/// What is recorded as it happens. Without a provider nothing is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histograms(Option<Arc<Recorded>>);

#[derive(Debug)]
struct Recorded {
    calls: Histogram<f64>,
    convergence: Histogram<f64>,
}

impl Histograms {
    pub(crate) fn new(provider: Option<&SdkMeterProvider>) -> Self {
        Self(provider.map(|provider| {
            let meter = provider.meter("grapevine");
            Arc::new(Recorded {
                calls: meter
                    .f64_histogram("rpc.server.call.duration")
                    .with_description("How long calls of applications and operators took.")
                    .with_unit("s")
                    .with_boundaries(CALL_BOUNDS.into())
                    .build(),
                convergence: meter
                    .f64_histogram("grapevine.convergence")
                    .with_description(
                        "From the flush of a bump of this sidecar to the peer's word that it has it on disk; of a hundred bumps a second at most.",
                    )
                    .with_unit("s")
                    .with_boundaries(CONVERGENCE_BOUNDS.into())
                    .build(),
            })
        }))
    }

    /// Whether anything is recorded.
    pub(crate) fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// A call has ended.
    pub(crate) fn call(&self, took: Duration, attributes: &[KeyValue]) {
        if let Some(recorded) = &self.0 {
            recorded.calls.record(took.as_secs_f64(), attributes);
        }
    }

    /// A peer has a bump on disk that was flushed here so long ago.
    pub(crate) fn converged(&self, peer: &str, took: Duration) {
        if let Some(recorded) = &self.0 {
            let peer = KeyValue::new("peer", peer.to_owned());
            recorded.convergence.record(took.as_secs_f64(), &[peer]);
        }
    }
}

/// Has the provider ask for every number when it collects.
pub(crate) fn observe(provider: &SdkMeterProvider, reader: Reader) {
    let meter = provider.meter("grapevine");
    let reader = Arc::new(reader);
    let readings = reader.read();
    for (place, reading) in readings.iter().enumerate() {
        let name = format!("grapevine.{}", reading.name);
        let of_this = (reader.clone(), place);
        match reading.kind {
            Kind::Counter => counter(&meter, name, reading.doc, of_this),
            Kind::Gauge => gauge(&meter, name, (reading.doc, reading.unit), of_this),
        }
    }
}

fn counter(meter: &Meter, name: String, doc: &'static str, (reader, place): (Arc<Reader>, usize)) {
    meter
        .f64_observable_counter(name)
        .with_description(doc)
        .with_callback(move |observer| {
            for (value, label) in samples(&reader, place) {
                observer.observe(value, &label);
            }
        })
        .build();
}

fn gauge(
    meter: &Meter,
    name: String,
    (doc, unit): (&'static str, &'static str),
    (reader, place): (Arc<Reader>, usize),
) {
    meter
        .f64_observable_gauge(name)
        .with_description(doc)
        .with_unit(unit)
        .with_callback(move |observer| {
            for (value, label) in samples(&reader, place) {
                observer.observe(value, &label);
            }
        })
        .build();
}

fn samples(reader: &Reader, place: usize) -> Vec<(f64, Vec<KeyValue>)> {
    let readings = reader.read();
    let samples = readings
        .get(place)
        .into_iter()
        .flat_map(|reading| &reading.samples);
    let samples = samples.map(|(label, value)| {
        let label = label
            .iter()
            .map(|(name, value)| KeyValue::new(*name, value.clone()));
        (*value, label.collect())
    });
    samples.collect()
}
