//! Tests that cannot run where they are.

use std::io::Write as _;

use anyhow::{Result, ensure};

/// Says on the terminal that a test is skipped, and why; fails where `GRAPEVINE_REQUIRE_PEERS=1` says that everything is to
/// run, as in CI.
pub fn skip(test: &str, why: &str) -> Result<()> {
    // Not `eprintln!`, which the test harness keeps to itself unless the test fails.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}: {test}");
    let required = std::env::var_os("GRAPEVINE_REQUIRE_PEERS").is_some_and(|value| value == "1");
    ensure!(!required, "{test} is required to run: {why}");
    Ok(())
}
