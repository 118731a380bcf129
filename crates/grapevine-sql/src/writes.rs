//! The rows that a statement changes, as they were and as they are after it.
//!
//! An UPDATE's rows meet its condition before, and after it too but for what it assigns; what is assigned by an expression may be
//! anything. Of the rows of an INSERT that lists values, those are known that are literals; a column that is not listed has its default, which
//! may be anything. What the database computes by itself is not seen: generated columns, `ON UPDATE`, triggers.

use std::ops::ControlFlow;

use grapevine_core::criteria::{Cell, Conjunction, Table, Value};
use sqlparser::ast::{
    Assignment, AssignmentTarget, CopySource, Delete, Expr, FromTable, Insert, ObjectName,
    ObjectType, OnConflictAction, OnInsert, SetExpr, SqliteOnConflict, Statement, TableFactor,
    TableObject, TableWithJoins, Update, UpdateTableFromKind, Visit, Visitor,
};

use crate::condition::{Conditions, Disjunction, of_relation};
use crate::explanation::Widened;
use crate::from::{self, From};
use crate::literal::Literals;
use crate::{CONJUNCTIONS_MAX, ExplainError};

/// What a statement changes.
#[derive(Debug)]
pub(crate) struct Writes<'a> {
    literals: Literals<'a>,
    /// The rows, before or after.
    pub(crate) rows: Vec<Conjunction>,
    /// What was left out.
    pub(crate) widened: Vec<Widened>,
    /// Whether there was a statement of which the rows are known, even if they are none.
    pub(crate) understood: bool,
}

impl<'a> Writes<'a> {
    /// Of a statement, and of those inside.
    pub(crate) fn of(statement: &Statement, literals: Literals<'a>) -> Result<Self, ExplainError> {
        let mut writes = Self {
            literals,
            rows: Vec::new(),
            widened: Vec::new(),
            understood: false,
        };
        match statement.visit(&mut writes) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(writes),
        }
    }

    /// All rows of some tables.
    pub(crate) fn of_whole_tables(
        literals: Literals<'a>,
        tables: impl IntoIterator<Item = Table>,
        widened: Vec<Widened>,
    ) -> Self {
        let rows = tables.into_iter().map(Conjunction::all_of);
        Self {
            literals,
            rows: rows.collect(),
            widened,
            understood: true,
        }
    }

    /// Tells whether it is one of which the rows are known.
    fn statement(&mut self, statement: &Statement) -> Result<bool, ExplainError> {
        match statement {
            Statement::Insert(insert) => self.insert(insert),
            Statement::Update(update) => self.update(update),
            Statement::Delete(delete) => self.delete(delete),
            Statement::Merge(merge) => {
                self.all_of_factor(&merge.table, "which rows it merges into is not known")
            }
            Statement::Truncate(truncate) => {
                let names = truncate.table_names.iter().map(|target| &target.name);
                self.whole_by_name(names, "it removes all rows")
            }
            Statement::AlterTable(alter) => {
                self.whole_by_name([&alter.name], "it may change every row")
            }
            Statement::Drop {
                object_type: ObjectType::Table,
                names,
                ..
            } => self.whole_by_name(names, "it removes all rows"),
            Statement::Copy {
                source: CopySource::Table { table_name, .. },
                to: false,
                ..
            } => self.whole_by_name([table_name], "what it inserts is not listed"),
            _ => Ok(false),
        }
    }

    fn whole(&mut self, table: Table, reason: &str) {
        self.widened.push(Widened::of(&table, reason));
        self.rows.push(Conjunction::all_of(table));
    }

    fn whole_by_name<'t>(
        &mut self,
        names: impl IntoIterator<Item = &'t ObjectName>,
        reason: &str,
    ) -> Result<bool, ExplainError> {
        for name in names {
            let table = from::table(name, self.literals.dialect)?;
            self.whole(table, reason);
        }
        Ok(true)
    }

    /// All rows of all tables that are named there; it is not understood if none is.
    fn all_of(&mut self, from: From<'_>, reason: &str) -> bool {
        let tables = from.relations.into_iter().filter_map(|one| one.table);
        let mut found = false;
        for table in tables {
            self.whole(table, reason);
            found = true;
        }
        found
    }

    fn all_of_factor(&mut self, factor: &TableFactor, reason: &str) -> Result<bool, ExplainError> {
        let from = From::of_factor(factor, self.literals.dialect)?;
        Ok(self.all_of(from, reason))
    }

    fn all_of_items<'t>(
        &mut self,
        items: impl IntoIterator<Item = &'t TableWithJoins>,
        reason: &str,
    ) -> Result<bool, ExplainError> {
        let from = From::of(items, self.literals.dialect, &|_| true)?;
        Ok(self.all_of(from, reason))
    }

    fn insert(&mut self, insert: &Insert) -> Result<bool, ExplainError> {
        let TableObject::TableName(name) = &insert.table else {
            return Ok(false);
        };
        let replaces = match &insert.on {
            Some(OnInsert::OnConflict(conflict)) => conflict.action != OnConflictAction::DoNothing,
            Some(_) => true,
            None => insert.replace_into || insert.or == Some(SqliteOnConflict::Replace),
        };
        if replaces {
            return self
                .whole_by_name([name], "what was in the rows that it replaces is not known");
        }
        let values = insert
            .source
            .as_ref()
            .and_then(|source| match &*source.body {
                SetExpr::Values(values) if source.with.is_none() => Some(values),
                _ => None,
            });
        let table = from::table(name, self.literals.dialect)?;
        if !insert.assignments.is_empty() {
            let rows = self.assigned(Conjunction::all_of(table), &insert.assignments)?;
            self.rows.push(rows);
            return Ok(true);
        }
        let Some(values) = values else {
            self.whole(table, "what it inserts is not listed");
            return Ok(true);
        };
        if insert.columns.is_empty() {
            self.whole(table, "the columns that it inserts are not named");
            return Ok(true);
        }
        if values.rows.len() > CONJUNCTIONS_MAX {
            self.whole(table, "it inserts too many rows");
            return Ok(true);
        }
        for row in &values.rows {
            let mut rows = Conjunction::all_of(table.clone());
            for (name, value) in insert.columns.iter().zip(row.content.iter()) {
                self.assign(&mut rows, name, value)?;
            }
            self.rows.push(rows);
        }
        Ok(true)
    }

    fn update(&mut self, update: &Update) -> Result<bool, ExplainError> {
        let sources = match &update.from {
            Some(
                UpdateTableFromKind::BeforeSet(tables) | UpdateTableFromKind::AfterSet(tables),
            ) => tables.as_slice(),
            None => &[],
        };
        let name = match &update.table.relation {
            TableFactor::Table { name, .. } if update.table.joins.is_empty() => name,
            _ => return self.all_of_items([&update.table], "it updates several tables"),
        };
        if update.or == Some(SqliteOnConflict::Replace) {
            return self
                .whole_by_name([name], "what was in the rows that it replaces is not known");
        }
        let items = std::iter::once(&update.table).chain(sources);
        for before in self.filtered(items, update.selection.as_ref())? {
            let after = self.assigned(before.clone(), &update.assignments)?;
            self.rows.extend([before, after]);
        }
        Ok(true)
    }

    fn delete(&mut self, delete: &Delete) -> Result<bool, ExplainError> {
        let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
        let one = match tables.as_slice() {
            [one] if delete.tables.is_empty() && one.joins.is_empty() => one,
            several => return self.all_of_items(several, "it deletes from several tables"),
        };
        if !matches!(one.relation, TableFactor::Table { .. }) {
            return self.all_of_items([one], "it deletes from several tables");
        }
        let items = std::iter::once(one).chain(delete.using.iter().flatten());
        let rows = self.filtered(items, delete.selection.as_ref())?;
        self.rows.extend(rows);
        Ok(true)
    }

    /// The rows of the first table that meet a condition.
    fn filtered<'t>(
        &mut self,
        items: impl IntoIterator<Item = &'t TableWithJoins>,
        condition: Option<&'t Expr>,
    ) -> Result<Vec<Conjunction>, ExplainError> {
        let mut from = From::of(items, self.literals.dialect, &|_| true)?;
        if let Some(condition) = condition {
            from.filter_all(condition);
        }
        let Some(table) = from.relations.first().and_then(|first| first.table.clone()) else {
            return Ok(Vec::new());
        };
        let mut conditions = Conditions::new(&from, self.literals);
        let mut all = Disjunction::always();
        for filter in from.filters.iter().filter(|filter| filter.of.contains(&0)) {
            all = all.and(conditions.of(&filter.condition));
        }
        self.widened
            .extend(Widened::of_conditions(conditions.left_out));
        let rows = all.any.iter().map(|facts| {
            let all = Conjunction::all_of(table.clone());
            of_relation(facts, 0, all)
        });
        Ok(rows.collect())
    }

    fn assigned(
        &self,
        mut rows: Conjunction,
        assignments: &[Assignment],
    ) -> Result<Conjunction, ExplainError> {
        for assignment in assignments {
            match &assignment.target {
                AssignmentTarget::ColumnName(name) => {
                    self.assign(&mut rows, name, &assignment.value)?;
                }
                AssignmentTarget::Tuple(names) => {
                    for name in names {
                        self.forget(&mut rows, name)?;
                    }
                }
            }
        }
        Ok(rows)
    }

    fn assign(
        &self,
        rows: &mut Conjunction,
        name: &ObjectName,
        value: &Expr,
    ) -> Result<(), ExplainError> {
        self.forget(rows, name)?;
        let Some(name) = name.0.last().and_then(|part| part.as_ident()) else {
            return Ok(());
        };
        let dialect = self.literals.dialect;
        let literal = self.literals.of(value);
        let datum = literal.and_then(|literal| literal.in_column(dialect));
        if let Some(datum) = datum.filter(|datum| is_kept(&datum.value)) {
            let column = from::column(name, dialect)?;
            rows.cells.insert(column, Cell::Is(datum));
        }
        Ok(())
    }

    fn forget(&self, rows: &mut Conjunction, name: &ObjectName) -> Result<(), ExplainError> {
        match name.0.last().and_then(|part| part.as_ident()) {
            Some(name) => {
                let column = from::column(name, self.literals.dialect)?;
                rows.cells.remove(&column);
            }
            // A part of a value, or a name that is made: any column.
            None => rows.cells.clear(),
        }
        Ok(())
    }
}

/// Whether a column takes a value as it is, whatever its type: fractions are rounded by some, and times of day left out.
fn is_kept(value: &Value) -> bool {
    const DAY_MICROS: i64 = 86_400_000_000;
    match value {
        Value::Number(_) => value.number().is_some_and(|number| number.fract() == 0.0),
        Value::Time(micros) => micros % DAY_MICROS == 0,
        Value::Null | Value::Text(_) | Value::Bytes(_) => true,
    }
}

impl Visitor for Writes<'_> {
    type Break = ExplainError;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Self::Break> {
        match self.statement(statement) {
            Ok(understood) => {
                self.understood |= understood;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}
