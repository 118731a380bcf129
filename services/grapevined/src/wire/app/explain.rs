//! Statements to explain, and what is told of them.

use std::time::Duration;

use grapevine_core::criteria::Conjunction;
use grapevine_proto::v1;
use grapevine_sql::{
    Dialect, Direction, ExplainError, Explanation, Index, Kind, Options, Parameter, Predicate,
    Scalar, Unsure,
};
use prost::Message as _;
use tonic::Status;

use crate::wire::status::{self, Violations};

/// The largest explanation. A long literal may stand in it once for each alternative.
const EXPLANATION_BYTES_MAX: usize = 2 << 20;

/// A statement to explain.
#[derive(Debug)]
pub(crate) struct Statement {
    sql: String,
    parameters: Vec<Parameter>,
    options: Options,
}

/// Checks a request, its lengths too; what is wrong with the statement itself is told by [`explanation`].
pub(crate) fn explaining(request: v1::ExplainRequest) -> Result<Statement, Status> {
    let mut violations = Violations::default();
    let dialect = read_dialect(&mut violations, request.dialect);
    let options = Options {
        dialect,
        volatile: unsure(&mut violations, "volatile", request.volatile),
        unparsable: unsure(&mut violations, "unparsable", request.unparsable),
    };
    violations.finish()?;
    let parameters = request.parameters.into_iter().map(|parameter| Parameter {
        name: Some(parameter.name).filter(|name| !name.is_empty()),
        value: scalar(parameter.value),
    });
    let parameters: Vec<_> = parameters.collect();
    grapevine_sql::check_size(&request.sql, &parameters).map_err(|error| refused(&error))?;
    Ok(Statement {
        sql: request.sql,
        parameters,
        options,
    })
}

pub(super) fn read_dialect(violations: &mut Violations, dialect: i32) -> Dialect {
    match v1::SqlDialect::try_from(dialect) {
        Ok(v1::SqlDialect::Unspecified | v1::SqlDialect::Postgresql) => Dialect::Postgres,
        Ok(v1::SqlDialect::Mysql) => Dialect::MySql,
        Ok(v1::SqlDialect::Sqlite) => Dialect::Sqlite,
        Err(_) => unknown(violations, "dialect", dialect),
    }
}

/// The rows that a write changes, as they were and as they are.
pub(crate) fn rows_of_write(statement: &Statement) -> Result<Vec<Conjunction>, Status> {
    let explained =
        grapevine_sql::explain(&statement.sql, &statement.parameters, statement.options)
            .map_err(|error| refused(&error))?;
    match explained.kind {
        Kind::Write if explained.rows.is_empty() => {
            let reason = "it changes no rows, as its text tells: there is nothing to invalidate";
            Err(status::invalid("sql", reason))
        }
        Kind::Write => Ok(explained.rows),
        Kind::Read => Err(status::invalid("sql", "it only reads: it changes no rows")),
    }
}

fn unsure(violations: &mut Violations, field: &str, value: i32) -> Unsure {
    match v1::SqlUnsure::try_from(value) {
        Ok(v1::SqlUnsure::Unspecified | v1::SqlUnsure::Refuse) => Unsure::Refuse,
        Ok(v1::SqlUnsure::Table) => Unsure::Table,
        Err(_) => unknown(violations, field, value),
    }
}

fn unknown<T: Default>(violations: &mut Violations, field: &str, value: i32) -> T {
    violations.add(field, format!("{value} is none that is known"));
    T::default()
}

fn scalar(value: Option<v1::sql_parameter::Value>) -> Scalar {
    use v1::sql_parameter::Value;
    match value {
        None => Scalar::Null,
        Some(Value::Boolean(value)) => Scalar::Bool(value),
        Some(Value::Integer(value)) => Scalar::Int(value),
        Some(Value::Unsigned(value)) => Scalar::Uint(value),
        Some(Value::Float(value)) => Scalar::Float(value),
        Some(Value::Text(value)) => Scalar::Text(value),
        Some(Value::Bytes(value)) => Scalar::Bytes(value.into()),
    }
}

/// What a statement depends on or changes. Takes some milliseconds of a core, up to a tenth of a second.
pub(crate) fn explanation(statement: &Statement) -> Result<v1::ExplainResponse, Status> {
    let Statement {
        sql,
        parameters,
        options,
    } = statement;
    let explained =
        grapevine_sql::explain(sql, parameters, *options).map_err(|error| refused(&error))?;
    let response = response(explained);
    let bytes = response.encoded_len();
    if bytes > EXPLANATION_BYTES_MAX {
        let message =
            format!("its explanation has {bytes} bytes; the limit is {EXPLANATION_BYTES_MAX}");
        return Err(status::invalid("sql", message));
    }
    Ok(response)
}

fn refused(error: &ExplainError) -> Status {
    let text = error.to_string();
    match error {
        ExplainError::NoStack { .. } => status::exhausted(text, Duration::from_millis(200)),
        ExplainError::TooManyParameters { .. }
        | ExplainError::ParametersTooLong { .. }
        | ExplainError::MissingParameter { .. }
        | ExplainError::UnusedParameter { .. }
        | ExplainError::ParameterTwice { .. } => {
            status::invalid("parameters", without(&text, "parameters: "))
        }
        _ => status::invalid("sql", without(&text, "sql: ")),
    }
}

/// The field is named before it.
fn without<'a>(text: &'a str, field: &str) -> &'a str {
    text.strip_prefix(field).unwrap_or(text)
}

fn response(explained: Explanation) -> v1::ExplainResponse {
    let kind = match explained.kind {
        Kind::Read => v1::SqlStatementKind::Read,
        Kind::Write => v1::SqlStatementKind::Write,
    };
    let widened = explained.widened.into_iter().map(|widened| v1::Widened {
        table: widened.table.unwrap_or_default(),
        reason: widened.reason,
    });
    let order = explained.order.into_iter().map(|order| v1::OrderColumn {
        column: order.column,
        descending: order.direction == Direction::Desc,
    });
    v1::ExplainResponse {
        kind: kind.into(),
        tables: explained.tables,
        conjunctions: explained.conjunctions.into_iter().map(rows).collect(),
        widened: widened.collect(),
        index: explained.index.map(index),
        no_index: explained.no_index.unwrap_or_default(),
        order: order.collect(),
        limit: explained.limit,
        offset: explained.offset,
        classes: explained.classes,
        invalidated_by: explained.invalidated_by,
        cacheable: explained.cacheable,
        not_cacheable: explained.not_cacheable,
    }
}

fn rows(rows: Predicate) -> v1::RowPredicate {
    let terms = rows.terms.into_iter().map(|term| v1::RowTerm {
        column: term.column,
        is: term.is,
        from: term.from,
        to: term.to,
    });
    v1::RowPredicate {
        table: rows.table,
        terms: terms.collect(),
    }
}

fn index(index: Index) -> v1::ListIndex {
    let leaves = index.leaves.into_iter().map(|leaf| v1::ListLeaf {
        values: leaf.values,
    });
    v1::ListIndex {
        table: index.table,
        columns: index.columns,
        leaves: leaves.collect(),
        range: index.range.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(request: v1::ExplainRequest) -> Result<v1::ExplainResponse, Status> {
        explanation(&explaining(request)?)
    }

    fn of(sql: &str) -> v1::ExplainRequest {
        v1::ExplainRequest {
            sql: sql.into(),
            ..Default::default()
        }
    }

    #[test]
    fn all_that_is_told_arrives() {
        let request = v1::ExplainRequest {
            dialect: v1::SqlDialect::Mysql.into(),
            parameters: vec![v1::SqlParameter {
                value: Some(v1::sql_parameter::Value::Integer(5)),
                ..Default::default()
            }],
            ..of(
                "SELECT id FROM Items WHERE CategoryID = ? AND Stock > 0 AND Name LIKE 'a%' ORDER BY Stock DESC LIMIT 10 OFFSET 3",
            )
        };
        let told = explained(request).unwrap();
        assert_eq!(told.kind(), v1::SqlStatementKind::Read);
        assert_eq!(told.tables, ["items"]);
        let terms = &told.conjunctions[0].terms;
        assert_eq!(terms[0].column, "categoryid");
        assert_eq!(terms[0].is.as_deref(), Some("5"));
        assert_eq!(terms[1].from.as_deref(), Some("0"));
        assert!(terms[1].to.is_none());
        assert_eq!(told.order[0].column, "stock");
        assert!(told.order[0].descending);
        assert_eq!((told.limit, told.offset), (Some(10), Some(3)));
        assert!(told.widened[0].reason.contains("LIKE"));
        assert_eq!(told.no_index, told.widened[0].reason);
        assert!(!told.classes.is_empty() && told.cacheable);
        assert_eq!(told.invalidated_by.len(), 1);
        let told = explained(of("SELECT now()")).unwrap();
        assert!(!told.cacheable && !told.not_cacheable.is_empty());
        let told = explained(of("SELECT id FROM t WHERE a = 1 OR a = 2")).unwrap();
        let index = told.index.unwrap();
        assert_eq!((index.columns, index.leaves.len()), (vec!["a".into()], 2));
        let told = explained(of("DELETE FROM t")).unwrap();
        assert_eq!(told.kind(), v1::SqlStatementKind::Write);
    }

    #[test]
    fn g10_a_wrong_request_names_its_field() {
        let text = "x".repeat(1_000);
        let columns: Vec<_> = (0..60).map(|at| format!("c{at} = '{text}'")).collect();
        let any: Vec<_> = (0..64).map(|at| at.to_string()).collect();
        let long = format!(
            "SELECT * FROM t WHERE {} AND b IN ({})",
            columns.join(" AND "),
            any.join(",")
        );
        let five = v1::SqlParameter {
            name: "n".into(),
            value: Some(v1::sql_parameter::Value::Text("5".into())),
        };
        let cases = [
            (of("SELEC 1"), "sql: sql is not understood"),
            (of(&"x".repeat(65_537)), "sql: sql has 65537 bytes"),
            (of(&long), "sql: its explanation has"),
            (
                v1::ExplainRequest {
                    dialect: 9,
                    volatile: -1,
                    ..of("SELECT 1")
                },
                "dialect: 9 is none that is known (and 1 more",
            ),
            (
                v1::ExplainRequest {
                    parameters: vec![v1::SqlParameter {
                        value: Some(v1::sql_parameter::Value::Text("x".repeat(65_537))),
                        ..Default::default()
                    }],
                    ..of("SELECT * FROM t WHERE a = $1")
                },
                "parameters: their names, texts and bytes are 65537 bytes together",
            ),
            (
                v1::ExplainRequest {
                    parameters: vec![five],
                    ..of("SELECT * FROM t")
                },
                "parameters: n stands nowhere",
            ),
        ];
        for (request, text) in cases {
            let status = explained(request).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(text), "{}", status.message());
        }
    }
}
