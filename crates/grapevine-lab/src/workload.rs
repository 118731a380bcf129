//! Turns a trace's records into reads and writes of cached values. Pure, and the same for the same seed.
//!
//! An *object* is a `(type, id)` pair. Its class is `type/id`; its addresses are `type:id:index`, one per index the trace
//! holds. A write changes the object, so it makes every address of the class stale.
//!
//! A trace holds reads only. Each record is one operation, and with probability `writes` that operation is a write of the
//! record's object *instead of* the record's read: 0.07 gives the mix of 0.93 reads to 0.07 writes that is common for
//! memcached clusters.
//!
//! With pages, four things change:
//!
//! - The class is `type/g{n}/id`, with n = `xxh3_64(the id as four big-endian bytes) % groups` (seed 0), so that a group of ids
//!   is a parent class. One write in a hundred bumps `type/g{n}` instead of the object.
//! - An object is one list, at the address `type:id`; the trace's indices say nothing then.
//! - The list has [`list_items`] items, between 20 and 60 of them, and each write of the object gives it another length. (A
//!   write of its group changes what the items say, and not how many there are.)
//! - Each read takes a slice of it. Where the slice begins is drawn per read and skewed to the front, as people page: it
//!   begins on the first page in half of the reads, on the second in a quarter, and so on to the sixth; one slice in four begins in the
//!   middle of a page; three in four are one page long, the others two and a half. Slices may run over the list's end, and lie
//!   beyond it altogether: what such a reader is given tells a version too, see [`crate::value`].
//!
//! All draws are hashes of the seed, the record's ordinal and the draw's own number, so an operation does not depend on the order
//! in which workers come to it.

use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::trace::Record;

/// One write in this many bumps a group, with pages.
const GROUP_WRITE_ONE_IN: u64 = 100;
/// The last page that a slice may begin on.
const FIRST_PAGE_MAX: u32 = 5;
const LIST_ITEMS_MIN: u64 = 20;
const LIST_ITEMS_SPAN: u64 = 41;
/// More groups than this make classes of one object each.
const GROUPS_MAX: u32 = 65_536;
/// So that a slice that begins in the middle of a list's last page is given one entry at least.
const PAGE_ITEMS_MIN: u32 = 4;
const PAGE_ITEMS_MAX: u32 = 1_000;
const NODES_MAX: u32 = 1_000;

/// What the operations shall look like.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadConfig {
    /// What every draw begins from.
    pub seed: u64,
    /// Nodes to spread the operations over, 1 to 1,000.
    pub nodes: u32,
    /// The share of operations that write, 0 to 1.
    pub writes: f64,
    /// Slices of lists and groups of objects, or single values when absent.
    pub pages: Option<PagesConfig>,
    /// Each write is followed by a read of what was written, on another node: what a session must be able to see.
    pub read_back: bool,
}

/// How lists are paged and objects grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesConfig {
    /// Groups per type, 1 to 65,536.
    pub groups: u32,
    /// Items of a page, 4 to 1,000. The policy of the cluster must say the same.
    pub page_items: u32,
}

/// A knob out of its range.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum WorkloadError {
    /// The share of writes.
    #[error("writes: {0} is no share between 0 and 1")]
    Writes(f64),
    /// The number of nodes.
    #[error("nodes: {0} is not between 1 and {NODES_MAX}")]
    Nodes(u32),
    /// The number of groups.
    #[error("groups: {0} is not between 1 and {GROUPS_MAX}")]
    Groups(u32),
    /// The size of a page.
    #[error("page items: {0} is not between {PAGE_ITEMS_MIN} and {PAGE_ITEMS_MAX}")]
    PageItems(u32),
}

/// Some items of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Items to skip.
    pub offset: u64,
    /// Items wanted.
    pub limit: u32,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Reads the record's value, or a slice of its list.
    Read(Option<Slice>),
    /// Changes the record's object.
    WriteObject,
    /// Changes every object of the record's group.
    WriteGroup,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// The record's place in the trace, from 0.
    pub ordinal: u64,
    /// The record; with pages, that of its object's list.
    pub record: Record,
    /// What to do.
    pub action: Action,
    /// The node to do it on, below the number of nodes.
    pub node: u32,
}

/// The draws, in the order they are numbered.
#[derive(Clone, Copy)]
enum Draw {
    Node,
    Write,
    Group,
    FirstPage,
    SliceShape,
}

/// The rule that turns records into operations.
#[derive(Debug, Clone)]
pub struct Workload {
    config: WorkloadConfig,
}

impl Workload {
    /// A workload, if its knobs are in range.
    pub fn new(config: WorkloadConfig) -> Result<Self, WorkloadError> {
        if !(0.0..=1.0).contains(&config.writes) {
            return Err(WorkloadError::Writes(config.writes));
        }
        if !(1..=NODES_MAX).contains(&config.nodes) {
            return Err(WorkloadError::Nodes(config.nodes));
        }
        if let Some(pages) = config.pages {
            if !(1..=GROUPS_MAX).contains(&pages.groups) {
                return Err(WorkloadError::Groups(pages.groups));
            }
            if !(PAGE_ITEMS_MIN..=PAGE_ITEMS_MAX).contains(&pages.page_items) {
                return Err(WorkloadError::PageItems(pages.page_items));
            }
        }
        Ok(Self { config })
    }

    /// The knobs.
    pub fn config(&self) -> &WorkloadConfig {
        &self.config
    }

    /// The operation of a record.
    pub fn op(&self, ordinal: u64, record: Record) -> Op {
        let node = self.draw(ordinal, Draw::Node) % u64::from(self.config.nodes);
        let record = match self.config.pages {
            Some(_) => record.object(),
            None => record,
        };
        Op {
            ordinal,
            record,
            action: self.action(ordinal),
            node: u32::try_from(node).expect("invariant: below the number of nodes"),
        }
    }

    /// The read that follows a write, where writes are read back; its node is the next one.
    pub fn read_back(&self, op: Op) -> Option<Op> {
        let wrote = !matches!(op.action, Action::Read(_));
        (self.config.read_back && wrote).then(|| Op {
            action: Action::Read(self.any_slice(op.ordinal)),
            node: (op.node + 1) % self.config.nodes,
            ..op
        })
    }

    fn action(&self, ordinal: u64) -> Action {
        if share(self.draw(ordinal, Draw::Write)) < self.config.writes {
            let whole_group = self.config.pages.is_some()
                && self
                    .draw(ordinal, Draw::Group)
                    .is_multiple_of(GROUP_WRITE_ONE_IN);
            return if whole_group {
                Action::WriteGroup
            } else {
                Action::WriteObject
            };
        }
        Action::Read(self.any_slice(ordinal))
    }

    fn any_slice(&self, ordinal: u64) -> Option<Slice> {
        let pages = self.config.pages?;
        Some(self.slice(ordinal, pages.page_items))
    }

    fn slice(&self, ordinal: u64, page_items: u32) -> Slice {
        let first_page = self
            .draw(ordinal, Draw::FirstPage)
            .trailing_zeros()
            .min(FIRST_PAGE_MAX);
        let shape = self.draw(ordinal, Draw::SliceShape);
        let within = if shape.is_multiple_of(4) {
            page_items / 2
        } else {
            0
        };
        let long = (shape >> 8).is_multiple_of(4);
        Slice {
            offset: u64::from(first_page) * u64::from(page_items) + u64::from(within),
            limit: if long { page_items * 5 / 2 } else { page_items },
        }
    }

    fn draw(&self, ordinal: u64, draw: Draw) -> u64 {
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&ordinal.to_be_bytes());
        bytes[8] = draw as u8;
        xxh3_64_with_seed(&bytes, self.config.seed)
    }

    /// The group of a record's object, if there are groups.
    pub fn group(&self, record: Record) -> Option<u32> {
        let pages = self.config.pages?;
        let group = xxh3_64(&record.id().to_be_bytes()) % u64::from(pages.groups);
        Some(u32::try_from(group).expect("invariant: below the number of groups"))
    }

    /// The class of a record's object.
    pub fn class(&self, record: Record) -> String {
        match self.group(record) {
            Some(group) => format!("{}/g{group}/{}", record.kind(), record.id()),
            None => format!("{}/{}", record.kind(), record.id()),
        }
    }

    /// The class of a record's group, if there are groups.
    pub fn group_class(&self, record: Record) -> Option<String> {
        self.group(record)
            .map(|group| format!("{}/g{group}", record.kind()))
    }

    /// The address of a record's value, or of its object's list.
    pub fn address(&self, record: Record) -> String {
        let (kind, id) = (record.kind(), record.id());
        match self.config.pages {
            Some(_) => format!("{kind}:{id}"),
            None => format!("{kind}:{id}:{}", record.index()),
        }
    }

    /// The pages that a slice of a list needs at a version of its object, first and last: a reader stops at the list's first
    /// page that is not full, which tells it that the list ends, and asks for one page in any case.
    pub fn pages_of(
        &self,
        record: Record,
        version: u64,
        slice: Slice,
    ) -> std::ops::RangeInclusive<u64> {
        let page_items = self
            .config
            .pages
            .map_or(1, |pages| u64::from(pages.page_items));
        let first = slice.offset / page_items;
        let last_item = slice.offset + u64::from(slice.limit.max(1)) - 1;
        let short_page = list_items(record, version) / page_items;
        first..=(last_item / page_items).min(short_page.max(first))
    }
}

/// The number of items in the list of a record's object, with pages, after so many writes of the object.
pub fn list_items(record: Record, version: u64) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&record.object().bits().to_be_bytes());
    bytes[4..].copy_from_slice(&version.to_be_bytes());
    LIST_ITEMS_MIN + xxh3_64(&bytes) % LIST_ITEMS_SPAN
}

/// A hash as a number from 0 to below 1.
fn share(hash: u64) -> f64 {
    let high = u32::try_from(hash >> 32).expect("invariant: 32 bits are left");
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use super::*;

    fn config(writes: f64, pages: bool) -> WorkloadConfig {
        let pages = pages.then_some(PagesConfig {
            groups: 64,
            page_items: 10,
        });
        WorkloadConfig {
            seed: 7,
            nodes: 3,
            writes,
            pages,
            read_back: false,
        }
    }

    fn workload(writes: f64, pages: bool) -> Workload {
        Workload::new(config(writes, pages)).unwrap()
    }

    fn record() -> Record {
        Record::new(17, 4_711, 3).unwrap()
    }

    #[test]
    fn a_plain_object_is_a_class_of_two_segments() {
        let workload = workload(0.0, false);
        assert_eq!(workload.class(record()), "17/4711");
        assert_eq!(workload.group_class(record()), None);
        assert_eq!(workload.address(record()), "17:4711:3");
    }

    #[test]
    fn with_pages_an_object_is_one_list_whatever_the_index() {
        let workload = workload(0.0, true);
        assert_eq!(workload.address(record()), "17:4711");
        let other = Record::new(17, 4_711, 300).unwrap();
        assert_eq!(
            workload.op(0, record()).record,
            workload.op(0, other).record
        );
        assert_eq!(list_items(record(), 5), list_items(other, 5));
    }

    #[test]
    fn with_pages_a_group_is_the_parent_class() {
        let workload = workload(0.0, true);
        let group = xxh3_64(&4_711_u32.to_be_bytes()) % 64;
        assert_eq!(workload.class(record()), format!("17/g{group}/4711"));
        assert_eq!(workload.group_class(record()), Some(format!("17/g{group}")));
    }

    #[test]
    fn the_mix_is_what_was_asked_for() {
        let workload = workload(0.07, true);
        let (mut writes, mut groups) = (0_u32, 0_u32);
        for ordinal in 0..200_000 {
            match workload.op(ordinal, record()).action {
                Action::Read(_) => {}
                Action::WriteObject => writes += 1,
                Action::WriteGroup => groups += 1,
            }
        }
        assert!(
            (13_500..14_500).contains(&(writes + groups)),
            "{writes} {groups}"
        );
        assert!((90..200).contains(&groups), "{groups}");
    }

    #[test]
    fn the_ends_of_the_mix_are_all_and_nothing() {
        let (none, all) = (workload(0.0, false), workload(1.0, false));
        for ordinal in 0..10_000 {
            assert_eq!(none.op(ordinal, record()).action, Action::Read(None));
            assert_eq!(all.op(ordinal, record()).action, Action::WriteObject);
        }
    }

    #[test]
    fn an_operation_depends_on_seed_and_ordinal_alone() {
        let (one, same) = (workload(0.5, true), workload(0.5, true));
        let other = Workload::new(WorkloadConfig {
            seed: 8,
            ..config(0.5, true)
        })
        .unwrap();
        let forward: Vec<Op> = (0..1_000).map(|n| one.op(n, record())).collect();
        let mut backward: Vec<Op> = (0..1_000).rev().map(|n| same.op(n, record())).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert!((0..1_000).any(|n| other.op(n, record()) != forward[usize::try_from(n).unwrap()]));
    }

    #[test]
    fn a_write_is_read_back_on_the_next_node_where_that_is_asked_for() {
        let with = Workload::new(WorkloadConfig {
            read_back: true,
            ..config(1.0, true)
        })
        .unwrap();
        for ordinal in 0..100 {
            let op = with.op(ordinal, record());
            let back = with.read_back(op).unwrap();
            assert_eq!((back.record, back.node), (op.record, (op.node + 1) % 3));
            assert!(matches!(back.action, Action::Read(Some(_))));
            assert_eq!(with.read_back(back), None);
            assert_eq!(workload(1.0, true).read_back(op), None);
        }
    }

    #[test]
    fn nodes_get_like_shares() {
        let workload = workload(0.0, false);
        let mut shares = BTreeMap::<u32, u32>::new();
        for ordinal in 0..30_000 {
            *shares
                .entry(workload.op(ordinal, record()).node)
                .or_default() += 1;
        }
        assert_eq!(shares.len(), 3);
        assert!(
            shares.values().all(|share| (9_500..10_500).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn slices_are_skewed_to_the_front_and_not_always_aligned() {
        let workload = workload(0.0, true);
        let mut first_pages = BTreeMap::<u64, u32>::new();
        let (mut unaligned, mut long) = (0, 0);
        for ordinal in 0..40_000 {
            let Action::Read(Some(slice)) = workload.op(ordinal, record()).action else {
                panic!("no slice")
            };
            *first_pages.entry(slice.offset / 10).or_default() += 1;
            unaligned += u32::from(!slice.offset.is_multiple_of(10));
            long += u32::from(slice.limit == 25);
        }
        assert_eq!(first_pages.len(), 6);
        assert!(first_pages[&0] > 19_000 && first_pages[&1] > 9_000);
        assert!((9_000..11_000).contains(&unaligned) && (9_000..11_000).contains(&long));
    }

    #[test]
    fn a_slice_covers_whole_pages_up_to_the_end_of_the_list() {
        let workload = workload(0.0, true);
        let list_of = |items| {
            let record = |id| Record::new(1, id, 0).unwrap();
            (0..10_000).map(record).find(|r| list_items(*r, 0) == items)
        };
        let (sixty, twenty, odd) = (list_of(60), list_of(20), list_of(25));
        let pages = |record: Option<Record>, offset, limit| {
            workload.pages_of(record.unwrap(), 0, Slice { offset, limit })
        };
        assert_eq!(pages(sixty, 0, 10), 0..=0);
        assert_eq!(pages(sixty, 5, 10), 0..=1);
        assert_eq!(pages(sixty, 30, 25), 3..=5);
        // A list that ends with a full page: only the empty one after it tells.
        assert_eq!(pages(twenty, 15, 25), 1..=2);
        assert_eq!(pages(odd, 15, 25), 1..=2);
        assert_eq!(pages(odd, 40, 25), 4..=4);
    }

    #[test]
    fn lists_end_within_the_reach_of_slices_and_change_their_length_when_written() {
        let lengths: Vec<u64> = (0..2_000)
            .map(|version| list_items(record(), version))
            .collect();
        assert!(lengths.iter().all(|length| (20..=60).contains(length)));
        assert!(lengths.contains(&20) && lengths.contains(&60));
        let same = lengths.windows(2).filter(|pair| pair[0] == pair[1]);
        assert!(same.count() < 100);
    }

    #[test]
    fn knobs_out_of_range_are_named() {
        let refused = |config: WorkloadConfig| Workload::new(config).unwrap_err();
        assert_eq!(refused(config(1.5, false)), WorkloadError::Writes(1.5));
        assert!(matches!(
            refused(config(f64::NAN, false)),
            WorkloadError::Writes(_)
        ));
        let nodes = WorkloadConfig {
            nodes: 0,
            ..config(0.1, false)
        };
        assert_eq!(refused(nodes), WorkloadError::Nodes(0));
        let with = |groups, page_items| WorkloadConfig {
            pages: Some(PagesConfig { groups, page_items }),
            ..config(0.1, false)
        };
        assert_eq!(refused(with(0, 10)), WorkloadError::Groups(0));
        assert_eq!(refused(with(64, 3)), WorkloadError::PageItems(3));
    }
}
