//! The judge: does all writes of an arm once more, in the order of their commits, on a database of its own, and looks at each answer at the
//! moments that count. It knows nothing of caches or Grapevine: a commit changed an answer if the answer, computed before and after it, differs.
//!
//! - An answer is **stale** if it lacks a write that it was owed and that changed it. A read is owed the writes of its own session whose telling
//!   had returned before it began, and with receipt `all` those of everybody. Which commits an answer can have seen stands in it.
//! - It is **old** if it lacks any write that had been told before the read began, whoever made it. With sessions and a receipt below `all`
//!   that is allowed, for the moment that the news takes.
//! - It is **wrong** if the database never said so at the commit that stands in it.
//!
//! A list that was given as rows is judged row by row, and by its ids: a row that an owed write brought to the page must be on it,
//! if it is there by the database as the read began and as it ended; one that an owed write took away must not, if it is on neither. So it is
//! with what everybody's writes brought or took, for it to be old. Ids have no commit in them.
//!
//! The judge is the oracle, too: a cache with perfect knowledge hits where the answer, at what had been told when the read
//! began, is the one that it gave to the read before of the same question.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::Connection;

use crate::answer::{hash, numbers};
use crate::ask::{Ask, Table};
use crate::catalogue::Catalogue;
use crate::database;
use crate::ledger::{Key, Piece, Read};
use crate::write::Write;

/// What was found of a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is counted by itself")]
pub struct Verdict {
    /// It lacks what it was owed.
    pub stale: bool,
    /// It lacks what somebody had been told.
    pub old: bool,
    /// Nobody computed it.
    pub wrong: bool,
    /// A cache with perfect knowledge had it.
    pub oracle_hit: bool,
}

/// What happened in an arm.
#[derive(Debug)]
pub struct Case<'a> {
    /// What the database had at first.
    pub catalogue: &'a Catalogue,
    /// What was written, in the order of the commits.
    pub log: &'a [Write],
    /// The questions by their keys.
    pub asks: &'a [Ask],
    /// The reads.
    pub reads: &'a [Read],
    /// Whether everybody's writes are owed.
    pub owed_to_all: bool,
}

/// Judges every read, in the order given.
pub fn judge(case: &Case<'_>) -> rusqlite::Result<Vec<Verdict>> {
    let truth = Truth::tell(case, Wanted::of(case))?;
    let mut verdicts: Vec<Verdict> = case
        .reads
        .iter()
        .map(|read| truth.verdict(read, case.owed_to_all))
        .collect();
    let mut order: Vec<usize> = (0..case.reads.len()).collect();
    order.sort_unstable_by_key(|at| (case.reads[*at].told, case.reads[*at].began));
    let mut oracle: HashMap<Key, u64> = HashMap::new();
    for at in order {
        let read = &case.reads[at];
        let now = truth.hash(read.key, read.told);
        verdicts[at].oracle_hit = oracle.insert(read.key, now) == Some(now);
    }
    Ok(verdicts)
}

/// Which answers are wanted: after which commit, to which question, and of which the ids too.
#[derive(Debug, Default)]
struct Wanted {
    at: BTreeMap<u32, BTreeSet<Key>>,
    lists: BTreeSet<Key>,
}

impl Wanted {
    fn of(case: &Case<'_>) -> Self {
        let mut wanted = Self::default();
        for read in case.reads {
            wanted.add(read.key, read.told);
            for piece in &read.pieces {
                // A damaged one may name a commit that is not there.
                if (piece.commit as usize) <= case.log.len() {
                    wanted.add(piece.key, piece.commit);
                }
                wanted.add(piece.key, read.told);
                for owed in lacking(read, piece) {
                    wanted.add_change(piece.key, owed, case);
                }
            }
            if read.list.is_some() {
                wanted.lists.insert(read.key);
                wanted.add(read.key, read.until);
                for owed in &read.owed {
                    wanted.add_change(read.key, *owed, case);
                }
            }
        }
        wanted
    }

    fn add(&mut self, key: Key, commit: u32) {
        self.at.entry(commit).or_default().insert(key);
    }

    /// The answer before and after a commit, unless it cannot have changed it.
    fn add_change(&mut self, key: Key, commit: u32, case: &Case<'_>) {
        let written = case.log[(commit - 1) as usize].tables();
        let read = case.asks[key as usize].shape.tables();
        if read.iter().any(|table| written.contains(table)) {
            self.add(key, commit - 1);
            self.add(key, commit);
        }
    }
}

/// Commits that a piece was owed and cannot have seen.
fn lacking<'a>(read: &'a Read, piece: &Piece) -> impl Iterator<Item = u32> + use<'a> {
    let seen = piece.commit;
    read.owed.iter().copied().filter(move |owed| *owed > seen)
}

/// What the database said, where it is wanted.
#[derive(Debug, Default)]
struct Truth {
    hashes: HashMap<(Key, u32), u64>,
    ids: HashMap<(Key, u32), Vec<i64>>,
}

/// The last answer to a question, and how often its tables had been written to then.
struct Known {
    hash: u64,
    ids: Vec<i64>,
    writes: u64,
}

impl Truth {
    fn tell(case: &Case<'_>, wanted: Wanted) -> rusqlite::Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        connection.set_prepared_statement_cache_capacity(64);
        case.catalogue.stock(&mut connection)?;
        let mut truth = Self::default();
        let mut known: HashMap<Key, Known> = HashMap::new();
        let mut written: HashMap<Table, u64> = HashMap::new();
        let mut done = 0;
        for (commit, keys) in wanted.at {
            while done < commit {
                let write = &case.log[done as usize];
                database::apply(&connection, write)?;
                for table in write.tables() {
                    *written.entry(*table).or_default() += 1;
                }
                done += 1;
            }
            for key in keys {
                let ask = &case.asks[key as usize];
                let tables = ask.shape.tables().iter();
                let writes = tables
                    .map(|table| written.get(table).copied().unwrap_or(0))
                    .sum();
                let fresh = known.get(&key).filter(|known| known.writes == writes);
                let is_list = wanted.lists.contains(&key);
                if fresh.is_none() {
                    let rows = database::rows(&connection, ask)?;
                    let ids = if is_list {
                        numbers(&rows, 0)
                    } else {
                        Vec::new()
                    };
                    let hash = hash(&rows);
                    known.insert(key, Known { hash, ids, writes });
                }
                let now = &known[&key];
                truth.hashes.insert((key, commit), now.hash);
                if is_list {
                    truth.ids.insert((key, commit), now.ids.clone());
                }
            }
        }
        Ok(truth)
    }

    fn hash(&self, key: Key, commit: u32) -> u64 {
        self.hashes[&(key, commit)]
    }

    fn ids(&self, key: Key, commit: u32) -> &[i64] {
        &self.ids[&(key, commit)]
    }

    /// Whether a commit changed an answer; it did not where nobody wanted to know.
    fn changed(&self, key: Key, commit: u32) -> bool {
        let after = self.hashes.get(&(key, commit));
        after.is_some()
            && self
                .hashes
                .get(&(key, commit - 1))
                .is_some_and(|before| Some(before) != after)
    }

    fn verdict(&self, read: &Read, owed_to_all: bool) -> Verdict {
        let mut verdict = Verdict::default();
        for piece in &read.pieces {
            let said = self.hashes.get(&(piece.key, piece.commit));
            verdict.wrong |= said != Some(&piece.hash);
            verdict.stale |= lacking(read, piece).any(|owed| self.changed(piece.key, owed));
            verdict.old |=
                piece.commit < read.told && self.hash(piece.key, read.told) != piece.hash;
        }
        if let Some(shown) = &read.list {
            verdict.stale |= read
                .owed
                .iter()
                .any(|owed| self.lacks_of_list(read, shown, *owed));
            verdict.old |= self.is_old_list(read, shown);
        }
        verdict.old |= verdict.stale;
        verdict.stale |= owed_to_all && verdict.old;
        verdict
    }

    /// Whether a list does not show what a commit brought to it or took from it.
    fn lacks_of_list(&self, read: &Read, shown: &[i64], commit: u32) -> bool {
        if !self.changed(read.key, commit) {
            return false;
        }
        let (before, after) = (self.ids(read.key, commit - 1), self.ids(read.key, commit));
        let (first, last) = (
            self.ids(read.key, read.told),
            self.ids(read.key, read.until),
        );
        let brought = after.iter().filter(|id| !before.contains(id));
        let mut missing =
            brought.filter(|id| first.contains(id) && last.contains(id) && !shown.contains(id));
        let taken = before.iter().filter(|id| !after.contains(id));
        let mut left =
            taken.filter(|id| !first.contains(id) && !last.contains(id) && shown.contains(id));
        missing.next().is_some() || left.next().is_some()
    }

    fn is_old_list(&self, read: &Read, shown: &[i64]) -> bool {
        let (first, last) = (
            self.ids(read.key, read.told),
            self.ids(read.key, read.until),
        );
        let mut both = first.iter().filter(|id| last.contains(id));
        let mut either = shown
            .iter()
            .filter(|id| first.contains(id) || last.contains(id));
        both.any(|id| !shown.contains(id)) || either.by_ref().count() < shown.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::ask::Shape;
    use crate::catalogue::NOW;
    use crate::ledger::Source;

    /// A bid on item 3, then one on item 4, then a new item in the category of item 3.
    struct History {
        catalogue: Catalogue,
        log: Vec<Write>,
        asks: Vec<Ask>,
    }

    const ITEM: Key = 0;
    const LIST: Key = 1;

    fn history() -> History {
        let catalogue = Catalogue::new(1, 20, 40);
        let category = catalogue.category(3);
        let bid = |item| Write::Bid {
            item,
            user: 1,
            raise: 5,
        };
        let new = Write::Item {
            id: 41,
            category,
            seller: 1,
            price: 1,
            end_date: NOW,
        };
        let values = [category.into(), NOW.into(), 20_u32.into(), 0_u32.into()];
        History {
            catalogue,
            log: vec![bid(3), bid(4), new],
            asks: vec![
                Ask::by_id(Shape::Item, 3_u32),
                Ask::new(Shape::ItemsOfCategory, values),
            ],
        }
    }

    impl History {
        /// What the database said at a commit.
        fn at(&self, commit: u32, key: Key) -> (Piece, Vec<i64>) {
            let mut connection = Connection::open_in_memory().unwrap();
            self.catalogue.stock(&mut connection).unwrap();
            for write in &self.log[..commit as usize] {
                database::apply(&connection, write).unwrap();
            }
            let answer = database::answer(&connection, &self.asks[key as usize]).unwrap();
            let hash = answer.hash();
            assert_eq!(answer.commit(), commit);
            (Piece { key, commit, hash }, answer.numbers(0))
        }

        /// A read that was given the answer of an earlier commit, while everything had been told.
        fn read(&self, key: Key, commit: u32, owed: &[u32]) -> Read {
            Read {
                key,
                began: 1,
                told: 3,
                until: 3,
                owed: owed.to_vec(),
                pieces: vec![self.at(commit, key).0],
                list: None,
                source: Source::Cache,
                needless: false,
            }
        }

        fn judge(&self, read: Read, owed_to_all: bool) -> Verdict {
            let case = Case {
                catalogue: &self.catalogue,
                log: &self.log,
                asks: &self.asks,
                reads: &[read],
                owed_to_all,
            };
            judge(&case).unwrap()[0]
        }
    }

    fn found(verdict: Verdict) -> (bool, bool, bool) {
        (verdict.stale, verdict.old, verdict.wrong)
    }

    #[test]
    fn an_answer_is_stale_if_it_lacks_an_owed_write_that_changed_it() {
        let history = history();
        let judged =
            |commit, owed: &[u32]| found(history.judge(history.read(ITEM, commit, owed), false));
        assert_eq!(judged(0, &[1]), (true, true, false));
        assert_eq!(judged(1, &[1]), (false, false, false));
        // Somebody else's write, and an own one that did not change it.
        assert_eq!(judged(0, &[]), (false, true, false));
        assert_eq!(judged(0, &[2, 3]), (false, true, false));
        assert_eq!(judged(1, &[2, 3]), (false, false, false));
    }

    #[test]
    fn with_receipt_all_everybody_s_writes_are_owed() {
        let history = history();
        let judged = |commit| found(history.judge(history.read(ITEM, commit, &[]), true));
        assert_eq!(judged(0), (true, true, false));
        assert_eq!(judged(1), (false, false, false));
    }

    #[test]
    fn an_answer_that_nobody_computed_is_wrong() {
        let history = history();
        let mut read = history.read(ITEM, 1, &[]);
        read.pieces[0].hash ^= 1;
        assert!(history.judge(read, false).wrong);
    }

    #[test]
    fn a_list_of_ids_is_stale_without_what_an_owed_write_brought() {
        let history = history();
        let list_of = |commit, owed: &[u32]| Read {
            pieces: vec![],
            list: Some(history.at(commit, LIST).1),
            ..history.read(LIST, commit, owed)
        };
        let judged = |commit, owed: &[u32]| found(history.judge(list_of(commit, owed), false));
        assert_eq!(judged(2, &[3]), (true, true, false));
        assert_eq!(judged(3, &[3]), (false, false, false));
        assert_eq!(judged(2, &[]), (false, true, false));
        // A bid changes no ids.
        assert_eq!(judged(3, &[1]), (false, false, false));
    }

    #[test]
    fn the_oracle_hits_until_the_answer_changes() {
        let history = history();
        let read = |began, told| Read {
            began,
            told,
            ..history.read(ITEM, told, &[])
        };
        let reads = [read(1, 0), read(2, 0), read(3, 1), read(4, 2)];
        let case = Case {
            catalogue: &history.catalogue,
            log: &history.log,
            asks: &history.asks,
            reads: &reads,
            owed_to_all: false,
        };
        let hits = judge(&case).unwrap().into_iter().map(|v| v.oracle_hit);
        assert_eq!(hits.collect::<Vec<_>>(), [false, true, false, true]);
    }
}
