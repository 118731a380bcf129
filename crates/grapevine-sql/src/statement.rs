//! One statement, from its text to its explanation.

use std::collections::BTreeSet;

use grapevine_core::criteria::Table;
use sqlparser::ast::Statement;

use crate::explanation::{Explanation, Widened};
use crate::literal::Literals;
use crate::parse::{Tokens, check_size};
use crate::reads::Reads;
use crate::writes::Writes;
use crate::{ExplainError, Options, Parameter, Unsure, index};

/// Statements that may go down by more steps than that are worked on with a stack of their own. A step takes some 50 kB without
/// optimisation, and a caller's stack may be one of 2 MiB.
const SHALLOW_STEPS: usize = 24;
/// Of such a stack; only what is used of it takes memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;

pub(crate) fn explain(
    sql: &str,
    parameters: &[Parameter],
    options: Options,
) -> Result<Explanation, ExplainError> {
    check_size(sql, parameters)?;
    let tokens = Tokens::of(sql, options.dialect)?;
    tokens.check(parameters)?;
    let literals = Literals {
        dialect: options.dialect,
        parameters,
    };
    if tokens.steps <= SHALLOW_STEPS {
        return parsed(&tokens, literals, options);
    }
    std::thread::scope(|scope| {
        let work = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || parsed(&tokens, literals, options));
        match work.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(explained)) => explained,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(ExplainError::NoStack {
                reason: error.to_string(),
            }),
        }
    })
}

fn parsed(
    tokens: &Tokens,
    literals: Literals<'_>,
    options: Options,
) -> Result<Explanation, ExplainError> {
    match tokens.parse() {
        Ok(statement) => of_statement(&statement, tokens, literals, options),
        Err(ExplainError::Unparsable { message }) if options.unparsable == Unsure::Table => {
            of_names(tokens, literals, &message)
        }
        Err(error) => Err(error),
    }
}

fn of_statement(
    statement: &Statement,
    tokens: &Tokens,
    literals: Literals<'_>,
    options: Options,
) -> Result<Explanation, ExplainError> {
    let reads = Reads::of(statement, literals)?;
    if reads.writes > 0 {
        let writes = Writes::of(statement, literals)?;
        if !writes.understood {
            return Err(ExplainError::NoRows {
                beginning: tokens.beginning(),
            });
        }
        return Ok(Explanation::of_writes(writes));
    }
    let mut explanation = Explanation::of_reads(reads, options.volatile);
    if let Statement::Query(query) = statement {
        index::describe(query, literals, &mut explanation)?;
    }
    Ok(explanation)
}

/// Of text that is not understood: all that may be a table.
fn of_names(
    tokens: &Tokens,
    literals: Literals<'_>,
    message: &str,
) -> Result<Explanation, ExplainError> {
    let names = tokens.names().map(|name| Table::parse(&name));
    let tables = names.collect::<Result<BTreeSet<_>, _>>()?;
    let widened = vec![Widened {
        table: None,
        reason: format!("it is not understood: {message}"),
    }];
    if tokens.writes() {
        return Ok(Explanation::of_writes(Writes::of_whole_tables(
            literals, tables, widened,
        )));
    }
    Ok(Explanation::of_whole_tables(tables, widened))
}
