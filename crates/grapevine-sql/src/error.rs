//! Why a statement is not explained.

use grapevine_core::names::NameError;
use thiserror::Error;

use crate::{PARAMETERS_BYTES_MAX, PARAMETERS_MAX, SQL_BYTES_MAX, SQL_TOKENS_MAX};

/// Why a statement is not explained.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExplainError {
    /// Too many bytes.
    #[error("sql has {bytes} bytes; the limit is {SQL_BYTES_MAX}")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// Too many tokens.
    #[error(
        "sql has {tokens} tokens without literals, commas and parentheses; the limit is {SQL_TOKENS_MAX}"
    )]
    TooManyTokens {
        /// How many it has.
        tokens: usize,
    },
    /// It is not SQL of this dialect, as far as the parser knows it.
    #[error("sql is not understood: {message}")]
    Unparsable {
        /// What was expected, and where.
        message: String,
    },
    /// A long statement needs a thread with a stack of its own, and the system gave none.
    #[error("sql is long, and there is no thread to work on it: {reason}")]
    NoStack {
        /// The system's.
        reason: String,
    },
    /// None, or more than one.
    #[error("sql has {statements} statements; it must be one")]
    NotOne {
        /// How many there are.
        statements: usize,
    },
    /// A setting, a transaction, a procedure.
    #[error(
        "sql is a statement whose text does not tell rows that it reads or changes: {beginning}"
    )]
    NoRows {
        /// How it begins.
        beginning: String,
    },
    /// Too many parameters.
    #[error("parameters: {given} are given; the limit is {PARAMETERS_MAX}")]
    TooManyParameters {
        /// How many are given.
        given: usize,
    },
    /// Their names and texts are too long.
    #[error(
        "parameters: their names, texts and bytes are {bytes} bytes together; the limit is {PARAMETERS_BYTES_MAX}"
    )]
    ParametersTooLong {
        /// How many bytes.
        bytes: usize,
    },
    /// A placeholder without a value.
    #[error("parameters: the statement's {placeholder} has no value; {given} are given")]
    MissingParameter {
        /// As it stands in the statement, or `?` and its number.
        placeholder: String,
        /// How many are given.
        given: usize,
    },
    /// A value without a placeholder.
    #[error("parameters: {parameter} stands nowhere in the statement")]
    UnusedParameter {
        /// Its name, or its number, counted from 1.
        parameter: String,
    },
    /// Two values for one placeholder.
    #[error("parameters: {parameter} has two values")]
    ParameterTwice {
        /// Its name, or its number, counted from 1.
        parameter: String,
    },
    /// A table or a column has a name that is not accepted.
    #[error("sql: {0}")]
    Name(#[from] NameError),
}
