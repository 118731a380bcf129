//! Indices: lists of the ids of rows that meet a criterion, in order, which the sidecar keeps right by the changes of rows (G9).
//!
//! An [`Index`] names a *leaf* (one list) and a part of it. [`Index::read`] asks the sidecar what it knows. An answer may carry two
//! rights, which hold at the sidecar that answered and for that leaf, and are values here so that they cannot be used elsewhere:
//! a [`LoadRight`], to tell it what the database has, and [`Evidence`], to have members removed whose rows turned out to be elsewhere.
//!
//! [`Index::ids`] and [`Index::objects`] do the whole dance. The sidecar comes first: the right to load carries its stamp, and
//! evidence its moment, both taken before anything is read from the database. Whatever goes wrong with a sidecar, the reader reads
//! the database, within the look-up's deadline.
//!
//! A leaf may have members that are no longer in it, and lacks none whose change was acknowledged. So an object that does not meet
//! the criterion is left out by whoever shows it, and pruned if the *primary database*, read *after* the sidecar's answer, says that
//! its row does not meet it. What a cache or a replica shows is older than that, and never evidence: the row may have come back.

mod ids;
mod leaf;
mod objects;
mod part;

use std::time::Duration;

use grapevine_proto::v1;

pub use self::ids::{IdPage, LeafId, Want};
pub use self::leaf::{Evidence, LeafExtent, LeafFill, LeafMember, LeafPage, LeafState, LoadRight};
pub use self::objects::{Ask, IndexObjects, IndexedObject, ObjectPage, Objects};
pub use self::part::{Cursor, CursorError, IndexRow, SqlScalar};
use crate::client::{Client, check_count};
use crate::error::InvalidRequest;
use crate::session::Session;

/// The most columns that name a leaf.
pub const INDEX_COLUMNS_MAX: usize = 4;
/// The most leaves that one read unites.
pub const INDEX_UNITED_MAX: usize = 32;
/// The most leaves that one read intersects.
pub const INDEX_INTERSECTED_MAX: usize = 4;
/// The most members in one answer.
pub const INDEX_LIMIT_MAX: u32 = 10_000;
/// The most members that a read passes over.
pub const INDEX_OFFSET_MAX: u32 = 100_000;
/// The longest id of a row, in bytes.
pub const INDEX_ID_BYTES_MAX: usize = 128;
/// The longest name of a table or column, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Members of an answer unless told otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// How long a reader waits for another one that loads the leaf, unless told otherwise.
const LOAD_WAIT_DEFAULT: Duration = Duration::from_millis(200);

/// A leaf of an index, and which part of it is wanted. Cloning it is cheap enough for every read.
#[derive(Debug, Clone)]
pub struct Index {
    client: Client,
    leaf: v1::IndexLeaf,
    /// Criteria of further leaves, of one kind.
    any_of: Vec<v1::IndexCriteria>,
    all_of: Vec<v1::IndexCriteria>,
    limit: u32,
    offset: u32,
    after: Option<Cursor>,
    from: Option<v1::SqlValue>,
    to: Option<v1::SqlValue>,
    verified: bool,
    session: Session,
    first: Option<u32>,
    load_wait: Duration,
    /// Rows are read inside a database snapshot.
    in_a_snapshot: bool,
}

impl Client {
    /// An index of a table's rows (its name without the schema). Say by which columns with [`Index::by`], and what else differs from
    /// the defaults: the first 100 rows by their ids.
    pub fn index(&self, table: impl Into<String>, dialect: v1::SqlDialect) -> Index {
        Index {
            client: self.clone(),
            leaf: v1::IndexLeaf {
                table: table.into(),
                dialect: dialect.into(),
                ..Default::default()
            },
            any_of: Vec::new(),
            all_of: Vec::new(),
            limit: LIMIT_DEFAULT,
            offset: 0,
            after: None,
            from: None,
            to: None,
            verified: false,
            session: Session::new(),
            first: None,
            load_wait: LOAD_WAIT_DEFAULT,
            in_a_snapshot: false,
        }
    }
}

impl Index {
    /// Of rows whose `column` has this value; 1 to 4 columns, in any order.
    #[must_use]
    pub fn by(mut self, column: impl Into<String>, value: impl Into<SqlScalar>) -> Self {
        self.leaf.equal.push(v1::ColumnValue {
            column: column.into(),
            value: Some(value.into().into()),
        });
        self
    }

    /// Or of rows whose columns have these values: each row once, in the order of all of them (OR, IN). A leaf for each, at most
    /// [`INDEX_UNITED_MAX`]; each of them follows the changes of rows and is loaded for itself.
    #[must_use]
    pub fn or<C, V>(mut self, criteria: impl IntoIterator<Item = (C, V)>) -> Self
    where
        C: Into<String>,
        V: Into<SqlScalar>,
    {
        self.any_of.push(criteria_of(criteria));
        self
    }

    /// And of rows whose columns have these values, from a leaf of their own (AND by intersection), at most [`INDEX_INTERSECTED_MAX`]: for
    /// combinations that are asked for too seldom to have [leaves](Self::by) of their own. Not together with [`or`](Self::or). Members
    /// whose rows are elsewhere are left out of [`objects`](Self::objects), and not removed: it cannot be told from which leaf.
    #[must_use]
    pub fn and<C, V>(mut self, criteria: impl IntoIterator<Item = (C, V)>) -> Self
    where
        C: Into<String>,
        V: Into<SqlScalar>,
    {
        self.all_of.push(criteria_of(criteria));
        self
    }

    /// In the order of this column, and of ids where it is equal (whole numbers first). Without it in the order of ids. For columns of numbers
    /// and times; others are in an order of the sidecar's own. Where the column changes, rows need [versions](IndexRow::version), or they
    /// stay at their old places, too.
    #[must_use]
    pub fn order_by(mut self, column: impl Into<String>) -> Self {
        self.leaf.order_by = column.into();
        self
    }

    /// The largest first, ids of equal rows too.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.leaf.descending = true;
        self
    }

    /// How many members at most, 1 to 10,000.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// How many members to pass over, at most 100,000, shared by the leaves of [`or`](Self::or) and [`and`](Self::and). They are counted one by
    /// one: prefer cursors.
    #[must_use]
    pub fn offset(mut self, offset: u32) -> Self {
        self.offset = offset;
        self
    }

    /// Goes on behind an earlier page of the same leaf.
    #[must_use]
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// Only members whose `order_by` lies between these, both included, numbers or times; `None` is no bound.
    #[must_use]
    pub fn between(mut self, from: Option<SqlScalar>, to: Option<SqlScalar>) -> Self {
        self.from = from.map(Into::into);
        self.to = to.map(Into::into);
        self
    }

    /// Leaves out members of whose row the sidecar has heard of a newer version that does not meet the criterion. Of rows without
    /// versions there are none.
    #[must_use]
    pub fn verified(mut self) -> Self {
        self.verified = true;
        self
    }

    /// Asks a sidecar that has applied what the session has seen (G5).
    #[must_use]
    pub fn session(mut self, session: &Session) -> Self {
        self.session = session.clone();
        self
    }

    /// Has the sidecar keep the leaf's first rows only, so many: for criteria that many rows meet. By default it keeps all. For leaves by
    /// id, by numbers below 2^53 and by times; others are not kept then, for a database orders them in its own way.
    #[must_use]
    pub fn keep_first(mut self, rows: u32) -> Self {
        self.first = Some(rows);
        self
    }

    /// How long [`ids`](Self::ids) and [`objects`](Self::objects) wait for another reader that loads the leaf, before they read the
    /// database themselves. Default 200 ms. Raising it spares the database when many readers miss at once; and makes all of them wait
    /// when the one who loads is gone.
    #[must_use]
    pub fn load_wait(mut self, wait: Duration) -> Self {
        self.load_wait = wait;
        self
    }

    fn is_intersection(&self) -> bool {
        !self.all_of.is_empty()
    }

    /// All leaves, by their numbers.
    fn leaves(&self) -> Vec<v1::IndexLeaf> {
        let further = self.any_of.iter().chain(&self.all_of);
        let further = further.map(|criteria| v1::IndexLeaf {
            equal: criteria.equal.clone(),
            ..self.leaf.clone()
        });
        std::iter::once(self.leaf.clone()).chain(further).collect()
    }

    fn is_combined(&self) -> bool {
        !self.any_of.is_empty() || self.is_intersection()
    }

    fn has_range(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    /// How many members lie before the page, as far as that is counted.
    fn passed(&self) -> u64 {
        let before = self.after.as_ref().map_or(0, Cursor::passed);
        before.saturating_add(self.offset.into())
    }

    /// How many members a sidecar passes over: the leaves of an index share them.
    fn offset_max(&self) -> u32 {
        let further = self.any_of.len().max(self.all_of.len());
        INDEX_OFFSET_MAX / u32::try_from(1 + further).unwrap_or(u32::MAX)
    }

    /// Whether the page lies further behind pages that the database showed than a sidecar counts.
    fn is_out_of_reach(&self) -> bool {
        let shown = self
            .after
            .as_ref()
            .is_some_and(|after| after.place().is_empty());
        let most = self.offset_max();
        shown && self.offset <= most && self.passed() > most.into()
    }

    /// The question for a sidecar.
    fn request(&self) -> Result<v1::IndexReadRequest, InvalidRequest> {
        self.check()?;
        let mut offset = u64::from(self.offset);
        let mut place = bytes::Bytes::new();
        if let Some(after) = &self.after {
            place = after.place().clone();
            if place.is_empty() {
                // It was shown from the database: no sidecar has told where it is.
                offset = self.passed();
            }
        }
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        let most = self.offset_max();
        if offset > most {
            let reason = format!("{offset} is above {most}");
            return Err(InvalidRequest::one("offset", reason));
        }
        let consistency = if self.verified {
            v1::IndexConsistency::Verified
        } else {
            v1::IndexConsistency::Local
        };
        Ok(v1::IndexReadRequest {
            leaf: Some(self.leaf.clone()),
            limit: self.limit,
            cursor: place,
            offset,
            from: self.from.clone(),
            to: self.to.clone(),
            consistency: consistency.into(),
            session: (!self.session.is_empty()).then(|| self.session.to_wire()),
            any_of: self.any_of.clone(),
            all_of: self.all_of.clone(),
        })
    }

    fn check_further(&self) -> Result<(), InvalidRequest> {
        if self.is_intersection() && !self.any_of.is_empty() {
            let reason = "the index has criteria of `or`, too: only one kind may be";
            return Err(InvalidRequest::one("and", reason.to_owned()));
        }
        if self.is_intersection() && self.first.is_some() {
            let reason = "first rows of two leaves need not be those of both: keep all of them";
            return Err(InvalidRequest::one("keep_first", reason.to_owned()));
        }
        let kinds = [
            ("or", &self.any_of, INDEX_UNITED_MAX),
            ("and", &self.all_of, INDEX_INTERSECTED_MAX),
        ];
        for (field, criteria, most) in kinds {
            if criteria.len() >= most {
                let reason = format!("{} leaves are more than {most}", criteria.len() + 1);
                return Err(InvalidRequest::one(field, reason));
            }
            for (at, criteria) in criteria.iter().enumerate() {
                check_criteria(&format!("{field}[{at}]"), &criteria.equal)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), InvalidRequest> {
        check_name("table", &self.leaf.table)?;
        check_criteria("by", &self.leaf.equal)?;
        self.check_further()?;
        if !self.leaf.order_by.is_empty() {
            check_name("order_by", &self.leaf.order_by)?;
        } else if self.has_range() {
            let reason = "it is a range of order_by, and there is none";
            return Err(InvalidRequest::one("between", reason.to_owned()));
        }
        let bounds = [("limit", Some(self.limit)), ("keep_first", self.first)];
        for (field, rows) in bounds {
            if let Some(rows) = rows.filter(|rows| !(1..=INDEX_LIMIT_MAX).contains(rows)) {
                let reason = format!("{rows} is outside 1 to {INDEX_LIMIT_MAX}");
                return Err(InvalidRequest::one(field, reason));
            }
        }
        Ok(())
    }
}

fn criteria_of<C: Into<String>, V: Into<SqlScalar>>(
    criteria: impl IntoIterator<Item = (C, V)>,
) -> v1::IndexCriteria {
    let criteria = criteria.into_iter().map(|(column, value)| v1::ColumnValue {
        column: column.into(),
        value: Some(value.into().into()),
    });
    v1::IndexCriteria {
        equal: criteria.collect(),
    }
}

fn check_criteria(field: &str, equal: &[v1::ColumnValue]) -> Result<(), InvalidRequest> {
    check_count(field, equal.len(), INDEX_COLUMNS_MAX)?;
    for (at, equal) in equal.iter().enumerate() {
        check_name(&format!("{field}[{at}].column"), &equal.column)?;
    }
    Ok(())
}

fn check_name(field: &str, name: &str) -> Result<(), InvalidRequest> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    let reason = format!(
        "a name of {} bytes is outside 1 to {NAME_BYTES_MAX}",
        name.len()
    );
    Err(InvalidRequest::one(field, reason))
}
