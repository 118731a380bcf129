//! The sidecar's clock: monotonic, counting the time that the machine was suspended, unlike the clock behind
//! [`std::time::Instant`]. A grant that lapsed while a laptop slept or a virtual machine was paused has lapsed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grapevine_core::id::{Time, UnixSeconds};
use rustix::time::{ClockId, clock_gettime};

/// Reads the time since a start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Duration,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        Self { start: boot_time() }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Time {
        Time::from_start(boot_time().saturating_sub(self.start))
    }

    /// How long it is until then by the wall clock; nothing once it is past.
    pub(crate) fn until(then: UnixSeconds) -> Duration {
        Duration::from_secs(u64::from(then.0.saturating_sub(Self::unix().0)))
    }

    /// The wall clock, for the expiry of registrations.
    pub(crate) fn unix() -> UnixSeconds {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        UnixSeconds(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
