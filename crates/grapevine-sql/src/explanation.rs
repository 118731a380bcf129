//! What is told of a statement, and how it is put together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use grapevine_core::criteria::{Cell, Conjunction, Shape, Table, table_class};
use grapevine_core::event::ADDRESS_CLASSES_MAX;
use grapevine_core::names::ClassPath;
use serde::Serialize;

use crate::reads::Reads;
use crate::writes::Writes;
use crate::{ALTERNATIVES_MAX, Unsure, WIDENED_MAX};

/// Whether a statement reads or changes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It only reads.
    Read,
    /// It changes rows, and may read others.
    Write,
}

/// What a statement depends on, or changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Whether it reads or changes rows.
    pub kind: Kind,
    /// The tables that it reads, or of which it changes rows; ascending.
    pub tables: Vec<String>,
    /// The rows that a read depends on, or that a write changes, before and after: those of any of these.
    pub conjunctions: Vec<Predicate>,
    /// What was left out of that, so that it means more rows.
    pub widened: Vec<Widened>,
    /// The index that has a read's ids, if one can.
    pub index: Option<Index>,
    /// Why none can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_index: Option<String>,
    /// How a read's answer is ordered, if by columns.
    pub order: Vec<Order>,
    /// How many rows at most.
    pub limit: Option<u64>,
    /// How many are passed over.
    pub offset: Option<u64>,
    /// The classes to cache a read under: whatever changes its answer bumps one of them. Of a write: those of its tables; a bump of
    /// them concerns every read of these.
    pub classes: Vec<String>,
    /// The rows whose change invalidates a read, one line for each class or several of one shape.
    pub invalidated_by: Vec<String>,
    /// Whether a read's answer may be cached under its classes.
    pub cacheable: bool,
    /// Why it may not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_cacheable: Vec<String>,
    /// The rows that the classes are of: of a read, with what was widened for want of room.
    #[serde(skip)]
    pub rows: Vec<Conjunction>,
    /// The same as `classes`.
    #[serde(skip)]
    pub class_paths: Vec<ClassPath>,
}

/// Rows of a table that have something in common; every row if there are no terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Predicate {
    /// The table.
    pub table: String,
    /// What holds of each of them.
    pub terms: Vec<Term>,
}

/// What holds of a column. Values are in their normal form, written as in SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// The column.
    pub column: String,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// The least value that it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The greatest value that it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Something that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Widened {
    /// The table of which more rows are meant; `None` where it is not clear whose column it is.
    pub table: Option<String>,
    /// What was left out, and why.
    pub reason: String,
}

/// An index that has the ids of a read's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Index {
    /// The table.
    pub table: String,
    /// The columns that have a value, ascending.
    pub columns: Vec<String>,
    /// The lists to unite.
    pub leaves: Vec<Leaf>,
    /// The column of which a range is wanted; the lists are ordered by it.
    pub range: Option<String>,
}

/// A list: the values of the index's columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leaf {
    /// In the order of the columns.
    pub values: Vec<String>,
}

/// A column that an answer is ordered by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The column.
    pub column: String,
    /// Which way.
    pub direction: Direction,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Small values first.
    Asc,
    /// Large values first.
    Desc,
}

impl Widened {
    pub(crate) fn of(table: &Table, reason: impl Into<String>) -> Self {
        Self {
            table: Some(table.to_string()),
            reason: reason.into(),
        }
    }

    /// Conditions of which it is not clear whose columns they are about.
    pub(crate) fn of_conditions(
        left_out: Vec<(String, &'static str)>,
    ) -> impl Iterator<Item = Self> {
        left_out.into_iter().map(|(condition, why)| Self {
            table: None,
            reason: format!("{condition}: {why}"),
        })
    }
}

impl Predicate {
    fn of(rows: &Conjunction) -> Self {
        let terms = rows.cells.iter().map(|(column, cell)| {
            let (is, from, to) = match cell {
                Cell::Is(datum) => (Some(datum.value.to_string()), None, None),
                Cell::In(range) => {
                    let shown = |end: Option<grapevine_core::criteria::Value>| {
                        end.map(|end| end.to_string())
                    };
                    (None, shown(range.low()), shown(range.high()))
                }
            };
            Term {
                column: column.to_string(),
                is,
                from,
                to,
            }
        });
        Self {
            table: rows.table.to_string(),
            terms: terms.collect(),
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "any row of {}", self.table);
        }
        write!(f, "rows of {} where ", self.table)?;
        for (place, term) in self.terms.iter().enumerate() {
            if place > 0 {
                f.write_str(" AND ")?;
            }
            write!(f, "{term}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = &self.column;
        match (&self.is, &self.from, &self.to) {
            (Some(value), ..) if value == "NULL" => write!(f, "{column} IS NULL"),
            (Some(value), ..) => write!(f, "{column} = {value}"),
            (None, Some(from), Some(to)) => write!(f, "{column} BETWEEN {from} AND {to}"),
            (None, Some(from), None) => write!(f, "{column} >= {from}"),
            (None, None, Some(to)) => write!(f, "{column} <= {to}"),
            (None, None, None) => write!(f, "{column} IS NOT NULL"),
        }
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.table, self.columns.join(", "))?;
        if let Some(range) = &self.range {
            write!(f, ", a range of {range}")?;
        }
        for (place, leaf) in self.leaves.iter().enumerate() {
            let before = if place == 0 { ": " } else { "; " };
            write!(f, "{before}{}", leaf.values.join(", "))?;
        }
        Ok(())
    }
}

impl Explanation {
    /// Of a statement that only reads.
    pub(crate) fn of_reads(reads: Reads<'_>, volatile: Unsure) -> Self {
        let Reads {
            rows,
            widened,
            unsure,
            ..
        } = reads;
        let mut explanation = Self::of_tables(rows, widened);
        if !unsure.is_empty() {
            match volatile {
                Unsure::Refuse => explanation.refuse(unsure),
                Unsure::Table => {
                    let reasons = unsure.into_iter().map(|reason| Widened {
                        table: None,
                        reason,
                    });
                    let widened = explanation.widened.into_iter().chain(reasons).collect();
                    let tables = explanation.rows.iter().map(|rows| rows.table.clone());
                    explanation = Self::of_whole_tables(tables, widened);
                }
            }
        }
        explanation
    }

    /// Of a read of all rows of some tables.
    pub(crate) fn of_whole_tables(
        tables: impl IntoIterator<Item = Table>,
        widened: Vec<Widened>,
    ) -> Self {
        let rows = tables.into_iter().map(|table| {
            let all = Conjunction::all_of(table.clone());
            (table, vec![all])
        });
        Self::of_tables(rows.collect(), widened)
    }

    fn of_tables(mut rows: BTreeMap<Table, Vec<Conjunction>>, mut widened: Vec<Widened>) -> Self {
        for any in rows.values_mut() {
            reduce(any);
        }
        let tables = rows.keys().map(ToString::to_string).collect();
        // No row of these ever counts.
        rows.retain(|_, any| !any.is_empty());
        let conjunctions = rows.values().flatten().map(Predicate::of).collect();
        let count = rows.len();
        let class_paths = fitted(&mut rows, &mut widened);
        let mut invalidated_by = Vec::new();
        for rows in rows.values().flatten() {
            let shape = Shape::of(rows);
            let mut kept = rows.clone();
            for column in shape.left_out(rows) {
                kept.cells.remove(column);
                let reason = format!("{column}: a class has no room for another condition");
                widened.push(Widened::of(&rows.table, reason));
            }
            let line = Predicate::of(&kept).to_string();
            if !invalidated_by.contains(&line) {
                invalidated_by.push(line);
            }
        }
        let mut explanation = Self {
            tables,
            conjunctions,
            invalidated_by,
            ..Self::new(Kind::Read, rows, class_paths, widened)
        };
        if count > ADDRESS_CLASSES_MAX {
            explanation.refuse(vec![format!(
                "it reads {count} tables; the limit is {ADDRESS_CLASSES_MAX}, the classes of an address"
            )]);
        }
        if count == 0 {
            explanation.refuse(vec![
                "its answer depends on no row: nothing would invalidate it".into(),
            ]);
        }
        explanation
    }

    /// Of a statement that changes rows.
    pub(crate) fn of_writes(writes: Writes<'_>) -> Self {
        let mut rows: BTreeMap<Table, Vec<Conjunction>> = BTreeMap::new();
        let mut widened = writes.widened;
        for changed in writes.rows {
            let known = rows.entry(changed.table.clone()).or_default();
            add(known, changed, &mut widened);
        }
        for any in rows.values_mut() {
            reduce(any);
        }
        let class_paths = rows.keys().map(table_class).collect();
        let mut explanation = Self::new(Kind::Write, rows, class_paths, widened);
        explanation.refuse(vec!["it changes rows".into()]);
        explanation
    }

    fn new(
        kind: Kind,
        rows: BTreeMap<Table, Vec<Conjunction>>,
        class_paths: Vec<ClassPath>,
        widened: Vec<Widened>,
    ) -> Self {
        Self {
            kind,
            tables: rows.keys().map(ToString::to_string).collect(),
            conjunctions: rows.values().flatten().map(Predicate::of).collect(),
            widened: shortened(widened),
            index: None,
            no_index: None,
            order: Vec::new(),
            limit: None,
            offset: None,
            classes: class_paths.iter().map(ToString::to_string).collect(),
            invalidated_by: Vec::new(),
            cacheable: true,
            not_cacheable: Vec::new(),
            rows: rows.into_values().flatten().collect(),
            class_paths,
        }
    }

    /// Whether a change of these rows bumps one of a read's classes.
    pub fn is_invalidated_by(&self, changed: &[Conjunction]) -> bool {
        let shapes = self.rows.iter().map(Shape::of);
        let bumped = shapes.flat_map(|shape| {
            let of_shape = move |rows: &Conjunction| shape.classes_of_write(rows);
            changed.iter().flat_map(of_shape)
        });
        bumped.into_iter().any(|bumped| {
            let mut classes = self.class_paths.iter();
            classes.any(|class| bumped.covers(class.as_str()))
        })
    }

    fn refuse(&mut self, why: Vec<String>) {
        self.cacheable = false;
        self.not_cacheable.extend(why);
    }
}

/// The classes of reads, at most [`ADDRESS_CLASSES_MAX`] if there are no more tables: those with the most are read as a whole.
fn fitted(
    rows: &mut BTreeMap<Table, Vec<Conjunction>>,
    widened: &mut Vec<Widened>,
) -> Vec<ClassPath> {
    let mut classes: BTreeMap<Table, Vec<ClassPath>> = BTreeMap::new();
    let few = rows.len() <= ADDRESS_CLASSES_MAX;
    for (table, any) in rows.iter_mut() {
        if !few {
            *any = vec![Conjunction::all_of(table.clone())];
        }
        classes.insert(table.clone(), classes_of(any));
    }
    while few && classes.values().map(Vec::len).sum::<usize>() > ADDRESS_CLASSES_MAX {
        let most = classes.iter_mut().max_by_key(|(_, classes)| classes.len());
        let (table, most) = most.expect("invariant: there are too many");
        let reason = format!(
            "its conditions would take more than the {ADDRESS_CLASSES_MAX} classes of an address"
        );
        widened.push(Widened::of(table, reason));
        let whole = vec![Conjunction::all_of(table.clone())];
        *most = classes_of(&whole);
        rows.insert(table.clone(), whole);
    }
    classes.into_values().flatten().collect()
}

fn classes_of(any: &[Conjunction]) -> Vec<ClassPath> {
    let classes = any
        .iter()
        .flat_map(|rows| Shape::of(rows).classes_of_read(rows));
    let mut classes: Vec<_> = classes.collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// Without repetitions, and at most [`WIDENED_MAX`] of them.
fn shortened(all: Vec<Widened>) -> Vec<Widened> {
    let mut seen = BTreeSet::new();
    let mut widened: Vec<_> = all
        .into_iter()
        .filter(|one| seen.insert((one.table.clone(), one.reason.clone())))
        .collect();
    let more = widened.len().saturating_sub(WIDENED_MAX);
    if more > 0 {
        widened.truncate(WIDENED_MAX);
        widened.push(Widened {
            table: None,
            reason: format!("and {more} more"),
        });
    }
    widened
}

/// Leaves out what another one contains.
fn reduce(any: &mut Vec<Conjunction>) {
    let all = std::mem::take(any);
    for (place, rows) in all.iter().enumerate() {
        let contained = |(other_place, other): (usize, &Conjunction)| {
            let holds = |(column, cell)| rows.cells.get(column) == Some(cell);
            let weaker = other.cells.iter().all(holds);
            weaker && (other.cells.len() < rows.cells.len() || other_place < place)
        };
        if !all.iter().enumerate().any(contained) {
            any.push(rows.clone());
        }
    }
}

/// One more kind of rows of a table; every row of it, once there are too many.
pub(crate) fn add(any: &mut Vec<Conjunction>, rows: Conjunction, widened: &mut Vec<Widened>) {
    if any.contains(&rows) {
        return;
    }
    if any.len() < ALTERNATIVES_MAX {
        any.push(rows);
        return;
    }
    let reason = format!("it would take more than {ALTERNATIVES_MAX} alternatives");
    widened.push(Widened::of(&rows.table, reason));
    *any = vec![Conjunction::all_of(rows.table)];
}
