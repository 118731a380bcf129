//! The configuration file: TOML whose tables are the sections of the table of knobs, and the policies.
//!
//! The file is walked, not deserialised: a wrong value must not hide the next one, and each is reported with its line.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use grapevine_core::policy::PolicySet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Problem};
use super::knob::{Given, Knob};
use super::nearest::nearest;
use super::policies;
use super::table::{KNOBS, SECTIONS};
use super::value::Shape;

/// The largest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// The text of a file, for telling the line of an offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// The place of what begins at an offset.
    pub(super) fn at(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Origin::File {
            path: self.path.to_owned(),
            line: before.split(|byte| *byte == b'\n').count(),
        }
    }

    /// The place of something spanned.
    pub(super) fn of<T>(&self, spanned: &Spanned<T>) -> Origin {
        self.at(spanned.span().start)
    }
}

/// Reads the file: knobs into `given`, policies as the result.
pub(super) fn read(path: &Path, given: &mut Given) -> PolicySet {
    match text_of(path) {
        Ok(text) => read_text(path, &text, given),
        Err(problem) => {
            let origin = Origin::File {
                path: path.to_owned(),
                line: 0,
            };
            given.errors.push(problem.at(origin, ""));
            PolicySet::default()
        }
    }
}

fn text_of(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| Problem::Unreadable {
        cause: error.to_string(),
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut text = String::new();
    // A device has no length, and may have no end.
    let mut start = file.take(FILE_BYTES_MAX + 1);
    if length <= FILE_BYTES_MAX {
        start.read_to_string(&mut text).map_err(unreadable)?;
    }
    let bytes = length.max(text.len() as u64);
    if bytes > FILE_BYTES_MAX {
        return Err(Problem::FileTooLarge {
            bytes,
            limit: FILE_BYTES_MAX,
        });
    }
    Ok(text)
}

fn read_text(path: &Path, text: &str, given: &mut Given) -> PolicySet {
    let source = Source { path, text };
    let (document, errors) = DeTable::parse_recoverable(text);
    let broken = !errors.is_empty();
    given.errors.extend(errors.into_iter().map(|error| {
        let origin = source.at(error.span().map_or(0, |span| span.start));
        let message = error.message().replace('\n', ", ");
        Problem::Syntax { message }.at(origin, "")
    }));
    if broken {
        // What could still be read of broken TOML may stand in the wrong table: judging it would mislead.
        return PolicySet::default();
    }
    let mut policies = policies::Reader::new(source);
    for (key, value) in document.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("policy", DeValue::Array(array)) => policies.list(array),
            ("policy_default", DeValue::Table(table)) => {
                policies.fallback(source.of(value), table);
            }
            (name @ ("policy" | "policy_default"), other) => given.errors.push(
                Problem::WrongType {
                    expected: if name == "policy" {
                        "array of tables, [[policy]]"
                    } else {
                        "table"
                    },
                    found: other.type_str(),
                }
                .at(source.of(value), name),
            ),
            (section, DeValue::Table(table)) if is_section(section) => {
                section_into(given, source, section, table);
            }
            (name, _) => given.errors.push(unknown(source.of(key), name)),
        }
    }
    policies.finish(&mut given.errors)
}

fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == name)
}

fn section_into(given: &mut Given, source: Source<'_>, section: &str, table: &DeTable<'_>) {
    for (name, value) in table {
        let key = format!("{section}.{}", name.get_ref());
        match KNOBS.iter().find(|knob| knob.key == key) {
            None => given.errors.push(unknown(source.of(name), &key)),
            Some(knob) => match text(knob, value.get_ref()) {
                Ok(text) => given.add(knob, source.of(value), text),
                Err(problem) => given.errors.push(problem.at(source.of(value), key)),
            },
        }
    }
}

fn unknown(origin: Origin, key: &str) -> ConfigError {
    let tables = SECTIONS.iter().map(|(section, _)| *section);
    let nearest = if key.contains('.') {
        nearest(key, KNOBS.iter().map(|knob| knob.key))
    } else {
        nearest(key, tables.chain(["policy", "policy_default"]))
            .or_else(|| nearest(key, KNOBS.iter().map(|knob| knob.key)))
    };
    Problem::UnknownKey {
        nearest: nearest.map(str::to_owned),
    }
    .at(origin, key)
}

/// A TOML value as the text that the knob parses.
fn text(knob: &Knob, value: &DeValue<'_>) -> Result<String, Problem> {
    match (value, knob.shape) {
        (DeValue::String(text), _) => Ok(text.clone().into_owned()),
        // Also for sizes and durations: those then say which unit is missing.
        (DeValue::Integer(number), Shape::Text | Shape::Number) => Ok(number.to_string()),
        (DeValue::Array(array), Shape::List(separators)) => array
            .iter()
            .map(|element| {
                element
                    .get_ref()
                    .as_str()
                    .ok_or_else(|| Problem::WrongType {
                        expected: "array of strings",
                        found: element.get_ref().type_str(),
                    })
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| parts.join(&separators[0].to_string())),
        (other, shape) => Err(Problem::WrongType {
            expected: match shape {
                Shape::Text => "string",
                Shape::Number => "integer",
                Shape::List(_) => "array of strings",
            },
            found: other.type_str(),
        }),
    }
}
