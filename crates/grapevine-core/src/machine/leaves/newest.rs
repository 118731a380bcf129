//! The newest versions of rows that were heard of, so that members which have moved on can be told without their rows.

use std::collections::{HashMap, VecDeque};

use crate::criteria::{Conjunction, Shape, table_class};
use crate::event::{Moment, RowImage};
use crate::index::RowId;
use crate::names::ClassPath;

/// A row: its table's class, and its id.
type Row = (ClassPath, RowId);

/// What is known of rows whose versions the application counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Newest {
    rows: HashMap<Row, (u64, Option<Conjunction>)>,
    /// As they were first heard of.
    order: VecDeque<Row>,
    /// What their names and values take up.
    bytes: usize,
}

/// What a row takes up on average, at most; with longer names and values fewer of them are known.
const ROW_BYTES: usize = 512;

impl Newest {
    /// Takes note of what a change says of rows; of more than `limit` the one known longest is forgotten.
    pub(super) fn note(&mut self, images: &[RowImage], limit: usize) {
        for image in images {
            let Some(identity) = image.identity.as_ref().filter(|row| row.version > 0) else {
                continue;
            };
            let row = (table_class(&image.rows.table), identity.id.clone());
            let now = (image.moment == Moment::After).then(|| image.rows.clone());
            let bytes = |now: &Option<Conjunction>| now.as_ref().map_or(0, Conjunction::bytes);
            match self.rows.get_mut(&row) {
                Some((version, _)) if *version > identity.version => {}
                // As it is now says more than as it was.
                Some((version, _)) if *version == identity.version && now.is_none() => {}
                Some(known) => {
                    self.bytes = self.bytes + bytes(&now) - bytes(&known.1);
                    *known = (identity.version, now);
                }
                None => {
                    self.bytes += bytes(&now);
                    self.order.push_back(row.clone());
                    self.rows.insert(row, (identity.version, now));
                }
            }
            while (self.order.len() > limit || self.bytes > limit.saturating_mul(ROW_BYTES))
                && let Some(oldest) = self.order.pop_front()
            {
                if let Some((_, now)) = self.rows.remove(&oldest) {
                    self.bytes -= bytes(&now);
                }
            }
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
        if version == 0 || self.rows.is_empty() {
            return true;
        }
        match self.rows.get(&(shape.table.clone(), id.clone())) {
            Some((newer, row)) if *newer > version => row.as_ref().is_some_and(|row| {
                let classes = shape.classes_of_write(row);
                classes.iter().any(|class| class.covers(leaf.as_str()))
            }),
            _ => true,
        }
    }
}
