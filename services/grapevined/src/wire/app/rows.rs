//! Changes of rows: what is known of them, by row or by conditions.

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Dialect, Range, Raw, Table};
use grapevine_core::event::{CHANGED_ROWS_MAX, Moment, RowImage};
use grapevine_core::index::{RowId, RowIdentity};
use grapevine_proto::v1;
use tonic::Status;

use super::counted;
use super::explain::{Statement, explaining, read_dialect};
use super::invalidate::{Terms, read_terms};
use crate::wire::status::Violations;

/// Rows, or sets of rows, in one call: each becomes two conjunctions at most.
const CHANGES_MAX: usize = CHANGED_ROWS_MAX / 2;
/// Columns named of one row, and conditions on one set.
const COLUMNS_MAX: usize = 64;
/// Values of one column in a condition.
const VALUES_MAX: usize = 64;

/// What a write without a list of rows changed.
#[derive(Debug)]
pub(crate) enum Changed {
    /// Rows of which this is known.
    Rows(Vec<RowImage>),
    /// What this statement changes.
    By(Statement),
}

/// Checks a call to tell of changed rows.
pub(crate) fn changed_rows(
    request: &v1::RowChangedRequest,
) -> Result<(Vec<RowImage>, Terms), Status> {
    let mut violations = Violations::default();
    let read = read_changed_rows(&mut violations, request);
    violations.finish()?;
    Ok(read)
}

pub(super) fn read_changed_rows(
    violations: &mut Violations,
    request: &v1::RowChangedRequest,
) -> (Vec<RowImage>, Terms) {
    let dialect = read_dialect(violations, request.dialect);
    let terms = read_terms(
        violations,
        (request.receipt, request.timeout_ms, request.purge),
        request.session.as_ref(),
    );
    let rows = read_changes(violations, &request.changes, dialect);
    (rows, terms)
}

pub(super) fn read_changes(
    violations: &mut Violations,
    changes: &[v1::RowChange],
    dialect: Dialect,
) -> Vec<RowImage> {
    counted(violations, "changes", changes.len(), 1..=CHANGES_MAX);
    let mut rows = Vec::new();
    for (at, change) in changes.iter().take(CHANGES_MAX).enumerate() {
        let field = format!("changes[{at}]");
        read_change(violations, &field, change, dialect, &mut rows);
    }
    rows
}

fn read_change(
    violations: &mut Violations,
    field: &str,
    change: &v1::RowChange,
    dialect: Dialect,
    rows: &mut Vec<RowImage>,
) {
    let identity = read_identity(violations, field, change);
    let kind = match v1::RowChangeKind::try_from(change.kind) {
        Ok(v1::RowChangeKind::Unspecified | v1::RowChangeKind::Update) => v1::RowChangeKind::Update,
        Ok(kind) => kind,
        Err(_) => {
            let reason = format!("{} is not a value of RowChangeKind", change.kind);
            violations.add(format!("{field}.kind"), reason);
            v1::RowChangeKind::Update
        }
    };
    let images = [
        (
            Moment::Before,
            "old",
            &change.old,
            v1::RowChangeKind::Insert,
            "that is new has no old columns",
        ),
        (
            Moment::After,
            "new",
            &change.new,
            v1::RowChangeKind::Delete,
            "that is gone has no new columns",
        ),
    ];
    for (moment, name, columns, without, reason) in images {
        if kind == without {
            if !columns.is_empty() {
                violations.add(format!("{field}.{name}"), format!("a row {reason}"));
            }
            continue;
        }
        let named = [("unchanged", &change.unchanged), (name, columns)];
        let row = read_row(violations, field, (&change.table, named), dialect);
        rows.extend(row.map(|rows| RowImage {
            rows,
            moment,
            identity: identity.clone(),
        }));
    }
}

/// Which row a change is of, if that is told.
fn read_identity(
    violations: &mut Violations,
    field: &str,
    change: &v1::RowChange,
) -> Option<RowIdentity> {
    let version = change.version;
    if change.id.is_empty() {
        if version > 0 {
            violations.add(
                format!("{field}.version"),
                "it belongs to an id, which is not set",
            );
        }
        return None;
    }
    let id = violations.check(|| format!("{field}.id"), RowId::parse(&change.id))?;
    Some(RowIdentity { id, version })
}

/// A row as it was, or as it is.
fn read_row(
    violations: &mut Violations,
    field: &str,
    (table, named): (&str, [(&str, &Vec<v1::ColumnValue>); 2]),
    dialect: Dialect,
) -> Option<Conjunction> {
    let table = violations.check(
        || format!("{field}.table"),
        Table::parse(&folded(dialect, table)),
    );
    let mut row = Conjunction::all_of(table?);
    for (name, columns) in named {
        let field = format!("{field}.{name}");
        counted(violations, &field, columns.len(), 0..=COLUMNS_MAX);
        for (at, given) in columns.iter().take(COLUMNS_MAX).enumerate() {
            let column = Column::parse(&folded(dialect, &given.column));
            let field = || format!("{field}[{at}].column");
            let Some(column) = violations.check(field, column) else {
                continue;
            };
            if row.cells.contains_key(&column) {
                violations.add(field(), format!("{column} is named twice"));
            }
            // What the database would call equal to it may not be known: then it may have any value.
            if let Some(datum) = datum(dialect, given.value.as_ref()) {
                row.narrow(column, Cell::Is(datum));
            }
        }
    }
    Some(row)
}

/// Checks a call to invalidate by conditions or by a statement.
pub(crate) fn changed_where(
    request: v1::InvalidateWhereRequest,
) -> Result<(Changed, Terms), Status> {
    let mut violations = Violations::default();
    let dialect = read_dialect(&mut violations, request.dialect);
    let terms = read_terms(
        &mut violations,
        (request.receipt, request.timeout_ms, request.purge),
        request.session.as_ref(),
    );
    let by_rows = !request.rows.is_empty();
    if by_rows != request.sql.is_empty() {
        violations.add("rows", "exactly one of rows and sql must be set");
    }
    if by_rows && !request.parameters.is_empty() {
        violations.add("parameters", "they belong to sql, which is not set");
    }
    counted(&mut violations, "rows", request.rows.len(), 0..=CHANGES_MAX);
    let mut rows = Vec::new();
    for (at, set) in request.rows.iter().take(CHANGES_MAX).enumerate() {
        read_set(
            &mut violations,
            &format!("rows[{at}]"),
            set,
            dialect,
            &mut rows,
        );
    }
    violations.finish()?;
    if by_rows {
        let rows = rows.into_iter().map(RowImage::from).collect();
        return Ok((Changed::Rows(rows), terms));
    }
    let statement = explaining(v1::ExplainRequest {
        sql: request.sql,
        dialect: request.dialect,
        parameters: request.parameters,
        // Whatever a write computes, the rows that it changes are in its tables.
        volatile: v1::SqlUnsure::Table.into(),
        unparsable: v1::SqlUnsure::Refuse.into(),
    })?;
    Ok((Changed::By(statement), terms))
}

/// Rows by conditions: one conjunction, or one for each value that a column may have.
fn read_set(
    violations: &mut Violations,
    field: &str,
    set: &v1::RowsWhere,
    dialect: Dialect,
    rows: &mut Vec<Conjunction>,
) {
    let table = Table::parse(&folded(dialect, &set.table));
    let Some(table) = violations.check(|| format!("{field}.table"), table) else {
        return;
    };
    counted(
        violations,
        &format!("{field}.where"),
        set.r#where.len(),
        0..=COLUMNS_MAX,
    );
    let mut alternatives = vec![Conjunction::all_of(table)];
    let mut named = Vec::new();
    for (at, condition) in set.r#where.iter().take(COLUMNS_MAX).enumerate() {
        let field = format!("{field}.where[{at}]");
        let column = Column::parse(&folded(dialect, &condition.column));
        let Some(column) = violations.check(|| format!("{field}.column"), column) else {
            continue;
        };
        if named.contains(&column) {
            violations.add(
                format!("{field}.column"),
                format!("{column} is named twice"),
            );
        }
        named.push(column.clone());
        let ends = [&condition.from, &condition.to];
        if condition.any_of.is_empty() == ends.iter().all(|end| end.is_none()) {
            violations.add(field.clone(), "either any_of, or from or to, must be set");
        }
        counted(
            violations,
            &format!("{field}.any_of"),
            condition.any_of.len(),
            0..=VALUES_MAX,
        );
        alternatives = narrowed(alternatives, &column, &cells(dialect, condition));
    }
    rows.extend(alternatives);
}

/// What a condition says of its column: one of these; nothing where that cannot be told.
fn cells(dialect: Dialect, condition: &v1::ColumnCondition) -> Vec<Cell> {
    if condition.any_of.is_empty() {
        let end = |given: &Option<v1::SqlValue>| match given {
            None => Some(None),
            Some(given) => datum(dialect, Some(given)).map(Some),
        };
        let range =
            (|| Range::between(end(&condition.from)?.as_ref(), end(&condition.to)?.as_ref()))();
        return range.map(Cell::In).into_iter().collect();
    }
    let values = condition.any_of.iter().take(VALUES_MAX);
    let values = values.map(|value| datum(dialect, Some(value)).map(Cell::Is));
    values.collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// Each of the alternatives with each of the cells, unless there were too many of them: then the column is left out.
fn narrowed(alternatives: Vec<Conjunction>, column: &Column, cells: &[Cell]) -> Vec<Conjunction> {
    if cells.is_empty() || alternatives.len() * cells.len() > CHANGED_ROWS_MAX {
        return alternatives;
    }
    let with = |rows: &Conjunction, cell: &Cell| {
        let mut rows = rows.clone();
        rows.narrow(column.clone(), cell.clone());
        rows
    };
    let each = alternatives.iter();
    each.flat_map(|rows| cells.iter().map(|cell| with(rows, cell)))
        .collect()
}

/// A name as criteria have it.
pub(super) fn folded(dialect: Dialect, name: &str) -> String {
    match dialect {
        Dialect::Postgres => name.to_owned(),
        Dialect::MySql | Dialect::Sqlite => name.to_lowercase(),
    }
}

/// The normal form of a value; none where it is not known what the database calls equal to it.
pub(super) fn datum(dialect: Dialect, value: Option<&v1::SqlValue>) -> Option<Datum> {
    Datum::of(dialect, raw(value)?)
}

/// A value as it was given, if it is not too long.
pub(super) fn raw(value: Option<&v1::SqlValue>) -> Option<Raw<'_>> {
    use v1::sql_value::Value;
    let raw = match value.and_then(|value| value.value.as_ref()) {
        None => Raw::Null,
        Some(Value::Boolean(value)) => Raw::Bool(*value),
        Some(Value::Integer(value)) => Raw::Int(*value),
        Some(Value::Unsigned(value)) => Raw::Uint(*value),
        Some(Value::Float(value)) => Raw::Float(*value),
        Some(Value::Text(value)) => Raw::Text(value),
        Some(Value::Bytes(value)) => Raw::Bytes(value),
    };
    let bytes = match raw {
        Raw::Text(text) => text.len(),
        Raw::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    (bytes <= grapevine_sql::VALUE_BYTES_MAX).then_some(raw)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn integer(value: i64) -> v1::SqlValue {
        v1::SqlValue {
            value: Some(v1::sql_value::Value::Integer(value)),
        }
    }

    fn column(column: &str, value: i64) -> v1::ColumnValue {
        v1::ColumnValue {
            column: column.to_owned(),
            value: Some(integer(value)),
        }
    }

    fn change(kind: v1::RowChangeKind) -> v1::RowChange {
        v1::RowChange {
            table: "Items".to_owned(),
            kind: kind.into(),
            unchanged: vec![column("id", 1)],
            old: vec![column("Category", 5)],
            new: vec![column("Category", 6)],
            ..Default::default()
        }
    }

    fn rows(change: v1::RowChange) -> Result<Vec<Conjunction>, Status> {
        let request = v1::RowChangedRequest {
            changes: vec![change],
            dialect: v1::SqlDialect::Mysql.into(),
            ..Default::default()
        };
        let images = changed_rows(&request)?.0.into_iter();
        Ok(images.map(|image| image.rows).collect())
    }

    fn sets(conditions: Vec<v1::ColumnCondition>) -> Result<Vec<Conjunction>, Status> {
        let request = v1::InvalidateWhereRequest {
            rows: vec![v1::RowsWhere {
                table: "items".to_owned(),
                r#where: conditions,
            }],
            ..Default::default()
        };
        match changed_where(request)?.0 {
            Changed::Rows(images) => Ok(images.into_iter().map(|image| image.rows).collect()),
            Changed::By(statement) => panic!("{statement:?}"),
        }
    }

    fn is(row: &Conjunction, name: &str) -> Option<String> {
        match row.cells.get(&Column::parse(name).unwrap())? {
            Cell::Is(datum) => Some(datum.value.to_string()),
            Cell::In(_) => None,
        }
    }

    #[test]
    fn a_row_counts_as_it_was_and_as_it_is() {
        let both = rows(change(v1::RowChangeKind::Unspecified)).unwrap();
        let categories: Vec<_> = both.iter().map(|row| is(row, "category")).collect();
        assert_eq!(categories, [Some("5".to_owned()), Some("6".to_owned())]);
        let ids: Vec<_> = both.iter().map(|row| is(row, "id")).collect();
        assert_eq!(ids, [Some("1".to_owned()), Some("1".to_owned())]);
        assert_eq!(both[0].table.as_str(), "items");
        let inserted = v1::RowChange {
            old: Vec::new(),
            ..change(v1::RowChangeKind::Insert)
        };
        let inserted = rows(inserted).unwrap();
        assert_eq!(inserted.len(), 1);
        assert_eq!(is(&inserted[0], "category").as_deref(), Some("6"));
        let deleted = v1::RowChange {
            new: Vec::new(),
            ..change(v1::RowChangeKind::Delete)
        };
        let deleted = rows(deleted).unwrap();
        assert_eq!(deleted.len(), 1);
        assert_eq!(is(&deleted[0], "category").as_deref(), Some("5"));
    }

    #[test]
    fn g3_values_whose_equals_are_not_known_and_too_many_of_them_are_left_out() {
        let text = |text: &str| v1::SqlValue {
            value: Some(v1::sql_value::Value::Text(text.to_owned())),
        };
        let accented = v1::RowChange {
            unchanged: vec![v1::ColumnValue {
                column: "name".to_owned(),
                value: Some(text("\u{e9}t\u{e9}")),
            }],
            ..change(v1::RowChangeKind::Update)
        };
        assert!(is(&rows(accented).unwrap()[0], "name").is_none());
        let any = |name: &str, count: i64| v1::ColumnCondition {
            column: name.to_owned(),
            any_of: (0..count).map(integer).collect(),
            ..Default::default()
        };
        assert_eq!(sets(vec![any("a", 8), any("b", 8)]).unwrap().len(), 64);
        let widened = sets(vec![any("a", 9), any("b", 8)]).unwrap();
        assert_eq!(widened.len(), 9);
        assert!(is(&widened[0], "a").is_some() && is(&widened[0], "b").is_none());
        let mut long = any("a", 1);
        long.any_of.push(text(&"x".repeat(1_001)));
        assert!(sets(vec![long]).unwrap()[0].cells.is_empty());
        let backwards = v1::ColumnCondition {
            column: "a".to_owned(),
            from: Some(integer(3)),
            to: Some(text("x")),
            ..Default::default()
        };
        assert!(sets(vec![backwards]).unwrap()[0].cells.is_empty());
    }

    #[test]
    fn g10_a_wrong_call_names_its_field() {
        let cases = [
            (
                rows(change(v1::RowChangeKind::Insert)),
                "changes[0].old: a row that is new",
            ),
            (
                rows(change(v1::RowChangeKind::Delete)),
                "changes[0].new: a row that is gone",
            ),
            (
                rows(v1::RowChange {
                    table: String::new(),
                    ..change(v1::RowChangeKind::Update)
                }),
                "changes[0].table: ",
            ),
            (
                rows(v1::RowChange {
                    old: vec![column("ID", 1)],
                    ..change(v1::RowChangeKind::Update)
                }),
                "changes[0].old[0].column: id is named twice",
            ),
            (
                rows(v1::RowChange {
                    unchanged: vec![column("a", 1); 65],
                    ..change(v1::RowChangeKind::Update)
                }),
                "changes[0].unchanged: ",
            ),
            (
                rows(v1::RowChange {
                    kind: 9,
                    ..change(v1::RowChangeKind::Update)
                }),
                "changes[0].kind: 9 is not",
            ),
            (
                sets(vec![v1::ColumnCondition {
                    column: "a".to_owned(),
                    ..Default::default()
                }]),
                "rows[0].where[0]: either any_of",
            ),
            (
                changed_rows(&v1::RowChangedRequest::default()).map(|_| Vec::new()),
                "changes: ",
            ),
            (
                changed_where(v1::InvalidateWhereRequest::default()).map(|_| Vec::new()),
                "rows: exactly one of rows and sql",
            ),
        ];
        for (result, text) in cases {
            let status = result.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(text), "{}", status.message());
        }
    }
}
