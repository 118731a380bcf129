//! Rows that are being written (G9): until the write has ended, leaves show them where they will be.
//!
//! They are not members. A read shows them beside those, so that no prune, load or eviction concerns them, and nothing has to be taken
//! back when the write is aborted. They say what may be there; word of them is a hint that may be lost, and is let go where it takes up
//! too much.

use std::collections::{BTreeMap, BTreeSet};

use super::{leaf_shape, sort_key};
use crate::criteria::table_class;
use crate::event::{Moment, RowImage};
use crate::id::{EventId, Time};
use crate::index::{LeafKey, Member, Members, Place};
use crate::intent::IntentId;
use crate::names::ClassPath;
use crate::versions::Stamp;

/// The most writes under way of one table that are shown: each read of a leaf of it looks at them.
const WRITES_PER_TABLE_MAX: usize = 64;
/// The most bytes of names and values of all rows that are shown.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A write under way.
#[derive(Clone, Debug)]
struct Write {
    /// The rows as they will be.
    rows: Vec<RowImage>,
    ends: Time,
    /// The event that it ended in. It is shown until that is applied here.
    event: Option<EventId>,
}

/// The writes under way whose rows are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Coming {
    writes: BTreeMap<IntentId, Write>,
    tables: BTreeMap<ClassPath, BTreeSet<IntentId>>,
    bytes: usize,
}

impl Write {
    fn bytes(&self) -> usize {
        self.rows.iter().map(RowImage::bytes).sum()
    }

    fn tables(&self) -> BTreeSet<ClassPath> {
        let images = self.rows.iter();
        images.map(|image| table_class(&image.rows.table)).collect()
    }

    fn is_shown(&self, now: Time, applied: &impl Fn(EventId) -> bool) -> bool {
        now < self.ends && !self.event.is_some_and(applied)
    }
}

impl Coming {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// A write has begun, and has ended by then at the latest. If there is no room for its rows, they are not shown.
    pub(super) fn begin(
        &mut self,
        id: IntentId,
        rows: &[RowImage],
        (now, ends): (Time, Time),
        applied: impl Fn(EventId) -> bool,
    ) {
        self.forget_ended(now, applied);
        let told = |image: &&RowImage| image.moment == Moment::After && image.identity.is_some();
        let write = Write {
            rows: rows.iter().filter(told).cloned().collect(),
            ends,
            event: None,
        };
        let tables = write.tables();
        let is_full = |table: &ClassPath| {
            let writes = self.tables.get(table);
            writes.is_some_and(|writes| writes.len() >= WRITES_PER_TABLE_MAX)
        };
        let full = self.bytes + write.bytes() > BYTES_MAX || tables.iter().any(is_full);
        if tables.is_empty() || full || self.writes.contains_key(&id) {
            return;
        }
        self.bytes += write.bytes();
        for table in tables {
            self.tables.entry(table).or_default().insert(id);
        }
        self.writes.insert(id, write);
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
        for table in write.tables() {
            if let Some(writes) = self.tables.get_mut(&table) {
                writes.remove(&id);
                if writes.is_empty() {
                    self.tables.remove(&table);
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
        let shape = leaf_shape(&leaf.class).ok()?;
        let mut members = Members::new(leaf.ordering.descending);
        let writes = self.tables.get(&shape.table)?.iter();
        let writes = writes.filter_map(|id| self.writes.get(id));
        let shown = writes.filter(|write| write.is_shown(now, &applied));
        for image in shown.flat_map(|write| &write.rows) {
            if !shape.classes_of_write(&image.rows).contains(&leaf.class) {
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
