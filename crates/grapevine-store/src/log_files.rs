//! Large events of the log, in files beside the engine's.
//!
//! An event comes, is read by peers that lack it, and goes, in the order in which it came. The engine's tree is not made for
//! that: it writes each part several times, as its leaf fills and empties, and mixes the parts with the directory's pages in
//! its segments, which then take up several times what they hold (0303). So the tree has only the *place* of a large event,
//! and its bytes are appended to a file. All that depends on the order of commits stays in the tree: an event is in the log
//! when its place is in the tree.
//!
//! ```text
//! <path>/log/<lane>-<incarnation>-<number>    the bytes of one origin's events, one after the other
//! place: 00, varint number, varint offset, varint length, u32 CRC-32 of the bytes
//! ```
//!
//! A commit first appends, then puts its places into the tree. What a crash leaves behind a file's last place is nobody's:
//! a run begins files of its own and appends to no other. The tree counts the events that it has places for, file by file;
//! a file goes when there are none left, and at the next opening what the tree does not know. Each origin has its own
//! files, so that they go in the order in which they came, whatever others send.
//!
//! A place whose bytes do not read back, as after a loss of power, says that the event is no longer in the log: whoever
//! lacks it gets a snapshot, for what it did is in the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use grapevine_core::id::{Incarnation, Lane};

use crate::StoreError;
use crate::codec::{DecodeError, Reader, put_varint};
use crate::keys::{self, Table};
use crate::txn::Txn;

/// A file that has reached this size is followed by another one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a place begins with: no event's first part does, which begins with its length.
const MARK: u8 = 0;

/// A file: whose events it has, and its number among theirs.
pub(crate) type FileId = (Lane, Incarnation, u32);

/// Where an event's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u32,
    offset: u64,
    pub(crate) length: usize,
    sum: u32,
}

impl Place {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![MARK];
        for number in [u64::from(self.number), self.offset, self.length as u64] {
            put_varint(&mut out, number);
        }
        out.extend_from_slice(&self.sum.to_be_bytes());
        out
    }

    /// The place that a record of the log holds; `None` if it holds a part of an event. Parts behind the first may begin with anything.
    pub(crate) fn decode(part: u16, value: &[u8]) -> Result<Option<Self>, DecodeError> {
        if part != 0 || value.first() != Some(&MARK) {
            return Ok(None);
        }
        let mut reader = Reader::new(value);
        reader.u8()?;
        let number = u32::try_from(reader.varint()?);
        let offset = reader.varint()?;
        let length = usize::try_from(reader.varint()?);
        let (Ok(number), Ok(length)) = (number, length) else {
            return Err(reader.error("a place in a file of the log beyond its limits"));
        };
        let sum = reader.u32()?;
        reader.finish()?;
        Ok(Some(Self {
            number,
            offset,
            length,
            sum,
        }))
    }
}

/// The directory with the files, for readers.
#[derive(Clone, Debug)]
pub(crate) struct LogDirectory {
    path: Arc<Path>,
}

impl LogDirectory {
    pub(crate) fn new(store: &Path) -> Self {
        Self {
            path: store.join("log").into(),
        }
    }

    fn file(&self, (lane, origin, number): FileId) -> PathBuf {
        let lane = keys::lane_byte(lane);
        self.path.join(format!("{lane}-{origin}-{number}"))
    }

    /// An event's bytes, if they read back.
    pub(crate) fn read(&self, lane: Lane, origin: Incarnation, place: Place) -> Option<Vec<u8>> {
        let path = self.file((lane, origin, place.number));
        let bytes = File::open(&path).and_then(|file| {
            // Before room is made for them: a place may say anything.
            if file.metadata()?.len() < place.offset.saturating_add(place.length as u64) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = vec![0; place.length];
            file.read_exact_at(&mut bytes, place.offset)?;
            if crc32fast::hash(&bytes) != place.sum {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a wrong checksum",
                ));
            }
            Ok(bytes)
        });
        bytes
            .inspect_err(|error| {
                tracing::error!(
                    file = %path.display(),
                    offset = place.offset,
                    %error,
                    "an event of the log does not read back: peers that lack it get a snapshot"
                );
            })
            .ok()
    }
}

/// What the keeper has to sync, and what the files take up.
#[derive(Debug, Default)]
pub(crate) struct Written {
    unsynced: Mutex<BTreeSet<PathBuf>>,
    bytes: AtomicU64,
}

impl Written {
    /// Bytes in all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    fn add(&self, path: PathBuf, bytes: u64) {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        unsynced.insert(path);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Syncs what was written since the last time.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let unsynced = {
            let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *unsynced)
        };
        for path in unsynced {
            match File::open(path) {
                Ok(file) => file.sync_data()?,
                // Nothing of it was in the log any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The file that an origin's next event goes to.
#[derive(Clone, Copy, Debug)]
struct Current {
    number: u32,
    length: u64,
}

/// The files, for the one who commits.
#[derive(Debug)]
pub(crate) struct LogFiles {
    directory: LogDirectory,
    /// Events longer than this are kept in files.
    inline_bytes_max: usize,
    /// How many events of each file the log has.
    events: BTreeMap<FileId, u64>,
    /// Those of this run.
    current: BTreeMap<(Lane, Incarnation), Current>,
    /// What the commit that is made appends.
    pending: BTreeMap<FileId, Vec<u8>>,
    /// Files whose count it changes.
    touched: BTreeSet<FileId>,
    written: Arc<Written>,
}

impl LogFiles {
    /// Takes up the files that the tree knows, and removes all others of such names.
    pub(crate) fn open(
        directory: LogDirectory,
        inline_bytes_max: usize,
        txn: &Txn<'_>,
    ) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Unusable {
            path: directory.path.to_path_buf(),
            source,
        };
        let events = counted(txn)?;
        fs::create_dir_all(&directory.path).map_err(unusable)?;
        let known: BTreeSet<PathBuf> = events.keys().map(|&id| directory.file(id)).collect();
        let written = Arc::new(Written::default());
        for entry in fs::read_dir(&directory.path).map_err(unusable)? {
            let entry = entry.map_err(unusable)?;
            if known.contains(&entry.path()) {
                let bytes = entry.metadata().map_err(unusable)?.len();
                written.bytes.fetch_add(bytes, Ordering::AcqRel);
            } else if is_of_a_log(&entry.file_name()) {
                fs::remove_file(entry.path()).map_err(unusable)?;
            }
        }
        Ok(Self {
            directory,
            inline_bytes_max,
            events,
            current: BTreeMap::new(),
            pending: BTreeMap::new(),
            touched: BTreeSet::new(),
            written,
        })
    }

    pub(crate) fn written(&self) -> &Arc<Written> {
        &self.written
    }

    pub(crate) fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// Has an event appended that is too large for the tree, and tells its place.
    pub(crate) fn append(
        &mut self,
        lane: Lane,
        origin: Incarnation,
        bytes: &[u8],
    ) -> Option<Place> {
        if bytes.len() <= self.inline_bytes_max {
            return None;
        }
        let current = match self.current.get(&(lane, origin)) {
            Some(current) if current.length < FILE_BYTES_MAX => *current,
            _ => Current {
                number: self.unused(lane, origin),
                length: 0,
            },
        };
        let place = Place {
            number: current.number,
            offset: current.length,
            length: bytes.len(),
            sum: crc32fast::hash(bytes),
        };
        let length = current.length + bytes.len() as u64;
        self.current
            .insert((lane, origin), Current { length, ..current });
        let id = (lane, origin, current.number);
        self.pending.entry(id).or_default().extend_from_slice(bytes);
        *self.events.entry(id).or_default() += 1;
        self.touched.insert(id);
        Some(place)
    }

    /// The number of an origin's next file.
    fn unused(&self, lane: Lane, origin: Incarnation) -> u32 {
        let files = self
            .events
            .range((lane, origin, 0)..=(lane, origin, u32::MAX));
        let highest = files.last().map(|(&(_, _, number), _)| number);
        let current = self
            .current
            .get(&(lane, origin))
            .map(|current| current.number);
        highest.max(current).map_or(0, |number| number + 1)
    }

    /// One event of a file is no longer in the log.
    pub(crate) fn forget(&mut self, lane: Lane, origin: Incarnation, place: Place) {
        let id = (lane, origin, place.number);
        if let Some(events) = self.events.get_mut(&id) {
            *events = events.saturating_sub(1);
            self.touched.insert(id);
        }
    }

    /// Nothing more comes of an origin.
    pub(crate) fn end(&mut self, lane: Lane, origin: Incarnation) {
        self.current.remove(&(lane, origin));
    }

    /// Writes down the counts that changed, and appends what there is to append: before the tree has it.
    pub(crate) fn write(&mut self, txn: &mut Txn<'_>) -> io::Result<()> {
        for &(lane, origin, number) in &self.touched {
            let key = keys::log_file(lane, origin, number);
            match self.events.get(&(lane, origin, number)) {
                Some(0) | None => txn.remove(key),
                Some(events) => {
                    let mut value = Vec::with_capacity(4);
                    put_varint(&mut value, *events);
                    txn.put(key, value);
                }
            }
        }
        for (id, bytes) in std::mem::take(&mut self.pending) {
            let path = self.directory.file(id);
            let mut file = File::options().create(true).append(true).open(&path)?;
            file.write_all(&bytes)?;
            self.written.add(path, bytes.len() as u64);
        }
        Ok(())
    }

    /// Removes the files that have no event in the log any more: after the tree has lost their places.
    pub(crate) fn remove_empty(&mut self) -> io::Result<()> {
        for id in std::mem::take(&mut self.touched) {
            if self.events.get(&id).is_some_and(|events| *events > 0) {
                continue;
            }
            let (lane, origin, number) = id;
            self.events.remove(&id);
            // Its number is not taken again in this run: the next file of the origin has a higher one.
            if let Some(current) = self.current.get_mut(&(lane, origin))
                && current.number == number
            {
                current.length = FILE_BYTES_MAX;
            }
            let path = self.directory.file(id);
            let bytes = fs::metadata(&path).map_or(0, |about| about.len());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.written.bytes.fetch_sub(bytes, Ordering::AcqRel)),
            }
        }
        Ok(())
    }
}

/// Whether a file is named as those of a log are; whatever else lies there is somebody else's.
fn is_of_a_log(name: &OsStr) -> bool {
    let digits = |part: &str, radix| !part.is_empty() && part.chars().all(|it| it.is_digit(radix));
    let parts: Option<Vec<_>> = name.to_str().map(|name| name.split('-').collect());
    matches!(parts.as_deref(), Some([lane, origin, number])
        if digits(lane, 10) && digits(origin, 16) && digits(number, 10))
}

/// How many events the log has in each file.
pub(crate) fn counted(txn: &Txn<'_>) -> Result<BTreeMap<FileId, u64>, StoreError> {
    txn.scan(Table::LogFiles.range())
        .map(|entry| {
            let (key, value) = entry?;
            let mut reader = Reader::new(&value);
            let events = reader.varint()?;
            reader.finish()?;
            Ok((keys::parse_log_file(&key)?, events))
        })
        .collect()
}

#[cfg(test)]
mod tests;
