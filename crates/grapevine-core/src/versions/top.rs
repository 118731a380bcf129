//! Where a class is held: its top-level class, its bucket there, and itself.

use std::collections::{BTreeMap, HashMap};

use super::bucket_of;
use crate::entries::Entries;
use crate::names::{ClassPath, top_of};

/// One class.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub(super) entries: Entries,
    pub(super) conjunctions: Vec<(Vec<ClassPath>, Entries, u64)>,
    pub(super) changed: u64,
}

impl Class {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.conjunctions.is_empty()
    }
}

/// A bucket: its floor, and the classes that the floor does not dominate.
#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    pub(super) floor: Entries,
    pub(super) floor_changed: u64,
    pub(super) classes: HashMap<Box<str>, Class>,
}

/// A top-level class and all below it.
#[derive(Clone, Debug, Default)]
pub(super) struct Top {
    pub(super) class: Class,
    pub(super) buckets: BTreeMap<u16, Bucket>,
    pub(super) classes: usize,
    /// Whether a class came in since the last look for who is over the limits.
    pub(super) grown: bool,
}

impl Top {
    /// The fullest buckets that hold so many classes together.
    pub(super) fn fullest(&self, excess: usize) -> Vec<u16> {
        let sizes = self.buckets.iter();
        let mut sizes: Vec<_> = sizes
            .map(|(&bucket, found)| (found.classes.len(), bucket))
            .collect();
        sizes.sort_unstable();
        let mut held = 0;
        let mut chosen = Vec::new();
        for (size, bucket) in sizes.into_iter().rev() {
            if held >= excess || size == 0 {
                break;
            }
            held += size;
            chosen.push(bucket);
        }
        chosen
    }

    /// A prefix's class, and the bucket whose floor counts for it.
    pub(super) fn find(&self, prefix: &str) -> (Option<&Class>, Option<&Bucket>) {
        if top_of(prefix).len() == prefix.len() {
            return (Some(&self.class), None);
        }
        self.find_below(prefix)
    }

    /// The same of a prefix below the top-level class.
    pub(super) fn find_below(&self, prefix: &str) -> (Option<&Class>, Option<&Bucket>) {
        let bucket = self.buckets.get(&bucket_of(prefix));
        (bucket.and_then(|bucket| bucket.classes.get(prefix)), bucket)
    }
}

impl Bucket {
    pub(super) fn drop_dominated(&mut self) {
        let floor = &self.floor;
        self.classes.retain(|_, class| {
            class
                .conjunctions
                .retain(|(_, joint, _)| !joint.covered_by(&class.entries, Some(floor)));
            if floor.dominates(&class.entries) {
                class.entries = Entries::default();
            }
            !class.is_empty()
        });
    }
}
