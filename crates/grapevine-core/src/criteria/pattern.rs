//! Conjunctions: what is known of rows, column by column.

use std::collections::BTreeMap;

use super::range::Range;
use super::value::Datum;
use super::{Column, Table};

/// What is known of one column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// It has this value.
    Is(Datum),
    /// It lies in this range, and so is not NULL.
    In(Range),
}

/// Rows of a table of which something is known: those that a read depends on, those that a write changes, or one row. A column
/// that is not named may have any value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conjunction {
    /// The table.
    pub table: Table,
    /// By column.
    pub cells: BTreeMap<Column, Cell>,
}

/// A conjunction seen from a write: the rows that it changes, as they were or as they are now.
pub type Pattern = Conjunction;

impl Conjunction {
    /// Every row of a table.
    pub fn all_of(table: Table) -> Self {
        Self {
            table,
            cells: BTreeMap::new(),
        }
    }

    /// How long its names and values are.
    pub fn bytes(&self) -> usize {
        let cell = |cell: &Cell| match cell {
            Cell::Is(datum) => datum.value.bytes(),
            Cell::In(_) => 2 * size_of::<u64>(),
        };
        let cells = self.cells.iter();
        let cells = cells.map(|(column, known)| column.as_str().len() + cell(known));
        self.table.as_str().len() + cells.sum::<usize>()
    }

    /// Narrows it by what is known of one more column. Of two things that contradict each other the first one stays: no row meets
    /// both, so either is true of all that do.
    pub fn narrow(&mut self, column: Column, cell: Cell) {
        let known = self.cells.get(&column);
        let narrowed = match (known, cell) {
            (None, cell) | (Some(Cell::In(_)), cell @ Cell::Is(_)) => cell,
            (Some(Cell::Is(_)), _) => return,
            (Some(Cell::In(known)), Cell::In(more)) => match known.and(more) {
                Some(both) => Cell::In(both),
                None => return,
            },
        };
        self.cells.insert(column, narrowed);
    }

    /// Whether there may be a row that both mean.
    pub fn may_meet(&self, other: &Self) -> bool {
        let may = |(column, cell): (&Column, &Cell)| match (cell, other.cells.get(column)) {
            (_, None) => true,
            (Cell::Is(one), Some(Cell::Is(other))) => one.value == other.value,
            (Cell::In(range), Some(Cell::Is(datum))) | (Cell::Is(datum), Some(Cell::In(range))) => {
                range.may_hold(datum)
            }
            (Cell::In(one), Some(Cell::In(other))) => one.may_meet(*other),
        };
        self.table == other.table && self.cells.iter().all(may)
    }
}
