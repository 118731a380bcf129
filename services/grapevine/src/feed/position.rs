//! Where a feed is: how much of it was acknowledged, noted in a small JSON file.
//!
//! ```json
//! {"lines":1200,"digest":"85944171f73967e8","id":4711}
//! ```
//!
//! `lines` counts from the start of the input of the last run; `digest` is 64-bit FNV-1a over those lines, each with a
//! line feed behind it, by which a later run sees that it reads the same feed; `id` is the last line's own id, or null where
//! lines have none. The file is written beside itself and renamed, so that it is never half there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::Failure;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A line's own id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    /// An outbox's key: it must not decrease from line to line. Several lines may share one.
    Number(i64),
    /// Whatever the feed can go on behind.
    Text(String),
}

/// A place between two lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Lines before it in this run's input.
    pub(super) lines_read: u64,
    /// Bytes before it in this run's input, for progress.
    pub(super) bytes_read: u64,
    /// Over the lines before it.
    pub(super) digest: Digest,
    /// The last id before it.
    pub(super) id: Option<Id>,
}

/// 64-bit FNV-1a. It tells feeds apart that were mistaken for each other, not forged ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(FNV_OFFSET)
    }
}

impl Digest {
    /// Takes a line, without its line feed.
    pub(super) fn add_line(&mut self, line: &[u8]) {
        for byte in line.iter().chain(b"\n") {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    lines: u64,
    digest: String,
    id: Option<Id>,
}

/// The file.
#[derive(Debug)]
pub(super) struct PositionFile {
    path: PathBuf,
    mark: Mark,
}

impl PositionFile {
    /// Reads it; where there is none, nothing was acknowledged yet. Writes beside it, too: that it cannot be written is told
    /// before anything is sent.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed =
            |what: String| Failure::Usage(format!("--position {}: {what}", path.display()));
        let mark = match fs::read(path) {
            Ok(bytes) => parse(&bytes).map_err(failed)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Mark::default(),
            Err(error) => return Err(failed(error.to_string())),
        };
        let file = Self {
            path: path.to_owned(),
            mark,
        };
        let beside = file.beside();
        File::create(&beside)
            .and_then(|_| fs::remove_file(&beside))
            .map_err(|error| failed(format!("cannot be written: {error}")))?;
        Ok(file)
    }

    /// What was acknowledged.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Notes what is acknowledged now.
    pub(super) fn save(&mut self, mark: Mark) -> Result<(), Failure> {
        let on_disk = OnDisk {
            lines: mark.lines_read,
            digest: format!("{:016x}", mark.digest.0),
            id: mark.id.clone(),
        };
        self.mark = mark;
        let text = serde_json::json!(on_disk).to_string();
        self.replace(&text).map_err(|error| {
            Failure::Failed(format!("--position {}: {error}", self.path.display()))
        })
    }

    /// What is written before it is renamed.
    fn beside(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        self.path.with_file_name(name)
    }

    fn replace(&self, text: &str) -> std::io::Result<()> {
        let beside = self.beside();
        let mut file = File::create(&beside)?;
        writeln!(file, "{text}")?;
        file.sync_data()?;
        fs::rename(&beside, &self.path)
    }
}

fn parse(bytes: &[u8]) -> Result<Mark, String> {
    let found: OnDisk =
        serde_json::from_slice(bytes).map_err(|error| format!("not a position file: {error}"))?;
    let digest = u64::from_str_radix(&found.digest, 16)
        .map_err(|error| format!("not a position file: digest {:?}: {error}", found.digest))?;
    Ok(Mark {
        lines_read: found.lines,
        bytes_read: 0,
        digest: Digest(digest),
        id: found.id,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_was_noted_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("position");
        let mut file = PositionFile::open(&path).unwrap();
        assert_eq!(file.mark(), &Mark::default());
        for id in [
            None,
            Some(Id::Number(-7)),
            Some(Id::Text("0/16B3748".to_owned())),
        ] {
            let mut mark = Mark {
                lines_read: 12,
                id,
                ..Mark::default()
            };
            mark.digest.add_line(b"{}");
            file.save(mark.clone()).unwrap();
            assert_eq!(PositionFile::open(&path).unwrap().mark(), &mark);
        }
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_file_that_is_something_else_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("position");
        for text in [
            "",
            "12",
            r#"{"lines":1}"#,
            r#"{"lines":1,"digest":"x","id":null}"#,
        ] {
            fs::write(&path, text).unwrap();
            let failure = PositionFile::open(&path).unwrap_err();
            assert!(
                failure.text().contains("not a position file"),
                "{}",
                failure.text()
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_digest_keeps_lines_apart() {
        let of = |lines: &[&str]| {
            let mut digest = Digest::default();
            for line in lines {
                digest.add_line(line.as_bytes());
            }
            digest
        };
        assert_ne!(of(&["ab"]), of(&["a", "b"]));
        assert_eq!(of(&["a"]), Digest(0x089b_dc07_b544_e7b2));
    }
}
