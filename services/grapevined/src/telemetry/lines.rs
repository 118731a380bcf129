//! Log lines on their way to a reader that may not read.
//!
//! Standard error is often a pipe, and who reads it may stop: a write to it then waits for ever, and with it whatever
//! logged, the event loop and peers' links included. So lines go through a bounded queue to a thread that may wait, and what
//! finds no room is dropped and counted (`log_lines_dropped`); a line says how many, once there is room again. A process that
//! ends waits at most [`FLUSH_MAX`] for what is queued. `tracing-appender` has such a thread, without a bound in bytes or a word
//! of what is lost, and brings seven crates for files that roll.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// Lines that wait; beyond, they are dropped.
const LINES_MAX: usize = 4_096;
/// Their bytes together; beyond, lines are dropped.
const BYTES_MAX: usize = 1 << 20;
/// How long the end of a process waits for a reader.
const FLUSH_MAX: Duration = Duration::from_secs(1);
const FLUSH_RETRY: Duration = Duration::from_millis(5);

/// Of all writers of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped since the process started.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

enum Message {
    Line(Vec<u8>),
    /// All before it is written: say so.
    Flush(SyncSender<()>),
}

/// Takes lines and never waits.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    bytes: Arc<AtomicUsize>,
    /// Of this writer alone.
    dropped: Arc<AtomicU64>,
}

/// Writes out what is queued when it is dropped.
pub struct LogGuard(SyncSender<Message>);

/// Starts the thread that writes to `out`.
pub(super) fn spawn(
    out: impl Write + Send + 'static,
    format: LogFormat,
) -> io::Result<(Lines, LogGuard)> {
    let (queue, waiting) = sync_channel(LINES_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    let queued = Arc::clone(&bytes);
    let dropped = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&dropped);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_out(&waiting, &queued, &lost, (out, format)))?;
    let guard = LogGuard(queue.clone());
    let lines = Lines {
        queue,
        bytes,
        dropped,
    };
    Ok((lines, guard))
}

fn write_out(
    waiting: &Receiver<Message>,
    queued: &AtomicUsize,
    lost: &AtomicU64,
    (mut out, format): (impl Write, LogFormat),
) {
    let mut told = 0;
    // What cannot be written is lost: there is nowhere to say so.
    while let Ok(message) = waiting.recv() {
        match message {
            Message::Line(line) => {
                let _ = out.write_all(&line);
                queued.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
        }
        let now = lost.load(Ordering::Relaxed);
        if now > told {
            let lines = now - told;
            let text = format!("{lines} log lines were dropped here: nobody read them in time");
            let _ = match format {
                LogFormat::Text => writeln!(out, "{text}"),
                LogFormat::Json => writeln!(out, r#"{{"level":"WARN","message":"{text}"}}"#),
            };
            told = now;
        }
    }
}

impl Write for Lines {
    /// Takes a whole line at a time, as the formatter hands them over.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let room = before + line.len() <= BYTES_MAX;
        if !room || self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_MAX;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(again)) = self.0.try_send(message) {
            if Instant::now() > deadline {
                return;
            }
            message = again;
            thread::sleep(FLUSH_RETRY);
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Whether it is open, and what was read.
    type Read = Mutex<(bool, Vec<u8>)>;

    /// A pipe that is read only once it is opened.
    #[derive(Clone, Default)]
    struct Pipe(Arc<(Read, Condvar)>);

    impl Pipe {
        fn open(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }

        fn read(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |state| !state.0).unwrap();
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn g10_a_reader_that_does_not_read_holds_nobody_up_and_what_is_dropped_is_told() {
        let pipe = Pipe::default();
        let (mut lines, guard) = spawn(pipe.clone(), LogFormat::Text).unwrap();
        for number in 0..10_000 {
            lines
                .write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let lost = lines.dropped.load(Ordering::Relaxed);
        assert!(dropped() >= lost, "the counter has them");
        // One may be in the thread's hands.
        let kept = 10_000 - usize::try_from(lost).unwrap();
        assert!((LINES_MAX..=LINES_MAX + 1).contains(&kept), "{kept}");
        let begun = Instant::now();
        drop(guard);
        assert!(begun.elapsed() < 10 * FLUSH_MAX, "the end waits for nobody");
        pipe.open();
        let deadline = Instant::now() + Duration::from_secs(30);
        // Which ones were kept hangs on when the thread took the first.
        let written = |text: &str| {
            text.lines()
                .filter(|line| line.starts_with("line "))
                .count()
        };
        while !(written(&pipe.read()) == kept && pipe.read().contains("lines were dropped here")) {
            assert!(Instant::now() < deadline, "{}", pipe.read().len());
            thread::sleep(FLUSH_RETRY);
        }
    }

    #[test]
    fn g10_what_waits_is_bounded_in_bytes_and_room_comes_back() {
        let pipe = Pipe::default();
        let (mut lines, guard) = spawn(pipe.clone(), LogFormat::Json).unwrap();
        let long = vec![b'x'; BYTES_MAX / 4];
        for _ in 0..100 {
            lines.write_all(&long).unwrap();
        }
        assert!(lines.bytes.load(Ordering::Relaxed) <= BYTES_MAX);
        pipe.open();
        drop(guard);
        assert_eq!(lines.bytes.load(Ordering::Relaxed), 0);
        assert!(pipe.read().len() <= BYTES_MAX + 200);
    }

    #[test]
    fn what_was_logged_last_is_written_before_the_end() {
        let pipe = Pipe::default();
        pipe.open();
        let (mut lines, guard) = spawn(pipe.clone(), LogFormat::Json).unwrap();
        for number in 0..500 {
            lines
                .write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        drop(guard);
        assert!(pipe.read().ends_with("line 499\n"));
    }
}
