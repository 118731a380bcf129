//! How long to wait between attempts to reach a server that is down.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const DELAY_MIN: Duration = Duration::from_millis(10);

/// Jitter adds up to as much again, so that at most [`RECONNECT_DELAY_MAX`] passes between two attempts.
const DELAY_WITHOUT_JITTER_MAX: Duration = Duration::from_millis(500);

/// The longest pause between two attempts to reach a server.
pub(crate) const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);

/// A connection that lived so long was sound: when it ends, the next one is tried at once, and delays begin anew. One
/// that ended sooner was closed by whoever closes the next one too.
pub(crate) const SOUND_LIFE: Duration = Duration::from_secs(1);

/// Doubling delays with jitter, for ever.
pub(crate) struct Backoff {
    delays: ExponentialBackoff,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            delays: ExponentialBuilder::default()
                .with_min_delay(DELAY_MIN)
                .with_max_delay(DELAY_WITHOUT_JITTER_MAX)
                .with_factor(2.0)
                .with_jitter()
                .without_max_times()
                .build(),
        }
    }

    /// How long to wait after a connection that lived for so long was closed in the ordinary way.
    pub(crate) fn delay_after(&mut self, life: Duration) -> Duration {
        if life >= SOUND_LIFE {
            *self = Self::new();
            Duration::ZERO
        } else {
            self.next_delay()
        }
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        self.delays
            .next()
            .map_or(RECONNECT_DELAY_MAX, |delay| delay.min(RECONNECT_DELAY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_that_lived_is_replaced_at_once() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.delay_after(SOUND_LIFE), Duration::ZERO);
        for _ in 0..20 {
            assert!(backoff.delay_after(SOUND_LIFE / 2) >= DELAY_MIN);
        }
        assert!(backoff.delay_after(Duration::ZERO) >= DELAY_WITHOUT_JITTER_MAX);
        assert_eq!(backoff.delay_after(SOUND_LIFE), Duration::ZERO);
        assert!(backoff.next_delay() <= 2 * DELAY_MIN, "they begin anew");
    }

    #[test]
    fn delays_grow_to_the_stated_bound_and_never_end() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..200).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= DELAY_MIN && delays[0] <= 2 * DELAY_MIN);
        assert!(
            delays[20..]
                .iter()
                .all(|delay| (DELAY_WITHOUT_JITTER_MAX..=RECONNECT_DELAY_MAX).contains(delay))
        );
    }
}
