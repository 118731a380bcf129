//! The newest versions of rows that were heard of, so that members which have moved on can be told without their rows.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::criteria::{Conjunction, Shape, table_class};
use crate::event::{Moment, RowImage};
use crate::index::RowId;
use crate::names::ClassPath;

/// A row's newest version, and what is known of it as it is then; nothing if it is gone, or elsewhere.
type Known = (u64, Option<Conjunction>);

/// What is known of rows whose versions the application counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Newest {
    /// By the class of their table.
    tables: BTreeMap<ClassPath, HashMap<RowId, Known>>,
    /// As they were first heard of.
    order: VecDeque<(ClassPath, RowId)>,
    /// What their names and values take up.
    bytes: usize,
}

/// What the names and values of a row take up on average, at most; with longer ones fewer rows are known.
const ROW_BYTES: usize = 512;

impl Newest {
    /// Takes note of what a change says of rows; of more than `limit` the one known longest is forgotten.
    pub(super) fn note(&mut self, images: &[RowImage], limit: usize) {
        for image in images {
            let Some(identity) = image.identity.as_ref().filter(|row| row.version > 0) else {
                continue;
            };
            let (class, id) = (table_class(&image.rows.table), identity.id.clone());
            let now = (image.moment == Moment::After).then(|| image.rows.clone());
            let table = self.tables.entry(class.clone()).or_default();
            match table.get_mut(&id) {
                Some((version, _)) if *version > identity.version => {}
                // As it is now says more than as it was.
                Some((version, _)) if *version == identity.version && now.is_none() => {}
                Some(known) => {
                    self.bytes = self.bytes + bytes(now.as_ref()) - bytes(known.1.as_ref());
                    *known = (identity.version, now);
                }
                None => {
                    self.bytes += bytes(now.as_ref());
                    table.insert(id.clone(), (identity.version, now));
                    self.order.push_back((class, id));
                }
            }
            while self.order.len() > limit || self.bytes > limit.saturating_mul(ROW_BYTES) {
                self.forget_oldest();
            }
        }
    }

    fn forget_oldest(&mut self) {
        let Some((class, id)) = self.order.pop_front() else {
            return;
        };
        let Some(table) = self.tables.get_mut(&class) else {
            return;
        };
        if let Some((_, now)) = table.remove(&id) {
            self.bytes -= bytes(now.as_ref());
        }
        if table.is_empty() {
            self.tables.remove(&class);
        }
    }

    /// Whether a member of a leaf may be in it still, as far as is known here.
    pub(super) fn may_be_in(
        &self,
        shape: &Shape,
        leaf: &ClassPath,
        id: &RowId,
        version: u64,
    ) -> bool {
        if version == 0 {
            return true;
        }
        let known = self
            .tables
            .get(&shape.table)
            .and_then(|table| table.get(id));
        match known {
            Some((newer, row)) if *newer > version => row.as_ref().is_some_and(|row| {
                let classes = shape.classes_of_write(row);
                classes.iter().any(|class| class.covers(leaf.as_str()))
            }),
            _ => true,
        }
    }
}

fn bytes(now: Option<&Conjunction>) -> usize {
    now.map_or(0, Conjunction::bytes)
}
