//! A small disk, to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::skip::skip;

/// A small file system in memory, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    // After the unmounting.
    _dir: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many MiB; nothing where that cannot be done and `test` may be skipped.
    pub fn mount(test: &str, size_mib: usize) -> Result<Option<Self>> {
        let dir = TempDir::new()?;
        let path = dir.path().to_owned();
        let size = format!("size={size_mib}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Ok(Some(Self { path, _dir: dir }));
        }
        skip(test, "a small disk cannot be mounted (that takes root)")?;
        Ok(None)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a killed sidecar may take a moment to let go.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
