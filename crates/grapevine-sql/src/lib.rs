//! Which rows a statement of SQL reads or changes, as far as its text tells.
//!
//! A read depends on those rows of each table that meet the conditions on that table's own columns. Those conditions are brought into a
//! bounded disjunctive form: *conjunctions* of columns that have a value and columns that lie in a range
//! ([`grapevine_core::criteria`]). Whatever the form has no room for, and whatever is not understood, is left out, and the read then
//! depends on more rows: a condition may be lost, a table never is. A write changes the rows that meet its conditions, and makes
//! them what it assigns.
//!
//! Why a condition on one table's columns may be taken alone: a row of a table is part of the answer only together with rows of the
//! others for which the whole condition holds, so if its own part does not hold, the row is as good as absent. That is not so for
//! the side of an outer join that is filled with NULL, for there absence shows; `from` says what is done about it.
//!
//! What cannot be seen in the text: what views, triggers, cascades and row-level security do, and the types of columns. Values are
//! compared as those of their column's own type; see [`Dialect`].

mod condition;
mod error;
mod explanation;
mod from;
mod functions;
mod index;
mod literal;
mod parse;
mod reads;
mod statement;
#[cfg(test)]
mod tests;
mod writes;

pub use grapevine_core::criteria::Dialect;

pub use self::error::ExplainError;
pub use self::explanation::{
    Direction, Explanation, Index, Kind, Leaf, Order, Predicate, Term, Widened,
};
pub use self::literal::{Parameter, Scalar};

/// The longest statement, in bytes.
pub const SQL_BYTES_MAX: usize = 64 * 1024;
/// The most tokens of a statement, without literals and the commas and parentheses between them.
pub const SQL_TOKENS_MAX: usize = 4_000;
/// The most parameters.
pub const PARAMETERS_MAX: usize = 2_000;
/// The most bytes of names, texts and bytes in all parameters together.
pub const PARAMETERS_BYTES_MAX: usize = 64 * 1024;
/// The longest text that is looked at as a value, in bytes; what is compared with a longer one counts as not understood.
pub const VALUE_BYTES_MAX: usize = 1_000;
/// The most conjunctions of one condition; one that has more counts as always true.
pub const CONJUNCTIONS_MAX: usize = 64;

/// The most conjunctions of one table in a statement; with more, all of the table is meant.
pub const ALTERNATIVES_MAX: usize = 2 * CONJUNCTIONS_MAX;
/// The most facts of one conjunction: columns that have a value, a range, or the same value as another one. More are left out.
pub const FACTS_MAX: usize = 64;
/// The most tables of one FROM of which conditions are looked at; one that has more is read as a whole.
pub const RELATIONS_MAX: usize = 32;
/// The most things left out that are told; how many more there are is told in one line.
pub const WIDENED_MAX: usize = 50;

/// What to make of a statement whose answer does not follow from the tables alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unsure {
    /// It is not cacheable.
    #[default]
    Refuse,
    /// It depends on the whole of each of its tables, and on nothing else: the caller knows better, or has a TTL for the rest.
    Table,
}

/// How to read statements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whose SQL it is, and whose rules say which values are equal.
    pub dialect: Dialect,
    /// What to make of functions whose answer changes by itself (`now()`, `random()`), and of those that are not known.
    pub volatile: Unsure,
    /// What to make of text that is not understood.
    pub unparsable: Unsure,
}

/// Checks what can be checked without reading the statement: that it and its parameters are not too long.
pub fn check_size(sql: &str, parameters: &[Parameter]) -> Result<(), ExplainError> {
    parse::check_size(sql, parameters)
}

/// Tells what a statement depends on or changes.
///
/// It takes time and memory in proportion to the statement and the bounds above, and never panics.
pub fn explain(
    sql: &str,
    parameters: &[Parameter],
    options: Options,
) -> Result<Explanation, ExplainError> {
    statement::explain(sql, parameters, options)
}
