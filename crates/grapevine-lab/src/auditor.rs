//! The judge of what readers were given. It stands outside Grapevine: it knows only the truth, when each read began, and what each
//! read returned.
//!
//! A reader calls [`Auditor::begin`] before it does anything else, and [`Auditor::judge`] with the versions of the value that it
//! was given. A value may then be
//!
//! - **stale**: it lacks a write that was *promised* to the read. Which writes are promised depends on the run ([`Promise`]): those
//!   whose write call had returned before the read began, those that the reader's own session had made, or none.
//! - **lagging**: it lacks a write that was committed before the read began. Every stale value is lagging as well. Its *age* is the
//!   time from the commit of the first write that it lacks to the beginning of the read.
//! - **ahead**: it shows a write that the truth does not know. Only a damaged value can.
//! - **fresh**: none of these. A write that was committed after the read began may show or not.
//!
//! What is promised is looked up before what is committed, and both before the read: so a write that returns while a read begins is
//! never held against that read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::histogram::Histogram;
use crate::truth::{CounterId, Moment, Subject, Truth, Versions};

/// Which writes a read is owed.
#[derive(Debug, Clone, Copy)]
pub enum Promise<'a> {
    /// Every write, by anyone, whose call has returned.
    Everyone,
    /// The returned writes of the reader's own session.
    Session(&'a SessionPast),
    /// None: old values are lagging, never stale.
    Nobody,
}

/// The returned writes of one session. One entry per object or group that it wrote.
#[derive(Debug, Clone, Default)]
pub struct SessionPast {
    versions: HashMap<CounterId, u64>,
}

impl SessionPast {
    /// Notes a write whose call has returned.
    pub fn wrote(&mut self, id: CounterId, version: u64) {
        let known = self.versions.entry(id).or_default();
        *known = version.max(*known);
    }

    fn versions(&self, subject: Subject) -> Versions {
        let of = |id: CounterId| self.versions.get(&id).copied().unwrap_or(0);
        Versions {
            object: of(subject.object),
            group: subject.group.map_or(0, of),
        }
    }
}

/// A read that has begun.
#[derive(Debug, Clone, Copy)]
#[must_use = "a read that began is to be judged"]
pub struct Begun {
    subject: Subject,
    promised: Versions,
    committed: Versions,
    at: Moment,
}

/// What a read was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that it was owed, and all that was committed.
    Fresh,
    /// An old value, though none that it was promised not to get.
    Lagging {
        /// For how long the value had been old when the read began.
        age: Duration,
    },
    /// An old value that it was promised not to get.
    Stale {
        /// For how long the value had been old when the read began.
        age: Duration,
    },
    /// A value of a version that nobody wrote.
    Ahead,
}

/// The judge.
#[derive(Clone)]
pub struct Auditor {
    truth: Arc<Truth>,
}

impl Auditor {
    /// A judge by this truth.
    pub fn new(truth: Arc<Truth>) -> Self {
        Self { truth }
    }

    /// Notes what a read is owed. `now` tells the moment, and is asked last.
    pub fn begin(
        &self,
        subject: Subject,
        promise: Promise<'_>,
        now: impl FnOnce() -> Moment,
    ) -> Begun {
        let promised = match promise {
            Promise::Everyone => self.truth.acknowledged(subject),
            Promise::Session(past) => past.versions(subject),
            Promise::Nobody => Versions::default(),
        };
        let committed = self.truth.committed(subject);
        Begun {
            subject,
            promised,
            committed,
            at: now(),
        }
    }

    /// Judges the value that a read was given.
    pub fn judge(&self, begun: &Begun, shown: Versions) -> Verdict {
        if self.truth.committed(begun.subject).lacks_some_of(shown) {
            return Verdict::Ahead;
        }
        let stale = shown.lacks_some_of(begun.promised);
        if !stale && !shown.lacks_some_of(begun.committed) {
            return Verdict::Fresh;
        }
        let old_since = self
            .truth
            .old_since(begun.subject, shown)
            .unwrap_or(begun.at);
        let age = Duration::from_nanos(begun.at.since_ns(old_since));
        if stale {
            Verdict::Stale { age }
        } else {
            Verdict::Lagging { age }
        }
    }
}

/// Verdicts, counted. Each worker keeps its own; they are merged at the end.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Reads judged.
    pub reads: u64,
    /// Reads given what they were promised not to get.
    pub stale: u64,
    /// Reads given an old value, stale ones included.
    pub lagging: u64,
    /// Reads given a version that nobody wrote.
    pub ahead: u64,
    /// Ages of old values, stale ones included.
    pub age: Histogram,
}

impl Tally {
    /// Counts a verdict.
    pub fn count(&mut self, verdict: Verdict) {
        self.reads += 1;
        match verdict {
            Verdict::Fresh => {}
            Verdict::Lagging { age } => {
                self.lagging += 1;
                self.age.record(age);
            }
            Verdict::Stale { age } => {
                self.stale += 1;
                self.lagging += 1;
                self.age.record(age);
            }
            Verdict::Ahead => self.ahead += 1,
        }
    }

    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Self) {
        self.reads += other.reads;
        self.stale += other.stale;
        self.lagging += other.lagging;
        self.ahead += other.ahead;
        self.age.merge(&other.age);
    }

    /// The greatest age of an old value; zero if none was old.
    pub fn oldest(&self) -> Duration {
        self.age.max().unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "auditor_tests.rs"]
mod tests;
