//! Random SQL of the supported forms.

mod conditions;
mod reads;
mod writes;

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

pub(crate) use self::reads::{Read, SHAPES};

/// What must come.
pub(crate) const FORMS: &[&str] = &[
    "equality",
    "in",
    "and",
    "or",
    "not",
    "between",
    "comparison",
    "is null",
    "is",
    "inner join",
    "left join",
    "right join",
    "full join",
    "anti join",
    "using",
    "cross join",
    "self join",
    "in query",
    "exists",
    "scalar query",
    "query in from",
    "with",
    "union",
    "except",
    "aggregate",
    "group by",
    "order by",
    "limit",
    "offset",
    "distinct",
    "insert",
    "insert rows",
    "insert query",
    "update",
    "update expression",
    "update of a condition",
    "delete",
    "replace",
    "upsert",
];

pub(crate) const TABLES: [&str; 3] = ["a", "b", "c"];
const COLUMNS: [&str; 4] = ["k", "t", "r", "d"];
/// Of each table; the first is its key.
pub(crate) const ALL_COLUMNS: [&str; 6] = ["id", "up", "k", "t", "r", "d"];
const TYPES: [&str; 9] = [
    "INTEGER",
    "TEXT",
    "TEXT COLLATE NOCASE",
    "REAL",
    "NUMERIC",
    "",
    "TEXT COLLATE RTRIM",
    "BLOB",
    "DATE",
];
const LITERALS: [&str; 22] = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1.5",
    "2.0",
    "'x'",
    "'X'",
    "'y'",
    "'x '",
    "''",
    "'1'",
    "'02'",
    "NULL",
    "TRUE",
    "'2026-01-05'",
    "'2026-01-06 10:00'",
    "'2026-03-01'",
    "x'78'",
    "100",
    "'100'",
];

pub(crate) struct Generator {
    pub(crate) random: StdRng,
    pub(crate) forms: BTreeMap<&'static str, u64>,
    /// Whether the read that is being made is supported so far.
    supported: bool,
}

impl Generator {
    pub(crate) fn new(random: StdRng) -> Self {
        Self {
            random,
            forms: BTreeMap::new(),
            supported: true,
        }
    }

    fn saw(&mut self, form: &'static str) {
        *self.forms.entry(form).or_default() += 1;
    }

    pub(crate) fn one_of<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of.choose(&mut self.random).unwrap()
    }

    pub(crate) fn chance(&mut self, of: f64) -> bool {
        self.random.random_bool(of)
    }

    fn literal(&mut self) -> &'static str {
        self.one_of(&LITERALS)
    }

    fn id(&mut self) -> u32 {
        self.random.random_range(1..8)
    }

    pub(crate) fn schema(&mut self) -> Vec<String> {
        let of = |generator: &mut Self, table: &str| {
            let columns = COLUMNS.map(|column| format!("{column} {}", generator.one_of(&TYPES)));
            let unique = if generator.chance(0.3) {
                ", UNIQUE (k)"
            } else {
                ""
            };
            format!(
                "CREATE TABLE {table} (id INTEGER PRIMARY KEY, up INTEGER, {}{unique})",
                columns.join(", ")
            )
        };
        TABLES.map(|table| of(self, table)).to_vec()
    }

    /// An INSERT of one row.
    pub(crate) fn row(&mut self) -> String {
        let table = self.one_of(&TABLES);
        let values = COLUMNS.map(|_| self.literal());
        let (id, up) = (self.id(), self.id());
        format!(
            "INSERT INTO {table} (id, up, {}) VALUES ({id}, {up}, {})",
            COLUMNS.join(", "),
            values.join(", ")
        )
    }
}
