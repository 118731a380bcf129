//! The queue of events to come.
//!
//! Each has a true time; what falls on the same microsecond is ordered by a random tie-break, and then by when it was
//! put in, so the order is total and the same for the same seed.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::clock::Micros;

#[derive(Debug)]
struct Entry<E> {
    key: (Micros, u32, u64),
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// Events to come.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    count: u64,
    ties: SmallRng,
}

impl<E> Queue<E> {
    /// An empty queue with its stream of tie-breaks.
    pub(crate) fn new(ties: SmallRng) -> Self {
        Self {
            heap: BinaryHeap::new(),
            count: 0,
            ties,
        }
    }

    /// Puts an event in.
    pub(crate) fn push(&mut self, at: Micros, event: E) {
        let key = (at, self.ties.random(), self.count);
        self.count += 1;
        self.heap.push(Reverse(Entry { key, event }));
    }

    /// Takes the next event out, if it is due by then.
    pub(crate) fn pop(&mut self, until: Micros) -> Option<(Micros, E)> {
        let Reverse(next) = self.heap.peek()?;
        if next.key.0 > until {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.key.0, entry.event))
    }
}
