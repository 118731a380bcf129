//! From text to one statement, within bounds.
//!
//! The parser goes down by recursion, and stops at a depth of its own; but chains (`a or b or c`, `1 + 1 + 1`) become trees as deep as they
//! are long, and whoever walks or drops them needs the stack for that. So tokens are counted first, and long statements are worked on with
//! a stack that is large enough.

use std::collections::BTreeSet;

use grapevine_core::criteria::Dialect;
use sqlparser::ast::{Ident, Statement};
use sqlparser::dialect::{Dialect as Grammar, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Span, Token, Tokenizer, Whitespace};

use crate::from::folded;
use crate::{
    ExplainError, PARAMETERS_BYTES_MAX, PARAMETERS_MAX, Parameter, SQL_BYTES_MAX, SQL_TOKENS_MAX,
};

/// The text in tokens, checked against the limits, with placeholders numbered.
#[derive(Debug)]
pub(crate) struct Tokens {
    all: Vec<Token>,
    /// How many can make the parser go down by one step, or the tree deeper, at most; names are not among them, which do so only with what
    /// stands between them.
    pub(crate) steps: usize,
    dialect: Dialect,
}

/// The parser takes MySQL's BINARY for a cast first, and where what follows is none for a name, and reads that once more: twice as long for each.
const BINARY_MAX: usize = 8;

/// The parser copies all that stands before each of SQLite's REGEXP, MATCH and GLOB.
const PATTERNS_MAX: usize = 200;

/// Checks the lengths of what is given.
pub(crate) fn check_size(sql: &str, parameters: &[Parameter]) -> Result<(), ExplainError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(ExplainError::TooLong { bytes: sql.len() });
    }
    let given = parameters.len();
    if given > PARAMETERS_MAX {
        return Err(ExplainError::TooManyParameters { given });
    }
    let bytes = parameters.iter().map(Parameter::bytes).sum();
    if bytes > PARAMETERS_BYTES_MAX {
        return Err(ExplainError::ParametersTooLong { bytes });
    }
    Ok(())
}

fn grammar(dialect: Dialect) -> &'static dyn Grammar {
    match dialect {
        Dialect::Postgres => &PostgreSqlDialect {},
        Dialect::MySql => &MySqlDialect {},
        Dialect::Sqlite => &SQLiteDialect {},
    }
}

impl Tokens {
    pub(crate) fn of(sql: &str, dialect: Dialect) -> Result<Self, ExplainError> {
        let tokens = Tokenizer::new(grammar(dialect), sql)
            .tokenize()
            .map_err(|error| ExplainError::Unparsable {
                message: error.to_string(),
            })?;
        // MariaDB executes what stands in such a comment; the tokenizer reads what MySQL executes, `/*! ... */`, as part of the statement.
        let executed = |token: &Token| match token {
            Token::Whitespace(Whitespace::MultiLineComment(text)) => text.starts_with("M!"),
            _ => false,
        };
        if dialect == Dialect::MySql && tokens.iter().any(executed) {
            return Err(ExplainError::Unparsable {
                message: "a comment that MariaDB executes, /*M! ... */, is not understood".into(),
            });
        }
        let mut tokens: Vec<_> = tokens
            .into_iter()
            .filter(|token| !matches!(token, Token::Whitespace(_)))
            .collect();
        let deepening = tokens.iter().filter(|token| deepens(token)).count();
        if deepening > SQL_TOKENS_MAX {
            return Err(ExplainError::TooManyTokens { tokens: deepening });
        }
        check_repeated(&tokens, dialect)?;
        let mut next = 1;
        for token in &mut tokens {
            if *token == Token::Placeholder("?".into()) {
                *token = Token::Placeholder(format!("?{next}"));
                next += 1;
            }
        }
        Ok(Self {
            steps: tokens.iter().filter(|token| steps_down(token)).count(),
            all: tokens,
            dialect,
        })
    }

    /// Whether every placeholder has a value, and every value a placeholder.
    pub(crate) fn check(&self, parameters: &[Parameter]) -> Result<(), ExplainError> {
        let given = parameters.len();
        let by_place = parameters.iter().filter(|given| given.name.is_none());
        let names = (1..=by_place.count())
            .map(|number| number.to_string())
            .chain(parameters.iter().filter_map(|given| given.name.clone()));
        let mut unused = BTreeSet::new();
        for name in names {
            if !unused.insert(name.clone()) {
                return Err(ExplainError::ParameterTwice { parameter: name });
            }
        }
        let all = unused.clone();
        for placeholder in self.placeholders() {
            let name = placeholder.get(1..).unwrap_or_default();
            if !all.contains(name) {
                return Err(ExplainError::MissingParameter { placeholder, given });
            }
            unused.remove(name);
        }
        match unused.pop_first() {
            None => Ok(()),
            Some(parameter) => Err(ExplainError::UnusedParameter { parameter }),
        }
    }

    /// As they stand in the statement, but numbered. A colon and a name are two tokens.
    fn placeholders(&self) -> impl Iterator<Item = String> {
        let pairs = self.all.iter().zip(self.all.iter().skip(1));
        let named = pairs.filter_map(|pair| match pair {
            (Token::Colon, Token::Word(word)) => Some(format!(":{}", word.value)),
            (Token::AtSign, Token::Word(word)) if self.dialect == Dialect::Sqlite => {
                Some(format!("@{}", word.value))
            }
            _ => None,
        });
        let numbered = self.all.iter().filter_map(|token| match token {
            Token::Placeholder(name) => Some(name.clone()),
            _ => None,
        });
        numbered.chain(named)
    }

    /// The one statement.
    pub(crate) fn parse(&self) -> Result<Statement, ExplainError> {
        let mut parser = Parser::new(grammar(self.dialect)).with_tokens(self.all.clone());
        let unparsable = |message| ExplainError::Unparsable { message };
        // To MySQL they bind as OR does, or less; to the parser more than comparisons do.
        let mistaken = |token: &&Token| match token {
            Token::StringConcat => true,
            Token::Word(word) => word.keyword == Keyword::XOR,
            _ => false,
        };
        if self.dialect == Dialect::MySql
            && let Some(operator) = self.all.iter().find(mistaken)
        {
            let message = format!("{operator} is not understood in MySQL's dialect");
            return Err(unparsable(message));
        }
        let parsed = parser.parse_statements();
        let mut statements = parsed.map_err(|error| unparsable(error.to_string()))?;
        // It stops at END, which ends blocks of statements, whatever comes behind.
        let rest = parser.peek_token().token;
        if rest != Token::EOF {
            return Err(unparsable(format!("found {rest} after the statement")));
        }
        match (statements.pop(), statements.len()) {
            (Some(statement), 0) => Ok(statement),
            (last, others) => Err(ExplainError::NotOne {
                statements: others + usize::from(last.is_some()),
            }),
        }
    }

    /// How it begins, for messages.
    pub(crate) fn beginning(&self) -> String {
        const SHOWN: usize = 4;
        let words: Vec<_> = self
            .all
            .iter()
            .take(SHOWN)
            .map(ToString::to_string)
            .collect();
        words.join(" ")
    }

    /// Whether it says that it changes rows.
    pub(crate) fn writes(&self) -> bool {
        self.all.iter().any(|token| match token {
            Token::Word(word) => matches!(
                word.keyword,
                Keyword::INSERT
                    | Keyword::UPDATE
                    | Keyword::DELETE
                    | Keyword::REPLACE
                    | Keyword::MERGE
                    | Keyword::TRUNCATE
                    | Keyword::COPY
                    | Keyword::LOAD
                    | Keyword::ALTER
                    | Keyword::DROP
                    | Keyword::CALL
                    | Keyword::INTO
            ),
            _ => false,
        })
    }

    /// Whatever may be the name of a table in text that is not understood: every word but the commonest, for what is a keyword to one
    /// database is a name to another.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.all.iter().filter_map(|token| match token {
            Token::Word(word)
                if matches!(
                    word.keyword,
                    Keyword::SELECT | Keyword::FROM | Keyword::WHERE | Keyword::AND | Keyword::OR
                ) && word.quote_style.is_none() =>
            {
                None
            }
            Token::Word(word) => {
                let name = Ident {
                    value: word.value.clone(),
                    quote_style: word.quote_style,
                    span: Span::empty(),
                };
                Some(folded(&name, self.dialect))
            }
            _ => None,
        })
    }
}

/// Refuses what the parser would take too long for.
fn check_repeated(tokens: &[Token], dialect: Dialect) -> Result<(), ExplainError> {
    let patterns = [Keyword::REGEXP, Keyword::MATCH, Keyword::GLOB];
    let (keywords, limit): (&[Keyword], _) = match dialect {
        Dialect::Postgres => return Ok(()),
        Dialect::MySql => (&[Keyword::BINARY], BINARY_MAX),
        Dialect::Sqlite => (&patterns, PATTERNS_MAX),
    };
    let repeated = |token: &&Token| match token {
        Token::Word(word) => keywords.contains(&word.keyword),
        _ => false,
    };
    let count = tokens.iter().filter(repeated).count();
    if count <= limit {
        return Ok(());
    }
    let names: Vec<_> = keywords
        .iter()
        .map(|keyword| format!("{keyword:?}"))
        .collect();
    let names = names.join(", ");
    let message = format!("{names} stands in it {count} times; the limit is {limit}");
    Err(ExplainError::Unparsable { message })
}

/// Unlike those of [`deepens`], with the parentheses: the parser stops at a depth of its own, which takes more stack than some callers
/// have.
fn steps_down(token: &Token) -> bool {
    let opens = *token == Token::LParen;
    let is_name = matches!(token, Token::Word(word) if word.keyword == Keyword::NoKeyword);
    let closes = matches!(token, Token::RBracket | Token::RBrace | Token::Period);
    opens || deepens(token) && !is_name && !closes
}

fn deepens(token: &Token) -> bool {
    !matches!(
        token,
        Token::EOF
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Comma
            | Token::LParen
            | Token::RParen
            | Token::SemiColon
    )
}
