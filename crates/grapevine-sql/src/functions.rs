//! Functions whose result follows from their arguments.
//!
//! What is not listed may read tables, the clock or the session, so an answer that uses it does not follow from the tables alone.
//! Functions that depend on settings of the session only (the time zone, the locale) are listed: applications share those.

use grapevine_core::criteria::Dialect;
use sqlparser::ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value};

/// Sorted.
const PLAIN: &[&str] = &[
    "abs",
    "acos",
    "age",
    "any_value",
    "array_agg",
    "array_append",
    "array_cat",
    "array_length",
    "array_position",
    "array_remove",
    "array_to_string",
    "ascii",
    "asin",
    "atan",
    "atan2",
    "avg",
    "bit_and",
    "bit_length",
    "bit_or",
    "bool_and",
    "bool_or",
    "btrim",
    "cardinality",
    "cast",
    "cbrt",
    "ceil",
    "ceiling",
    "char",
    "char_length",
    "character_length",
    "chr",
    "coalesce",
    "concat",
    "concat_ws",
    "corr",
    "cos",
    "cot",
    "count",
    "covar_pop",
    "covar_samp",
    "crc32",
    "cume_dist",
    "date_add",
    "date_format",
    "date_part",
    "date_sub",
    "date_trunc",
    "datediff",
    "day",
    "dayname",
    "dayofmonth",
    "dayofweek",
    "dayofyear",
    "decode",
    "degrees",
    "dense_rank",
    "div",
    "elt",
    "encode",
    "every",
    "exp",
    "extract",
    "field",
    "find_in_set",
    "first_value",
    "floor",
    "format",
    "from_days",
    "from_unixtime",
    "generate_series",
    "glob",
    "greatest",
    "group_concat",
    "grouping",
    "hex",
    "hour",
    "if",
    "ifnull",
    "iif",
    "initcap",
    "instr",
    "isnull",
    "json_agg",
    "json_array",
    "json_array_length",
    "json_build_array",
    "json_build_object",
    "json_contains",
    "json_each",
    "json_extract",
    "json_extract_path",
    "json_extract_path_text",
    "json_group_array",
    "json_group_object",
    "json_keys",
    "json_length",
    "json_object",
    "json_object_agg",
    "json_table",
    "json_type",
    "json_unquote",
    "json_valid",
    "jsonb_agg",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_array_length",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_each",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
    "jsonb_object_agg",
    "lag",
    "last_day",
    "last_value",
    "lcase",
    "lead",
    "least",
    "left",
    "length",
    "like",
    "likelihood",
    "likely",
    "listagg",
    "ln",
    "locate",
    "log",
    "log10",
    "log2",
    "lower",
    "lpad",
    "ltrim",
    "make_date",
    "make_interval",
    "make_time",
    "make_timestamp",
    "max",
    "md5",
    "mid",
    "min",
    "minute",
    "mod",
    "month",
    "monthname",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "ord",
    "overlay",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "pi",
    "position",
    "pow",
    "power",
    "printf",
    "quarter",
    "quote",
    "quote_ident",
    "quote_literal",
    "radians",
    "rank",
    "regexp_instr",
    "regexp_like",
    "regexp_matches",
    "regexp_replace",
    "regexp_substr",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "row_number",
    "row_to_json",
    "rpad",
    "rtrim",
    "second",
    "sha1",
    "sha2",
    "sign",
    "sin",
    "soundex",
    "split_part",
    "sqrt",
    "starts_with",
    "std",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "str_to_date",
    "strcmp",
    "string_agg",
    "string_to_array",
    "strpos",
    "substr",
    "substring",
    "substring_index",
    "sum",
    "tan",
    "timestampdiff",
    "to_char",
    "to_date",
    "to_days",
    "to_hex",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "total",
    "translate",
    "trim",
    "trunc",
    "truncate",
    "ts_rank",
    "typeof",
    "ucase",
    "unhex",
    "unicode",
    "unlikely",
    "unnest",
    "upper",
    "var_pop",
    "var_samp",
    "variance",
    "week",
    "weekday",
    "weekofyear",
    "width_bucket",
    "year",
    "yearweek",
    "zeroblob",
];

/// SQLite's, whose first argument may say `now`, and which say so where there is none.
const SQLITE_TIMES: &[&str] = &[
    "date",
    "datetime",
    "julianday",
    "strftime",
    "time",
    "timediff",
    "unixepoch",
];

/// Whether a function is one whose result follows from its arguments.
pub(crate) fn is_plain(function: &Function, dialect: Dialect) -> bool {
    let [name] = function.name.0.as_slice() else {
        return false;
    };
    let Some(name) = name.as_ident() else {
        return false;
    };
    let name = name.value.to_lowercase();
    if SQLITE_TIMES.contains(&name.as_str()) {
        return dialect != Dialect::Sqlite && name != "unixepoch"
            || is_of_a_given_time(&name, function);
    }
    // PostgreSQL's `age(t)` counts from today.
    if name == "age" {
        return arguments(function).is_some_and(|arguments| arguments.len() == 2);
    }
    is_plain_name(&name)
}

/// Whether a function of that name, in FROM, is one.
pub(crate) fn is_plain_name(name: &str) -> bool {
    PLAIN.binary_search(&name).is_ok()
}

fn arguments(function: &Function) -> Option<&[FunctionArg]> {
    match &function.args {
        FunctionArguments::List(list) => Some(&list.args),
        _ => None,
    }
}

/// Whether the arguments are columns and literals, none of which is `now`.
fn is_of_a_given_time(name: &str, function: &Function) -> bool {
    let given = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => match expr {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => !text.eq_ignore_ascii_case("now"),
                Value::Placeholder(_) => false,
                _ => true,
            },
            _ => false,
        },
        _ => false,
    };
    // The first of `strftime` is the format.
    let least = 1 + usize::from(name == "strftime");
    arguments(function)
        .is_some_and(|arguments| arguments.len() >= least && arguments.iter().all(given))
}

#[cfg(test)]
mod tests {
    use super::PLAIN;

    #[test]
    fn the_list_is_sorted() {
        assert!(PLAIN.is_sorted_by(|a, b| a < b));
    }
}
