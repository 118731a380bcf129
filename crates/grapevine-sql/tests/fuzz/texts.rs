//! Random text, and statements that something happened to.

use grapevine_sql::{Parameter, SQL_BYTES_MAX, Scalar};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use sqlparser::keywords::ALL_KEYWORDS;

use crate::corpus::STATEMENTS;

/// Signs, and words that are no keywords.
const SIGNS: [&str; 58] = [
    "(", ")", ",", ".", "*", "=", "<", ">", "<>", "!=", "<=", ">=", "<=>", "==", "||", "&&", "|",
    "&", "^", "~", "!", "#", "@", "@@", "$", "?", ":", "::", ":=", ";", "+", "-", "/", "%", "->",
    "->>", "#>", "@>", "<@", "[", "]", "{", "}", "'", "\"", "`", "\\", "--", "/*", "*/", "/*!",
    "$1", "?1", ":n", "@v", "a", "b", "1",
];
/// Characters that are something else to somebody.
const STRANGE: [char; 16] = [
    '\0',
    '\u{1}',
    '\u{7f}',
    '\u{a0}',
    'ß',
    'İ',
    'ſ',
    '\u{301}',
    '\u{200d}',
    '\u{202e}',
    '\u{2028}',
    '\u{feff}',
    '\u{fffd}',
    '🦀',
    '𝒳',
    '\u{10ffff}',
];
/// What is nested in what, before and behind.
const AROUND: [(&str, &str); 14] = [
    ("(", ")"),
    ("NOT ", ""),
    ("- ", ""),
    ("NOT (", ")"),
    ("(SELECT ", ")"),
    ("SELECT * FROM (", ") x"),
    ("EXISTS (SELECT 1 FROM a WHERE ", ")"),
    ("CASE WHEN ", " THEN 1 END"),
    ("CAST(", " AS int)"),
    ("f(", ")"),
    ("ARRAY[", "]"),
    ("a = 1 AND (b = 2 OR ", ")"),
    ("INTERVAL ", ""),
    ("(a JOIN ", " ON a.k = 1)"),
];
/// The most copies of what is repeated.
const COPIES_MAX: u32 = 4_000;
/// Pieces do not become longer than this.
const TEXT_BYTES_MAX: usize = SQL_BYTES_MAX + 1_000;

pub(crate) struct Texts {
    random: StdRng,
}

impl Texts {
    pub(crate) fn new(random: StdRng) -> Self {
        Self { random }
    }

    /// A text and parameters.
    pub(crate) fn statement(&mut self) -> (String, Vec<Parameter>) {
        let mut sql = match self.random.random_range(0..10) {
            0 => self.arbitrary(),
            1 => self.soup(),
            _ => self.mutated(),
        };
        if self.random.random_range(0..3) == 0 {
            sql = self.cut(&sql);
        }
        let parameters = self.parameters(&sql);
        (sql, parameters)
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end.max(1))
    }

    /// So many copies of a piece, as long as they are not much longer than a statement may be.
    fn copies(&mut self, piece: &str) -> String {
        let copies = self
            .many(COPIES_MAX)
            .min(TEXT_BYTES_MAX / piece.len().max(1));
        piece.repeat(copies)
    }

    /// Few as a rule, at times many.
    fn many(&mut self, most: u32) -> usize {
        let magnitude = self.random.random_range(0..=most.ilog2());
        let most = most.min(2 << magnitude);
        self.random.random_range(0..most) as usize
    }

    fn arbitrary(&mut self) -> String {
        let length = self.many(2_000);
        let mut any = |_| match self.random.random_range(0..4) {
            0 => self.random.random_range(' '..='~'),
            1 => *STRANGE.choose(&mut self.random).unwrap(),
            2 => *b"'\"`$/*-;()[]{}?:@\\".choose(&mut self.random).unwrap() as char,
            _ => self.random.random(),
        };
        (0..length).map(&mut any).collect()
    }

    fn word(&mut self) -> String {
        let word = if self.random.random_bool(0.5) {
            ALL_KEYWORDS.choose(&mut self.random)
        } else {
            SIGNS.choose(&mut self.random)
        };
        (*word.unwrap()).to_owned()
    }

    fn soup(&mut self) -> String {
        let words: Vec<_> = (0..self.many(300)).map(|_| self.word()).collect();
        words.join(" ")
    }

    fn some_statement(&mut self) -> Vec<String> {
        words(STATEMENTS.choose(&mut self.random).unwrap())
    }

    fn mutated(&mut self) -> String {
        let mut words = self.some_statement();
        for _ in 0..self.many(8) {
            self.mutate(&mut words);
            let bytes: usize = words.iter().map(String::len).sum();
            if bytes > SQL_BYTES_MAX {
                break;
            }
        }
        words.concat()
    }

    /// A piece of it.
    fn span(&mut self, words: &[String]) -> (usize, usize) {
        let from = self.below(words.len());
        let length = 1 + self.many(8);
        (from, (from + length).min(words.len()))
    }

    fn mutate(&mut self, words: &mut Vec<String>) {
        let (from, to) = self.span(words);
        match self.random.random_range(0..14) {
            0 => words[from..to].shuffle(&mut self.random),
            1 => drop(words.drain(from..to)),
            2 => {
                let copy = words[from..to].to_vec();
                let at = self.below(words.len());
                words.splice(at..at, copy);
            }
            3 | 4 => {
                let word = self.word();
                words.splice(from..from, [" ".into(), word, " ".into()]);
            }
            5 if from < to => words[from] = self.word(),
            6 => {
                let other = self.some_statement();
                let (first, last) = self.span(&other);
                words.splice(from..to, other[first..last].iter().cloned());
            }
            7 => {
                let piece = words[from..to].concat() + " ";
                words.insert(to, self.copies(&piece));
            }
            8 => {
                let word = self.word() + " ";
                words.insert(from, self.copies(&word));
            }
            9 | 10 => {
                let (before, behind) = *AROUND.choose(&mut self.random).unwrap();
                let depth = self.many(COPIES_MAX);
                words.insert(to, behind.repeat(depth));
                words.insert(from, before.repeat(depth));
            }
            11 => {
                let length = self.many(80_000);
                let literal = match self.random.random_range(0..4) {
                    0 => format!("'{}'", "x".repeat(length)),
                    1 => "9".repeat(length),
                    2 => format!("\"{}\"", "n".repeat(length)),
                    _ => format!("'{}'", "''\u{301}".repeat(length / 4)),
                };
                words.insert(from, literal);
            }
            12 => {
                let strange = *STRANGE.choose(&mut self.random).unwrap();
                words.insert(from, strange.to_string());
            }
            _ => {
                let list: Vec<_> = (0..self.many(500)).map(|each| each.to_string()).collect();
                words.insert(to, format!(" AND k IN ({}) ", list.join(", ")));
            }
        }
    }

    /// Cut off at any byte, or with one that is another.
    fn cut(&mut self, sql: &str) -> String {
        let mut bytes = sql.as_bytes().to_vec();
        let at = self.below(bytes.len());
        if self.random.random_bool(0.7) {
            bytes.truncate(at);
        } else if let Some(byte) = bytes.get_mut(at) {
            *byte = self.random.random();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn parameters(&mut self, sql: &str) -> Vec<Parameter> {
        // As many as there may be placeholders, or some.
        let wanted = sql.bytes().filter(|byte| b"?$".contains(byte)).count();
        let count = match self.random.random_range(0..4) {
            0 => self.many(2_200),
            _ => wanted.min(2_200),
        };
        let mut parameters: Vec<_> = (0..count).map(|_| self.parameter(None)).collect();
        for name in ["name", "other", "n", "v"] {
            if sql.contains(name) && self.random.random_bool(0.5) {
                parameters.push(self.parameter(Some(name.to_owned())));
            }
        }
        parameters
    }

    fn parameter(&mut self, name: Option<String>) -> Parameter {
        let value = match self.random.random_range(0..9) {
            0 => Scalar::Null,
            1 => Scalar::Bool(self.random.random()),
            2 => Scalar::Int(self.random.random()),
            3 => Scalar::Int(self.random.random_range(-2..3)),
            4 => Scalar::Uint(self.random.random()),
            5 => Scalar::Float(f64::from_bits(self.random.random())),
            6 => Scalar::Text(self.arbitrary()),
            7 => Scalar::Bytes(
                (0..self.many(2_000))
                    .map(|_| self.random.random())
                    .collect(),
            ),
            _ => Scalar::Text("2026-01-05 10:00".to_owned()),
        };
        Parameter { name, value }
    }
}

/// Words, numbers, spaces and signs, each as it stands there.
fn words(sql: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut joins = false;
    for c in sql.chars() {
        match words.last_mut() {
            Some(last) if joins && is_of_word(c) => last.push(c),
            _ => words.push(c.to_string()),
        }
        joins = is_of_word(c);
    }
    words
}
