//! A session that writes wherever the last answer came from, and carries what a client does: of several writes at one run the
//! token of the last, which stands for all of them (G5).

use grapevine_core::id::EventId;

use super::Sim;
use crate::checker::Checker;
use crate::clock::{MILLISECOND, Micros};
use crate::events::Event;
use crate::schedule::ReadOp;

/// How often a reader with a session looks whether its sidecar has caught up with it, and for how long.
const SESSION_PAUSE: Micros = 10 * MILLISECOND;
const SESSION_LOOKS: u32 = 50;
/// Writes of one run that a session remembers, for judging.
const WRITES_MAX: usize = 16;

/// The writes at the run that answered last, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Session(Vec<(EventId, u64)>);

impl Session {
    /// A write was answered. At another run it begins anew.
    pub(super) fn wrote(&mut self, event: EventId, write: u64) {
        if self
            .0
            .last()
            .is_some_and(|(last, _)| last.origin != event.origin)
        {
            self.0.clear();
        }
        if self.0.len() >= WRITES_MAX {
            self.0.remove(0);
        }
        self.0.push((event, write));
    }

    /// What its token names.
    pub(super) fn event(&self) -> Option<EventId> {
        self.0.iter().map(|(event, _)| *event).max()
    }

    /// Of the addresses that its writes cover, the one so far on; any address if they cover none.
    pub(super) fn of_these(&self, address: usize, checker: &Checker) -> usize {
        let known = self.0.iter().filter_map(|(event, _)| checker.known(*event));
        let covered: Vec<_> = known.flat_map(|known| known.covers.iter()).collect();
        match covered.len() {
            0 => address,
            count => covered[address % count],
        }
    }

    /// The newest of its writes that an address depends on, or 0.
    pub(super) fn newest(&self, address: usize, checker: &Checker) -> u64 {
        let covers = |event| {
            checker
                .known(event)
                .is_some_and(|known| known.covers.has(address))
        };
        let writes = self.0.iter().filter(|(event, _)| covers(*event));
        writes.map(|(_, write)| *write).max().unwrap_or(0)
    }
}

/// A reader that waits for what its session has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionWait {
    pub(super) at: usize,
    pub(super) address: usize,
    pub(super) event: EventId,
    pub(super) write: u64,
}

impl Sim<'_> {
    pub(super) fn wait_for_session(
        &mut self,
        op: usize,
        attempt: u32,
        read: &ReadOp,
        wait: SessionWait,
    ) {
        let core = self.nodes[wait.at].core.as_ref();
        let has = core.is_some_and(|core| core.has_all(&[wait.event]));
        if self.nodes[wait.at].answers(self.now) && has {
            // It may read what is newer than its own write, and nothing older.
            return self.resolve(op, read, wait.at, wait.address, wait.write);
        }
        if attempt >= SESSION_LOOKS {
            self.tally.sessions.1 += 1;
            self.tally.bypassed += 1;
            return;
        }
        self.waits.insert(op, wait);
        let attempt = attempt + 1;
        self.after(SESSION_PAUSE, Event::Session { op, attempt });
    }

    /// A reader with a session looks again.
    pub(super) fn look_with_session(&mut self, op: usize, attempt: u32) {
        let wait = self.waits.remove(&op);
        if let (Some(wait), Some(read)) = (wait, self.read_op(op)) {
            self.wait_for_session(op, attempt, &read, wait);
        }
    }
}
