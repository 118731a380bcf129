//! What a bench has while it runs: its options, what it has found so far, and somebody to tell what it is doing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::contest::{Contest, Row};
use super::options::BenchOptions;
use super::peers::Peer;
use super::plot::Plot;
use super::report::{Report, Skipped};
use crate::caches::CacheServerError;

const TICK: Duration = Duration::from_millis(200);

/// A bench that is being held.
pub(super) struct Stage<'a> {
    pub(super) options: &'a BenchOptions,
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
    settings: Vec<String>,
    plots: Vec<Plot>,
    bar: ProgressBar,
}

impl<'a> Stage<'a> {
    pub(super) fn new(options: &'a BenchOptions) -> Self {
        let bar = if options.progress {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{spinner} {prefix}: {msg} ({elapsed})");
        bar.set_style(style.expect("invariant: the template is well-formed"));
        bar.set_prefix(options.name.as_str());
        bar.enable_steady_tick(TICK);
        Self {
            options,
            rows: Vec::new(),
            skipped: Vec::new(),
            settings: Vec::new(),
            plots: Vec::new(),
            bar,
        }
    }

    /// Tells what is being done.
    pub(super) fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Of two amounts of work the one that was asked for.
    pub(super) fn amount<T>(&self, full: T, short: T) -> T {
        if self.options.short { short } else { full }
    }

    /// Notes how a process was started. Told at once, too: who waits for a figure can see what is being measured.
    pub(super) fn started(&mut self, settings: impl IntoIterator<Item = String>) {
        for line in settings {
            self.bar.suspend(|| eprintln!("{line}"));
            self.settings.push(line);
        }
    }

    /// A peer's server, if the peer is wanted and installed.
    pub(super) async fn peer<T>(
        &mut self,
        peer: Peer,
        start: impl Future<Output = Result<T, CacheServerError>>,
    ) -> anyhow::Result<Option<T>> {
        if !self.options.wants(peer) {
            return Ok(None);
        }
        self.say(&format!("starting {peer}"));
        match start.await {
            Ok(server) => {
                self.tell_version(peer).await;
                Ok(Some(server))
            }
            Err(CacheServerError::NotInstalled(program)) => {
                self.skip(peer, program);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes which version of a peer's program this is, once.
    pub(super) async fn tell_version(&mut self, peer: Peer) {
        let version = peer.version().await;
        let version = version.filter(|version| !self.settings.contains(version));
        self.started(version);
    }

    /// Notes what is not measured, for want of a program.
    pub(super) fn skip(&mut self, peer: Peer, program: &str) {
        let why = format!("`{program}` is not installed (not found in PATH)");
        if self.skipped.iter().all(|skipped| skipped.peer != peer) {
            self.skipped.push(Skipped { peer, why });
        }
    }

    /// Holds a contest, and keeps what comes of it.
    pub(super) async fn contest(&mut self, what: &str, contest: Contest) -> anyhow::Result<()> {
        let bar = &self.bar;
        let say = |line: &str| bar.set_message(format!("{what}: {line}"));
        let rows = contest.hold(self.options.runs, say).await?;
        self.rows.extend(rows);
        Ok(())
    }

    /// What was found of a figure so far, a row for each peer.
    pub(super) fn found(&self, what: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.what == what)
    }

    /// Keeps a picture, which is written if pictures are wanted.
    pub(super) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Writes the pictures where they are wanted.
    pub(super) fn draw(&self) -> anyhow::Result<()> {
        let plots = self.options.plot.iter().flat_map(|dir| {
            let plots = self.plots.iter();
            plots.map(move |plot| plot.write(dir))
        });
        plots.collect()
    }

    pub(super) fn into_report(self) -> Report {
        self.bar.finish_and_clear();
        Report {
            bench: self.options.name,
            short: self.options.short,
            rows: self.rows,
            skipped: self.skipped,
            settings: self.settings,
        }
    }
}
