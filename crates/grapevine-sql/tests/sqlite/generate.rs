//! Random SQL of the supported forms.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

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
    random: StdRng,
    pub(crate) forms: BTreeMap<&'static str, u64>,
}

impl Generator {
    pub(crate) fn new(random: StdRng) -> Self {
        Self {
            random,
            forms: BTreeMap::new(),
        }
    }

    fn saw(&mut self, form: &'static str) {
        *self.forms.entry(form).or_default() += 1;
    }

    fn one_of<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of.choose(&mut self.random).unwrap()
    }

    fn chance(&mut self, of: f64) -> bool {
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

    fn column(&mut self, of: &str) -> String {
        let name = self.one_of(&["id", "up", "k", "k", "t", "t", "r", "d", "D", "\"k\""]);
        if of.is_empty() {
            name.to_owned()
        } else {
            format!("{of}.{name}")
        }
    }

    /// A condition on the columns of these tables, or of the only one if it is not named.
    fn condition(&mut self, of: &[&str], depth: u32) -> String {
        let table = self.one_of(of);
        let column = self.column(table);
        let kind = self
            .random
            .random_range(0..if depth == 0 { 11 } else { 17 });
        match kind {
            0..=2 => {
                self.saw("equality");
                let value = self.literal();
                if self.chance(0.2) {
                    format!("{value} = {column}")
                } else {
                    format!("{column} = {value}")
                }
            }
            3 => {
                self.saw("equality");
                let key = self.one_of(&["id", "up"]);
                let id = self.id();
                let key = if table.is_empty() {
                    key.to_owned()
                } else {
                    format!("{table}.{key}")
                };
                format!("{key} = {id}")
            }
            4 => {
                self.saw("in");
                let not = if self.chance(0.2) { "NOT " } else { "" };
                let values: Vec<_> = (0..self.random.random_range(1..4))
                    .map(|_| self.literal())
                    .collect();
                format!("{column} {not}IN ({})", values.join(", "))
            }
            5 => {
                self.saw("between");
                let (low, high) = (self.literal(), self.literal());
                let not = if self.chance(0.2) { "NOT " } else { "" };
                format!("{column} {not}BETWEEN {low} AND {high}")
            }
            6 | 7 => {
                self.saw("comparison");
                let op = self.one_of(&["<", "<=", ">", ">=", "<>"]);
                let value = self.literal();
                format!("{column} {op} {value}")
            }
            8 => {
                self.saw("is null");
                let not = if self.chance(0.3) { "NOT " } else { "" };
                format!("{column} IS {not}NULL")
            }
            9 => {
                self.saw("is");
                let value = self.literal();
                format!("{column} IS {value}")
            }
            10 => {
                let other = self.column(table);
                let value = self.literal();
                match self.random.random_range(0..4) {
                    0 => format!("{column} = {other}"),
                    1 => format!("abs({column}) = {value}"),
                    2 => format!("{column} LIKE 'x%'"),
                    _ => format!("{column} = {value} COLLATE NOCASE"),
                }
            }
            11 | 12 => {
                self.saw("and");
                let (one, other) = (self.condition(of, depth - 1), self.condition(of, depth - 1));
                format!("({one} AND {other})")
            }
            13 => {
                self.saw("or");
                let (one, other) = (self.condition(of, depth - 1), self.condition(of, depth - 1));
                format!("({one} OR {other})")
            }
            14 => {
                self.saw("not");
                let one = self.condition(of, depth - 1);
                format!("NOT ({one})")
            }
            _ => self.inner_query(&column, table, depth - 1),
        }
    }

    /// A condition by a query inside, perhaps about the row outside.
    fn inner_query(&mut self, column: &str, outside: &str, depth: u32) -> String {
        let table = self.one_of(&TABLES);
        let mut inner = self.condition(&["q"], depth);
        if !outside.is_empty() && self.chance(0.5) {
            inner = format!("{inner} AND q.up = {outside}.id");
        }
        match self.random.random_range(0..3) {
            0 => {
                self.saw("in query");
                let not = if self.chance(0.3) { "NOT " } else { "" };
                format!("{column} {not}IN (SELECT q.up FROM {table} AS q WHERE {inner})")
            }
            1 => {
                self.saw("exists");
                let not = if self.chance(0.3) { "NOT " } else { "" };
                format!("{not}EXISTS (SELECT 1 FROM {table} q WHERE {inner})")
            }
            _ => {
                self.saw("scalar query");
                format!("{column} = (SELECT max(q.k) FROM {table} q WHERE {inner})")
            }
        }
    }

    /// One or two comparisons that are understood.
    fn simple_condition(&mut self) -> String {
        let column = self.one_of(&COLUMNS);
        let one = self.simple(column);
        if self.chance(0.6) {
            return one;
        }
        let column = self.one_of(&COLUMNS);
        let other = self.simple(column);
        format!("{one} AND {other}")
    }

    fn simple(&mut self, column: &str) -> String {
        let value = self.literal();
        match self.random.random_range(0..8) {
            0..=4 => {
                self.saw("equality");
                format!("{column} = {value}")
            }
            5 => {
                self.saw("between");
                let low: i32 = self.random.random_range(-1..3);
                format!("{column} BETWEEN {low} AND {}", low + 1)
            }
            6 => {
                self.saw("between");
                format!("{column} BETWEEN '2026-01-05' AND '2026-01-07'")
            }
            _ => {
                self.saw("comparison");
                let op = self.one_of(&["<", ">="]);
                format!("{column} {op} {value}")
            }
        }
    }

    /// Rows for which there is none: their absence shows.
    fn anti_join(&mut self) -> String {
        self.saw("anti join");
        let (left, right) = (self.one_of(&TABLES), self.one_of(&TABLES));
        let (column, one) = (self.one_of(&COLUMNS), self.id());
        format!(
            "SELECT x.id FROM {left} x LEFT JOIN {right} y ON y.up = x.id WHERE x.id = {one} AND y.{column} IS NULL"
        )
    }

    pub(crate) fn read(&mut self) -> String {
        match self.random.random_range(0..22) {
            12..=18 => {
                let (table, condition) = (self.one_of(&TABLES), self.simple_condition());
                format!("SELECT * FROM {table} WHERE {condition}")
            }
            19..=21 => self.anti_join(),
            0..=3 => self.plain(),
            4..=7 => self.joined(),
            8 => {
                self.saw("query in from");
                let inner = self.plain();
                let outer = self.condition(&["f"], 1);
                format!(
                    "SELECT * FROM (SELECT id, up, k, t, r, d FROM ({inner})) AS f WHERE {outer}"
                )
            }
            9 => {
                self.saw("with");
                let (inner, table) = (self.condition(&[""], 1), self.one_of(&TABLES));
                let name = self.one_of(&["w", "a", "b"]);
                if name == table {
                    return self.plain();
                }
                let outer = self.condition(&["w2"], 1);
                let other = self.one_of(&TABLES);
                format!(
                    "WITH {name} AS (SELECT * FROM {table} WHERE {inner}) SELECT * FROM {name} AS w2 JOIN {other} o ON o.id = w2.up WHERE {outer}"
                )
            }
            10 => {
                let (one, other) = (self.arm(), self.arm());
                if self.chance(0.5) {
                    self.saw("union");
                    format!("{one} UNION {other}")
                } else {
                    self.saw("except");
                    format!("{one} EXCEPT {other}")
                }
            }
            _ => self.aggregate(),
        }
    }

    fn arm(&mut self) -> String {
        let (table, condition) = (self.one_of(&TABLES), self.condition(&[""], 1));
        format!("SELECT k, t FROM {table} WHERE {condition}")
    }

    /// One table.
    fn plain(&mut self) -> String {
        let table = self.one_of(&TABLES);
        let condition = self.condition(&[""], 2);
        let distinct = if self.chance(0.1) {
            self.saw("distinct");
            "DISTINCT "
        } else {
            ""
        };
        let mut sql = format!("SELECT {distinct}* FROM {table} WHERE {condition}");
        if self.chance(0.5) {
            self.saw("order by");
            let column = self.column("");
            sql.extend([" ORDER BY ", &column, " DESC, id"]);
            if self.chance(0.6) {
                self.saw("limit");
                sql += " LIMIT 2";
                if self.chance(0.5) {
                    self.saw("offset");
                    sql += " OFFSET 1";
                }
            }
        }
        sql
    }

    fn joined(&mut self) -> String {
        let (left, mut right) = (self.one_of(&TABLES), self.one_of(&TABLES));
        if self.chance(0.15) {
            right = left;
            self.saw("self join");
        }
        let columns = "x.id, x.k, x.t, y.id, y.k, y.t";
        let keys = self.one_of(&["x.id = y.up", "y.id = x.up", "x.up = y.up", "x.k = y.k"]);
        let where_ = self.condition(&["x", "y"], 2);
        let kind = self.random.random_range(0..6);
        let (form, join): (_, &str) = match kind {
            0 | 1 => ("inner join", "JOIN"),
            2 => ("left join", "LEFT JOIN"),
            3 => ("right join", "RIGHT OUTER JOIN"),
            4 => ("full join", "FULL JOIN"),
            _ => ("cross join", ","),
        };
        self.saw(form);
        if form == "cross join" {
            return format!(
                "SELECT {columns} FROM {left} x, {right} y WHERE {keys} AND {where_} ORDER BY 1, 4"
            );
        }
        if self.chance(0.2) {
            self.saw("using");
            return format!(
                "SELECT {columns} FROM {left} x {join} {right} y USING (up) WHERE {where_} ORDER BY 1, 4"
            );
        }
        let on = if self.chance(0.5) {
            let more = self.condition(&["x", "y"], 1);
            format!("{keys} AND {more}")
        } else {
            keys.to_owned()
        };
        let where_ = if self.chance(0.5) {
            format!(" WHERE {where_}")
        } else {
            String::new()
        };
        if self.chance(0.3) {
            let third = self.one_of(&TABLES);
            let more = self.condition(&["z"], 1);
            let join_again = self.one_of(&["JOIN", "LEFT JOIN"]);
            return format!(
                "SELECT {columns}, z.id FROM {left} x {join} {right} y ON {on} {join_again} {third} z ON z.up = y.id AND {more}{where_} ORDER BY 1, 4, 7"
            );
        }
        format!("SELECT {columns} FROM {left} x {join} {right} y ON {on}{where_} ORDER BY 1, 4")
    }

    fn aggregate(&mut self) -> String {
        self.saw("aggregate");
        let (table, condition) = (self.one_of(&TABLES), self.condition(&[""], 2));
        if self.chance(0.5) {
            self.saw("group by");
            return format!(
                "SELECT k, count(*), max(r) FROM {table} WHERE {condition} GROUP BY k HAVING count(*) > 0 ORDER BY k"
            );
        }
        format!("SELECT count(*), sum(k), min(t) FROM {table} WHERE {condition}")
    }

    pub(crate) fn write(&mut self) -> String {
        let table = self.one_of(&TABLES);
        let column = self.one_of(&COLUMNS);
        match self.random.random_range(0..20) {
            12..=14 => {
                self.saw("insert");
                let (id, up) = (self.id() + 10, self.id());
                let values = COLUMNS.map(|_| self.literal());
                format!(
                    "INSERT INTO {table} (id, up, {}) VALUES ({id}, {up}, {})",
                    COLUMNS.join(", "),
                    values.join(", ")
                )
            }
            7 | 15..=19 => {
                self.saw("update of a condition");
                let (value, was) = (self.literal(), self.literal());
                format!("UPDATE {table} SET {column} = {value} WHERE {column} = {was}")
            }
            0 => {
                self.saw("insert");
                let (id, value) = (self.id() + 20, self.literal());
                format!("INSERT INTO {table} (id, {column}) VALUES ({id}, {value})")
            }
            1 => {
                self.saw("insert rows");
                let (up, one, other) = (self.id(), self.literal(), self.literal());
                format!("INSERT INTO {table} (up, {column}) VALUES ({up}, {one}), ({up}, {other})")
            }
            2 => {
                self.saw("insert query");
                let condition = self.condition(&[""], 1);
                format!(
                    "INSERT INTO {table} (up, k, t) SELECT up, k, t FROM {table} WHERE {condition}"
                )
            }
            3..=5 => {
                self.saw("update");
                let (value, condition) = (self.literal(), self.condition(&[""], 2));
                format!("UPDATE {table} SET {column} = {value} WHERE {condition}")
            }
            6 => {
                self.saw("update expression");
                let condition = self.condition(&[""], 1);
                format!(
                    "UPDATE {table} SET {column} = {column} || 'x', up = up + 1 WHERE {condition}"
                )
            }
            8 | 9 => {
                self.saw("delete");
                let condition = self.condition(&[""], 2);
                format!("DELETE FROM {table} WHERE {condition}")
            }
            10 => {
                self.saw("replace");
                let (id, value) = (self.id(), self.literal());
                format!("REPLACE INTO {table} (id, {column}) VALUES ({id}, {value})")
            }
            _ => {
                self.saw("upsert");
                let (id, value) = (self.id(), self.literal());
                format!(
                    "INSERT INTO {table} (id, {column}) VALUES ({id}, {value}) ON CONFLICT (id) DO UPDATE SET {column} = excluded.{column}"
                )
            }
        }
    }
}
