//! The `grapevine` binary.
//!
//! `GRAPEVINE_BIN` names one; otherwise cargo builds it into the directory and with the profile of the running test, both told by
//! the test's own path (`.../target/PROFILE/deps/TEST`). Cargo does nothing when it is up to date. It is asked for a test that needs
//! the binary, of the whole workspace: so all is made of the same parts, with the same features, as by `cargo test --workspace`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};

static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Its path; builds it at the first call of a process.
pub fn grapevine() -> Result<&'static Path> {
    BINARY
        .get_or_init(|| find().map_err(|error| format!("{error:#}")))
        .as_deref()
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GRAPEVINE_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "GRAPEVINE_BIN: {} is no file",
            path.display()
        );
        return Ok(path);
    }
    let test = std::env::current_exe().context("the test's own path")?;
    let built = test
        .parent()
        .and_then(Path::parent)
        .context("a test lies in target/PROFILE/deps")?;
    let target = built.parent().context("target/PROFILE lies in target")?;
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "test",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "test",
            "--quiet",
            "--no-run",
            "--workspace",
            "--test",
            "cli",
        ])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .status()
        .context("cargo test --no-run --test cli")?;
    ensure!(status.success(), "cargo test --no-run --test cli: {status}");
    let binary = built.join("grapevine");
    ensure!(binary.is_file(), "{} was not built", binary.display());
    Ok(binary)
}
