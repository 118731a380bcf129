//! What happened in an arm, for whoever judges it: which commits had been told when a read began, which question it asked, and from which
//! commit its answer was.
//!
//! A commit counts as *told* when the call that told of it has returned. What everybody may count on are the commits up to the first one that
//! has not been told yet.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use crate::ask::Ask;

/// How a read was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Without the database.
    Cache,
    /// The database was asked, and the cache was given what it said.
    Database,
    /// The database was asked, and the cache left alone.
    Bypass,
}

/// A part of what a reader was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The question that it answers.
    pub key: Key,
    /// The last commit that it can have seen.
    pub commit: u32,
    /// What it says.
    pub hash: u64,
}

/// A read.
#[derive(Debug, Clone)]
pub struct Read {
    /// The question.
    pub key: Key,
    /// Its place among the beginnings and ends of all reads.
    pub began: u64,
    /// Commits up to this one had all been told when it began.
    pub told: u32,
    /// Commits when it had ended.
    pub until: u32,
    /// The commits that its session had made, and been told of, when it began.
    pub owed: Vec<u32>,
    /// What was given: one piece, or one for each row of a list.
    pub pieces: Vec<Piece>,
    /// Of a list that was given as rows: their ids, in order.
    pub list: Option<Vec<i64>>,
    /// Where it came from.
    pub source: Source,
    /// The database said what the cache had been given before.
    pub needless: bool,
}

/// A question, by the order in which it was first asked.
pub type Key = u32;

/// The book of an arm.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    clock: u64,
    keys: HashMap<Ask, Key>,
    asks: Vec<Ask>,
    /// Of each key what the database said last, and when that reader had it.
    given: HashMap<Key, (u64, u64)>,
    told: u32,
    /// Commits that were told before one that came earlier.
    told_early: BTreeSet<u32>,
}

/// A read that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// The question.
    pub key: Key,
    /// See [`Read::began`].
    pub began: u64,
    /// See [`Read::told`].
    pub told: u32,
}

impl Ledger {
    /// Notes that a read begins.
    pub fn begin(&self, ask: &Ask) -> Begun {
        let mut book = self.0.lock();
        book.clock += 1;
        Begun {
            key: book.key(ask),
            began: book.clock,
            told: book.told,
        }
    }

    /// The number of a question.
    pub fn key(&self, ask: &Ask) -> Key {
        self.0.lock().key(ask)
    }

    /// Notes what the database said to these questions in one query; says whether the cache had been given all of it before the read
    /// began.
    pub fn fill(&self, begun: Begun, said: &[(Key, u64)]) -> bool {
        let mut book = self.0.lock();
        book.clock += 1;
        let now = book.clock;
        let mut needless = !said.is_empty();
        for (key, hash) in said {
            let before = book.given.insert(*key, (*hash, now));
            needless &= before.is_some_and(|(known, ended)| known == *hash && ended < begun.began);
        }
        needless
    }

    /// Notes that a commit has been told.
    pub fn told(&self, commit: u32) {
        let mut book = self.0.lock();
        book.told_early.insert(commit);
        let mut next = book.told + 1;
        while book.told_early.remove(&next) {
            book.told = next;
            next += 1;
        }
    }

    /// The questions, by their numbers.
    pub fn asks(&self) -> Vec<Ask> {
        self.0.lock().asks.clone()
    }
}

impl Book {
    fn key(&mut self, ask: &Ask) -> Key {
        if let Some(key) = self.keys.get(ask) {
            return *key;
        }
        let key = Key::try_from(self.asks.len()).expect("invariant: runs are shorter");
        self.keys.insert(ask.clone(), key);
        self.asks.push(ask.clone());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Shape;

    #[test]
    fn a_fill_is_needless_if_the_cache_had_it_before_the_read_began() {
        let ledger = Ledger::default();
        let ask = Ask::by_id(Shape::Item, 1_u32);
        let first = ledger.begin(&ask);
        let beside = ledger.begin(&ask);
        assert!(!ledger.fill(first, &[(first.key, 7)]));
        assert!(!ledger.fill(beside, &[(beside.key, 7)]));
        let again = ledger.begin(&ask);
        assert!(ledger.fill(again, &[(again.key, 7)]));
        let changed = ledger.begin(&ask);
        assert!(!ledger.fill(changed, &[(changed.key, 8)]));
    }

    #[test]
    fn commits_count_as_told_up_to_the_first_that_is_not() {
        let ledger = Ledger::default();
        let told = || ledger.begin(&Ask::by_id(Shape::Item, 1_u32)).told;
        ledger.told(2);
        assert_eq!(told(), 0);
        ledger.told(1);
        assert_eq!(told(), 2);
        ledger.told(3);
        assert_eq!(told(), 3);
    }
}
