//! The tables of one SELECT, what conditions filter each of them, and which column a name means.
//!
//! A condition filters a table if a row of it for which the condition fails is as good as absent. WHERE does so for all tables, and
//! the condition of an inner join for both its sides. The condition of an outer join does so for the side that is filled with NULL only:
//! rows of the other side stay in the answer without it. For a table that may be filled with NULL, WHERE filters too, but for the
//! conditions that NULL meets: `IS NULL` there asks for the rows' absence, so that rows which fail it count all the same.

use std::collections::BTreeSet;

use grapevine_core::criteria::{Column, Dialect, Table};
use sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor, TableWithJoins,
};

use crate::{ExplainError, RELATIONS_MAX};

/// A column of one of the tables, by the table's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ColumnRef {
    pub(crate) relation: usize,
    pub(crate) column: Column,
}

/// A table, or what stands in the place of one.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    /// What its columns are qualified with; `None` if nothing.
    name: Option<String>,
    /// The table; `None` for what a query in FROM or WITH, or a function, makes.
    pub(crate) table: Option<Table>,
    /// Whether its columns have the table's names.
    named: bool,
    /// Whether an outer join may fill it with NULL.
    pub(crate) nullable: bool,
}

/// A condition and the tables that it filters.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) condition: Condition<'a>,
    pub(crate) of: BTreeSet<usize>,
}

/// A condition.
#[derive(Debug)]
pub(crate) enum Condition<'a> {
    /// As it stands.
    Expr(&'a Expr),
    /// `USING (column)`.
    Same(ColumnRef, ColumnRef),
}

/// The tables of one SELECT, UPDATE or DELETE.
#[derive(Debug)]
pub(crate) struct From<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) relations: Vec<Relation>,
    pub(crate) filters: Vec<Filter<'a>>,
    /// Whether there are too many tables for their conditions to be looked at.
    crowded: bool,
}

impl<'a> From<'a> {
    /// `is_table` tells whether a name means a table, or a query in WITH.
    pub(crate) fn of(
        items: impl IntoIterator<Item = &'a TableWithJoins>,
        dialect: Dialect,
        is_table: &impl Fn(&ObjectName) -> bool,
    ) -> Result<Self, ExplainError> {
        let mut from = Self {
            dialect,
            relations: Vec::new(),
            filters: Vec::new(),
            crowded: false,
        };
        for item in items {
            from.joined(item, is_table)?;
        }
        if from.relations.len() > RELATIONS_MAX {
            from.filters.clear();
            from.crowded = true;
        }
        Ok(from)
    }

    /// Of one item, without conditions.
    pub(crate) fn of_factor(
        factor: &'a TableFactor,
        dialect: Dialect,
    ) -> Result<Self, ExplainError> {
        let mut from = Self::of([], dialect, &|_| true)?;
        from.factor(factor, &|_| true)?;
        Ok(from)
    }

    /// A condition that filters all.
    pub(crate) fn filter_all(&mut self, condition: &'a Expr) {
        if self.crowded {
            return;
        }
        self.filters.push(Filter {
            condition: Condition::Expr(condition),
            of: (0..self.relations.len()).collect(),
        });
    }

    fn joined(
        &mut self,
        item: &'a TableWithJoins,
        is_table: &impl Fn(&ObjectName) -> bool,
    ) -> Result<BTreeSet<usize>, ExplainError> {
        let mut left = self.factor(&item.relation, is_table)?;
        for join in &item.joins {
            let right = self.factor(&join.relation, is_table)?;
            if self.relations.len() > RELATIONS_MAX {
                // Their conditions are not looked at, and a set of those before for each of so many would be work without a bound.
                continue;
            }
            let both: BTreeSet<_> = left.union(&right).copied().collect();
            let (constraint, filtered, filled) = match &join.join_operator {
                JoinOperator::Join(on)
                | JoinOperator::Inner(on)
                | JoinOperator::CrossJoin(on)
                | JoinOperator::StraightJoin(on) => (Some(on), both.clone(), BTreeSet::new()),
                JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => {
                    (Some(on), right.clone(), right.clone())
                }
                JoinOperator::Right(on) | JoinOperator::RightOuter(on) => {
                    (Some(on), left.clone(), left.clone())
                }
                // Neither side is filtered by the condition of a full join; what the others do is not known here.
                _ => (None, BTreeSet::new(), both.clone()),
            };
            for relation in filled {
                self.relations[relation].nullable = true;
            }
            match constraint {
                Some(JoinConstraint::On(condition)) => self.filters.push(Filter {
                    condition: Condition::Expr(condition),
                    of: filtered,
                }),
                Some(JoinConstraint::Using(columns)) => {
                    self.using(columns, (&left, &right), &filtered)?;
                }
                _ => {}
            }
            left = both;
        }
        Ok(left)
    }

    /// `USING`, where each side is one table, so that it is clear whose column it is.
    fn using(
        &mut self,
        columns: &[ObjectName],
        (left, right): (&BTreeSet<usize>, &BTreeSet<usize>),
        filtered: &BTreeSet<usize>,
    ) -> Result<(), ExplainError> {
        let one = |side: &BTreeSet<usize>| match side.first() {
            Some(only) if side.len() == 1 => self.relations[*only].named.then_some(*only),
            _ => None,
        };
        let (Some(left), Some(right)) = (one(left), one(right)) else {
            return Ok(());
        };
        for name in columns {
            let Some(column) = last_part(name).map(|part| column(part, self.dialect)) else {
                continue;
            };
            let column = column?;
            let of = |relation| ColumnRef {
                relation,
                column: column.clone(),
            };
            self.filters.push(Filter {
                condition: Condition::Same(of(left), of(right)),
                of: filtered.clone(),
            });
        }
        Ok(())
    }

    fn factor(
        &mut self,
        factor: &'a TableFactor,
        is_table: &impl Fn(&ObjectName) -> bool,
    ) -> Result<BTreeSet<usize>, ExplainError> {
        let relation = match factor {
            TableFactor::NestedJoin {
                table_with_joins,
                alias: None,
            } => return self.joined(table_with_joins, is_table),
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => {
                // Its tables are known by the alias only, and so are their columns.
                let inside = self.joined(table_with_joins, is_table)?;
                for relation in &inside {
                    self.relations[*relation].named = false;
                }
                return Ok(inside);
            }
            TableFactor::Table {
                name,
                alias,
                args: None,
                sample: None,
                ..
            } if is_table(name) => Relation {
                name: alias_or(alias.as_ref(), last_part(name), self.dialect),
                table: Some(table(name, self.dialect)?),
                named: alias.as_ref().is_none_or(|alias| alias.columns.is_empty()),
                nullable: false,
            },
            TableFactor::Table { name, alias, .. } => Relation {
                name: alias_or(alias.as_ref(), last_part(name), self.dialect),
                table: None,
                named: false,
                nullable: false,
            },
            other => Relation {
                name: alias_or(alias_of(other), None, self.dialect),
                table: None,
                named: false,
                nullable: false,
            },
        };
        self.relations.push(relation);
        Ok(BTreeSet::from([self.relations.len() - 1]))
    }

    /// The column that an expression is, if it is one of a table here for sure. A name without a table's is one if there is
    /// one table only; that an outer query's column is meant instead does no harm, for no row of this table has a value for it then.
    pub(crate) fn column(&self, expr: &Expr) -> Option<ColumnRef> {
        let (relation, name) = match expr {
            Expr::Nested(inner) => return self.column(inner),
            Expr::Identifier(name) if self.relations.len() == 1 => (0, name),
            Expr::CompoundIdentifier(parts) => {
                let [.., of, name] = parts.as_slice() else {
                    return None;
                };
                let of = folded(of, self.dialect);
                let mut named = self
                    .relations
                    .iter()
                    .enumerate()
                    .filter(|(_, relation)| relation.name.as_ref() == Some(&of));
                let (found, _) = named.next()?;
                if named.next().is_some() {
                    return None;
                }
                (found, name)
            }
            _ => return None,
        };
        let found = &self.relations[relation];
        if !found.named || name.value.starts_with('@') {
            return None;
        }
        let column = column(name, self.dialect).ok()?;
        Some(ColumnRef { relation, column })
    }
}

fn alias_of(factor: &TableFactor) -> Option<&TableAlias> {
    match factor {
        TableFactor::Derived { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::JsonTable { alias, .. } => alias.as_ref(),
        _ => None,
    }
}

fn alias_or(alias: Option<&TableAlias>, name: Option<&Ident>, dialect: Dialect) -> Option<String> {
    let name = alias.map(|alias| &alias.name).or(name)?;
    Some(folded(name, dialect))
}

fn last_part(name: &ObjectName) -> Option<&Ident> {
    name.0.last()?.as_ident()
}

/// The table that a name means, without its schema.
pub(crate) fn table(name: &ObjectName, dialect: Dialect) -> Result<Table, ExplainError> {
    let name = match last_part(name) {
        Some(part) => folded(part, dialect),
        None => name.to_string(),
    };
    Ok(Table::parse(&name)?)
}

/// The column of that name.
pub(crate) fn column(name: &Ident, dialect: Dialect) -> Result<Column, ExplainError> {
    Ok(Column::parse(&folded(name, dialect))?)
}

/// A name as the dialect compares names. PostgreSQL tells case apart in quoted names only. MySQL may tell it apart in names of
/// tables, SQLite never does: in both all are folded, so that two names of one table are one.
pub(crate) fn folded(name: &Ident, dialect: Dialect) -> String {
    match (dialect, name.quote_style) {
        (Dialect::Postgres, Some(_)) => name.value.clone(),
        _ => name.value.to_lowercase(),
    }
}
