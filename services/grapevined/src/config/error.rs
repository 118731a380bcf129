//! What can be wrong with a configuration. Every error says where the value stands (a line of a file, a variable, a
//! flag), which knob it is for, what it says, and what would be right.

use std::fmt;
use std::path::PathBuf;

use grapevine_core::policy::PolicyError;
use thiserror::Error;

use super::cache_url::without_passwords;

/// Where a value came from, in rising precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// A line of the configuration file; line 0 means the file as a whole.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A command line flag.
    Flag {
        /// Its name without the dashes.
        name: String,
    },
    /// Several values that do not go together, each one possible by itself.
    Together,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment { name } => write!(f, "environment {name}"),
            Self::Flag { name } => write!(f, "flag --{name}"),
            Self::Together => f.write_str("together"),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{origin}: {}{problem}", key_part(key))]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// Which knob or policy field it is for; empty when it concerns a file as a whole.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

fn key_part(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!("{key}: ")
    }
}

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The file could not be read.
    #[error("cannot be read: {cause}")]
    Unreadable {
        /// What the system said.
        cause: String,
    },
    /// The file is larger than any configuration.
    #[error("has {bytes} bytes; the limit is {limit}")]
    FileTooLarge {
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The file is not TOML.
    #[error("not TOML: {message}")]
    Syntax {
        /// What the parser said.
        message: String,
    },
    /// There is no such knob.
    #[error("no such key{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The most similar one that there is.
        nearest: Option<String>,
    },
    /// The value has another TOML type than the knob takes.
    #[error("is of the TOML type {found}; expected {expected}")]
    WrongType {
        /// What the knob takes.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// The text is not a value of this kind.
    #[error("{value:?} {reason}")]
    Invalid {
        /// As written.
        value: String,
        /// What would be right.
        reason: String,
    },
    /// The value is not within its limits.
    #[error("{value} is outside {min} to {max}")]
    OutOfRange {
        /// As written.
        value: String,
        /// The smallest allowed.
        min: String,
        /// The largest allowed.
        max: String,
    },
    /// A field is there without another one that it needs, or the reverse.
    #[error("{reason}")]
    Conflict {
        /// Which, with their values.
        reason: String,
    },
    /// A policy breaks the core's limits.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Problem {
    pub(super) fn invalid(value: &str, reason: impl fmt::Display) -> Self {
        Self::Invalid {
            value: without_passwords(value).chars().take(120).collect(),
            reason: without_passwords(&reason.to_string()),
        }
    }

    pub(super) fn at(self, origin: Origin, key: impl Into<String>) -> ConfigError {
        ConfigError {
            origin,
            key: key.into(),
            problem: self,
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}

/// Everything that is wrong with a configuration: one line each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(
            f,
            "{count} wrong {}",
            if count == 1 { "value" } else { "values" }
        )?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}
