//! A knob, and the macro that turns the one table of knobs into everything else.
//!
//! `knobs!` is given sections with fields; it makes the typed structs, [`Config`](super::Config), and the static list
//! [`KNOBS`](super::KNOBS), from which flags, variables, the file's keys, help, the commented default file and the
//! effective configuration are generated. A knob therefore stands in one place only.

use std::collections::BTreeMap;

use super::error::{ConfigError, Origin, Problem};
use super::value::{Shape, Value};

/// One setting of the sidecar.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its dotted key: section and name, as in the TOML file.
    pub key: &'static str,
    /// What it does, in lines of prose.
    pub doc: &'static [&'static str],
    /// What raising it costs; empty for what cannot be raised.
    pub cost: &'static str,
    /// The text of its default.
    pub default: &'static str,
    /// The texts of its smallest and largest value, where it has limits.
    pub range: Option<(&'static str, &'static str)>,
    /// Further names of its flag.
    pub aliases: &'static [&'static str],
    /// What stands for its value in `--help`.
    pub kind: &'static str,
    /// How it is written in TOML.
    pub shape: Shape,
    /// Whether it can be raised.
    pub ordered: bool,
    /// Its value's text in a configuration.
    pub(super) text: fn(&super::Config) -> String,
}

impl Knob {
    /// The section's name.
    pub fn section(&self) -> &'static str {
        self.key
            .split_once('.')
            .map_or(self.key, |(section, _)| section)
    }

    /// Its name within the section.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// Its flag, without the dashes: `store-cache-bytes`.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// Its environment variable: `GRAPEVINE_STORE_CACHE_BYTES`.
    pub fn variable(&self) -> String {
        format!(
            "GRAPEVINE_{}",
            self.key.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// What it does, as one text.
    pub fn help(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }

    /// A text as it is written in TOML for this knob.
    pub(super) fn toml(&self, text: &str) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        match self.shape {
            Shape::Text => quoted(text),
            Shape::Number => text.to_owned(),
            Shape::List(separators) => {
                let parts: Vec<String> = text
                    .split(separators)
                    .filter(|part| !part.is_empty())
                    .map(quoted)
                    .collect();
                format!("[{}]", parts.join(", "))
            }
        }
    }
}

/// The texts that sources gave for each knob, in rising precedence, and what was wrong with them.
#[derive(Debug, Default)]
pub(super) struct Given {
    texts: BTreeMap<&'static str, Vec<(Origin, String)>>,
    pub(super) errors: Vec<ConfigError>,
}

impl Given {
    /// Adds a text; later ones win.
    pub(super) fn add(&mut self, knob: &Knob, origin: Origin, text: String) {
        self.texts.entry(knob.key).or_default().push((origin, text));
    }

    /// Which source decides each knob that any source gave.
    pub(super) fn origins(&self) -> BTreeMap<&'static str, Origin> {
        self.texts
            .iter()
            .filter_map(|(key, texts)| Some((*key, texts.last()?.0.clone())))
            .collect()
    }

    /// The value of the highest source. Wrong values of every source are noted, also of those that are overridden: they
    /// would surprise whoever removes the override.
    pub(super) fn take<T: Value>(&mut self, knob: &Knob) -> T {
        let mut value = parse(knob, knob.default).expect("invariant: every default is legal");
        for (origin, text) in self.texts.get(knob.key).into_iter().flatten() {
            match parse(knob, text) {
                Ok(parsed) => value = parsed,
                Err(problem) => self.errors.push(problem.at(origin.clone(), knob.key)),
            }
        }
        value
    }
}

fn parse<T: Value>(knob: &Knob, text: &str) -> Result<T, Problem> {
    let value = T::parse(text).map_err(|reason| Problem::invalid(text, reason))?;
    if let Some((min, max)) = knob.range {
        let limit = |text| T::parse(text).expect("invariant: every limit is legal");
        if !value.within(&limit(min), &limit(max)) {
            return Err(Problem::OutOfRange {
                value: text.to_owned(),
                min: min.to_owned(),
                max: max.to_owned(),
            });
        }
    }
    Ok(value)
}

macro_rules! knobs {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $type:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $value:ty = $default:literal
                $(, from $min:literal to $max:literal)?
                $(, flag $alias:literal)*
                $(, raising $cost:literal)?
                ;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $type {
                $( $(#[doc = $doc])+ pub $field: $value, )+
            }
        )+

        /// Everything a sidecar is told at start, checked.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $( $(#[doc = $section_doc])+ pub $section: $type, )+
            /// How the addresses of each class are treated; only the file can say it.
            pub policies: PolicySet,
        }

        /// Every knob, in the order of the default file.
        pub static KNOBS: &[Knob] = &[ $( $(
            Knob {
                key: concat!(stringify!($section), ".", stringify!($field)),
                doc: &[$($doc),+],
                cost: concat!($($cost)?),
                default: $default,
                range: knobs!(@range $($min, $max)?),
                aliases: &[$($alias),*],
                kind: <$value as Value>::KIND,
                shape: <$value as Value>::SHAPE,
                ordered: <$value as Value>::ORDERED,
                text: |config| config.$section.$field.text(),
            },
        )+ )+ ];

        /// What each section is for, in the order of the default file.
        pub(super) static SECTIONS: &[(&str, &[&str])] = &[
            $( (stringify!($section), &[$($section_doc),+]), )+
        ];

        impl Config {
            pub(super) fn build(given: &mut Given, policies: PolicySet) -> Self {
                let mut knobs = KNOBS.iter();
                let mut next = || knobs.next().expect("invariant: fields and knobs come from one table");
                Self {
                    $( $section: $type { $( $field: given.take(next()), )+ }, )+
                    policies,
                }
            }
        }
    };
    (@range) => { None };
    (@range $min:literal, $max:literal) => { Some(($min, $max)) };
}

pub(super) use knobs;
