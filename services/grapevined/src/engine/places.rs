//! Places of which there are only so many: of watchers, streams, waits for sessions.
//!
//! One connection takes a quarter of them at most, so that one client that goes wild, or never ends what it begins, does
//! not keep all others out. Where there are few a connection may have 16 all the same: somebody has to be able to use them.
//!
//! A connection also keeps what its refusals are charged that are not written yet: they are heads without a body, which HTTP/2 sends
//! without asking whether the caller has room, so there are no bytes that could carry the charge.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::telemetry::Counters;
use crate::wire::status::exhausted;

/// The places that one connection may have of any kind, however few there are.
const SHARE_LEAST: usize = 16;

/// A connection, as far as places go; each of its calls carries it.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfConnection {
    /// What its calls have of each kind of places; the kinds are few.
    taken: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    /// What each refusal is charged that is not written, in the order in which they were made; nothing where there was no room.
    refusals: Arc<Mutex<VecDeque<Option<OwnedSemaphorePermit>>>>,
}

impl OfConnection {
    /// Keeps what a refusal is charged, if there was room for it, until it is written.
    pub(crate) fn keep(&self, charge: Option<OwnedSemaphorePermit>) {
        self.refusals.lock().push_back(charge);
    }

    /// So many refusals were written. And so many calls have no answer that has begun: others cannot have one that is unwritten, for
    /// whoever resets a call takes its refusal with it.
    pub(crate) fn written(&self, refusals: usize, unanswered: usize) {
        let unwritten = &mut self.refusals.lock();
        let written = refusals.max(unwritten.len().saturating_sub(unanswered));
        let written = written.min(unwritten.len());
        drop(unwritten.drain(..written));
    }
}

/// So many places of a kind. A further caller is refused at once, and told the limit.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    /// What has them all, and the limit's name.
    taken_by: &'static str,
    counters: Arc<Counters>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    connection: Option<OfConnection>,
    taken_by: &'static str,
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

    /// A place for a call of a connection, if it is of one.
    pub(crate) fn take(&self, connection: Option<&OfConnection>) -> Result<Place, Status> {
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            return Err(self.refuse(format!("{} {}", self.most, self.taken_by)));
        };
        if let Some(connection) = connection {
            let share = (self.most / 4).max(SHARE_LEAST);
            let mut taken = connection.taken.lock();
            let taken = taken.entry(self.taken_by).or_default();
            if *taken >= share {
                return Err(self.refuse(format!(
                    "{share} {} on this connection; one connection may have a quarter of {}, and at least {SHARE_LEAST}",
                    self.taken_by, self.most
                )));
            }
            *taken += 1;
        }
        Ok(Place {
            _permit: permit,
            connection: connection.cloned(),
            taken_by: self.taken_by,
        })
    }

    fn refuse(&self, message: String) -> Status {
        self.counters.refused(self.taken_by);
        exhausted(message, Duration::from_secs(1))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection
            && let Some(taken) = connection.taken.lock().get_mut(self.taken_by)
        {
            *taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tonic::Code;

    use super::*;

    #[test]
    fn g10_one_connection_takes_a_quarter_of_the_places_at_most() {
        let counters = Arc::default();
        let kind = "chairs are taken already (limits.chairs_max)";
        let places = Places::new(100, kind, &counters);
        let connections: [OfConnection; 5] = Default::default();
        let greedy = Some(&connections[0]);
        let mut taken: Vec<_> = (0..25).map(|_| places.take(greedy).unwrap()).collect();
        let refused = places.take(greedy).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().starts_with("25 chairs"), "{refused}");
        assert!(refused.message().contains("on this connection"));
        // Others have theirs, and another kind of places is another matter.
        places.take(Some(&connections[1])).unwrap();
        let others = Places::new(100, "tables are taken (limits.tables_max)", &counters);
        others.take(greedy).unwrap();
        // What is given back is there again.
        taken.pop();
        taken.push(places.take(greedy).unwrap());
        for connection in &connections[1..4] {
            taken.extend((0..25).map(|_| places.take(Some(connection)).unwrap()));
        }
        let refused = places.take(Some(&connections[4])).unwrap_err();
        assert_eq!(refused.message(), format!("100 {kind}"));
        places.take(None).unwrap_err();
        // Of few places one connection may have more than a quarter.
        let few = Places::new(17, kind, &counters);
        taken.clear();
        taken.extend((0..16).map(|_| few.take(greedy).unwrap()));
        few.take(greedy).unwrap_err();
        few.take(Some(&connections[1])).unwrap();
    }
}
