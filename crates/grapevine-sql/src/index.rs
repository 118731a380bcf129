//! Whether a read is one of ids by criteria, which an index answers, and how it is ordered and cut.

use grapevine_core::criteria::{Cell, Conjunction};
use sqlparser::ast::{
    Distinct, Expr, GroupByExpr, LimitClause, OrderByKind, OrderBySort, Query, Select, SelectItem,
    SetExpr,
};

use crate::ExplainError;
use crate::condition::{Conditions, Disjunction, of_relation};
use crate::explanation::{Direction, Explanation, Index, Leaf, Order};
use crate::from::From;
use crate::literal::Literals;

/// Adds to an explanation how the answer is ordered and cut, and which index has it.
pub(crate) fn describe(
    query: &Query,
    literals: Literals<'_>,
    explanation: &mut Explanation,
) -> Result<(), ExplainError> {
    let counted = |expr: Option<&Expr>| expr.and_then(|expr| literals.count(expr));
    let (limit, offset) = match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => {
            (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
        None => (None, None),
    };
    let fetched = query
        .fetch
        .as_ref()
        .filter(|fetch| !fetch.percent && !fetch.with_ties);
    let limit = limit.or(fetched.and_then(|fetch| fetch.quantity.as_ref()));
    (explanation.limit, explanation.offset) = (counted(limit), counted(offset));

    let found = match &*query.body {
        SetExpr::Select(select) if query.with.is_none() => {
            of_select(query, select, literals, explanation)?
        }
        SetExpr::Select(_) => Err("it reads from a query of its own".to_owned()),
        _ => Err("it is no single SELECT".to_owned()),
    };
    match found {
        Ok(index) => explanation.index = Some(index),
        Err(why) => explanation.no_index = Some(why),
    }
    Ok(())
}

fn of_select(
    query: &Query,
    select: &Select,
    literals: Literals<'_>,
    explanation: &mut Explanation,
) -> Result<Result<Index, String>, ExplainError> {
    let mut from = From::of(&select.from, literals.dialect, &|_| true)?;
    if let Some(condition) = &select.selection {
        from.filter_all(condition);
    }
    let ordered = order(query, &from);
    if let Ok(order) = &ordered {
        explanation.order.clone_from(order);
    }
    let table = match from.relations.as_slice() {
        [] => None,
        [only] if from.filters.len() <= 1 => only.table.clone(),
        _ => return Ok(Err("it reads from more than one table".to_owned())),
    };
    let Some(table) = table else {
        return Ok(Err("it reads from no table".to_owned()));
    };
    if let Some(why) = is_no_list(select) {
        return Ok(Err(why.to_owned()));
    }
    let order = match ordered {
        Ok(order) => order,
        Err(why) => return Ok(Err(why.to_owned())),
    };
    let mut conditions = Conditions::new(&from, literals);
    let filters = from.filters.iter();
    let any = filters.fold(Disjunction::always(), |all, filter| {
        all.and(conditions.of(&filter.condition))
    });
    if !any.exact {
        return Ok(Err(match conditions.left_out.first() {
            Some((condition, why)) => format!("{condition}: {why}"),
            None => "it has too many conditions".to_owned(),
        }));
    }
    let rows: Vec<_> = any
        .any
        .iter()
        .map(|facts| of_relation(facts, 0, Conjunction::all_of(table.clone())))
        .collect();
    let found = leaves(&rows, &order).map(|(columns, leaves, range)| Index {
        table: table.to_string(),
        columns,
        leaves,
        range,
    });
    Ok(found.map_err(str::to_owned))
}

type Leaves = (Vec<String>, Vec<Leaf>, Option<String>);

fn leaves(any: &[Conjunction], order: &[Order]) -> Result<Leaves, &'static str> {
    let columns_of = |rows: &Conjunction, ranged: bool| {
        let cells = rows.cells.iter();
        let wanted = cells.filter(|(_, cell)| matches!(cell, Cell::In(_)) == ranged);
        wanted
            .map(|(column, _)| column.to_string())
            .collect::<Vec<_>>()
    };
    let Some(first) = any.first() else {
        return Err("no row meets its condition");
    };
    let (columns, ranges) = (columns_of(first, false), columns_of(first, true));
    let alike = any
        .iter()
        .all(|rows| columns_of(rows, false) == columns && columns_of(rows, true) == ranges);
    if !alike {
        return Err(
            "its alternatives are about different columns: an index has one list for each value of the same ones",
        );
    }
    let range = match ranges.as_slice() {
        [] => None,
        [one] if order.first().is_none_or(|first| first.column == *one) => Some(one.clone()),
        [_] => return Err("a range is of the column that a list is ordered by"),
        _ => return Err("a list is ordered by one column, so one range is all there can be"),
    };
    let values = |rows: &Conjunction| {
        let cells = rows.cells.values().filter_map(|cell| match cell {
            Cell::Is(datum) => Some(datum.value.to_string()),
            Cell::In(_) => None,
        });
        Leaf {
            values: cells.collect(),
        }
    };
    let mut leaves: Vec<_> = any.iter().map(values).collect();
    leaves.dedup();
    Ok((columns, leaves, range))
}

fn order(query: &Query, from: &From<'_>) -> Result<Vec<Order>, &'static str> {
    let Some(order) = &query.order_by else {
        return Ok(Vec::new());
    };
    let OrderByKind::Expressions(exprs) = &order.kind else {
        return Err("it is ordered by something else than columns");
    };
    let one = |expr: &sqlparser::ast::OrderByExpr| {
        let column = from.column(&expr.expr)?;
        let direction = match expr.options.sort {
            None | Some(OrderBySort::Asc) => Direction::Asc,
            Some(OrderBySort::Desc) => Direction::Desc,
            Some(_) => return None,
        };
        expr.options.nulls_first.is_none().then(|| Order {
            column: column.column.to_string(),
            direction,
        })
    };
    let columns: Option<Vec<_>> = exprs.iter().map(one).collect();
    columns.ok_or("it is ordered by something else than columns")
}

/// Why a SELECT's answer is no list of rows of its table.
fn is_no_list(select: &Select) -> Option<&'static str> {
    if !matches!(select.distinct, None | Some(Distinct::All)) {
        return Some("DISTINCT joins rows");
    }
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
    };
    if grouped || select.having.is_some() || select.qualify.is_some() || select.top.is_some() {
        return Some("its rows are grouped or chosen by something else than a condition");
    }
    let plain = |item: &SelectItem| match item {
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        }
        SelectItem::ExprWithAliases { .. } => false,
    };
    if !select.projection.iter().all(plain) {
        return Some("it computes something of its rows");
    }
    None
}
