//! Random conditions, and which tables they narrow: what an explanation is documented to understand of them
//! (docs/decisions/0501).
//!
//! Understood are comparisons of a column with a literal: `=`, `IN`, `IS`, `IS NULL`, and, with numbers and times, `<`, `<=`, `>`, `>=`,
//! `BETWEEN` and `NOT BETWEEN`; and `AND` and `OR` of them. Not understood are `<>`, `NOT`, `IS NOT NULL`, `LIKE`, functions of columns,
//! `COLLATE`, comparisons of two columns of one row, the order of texts, and literals of bytes.

use rand::Rng as _;

use super::{ALL_COLUMNS, COLUMNS, Generator, TABLES};

/// A condition.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) sql: String,
    /// Which of the tables it is about have, in every row that meets it, a column of which something is told: a bit for each.
    pub(super) narrows: u8,
    /// The same where rows that an outer join does not find count for it: `IS NULL` tells nothing of these.
    pub(super) narrows_found: u8,
}

impl Condition {
    fn of(sql: String, narrows: u8) -> Self {
        Self {
            sql,
            narrows,
            narrows_found: narrows,
        }
    }
}

/// What a literal is as an end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Null,
    Number,
    Time,
    /// The order of texts is their collation's.
    None,
}

fn end(literal: &str) -> End {
    if literal == "NULL" {
        End::Null
    } else if literal.starts_with("'2026") {
        End::Time
    } else if literal.starts_with(['\'', 'x']) {
        End::None
    } else {
        End::Number
    }
}

fn is_bytes(literal: &str) -> bool {
    literal.starts_with("x'")
}

impl Generator {
    fn column(&mut self, of: &str) -> String {
        let name = self.one_of(&["id", "up", "k", "k", "t", "t", "r", "d", "D", "\"k\""]);
        qualified(of, name)
    }

    /// A comparison; those that are not understood make the read one that is not supported.
    fn told(&mut self, sql: String, understood: bool, table: usize) -> Condition {
        self.supported &= understood;
        Condition::of(sql, if understood { 1 << table } else { 0 })
    }

    /// A condition on the columns of these tables, or of the only one if it is not named.
    pub(super) fn condition(&mut self, of: &[&str], depth: u32) -> Condition {
        let at = self.random.random_range(0..of.len());
        let column = self.column(of[at]);
        match self
            .random
            .random_range(0..if depth == 0 { 12 } else { 18 })
        {
            0..=2 => self.equality(&column, at),
            3 => {
                self.saw("equality");
                let (key, id) = (self.one_of(&["id", "up"]), self.id());
                let key = qualified(of[at], key);
                self.told(format!("{key} = {id}"), true, at)
            }
            4 => {
                let not = self.chance(0.1);
                self.list(&column, at, not)
            }
            5 => self.between(&column, at),
            6 | 7 => self.comparison(&column, at),
            8 => {
                let not = self.chance(0.2);
                self.is_null(&column, at, not)
            }
            9 => self.is(&column, at),
            10 if self.chance(0.5) => self.not_understood(&column, of[at], at),
            10 | 11 => {
                let column = qualified(of[at], self.random_column());
                self.simple(&column, at)
            }
            12 | 13 => self.both(of, depth),
            14 | 15 => self.either(of, depth),
            16 => {
                self.saw("not");
                let one = self.condition(of, depth - 1);
                self.told(format!("NOT ({})", one.sql), false, at)
            }
            _ => self.inner_query(&column, of[at], depth - 1),
        }
    }

    fn random_column(&mut self) -> &'static str {
        self.one_of(&COLUMNS)
    }

    fn equality(&mut self, column: &str, at: usize) -> Condition {
        self.saw("equality");
        let value = self.literal();
        let sql = if self.chance(0.2) {
            format!("{value} = {column}")
        } else {
            format!("{column} = {value}")
        };
        self.told(sql, !is_bytes(value), at)
    }

    fn list(&mut self, column: &str, at: usize, not: bool) -> Condition {
        self.saw("in");
        let count = self.random.random_range(1..4);
        let values: Vec<_> = (0..count).map(|_| self.literal()).collect();
        let understood = !not && !values.iter().any(|value| is_bytes(value));
        let not = if not { "NOT " } else { "" };
        let sql = format!("{column} {not}IN ({})", values.join(", "));
        self.told(sql, understood, at)
    }

    fn between(&mut self, column: &str, at: usize) -> Condition {
        self.saw("between");
        let (low, high) = (self.literal(), self.literal());
        let not = self.chance(0.2);
        let understood = match (end(low), end(high)) {
            _ if is_bytes(low) || is_bytes(high) => false,
            (End::Null, _) | (_, End::Null) if !not => true,
            (End::None, _) | (_, End::None) => false,
            (low, high) => not || low == high,
        };
        let not = if not { "NOT " } else { "" };
        let sql = format!("{column} {not}BETWEEN {low} AND {high}");
        self.told(sql, understood, at)
    }

    fn comparison(&mut self, column: &str, at: usize) -> Condition {
        self.saw("comparison");
        let op = self.one_of(&["<", "<=", ">", ">=", "<>"]);
        let value = self.literal();
        let understood = match op {
            "<>" => value == "NULL",
            _ => end(value) != End::None,
        };
        self.told(format!("{column} {op} {value}"), understood, at)
    }

    pub(super) fn is_null(&mut self, column: &str, at: usize, not: bool) -> Condition {
        self.saw("is null");
        let not_ = if not { "NOT " } else { "" };
        let told = self.told(format!("{column} IS {not_}NULL"), !not, at);
        Condition {
            narrows_found: 0,
            ..told
        }
    }

    fn is(&mut self, column: &str, at: usize) -> Condition {
        self.saw("is");
        let value = self.literal();
        // IS TRUE asks for truth, not for a value.
        let understood = !is_bytes(value) && value != "TRUE";
        let told = self.told(format!("{column} IS {value}"), understood, at);
        Condition {
            narrows_found: if value == "NULL" { 0 } else { told.narrows },
            ..told
        }
    }

    fn not_understood(&mut self, column: &str, of: &str, at: usize) -> Condition {
        let other = self.column(of);
        let value = self.literal();
        let sql = match self.random.random_range(0..5) {
            0 => format!("{column} = {other}"),
            1 => format!("{column} < {other}"),
            2 => format!("abs({column}) = {value}"),
            3 => format!("{column} LIKE 'x%'"),
            _ => format!("{column} = {value} COLLATE NOCASE"),
        };
        self.told(sql, false, at)
    }

    fn both(&mut self, of: &[&str], depth: u32) -> Condition {
        self.saw("and");
        let one = self.condition(of, depth - 1);
        let other = self.condition(of, depth - 1);
        Condition {
            sql: format!("({} AND {})", one.sql, other.sql),
            narrows: one.narrows | other.narrows,
            narrows_found: one.narrows_found | other.narrows_found,
        }
    }

    pub(super) fn either(&mut self, of: &[&str], depth: u32) -> Condition {
        self.saw("or");
        let one = self.condition(of, depth - 1);
        let other = self.condition(of, depth - 1);
        Condition {
            sql: format!("({} OR {})", one.sql, other.sql),
            narrows: one.narrows & other.narrows,
            narrows_found: one.narrows_found & other.narrows_found,
        }
    }

    /// A condition by a query inside, perhaps about the row outside. It tells nothing of the table outside.
    pub(super) fn inner_query(&mut self, column: &str, outside: &str, depth: u32) -> Condition {
        let table = self.one_of(&TABLES);
        let narrowing = if self.chance(0.5) {
            self.narrowing("q", 0)
        } else {
            self.condition(&["q"], depth)
        };
        self.supported &= narrowing.narrows == 1;
        let mut inner = narrowing.sql;
        if !outside.is_empty() && self.chance(0.5) {
            inner = format!("{inner} AND q.up = {outside}.id");
        }
        let not = if self.chance(0.3) { "NOT " } else { "" };
        let sql = match self.random.random_range(0..3) {
            0 => {
                self.saw("in query");
                format!("{column} {not}IN (SELECT q.up FROM {table} AS q WHERE {inner})")
            }
            1 => {
                self.saw("exists");
                format!("{not}EXISTS (SELECT 1 FROM {table} q WHERE {inner})")
            }
            _ => {
                self.saw("scalar query");
                format!("{column} = (SELECT max(q.k) FROM {table} q WHERE {inner})")
            }
        };
        Condition::of(sql, 0)
    }

    /// One or two comparisons that are understood, of the table at this place.
    pub(super) fn narrowing(&mut self, of: &str, at: usize) -> Condition {
        let column = qualified(of, self.random_column());
        let one = self.simple(&column, at);
        if self.chance(0.6) {
            return one;
        }
        let column = qualified(of, self.random_column());
        let other = self.simple(&column, at);
        Condition::of(format!("{} AND {}", one.sql, other.sql), one.narrows)
    }

    /// An equality of a column that is understood.
    pub(super) fn equal(&mut self, of: &str, at: usize) -> Condition {
        self.saw("equality");
        let column = qualified(of, self.random_column());
        let value = self.plain_literal();
        self.told(format!("{column} = {value}"), true, at)
    }

    /// A list that is understood.
    pub(super) fn short_list(&mut self, of: &str, at: usize) -> Condition {
        self.saw("in");
        let column = qualified(of, self.random_column());
        let count = self.random.random_range(1..4);
        let values: Vec<_> = (0..count).map(|_| self.plain_literal()).collect();
        let sql = format!("{column} IN ({})", values.join(", "));
        self.told(sql, true, at)
    }

    /// A range that is understood.
    pub(super) fn range(&mut self, of: &str, at: usize) -> Condition {
        let column = qualified(of, self.random_column());
        let (low, op) = (
            self.random.random_range(-1..3),
            self.one_of(&["<", "<=", ">", ">="]),
        );
        let sql = match self.random.random_range(0..4) {
            0 | 1 => format!("{column} BETWEEN {low} AND {}", low + 1),
            2 => format!("{column} BETWEEN '2026-01-05' AND '2026-01-07'"),
            _ => {
                self.saw("comparison");
                return self.told(format!("{column} {op} {low}"), true, at);
            }
        };
        self.saw("between");
        self.told(sql, true, at)
    }

    /// What rows of a list have in common: values of one or two columns.
    pub(crate) fn criterion(&mut self) -> String {
        let one = |generator: &mut Self| {
            let column = generator.one_of(&ALL_COLUMNS[1..]);
            match generator.plain_literal() {
                _ if column == "up" => format!("up = {}", generator.id()),
                "NULL" => format!("{column} IS NULL"),
                value => format!("{column} = {value}"),
            }
        };
        let first = one(self);
        if self.chance(0.8) {
            first
        } else {
            format!("{first} AND {}", one(self))
        }
    }

    fn simple(&mut self, column: &str, at: usize) -> Condition {
        if self.chance(0.65) {
            self.saw("equality");
            let value = self.plain_literal();
            return self.told(format!("{column} = {value}"), true, at);
        }
        let (of, _) = column.rsplit_once('.').unwrap_or_default();
        self.range(of, at)
    }

    /// A literal that is understood wherever one may be.
    pub(super) fn plain_literal(&mut self) -> &'static str {
        let literal = self.literal();
        if is_bytes(literal) { "1" } else { literal }
    }
}

pub(super) fn qualified(of: &str, name: &str) -> String {
    if of.is_empty() {
        name.to_owned()
    } else {
        format!("{of}.{name}")
    }
}
