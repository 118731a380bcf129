//! Indices: lists of the ids of rows that meet a criterion, in order (G9, docs/decisions/0019).
//!
//! A *leaf* is one such list: the rows of a table whose columns have certain values, by the order of another column. It is named by the
//! class of the reads of those rows ([`crate::criteria`]) and by its [`Ordering`]. What this module has is a leaf's content, with no
//! word on whether it is whole: [`crate::machine`] decides that.
//!
//! Rows enter where a change says how they are now, and stay until somebody shows that they no longer belong there: *add eagerly,
//! remove lazily*. A member is an id *at a place in the order*. A row whose sort column changed is at both places until the old one is
//! pruned, unless the application numbers the versions of its rows: then the newest one counts.

mod find;
mod members;
mod place;
#[cfg(test)]
mod tests;

pub use self::find::{Combine, Found, INTERSECTED_MAX, UNITED_MAX, Window, covers, find};
pub use self::members::{Member, Members};
pub use self::place::{ID_BYTES_MAX, IdError, Place, RowId, SORT_BYTES_MAX, SortKey};
use crate::criteria::Column;
use crate::names::ClassPath;

/// The most places that one call or message names.
pub const PLACES_MAX: usize = 1_000;

/// How the members of a leaf are ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordering {
    /// By which column; by ids alone where there is none.
    pub by: Option<Column>,
    /// The largest first. Ids of equal rows are in the same direction.
    pub descending: bool,
    /// NULL counts as larger than every value, as in `PostgreSQL`, not as smaller.
    pub nulls_high: bool,
}

/// Names a leaf.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafKey {
    /// The class of the reads of its rows: of values, with no range.
    pub class: ClassPath,
    /// Its order.
    pub ordering: Ordering,
}

/// Which row a change was of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowIdentity {
    /// Its id.
    pub id: RowId,
    /// The number of its version, from 1, which rises with each change of the row; 0 where the application counts none.
    pub version: u64,
}
