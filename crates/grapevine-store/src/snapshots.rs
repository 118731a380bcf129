//! The engine's snapshot files, looked at before the engine does.
//!
//! ```text
//! sled/db                    the log: everything
//! sled/snap.<lsn>            where in the log the pages are, up to a position: makes a start quicker
//! sled/snap.<lsn>.generating one that is being written, to be renamed
//! sled/unreadable.snap.<lsn> one that did not read back, until the log alone has been read and checked
//! ```
//!
//! The engine (0.34.7) writes a snapshot at every start, and reads the last file by name that begins with `snap.`. Two
//! things go wrong there. A file that was being written when the disk was full or the process was killed is taken for a
//! snapshot, and all that is stored for corrupt; so whatever ends in `.generating` is removed first. And a snapshot that
//! is damaged fails the start, though all that it says stands in the log; so one that fails its checksum is put out of
//! the engine's sight, and the log is read from its beginning, or from an older snapshot: after we have looked whether all of it reads
//! back (`engine_log.rs`), for the engine would pass over what does not. What comes of that is checked in whole, and serves only if no
//! acknowledged commit is missing.
//!
//! A snapshot ends with the length of what it says before compression (8 bytes, unused) and the CRC-32 of it (4 bytes,
//! little-endian).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "snap.";
const UNFINISHED: &str = ".generating";
const UNREADABLE: &str = "unreadable.";
/// The length and the checksum at a snapshot's end.
const TRAILER_LEN: usize = 12;

/// Removes what was never finished, and puts what does not read back out of the engine's sight. Tells whether there is
/// any of the latter, be it from an earlier start that did not get to its end.
pub(crate) fn tidy(engine: &Path) -> io::Result<bool> {
    let mut finished = Vec::new();
    for (name, path) in files(engine)? {
        if !name.starts_with(PREFIX) {
            continue;
        }
        if name.ends_with(UNFINISHED) {
            fs::remove_file(&path)?;
            tracing::warn!(file = %path.display(), "removed a snapshot of the storage engine that was never finished");
        } else {
            finished.push((name, path));
        }
    }
    finished.sort();
    while let Some((name, path)) = finished.pop() {
        if is_whole(&fs::read(&path)?) {
            break;
        }
        fs::rename(&path, engine.join(format!("{UNREADABLE}{name}")))?;
        tracing::warn!(
            file = %path.display(),
            "a snapshot of the storage engine does not read back: reading its log without it, and checking everything"
        );
    }
    Ok(!unreadable(engine)?.is_empty())
}

/// Removes what did not read back: the engine has written a new one.
pub(crate) fn forget(engine: &Path) -> io::Result<()> {
    unreadable(engine)?
        .into_iter()
        .try_for_each(fs::remove_file)
}

fn unreadable(engine: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = files(engine)?;
    found.retain(|(name, _)| name.starts_with(UNREADABLE));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Every file with a name that is text. None where there is no directory yet.
fn files(engine: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(engine) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            files.push((name, entry.path()));
        }
    }
    Ok(files)
}

fn is_whole(bytes: &[u8]) -> bool {
    // One that says nothing is none, to the engine too.
    let Some((body, trailer)) = bytes
        .split_last_chunk::<TRAILER_LEN>()
        .filter(|(body, _)| !body.is_empty())
    else {
        return false;
    };
    trailer[8..] == crc32fast::hash(body).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_says_something_and_its_checksum() {
        let mut bytes = b"123456789".to_vec();
        bytes.extend_from_slice(&9_u64.to_le_bytes());
        bytes.extend_from_slice(&0xcbf4_3926_u32.to_le_bytes());
        assert!(is_whole(&bytes));
        for len in 0..bytes.len() {
            assert!(!is_whole(&bytes[..len]), "{len} bytes");
        }
        assert!(!is_whole(&[0; TRAILER_LEN]), "nothing, correctly summed");
    }
}
