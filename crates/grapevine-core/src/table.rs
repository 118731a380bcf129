//! What a client-local table is told, in order: notices and leases.
//!
//! A sidecar keeps a [`Mailbox`] for each table's stream. It is bounded: what does not fit becomes one notice of everything, and a
//! lease stays behind whatever was told before it was given. docs/formats.md draws the protocol.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::names::ClassPath;

/// Notices that wait for a table's stream; beyond, they become one of everything.
pub const NOTICES_MAX: usize = 1_024;
/// Classes that these name together; beyond, the same.
pub const CLASSES_MAX: usize = 10_000;
/// Classes in one message, unless one notice has more.
pub const MESSAGE_CLASSES_MAX: usize = 1_000;

/// Names a table at one run of a sidecar; drawn at random, so that it says nothing at another one. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u64);

/// What has changed: nothing older may be served from a table once its notice is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// These classes, and all below them.
    Classes(Arc<[ClassPath]>),
    /// Whatever there is.
    Everything,
}

/// A lease, or the word that there is none now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLease {
    /// The request that it answers.
    pub request: u64,
    /// For how long from when that was sent, on the client's clock; zero for no lease.
    pub duration: Duration,
}

/// One message to a table: its notices come before its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// Up to where notices are told with this one; 0 for none.
    pub position: u64,
    /// Classes that changed.
    pub classes: Vec<ClassPath>,
    /// Whether everything did.
    pub everything: bool,
    /// The lease given after them.
    pub lease: Option<TableLease>,
}

/// What waits for one table's stream.
#[derive(Clone, Debug, Default)]
pub struct Mailbox {
    notices: VecDeque<(u64, Arc<[ClassPath]>)>,
    classes: usize,
    /// Everything changed, up to this position: it comes before the notices.
    everything: Option<u64>,
    lease: Option<TableLease>,
}

impl Mailbox {
    /// Puts a notice behind what waits; tells whether others became one of everything with it, for want of room.
    pub fn notice(&mut self, position: u64, notice: &Notice) -> bool {
        let added = match notice {
            Notice::Classes(classes) => classes,
            Notice::Everything => {
                self.collapse(position);
                return false;
            }
        };
        let full = self.notices.len() >= NOTICES_MAX || self.classes + added.len() > CLASSES_MAX;
        if full {
            self.collapse(position);
        } else {
            self.classes += added.len();
            self.notices.push_back((position, added.clone()));
        }
        full
    }

    fn collapse(&mut self, position: u64) {
        self.notices.clear();
        self.classes = 0;
        self.everything = Some(position);
    }

    /// Puts a lease behind whatever waits. It takes the place of an earlier one, which nobody has used yet.
    pub fn lease(&mut self, lease: TableLease) {
        self.lease = Some(lease);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.everything.is_none() && self.lease.is_none()
    }

    /// Takes the next message. A lease comes with the last of the notices: later ones may have come in before it, and that harms
    /// nothing.
    pub fn take(&mut self) -> Option<Letter> {
        if self.is_empty() {
            return None;
        }
        let mut letter = Letter::default();
        if let Some(position) = self.everything.take() {
            letter.position = position;
            letter.everything = true;
        }
        while let Some((position, classes)) = self.notices.front() {
            let more = letter.classes.len() + classes.len();
            if more > MESSAGE_CLASSES_MAX && !letter.classes.is_empty() {
                break;
            }
            letter.position = *position;
            letter.classes.extend(classes.iter().cloned());
            self.classes -= classes.len();
            self.notices.pop_front();
        }
        if self.notices.is_empty() {
            letter.lease = self.lease.take();
        }
        Some(letter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn classes(from: usize, count: usize) -> Notice {
        let paths = (from..from + count).map(|n| ClassPath::parse(&format!("c/{n}")).unwrap());
        Notice::Classes(paths.collect())
    }

    fn lease(request: u64) -> TableLease {
        TableLease {
            request,
            duration: Duration::from_secs(1),
        }
    }

    #[test]
    fn g10_what_does_not_fit_becomes_everything_and_nothing_is_left_out() {
        let mut mailbox = Mailbox::default();
        for position in 1..=NOTICES_MAX as u64 {
            assert!(!mailbox.notice(position, &classes(1, 2)));
        }
        mailbox.lease(lease(7));
        assert!(mailbox.notice(2_000, &classes(1, 1)), "it is full");
        assert!(!mailbox.notice(2_001, &classes(5, 1)));
        let letter = mailbox.take().unwrap();
        assert!(letter.everything);
        assert_eq!((letter.position, letter.classes.len()), (2_001, 1));
        assert_eq!(letter.lease, Some(lease(7)));
        assert!(mailbox.is_empty());
        // Many classes in few notices.
        for position in 1..=10 {
            assert!(!mailbox.notice(position, &classes(1, CLASSES_MAX / 10)));
        }
        assert!(mailbox.notice(11, &classes(1, 1)));
        assert_eq!(mailbox.take().map(|it| it.everything), Some(true));
    }

    #[test]
    fn g7_a_lease_comes_behind_the_notices_that_were_there_before_it() {
        let mut mailbox = Mailbox::default();
        for position in 1..=4 {
            mailbox.notice(position, &classes(1, MESSAGE_CLASSES_MAX / 2));
        }
        mailbox.lease(lease(1));
        mailbox.notice(5, &classes(1, 1));
        let letters: Vec<_> = std::iter::from_fn(|| mailbox.take()).collect();
        let told = letters.iter().map(|it| (it.position, it.lease.is_some()));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [(2, false), (4, false), (5, true)]
        );
        mailbox.lease(lease(1));
        mailbox.lease(lease(2));
        let letter = mailbox.take().unwrap();
        assert_eq!((letter.position, letter.lease), (0, Some(lease(2))));
    }
}
