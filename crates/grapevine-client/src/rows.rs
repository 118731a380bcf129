//! Writes told by the rows that they change, for reads that were cached under the classes that [`Client::explain`] tells.

use grapevine_proto::v1;

use crate::client::{Client, check_count};
use crate::error::InvalidRequest;
use crate::invalidate::Invalidate;

/// The most rows, or sets of rows, in one call.
pub const CHANGES_MAX: usize = 32;

/// What changed, where it is told by rows.
#[derive(Debug, Clone)]
pub(crate) enum Changed {
    /// Rows, one by one.
    Rows(v1::RowChangedRequest),
    /// Rows by conditions, or what a statement changes.
    Where(v1::InvalidateWhereRequest),
}

impl Changed {
    pub(crate) fn check(&self, matching: v1::Match) -> Result<(), InvalidRequest> {
        check_matching(matching)?;
        match self {
            Self::Rows(call) => check_count("changes", call.changes.len(), CHANGES_MAX),
            Self::Where(call) if call.sql.is_empty() => {
                check_count("rows", call.rows.len(), CHANGES_MAX)
            }
            Self::Where(_) => Ok(()),
        }
    }
}

pub(crate) fn check_matching(matching: v1::Match) -> Result<(), InvalidRequest> {
    if matching == v1::Match::All {
        let reason = "it is for classes; rows are told by conditions";
        return Err(InvalidRequest::one("match_all", reason.to_owned()));
    }
    Ok(())
}

impl Client {
    /// Declares rows changed (1 to 32), by what is known of them as they were and as they are: whatever was cached under classes that
    /// [`explain`](Self::explain) told of a read goes stale, at every sidecar, if its conditions may meet one of them. Nobody has
    /// to know what is read. Options and outcome are those of [`invalidate`](Self::invalidate).
    ///
    /// A column that is not named may have any value, which makes more reads stale.
    pub fn row_changed(
        &self,
        dialect: v1::SqlDialect,
        changes: impl IntoIterator<Item = v1::RowChange>,
    ) -> Invalidate {
        self.changed(Changed::Rows(v1::RowChangedRequest {
            changes: changes.into_iter().collect(),
            dialect: dialect.into(),
            ..Default::default()
        }))
    }

    /// The same for a write without a list of rows: the sets of rows (1 to 32) that it changed, as they were and as they are.
    pub fn invalidate_where(
        &self,
        dialect: v1::SqlDialect,
        rows: impl IntoIterator<Item = v1::RowsWhere>,
    ) -> Invalidate {
        self.changed(Changed::Where(v1::InvalidateWhereRequest {
            rows: rows.into_iter().collect(),
            dialect: dialect.into(),
            ..Default::default()
        }))
    }

    /// The same by the statement itself, an `INSERT`, `UPDATE` or `DELETE`, and the values of its placeholders.
    pub fn invalidate_by_sql(
        &self,
        dialect: v1::SqlDialect,
        sql: impl Into<String>,
        parameters: impl IntoIterator<Item = v1::SqlParameter>,
    ) -> Invalidate {
        self.changed(Changed::Where(v1::InvalidateWhereRequest {
            sql: sql.into(),
            parameters: parameters.into_iter().collect(),
            dialect: dialect.into(),
            ..Default::default()
        }))
    }
}
