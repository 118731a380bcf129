//! How long peers take to have this sidecar's bumps on disk, for the histogram of that.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use grapevine_core::id::Incarnation;

use crate::telemetry::metrics::Histograms;

/// Bumps are noted no more often than this: the histogram needs no more, and each costs a record for each peer.
const EVERY: Duration = Duration::from_millis(10);
/// The bumps that are remembered; a peer that is behind by more is told of by other numbers.
const NOTED_MAX: usize = 1_024;

/// The runs of peers that are remembered; with more, all are taken for new.
const PEERS_MAX: usize = 4_096;

/// The own bumps of late, and how far peers have said to be.
#[derive(Debug)]
pub(super) struct Convergence {
    histograms: Histograms,
    /// By sequence, ascending, and when it was flushed here.
    noted: VecDeque<(u64, Instant)>,
    acknowledged: HashMap<Incarnation, u64>,
}

impl Convergence {
    pub(super) fn new(histograms: Histograms) -> Self {
        Self {
            histograms,
            noted: VecDeque::new(),
            acknowledged: HashMap::new(),
        }
    }

    /// The own bumps are flushed up to there.
    pub(super) fn flushed(&mut self, head: u64, now: Instant) {
        let last = self.noted.back();
        let soon = last.is_some_and(|(_, at)| now.duration_since(*at) < EVERY);
        if !self.histograms.are_on() || soon || last.is_some_and(|(noted, _)| *noted >= head) {
            return;
        }
        if self.noted.len() >= NOTED_MAX {
            self.noted.pop_front();
        }
        self.noted.push_back((head, now));
    }

    /// A peer has said that it has them on disk up to there.
    pub(super) fn acknowledged(
        &mut self,
        peer: Incarnation,
        watermark: u64,
        now: Instant,
        name: impl FnOnce() -> Option<String>,
    ) {
        let Some(before) = self.acknowledged.insert(peer, watermark) else {
            return;
        };
        let new = |(noted, _): &&(u64, Instant)| (before + 1..=watermark).contains(noted);
        let mut new = self.noted.iter().filter(new).peekable();
        if new.peek().is_none() {
            return;
        }
        if let Some(name) = name() {
            for (_, at) in new {
                self.histograms.converged(&name, now.duration_since(*at));
            }
        }
    }

    /// A link to a peer stands. What was bumped before the first of them is old: the peer may be a newcomer. What is bumped while it is away
    /// counts.
    pub(super) fn linked(&mut self, peer: Incarnation, head: u64) {
        if self.acknowledged.len() >= PEERS_MAX {
            self.acknowledged.clear();
        }
        self.acknowledged.entry(peer).or_insert(head);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ScopeMetrics};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

    use super::*;

    /// How often, and what in all, convergence was recorded.
    fn recorded(provider: &SdkMeterProvider, exporter: &InMemoryMetricExporter) -> (u64, f64) {
        provider.force_flush().unwrap();
        let collected = exporter.get_finished_metrics().unwrap();
        let last = collected.last().unwrap();
        let metrics = last.scope_metrics().flat_map(ScopeMetrics::metrics);
        for metric in metrics {
            if let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = metric.data() {
                let points = histogram.data_points();
                return points.fold((0, 0.0), |(count, sum), point| {
                    (count + point.count(), sum + point.sum())
                });
            }
        }
        (0, 0.0)
    }

    #[test]
    fn what_is_flushed_and_acknowledged_later_is_recorded_once() {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone())
            .with_interval(Duration::from_hours(1))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let mut convergence = Convergence::new(Histograms::new(Some(&provider)));
        let peer = Incarnation::new(7).unwrap();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let name = || Some("b".to_owned());
        // It was bumped before the peer came.
        convergence.flushed(1, at(0));
        convergence.linked(peer, 1);
        convergence.acknowledged(peer, 1, at(500), name);
        convergence.flushed(2, at(1_000));
        // Too soon after the one before it to be noted.
        convergence.flushed(3, at(1_005));
        convergence.flushed(4, at(1_100));
        convergence.acknowledged(peer, 3, at(1_250), name);
        convergence.acknowledged(peer, 4, at(1_350), name);
        convergence.acknowledged(peer, 4, at(9_000), name);
        let (count, sum) = recorded(&provider, &exporter);
        assert_eq!(count, 2);
        assert!((sum - 0.5).abs() < 1e-9, "{sum} s");
    }
}
