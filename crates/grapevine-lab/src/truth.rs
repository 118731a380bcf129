//! What the source holds, and when it came to hold it: the auditor's measure, and the replay's database.
//!
//! A *counter* is an object or a group of objects; its version starts at 0 and each write makes the next one. For every
//! counter the truth keeps the version that is committed, the version that is *acknowledged* (its write call has returned), and the
//! moment of each commit, so that the age of an old value can be told exactly: it is old since the first version it lacks.
//!
//! Versions are read without a lock. A counter's commits are written one at a time, under its own lock, which a reader takes
//! only for a value already known to be old. Memory: 8 bytes per write, and counters in rows of 1,024 on first use.
//!
//! A value depends on its object and, where there are groups, on the object's group; so its version is a pair.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::table::Table;

/// An object or a group, numbered densely from 0 by whoever makes the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterId(pub u32);

/// A moment, in nanoseconds since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Nanoseconds from an earlier moment to this one; 0 if it is not earlier.
    pub fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a value depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Its object.
    pub object: CounterId,
    /// The group of its object, if there are groups.
    pub group: Option<CounterId>,
}

/// The version of a value: its object's and its group's, 0 for no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// Writes of the object that the value shows.
    pub object: u64,
    /// Writes of the group that the value shows.
    pub group: u64,
}

impl Versions {
    /// Whether this value lacks a write that `other` shows.
    pub fn lacks_some_of(self, other: Self) -> bool {
        self.object < other.object || self.group < other.group
    }

    /// What both values show: the older of each part.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Self {
            object: self.object.min(other.object),
            group: self.group.min(other.group),
        }
    }
}

#[derive(Default)]
struct Counter {
    committed: AtomicU64,
    acknowledged: AtomicU64,
    /// The moment of commit of version 1, 2, ...; never falling.
    commits: Mutex<Vec<Moment>>,
}

/// The counters of a run.
pub struct Truth {
    counters: Table<Counter>,
}

impl Truth {
    /// A truth for counters 0 to below `counters_max`, all at version 0.
    pub fn new(counters_max: u32) -> Self {
        let counters_max = usize::try_from(counters_max).expect("invariant: 32 bits fit a usize");
        Self {
            counters: Table::new(counters_max),
        }
    }

    /// Commits the next version of a counter and answers it. From here on a read of the source shows it.
    pub fn commit(&self, id: CounterId, at: Moment) -> u64 {
        let counter = self.counters.entry(id.0);
        let mut commits = counter.commits.lock();
        let at = commits.last().map_or(at, |last| at.max(*last));
        commits.push(at);
        let version = commits.len() as u64;
        counter.committed.store(version, Ordering::Release);
        version
    }

    /// Notes a commit that a database made and numbered itself. Commits may be told in any order; a version that is told
    /// late counts as committed when the first later one was.
    pub fn committed_as(&self, id: CounterId, version: u64, at: Moment) {
        let counter = self.counters.entry(id.0);
        let mut commits = counter.commits.lock();
        while (commits.len() as u64) < version {
            let at = commits.last().map_or(at, |last| at.max(*last));
            commits.push(at);
        }
        counter.committed.fetch_max(version, Ordering::Release);
    }

    /// Notes that the write call of a version has returned, and so those of all before it count as returned.
    pub fn acknowledge(&self, id: CounterId, version: u64) {
        self.counters
            .entry(id.0)
            .acknowledged
            .fetch_max(version, Ordering::Release);
    }

    /// What a read of the source shows now.
    pub fn committed(&self, subject: Subject) -> Versions {
        self.versions(subject, |counter| &counter.committed)
    }

    /// The latest versions whose write calls have returned.
    pub fn acknowledged(&self, subject: Subject) -> Versions {
        self.versions(subject, |counter| &counter.acknowledged)
    }

    fn versions(&self, subject: Subject, part: impl Fn(&Counter) -> &AtomicU64) -> Versions {
        let load = |id: CounterId| part(self.counters.entry(id.0)).load(Ordering::Acquire);
        Versions {
            object: load(subject.object),
            group: subject.group.map_or(0, load),
        }
    }

    /// When a value of these versions became old: the commit of the first version it lacks. Nothing if it lacks none.
    pub fn old_since(&self, subject: Subject, shown: Versions) -> Option<Moment> {
        let next_commit = |id: CounterId, version: u64| {
            let commits = self.counters.entry(id.0).commits.lock();
            usize::try_from(version)
                .ok()
                .and_then(|next| commits.get(next).copied())
        };
        let object = next_commit(subject.object, shown.object);
        let group = subject.group.and_then(|id| next_commit(id, shown.group));
        object.into_iter().chain(group).min()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const OBJECT: CounterId = CounterId(0);
    const GROUP: CounterId = CounterId(5_000);
    const PLAIN: Subject = Subject {
        object: OBJECT,
        group: None,
    };
    const GROUPED: Subject = Subject {
        object: OBJECT,
        group: Some(GROUP),
    };

    fn shown(object: u64, group: u64) -> Versions {
        Versions { object, group }
    }

    #[test]
    fn a_commit_shows_at_once_and_its_return_later() {
        let truth = Truth::new(10_000);
        assert_eq!(truth.committed(PLAIN), shown(0, 0));
        assert_eq!(truth.commit(OBJECT, Moment(10)), 1);
        assert_eq!(truth.commit(GROUP, Moment(20)), 1);
        assert_eq!(truth.committed(GROUPED), shown(1, 1));
        assert_eq!(truth.committed(PLAIN), shown(1, 0));
        assert_eq!(truth.acknowledged(GROUPED), shown(0, 0));
        truth.acknowledge(OBJECT, 1);
        assert_eq!(truth.acknowledged(GROUPED), shown(1, 0));
    }

    #[test]
    fn returns_out_of_order_never_take_back() {
        let truth = Truth::new(1);
        truth.commit(OBJECT, Moment(1));
        truth.commit(OBJECT, Moment(2));
        truth.acknowledge(OBJECT, 2);
        truth.acknowledge(OBJECT, 1);
        assert_eq!(truth.acknowledged(PLAIN), shown(2, 0));
    }

    #[test]
    fn a_value_is_old_since_the_first_version_it_lacks() {
        let truth = Truth::new(10_000);
        for at in [10, 20, 30] {
            truth.commit(OBJECT, Moment(at));
        }
        truth.commit(GROUP, Moment(15));
        assert_eq!(truth.old_since(PLAIN, shown(3, 0)), None);
        assert_eq!(truth.old_since(PLAIN, shown(2, 0)), Some(Moment(30)));
        assert_eq!(truth.old_since(PLAIN, shown(0, 0)), Some(Moment(10)));
        assert_eq!(truth.old_since(GROUPED, shown(3, 0)), Some(Moment(15)));
        assert_eq!(truth.old_since(GROUPED, shown(1, 0)), Some(Moment(15)));
        assert_eq!(truth.old_since(GROUPED, shown(0, 1)), Some(Moment(10)));
        assert_eq!(truth.old_since(GROUPED, shown(3, 1)), None);
    }

    #[test]
    fn versions_numbered_by_a_database_may_be_told_in_any_order() {
        let truth = Truth::new(1);
        truth.committed_as(OBJECT, 2, Moment(20));
        truth.committed_as(OBJECT, 1, Moment(10));
        truth.committed_as(OBJECT, 3, Moment(5));
        assert_eq!(truth.committed(PLAIN), shown(3, 0));
        assert_eq!(truth.old_since(PLAIN, shown(0, 0)), Some(Moment(20)));
        assert_eq!(truth.old_since(PLAIN, shown(2, 0)), Some(Moment(20)));
    }

    #[test]
    fn no_commit_of_many_threads_is_lost() {
        let truth = Truth::new(1);
        thread::scope(|scope| {
            for thread in 0..4 {
                let truth = &truth;
                scope.spawn(move || {
                    for n in 0..1_000 {
                        let version = truth.commit(OBJECT, Moment(thread * 1_000 + n));
                        assert!(truth.committed(PLAIN).object >= version);
                    }
                });
            }
        });
        assert_eq!(truth.committed(PLAIN).object, 4_000);
        let moments: Vec<_> = (0..4_000)
            .map(|v| truth.old_since(PLAIN, shown(v, 0)))
            .collect();
        assert!(moments.is_sorted());
    }

    #[test]
    fn what_two_values_both_show_is_the_older_of_each_part() {
        assert_eq!(shown(3, 1).meet(shown(2, 4)), shown(2, 1));
        assert!(shown(2, 4).lacks_some_of(shown(3, 1)));
        assert!(!shown(3, 1).lacks_some_of(shown(3, 1)));
    }
}
