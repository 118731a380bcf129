//! What can go wrong in a store, by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::codec::DecodeError;

/// Why a store could not be opened, read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has the directory. Nothing was changed.
    #[error("{path} is in use by another process: two sidecars must not share a store directory")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be made, read or written. Nothing was changed.
    #[error("the store directory {path} cannot be used")]
    Unusable {
        /// The directory, or what in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory was written by a newer program. Nothing was changed.
    #[error(
        "{path} has store format {found}, and this program knows up to {supported}: run the newer program, or give it an empty directory"
    )]
    FormatNewer {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest that is known.
        supported: u32,
    },
    /// The directory holds something else, or a format no longer read. Nothing was changed.
    #[error("{path} is not a store of this program: {reason}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The disk is full. Nothing of a commit counts; the store refuses everything until it is opened anew.
    #[error("the disk of the store is full: {0}")]
    Full(io::Error),
    /// Reading, writing or syncing failed. Nothing of a commit counts; the store refuses everything until it is opened
    /// anew.
    #[error("the store's disk failed: {0}")]
    Io(io::Error),
    /// What is stored does not read back, as a read, a commit or an opening found. The store refuses everything; the next
    /// opening reads and checks it all, and sets it aside if it is damaged.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// The engine panicked. The store refuses everything; the next opening reads and checks it all.
    #[error("the storage engine panicked: {0}")]
    Panicked(String),
    /// An earlier commit, read or sync failed, and what the engine holds since then, in memory and on disk, is not known:
    /// nothing is read or written any more. Open the store anew.
    #[error("the store refuses everything since it failed: {cause}")]
    Failed {
        /// How it failed.
        cause: String,
    },
    /// A cursor that this store did not give out.
    #[error("not a cursor of this listing")]
    BadCursor,
}

impl StoreError {
    /// Whether the stored bytes are to be doubted, rather than the machine around them.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Panicked(_))
    }

    /// Whether the caller is at fault, and the store is sound.
    pub(crate) fn is_callers(&self) -> bool {
        matches!(self, Self::BadCursor)
    }
}

/// What the system says when the machine lacks something (threads, memory, descriptors, room), as Linux numbers it: EAGAIN,
/// ENOMEM, ENFILE, EMFILE, ENOSPC, EDQUOT.
const LACKING_CODES: [&str; 6] = ["11", "12", "23", "24", "28", "122"];
/// The same as the standard library calls it, on any system.
const LACKING_KINDS: [&str; 4] = ["WouldBlock", "OutOfMemory", "StorageFull", "QuotaExceeded"];

/// Whether a panic's text tells of an error of the system that says nothing about the stored bytes: the engine unwraps the
/// start of its threads, for one. Any other text is taken for damage.
pub(crate) fn tells_of_lack(text: &str) -> bool {
    let behind = |lead: &str, known: &[&str]| {
        text.match_indices(lead).any(|(at, _)| {
            let rest = &text[at + lead.len()..];
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric());
            known.contains(&&rest[..end.unwrap_or(rest.len())])
        })
    };
    behind("Os { code: ", &LACKING_CODES)
        || behind("(os error ", &LACKING_CODES)
        || text.contains("Os { code: ") && behind("kind: ", &LACKING_KINDS)
}

impl StoreError {
    /// What the system says of a file of the store's own.
    pub(crate) fn of_disk(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Io(error),
        }
    }
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => match error.kind() {
                // What the engine says of files that are too short, of nonsense in them, or of missing ones.
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound => Self::Corrupt(error.to_string()),
                _ => Self::of_disk(error),
            },
            other => Self::Corrupt(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g1_a_lack_is_told_from_damage_by_the_text_of_the_panic() {
        let lacks = [
            r#"called `Result::unwrap()` on an `Err` value: Os { code: 11, kind: WouldBlock, message: "Resource temporarily unavailable" }"#,
            r#"called `Result::unwrap()` on an `Err` value: Os { code: 35, kind: WouldBlock, message: "Resource temporarily unavailable" }"#,
            r#"Os { code: 12, kind: OutOfMemory, message: "Cannot allocate memory" }"#,
            "IO error: Too many open files (os error 24)",
            "cannot write: No space left on device (os error 28)",
        ];
        for text in lacks {
            assert!(tells_of_lack(text), "{text}");
        }
        let damage = [
            "a page is missing",
            "page 11 is missing, kind: WouldBlock",
            r#"Os { code: 2, kind: NotFound, message: "No such file or directory" }"#,
            "Input/output error (os error 5)",
            "(os error 110)",
        ];
        for text in damage {
            assert!(!tells_of_lack(text), "{text}");
        }
    }
}
