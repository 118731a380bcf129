//! Writes: committed in SQLite, and told at a sidecar.

use grapevine_core::criteria::Conjunction;
use grapevine_core::event::{Moment, PurgeMode, RowImage};
use grapevine_core::index::{RowId, RowIdentity};
use grapevine_core::machine::effects::{Input, ReceiptLevel, Reply, RowsChange, Ticket};
use grapevine_sql::{Options, Unsure, explain};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::Round;
use crate::database::{Changed, Rows};
use crate::generate::TABLES;
use crate::sqlite;

/// With more rows than this, some are deleted.
const ROWS_MAX: usize = 80;
/// Of this table's rows the application counts the versions.
pub(super) const COUNTED: &str = "c";

/// Writes that nobody has acknowledged.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Committed, and not told.
    untold: Vec<Vec<RowImage>>,
    /// Told, and not answered.
    unanswered: Vec<(usize, Ticket)>,
    /// What the database's version was when all were.
    pub(super) quiet: u64,
}

impl Writes {
    /// Whether all is acknowledged.
    pub(super) fn are_told(&self) -> bool {
        self.untold.is_empty() && self.unanswered.is_empty()
    }
}

impl Round {
    /// Commits a write, and tells of it, or has it told later; or several at once, told by one sidecar before anybody has heard of the first.
    pub(super) fn write(&mut self) {
        let late = self.chance(0.25);
        if late && self.writes.are_told() {
            self.note_answers();
        }
        let burst = self.chance(0.1);
        for _ in 0..if burst { 3 } else { 1 } {
            // What leaves cannot follow is best told among what they can.
            let unfollowed = if burst { 0.4 } else { 0.05 };
            let mut images = self.commit(unfollowed);
            while images.is_empty() {
                images = self.commit(unfollowed);
            }
            self.counts.writes += 1;
            self.counts.late += u64::from(late);
            self.writes.untold.push(images);
        }
        if burst {
            self.counts.bursts += 1;
            let at = self.node();
            for images in std::mem::take(&mut self.writes.untold) {
                self.tell(at, images);
            }
        }
        if !late {
            self.tell_all();
        } else if self.chance(0.5) {
            self.tell_one();
        }
        if self.writes.are_told() {
            self.writes.quiet = self.version;
        }
    }

    /// What is to be told of it; nothing if it changed nothing. Of rows that wander between lists, so often only by the text.
    fn commit(&mut self, unfollowed: f64) -> Vec<RowImage> {
        let mut texts = Vec::new();
        let mut told_by_text = 0.3;
        if self.rows.count() > ROWS_MAX {
            texts.extend(TABLES.map(|table| format!("DELETE FROM {table} WHERE id > 14")));
        } else {
            for _ in 0..if self.chance(0.1) { 2 } else { 1 } {
                let text = if self.chance(0.4) {
                    told_by_text = unfollowed;
                    self.wandering()
                } else {
                    self.generator.write()
                };
                texts.push(text);
            }
        }
        let whole = format!("BEGIN; {}; COMMIT", texts.join("; "));
        if self.database.execute_batch(&whole).is_err() {
            // It breaks a constraint, and so nothing of it is there.
            let _ = self.database.execute_batch("ROLLBACK");
            return Vec::new();
        }
        let now = Rows::of(&self.database);
        let changed = self.rows.changed(&now);
        self.rows = now;
        self.version += 1;
        for one in &changed {
            *self.row_versions.entry(one.key).or_default() += 1;
        }
        if self.chance(told_by_text) {
            let images = self.by_text(&texts);
            assert!(
                !images.is_empty() || changed.is_empty(),
                "seed {}: {texts:?} change {changed:?}",
                self.seed
            );
            self.counts.by_text += u64::from(!images.is_empty());
            return images;
        }
        self.counts.by_rows += u64::from(!changed.is_empty());
        changed.iter().flat_map(|one| self.by_row(one)).collect()
    }

    fn by_text(&self, texts: &[String]) -> Vec<RowImage> {
        // As the sidecar takes what writes say.
        let options = Options {
            volatile: Unsure::Table,
            ..sqlite()
        };
        let rows = texts.iter().flat_map(|text| {
            let explained = explain(text, &[], options);
            explained
                .unwrap_or_else(|error| panic!("seed {}: {text}: {error}", self.seed))
                .rows
        });
        rows.map(RowImage::from).collect()
    }

    /// A row as it was and as it is, of which all is told, or some, or only that there was one.
    fn by_row(&mut self, changed: &Changed) -> Vec<RowImage> {
        let (table, id) = changed.key;
        let version = if table == COUNTED {
            self.row_versions[&changed.key]
        } else {
            0
        };
        let identity = RowIdentity {
            id: RowId::Number(id),
            version,
        };
        let identity = self.chance(0.95).then_some(identity);
        let moments = [
            (changed.before.is_some(), Moment::Before, 0.4),
            (changed.after.is_some(), Moment::After, 0.1),
        ];
        let mut known = changed.images();
        let mut images = Vec::new();
        for (there, moment, hidden) in moments {
            if there && let Some(mut rows) = known.next() {
                if self.chance(hidden) {
                    self.hide(&mut rows);
                }
                let identity = identity.clone();
                images.push(RowImage {
                    rows,
                    moment,
                    identity,
                });
            }
        }
        images
    }

    fn hide(&mut self, rows: &mut Conjunction) {
        let all = self.chance(0.5);
        rows.cells
            .retain(|_, _| !all && self.random.random_bool(0.7));
    }

    fn tell_one(&mut self) {
        if self.writes.untold.is_empty() {
            return;
        }
        let which = self.random.random_range(0..self.writes.untold.len());
        let images = self.writes.untold.swap_remove(which);
        let at = self.node();
        self.tell(at, images);
        if self.chance(0.5) {
            self.acknowledge();
        }
    }

    fn tell(&mut self, at: usize, images: Vec<RowImage>) {
        let ticket = self.network.ticket();
        let level = [ReceiptLevel::None, ReceiptLevel::One];
        let change = RowsChange {
            rows: images,
            purge: PurgeMode::Hard,
            level: *level.choose(&mut self.random).unwrap(),
            deadline: self.network.now.plus(std::time::Duration::from_secs(20)),
        };
        self.network.input(at, Input::RowsChanged(ticket, change));
        self.writes.unanswered.push((at, ticket));
    }

    /// Waits for the answers of what is told.
    fn acknowledge(&mut self) {
        for (at, ticket) in std::mem::take(&mut self.writes.unanswered) {
            match self.network.answer(at, ticket) {
                Reply::Invalidated { event, receipt, .. } => {
                    assert!(receipt.satisfied, "seed {}: {receipt:?}", self.seed);
                    let last = self.session.entry(event.origin).or_default();
                    *last = event.sequence.max(*last);
                }
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
    }

    pub(super) fn tell_all(&mut self) {
        while !self.writes.untold.is_empty() {
            self.tell_one();
        }
        self.acknowledge();
        self.writes.quiet = self.version;
    }
}
