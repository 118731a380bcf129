//! Which reads a change of a row may concern.
//!
//! A read of a table that a condition narrows is described by *conjunctions*: columns that have a value, and columns that lie in a
//! range. What they have in common, the names of those columns, is the read's [`Shape`]. A table is a top-level class, each
//! shape of its reads a class below it, and each combination of values one below that, so that invalidations, tokens, floors and
//! quotas need to know nothing of rows, and a bump of the table concerns every read of it:
//!
//! ```text
//! items                                      the table
//! items/:*                                   reads of it that nothing narrows
//! items/:category                            all reads by category
//! items/:category/5                          those of category 5
//! items/:category,price~n/5/20.80000000064   and of prices from 100 to 101
//! ```
//!
//! A change of a row is turned into classes where it arrives, for the shapes that are known there: whoever writes need not know what is
//! read. Two rules make that safe. A value's normal form ([`Value`]) may be coarser than the database's equality, never finer. And
//! whatever is not known of a row counts as if it had every value.

mod pattern;
mod range;
mod shape;
#[cfg(test)]
mod tests;
mod value;

pub use self::pattern::{Cell, Conjunction, Pattern};
pub use self::range::Range;
pub use self::shape::{SHAPE_COLUMNS_MAX, SHAPE_MARK, Shape, table_class};
pub use self::value::{Datum, Dialect, Order, Raw, Value};
use crate::names::{NameError, check_length, name};

/// The longest name of a table or a column, in bytes: that of the databases, four bytes for each of their 64 characters.
pub const SQL_NAME_BYTES_MAX: usize = 256;

name! {
    /// A table, without its schema: two of one name in different schemas are invalidated together.
    Table
}

name! {
    /// A column of a table.
    Column
}

impl Table {
    /// Checks a name and takes it as it is: who folds case does so before.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check_length("table", name, SQL_NAME_BYTES_MAX)?;
        Ok(Self(name.into()))
    }
}

impl Column {
    /// Checks a name and takes it as it is: who folds case does so before.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check_length("column", name, SQL_NAME_BYTES_MAX)?;
        Ok(Self(name.into()))
    }
}
