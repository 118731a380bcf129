//! Places of which there are only so many: of watchers, streams, waits for sessions.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::telemetry::Counters;
use crate::wire::status::exhausted;

/// So many places of a kind. A further caller is refused at once, and told the limit.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    /// What has them all, and the limit's name.
    taken_by: &'static str,
    counters: Arc<Counters>,
}

impl Places {
    pub(crate) fn new(most: usize, taken_by: &'static str, counters: &Arc<Counters>) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            taken_by,
            counters: counters.clone(),
        }
    }

    /// A place, kept as long as the permit is.
    pub(crate) fn take(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.free.clone().try_acquire_owned().map_err(|_| {
            self.counters.refused(self.taken_by);
            let message = format!("{} {}", self.most, self.taken_by);
            exhausted(message, Duration::from_secs(1))
        })
    }
}
