//! Flags and environment variables, made from the table of knobs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, ValueHint};

use super::error::{Origin, Problem};
use super::knob::{Given, Knob};
use super::nearest::distance;
use super::print::push;
use super::table::KNOBS;
use super::value::Shape;

/// The flag that names the configuration file.
pub const CONFIG_FLAG: &str = "config";
/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "GRAPEVINE_CONFIG";

/// The flags of every knob, and `--config`.
pub fn arguments() -> Vec<Arg> {
    let config = Arg::new(CONFIG_FLAG)
        .long(CONFIG_FLAG)
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .help(format!(
            "The configuration file, TOML [env: {CONFIG_VARIABLE}]"
        ));
    std::iter::once(config)
        .chain(KNOBS.iter().map(argument))
        .collect()
}

fn argument(knob: &'static Knob) -> Arg {
    let help = knob.help();
    let short = help
        .split_once(". ")
        .map_or(help.trim_end_matches('.'), |(first, _)| first);
    let mut long = format!("{help}\n");
    if !knob.cost.is_empty() {
        push(&mut long, format_args!("\nRaising it {}", knob.cost));
    }
    if let Some((min, max)) = knob.range {
        push(&mut long, format_args!("\n[{min} to {max}]"));
    }
    push(
        &mut long,
        format_args!("\n[default: {:?}] [env: {}]", knob.default, knob.variable()),
    );
    let hint = match knob.kind {
        "PATH" => ValueHint::AnyPath,
        "URL" => ValueHint::Url,
        "HOST:PORT" => ValueHint::Hostname,
        _ => ValueHint::Other,
    };
    Arg::new(knob.key)
        .long(knob.flag())
        .visible_aliases(knob.aliases.iter().copied())
        .value_name(knob.kind)
        .value_hint(hint)
        .action(match knob.shape {
            Shape::List(_) => ArgAction::Append,
            Shape::Text | Shape::Number => ArgAction::Set,
        })
        .help_heading(knob.section())
        .help(short.to_owned())
        .long_help(long)
}

/// Takes what the flags say.
pub(super) fn from_flags(matches: &ArgMatches, given: &mut Given) {
    for knob in KNOBS {
        let Some(texts) = matches.get_many::<String>(knob.key) else {
            continue;
        };
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let text = match knob.shape {
            Shape::List(separators) => texts.join(&separators[0].to_string()),
            Shape::Text | Shape::Number => texts.concat(),
        };
        given.add(knob, Origin::Flag { name: knob.flag() }, text);
    }
}

/// Takes what the environment says. Foreign variables that begin like ours are common (Kubernetes makes
/// `GRAPEVINE_SERVICE_HOST` for a service of that name), so only those that look misspelt are refused.
pub(super) fn from_environment(environment: &[(OsString, OsString)], given: &mut Given) {
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("GRAPEVINE_")) else {
            continue;
        };
        let origin = Origin::Environment {
            name: name.to_owned(),
        };
        match KNOBS.iter().find(|knob| knob.variable() == name) {
            Some(knob) => {
                if let Some(text) = value.to_str() {
                    given.add(knob, origin, text.to_owned());
                } else {
                    let shown = value.to_string_lossy();
                    let error = Problem::invalid(&shown, "is not UTF-8").at(origin, knob.key);
                    given.errors.push(error);
                }
            }
            None if name == CONFIG_VARIABLE => {}
            None => {
                if let Some(meant) = misspelt(name) {
                    let nearest = Some(meant.variable());
                    given
                        .errors
                        .push(Problem::UnknownKey { nearest }.at(origin, ""));
                }
            }
        }
    }
}

fn misspelt(name: &str) -> Option<&'static Knob> {
    const TYPOS_MAX: usize = 2;
    KNOBS
        .iter()
        .map(|knob| (distance(name, &knob.variable()), knob))
        .filter(|(typos, _)| *typos <= TYPOS_MAX)
        .min_by_key(|(typos, _)| *typos)
        .map(|(_, knob)| knob)
}

/// The file that flags or environment name; a flag wins.
pub(super) fn config_file(
    matches: Option<&ArgMatches>,
    environment: &[(OsString, OsString)],
) -> Option<PathBuf> {
    let flag = matches.and_then(|matches| matches.get_one::<String>(CONFIG_FLAG));
    flag.map(PathBuf::from).or_else(|| {
        environment
            .iter()
            .find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty())
            .map(|(_, value)| PathBuf::from(value))
    })
}
