//! How long peers take to have this sidecar's bumps on disk, for the histogram of that.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grapevine_core::id::Incarnation;
use grapevine_core::names::NodeId;

use crate::telemetry::metrics::Histograms;

/// Bumps are noted no more often than this: the histogram needs no more, and each costs a record for each peer.
const EVERY: Duration = Duration::from_millis(10);
/// The bumps that are remembered; a peer that is behind by more is told of by other numbers.
const NOTED_MAX: usize = 1_024;

/// The runs of peers that are remembered; with more, all are taken for new.
const PEERS_MAX: usize = 4_096;

/// The names of peers that have a series of their own; what others take goes into one together. Pods that come and go have new names each
/// time, and a histogram forgets none.
const NAMES_MAX: usize = 256;
/// That of all others.
const OTHERS: &str = "_other";

/// The own bumps of late, and how far peers have said to be.
#[derive(Debug)]
pub(super) struct Convergence {
    histograms: Histograms,
    /// By sequence, ascending, and when it was flushed here.
    noted: VecDeque<(u64, Instant)>,
    peers: HashMap<Incarnation, Peer>,
    names: BTreeSet<Arc<str>>,
}

/// A run of a peer.
#[derive(Debug)]
struct Peer {
    name: Arc<str>,
    acknowledged: u64,
}

impl Convergence {
    pub(super) fn new(histograms: Histograms) -> Self {
        Self {
            histograms,
            noted: VecDeque::new(),
            peers: HashMap::new(),
            names: BTreeSet::new(),
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

    /// A peer has said that it has them on disk up to there. One that starts anew says less at first than it has said to have.
    pub(super) fn acknowledged(&mut self, peer: Incarnation, watermark: u64, now: Instant) {
        let Some(peer) = self.peers.get_mut(&peer) else {
            return;
        };
        if watermark <= peer.acknowledged {
            return;
        }
        let new = peer.acknowledged + 1..=watermark;
        peer.acknowledged = watermark;
        for (_, at) in self.noted.iter().filter(|(noted, _)| new.contains(noted)) {
            self.histograms
                .converged(&peer.name, now.duration_since(*at));
        }
    }

    /// A link to a run of a peer stands. What was bumped before the first of them is old: it may be a newcomer. What is bumped while it is
    /// away counts.
    pub(super) fn linked(&mut self, run: Incarnation, node: &NodeId, head: u64) {
        if !self.histograms.are_on() || self.peers.contains_key(&run) {
            return;
        }
        if self.peers.len() >= PEERS_MAX {
            self.peers.clear();
        }
        let name = self.names.get(node.as_str()).cloned();
        let name = name.unwrap_or_else(|| {
            let room = self.names.len() < NAMES_MAX;
            let name = Arc::from(if room { node.as_str() } else { OTHERS });
            self.names.insert(Arc::clone(&name));
            name
        });
        let acknowledged = head;
        self.peers.insert(run, Peer { name, acknowledged });
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
        let node = NodeId::parse("b").unwrap();
        // It was bumped before the peer came, which starts with nothing.
        convergence.flushed(1, at(0));
        convergence.linked(peer, &node, 1);
        convergence.acknowledged(peer, 0, at(400));
        convergence.acknowledged(peer, 1, at(500));
        convergence.flushed(2, at(1_000));
        // Too soon after the one before it to be noted.
        convergence.flushed(3, at(1_005));
        convergence.flushed(4, at(1_100));
        convergence.acknowledged(peer, 3, at(1_250));
        convergence.acknowledged(peer, 4, at(1_350));
        convergence.acknowledged(peer, 4, at(9_000));
        let (count, sum) = recorded(&provider, &exporter);
        assert_eq!(count, 2);
        assert!((sum - 0.5).abs() < 1e-9, "{sum} s");
    }

    #[test]
    fn g10_names_of_peers_are_bounded_and_so_are_their_runs() {
        let provider = SdkMeterProvider::builder().build();
        let mut convergence = Convergence::new(Histograms::new(Some(&provider)));
        for number in 1..=2 * PEERS_MAX as u128 {
            let run = Incarnation::new(number).unwrap();
            let node = NodeId::parse(&format!("pod-{number}")).unwrap();
            convergence.linked(run, &node, 0);
        }
        assert!(convergence.peers.len() <= PEERS_MAX);
        assert_eq!(
            convergence.names.len(),
            NAMES_MAX + 1,
            "and that of all others"
        );
    }
}
