//! Time: true time, which only the simulator knows, and the clocks that sidecars see.
//!
//! A sidecar has a duration clock whose rate is off by less than the configured bound, and a wall clock that is up to an
//! hour off and may be stepped. The core is given the first as its [`Time`]; the second serves the expiry of
//! registrations, and the arm that believes in it.

use std::time::Duration;

use grapevine_core::id::{Time, UnixSeconds};

/// True time in microseconds since the run began.
pub(crate) type Micros = u64;

/// A millisecond of true time.
pub(crate) const MILLISECOND: Micros = 1_000;
/// A second of true time.
pub(crate) const SECOND: Micros = 1_000_000;

/// Where wall clocks stand when a run begins.
const EPOCH_SECONDS: i64 = 1_800_000_000;
/// How far the clock of the arm that leases by the wall reaches into the past, so that steps back stay above zero.
const WALL_BASE_MICROS: i64 = 10_000_000_000;

/// A duration clock with a rate of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriftClock {
    offset_nanos: i128,
    ppm: i128,
}

impl DriftClock {
    /// A clock that shows `offset` when the run begins and is this many parts per million fast.
    pub(crate) fn new(offset: Micros, ppm: i32) -> Self {
        Self {
            offset_nanos: i128::from(offset) * 1_000,
            ppm: i128::from(ppm),
        }
    }

    /// What it shows at a true time.
    pub(crate) fn at(&self, now: Micros) -> Time {
        let elapsed = i128::from(now) * 1_000;
        let nanos = self.offset_nanos + elapsed + elapsed * self.ppm / 1_000_000;
        Time::from_start(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
    }

    /// The first true time at which it shows at least this.
    pub(crate) fn when(&self, shown: Time) -> Micros {
        let nanos = i128::try_from(shown.since_start().as_nanos()).unwrap_or(i128::MAX);
        let elapsed =
            (nanos - self.offset_nanos).saturating_mul(1_000_000) / (1_000_000 + self.ppm);
        let mut now = u64::try_from(elapsed / 1_000)
            .unwrap_or(0)
            .saturating_sub(1);
        while self.at(now) < shown {
            now += 1;
        }
        now
    }
}

/// A wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock {
    skew_micros: i64,
}

impl WallClock {
    /// A clock that is this many seconds ahead.
    pub(crate) fn new(skew_seconds: i32) -> Self {
        Self {
            skew_micros: i64::from(skew_seconds) * 1_000_000,
        }
    }

    /// Steps it.
    pub(crate) fn step(&mut self, seconds: i32) {
        self.skew_micros += i64::from(seconds) * 1_000_000;
    }

    fn shown_micros(self, now: Micros) -> i64 {
        i64::try_from(now).unwrap_or(i64::MAX) + self.skew_micros
    }

    /// The calendar, to the second.
    pub(crate) fn unix(self, now: Micros) -> UnixSeconds {
        let seconds = EPOCH_SECONDS + self.shown_micros(now) / 1_000_000;
        UnixSeconds(u32::try_from(seconds).unwrap_or(0))
    }

    /// What a last-writer-wins version would be: microseconds that only ever mean something on one wall.
    pub(crate) fn stamp(self, now: Micros) -> u64 {
        u64::try_from(self.shown_micros(now) + WALL_BASE_MICROS).unwrap_or(0)
    }

    /// The wall as a duration clock: what the arm that leases by it tells the core.
    pub(crate) fn as_time(self, now: Micros) -> Time {
        Time::from_start(Duration::from_micros(self.stamp(now)))
    }

    /// The first true time at which the wall shows at least this, if nobody steps it.
    pub(crate) fn when(self, shown: Time) -> Micros {
        let micros = i64::try_from(shown.since_start().as_micros()).unwrap_or(i64::MAX);
        let rounded = micros.saturating_add(1 - WALL_BASE_MICROS - self.skew_micros);
        u64::try_from(rounded).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_wakes_no_sooner_than_it_was_asked_to() {
        for ppm in [-5_000, 0, 1, 4_999] {
            let clock = DriftClock::new(123_456, ppm);
            for now in [1, 7, 1_000, 999_999, 60 * SECOND] {
                let shown = clock.at(now);
                assert_eq!(clock.when(shown), now, "{ppm} {now}");
                let later = shown.plus(Duration::from_nanos(1));
                assert_eq!(clock.when(later), now + 1);
            }
        }
    }

    #[test]
    fn a_wall_may_be_stepped_back_without_end() {
        let mut wall = WallClock::new(-3_600);
        let before = wall.as_time(SECOND);
        wall.step(-1_800);
        assert!(wall.as_time(SECOND) < before);
        assert!(wall.when(before) > SECOND);
    }
}
