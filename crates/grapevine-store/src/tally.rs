//! How many commits were acknowledged, beside the engine's files: 8 bytes of count, and the same inverted.
//!
//! The engine opens a file that was cut short as if it had always ended there. So each commit also counts in this
//! file once it is in the journal or flushed, and an opening that finds fewer commits in the engine than were acknowledged knows that
//! some are gone: by damage, or because an older copy was put back. What is left is an older state, which core knows how
//! to bring up to date; but nobody should have to find that out alone.
//!
//! Like the engine's file it is written to the system at once, and to the disk after it at the next sync (`keeper.rs`).
//! So after a power loss, too, the difference is lost for certain; but commits acknowledged since the last sync may
//! be missing in both files, and then nothing tells of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BYTES: usize = 16;

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct Tally {
    file: File,
}

impl Tally {
    /// Opens it, and tells the count; 0 if there is none or it does not read back.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let mut bytes = Vec::with_capacity(BYTES);
        Read::by_ref(&mut file)
            .take(BYTES as u64)
            .read_to_end(&mut bytes)?;
        let count = decode(&bytes).unwrap_or(0);
        Ok((Self { file }, count))
    }

    /// Another handle of the file, to sync it by.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Sets the count.
    pub(crate) fn set(&self, count: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(count), 0)
    }
}

fn encode(count: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&count.to_be_bytes());
    bytes[8..].copy_from_slice(&(!count).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let count = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    let inverted = u64::from_be_bytes(bytes.get(8..)?.try_into().ok()?);
    (count == !inverted).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_reads_back_and_garbage_counts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tally");
        let (tally, count) = Tally::open(&path).unwrap();
        assert_eq!(count, 0);
        tally.set(7).unwrap();
        tally.set(8).unwrap();
        assert_eq!(Tally::open(&path).unwrap().1, 8);
        std::fs::write(&path, [7; BYTES]).unwrap();
        assert_eq!(Tally::open(&path).unwrap().1, 0);
        std::fs::write(&path, [0; 3]).unwrap();
        assert_eq!(Tally::open(&path).unwrap().1, 0);
    }
}
