//! What a process takes of the machine: memory, as Linux tells it below `/proc`, and the room of its files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;

/// What a file's blocks are counted in, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// A process's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// What is resident now.
    pub(super) resident: u64,
    /// The most that ever was.
    pub(super) peak: u64,
}

/// The memory of a process that runs.
pub(super) fn memory(process: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes =
            line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        let kilobytes = kilobytes.and_then(|number| number.parse::<u64>().ok());
        let kilobytes = kilobytes.with_context(|| format!("{path}: no {field}"))?;
        anyhow::Ok(kilobytes * 1_024)
    };
    Ok(Memory {
        resident: bytes("VmRSS")?,
        peak: bytes("VmHWM")?,
    })
}

/// The room that all files in and below a directory take on their disk, in bytes.
pub(super) fn disk(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        // A file may go while it is looked at, as sockets and logs do.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += if metadata.is_dir() {
            disk(&entry.path())?
        } else {
            metadata.blocks() * BLOCK_BYTES
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Of a process of its own: the tests beside this one give memory back when they like.
    #[test]
    fn memory_rises_with_what_a_process_holds() {
        // It keeps all that it has read, for it knows only at the end what was last.
        let mut keeper = Command::new("tail")
            .args(["-c", &(64 << 20).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let before = memory(keeper.id()).unwrap();
        assert!(0 < before.resident && before.resident <= before.peak);
        let mut input = keeper.stdin.take().unwrap();
        input.write_all(&vec![1_u8; 64 << 20]).unwrap();
        let after = memory(keeper.id()).unwrap();
        let risen = before.resident + (60 << 20);
        assert!(
            risen <= after.resident && after.resident <= after.peak,
            "{before:?} {after:?}"
        );
        drop(input);
        assert!(keeper.wait().unwrap().success());
        assert!(memory(u32::MAX).is_err());
    }

    #[test]
    fn the_room_of_a_directory_is_that_of_all_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let before = disk(dir.path()).unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), vec![7_u8; 1 << 20]).unwrap();
        fs::File::open(dir.path().join("below/file"))
            .unwrap()
            .sync_all()
            .unwrap();
        assert!(disk(dir.path()).unwrap() >= before + (1 << 20));
        assert!(disk(&dir.path().join("missing")).is_err());
    }
}
