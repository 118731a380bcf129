//! Random reads, each of a shape, and whether it is supported: made only of what is understood (see `conditions`), and of each of its
//! tables something is told in every row that counts. Nobody can narrow a table of which a read asks for every row, whatever its columns.

use rand::Rng as _;

use super::conditions::{Condition, qualified};
use super::{COLUMNS, Generator, TABLES};

/// A read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) sql: String,
    pub(crate) shape: &'static str,
    /// Whether none of its tables is to be widened to all of its rows.
    pub(crate) supported: bool,
}

/// What reads are told apart by, where it is reported how much of them is invalidated in vain.
pub(crate) const SHAPES: [&str; 14] = [
    "equality",
    "in",
    "range",
    "is null",
    "or",
    "mixed",
    "ordered with limit",
    "inner join",
    "outer join",
    "anti join",
    "aggregate",
    "union, except",
    "sub-query",
    "query in from, with",
];

impl Generator {
    pub(crate) fn read(&mut self) -> Read {
        let shape = self.one_of(&SHAPES);
        self.supported = true;
        let sql = match shape {
            "equality" => self.by(Self::equal),
            "in" => self.by(Self::short_list),
            "range" => self.by(Self::range),
            "is null" => {
                let null = |generator: &mut Self, of: &str, at| {
                    let column = generator.one_of(&COLUMNS);
                    generator.is_null(&qualified(of, column), at, false)
                };
                self.by(null)
            }
            "or" => self.by(|generator, of, _| generator.either(&[of], 1)),
            "mixed" => self.plain(2),
            "ordered with limit" => self.ordered(),
            "inner join" => self.joined(&[
                ("inner join", "JOIN"),
                ("inner join", "JOIN"),
                ("cross join", ","),
            ]),
            "outer join" => self.joined(&[
                ("left join", "LEFT JOIN"),
                ("right join", "RIGHT OUTER JOIN"),
                ("full join", "FULL JOIN"),
            ]),
            "anti join" => self.anti_join(),
            "aggregate" => self.aggregate(),
            "union, except" => self.union(),
            "sub-query" => self.by_query(),
            _ if self.chance(0.5) => self.query_in_from(),
            _ => self.with(),
        };
        Read {
            sql,
            shape,
            supported: self.supported,
        }
    }

    /// The only table's condition is to narrow it.
    fn of_one(&mut self, condition: Condition) -> String {
        self.supported &= condition.narrows & 1 == 1;
        condition.sql
    }

    /// Rows of one table by one condition.
    fn by(&mut self, condition: impl Fn(&mut Self, &str, usize) -> Condition) -> String {
        let table = self.one_of(&TABLES);
        let one = condition(self, "", 0);
        let one = self.of_one(one);
        format!("SELECT * FROM {table} WHERE {one}")
    }

    /// A condition of one table that is often enough understood.
    fn usual(&mut self, depth: u32) -> String {
        let condition = if self.chance(0.5) {
            self.narrowing("", 0)
        } else {
            self.condition(&[""], depth)
        };
        self.of_one(condition)
    }

    /// One table, any condition.
    fn plain(&mut self, depth: u32) -> String {
        let table = self.one_of(&TABLES);
        let condition = self.condition(&[""], depth);
        let condition = self.of_one(condition);
        let distinct = if self.chance(0.1) {
            self.saw("distinct");
            "DISTINCT "
        } else {
            ""
        };
        format!("SELECT {distinct}* FROM {table} WHERE {condition}")
    }

    fn ordered(&mut self) -> String {
        self.saw("order by");
        let (table, condition) = (self.one_of(&TABLES), self.usual(1));
        let column = self.one_of(&COLUMNS);
        let descends = self.one_of(&["", " DESC"]);
        let mut sql =
            format!("SELECT * FROM {table} WHERE {condition} ORDER BY {column}{descends}, id");
        if self.chance(0.8) {
            self.saw("limit");
            sql += " LIMIT 2";
            if self.chance(0.5) {
                self.saw("offset");
                sql += " OFFSET 1";
            }
        }
        sql
    }

    /// Rows for which there is none: their absence shows. That no row has `up` is told by the id, which must be the same.
    fn anti_join(&mut self) -> String {
        self.saw("anti join");
        let (left, right) = (self.one_of(&TABLES), self.one_of(&TABLES));
        let (column, one) = (self.one_of(&COLUMNS), self.id());
        format!(
            "SELECT x.id FROM {left} x LEFT JOIN {right} y ON y.up = x.id WHERE x.id = {one} AND y.{column} IS NULL"
        )
    }

    fn arm(&mut self) -> String {
        let (table, condition) = (self.one_of(&TABLES), self.usual(1));
        format!("SELECT k, t FROM {table} WHERE {condition}")
    }

    fn union(&mut self) -> String {
        let (one, other) = (self.arm(), self.arm());
        if self.chance(0.5) {
            self.saw("union");
            format!("{one} UNION {other}")
        } else {
            self.saw("except");
            format!("{one} EXCEPT {other}")
        }
    }

    fn by_query(&mut self) -> String {
        let (table, column) = (self.one_of(&TABLES), self.one_of(&COLUMNS));
        let inner = self.inner_query(&format!("x.{column}"), "x", 1);
        if self.chance(0.7) {
            self.saw("and");
            let outer = self.narrowing("x", 0);
            return format!(
                "SELECT * FROM {table} x WHERE {} AND {}",
                outer.sql, inner.sql
            );
        }
        self.supported = false;
        format!("SELECT * FROM {table} x WHERE {}", inner.sql)
    }

    fn query_in_from(&mut self) -> String {
        self.saw("query in from");
        let (table, inner) = (self.one_of(&TABLES), self.usual(1));
        // What is asked of the query's rows narrows no table.
        let outer = self.condition(&["f"], 1).sql;
        format!(
            "SELECT * FROM (SELECT id, up, k, t, r, d FROM {table} WHERE {inner}) AS f WHERE {outer}"
        )
    }

    fn with(&mut self) -> String {
        self.saw("with");
        let (inner, table) = (self.usual(1), self.one_of(&TABLES));
        let name = self.one_of(&["w", "a", "b"]);
        let other = self.one_of(&TABLES);
        if name == table || name == other {
            return self.plain(1);
        }
        let outer = if self.chance(0.7) {
            self.narrowing("o", 0)
        } else {
            self.condition(&["o"], 1)
        };
        let outer = self.of_one(outer);
        format!(
            "WITH {name} AS (SELECT * FROM {table} WHERE {inner}) SELECT * FROM {name} AS w2 JOIN {other} o ON o.id = w2.up WHERE {outer}"
        )
    }

    fn aggregate(&mut self) -> String {
        self.saw("aggregate");
        let (table, condition) = (self.one_of(&TABLES), self.usual(2));
        if self.chance(0.5) {
            self.saw("group by");
            return format!(
                "SELECT k, count(*), max(r) FROM {table} WHERE {condition} GROUP BY k HAVING count(*) > 0 ORDER BY k"
            );
        }
        format!("SELECT count(*), sum(k), min(t) FROM {table} WHERE {condition}")
    }

    /// What is asked of both tables of a join.
    fn of_both(&mut self, keys: &str) -> Condition {
        let both = match self.random.random_range(0..10) {
            0..5 => {
                self.saw("and");
                let (one, other) = (self.narrowing("x", 0), self.narrowing("y", 1));
                Condition {
                    sql: format!("{} AND {}", one.sql, other.sql),
                    narrows: 3,
                    narrows_found: 3,
                }
            }
            // The value of one key is that of the other.
            5 | 6 if keys.contains('=') => {
                self.saw("equality");
                let (key, _) = keys.split_once(" = ").unwrap_or_default();
                let id = self.id();
                Condition {
                    sql: format!("{key} = {id}"),
                    narrows: 3,
                    narrows_found: 3,
                }
            }
            _ => self.condition(&["x", "y"], 2),
        };
        Condition {
            sql: format!("({})", both.sql),
            ..both
        }
    }

    fn joined(&mut self, joins: &[(&'static str, &'static str)]) -> String {
        let (left, mut right) = (self.one_of(&TABLES), self.one_of(&TABLES));
        if self.chance(0.15) {
            right = left;
            self.saw("self join");
        }
        let columns = "x.id, x.k, x.t, y.id, y.k, y.t";
        let keys = self.one_of(&["x.id = y.up", "y.id = x.up", "x.up = y.up", "x.k = y.k"]);
        let (form, join) = joins[self.random.random_range(0..joins.len())];
        self.saw(form);
        let outer = !matches!(form, "inner join" | "cross join");
        let using = form != "cross join" && self.chance(0.2);
        // A condition of an outer join does not have both sides narrowed by what it is about, nor carries values over.
        let tells_keys = !outer && !using;
        let both = self.of_both(if tells_keys { keys } else { "" });
        let narrowed = if outer {
            both.narrows_found
        } else {
            both.narrows
        };
        let both = both.sql;
        let supported = self.supported && narrowed == 3;
        self.supported = supported;
        if form == "cross join" {
            return format!(
                "SELECT {columns} FROM {left} x, {right} y WHERE {keys} AND {both} ORDER BY 1, 4"
            );
        }
        if using {
            self.saw("using");
            return format!(
                "SELECT {columns} FROM {left} x {join} {right} y USING (up) WHERE {both} ORDER BY 1, 4"
            );
        }
        let on = if self.chance(if outer { 0.6 } else { 0.3 }) {
            let more = self.condition(&["x", "y"], 1);
            format!("{keys} AND {}", more.sql)
        } else {
            keys.to_owned()
        };
        let filter = if self.chance(if outer { 0.6 } else { 0.8 }) {
            format!(" WHERE {both}")
        } else {
            self.supported = false;
            String::new()
        };
        if self.chance(0.2) {
            let third = self.one_of(&TABLES);
            let more = self.narrowing("z", 0).sql;
            let join_again = self.one_of(&["JOIN", "LEFT JOIN"]);
            return format!(
                "SELECT {columns}, z.id FROM {left} x {join} {right} y ON {on} {join_again} {third} z ON z.up = y.id AND {more}{filter} ORDER BY 1, 4, 7"
            );
        }
        format!("SELECT {columns} FROM {left} x {join} {right} y ON {on}{filter} ORDER BY 1, 4")
    }
}
