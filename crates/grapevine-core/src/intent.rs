//! Write intents: what a writer declares before its database commits.
//!
//! An intent names the classes, or the rows, of a write under way and a lease. While it is open, somebody owes those a bump: the
//! application by its commit, or else, when the lease ends, the sidecar that took the intent or a peer that holds it for
//! that case. The lease counts, for the application, from when it made the call; every sidecar counts from a later
//! moment and stretches it by the clock-rate bound, so none of them bumps while the application's lease still holds. The
//! bytes of an intent's name are opaque to applications; docs/formats.md draws them.

use std::borrow::Cow;
use std::time::Duration;

use crate::criteria::table_class;
use crate::event::{Bump, BumpEvent, PurgeMode, RowImage, RowsChanged};
use crate::id::{Incarnation, NAMED_BYTES, NamedError, named_bytes, read_named};
use crate::names::ClassPath;

/// The shortest lease of an intent: a few round trips and flushes.
pub const INTENT_LEASE_MIN: Duration = Duration::from_millis(100);
/// The longest lease of an intent: so long an application's death may go unnoticed.
pub const INTENT_LEASE_MAX: Duration = Duration::from_mins(10);
/// How long a peer that holds an intent waits, once it counts its lease as over, for the origin's word before it bumps.
/// Raising it costs staleness after a sidecar died beside an application; lowering it costs doubled bumps where news is slow.
pub const INTENT_GRACE: Duration = Duration::from_secs(1);

/// The version of the byte form, first in it.
const INTENT_VERSION: u8 = 1;

/// Names a write intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId {
    /// The run that took it.
    pub origin: Incarnation,
    /// Its number there: random, so that nobody ends another's write by guessing.
    pub number: u64,
}

impl IntentId {
    /// The byte form.
    pub fn to_bytes(self) -> [u8; NAMED_BYTES] {
        named_bytes(INTENT_VERSION, self.origin, self.number)
    }

    /// Reads the byte form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NamedError> {
        let (origin, number) = read_named(bytes, INTENT_VERSION)?;
        Ok(Self { origin, number })
    }
}

/// What an intent owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// A bump of classes.
    Classes(Bump),
    /// A change of rows.
    Rows(RowsChanged),
}

/// So many bytes of what is known of rows weigh as much as a class.
const BYTES_PER_CLASS: usize = 32;

impl Owed {
    /// As how many classes it counts.
    pub fn weight(&self) -> usize {
        match self {
            Self::Classes(bump) => bump.classes.len(),
            Self::Rows(changed) => {
                let images = changed.rows.iter();
                let weights = images.map(|image| 1 + image.bytes() / BYTES_PER_CLASS);
                weights.sum()
            }
        }
    }

    /// The classes that it names: of rows, those of their tables.
    pub fn classes(&self) -> Cow<'_, [ClassPath]> {
        match self {
            Self::Classes(bump) => Cow::Borrowed(&bump.classes),
            Self::Rows(changed) => {
                let images = changed.rows.iter();
                Cow::Owned(images.map(|image| table_class(&image.rows.table)).collect())
            }
        }
    }

    /// Whether an event does what is owed, and as hard. An answer no may be wrong.
    pub fn is_covered_by(&self, event: &BumpEvent) -> bool {
        match (self, event) {
            (Self::Classes(owed), BumpEvent::Bump(bump)) => bump.covers(owed),
            (Self::Rows(owed), BumpEvent::Rows(changed)) => {
                let hard = changed.purge == PurgeMode::Hard || owed.purge == PurgeMode::Soft;
                // A row that is new may have had no id when it was declared.
                let same = |owed: &RowImage, image: &RowImage| {
                    let identity = owed.identity.is_none() || owed.identity == image.identity;
                    identity && owed.moment == image.moment && owed.rows == image.rows
                };
                // Each counts for one: of two new rows that are equal but for their ids both must be there. Those with an id first.
                let mut left: Vec<_> = changed.rows.iter().collect();
                let mut owed: Vec<_> = owed.rows.iter().collect();
                owed.sort_by_key(|image| image.identity.is_none());
                hard && owed.iter().all(|owed| {
                    let found = left.iter().position(|image| same(owed, image));
                    found.map(|at| left.swap_remove(at)).is_some()
                })
            }
            _ => false,
        }
    }

    /// What is owed where nobody knows whether the rows were written: of none of them it is said where it is now.
    #[must_use]
    pub fn unsure(mut self) -> Self {
        if let Self::Rows(changed) = &mut self {
            for image in &mut changed.rows {
                *image = RowImage::from(image.rows.clone());
            }
        }
        self
    }
}

impl From<Owed> for BumpEvent {
    fn from(owed: Owed) -> Self {
        match owed {
            Owed::Classes(bump) => Self::Bump(bump),
            Owed::Rows(changed) => Self::Rows(changed),
        }
    }
}

/// A write intent, as it is stored and told to peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its name.
    pub id: IntentId,
    /// What is owed.
    pub owed: Owed,
    /// How long it holds: stored at its origin, all of it; told to a peer, what is left of it.
    pub lease: Duration,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_byte_form_comes_back_and_nothing_else_does() {
        let id = IntentId {
            origin: Incarnation::new(77).unwrap(),
            number: 42,
        };
        let bytes = id.to_bytes();
        assert!(bytes.len() <= 64, "what the contract says");
        assert_eq!(IntentId::from_bytes(&bytes), Ok(id));
        let wrong = |bytes: &[u8]| IntentId::from_bytes(bytes).unwrap_err().to_string();
        assert_eq!(wrong(&bytes[1..]), "24 bytes; it has 25");
        assert_eq!(wrong(b""), "0 bytes; it has 25");
        let mut foreign = bytes;
        foreign[0] = 9;
        assert_eq!(wrong(&foreign), "version 9; it must be 1");
        let mut of_none = bytes;
        of_none[1..17].fill(0);
        assert!(wrong(&of_none).contains("a run whose number is 0"));
    }
}
