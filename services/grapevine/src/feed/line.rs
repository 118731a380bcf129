//! One line of a feed: a JSON object that names classes.

use grapevine_client::Client;
use serde::Deserialize;
use serde_json::Value;

use super::position::{Id, Mark};
use crate::invalidation::{How, Matching, Purge, Receipt};

/// The longest id that is kept; it is written to the position file with every step.
const ID_BYTES_MAX: usize = 1_024;

/// A line that can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) classes: Vec<String>,
    pub(super) how: How,
    /// Right behind it; `lines_read` is its number.
    pub(super) mark: Mark,
}

/// What a line says. Other fields are ignored: a change feed has columns of its own.
#[derive(Debug, Deserialize)]
struct Raw {
    classes: Vec<String>,
    #[serde(default, rename = "match")]
    matching: Option<Matching>,
    #[serde(default)]
    receipt: Option<Receipt>,
    #[serde(default)]
    purge: Option<Purge>,
    #[serde(default)]
    id: Value,
}

/// A line's content, not yet placed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) classes: Vec<String>,
    pub(super) how: How,
    pub(super) id: Option<Id>,
}

/// Reads a line. `client` knows the limits of a call, `how` is for what the line does not say.
pub(super) fn parse(text: &[u8], client: &Client, how: How) -> Result<Parsed, String> {
    let raw: Raw = serde_json::from_slice(text).map_err(|error| problem(&error))?;
    let how = How {
        matching: raw.matching.unwrap_or(how.matching),
        receipt: raw.receipt.unwrap_or(how.receipt),
        purge: raw.purge.unwrap_or(how.purge),
    };
    let id = id(raw.id)?;
    // What a call would refuse is told of its line, before it is among other lines.
    how.call(client, raw.classes.clone())
        .check()
        .map_err(|invalid| {
            let violations = invalid.violations.iter();
            let texts = violations.map(|one| format!("{}: {}", one.field, one.description));
            texts.collect::<Vec<_>>().join("; ")
        })?;
    Ok(Parsed {
        classes: raw.classes,
        how,
        id,
    })
}

/// What is wrong with the JSON, with the column: the line is named by its number in the feed.
fn problem(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if !error.is_data() {
        text = format!("it is not JSON: {text}");
    }
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

fn id(value: Value) -> Result<Option<Id>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.len() <= ID_BYTES_MAX => Ok(Some(Id::Text(text))),
        Value::String(text) => Err(format!(
            "id has {} bytes; the limit is {ID_BYTES_MAX}",
            text.len()
        )),
        Value::Number(number) => number
            .as_i64()
            .map(|number| Some(Id::Number(number)))
            .ok_or_else(|| {
                format!("id is {number}; it must be a whole number of 64 bits, or a string")
            }),
        other => Err(format!(
            "id is {other}; it must be a whole number or a string"
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    pub(crate) const HOW: How = How {
        matching: Matching::Any,
        receipt: Receipt::One,
        purge: Purge::Hard,
    };

    fn read(text: &str) -> Result<Parsed, String> {
        let client = Client::connect("127.0.0.1:1").unwrap();
        parse(text.as_bytes(), &client, HOW)
    }

    #[tokio::test]
    async fn a_line_says_what_differs_from_the_flags() {
        let plain = read(r#"{"classes":["a/1"],"table":"carts"}"#).unwrap();
        assert_eq!((plain.how, plain.id), (HOW, None));
        let full =
            read(r#"{"classes":["a","b"],"match":"all","receipt":"all","purge":"soft","id":7}"#)
                .unwrap();
        assert_eq!(full.how.matching, Matching::All);
        assert_eq!(full.how.receipt, Receipt::All);
        assert_eq!(full.how.purge, Purge::Soft);
        assert_eq!(full.id, Some(Id::Number(7)));
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_with_its_field() {
        for (text, problem) in [
            (
                "{",
                "it is not JSON: EOF while parsing an object at column 1",
            ),
            ("not json", "it is not JSON: expected ident at column 2"),
            ("[]", "invalid length 0"),
            ("{}", "missing field `classes`"),
            (r#"{"classes":"a"}"#, "expected a sequence"),
            (
                r#"{"classes":[]}"#,
                "classes: 0 classes are outside 1 to 1000",
            ),
            (r#"{"classes":["a","b c"]}"#, "classes[1]: "),
            (r#"{"classes":["a"],"match":"all"}"#, "at least 2"),
            (
                r#"{"classes":["a"],"match":"some"}"#,
                "unknown variant `some`",
            ),
            (r#"{"classes":["a"],"id":1.5}"#, "id is 1.5"),
            (r#"{"classes":["a"],"id":[]}"#, "id is []"),
            (r#"{"classes":["a"]} trailing"#, "trailing characters"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
