//! Which reads a change of a row may concern.
//!
//! A read of a table that a condition narrows is described by *conjunctions*: columns that have a value, and columns that lie in a
//! range. What they have in common, the names of those columns, is the read's [`Shape`]. Every shape is a top-level class, and
//! each combination of values a class below it, so that invalidations, tokens, floors and quotas need to know nothing of rows:
//!
//! ```text
//! items                                     the table
//! items:*                                   reads of it that nothing narrows
//! items:category                            all reads by category
//! items:category/5                          those of category 5
//! items:category,price~n/5/20.80000000064   and of prices from 100 to 101
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

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

pub use self::pattern::{Cell, Conjunction, Pattern};
pub use self::range::Range;
pub use self::shape::{SHAPE_COLUMNS_MAX, Shape, table_class};
pub use self::value::{Datum, Dialect, Order, Raw, Value};

/// The longest name of a table or a column, in bytes: that of the databases, four bytes for each of their 64 characters.
pub const SQL_NAME_BYTES_MAX: usize = 256;

/// Why a table's or a column's name was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SqlNameError {
    /// There was nothing.
    #[error("the name of a {what} is empty")]
    Empty {
        /// Table or column.
        what: &'static str,
    },
    /// Too many bytes.
    #[error("the name of a {what} has {bytes} bytes; the limit is {SQL_NAME_BYTES_MAX}")]
    TooLong {
        /// Table or column.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
}

macro_rules! sql_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a name and takes it as it is: who folds case does so before.
            pub fn parse(name: &str) -> Result<Self, SqlNameError> {
                if name.is_empty() {
                    return Err(SqlNameError::Empty { what: $what });
                }
                if name.len() > SQL_NAME_BYTES_MAX {
                    return Err(SqlNameError::TooLong {
                        what: $what,
                        bytes: name.len(),
                    });
                }
                Ok(Self(name.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

sql_name! {
    /// A table, without its schema: two of one name in different schemas are invalidated together.
    Table, "table"
}

sql_name! {
    /// A column of a table.
    Column, "column"
}
