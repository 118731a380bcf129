//! Rows that are being written (G9): until the write has ended, leaves show them where they will be.
//!
//! They are not members. A read shows them beside those, so that no prune, load or eviction concerns them, and nothing has to be taken
//! back when the write is aborted. They say what may be there; word of them is a hint that may be lost, and is let go where it takes up
//! too much.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Leaves, sort_key};
use crate::criteria::Shape;
use crate::event::{Moment, RowImage};
use crate::id::{EventId, Time};
use crate::index::{LeafKey, Member, Members, Place};
use crate::intent::{INTENT_GRACE, IntentId, Owed};
use crate::machine::Core;
use crate::names::ClassPath;
use crate::versions::Stamp;

/// How long the rows of a write are shown behind its lease, if nothing is heard of its end.
const SHOWN_AFTER_LEASE: Duration = INTENT_GRACE.saturating_mul(5);
/// The most writes under way that are shown.
const WRITES_MAX: usize = 4_096;
/// The most rows that one leaf shows: each read of it puts them in order.
const ROWS_OF_LEAF_MAX: usize = 512;
/// The most bytes of names and values of all rows that are shown.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A write under way.
#[derive(Clone, Debug)]
struct Write {
    /// The rows as they will be.
    rows: Vec<Arc<RowImage>>,
    /// The classes under which they stand.
    classes: BTreeSet<ClassPath>,
    ends: Time,
    /// The event that it ended in. It is shown until that is applied here.
    event: Option<EventId>,
}

/// The writes under way whose rows are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Coming {
    writes: BTreeMap<IntentId, Write>,
    /// Their rows by the classes of leaves: of the shapes that have any. So a read finds its own without a look at others.
    rows: BTreeMap<ClassPath, Vec<(IntentId, Arc<RowImage>)>>,
    bytes: usize,
}

impl Core {
    /// A write of rows has begun, whose lease ends then.
    pub(in crate::machine) fn rows_come(
        &mut self,
        id: IntentId,
        owed: &Owed,
        lease_ends: Time,
        now: Time,
    ) {
        if let Owed::Rows(changed) = owed {
            // Long enough for the bump of whoever holds the intent, which comes a grace later and has to be written. A row that is
            // shown for too long is extra.
            let ends = lease_ends.plus(SHOWN_AFTER_LEASE);
            let progress = &self.progress;
            let applied = |event| progress.has_through(event);
            let Leaves { table, coming, .. } = &mut self.leaves;
            let left_out = coming.begin(id, &changed.rows, table.shapes(), (now, ends), applied);
            self.counters.rows_not_shown += left_out as u64;
        }
    }

    /// A write has ended, in an event or in none.
    pub(in crate::machine) fn rows_came(&mut self, id: IntentId, event: Option<EventId>) {
        self.leaves.coming.end(id, event);
    }
}

impl Write {
    fn bytes(&self) -> usize {
        self.rows.iter().map(|image| image.bytes()).sum()
    }

    fn is_shown(&self, now: Time, applied: &impl Fn(EventId) -> bool) -> bool {
        now < self.ends && !self.event.is_some_and(applied)
    }
}

impl Coming {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// A write has begun, and has ended by then at the latest; `shapes` are those that have leaves. If there is no room for its rows, they
    /// are not shown. Tells how many are not, once for each class that lacks them.
    pub(super) fn begin<'a>(
        &mut self,
        id: IntentId,
        rows: &[RowImage],
        shapes: impl Iterator<Item = &'a Shape>,
        (now, ends): (Time, Time),
        applied: impl Fn(EventId) -> bool,
    ) -> usize {
        self.forget_ended(now, applied);
        let told = |image: &&RowImage| image.moment == Moment::After && image.identity.is_some();
        let rows = rows.iter().filter(told).cloned().map(Arc::new);
        let write = Write {
            rows: rows.collect(),
            classes: BTreeSet::new(),
            ends,
            event: None,
        };
        if write.rows.is_empty() || self.writes.contains_key(&id) {
            return 0;
        }
        if self.writes.len() >= WRITES_MAX || self.bytes + write.bytes() > BYTES_MAX {
            return write.rows.len();
        }
        self.bytes += write.bytes();
        self.writes.insert(id, write);
        shapes.map(|shape| self.put(id, shape)).sum()
    }

    /// Leaves of a shape may be there from now on.
    pub(super) fn meet(&mut self, shape: &Shape) {
        let ids: Vec<_> = self.writes.keys().copied().collect();
        for id in ids {
            self.put(id, shape);
        }
    }

    /// Has the rows of a write stand under the classes of a shape; tells how many find no room there.
    fn put(&mut self, id: IntentId, shape: &Shape) -> usize {
        let Some(write) = self.writes.get_mut(&id) else {
            return 0;
        };
        let mut left_out = 0;
        for image in &write.rows {
            for class in shape.classes_of_write(&image.rows) {
                let of_class = self.rows.entry(class.clone()).or_default();
                let same = |(of, known): &(IntentId, Arc<RowImage>)| {
                    *of == id && Arc::ptr_eq(known, image)
                };
                if of_class.iter().any(same) {
                    continue;
                }
                if of_class.len() >= ROWS_OF_LEAF_MAX {
                    left_out += 1;
                    continue;
                }
                of_class.push((id, Arc::clone(image)));
                write.classes.insert(class);
            }
        }
        left_out
    }

    /// It has ended in an event, or without one.
    pub(super) fn end(&mut self, id: IntentId, event: Option<EventId>) {
        if event.is_none() {
            self.forget(id);
        } else if let Some(write) = self.writes.get_mut(&id) {
            write.event = event;
        }
    }

    fn forget_ended(&mut self, now: Time, applied: impl Fn(EventId) -> bool) {
        let writes = self.writes.iter();
        let ended = writes.filter(|(_, write)| !write.is_shown(now, &applied));
        let ended: Vec<_> = ended.map(|(id, _)| *id).collect();
        for id in ended {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: IntentId) {
        let Some(write) = self.writes.remove(&id) else {
            return;
        };
        self.bytes -= write.bytes();
        for class in &write.classes {
            if let Some(of_class) = self.rows.get_mut(class) {
                of_class.retain(|(of, _)| *of != id);
                if of_class.is_empty() {
                    self.rows.remove(class);
                }
            }
        }
    }

    /// What will be in a leaf; none if that is nothing.
    pub(super) fn members(
        &self,
        leaf: &LeafKey,
        now: Time,
        applied: impl Fn(EventId) -> bool,
    ) -> Option<Members> {
        let mut members = Members::new(leaf.ordering.descending);
        for (id, image) in self.rows.get(&leaf.class)? {
            let write = self.writes.get(id);
            if !write.is_some_and(|write| write.is_shown(now, &applied)) {
                continue;
            }
            let identity = image.identity.as_ref();
            if let Some((identity, key)) = identity.zip(sort_key(&image.rows, &leaf.ordering)) {
                let id = identity.id.clone();
                let member = Member {
                    added: Stamp::default(),
                    version: 0,
                };
                members.add(Place { key, id }, member);
            }
        }
        (!members.is_empty()).then_some(members)
    }
}
