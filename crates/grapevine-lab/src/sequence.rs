//! The one sequence of operations that Grapevine and the oracle are both given: records, made operations by the workload, with their
//! objects and groups numbered densely.

use std::collections::HashMap;

use crate::oracle::Oracle;
use crate::trace::{Record, TraceError};
use crate::truth::{CounterId, Subject};
use crate::workload::{Action, Op, Workload};

/// Objects and groups together: 2^23 of each can be named by a record and a workload.
pub const COUNTERS_MAX: u32 = 1 << 24;

/// One operation with its place in the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The operation.
    pub op: Op,
    /// What the record's value depends on.
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Object { kind: u32, id: u32 },
    Group { kind: u32, group: u32 },
}

/// An address of the oracle: the record and, with pages, the page.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OracleAddress(Record, u64);

/// The sequence, made as it is asked for.
pub struct Sequence<R> {
    records: R,
    workload: Workload,
    counters: HashMap<Name, CounterId>,
    oracle: Oracle<OracleAddress>,
    ordinal: u64,
    /// Comes next, before another record.
    read_back: Option<Op>,
}

impl<R: Iterator<Item = Result<Record, TraceError>>> Sequence<R> {
    /// The sequence of a trace under a workload.
    pub fn new(records: R, workload: Workload) -> Self {
        Self {
            records,
            workload,
            counters: HashMap::new(),
            oracle: Oracle::default(),
            ordinal: 0,
            read_back: None,
        }
    }

    /// The records, for their progress.
    pub fn records(&self) -> &R {
        &self.records
    }

    /// Objects and groups met so far.
    pub fn counters(&self) -> usize {
        self.counters.len()
    }

    /// Reads so far, and how many of them perfect invalidation would have hit.
    pub fn oracle_reads_and_hits(&self) -> (u64, u64) {
        (self.oracle.reads(), self.oracle.hits())
    }

    fn counter(&mut self, name: Name) -> CounterId {
        let next = u32::try_from(self.counters.len()).expect("invariant: names are 24 bits");
        *self.counters.entry(name).or_insert(CounterId(next))
    }

    fn step(&mut self, op: Op) -> Step {
        let record = op.record;
        let object = self.counter(Name::Object {
            kind: record.kind(),
            id: record.id(),
        });
        let group = self.workload.group(record);
        let group = group.map(|group| {
            self.counter(Name::Group {
                kind: record.kind(),
                group,
            })
        });
        let subject = Subject { object, group };
        match op.action {
            Action::Read(None) => {
                self.oracle.read(subject, [OracleAddress(record, 0)]);
            }
            Action::Read(Some(slice)) => {
                let version = self.oracle.version(object);
                let pages = self.workload.pages_of(record, version, slice);
                self.oracle
                    .read(subject, pages.map(|page| OracleAddress(record, page)));
            }
            Action::WriteObject => self.oracle.write(object),
            Action::WriteGroup => self
                .oracle
                .write(group.expect("invariant: groups are written with pages only")),
        }
        Step { op, subject }
    }
}

impl<R: Iterator<Item = Result<Record, TraceError>>> Iterator for Sequence<R> {
    type Item = Result<Step, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(op) = self.read_back.take() {
            return Some(Ok(self.step(op)));
        }
        let record = self.records.next()?;
        Some(record.map(|record| {
            let op = self.workload.op(self.ordinal, record);
            self.ordinal += 1;
            self.read_back = self.workload.read_back(op);
            self.step(op)
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::workload::{PagesConfig, WorkloadConfig};

    fn records() -> impl Iterator<Item = Result<Record, TraceError>> {
        (0..5_000).map(|n| Ok(Record::new(n % 3, n % 50, n % 2).unwrap()))
    }

    /// The steps, and the oracle's hits.
    fn sequence(writes: f64, pages: bool) -> (Vec<Step>, u64) {
        sequence_of(writes, pages, false)
    }

    fn sequence_of(writes: f64, pages: bool, read_back: bool) -> (Vec<Step>, u64) {
        let pages = pages.then_some(PagesConfig {
            groups: 4,
            page_items: 10,
        });
        let config = WorkloadConfig {
            seed: 1,
            nodes: 2,
            writes,
            pages,
            read_back,
        };
        let mut sequence = Sequence::new(records(), Workload::new(config).unwrap());
        let steps: Vec<Step> = sequence.by_ref().map(Result::unwrap).collect();
        let reads = steps
            .iter()
            .filter(|step| matches!(step.op.action, Action::Read(_)))
            .count();
        let (oracle_reads, hits) = sequence.oracle_reads_and_hits();
        assert_eq!(oracle_reads, reads as u64);
        (steps, hits)
    }

    #[test]
    fn without_writes_each_address_misses_once() {
        let (steps, hits) = sequence(0.0, false);
        assert_eq!(steps.len() as u64 - hits, 150);
    }

    #[test]
    fn objects_and_groups_have_numbers_of_their_own() {
        let (steps, _) = sequence(0.1, true);
        let mut seen = HashMap::new();
        for step in &steps {
            let record = step.op.record;
            assert_eq!(record.index(), 0);
            let object = (record.kind(), record.id());
            assert_eq!(*seen.entry(step.subject.object).or_insert(object), object);
        }
        assert_eq!(seen.len(), 150);
        assert!(
            steps
                .iter()
                .all(|step| !seen.contains_key(&step.subject.group.unwrap()))
        );
    }

    #[test]
    fn writes_cost_the_oracle_hits() {
        let hits = |writes| sequence(writes, false).1;
        assert!(hits(0.3) < hits(0.1) && hits(0.1) < hits(0.0));
    }

    #[test]
    fn a_write_that_is_read_back_is_followed_by_its_read_for_the_oracle_too() {
        let (plain, plain_hits) = sequence(0.2, false);
        let (steps, hits) = sequence_of(0.2, false, true);
        let is_write = |step: &&Step| matches!(step.op.action, Action::WriteObject);
        let writes = plain.iter().filter(is_write).count();
        assert_eq!(steps.len(), plain.len() + writes);
        for pair in steps.windows(2).filter(|pair| is_write(&&pair[0])) {
            assert_eq!(pair[1].subject, pair[0].subject);
            assert_eq!(pair[1].op.action, Action::Read(None));
        }
        // They miss themselves, and fill for those that come after.
        assert!(hits > plain_hits && hits <= plain_hits + writes as u64);
    }

    #[test]
    fn the_same_seed_makes_the_same_sequence() {
        assert_eq!(sequence(0.2, true), sequence(0.2, true));
    }
}
