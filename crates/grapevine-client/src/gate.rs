//! When to leave a sidecar alone: backoff with jitter, one probe at a time.
//!
//! A gate is open until a call finds the sidecar unreachable, or several calls in a row get no answer in time. Then it is
//! closed for a while, and calls that respect it fail at once instead of waiting for their deadlines. After that while
//! one call is let through as a probe; its success opens the gate, its failure closes it for twice as long, up to a
//! bound. A probe that never reports (its caller was cancelled) lapses after a stated time. The while is drawn between
//! half and all of its nominal length, so that the clients of a sidecar that comes back do not meet at its door.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::Instant;

/// So many calls in a row without an answer in time close the gate.
const SLOW_CALLS_MAX: u32 = 3;

#[derive(Debug)]
pub(crate) struct Gate {
    backoff_min: Duration,
    backoff_max: Duration,
    /// Failures in a row; 0 means open. Kept beside the lock so that an open gate costs one load.
    failures: AtomicU32,
    slow_calls: AtomicU32,
    closed: Mutex<Closed>,
}

/// What matters while the gate is closed.
#[derive(Debug)]
struct Closed {
    retry_at: Instant,
    /// A probe is under way.
    probing: bool,
}

impl Gate {
    pub(crate) fn new(backoff_min: Duration, backoff_max: Duration) -> Self {
        Self {
            backoff_min,
            backoff_max,
            failures: AtomicU32::new(0),
            slow_calls: AtomicU32::new(0),
            closed: Mutex::new(Closed {
                retry_at: Instant::now(),
                probing: false,
            }),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.failures.load(Ordering::Acquire) == 0
    }

    /// Lets a call through, or says how long the gate stays closed. A call let through a closed gate is its probe, and
    /// keeps others out for `probe_for`.
    pub(crate) fn admit(&self, probe_for: Duration, now: Instant) -> Result<(), Duration> {
        if self.is_open() {
            return Ok(());
        }
        let mut closed = self.closed.lock();
        let left = closed.retry_at.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(left);
        }
        closed.retry_at = now + probe_for;
        closed.probing = true;
        Ok(())
    }

    /// How long the gate stays closed, without asking to be the probe.
    pub(crate) fn closed_for(&self, now: Instant) -> Option<Duration> {
        if self.is_open() {
            return None;
        }
        let left = self.closed.lock().retry_at.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The sidecar answered. Says whether the gate was closed.
    pub(crate) fn success(&self) -> bool {
        if self.slow_calls.load(Ordering::Relaxed) != 0 {
            self.slow_calls.store(0, Ordering::Relaxed);
        }
        if self.is_open() {
            return false;
        }
        let mut closed = self.closed.lock();
        closed.probing = false;
        self.failures.swap(0, Ordering::AcqRel) > 0
    }

    /// The sidecar could not be reached. Says whether the gate was open.
    pub(crate) fn failure(&self, now: Instant) -> bool {
        let mut closed = self.closed.lock();
        let failures = self.failures.load(Ordering::Acquire);
        // Calls that were under way together fail together: they count once.
        if failures > 0 && !closed.probing {
            return false;
        }
        closed.probing = false;
        closed.retry_at = now + self.pause(failures);
        self.failures
            .store(failures.saturating_add(1), Ordering::Release);
        failures == 0
    }

    /// The sidecar did not answer in time. Says whether this closed the gate.
    pub(crate) fn slow(&self, now: Instant) -> bool {
        let slow_calls = self
            .slow_calls
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        (slow_calls >= SLOW_CALLS_MAX || !self.is_open()) && self.failure(now)
    }

    /// How long to stay closed after `failures` earlier ones.
    fn pause(&self, failures: u32) -> Duration {
        pause(self.backoff_min, self.backoff_max, failures)
    }
}

/// A pause after `failures` earlier ones: doubled each time, bounded, drawn between half and all of it.
pub(crate) fn pause(min: Duration, max: Duration, failures: u32) -> Duration {
    let nominal = min.saturating_mul(1 << failures.min(20)).min(max);
    nominal.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const MIN: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_secs(1);
    const PROBE: Duration = Duration::from_millis(50);

    #[test]
    fn a_closed_gate_lets_one_probe_through_and_opens_on_its_success() {
        let (gate, now) = (Gate::new(MIN, MAX), Instant::now());
        assert!(gate.failure(now));
        let left = gate.admit(PROBE, now).unwrap_err();
        assert!(left >= MIN / 2 && left <= MIN, "{left:?}");
        let later = now + left;
        assert_eq!(gate.closed_for(later), None);
        gate.admit(PROBE, later).unwrap();
        assert_eq!(gate.admit(PROBE, later), Err(PROBE));
        assert_eq!(gate.closed_for(later), Some(PROBE));
        assert!(gate.success());
        assert!(gate.is_open());
        gate.admit(PROBE, later).unwrap();
        gate.admit(PROBE, later).unwrap();
    }

    #[test]
    fn failures_of_one_moment_count_once_and_probes_double_up_to_the_bound() {
        let (gate, mut now) = (Gate::new(MIN, MAX), Instant::now());
        assert!(gate.failure(now));
        for _ in 0..100 {
            assert!(!gate.failure(now));
        }
        assert!(gate.admit(PROBE, now).unwrap_err() <= MIN);
        let mut longest = Duration::ZERO;
        for _ in 0..30 {
            while let Err(left) = gate.admit(PROBE, now) {
                now += left;
                longest = longest.max(left);
            }
            gate.failure(now);
        }
        assert!(longest <= MAX && longest >= MAX / 2, "{longest:?}");
    }

    #[test]
    fn a_probe_that_never_reports_lapses() {
        let (gate, now) = (Gate::new(MIN, MAX), Instant::now());
        gate.failure(now);
        gate.admit(PROBE, now + MIN).unwrap();
        gate.admit(PROBE, now + MIN + PROBE).unwrap();
    }

    #[test]
    fn some_slow_calls_in_a_row_close_and_an_answer_between_them_resets() {
        let (gate, now) = (Gate::new(MIN, MAX), Instant::now());
        for _ in 0..5 {
            assert!(!gate.slow(now) && !gate.slow(now));
            gate.success();
        }
        gate.slow(now);
        gate.slow(now);
        assert!(gate.slow(now));
        assert!(!gate.is_open());
    }
}
