//! Calls that wait until events of their session are applied here (G5).
//!
//! Each waits for one event at a time, and for all that its run issued before it, under that event's name, so that an applied
//! event wakes those whom it concerns and nobody else. There are only so many places; a further call is refused at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use grapevine_core::id::EventId;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use super::places::{Place, Places};
use super::stopping;
use crate::telemetry::Counters;

/// Who waits, by the event; numbers tell those of one event apart.
#[derive(Debug, Default)]
struct Table {
    waiting: BTreeMap<(EventId, u64), oneshot::Sender<()>>,
    last: u64,
    /// Nobody waits any more.
    closed: bool,
}

/// The calls that wait.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    table: Arc<Mutex<Table>>,
    places: Places,
}

impl Sessions {
    pub(crate) fn new(waits_max: usize, counters: &Arc<Counters>) -> Self {
        let taken_by = "calls wait for their sessions already (limits.session_waits_max)";
        Self {
            table: Arc::default(),
            places: Places::new(waits_max, taken_by, counters),
        }
    }

    /// A place for a call, for as long as it waits.
    pub(super) fn place(&self) -> Result<Place, Status> {
        self.places.take(None)
    }

    /// Begins to wait for an event. It may have been applied already: look after this, then wait.
    pub(super) fn wait_for(&self, event: EventId) -> Result<Waiting, Status> {
        let (wakes, woken) = oneshot::channel();
        let mut table = self.table.lock();
        if table.closed {
            return Err(stopping());
        }
        table.last += 1;
        let key = (event, table.last);
        table.waiting.insert(key, wakes);
        let table = self.table.clone();
        Ok(Waiting { table, key, woken })
    }

    /// An event was applied: wakes who waits for one of its run that has none missing before it any more, which is told by how
    /// far that run's events are complete.
    pub(super) fn applied(&self, event: EventId, complete: impl FnOnce() -> u64) {
        if self.table.lock().waiting.is_empty() {
            return;
        }
        let at = |sequence| EventId { sequence, ..event };
        let (first, last) = ((at(0), 0), (at(complete()), u64::MAX));
        let mut table = self.table.lock();
        while let Some((&key, _)) = table.waiting.range(first..=last).next() {
            // Nobody listening is no error.
            let _ = table.waiting.remove(&key).map(|wakes| wakes.send(()));
        }
    }

    /// Wakes all: a state was adopted whole, and nobody knows which events were in it.
    pub(super) fn all_applied(&self) {
        for wakes in std::mem::take(&mut self.table.lock().waiting).into_values() {
            // Nobody listening is no error.
            let _ = wakes.send(());
        }
    }

    /// Nobody waits from now on, for this sidecar drains or its loop ended: who does is told to call another one.
    pub(crate) fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        table.waiting.clear();
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.table.lock().waiting.len()
    }
}

/// A call that waits for an event.
pub(super) struct Waiting {
    table: Arc<Mutex<Table>>,
    key: (EventId, u64),
    woken: oneshot::Receiver<()>,
}

impl Waiting {
    /// Waits. An error means that the sidecar stops, and that nobody knows whether the event will be applied here.
    pub(super) async fn woken(mut self) -> Result<(), Status> {
        (&mut self.woken).await.map_err(|_| stopping())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.table.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use grapevine_core::id::Incarnation;
    use tonic::Code;

    use super::*;

    fn event(sequence: u64) -> EventId {
        EventId {
            origin: Incarnation::from_random(7, 0),
            sequence,
        }
    }

    #[tokio::test]
    async fn g5_an_applied_event_wakes_those_who_wait_for_what_is_complete_and_no_others() {
        let sessions = Sessions::new(10, &Arc::default());
        let [first, same, other] = [2, 2, 3].map(|at| sessions.wait_for(event(at)).unwrap());
        let gone = sessions.wait_for(event(1)).unwrap();
        drop(gone);
        assert_eq!(sessions.waiting(), 3);
        sessions.applied(event(2), || 0);
        assert_eq!(sessions.waiting(), 3, "the first is missing");
        sessions.applied(event(1), || 2);
        assert_eq!(sessions.waiting(), 1);
        first.woken().await.unwrap();
        same.woken().await.unwrap();
        sessions.all_applied();
        other.woken().await.unwrap();
        let late = sessions.wait_for(event(4)).unwrap();
        sessions.close();
        assert_eq!(late.woken().await.unwrap_err().code(), Code::Unavailable);
        assert!(sessions.wait_for(event(4)).is_err());
    }
}
