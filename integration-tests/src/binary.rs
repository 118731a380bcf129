//! The `grapevine` binary.
//!
//! `GRAPEVINE_BIN` names one; otherwise cargo builds it into the directory and with the profile of the running test, both told by
//! the test's own path (`.../target/PROFILE/deps/TEST`). Cargo does nothing when it is up to date. In a debug build the
//! binary's own tests are built along, for with them it has the features that it has in `cargo test --workspace`.

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
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--package", "grapevine", "--bins"])
        .args((profile == "dev").then_some("--tests"))
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .status()
        .context("cargo build -p grapevine")?;
    ensure!(status.success(), "cargo build -p grapevine: {status}");
    let binary = built.join("grapevine");
    ensure!(binary.is_file(), "{} was not built", binary.display());
    Ok(binary)
}
