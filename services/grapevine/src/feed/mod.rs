//! `grapevine invalidate --from`: a feed of changes becomes invalidations.
//!
//! A thread reads lines ([`reader`]) and hands them on through a bounded queue: when sidecars are slow, the feed waits. What
//! is there is put into batches of lines that may share a call ([`batch`]); what is not there yet is not waited for, but in a
//! file, where the thread only has to come to it. A few calls are under way at a time, and their answers are taken in the
//! order of the feed: the position ([`position`]) moves over a line only when everything up to it is acknowledged. So a run
//! that ends anywhere is resumed without a gap; at worst a few lines are sent again, which does no harm. Where ids are numbers that several lines share, those of the last id are sent
//! again, for it does not tell how many of them were acknowledged.
//!
//! Calls that no sidecar answers are tried again for `retry_for`, with growing pauses. A call that a sidecar refuses is taken
//! apart and sent line by line, so that the line at fault is named.

mod batch;
mod line;
mod position;
mod reader;
mod send;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures::stream::{FuturesOrdered, StreamExt as _};
use grapevine_client::Client;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::exit::Failure;
use crate::format;
use crate::invalidation::How;
use crate::output::Output;
use batch::{Batch, Batcher};
use position::{Id, Mark, PositionFile};
use reader::{Heard, Reading};
use send::{Sender, Sent};

/// Lines that were read and wait for a call; then the reader waits. A line has at most 1 MiB.
const QUEUE_LINES: usize = 256;
/// Calls under way. More of them would not help: a sidecar flushes what arrived together at once.
const CALLS: usize = 4;
/// How often a busy run notes its position; an idle one does it at once.
const SAVE_INTERVAL: Duration = Duration::from_millis(200);

/// What a line that cannot be read leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadLine {
    /// The run ends before it
    Stop,
    /// It is told on standard error, and the next line is taken
    Skip,
}

/// What to do with which feed.
pub(crate) struct Options {
    pub(crate) from: PathBuf,
    pub(crate) position: Option<PathBuf>,
    pub(crate) on_bad_line: OnBadLine,
    pub(crate) batch_classes_max: usize,
    pub(crate) retry_for: Duration,
    /// For lines that do not say it themselves.
    pub(crate) how: How,
    pub(crate) json: bool,
}

/// What a run did, for scripts. Names are stable.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Lines taken, empty and bad ones included; not those skipped as acknowledged earlier.
    lines: u64,
    /// Lines whose invalidation was acknowledged.
    invalidated: u64,
    /// Lines that an earlier run had acknowledged.
    resumed_behind: u64,
    /// Lines that could not be read, or were refused, and were skipped.
    bad: u64,
    /// Calls to a sidecar.
    calls: u64,
    /// Known addresses deleted or marked stale.
    addresses_purged: u64,
    /// Deletes that failed and are being tried again.
    addresses_pending: u64,
    /// Calls whose receipt was not reached in time.
    receipts_missed: u64,
    /// The `id` of the last acknowledged line that had one.
    id: Option<Id>,
    elapsed_s: f64,
}

impl Summary {
    /// For the line that shows progress.
    fn so_far(&self) -> String {
        format!(
            "{} in {}, {} purged",
            format::count(self.lines, "line", "lines"),
            format::count(self.calls, "call", "calls"),
            format::count(self.addresses_purged, "address", "addresses"),
        )
    }
}

/// Sends a whole feed.
pub(crate) async fn run(client: Client, options: Options) -> Result<(), Failure> {
    let position = options
        .position
        .as_deref()
        .map(PositionFile::open)
        .transpose()?;
    let resume = position
        .as_ref()
        .map(|file| file.mark().clone())
        .unwrap_or_default();
    let source = reader::open(&options.from)?;
    let is_file = source.bytes.is_some();
    let progress = progress_bar(source.bytes);
    let reading = Reading {
        client: client.clone(),
        how: options.how,
        resume: resume.clone(),
    };
    let (lines, heard) = mpsc::channel(QUEUE_LINES);
    reader::spawn(source, reading, lines)?;
    let mut run = Run {
        client,
        batcher: Batcher::new(options.batch_classes_max),
        summary: Summary {
            id: resume.id,
            ..Summary::default()
        },
        saved_at: Instant::now(),
        unsaved: None,
        position,
        progress,
        is_file,
        options,
    };
    let started = Instant::now();
    let result = tokio::select! {
        result = run.feed(heard) => result,
        signal = stop_signal() => { signal?; Err(Failure::Stopped) }
    };
    // Whatever ended it: what is acknowledged is noted, and told.
    let saved = run.save(true);
    run.progress.finish_and_clear();
    run.summary.elapsed_s = (started.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0;
    let told = tell(&run.summary, run.options.json);
    result.and(saved).and(told)?;
    match run.summary.receipts_missed {
        0 => Ok(()),
        missed => Err(Failure::NotReached(format!(
            "{} not reached in time; the invalidations are durable and spread all the same",
            format::count(missed, "receipt", "receipts")
        ))),
    }
}

/// A run under way.
struct Run {
    client: Client,
    options: Options,
    batcher: Batcher,
    position: Option<PositionFile>,
    /// Acknowledged, but not yet noted in the file.
    unsaved: Option<Mark>,
    saved_at: Instant,
    summary: Summary,
    progress: ProgressBar,
    /// The feed is a file: its next line comes at once, or never.
    is_file: bool,
}

impl Run {
    async fn feed(&mut self, mut heard: mpsc::Receiver<Heard>) -> Result<(), Failure> {
        let sender = Sender {
            client: self.client.clone(),
            retry_for: self.options.retry_for,
            on_bad_line: self.options.on_bad_line,
        };
        let mut calls = FuturesOrdered::new();
        let mut batches: VecDeque<Batch> = VecDeque::new();
        // Why no more lines are taken: the feed's end, or what is wrong with it.
        let mut end: Option<Result<(), Failure>> = None;
        let mut arrived = Vec::with_capacity(QUEUE_LINES);
        loop {
            while calls.len() < CALLS
                && let Some(batch) = batches.pop_front()
            {
                calls.push_back(sender.clone().send(batch));
            }
            if calls.is_empty() {
                if let Some(end) = end {
                    return end;
                }
                // Nothing to do until the feed brings more, which may take long.
                self.save(true)?;
            }
            tokio::select! {
                Some(sent) = calls.next(), if !calls.is_empty() => self.took(sent)?,
                count = heard.recv_many(&mut arrived, QUEUE_LINES), if end.is_none() && batches.is_empty() => {
                    if count == 0 {
                        end = Some(Ok(()));
                    }
                    while self.is_file && arrived.len() < QUEUE_LINES {
                        let room = QUEUE_LINES - arrived.len();
                        if heard.recv_many(&mut arrived, room).await == 0 {
                            break;
                        }
                    }
                    for line in arrived.drain(..) {
                        if let Err(failure) = self.hear(line) {
                            end = Some(Err(failure));
                            break;
                        }
                    }
                    batches.extend(self.batcher.take());
                }
            }
        }
    }

    /// Takes what the reader says into the batches; an error ends the feed after the lines before it.
    fn hear(&mut self, heard: Heard) -> Result<(), Failure> {
        match heard {
            Heard::Line(line) => self.batcher.add(line),
            Heard::Nothing(mark) => self.batcher.pass(mark),
            Heard::Resumed { lines } => self.summary.resumed_behind = lines,
            Heard::Bad { mark, problem } => {
                let text = format!("line {}: {problem}", mark.lines_read);
                if self.options.on_bad_line == OnBadLine::Stop {
                    return Err(Failure::Usage(text));
                }
                self.warn(&text);
                self.summary.bad += 1;
                self.batcher.pass(mark);
            }
            Heard::Failed(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Takes the outcome of the oldest call.
    fn took(&mut self, sent: Sent) -> Result<(), Failure> {
        let Sent {
            mark,
            taken,
            invalidated,
            calls,
            outcomes,
            bad,
            failure,
        } = sent;
        self.summary.calls += calls;
        for outcome in outcomes {
            self.summary.addresses_purged += outcome.addresses_purged;
            self.summary.addresses_pending += outcome.addresses_pending;
            self.summary.receipts_missed += u64::from(!outcome.receipt.satisfied);
        }
        self.summary.invalidated += invalidated;
        self.summary.bad += bad.len() as u64;
        for text in bad {
            self.warn(&text);
        }
        if let Some(mark) = mark {
            self.summary.lines += taken;
            self.summary.id.clone_from(&mark.id);
            self.progress.set_position(mark.bytes_read);
            self.progress.set_message(self.summary.so_far());
            self.unsaved = Some(mark);
            self.save(false)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Notes what is acknowledged: now, or only if the last time is long enough ago.
    fn save(&mut self, now: bool) -> Result<(), Failure> {
        if !now && self.saved_at.elapsed() < SAVE_INTERVAL {
            return Ok(());
        }
        if let (Some(file), Some(mark)) = (&mut self.position, self.unsaved.take()) {
            file.save(mark)?;
            self.saved_at = Instant::now();
        }
        Ok(())
    }

    fn warn(&self, text: &str) {
        // Beside the bar, not through it.
        self.progress.suspend(|| eprintln!("warning: {text}"));
    }
}

/// On a terminal's standard error only; indicatif hides it elsewhere.
fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            // Without a guess at what is left: it is 0 s until the first answer, and wrong while calls are tried again.
            "{bar:30} {bytes} of {total_bytes}, {msg}, {elapsed}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} read, {msg}, {elapsed}",
        ),
    };
    let style =
        ProgressStyle::with_template(template).expect("invariant: a template without unknown keys");
    bar.set_style(style);
    bar.set_message(Summary::default().so_far());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn tell(summary: &Summary, json: bool) -> Result<(), Failure> {
    let mut out = Output::stdout();
    if json {
        out.json(summary)?;
        return out.flush();
    }
    let mut text = format!(
        "{} invalidated in {}, {} purged, {:.1} s",
        format::count(summary.invalidated, "line", "lines"),
        format::count(summary.calls, "call", "calls"),
        format::count(summary.addresses_purged, "known address", "known addresses"),
        summary.elapsed_s,
    );
    if summary.resumed_behind > 0 {
        let lines = format::count(summary.resumed_behind, "line", "lines");
        text = format!("{text}\n{lines} had been acknowledged earlier");
    }
    if summary.bad > 0 {
        text = format!(
            "{text}\n{} skipped",
            format::count(summary.bad, "bad line", "bad lines")
        );
    }
    if summary.addresses_pending > 0 {
        text = format!(
            "{text}\n{} being tried again",
            format::count(summary.addresses_pending, "delete is", "deletes are")
        );
    }
    out.line(&text)?;
    out.flush()
}

/// Waits for Ctrl-C or SIGTERM.
async fn stop_signal() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Failure::Failed(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}

/// How a feed is named in messages.
fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_whole_words_from_the_start() {
        let mut summary = Summary::default();
        assert_eq!(summary.so_far(), "0 lines in 0 calls, 0 addresses purged");
        (summary.lines, summary.calls, summary.addresses_purged) = (1, 1, 1);
        assert_eq!(summary.so_far(), "1 line in 1 call, 1 address purged");
    }
}
