//! The clock of a run.

use std::time::Instant;

use crate::truth::Moment;

/// Tells moments since the run began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Moment {
        self.at(Instant::now())
    }

    pub(crate) fn at(self, instant: Instant) -> Moment {
        let since = instant.saturating_duration_since(self.0);
        Moment(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
