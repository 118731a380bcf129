//! The bar on standard error. Its length is the trace's compressed bytes, the only total known beforehand, or the records of
//! a limited run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::ReplayOptions;
use super::workers::Live;
use crate::trace::TraceProgress;

const TICK: Duration = Duration::from_millis(200);

/// A bar, or silence.
pub(crate) struct Progress {
    bar: ProgressBar,
    trace: TraceProgress,
    limit: Option<u64>,
    live: Arc<Live>,
    ticker: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Progress {
    pub(crate) fn new(options: &ReplayOptions, trace: TraceProgress) -> Self {
        let bar = if options.progress {
            ProgressBar::new(options.limit.unwrap_or(trace.total_bytes()))
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{prefix:>12} {bar:24} {percent:>3} %  {msg}");
        bar.set_style(style.expect("invariant: the template is well-formed"));
        bar.set_prefix(options.strategy.to_string());
        Self {
            bar,
            trace,
            limit: options.limit,
            live: Arc::default(),
            ticker: parking_lot::Mutex::new(None),
        }
    }

    /// What the workers count into.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Tells what is being done before and after the operations.
    pub(crate) fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Begins to show the workers' counts.
    pub(crate) fn begin(&self) {
        let (bar, live) = (self.bar.clone(), Arc::clone(&self.live));
        let (trace, limit, begun) = (self.trace.clone(), self.limit, Instant::now());
        let tick = async move {
            let mut interval = tokio::time::interval(TICK);
            loop {
                interval.tick().await;
                let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
                let (reads, writes) = (load(&live.reads), load(&live.writes));
                bar.set_position(limit.map_or_else(|| trace.read_bytes(), |_| reads + writes));
                bar.set_message(format!(
                    "{reads} reads, {} hits, {writes} writes, {} stale, {}/s",
                    load(&live.hits),
                    load(&live.stale),
                    u128::from(reads + writes) * 1_000 / begun.elapsed().as_millis().max(1),
                ));
            }
        };
        *self.ticker.lock() = Some(tokio::spawn(tick));
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        if let Some(ticker) = self.ticker.lock().take() {
            ticker.abort();
        }
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
