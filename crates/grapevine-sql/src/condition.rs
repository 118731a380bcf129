//! Conditions in bounded disjunctive form.
//!
//! A condition becomes a set of conjunctions of which at least one holds wherever it holds. The converse is not promised, but told
//! (`exact`): what is not understood is left out, and what has more than [`CONJUNCTIONS_MAX`] conjunctions counts as always true.
//! `NOT` is carried down to the comparisons. That is right in three-valued logic, for only rows for which a condition is true count:
//! `NOT (a AND b)` is true where one of them is false, and `NOT a = 5` where `a` has another value.

use std::collections::BTreeMap;

use grapevine_core::criteria::{Cell, Conjunction, Datum, Dialect};
use sqlparser::ast::{BinaryOperator, Expr, InTarget, UnaryOperator};

use crate::from::{ColumnRef, Condition, From};
use crate::literal::{Literal, Literals};
use crate::{CONJUNCTIONS_MAX, FACTS_MAX};

/// Why NOT, <> and the like are left out.
const ALL_BUT: &str =
    "NOT is refused, and so is <>: classes and lists are of rows that meet a condition";

/// One thing that holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// Of a column.
    Cell(ColumnRef, Cell),
    /// That two columns have the same value, which is not NULL.
    Same(ColumnRef, ColumnRef),
}

/// At least one of these conjunctions holds where the condition does; none: it never does.
#[derive(Clone, Debug)]
pub(crate) struct Disjunction {
    pub(crate) any: Vec<Vec<Fact>>,
    /// Whether the condition holds wherever one of them does, but for the ends of ranges, which are included, and times, which are
    /// widened.
    pub(crate) exact: bool,
}

impl Disjunction {
    pub(crate) fn always() -> Self {
        Self {
            any: vec![Vec::new()],
            exact: true,
        }
    }

    fn never() -> Self {
        Self {
            any: Vec::new(),
            exact: true,
        }
    }

    fn unknown() -> Self {
        Self {
            any: vec![Vec::new()],
            exact: false,
        }
    }

    fn fact(fact: Fact) -> Self {
        Self {
            any: vec![vec![fact]],
            exact: true,
        }
    }

    /// Both hold. Beyond the bounds, the one with fewer conjunctions stands for both, and facts are left out.
    pub(crate) fn and(self, other: Self) -> Self {
        if self.any.len() * other.any.len() > CONJUNCTIONS_MAX {
            let fewer = if self.any.len() <= other.any.len() {
                self
            } else {
                other
            };
            return Self {
                exact: false,
                ..fewer
            };
        }
        let pairs = self.any.iter().flat_map(|one| {
            let with = move |another: &Vec<Fact>| {
                let both = one.iter().chain(another);
                both.take(FACTS_MAX).cloned().collect()
            };
            other.any.iter().map(with)
        });
        let longest = |any: &[Vec<Fact>]| any.iter().map(Vec::len).max().unwrap_or(0);
        let fit = longest(&self.any) + longest(&other.any) <= FACTS_MAX;
        Self {
            any: pairs.collect(),
            exact: self.exact && other.exact && fit,
        }
    }

    /// One of them holds.
    fn or(mut self, other: Self) -> Self {
        if self.any.len() + other.any.len() > CONJUNCTIONS_MAX {
            return Self::unknown();
        }
        self.any.extend(other.any);
        self.exact &= other.exact;
        self
    }
}

/// Turns conditions on the tables of one FROM into disjunctions, and remembers what it left out.
#[derive(Debug)]
pub(crate) struct Conditions<'a> {
    from: &'a From<'a>,
    literals: Literals<'a>,
    /// What was left out, and why.
    pub(crate) left_out: Vec<(String, &'static str)>,
}

impl<'a> Conditions<'a> {
    pub(crate) fn new(from: &'a From<'a>, literals: Literals<'a>) -> Self {
        Self {
            from,
            literals,
            left_out: Vec::new(),
        }
    }

    pub(crate) fn of(&mut self, condition: &Condition<'_>) -> Disjunction {
        match condition {
            Condition::Expr(expr) => self.expr(expr, false),
            Condition::Same(one, other) => {
                Disjunction::fact(Fact::Same(one.clone(), other.clone()))
            }
        }
    }

    fn unknown(&mut self, expr: &Expr, why: &'static str) -> Disjunction {
        const SHOWN: usize = 80;
        let mut shown = String::new();
        // Only what is shown is written: the whole may be long.
        let _ = std::fmt::write(&mut Short(&mut shown, SHOWN), format_args!("{expr}"));
        self.left_out.push((shown, why));
        Disjunction::unknown()
    }

    fn expr(&mut self, expr: &Expr, negated: bool) -> Disjunction {
        match expr {
            Expr::Nested(inner) => self.expr(inner, negated),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => self.expr(expr, !negated),
            Expr::BinaryOp {
                op: op @ (BinaryOperator::And | BinaryOperator::Or),
                ..
            } => self.chain(expr, op, negated),
            Expr::BinaryOp { left, op, right } => self.comparison(expr, (left, op, right), negated),
            Expr::IsNull(inner) => self.null(expr, inner, negated),
            Expr::IsNotNull(inner) => self.null(expr, inner, !negated),
            Expr::IsNotDistinctFrom(left, right) => {
                self.comparison(expr, (left, &BinaryOperator::Spaceship, right), negated)
            }
            Expr::IsDistinctFrom(left, right) => {
                self.comparison(expr, (left, &BinaryOperator::Spaceship, right), !negated)
            }
            Expr::Between {
                expr: inner,
                negated: not,
                low,
                high,
            } => self.between(expr, inner, (low, high), *not != negated),
            Expr::In {
                expr: inner,
                target: InTarget::List(list),
                negated: not,
                ..
            } => self.list(expr, inner, list, *not != negated),
            Expr::In { .. } | Expr::Exists { .. } | Expr::Subquery(_) => {
                self.unknown(expr, "what a query inside finds is not known")
            }
            _ => self.single(expr, negated),
        }
    }

    /// A literal, or in PostgreSQL a column of truth values.
    fn single(&mut self, expr: &Expr, negated: bool) -> Disjunction {
        if let Some(literal) = self.literals.of(expr) {
            let truth = literal.datum().and_then(|datum| datum.value.number());
            return match truth {
                _ if literal.is_null() => Disjunction::never(),
                Some(number) if (number == 0.0) == negated => Disjunction::always(),
                Some(_) => Disjunction::never(),
                None => self.unknown(expr, "it is no comparison"),
            };
        }
        let column = self.from.column(expr);
        match column.filter(|_| self.from.dialect == Dialect::Postgres) {
            Some(column) => {
                let truth = Datum::of(
                    Dialect::Postgres,
                    grapevine_core::criteria::Raw::Bool(!negated),
                );
                let truth = truth.expect("invariant: truth values have a normal form");
                Disjunction::fact(Fact::Cell(column, Cell::Is(truth)))
            }
            None => self.unknown(expr, "it is no comparison of a column with a value"),
        }
    }

    /// `a AND b AND c`, which is a tree as deep as it is long.
    fn chain(&mut self, expr: &Expr, link: &BinaryOperator, negated: bool) -> Disjunction {
        let mut operands = Vec::new();
        let mut rest = expr;
        while let Expr::BinaryOp { left, op, right } = rest
            && op == link
        {
            operands.push(&**right);
            rest = left;
        }
        operands.push(rest);
        let all = (*link == BinaryOperator::And) != negated;
        let start = if all {
            Disjunction::always()
        } else {
            Disjunction::never()
        };
        let joined = operands.into_iter().rev().fold(start, |joined, operand| {
            let one = self.expr(operand, negated);
            if all { joined.and(one) } else { joined.or(one) }
        });
        if joined.any.len() == 1 && joined.any[0].is_empty() && !joined.exact && !all {
            self.unknown(
                expr,
                "it has too many alternatives, or one that is not understood",
            )
        } else {
            joined
        }
    }

    fn comparison(
        &mut self,
        expr: &Expr,
        (left, op, right): (&Expr, &BinaryOperator, &Expr),
        negated: bool,
    ) -> Disjunction {
        use BinaryOperator::{Eq, Gt, GtEq, Is, IsNot, Lt, LtEq, NotEq, Spaceship};
        let Some(op) = (if negated {
            opposite(op)
        } else {
            Some(op.clone())
        }) else {
            return self.unknown(expr, "this operator is not understood");
        };
        let (columns, values) = (
            (self.from.column(left), self.from.column(right)),
            (self.literals.of(left), self.literals.of(right)),
        );
        let (column, value, op) = match (columns, values) {
            ((Some(one), Some(other)), _) => {
                return match op {
                    Eq => Disjunction::fact(Fact::Same(one, other)),
                    _ => self.unknown(expr, "columns are compared by equality only"),
                };
            }
            ((Some(column), None), (_, Some(value))) => (column, value, op),
            ((None, Some(column)), (Some(value), _)) => (column, value, mirrored(&op)),
            ((None, None), (Some(one), Some(other))) => {
                return self.constant(expr, &op, &one, &other);
            }
            _ => return self.unknown(expr, "it is no comparison of a column with a value"),
        };
        match op {
            Eq if value.is_null() => Disjunction::never(),
            Spaceship | Is if value.is_null() => self.is_null(column),
            Eq | Spaceship | Is => self.equal(expr, column, &value),
            // True of every other value, and of NULL.
            NotEq | IsNot => {
                if value.is_null() && op == NotEq {
                    Disjunction::never()
                } else {
                    self.unknown(expr, ALL_BUT)
                }
            }
            Lt | LtEq => self.range(expr, column, (None, Some(&value))),
            Gt | GtEq => self.range(expr, column, (Some(&value), None)),
            _ => self.unknown(expr, "this operator is not understood"),
        }
    }

    /// Two literals, as in `1 = 1`, which query builders write.
    fn constant(
        &mut self,
        expr: &Expr,
        op: &BinaryOperator,
        one: &Literal,
        other: &Literal,
    ) -> Disjunction {
        let number = |literal: &Literal| literal.datum().and_then(|datum| datum.value.number());
        match (op, number(one), number(other)) {
            (BinaryOperator::Eq, Some(one), Some(other)) if one.to_bits() == other.to_bits() => {
                Disjunction::always()
            }
            (BinaryOperator::Eq, Some(_), Some(_)) => Disjunction::never(),
            _ => self.unknown(expr, "it compares no column"),
        }
    }

    fn equal(&mut self, expr: &Expr, column: ColumnRef, value: &Literal) -> Disjunction {
        match value.in_column(self.from.dialect) {
            Some(datum) => Disjunction::fact(Fact::Cell(column, Cell::Is(datum))),
            None => self.unknown(expr, "what this value is equal to depends on the collation"),
        }
    }

    fn range(
        &mut self,
        expr: &Expr,
        column: ColumnRef,
        (low, high): (Option<&Literal>, Option<&Literal>),
    ) -> Disjunction {
        if [low, high].into_iter().flatten().any(Literal::is_null) {
            return Disjunction::never();
        }
        match Literal::range(low, high) {
            Some(range) => Disjunction::fact(Fact::Cell(column, Cell::In(range))),
            None => self.unknown(expr, "the order of text depends on its collation"),
        }
    }

    fn between(
        &mut self,
        expr: &Expr,
        inner: &Expr,
        (low, high): (&Expr, &Expr),
        negated: bool,
    ) -> Disjunction {
        let column = self.from.column(inner);
        let ends = (self.literals.of(low), self.literals.of(high));
        let (Some(column), (Some(low), Some(high))) = (column, ends) else {
            return self.unknown(expr, "it is no comparison of a column with values");
        };
        if negated {
            let below = self.range(expr, column.clone(), (None, Some(&low)));
            return below.or(self.range(expr, column, (Some(&high), None)));
        }
        self.range(expr, column, (Some(&low), Some(&high)))
    }

    fn list(&mut self, expr: &Expr, inner: &Expr, list: &[Expr], negated: bool) -> Disjunction {
        if negated {
            return self.unknown(expr, ALL_BUT);
        }
        let Some(column) = self.from.column(inner) else {
            return self.unknown(expr, "it is no comparison of a column with values");
        };
        if list.len() > CONJUNCTIONS_MAX {
            return self.unknown(expr, "it has too many alternatives");
        }
        let mut any = Disjunction::never();
        for item in list {
            let one = match self.literals.of(item) {
                Some(value) if value.is_null() => Disjunction::never(),
                Some(value) => self.equal(expr, column.clone(), &value),
                None => self.unknown(expr, "it is no comparison of a column with values"),
            };
            any = any.or(one);
        }
        any
    }

    fn null(&mut self, expr: &Expr, inner: &Expr, negated: bool) -> Disjunction {
        match self.from.column(inner) {
            Some(_) if negated => self.unknown(expr, ALL_BUT),
            Some(column) => self.is_null(column),
            None => self.unknown(expr, "it is no comparison of a column with a value"),
        }
    }

    /// A row that is there counts for `IS NULL`, too, where its absence would be seen as NULL.
    fn is_null(&mut self, column: ColumnRef) -> Disjunction {
        if self.from.relations[column.relation].nullable {
            let shown = format!("{} IS NULL", column.column);
            let why = "rows that an outer join does not find are NULL, too";
            self.left_out.push((shown, why));
            return Disjunction::unknown();
        }
        Disjunction::fact(Fact::Cell(column, Cell::Is(Datum::NULL)))
    }
}

/// What holds where a comparison is false; `None` if that is no comparison.
fn opposite(op: &BinaryOperator) -> Option<BinaryOperator> {
    use BinaryOperator::{Eq, Gt, GtEq, Is, IsNot, Lt, LtEq, NotEq, Spaceship};
    Some(match op {
        Eq => NotEq,
        NotEq => Eq,
        Lt => GtEq,
        LtEq => Gt,
        Gt => LtEq,
        GtEq => Lt,
        Is | Spaceship => IsNot,
        IsNot => Is,
        _ => return None,
    })
}

/// The comparison with its sides exchanged.
fn mirrored(op: &BinaryOperator) -> BinaryOperator {
    use BinaryOperator::{Gt, GtEq, Lt, LtEq};
    match op {
        Lt => Gt,
        LtEq => GtEq,
        Gt => Lt,
        GtEq => LtEq,
        same => same.clone(),
    }
}

/// What a conjunction says of one of the tables: its own facts, and those of columns that have the same value as one of its own.
pub(crate) fn of_relation(facts: &[Fact], relation: usize, mut rows: Conjunction) -> Conjunction {
    // Columns that have the same value are in one group; it may have been joined into another one.
    let mut groups: BTreeMap<&ColumnRef, usize> = BTreeMap::new();
    let mut joined: Vec<usize> = Vec::new();
    let root = |joined: &[usize], mut group: usize| {
        while joined[group] != group {
            group = joined[group];
        }
        group
    };
    for fact in facts {
        let (one, other) = match fact {
            Fact::Cell(column, _) => (column, column),
            Fact::Same(one, other) => (one, other),
        };
        let [one, other] = [one, other].map(|column| {
            let group = *groups.entry(column).or_insert(joined.len());
            if group == joined.len() {
                joined.push(group);
            }
            root(&joined, group)
        });
        joined[one] = other;
    }
    let own: Vec<_> = groups
        .iter()
        .filter(|(column, _)| column.relation == relation)
        .map(|(column, group)| (&column.column, root(&joined, *group)))
        .collect();
    for fact in facts {
        if let Fact::Cell(column, cell) = fact {
            let group = root(&joined, groups[column]);
            for (own, _) in own.iter().filter(|(_, of)| *of == group) {
                rows.narrow((*own).clone(), cell.clone());
            }
        }
    }
    rows
}

/// Takes so many bytes, and then no more.
struct Short<'a>(&'a mut String, usize);

impl std::fmt::Write for Short<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.1.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end));
        self.0.push_str(&text[..end.unwrap_or(0)]);
        self.0.push_str("...");
        Err(std::fmt::Error)
    }
}
