//! Changes of rows, and the shapes of the reads that they may concern (docs/decisions/0018).
//!
//! A change of rows is one event, whoever reads. Where it is applied it is a bump: of the class of all rows of its table, and of the classes
//! that follow for each shape known there. A shape becomes known by an event of its own. What keeps tokens right is that for each shape
//! known here, and each change of rows applied here, one of two things holds:
//!
//! * it was applied with knowledge of the shape, and its classes were bumped;
//! * or it is among the entries of the shape's own class, above them.
//!
//! So whoever makes a shape known puts all changes of its table that are applied there into the event, and whoever hears of one and has
//! others makes it known once more, with those. Until that is flushed, reads of the shape bypass the cache here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Core;
use super::effects::{Action, Effects, Refusal, Reply, RowsChange, Ticket};
use super::flushed::Pending;
use crate::criteria::{Conjunction, SHAPE_MARK, Shape, table_class};
use crate::event::{
    Bump, BumpEvent, CHANGED_ROWS_BYTES_MAX, CHANGED_ROWS_MAX, Match, NewShape, PurgeMode,
    RowImage, RowsChanged,
};
use crate::id::{EventId, Time};
use crate::names::ClassPath;
use crate::store::Write;
use crate::vector::VersionVector;

/// The most shapes of one table that this sidecar makes known; of those that others make known it takes twice as many.
pub const SHAPES_PER_TABLE_MAX: usize = 64;
/// The most classes of one shape that a change of rows of one table bumps; of more, it bumps all of the shape. A row that moves concerns 28
/// of a shape with a range, and 32 rows that do concern 64 of one without.
const CLASSES_PER_SHAPE_MAX: usize = 64;
/// The same for all tables of a change together: each has its share. So a change bumps 128 times as many at most, however many shapes
/// its tables have.
const CLASSES_PER_CHANGE_MAX: usize = 128;

/// How far a shape is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The event that makes it known, or adds to it, is being written. Changes of rows heed it; reads do not rely on it yet.
    Written(EventId),
    /// It is applied.
    Applied,
}

/// The shapes known here, by the class of their table.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes(BTreeMap<ClassPath, BTreeMap<Shape, Known>>);

impl Shapes {
    pub(super) fn recover(shapes: &[Shape]) -> Self {
        let mut found = Self::default();
        for shape in shapes {
            found.put(shape.clone(), Known::Applied);
        }
        found
    }

    fn put(&mut self, shape: Shape, known: Known) {
        let of_table = self.0.entry(shape.table.clone()).or_default();
        of_table.insert(shape, known);
    }

    fn get(&self, shape: &Shape) -> Option<Known> {
        self.0.get(&shape.table)?.get(shape).copied()
    }

    fn count(&self, table: &ClassPath) -> usize {
        self.0.get(table).map_or(0, BTreeMap::len)
    }

    /// Whether reads of a shape may be cached.
    fn may_be_read(&self, shape: &Shape) -> bool {
        shape.is_of_all() || self.get(shape) == Some(Known::Applied)
    }

    /// The classes that a change of rows concerns. What it concerns of a shape follows from the change alone, so that all who know the
    /// shape bump the same.
    fn classes(&self, images: &[RowImage]) -> Vec<ClassPath> {
        let mut by_table: BTreeMap<ClassPath, Vec<&Conjunction>> = BTreeMap::new();
        for RowImage { rows, .. } in images {
            by_table
                .entry(table_class(&rows.table))
                .or_default()
                .push(rows);
        }
        let most = (CLASSES_PER_CHANGE_MAX / by_table.len().max(1)).clamp(1, CLASSES_PER_SHAPE_MAX);
        let mut classes = BTreeSet::new();
        for (table, rows) in by_table {
            let shapes = self.0.get(&table).into_iter().flat_map(BTreeMap::keys);
            for shape in shapes {
                let concerned = rows.iter().flat_map(|row| shape.classes_of_write(row));
                let concerned: BTreeSet<_> = concerned.collect();
                if concerned.len() > most {
                    classes.insert(shape.class());
                } else {
                    classes.extend(concerned);
                }
            }
            classes.insert(Shape::of_all(table).class());
        }
        classes.into_iter().collect()
    }
}

/// The bytes of names and values in what is known of rows.
fn bytes(rows: &[RowImage]) -> usize {
    rows.iter().map(RowImage::bytes).sum()
}

impl Core {
    /// Rows have changed: one event of the bump lane.
    pub(super) fn rows_changed(
        &mut self,
        ticket: Ticket,
        call: RowsChange,
        now: Time,
        effects: &mut Effects,
    ) {
        let level = call.level;
        let changed = match self.admit_rows(call.rows, call.purge, level, now) {
            Ok(changed) => changed,
            Err(refusal) => {
                let refused = Reply::Refused(refusal);
                return effects.actions.push(Action::Reply(ticket, refused));
            }
        };
        self.receipts.reserve(level);
        let event = BumpEvent::Rows(changed);
        self.issue_event(event, Some((ticket, level, call.deadline)), effects);
    }

    /// What is said of rows, if it may be. Too much of it becomes all rows of the tables that it names.
    pub(super) fn admit_rows(
        &mut self,
        mut rows: Vec<RowImage>,
        purge: PurgeMode,
        level: super::effects::ReceiptLevel,
        now: Time,
    ) -> Result<RowsChanged, Refusal> {
        self.admit_receipt(level, now)?;
        if rows.len() > CHANGED_ROWS_MAX || bytes(&rows) > CHANGED_ROWS_BYTES_MAX {
            self.counters.escalations += 1;
            let tables: BTreeSet<_> = rows.into_iter().map(|image| image.rows.table).collect();
            let all = tables.into_iter().map(Conjunction::all_of);
            rows = all.map(RowImage::from).collect();
        }
        let tables: BTreeSet<_> = rows
            .iter()
            .map(|image| table_class(&image.rows.table))
            .collect();
        let tables: Vec<_> = tables.into_iter().collect();
        self.admit_bump(&tables, Match::Any, purge)?;
        if rows.len() > CHANGED_ROWS_MAX {
            let (value, least, most) = (tables.len(), 1, CHANGED_ROWS_MAX);
            return Err(Refusal::ClassCount { value, least, most });
        }
        Ok(RowsChanged { rows, purge })
    }

    /// What an event is here: a change of rows is a bump of classes.
    pub(super) fn meant_here(&self, event: &Arc<BumpEvent>) -> Arc<BumpEvent> {
        match &**event {
            BumpEvent::Rows(changed) => Arc::new(BumpEvent::Bump(Bump {
                classes: self.shapes.classes(&changed.rows),
                matching: Match::Any,
                purge: changed.purge,
            })),
            _ => event.clone(),
        }
    }

    /// Whether a read of these classes may be answered from a cache, as far as shapes go. `false` calls for [`Core::meet_shapes`].
    pub(super) fn shapes_are_known(&self, classes: &[ClassPath]) -> bool {
        classes
            .iter()
            .filter_map(shape_of)
            .all(|shape| self.shapes.may_be_read(&shape))
    }

    /// Whether the shapes of these classes are known, or are being made known.
    pub(super) fn shapes_are_met(&self, classes: &[ClassPath]) -> bool {
        let mut shapes = classes.iter().filter_map(shape_of);
        shapes.all(|shape| shape.is_of_all() || self.shapes.get(&shape).is_some())
    }

    /// Makes known what shapes these classes are of.
    pub(super) fn meet_shapes(&mut self, classes: &[ClassPath], effects: &mut Effects) {
        for shape in classes.iter().filter_map(shape_of) {
            if !shape.is_of_all()
                && self.shapes.get(&shape).is_none()
                && self.may_make_known(&shape)
            {
                self.make_known(shape, effects);
            }
        }
    }

    /// Reads may use up half of what there is room for, so that invalidations are not refused because of them.
    fn may_make_known(&self, shape: &Shape) -> bool {
        let limits = self.config.limits;
        let room = self.shapes.count(&shape.table) < SHAPES_PER_TABLE_MAX;
        let has_top = self.versions.has_top(&shape.table) || self.shapes.count(&shape.table) > 0;
        // Tables that have only shapes so far, beside those that have classes.
        let tables = self.shapes.0.keys();
        let tops =
            self.versions.tops() + tables.filter(|table| !self.versions.has_top(table)).count();
        !self.draining && room && (has_top || tops < limits.top_level_classes_max / 2)
    }

    /// Issues the event that makes a shape known, or adds what was applied here without knowledge of it.
    fn make_known(&mut self, shape: Shape, effects: &mut Effects) {
        let id = self.next_bump_id();
        let all = Shape::of_all(shape.table.clone()).class();
        let mut vector = self.versions.vector_of(&all);
        // Own changes that are being written came before it, too.
        vector.raise(id.origin, id.sequence);
        self.shapes.put(shape.clone(), Known::Written(id));
        self.counters.shapes_made_known += 1;
        let new = NewShape { shape, vector };
        let meaning = shape_writes(&new, new.vector.clone());
        let event = Arc::new(BumpEvent::Shape(new));
        self.write_own(id, (event.clone(), event), meaning, None, effects);
    }

    /// An own shape is flushed and applied.
    pub(super) fn shape_written(&mut self, id: EventId, shape: &Shape) {
        if self.shapes.get(shape) == Some(Known::Written(id)) {
            self.shapes.put(shape.clone(), Known::Applied);
        }
    }

    /// A peer's shape was applied: the writes by which it enters the store.
    pub(super) fn shape_heard(
        &mut self,
        id: EventId,
        new: &NewShape,
        effects: &mut Effects,
    ) -> Vec<Write> {
        let mut vector = new.vector.clone();
        vector.raise(id.origin, id.sequence);
        let known = self.learn_shape(&new.shape, effects);
        let mut writes = shape_writes(new, self.versions.image(&vector));
        if !self.versions.holds(&new.shape.class()) {
            writes.retain(|write| !matches!(write, Write::JoinClass { .. }));
        }
        if !known {
            writes.retain(|write| !matches!(write, Write::PutShape(_)));
        }
        writes
    }

    /// Takes over a shape of a snapshot; the write by which it enters the store.
    pub(super) fn adopt_shape(&mut self, shape: &Shape, effects: &mut Effects) -> Option<Write> {
        self.learn_shape(shape, effects)
            .then(|| Write::PutShape(shape.clone()))
    }

    /// A peer knows a shape. Tells whether it is known here now: it is left out where there is no room for it, or where what its class lacks
    /// cannot be told.
    fn learn_shape(&mut self, shape: &Shape, effects: &mut Effects) -> bool {
        if self.shapes.get(shape).is_some() {
            return true;
        }
        let lacks = self.lacks(shape);
        let room = self.shapes.count(&shape.table) < 2 * SHAPES_PER_TABLE_MAX;
        if !room || lacks && self.draining {
            return false;
        }
        if lacks {
            self.make_known(shape.clone(), effects);
        } else {
            self.shapes.put(shape.clone(), Known::Applied);
        }
        true
    }

    /// A snapshot was taken over whose holder knew these shapes only: its changes of rows may not count for the others known here.
    pub(super) fn tell_what_lacks(&mut self, told: &BTreeSet<Shape>, effects: &mut Effects) {
        let known = self.shapes.0.values().flat_map(BTreeMap::keys);
        let lacking: Vec<_> = known
            .filter(|shape| !told.contains(shape) && self.lacks(shape))
            .cloned()
            .collect();
        for shape in lacking {
            self.make_known(shape, effects);
        }
    }

    /// Whether changes of rows that are applied here, or being written, are not among the entries of a shape's class.
    fn lacks(&self, shape: &Shape) -> bool {
        let all = Shape::of_all(shape.table.clone()).class();
        let told = self.versions.vector_of(&shape.class());
        !told.dominates(&self.versions.vector_of(&all)) || self.is_changing(&shape.table)
    }

    /// Whether an own change of rows of a table is being written.
    fn is_changing(&self, table: &ClassPath) -> bool {
        self.pending.iter().any(|(_, pending)| match pending {
            Pending::OwnBump { event, .. } => match &**event {
                BumpEvent::Rows(changed) => {
                    let mut rows = changed.rows.iter();
                    rows.any(|image| table_class(&image.rows.table) == *table)
                }
                _ => false,
            },
            _ => false,
        })
    }
}

/// The shape whose reads a class is for, if it is of any. Most classes are not, and a look suffices.
fn shape_of(class: &ClassPath) -> Option<Shape> {
    let (_, below) = class.as_str().split_once('/')?;
    below.starts_with(SHAPE_MARK).then(|| Shape::parse(class))?
}

/// The writes by which a shape enters the store, its log record aside.
fn shape_writes(new: &NewShape, entries: VersionVector) -> Vec<Write> {
    vec![
        Write::JoinClass {
            class: new.shape.class(),
            others: Vec::new(),
            entries,
        },
        Write::PutShape(new.shape.clone()),
    ]
}
