//! How long an invalidation takes until every sidecar has applied it, told from outside: the writer notes when it made the call
//! and which event came of it, a watcher on each sidecar notes when it saw the event.
//!
//! The two come in any order. Events that are not complete yet are held in a table of bounded size; at the bound the
//! oldest one is given up and counted, as are those that a watcher's RESYNC may have swallowed: they stay incomplete until they are
//! oldest. So a figure always comes with the number of events it rests on.

use std::collections::{HashMap, VecDeque};

use crate::histogram::Histogram;
use crate::truth::Moment;

/// An event's identity: incarnation and sequence.
pub type EventKey = ([u8; 16], u64);

/// An event's identity as it comes over the wire, if it is well-formed.
pub(crate) fn event_key(incarnation: &[u8], sequence: u64) -> Option<EventKey> {
    Some((incarnation.try_into().ok()?, sequence))
}

struct Pending {
    called: Option<Moment>,
    seen: u32,
    last_seen: Moment,
}

/// Measures convergence over all sidecars.
pub struct Convergence {
    nodes: u32,
    pending_max: usize,
    pending: HashMap<EventKey, Pending>,
    /// Keys of `pending` in the order they came, with some that are complete already.
    order: VecDeque<EventKey>,
    times: Histogram,
    given_up: u64,
}

impl Convergence {
    /// A measure over `nodes` watchers that holds at most `pending_max` incomplete events.
    pub fn new(nodes: u32, pending_max: usize) -> Self {
        Self {
            nodes,
            pending_max: pending_max.max(1),
            pending: HashMap::new(),
            order: VecDeque::new(),
            times: Histogram::default(),
            given_up: 0,
        }
    }

    /// The writer's word: the call that became this event was made at this moment.
    pub fn called(&mut self, event: EventKey, at: Moment) {
        self.entry(event).called = Some(at);
        self.complete(event);
    }

    /// One watcher's word: its sidecar applied this event. Each watcher says it once per event.
    pub fn seen(&mut self, event: EventKey, at: Moment) {
        let pending = self.entry(event);
        pending.seen += 1;
        pending.last_seen = pending.last_seen.max(at);
        self.complete(event);
    }

    fn entry(&mut self, event: EventKey) -> &mut Pending {
        if !self.pending.contains_key(&event) {
            while self.order.len() >= self.pending_max {
                let oldest = self
                    .order
                    .pop_front()
                    .expect("invariant: the queue is not empty");
                self.given_up += u64::from(self.pending.remove(&oldest).is_some());
            }
            self.order.push_back(event);
        }
        self.pending.entry(event).or_insert(Pending {
            called: None,
            seen: 0,
            last_seen: Moment::default(),
        })
    }

    fn complete(&mut self, event: EventKey) {
        let Some(pending) = self.pending.get(&event) else {
            return;
        };
        if let Some(called) = pending.called
            && pending.seen >= self.nodes
        {
            self.times.record_ns(pending.last_seen.since_ns(called));
            self.pending.remove(&event);
        }
    }

    /// Times from the call to the last sidecar's having applied the event.
    pub fn times(&self) -> &Histogram {
        &self.times
    }

    /// Events met so far, by a writer's word or a watcher's, complete or not.
    pub fn events(&self) -> u64 {
        self.times.total() + self.incomplete()
    }

    /// Events whose call was told and that some watcher has not seen: given up at the bound, or still waiting.
    pub fn unknown(&self) -> u64 {
        let called = self.pending.values().filter(|event| event.called.is_some());
        self.given_up + called.count() as u64
    }

    /// Events that are not complete: given up at the bound, or still waiting.
    pub fn incomplete(&self) -> u64 {
        self.given_up + self.pending.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(sequence: u64) -> EventKey {
        ([7; 16], sequence)
    }

    #[test]
    fn an_event_takes_until_the_last_sidecar_saw_it() {
        let mut measure = Convergence::new(3, 10);
        measure.seen(event(1), Moment(150));
        measure.called(event(1), Moment(100));
        measure.seen(event(1), Moment(400));
        assert_eq!(measure.times().total(), 0);
        assert_eq!((measure.unknown(), measure.events()), (1, 1));
        measure.seen(event(1), Moment(300));
        assert_eq!(measure.times().total(), 1);
        assert_eq!(measure.times().max(), Some(Duration::from_nanos(300)));
        assert_eq!((measure.incomplete(), measure.unknown()), (0, 0));
        assert_eq!(measure.events(), 1);
    }

    #[test]
    fn events_seen_everywhere_wait_for_the_writers_word() {
        let mut measure = Convergence::new(1, 10);
        measure.seen(event(1), Moment(150));
        assert_eq!((measure.times().total(), measure.incomplete()), (0, 1));
        assert_eq!((measure.unknown(), measure.events()), (0, 1));
        measure.called(event(1), Moment(50));
        assert_eq!(measure.times().max(), Some(Duration::from_nanos(100)));
    }

    #[test]
    fn at_the_bound_the_oldest_incomplete_event_is_given_up_and_counted() {
        let mut measure = Convergence::new(2, 100);
        for sequence in 0..1_000 {
            measure.called(event(sequence), Moment(sequence));
            measure.seen(event(sequence), Moment(sequence + 1));
        }
        assert!(measure.pending.len() <= 100 && measure.order.len() <= 100);
        assert_eq!(measure.incomplete(), 1_000);
        measure.seen(event(999), Moment(2_000));
        assert_eq!((measure.times().total(), measure.incomplete()), (1, 999));
    }

    #[test]
    fn complete_events_do_not_count_as_given_up() {
        let mut measure = Convergence::new(1, 4);
        for sequence in 0..100 {
            measure.called(event(sequence), Moment(sequence));
            measure.seen(event(sequence), Moment(sequence + 1));
        }
        assert_eq!((measure.times().total(), measure.incomplete()), (100, 0));
    }
}
