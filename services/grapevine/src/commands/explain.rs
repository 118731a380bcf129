//! `grapevine explain`: which rows a statement of SQL depends on or changes. Asks no sidecar.

use std::io::Read as _;

use grapevine_client::v1;
use grapevine_sql::{
    Dialect, Explanation, Kind, Options, Parameter, SQL_BYTES_MAX, Scalar, Unsure,
};

use crate::exit::Failure;
use crate::output::Output;

/// Tell which rows a statement of SQL depends on or changes
///
/// For a read: the conditions on each table that its text tells, the classes to cache it under, what invalidates it, and the index that
/// has its ids, if one can. For a write: the rows that it changes, before and after. Conditions that are not understood are left
/// out, which means more rows, and listed as widened. No sidecar and no database is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The statement, or - to read it from standard input
    #[arg(value_name = "SQL")]
    sql: String,
    #[command(flatten)]
    with: StatementArgs,
    /// What to make of functions whose answer changes by itself, or which are not known
    #[arg(long, value_enum, default_value = "refuse")]
    volatile: UnsureArg,
    /// What to make of text that is not understood
    #[arg(long, value_enum, default_value = "refuse")]
    unparsable: UnsureArg,
    /// One line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a statement needs beside its text.
#[derive(Debug, clap::Args)]
pub(super) struct StatementArgs {
    /// Whose SQL it is; postgres unless told
    #[arg(long, value_enum)]
    dialect: Option<DialectArg>,
    /// The value of the next placeholder: null, true, false, a number, or text; in single quotes it is text whatever it looks like
    #[arg(
        long = "param",
        value_name = "VALUE",
        allow_hyphen_values = true,
        requires = "sql"
    )]
    params: Vec<String>,
    /// The value of a placeholder that has a name
    #[arg(long = "named", value_name = "NAME=VALUE")]
    named: Vec<String>,
}

impl StatementArgs {
    /// Whether nothing is said of a statement.
    pub(super) fn is_empty(&self) -> bool {
        self.dialect.is_none() && self.params.is_empty() && self.named.is_empty()
    }

    /// As a call to a sidecar has it.
    pub(super) fn to_wire(&self) -> Result<(v1::SqlDialect, Vec<v1::SqlParameter>), Failure> {
        use v1::sql_parameter::Value;
        let dialect = self.dialect.unwrap_or_default().to_wire();
        let parameters = parameters(self)?.into_iter().map(|parameter| {
            let value = match parameter.value {
                Scalar::Null => None,
                Scalar::Bool(value) => Some(Value::Boolean(value)),
                Scalar::Int(value) => Some(Value::Integer(value)),
                Scalar::Uint(value) => Some(Value::Unsigned(value)),
                Scalar::Float(value) => Some(Value::Float(value)),
                Scalar::Text(value) => Some(Value::Text(value)),
                Scalar::Bytes(value) => Some(Value::Bytes(value.into())),
            };
            v1::SqlParameter {
                name: parameter.name.unwrap_or_default(),
                value,
            }
        });
        Ok((dialect, parameters.collect()))
    }
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum DialectArg {
    #[default]
    Postgres,
    Mysql,
    Sqlite,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum UnsureArg {
    /// It is not cacheable; text that is not understood is an error
    Refuse,
    /// It depends on all rows of its tables
    Table,
}

impl DialectArg {
    /// As a call to a sidecar has it.
    pub(super) fn to_wire(self) -> v1::SqlDialect {
        match self {
            Self::Postgres => v1::SqlDialect::Postgresql,
            Self::Mysql => v1::SqlDialect::Mysql,
            Self::Sqlite => v1::SqlDialect::Sqlite,
        }
    }
}

impl From<DialectArg> for Dialect {
    fn from(dialect: DialectArg) -> Self {
        match dialect {
            DialectArg::Postgres => Self::Postgres,
            DialectArg::Mysql => Self::MySql,
            DialectArg::Sqlite => Self::Sqlite,
        }
    }
}

impl From<UnsureArg> for Unsure {
    fn from(unsure: UnsureArg) -> Self {
        match unsure {
            UnsureArg::Refuse => Self::Refuse,
            UnsureArg::Table => Self::Table,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let sql = match args.sql.as_str() {
        "-" => standard_input()?,
        sql => sql.to_owned(),
    };
    let options = Options {
        dialect: args.with.dialect.unwrap_or_default().into(),
        volatile: args.volatile.into(),
        unparsable: args.unparsable.into(),
    };
    let explanation = grapevine_sql::explain(&sql, &parameters(&args.with)?, options)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let mut out = Output::stdout();
    if args.json {
        out.json(&explanation)?;
    } else {
        out.line(&text(&explanation))?;
    }
    out.flush()
}

/// No more than can be a statement, and one byte, so that a longer one is refused as such.
fn standard_input() -> Result<String, Failure> {
    let most = u64::try_from(SQL_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    // Before it is looked at as text: its last character may be cut off.
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    if bytes.len() > SQL_BYTES_MAX {
        // How long it is nobody knows: the rest was not read.
        return Err(Failure::Usage(format!(
            "sql has more than {SQL_BYTES_MAX} bytes, which is the limit"
        )));
    }
    String::from_utf8(bytes)
        .map_err(|error| Failure::Usage(format!("standard input is not UTF-8: {error}")))
}

fn parameters(args: &StatementArgs) -> Result<Vec<Parameter>, Failure> {
    let by_place = args.params.iter().map(|value| {
        Ok(Parameter {
            name: None,
            value: scalar(value),
        })
    });
    let named = args.named.iter().map(|pair| match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Parameter {
            name: Some(name.trim_start_matches([':', '@', '$']).to_owned()),
            value: scalar(value),
        }),
        _ => Err(Failure::Usage(format!(
            "--named {pair}: it must be NAME=VALUE"
        ))),
    });
    by_place.chain(named).collect()
}

/// A value as people write it.
pub(super) fn scalar(text: &str) -> Scalar {
    let quoted = text
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    if let Some(quoted) = quoted {
        return Scalar::Text(quoted.replace("''", "'"));
    }
    match text {
        "null" | "NULL" => Scalar::Null,
        "true" => Scalar::Bool(true),
        "false" => Scalar::Bool(false),
        _ => {
            let number = text.bytes().all(|byte| b"0123456789+-.eE".contains(&byte));
            let int = || text.parse().ok().map(Scalar::Int);
            let float = || text.parse().ok().map(Scalar::Float);
            let found = if number { int().or_else(float) } else { None };
            found.unwrap_or_else(|| Scalar::Text(text.to_owned()))
        }
    }
}

/// For people: a heading and a line for each thing.
fn text(explanation: &Explanation) -> String {
    let mut lines = Vec::new();
    let mut section = |heading: &str, items: &[String]| {
        if !items.is_empty() {
            lines.push(format!("{heading}:"));
            lines.extend(items.iter().map(|item| format!("  {item}")));
        }
    };
    let read = explanation.kind == Kind::Read;
    section("tables", &explanation.tables);
    if read {
        section("invalidated by a change of", &explanation.invalidated_by);
        section("classes", &explanation.classes);
    } else {
        section("classes to invalidate", &explanation.classes);
        let rows: Vec<_> = explanation
            .conjunctions
            .iter()
            .map(ToString::to_string)
            .collect();
        section("changes", &rows);
    }
    let widened = explanation
        .widened
        .iter()
        .map(|widened| match &widened.table {
            Some(table) => format!("{table}: {}", widened.reason),
            None => widened.reason.clone(),
        });
    section("widened", &widened.collect::<Vec<_>>());
    if read {
        match (&explanation.index, &explanation.no_index) {
            (Some(index), _) => section("index", &[index.to_string()]),
            (None, Some(why)) => section("no index", std::slice::from_ref(why)),
            (None, None) => {}
        }
        if explanation.cacheable {
            section("cacheable", &["yes".to_owned()]);
        } else {
            section("not cacheable", &explanation.not_cacheable);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_look_like_unless_quoted() {
        assert_eq!(scalar("5"), Scalar::Int(5));
        assert_eq!(scalar("-2.5"), Scalar::Float(-2.5));
        assert_eq!(scalar("'5'"), Scalar::Text("5".into()));
        assert_eq!(scalar("'it''s'"), Scalar::Text("it's".into()));
        assert_eq!(scalar("null"), Scalar::Null);
        assert_eq!(scalar("true"), Scalar::Bool(true));
        assert_eq!(scalar("+"), Scalar::Text("+".into()));
        assert_eq!(scalar("inf"), Scalar::Text("inf".into()));
    }
}
