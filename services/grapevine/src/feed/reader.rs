//! Reads a feed on a thread of its own: standard input cannot be read without blocking.
//!
//! Lines end with a line feed; the last one may lack it. A line is at most [`LINE_BYTES_MAX`] long: a longer one is passed
//! over, without keeping it, and told as bad. The thread ends with the feed, or when nobody takes its lines any more; a
//! process that ends does not wait for it.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::thread;

use grapevine_client::Client;
use tokio::sync::mpsc;

use super::line::{self, Line};
use super::position::{Id, Mark};
use crate::exit::Failure;
use crate::invalidation::How;

/// The longest line; 1,000 classes of the greatest length are far below.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A feed that was opened.
pub(super) struct Source {
    name: String,
    input: Box<dyn BufRead + Send>,
    /// Its length, if it is a file.
    pub(super) bytes: Option<u64>,
}

/// What the thread needs to know.
pub(super) struct Reading {
    pub(super) client: Client,
    pub(super) how: How,
    pub(super) resume: Mark,
}

/// What the thread says, in the order of the feed.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line to be sent.
    Line(Line),
    /// A line with nothing to send: it is empty.
    Nothing(Mark),
    /// So many lines until here were acknowledged by an earlier run.
    Resumed { lines: u64 },
    /// A line that cannot be read.
    Bad { mark: Mark, problem: String },
    /// The feed cannot go on.
    Failed(Failure),
}

/// Opens a file, or standard input for `-`.
pub(super) fn open(path: &Path) -> Result<Source, Failure> {
    let name = super::name(path);
    if path == Path::new("-") {
        let input = Box::new(BufReader::new(io::stdin()));
        return Ok(Source {
            name,
            input,
            bytes: None,
        });
    }
    let failed = |error: io::Error| Failure::Usage(format!("--from {name}: {error}"));
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    // A named pipe has no length.
    let bytes = about.is_file().then_some(about.len());
    let input = Box::new(BufReader::with_capacity(1 << 16, file));
    Ok(Source { name, input, bytes })
}

/// Starts the thread. When the queue is full it waits; when it is closed it ends.
pub(super) fn spawn(
    source: Source,
    reading: Reading,
    lines: mpsc::Sender<Heard>,
) -> Result<(), Failure> {
    // The limits that lines are checked against need a client, and a client needs its runtime.
    let runtime = tokio::runtime::Handle::current();
    let read = move || {
        let _inside = runtime.enter();
        let mut reader = Reader::new(source.input, reading);
        loop {
            let heard = match reader.next() {
                Ok(Some(heard)) => heard,
                Ok(None) => return,
                Err(error) => Heard::Failed(Failure::Failed(format!(
                    "cannot read {}: {error}",
                    source.name
                ))),
            };
            let last = matches!(heard, Heard::Failed(_));
            if lines.blocking_send(heard).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("feed".to_owned())
        .spawn(read)
        .map(drop)
        .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))
}

/// Which lines an earlier run has acknowledged.
#[derive(Debug)]
enum Skip {
    /// None that this feed will bring.
    Nothing,
    /// As many as this mark says; they must have its digest.
    Lines(Mark),
    /// Those with an id below this one. Lines that share an id are one transaction's, and an earlier run may have ended
    /// between them: those of the last id are sent again, which does no harm.
    Ids { last: i64, skipped: u64 },
}

impl Skip {
    fn until(mark: &Mark) -> Self {
        match &mark.id {
            Some(Id::Number(last)) => Self::Ids {
                last: *last,
                skipped: 0,
            },
            // The feed goes on behind the id by itself: what it brings was not acknowledged.
            Some(Id::Text(_)) => Self::Nothing,
            None if mark.lines_read == 0 => Self::Nothing,
            None => Self::Lines(mark.clone()),
        }
    }
}

struct Reader<R> {
    input: R,
    reading: Reading,
    skip: Skip,
    /// Behind the last line that was read.
    at: Mark,
    last_id: Option<i64>,
    /// What comes after something that had to be said first.
    held: Option<Heard>,
}

impl<R: BufRead> Reader<R> {
    fn new(input: R, reading: Reading) -> Self {
        Self {
            input,
            skip: Skip::until(&reading.resume),
            // The id stays what it is until a later one is acknowledged.
            at: Mark {
                id: reading.resume.id.clone(),
                ..Mark::default()
            },
            last_id: None,
            held: None,
            reading,
        }
    }

    /// What to say next; nothing at the end.
    fn next(&mut self) -> io::Result<Option<Heard>> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        if let Skip::Lines(resume) = &self.skip {
            let resume = resume.clone();
            self.skip = Skip::Nothing;
            return self.skip_lines(&resume).map(Some);
        }
        loop {
            let Some(text) = self.read_line()? else {
                return Ok(self.end_of_skipped());
            };
            let heard = match text {
                Ok(text) if text.trim_ascii().is_empty() => Heard::Nothing(self.at.clone()),
                Ok(text) => match self.judge(&text) {
                    Some(heard) => heard,
                    None => continue,
                },
                Err(problem) => Heard::Bad {
                    mark: self.at.clone(),
                    problem,
                },
            };
            if matches!(self.skip, Skip::Nothing) {
                return Ok(Some(heard));
            }
            let beyond = match (&self.skip, self.last_id) {
                (Skip::Ids { last, .. }, Some(id)) => id >= *last,
                _ => false,
            };
            if !beyond {
                return Ok(Some(heard));
            }
            // The first line that may not be acknowledged: ids do not decrease, so nothing after it is skipped.
            let Some(resumed) = self.end_of_skipped() else {
                return Ok(Some(heard));
            };
            self.held = Some(heard);
            return Ok(Some(resumed));
        }
    }

    /// What becomes of a line that is not empty; nothing if an earlier run has acknowledged it.
    fn judge(&mut self, text: &[u8]) -> Option<Heard> {
        let line::Parsed { classes, how, id } =
            match line::parse(text, &self.reading.client, self.reading.how) {
                Ok(parsed) => parsed,
                Err(problem) => {
                    return Some(Heard::Bad {
                        mark: self.at.clone(),
                        problem,
                    });
                }
            };
        if let Some(Id::Number(id)) = id {
            if let Some(last) = self.last_id.filter(|last| id < *last) {
                return Some(Heard::Failed(Failure::Usage(format!(
                    "line {}: id {id} comes after id {last}; ids must not decrease, or a later run would skip lines",
                    self.at.lines_read
                ))));
            }
            self.last_id = Some(id);
            if let Skip::Ids { last, skipped } = &mut self.skip
                && id < *last
            {
                *skipped += 1;
                return None;
            }
        }
        if id.is_some() {
            self.at.id = id;
        }
        Some(Heard::Line(Line {
            classes,
            how,
            mark: self.at.clone(),
        }))
    }

    /// Says once how many lines were skipped by their ids.
    fn end_of_skipped(&mut self) -> Option<Heard> {
        match std::mem::replace(&mut self.skip, Skip::Nothing) {
            Skip::Ids { skipped, .. } if skipped > 0 => Some(Heard::Resumed { lines: skipped }),
            _ => None,
        }
    }

    /// Reads over what was acknowledged, and checks that it is the same.
    fn skip_lines(&mut self, resume: &Mark) -> io::Result<Heard> {
        let wrong = |what: String| {
            Heard::Failed(Failure::Usage(format!(
                "{what}: this is not the feed of the position file; remove that file to begin anew"
            )))
        };
        while self.at.lines_read < resume.lines_read {
            if self.read_line()?.is_none() {
                return Ok(wrong(format!(
                    "the feed has {} lines, of which {} were acknowledged",
                    self.at.lines_read, resume.lines_read
                )));
            }
        }
        if self.at.digest != resume.digest {
            return Ok(wrong(format!(
                "the first {} lines are not those that were acknowledged",
                resume.lines_read
            )));
        }
        Ok(Heard::Resumed {
            lines: resume.lines_read,
        })
    }

    /// The next line without its line feed, or what is wrong with it; nothing at the end.
    fn read_line(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let mut line = Vec::new();
        let mut bytes = 0;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                if bytes == 0 {
                    return Ok(None);
                }
                break;
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            if line.len() <= LINE_BYTES_MAX {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            bytes += used;
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        self.at.lines_read += 1;
        self.at.bytes_read += bytes as u64;
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX);
            self.at.digest.add_line(&line);
            let problem = format!("it has {bytes} bytes; the limit is {LINE_BYTES_MAX}");
            return Ok(Some(Err(problem)));
        }
        self.at.digest.add_line(&line);
        Ok(Some(Ok(line)))
    }
}

#[cfg(test)]
mod tests;
