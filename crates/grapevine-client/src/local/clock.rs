//! A clock that counts the time that a machine is suspended, unlike the one behind `Instant` on Linux.

use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// Apple's counts it as it is. Elsewhere a table is refused ([`counts_suspension`]).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Whether this system has such a clock that is known here.
pub(crate) const fn counts_suspension() -> bool {
    cfg!(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple"
    ))
}

/// Nanoseconds since some moment; never 0.
#[inline]
pub(crate) fn now() -> u64 {
    let time = clock_gettime(CLOCK);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    (seconds * 1_000_000_000 + nanos).max(1)
}
