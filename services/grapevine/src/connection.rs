//! Which sidecar is asked, how long it is waited for, and how the answer is written: the options of every command that asks.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use grapevine_client::{Client, ClientBuilder, Session};

use crate::exit::Failure;

/// The contract's bound on what a sidecar may be told to wait.
const TIMEOUT_MAX: Duration = Duration::from_mins(1);

#[derive(Debug, Args)]
pub(crate) struct Connection {
    #[arg(
        long,
        help = "The sidecar: http://host:port, host:port or unix:/path",
        value_name = "URL",
        env = "GRAPEVINE_ENDPOINT",
        default_value = "http://127.0.0.1:7400",
        help_heading = "Sidecar"
    )]
    pub(crate) endpoint: String,
    /// How long to wait for it, 1ms to 1m; invalidations and writes say 1.5s later at most that nothing came
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = timeout,
        help_heading = "Sidecar"
    )]
    pub(crate) timeout: Duration,
    /// Write JSON, one object per line, in place of tables; errors too
    #[arg(long)]
    pub(crate) json: bool,
}

impl Connection {
    /// A client whose every deadline is the one asked for. Nothing is connected yet.
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder(&self.endpoint)
            .resolve_deadline(self.timeout)
            .commit_deadline(self.timeout)
            .call_deadline(self.timeout)
            .invalidate_timeout(self.timeout)
            .connect_timeout(self.timeout)
    }

    /// The same, built.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(self.builder().build()?)
    }
}

/// What a call comes after.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// Ask only once the sidecar has applied this: the session token(s) that `invalidate` answered, joined by dots
    #[arg(long, value_name = "TOKENS")]
    session: Option<String>,
    /// How long the sidecar may take to catch up with the session, 1ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = timeout)]
    session_wait: Duration,
}

impl SessionArgs {
    pub(crate) fn session(&self) -> Result<Session, Failure> {
        let tokens = self.session.as_deref().unwrap_or_default();
        let session: Session = tokens
            .parse()
            .map_err(|error| Failure::Usage(format!("--session: {error}")))?;
        Ok(session.wait(self.session_wait))
    }
}

/// A duration as people write them: `250ms`, `10s`, `2h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 250ms, 10s or 2h"))
}

/// A duration above zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    if value.is_zero() {
        return Err("it must be above zero".to_owned());
    }
    Ok(value)
}

/// A duration within bounds, which are told as durations are written.
pub(crate) fn within(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = duration(text)?;
    if !bounds.contains(&value) {
        let [least, most] =
            [bounds.start(), bounds.end()].map(|it| humantime::format_duration(*it));
        return Err(format!("it must be from {least} to {most}"));
    }
    Ok(value)
}

/// A duration that a sidecar may be told to wait.
fn timeout(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(1)..=TIMEOUT_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2h 30m"), Ok(Duration::from_mins(150)));
        for wrong in ["", "5", "-1s", "soon"] {
            let error = duration(wrong).unwrap_err();
            assert!(error.contains("write it like"), "{wrong:?}: {error}");
        }
        positive_duration("0s").unwrap_err();
    }

    #[test]
    fn a_timeout_keeps_to_the_bounds_of_the_contract() {
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(timeout("60s"), Ok(TIMEOUT_MAX));
        for wrong in ["0s", "100us", "61s"] {
            assert_eq!(timeout(wrong), Err("it must be from 1ms to 1m".to_owned()));
        }
    }
}
