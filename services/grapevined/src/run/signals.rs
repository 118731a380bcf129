//! The signals that ask a sidecar to end.
//!
//! The first one asks for a drain, and the second cuts it off. A drain that was asked for by a call is followed by the one
//! signal that every supervisor sends (a hook before the stop, or a unit whose stop command is `grapevine drain`): that signal
//! asks for what is under way, so it is let pass, and only the next one cuts off.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// What asks a process to end.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None where whoever started this process had it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = if ignores_hangup(&status) {
            None
        } else {
            Some(listen(SignalKind::hangup())?)
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// The next one's name. Cancel-safe: a signal is told to one caller.
    pub(super) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Whether a process's status, as Linux tells it, has SIGHUP among the ignored.
fn ignores_hangup(status: &str) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

/// Waits for the signal that cuts a drain off; `by_call` says that a call asked for the drain. A terminal that closes says so
/// twice, and some supervisors say it behind SIGTERM: SIGHUP cuts nothing off.
pub(super) async fn cuts_off(
    mut next: impl AsyncFnMut() -> &'static str,
    by_call: bool,
) -> &'static str {
    let mut passes = by_call;
    loop {
        let reason = next().await;
        if reason != "SIGHUP" && !std::mem::take(&mut passes) {
            return reason;
        }
        info!(reason, "draining already: a second signal cuts it off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the signals cuts a drain off.
    async fn cut_by(by_call: bool) -> &'static str {
        let mut signals = ["SIGHUP", "SIGTERM", "SIGHUP", "SIGINT"].into_iter();
        cuts_off(async || signals.next().expect("no more"), by_call).await
    }

    #[tokio::test]
    async fn g7_a_supervisors_signal_after_a_drain_call_does_not_cut_it_off() {
        assert_eq!(cut_by(true).await, "SIGINT", "the second one");
        assert_eq!(cut_by(false).await, "SIGTERM", "the first was the drain's");
    }

    #[test]
    fn an_ignored_hangup_is_read_from_the_status() {
        let status = |mask| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup(""));
    }
}
