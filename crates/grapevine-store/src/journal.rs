//! Commits that the engine's files may lack.
//!
//! A flush of the engine waits for the disk, and already a batch has it write three buffers, each of which waits for the disk in a thread
//! of its own. So a commit is appended to a journal, which is a copy into the system's cache and no more, and is then pending
//! (`pending.rs`) until the engine gets many of them as one batch. Every so often the keeper has the engine flush and sync
//! everything, and removes the journal's files that are covered by that (0305). What is appended survives the death of the process
//! as what is flushed does; a loss of power takes either back to the last sync.
//!
//! ```text
//! <path>/sled/journal-<number>   records, one after the other
//! record: u32 length of the body, u32 CRC-32 of the body, body
//! body:   u64 commit; then changes: varint length, key; 00 removed, or 01, varint length, value
//! ```
//!
//! A commit that is too large, or for which the journal has no room, is flushed instead, and the journal begins anew behind it. So
//! the journal has all commits since some flush of the engine, one after the other: every one that the engine's files may lack, and
//! some that they have. After a crash all of it is applied once more, in order: the result is the state after its last record, however
//! many of them the engine had. A record that does not read back ends its file: it was being written when the process died, and was
//! not acknowledged. Records that do not follow on what the engine has, as after an older copy was put back, are kept and not used, and so are the files of a
//! journal that lacks acknowledged commits.
//!
//! The files lie with the engine's, so that whoever sets those aside, puts them back or copies them has both.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sled::{IVec, Tree};

use crate::StoreError;
use crate::codec::{DecodeError, Reader, put_varint};
use crate::recover::Counters;
use crate::txn::{self, Changes, Txn};

const PREFIX: &str = "journal-";
/// Files whose records do not follow on what the engine has, with growing numbers.
const UNUSED: &str = "unused-journal-";
/// So many of them are kept from the first ones on, and as many of the last: a crash loop must not fill the disk, nor remove
/// what it began with.
const UNUSED_KEPT: usize = 4;
/// Larger commits are flushed: copying them twice costs more than a flush.
const COMMIT_BYTES_MAX: usize = 1 << 20;
/// So many bytes the journal may have until the keeper has synced; then commits are flushed.
const BYTES_MAX: u64 = 64 << 20;
/// Larger files are none of a journal's: the last record of a full one is at most a commit with what frames it.
const FILE_BYTES_MAX: u64 = 2 * BYTES_MAX;
/// So much is applied as one batch at a start.
const REPLAY_BYTES: usize = 1 << 20;
/// Length and checksum.
const HEADER_BYTES: usize = 8;

/// The journal of a store that is open.
#[derive(Debug)]
pub(crate) struct Journal {
    engine: PathBuf,
    next_number: u64,
    /// The file that is appended to, and its bytes.
    current: Option<(PathBuf, File, u64)>,
    /// Bytes in all files, also in one that is about to be removed.
    bytes: u64,
    /// Bytes that earlier runs could not use.
    unused: u64,
    /// Whether the last attempt to begin a file failed, which was told.
    refused: bool,
    /// For the next record: its room is used again.
    buffer: Vec<u8>,
}

/// A file of the journal that nothing is appended to any more, if there was one.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    path: Option<PathBuf>,
    bytes: u64,
}

impl Ended {
    /// Removes it, once the engine has all that it has; tells how many bytes it had.
    pub(crate) fn remove(self) -> io::Result<u64> {
        let mut paths = self.path.iter();
        paths.try_for_each(|path| fs::remove_file(path).map_err(of(path)))?;
        Ok(self.bytes)
    }
}

impl Journal {
    /// One that begins: the engine has everything, and no file of another one is left.
    pub(crate) fn new(engine: &Path) -> Self {
        Self {
            engine: engine.to_owned(),
            next_number: 0,
            current: None,
            bytes: 0,
            unused: unused_bytes(engine),
            refused: false,
            buffer: Vec::new(),
        }
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.unused
    }

    /// Appends a commit whose changes have so many [bytes](txn::bytes); tells whether it did. If not, it is to be flushed.
    pub(crate) fn append(
        &mut self,
        commit: u64,
        changes: &Changes,
        bytes: usize,
    ) -> io::Result<bool> {
        if bytes > COMMIT_BYTES_MAX || self.bytes + bytes as u64 > BYTES_MAX {
            return Ok(false);
        }
        let mut record = std::mem::take(&mut self.buffer);
        encode(&mut record, commit, changes);
        let appended = self.append_record(&record);
        self.buffer = record;
        appended
    }

    fn append_record(&mut self, record: &[u8]) -> io::Result<bool> {
        let (path, file, bytes) = match &mut self.current {
            Some(current) => current,
            none => {
                let path = self.engine.join(format!("{PREFIX}{}", self.next_number));
                let opened = File::options().create_new(true).append(true).open(&path);
                match opened {
                    Ok(file) => {
                        self.next_number += 1;
                        if std::mem::take(&mut self.refused) {
                            let path = path.display();
                            tracing::info!(%path, "a file for the journal again");
                        }
                        none.insert((path, file, 0))
                    }
                    Err(error) => {
                        // The engine has its files open: what is flushed takes no descriptor.
                        if !std::mem::replace(&mut self.refused, true) {
                            let path = path.display();
                            tracing::warn!(%path, %error, "no file for the journal: flushing each commit until there is one");
                        }
                        return Ok(false);
                    }
                }
            }
        };
        file.write_all(record).map_err(of(path))?;
        *bytes += record.len() as u64;
        self.bytes += record.len() as u64;
        Ok(true)
    }

    /// Ends the file that is appended to, and hands it over: what is appended from now on goes to another one.
    pub(crate) fn cut(&mut self) -> Ended {
        let current = self.current.take();
        current.map_or_else(Ended::default, |(path, _, bytes)| Ended {
            path: Some(path),
            bytes,
        })
    }

    /// What has ended was removed.
    pub(crate) fn removed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Names the file in an error.
fn of(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn encode(out: &mut Vec<u8>, commit: u64, changes: &Changes) {
    out.clear();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(&commit.to_be_bytes());
    for (key, change) in changes {
        put_varint(out, key.len() as u64);
        out.extend_from_slice(key);
        match change {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                put_varint(out, value.len() as u64);
                out.extend_from_slice(value);
            }
        }
    }
    let body = &out[HEADER_BYTES..];
    let sum = crc32fast::hash(body);
    let length = u32::try_from(body.len()).expect("invariant: larger commits are flushed");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out[4..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
}

/// Reads the changes of a record whose checksum is right.
fn decode<'a>(
    reader: &mut Reader<'a>,
    mut each: impl FnMut(&'a [u8], Option<&'a [u8]>),
) -> Result<(), DecodeError> {
    while !reader.is_empty() {
        let key = bytes(reader)?;
        match reader.u8()? {
            0 => each(key, None),
            1 => each(key, Some(bytes(reader)?)),
            _ => return Err(reader.error("a change that is none")),
        }
    }
    Ok(())
}

fn bytes<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = reader.varint()?;
    let length = usize::try_from(length).map_err(|_| reader.error("a length beyond memory"))?;
    reader.take(length)
}

/// The records at the beginning of a file that read back: the commit, and its changes.
fn records(mut file: &[u8]) -> Vec<(u64, &[u8])> {
    let mut records = Vec::new();
    while let Some((commit, changes, rest)) = record(file) {
        records.push((commit, changes));
        file = rest;
    }
    records
}

fn record(file: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (length, rest) = file.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (body, rest) = rest.split_at_checked(length)?;
    let (commit, changes) = body.split_first_chunk::<8>()?;
    (crc32fast::hash(body) == u32::from_be_bytes(*sum))
        .then(|| (u64::from_be_bytes(*commit), changes, rest))
}

/// The journal's files of an earlier run, in order.
fn files(engine: &Path) -> io::Result<Vec<PathBuf>> {
    let files = numbered(engine, PREFIX)?;
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// What the files hold that could not be used; what cannot be read counts nothing.
fn unused_bytes(engine: &Path) -> u64 {
    let files = numbered(engine, UNUSED).unwrap_or_default();
    let held = files.iter().filter_map(|(_, path)| fs::metadata(path).ok());
    held.map(|about| about.len()).sum()
}

/// Files whose names are this and a number, by that.
fn numbered(engine: &Path, prefix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(engine)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let parsed = number.and_then(|number| Some((number, number.parse::<u64>().ok()?)));
        // Only names that are ours: others may look alike.
        if let Some((text, number)) = parsed
            && number.to_string() == text
        {
            files.push((number, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

/// Keeps files for somebody to look at.
fn keep_unused(engine: &Path, paths: &[PathBuf]) -> io::Result<()> {
    let mut kept = numbered(engine, UNUSED)?;
    for path in paths {
        let number = kept.last().map_or(0, |(last, _)| last + 1);
        let to = engine.join(format!("{UNUSED}{number}"));
        fs::rename(path, &to).map_err(of(path))?;
        kept.push((number, to));
    }
    while kept.len() > 2 * UNUSED_KEPT {
        let (_, path) = kept.remove(UNUSED_KEPT);
        fs::remove_file(&path).map_err(of(&path))?;
    }
    Ok(())
}

/// Applies what an earlier run left, of which so many commits were acknowledged, has the engine flush it, and removes it. Tells how
/// many commits there were. Where some are missing the files are kept: what does not read back may be the beginning of one.
pub(crate) fn replay(tree: &Tree, engine: &Path, acknowledged: u64) -> Result<usize, StoreError> {
    let unusable = |source| StoreError::Unusable {
        path: engine.to_owned(),
        source,
    };
    let paths = files(engine).map_err(unusable)?;
    if paths.is_empty() {
        return Ok(0);
    }
    let contents: io::Result<Vec<_>> = paths.iter().map(|path| contents_of(path)).collect();
    let contents = contents.map_err(unusable)?;
    let records: Vec<_> = contents.iter().flat_map(|file| records(file)).collect();
    let held = Counters::read(&Txn::new(tree))?.commits;
    let usable = following(held, &records);
    apply(tree, usable)?;
    tree.flush()?;
    // Until then the files are what a start goes by, also after a loss of power.
    let path = engine.join("db");
    let synced = File::open(&path).and_then(|file| file.sync_all());
    synced.map_err(of(&path)).map_err(unusable)?;
    let last = usable.last().map_or(held, |(last, _)| *last);
    if last < acknowledged || records.iter().any(|(commit, _)| *commit > last) {
        tracing::error!(
            store = %engine.display(),
            commits = last,
            acknowledged,
            first = records.first().map(|(first, _)| *first),
            last = records.iter().map(|(commit, _)| *commit).max(),
            "the journal lacks commits, or has some that do not follow on the engine's: its files are kept as unused-journal-*"
        );
        keep_unused(engine, &paths).map_err(unusable)?;
    } else {
        for path in &paths {
            fs::remove_file(path).map_err(of(path)).map_err(unusable)?;
        }
    }
    Ok(usable.len())
}

/// What a file has; of something else nobody knows when its end comes, and what is larger than any journal has no room in memory.
fn contents_of(path: &Path) -> io::Result<Vec<u8>> {
    let read = || {
        let metadata = fs::metadata(path)?;
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if !metadata.is_file() {
            return refused("it is no file".to_owned());
        }
        let bytes = metadata.len();
        if bytes > FILE_BYTES_MAX {
            return refused(format!(
                "it has {bytes} bytes, and no journal has more than {FILE_BYTES_MAX}"
            ));
        }
        fs::read(path)
    };
    read().map_err(of(path))
}

/// Applies records in order, some at a time.
fn apply(tree: &Tree, records: &[(u64, &[u8])]) -> Result<(), StoreError> {
    let mut changes = Changes::new();
    let mut bytes = 0;
    for (_, record) in records {
        decode(&mut Reader::new(record), |key, value| {
            changes.insert(key.to_vec(), value.map(IVec::from));
        })?;
        bytes += record.len();
        if bytes > REPLAY_BYTES {
            txn::apply(tree, &std::mem::take(&mut changes))?;
            bytes = 0;
        }
    }
    txn::apply(tree, &changes)
}

/// The records to apply to an engine that has so many commits: the last ones that follow on one another, begin no later than
/// behind what it has, and end no earlier.
fn following<'a, 'r>(held: u64, records: &'a [(u64, &'r [u8])]) -> &'a [(u64, &'r [u8])] {
    let mut runs = records.chunk_by(|one, next| one.0 + 1 == next.0);
    let follows = |run: &&[(u64, &[u8])]| {
        let first = run.first().is_some_and(|(first, _)| *first <= held + 1);
        first && run.last().is_some_and(|(last, _)| *last >= held)
    };
    runs.rfind(follows).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_that_follow_on_what_is_held_are_used() {
        let of = |commits: &[u64]| {
            commits
                .iter()
                .map(|&commit| (commit, &[][..]))
                .collect::<Vec<_>>()
        };
        for (held, records, used) in [
            (0, &[][..], &[][..]),
            (0, &[1, 2], &[1, 2]),
            (5, &[4, 5, 6], &[4, 5, 6]),
            (6, &[4, 5, 6], &[4, 5, 6]),
            (5, &[6], &[6]),
            (5, &[7, 8], &[]),
            (9, &[4, 5], &[]),
            (5, &[1, 2, 5, 6], &[5, 6]),
            (2, &[1, 2, 5, 6], &[1, 2]),
            (0, &[1, 2, 6, 7, 8], &[1, 2]),
            (5, &[5, 6, 2], &[5, 6]),
        ] {
            assert_eq!(
                following(held, &of(records)),
                of(used),
                "{held} {records:?}"
            );
        }
    }

    #[test]
    fn a_journal_takes_no_more_than_its_room_until_what_has_ended_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(directory.path());
        let of = |bytes| Changes::from([(vec![1], Some(vec![7; bytes].into()))]);
        let (changes, larger) = (of(COMMIT_BYTES_MAX - 100), of(COMMIT_BYTES_MAX));
        let append = |journal: &mut Journal, changes| {
            journal.append(1, changes, txn::bytes(changes)).unwrap()
        };
        assert!(!append(&mut journal, &larger));
        let mut commits = 0;
        while append(&mut journal, &changes) {
            commits += 1;
        }
        assert_eq!(commits, BYTES_MAX / COMMIT_BYTES_MAX as u64);
        let ended = journal.cut();
        assert!(!append(&mut journal, &changes), "it is still there");
        let removed = ended.remove().unwrap();
        journal.removed(removed);
        assert_eq!(journal.bytes(), 0);
        assert!(append(&mut journal, &changes));
        assert_eq!(files(directory.path()).unwrap().len(), 1);
    }

    #[test]
    fn g1_a_commit_for_which_the_disk_has_no_room_is_an_error_and_a_part_of_it_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(directory.path());
        let changes = Changes::from([(vec![1], Some(vec![7; 100].into()))]);
        let append = |journal: &mut Journal, commit| journal.append(commit, &changes, 100);
        assert!(append(&mut journal, 1).unwrap());
        let bytes = journal.bytes();
        let path = journal.current.as_ref().unwrap().0.clone();
        // Every write to it finds a full disk.
        let full = File::options().append(true).open("/dev/full").unwrap();
        let real = std::mem::replace(&mut journal.current.as_mut().unwrap().1, full);
        let error = append(&mut journal, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        let named = path.display().to_string();
        assert!(error.to_string().contains(&named), "{error}");
        assert_eq!(journal.bytes(), bytes);
        // What had room of it.
        let record = fs::read(&path).unwrap();
        (&real).write_all(&record[..record.len() - 1]).unwrap();
        let contents = fs::read(&path).unwrap();
        let read: Vec<_> = records(&contents)
            .into_iter()
            .map(|(commit, _)| commit)
            .collect();
        assert_eq!(read, [1]);
    }

    #[test]
    fn g1_files_that_could_not_be_used_replace_none_and_only_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let engine = directory.path();
        for incident in 0..6_u8 {
            let paths = [engine.join("journal-0"), engine.join("journal-1")];
            for path in &paths {
                fs::write(path, [incident; 100]).unwrap();
            }
            keep_unused(engine, &paths).unwrap();
        }
        let kept = numbered(engine, UNUSED).unwrap().into_iter();
        let kept = kept.map(|(number, path)| (number, fs::read(path).unwrap()[0]));
        // The first ones and the last ones.
        let expected = [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 1),
            (8, 4),
            (9, 4),
            (10, 5),
            (11, 5),
        ];
        assert_eq!(kept.collect::<Vec<_>>(), expected);
        assert_eq!(Journal::new(engine).bytes(), 800);
    }

    #[test]
    fn g1_what_cannot_have_a_file_is_flushed_until_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let engine = directory.path().join("sled");
        let mut journal = Journal::new(&engine);
        let changes = Changes::from([(vec![1], Some(vec![7; 100].into()))]);
        for commit in 1..=3 {
            assert!(!journal.append(commit, &changes, 100).unwrap());
            assert!(journal.refused, "it is told once");
        }
        fs::create_dir(&engine).unwrap();
        assert!(journal.append(4, &changes, 100).unwrap());
        assert!(!journal.refused);
        assert_eq!(files(&engine).unwrap(), [engine.join("journal-0")]);
    }

    #[test]
    fn what_is_no_file_is_refused_by_name_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        // Read, this would never end.
        let endless = directory.path().join("journal-3");
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        for path in [directory.path().to_owned(), endless] {
            let error = contents_of(&path).unwrap_err().to_string();
            assert_eq!(error, format!("{}: it is no file", path.display()));
        }
        let huge = directory.path().join("journal-5");
        let file = File::create(&huge).unwrap();
        file.set_len(FILE_BYTES_MAX).unwrap();
        assert_eq!(contents_of(&huge).unwrap().len() as u64, FILE_BYTES_MAX);
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = contents_of(&huge).unwrap_err().to_string();
        let what = "it has 134217729 bytes, and no journal has more than 134217728";
        assert_eq!(error, format!("{}: {what}", huge.display()));
        let missing = directory.path().join("journal-4");
        let error = contents_of(&missing).unwrap_err().to_string();
        assert!(error.starts_with(&missing.display().to_string()), "{error}");
    }
}
