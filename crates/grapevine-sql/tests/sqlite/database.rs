//! SQLite, and what of its rows a write has changed.

use std::collections::BTreeMap;
use std::rc::Rc;

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Raw, Table};
use grapevine_sql::Dialect;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::generate::{ALL_COLUMNS, Generator, TABLES};

/// Rows as they came.
pub(crate) type Answer = Rc<Vec<Vec<Value>>>;

/// A database with random tables and some rows.
pub(crate) fn open(generator: &mut Generator) -> Connection {
    let database = Connection::open_in_memory().unwrap();
    database.set_prepared_statement_cache_capacity(256);
    for statement in generator.schema() {
        database.execute_batch(&statement).unwrap();
    }
    for _ in 0..40 {
        let insert = generator.row();
        // One that breaks a constraint is not there.
        let _ = database.execute(&insert, []);
    }
    database
}

pub(crate) fn answer(database: &Connection, sql: &str) -> Result<Answer, rusqlite::Error> {
    let mut statement = database.prepare_cached(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?;
    rows.collect::<Result<_, _>>().map(Rc::new)
}

/// One row's name: its table and its id.
pub(crate) type Key = (&'static str, i64);

/// A row as it was and as it is.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) key: Key,
    pub(crate) before: Option<Vec<Value>>,
    pub(crate) after: Option<Vec<Value>>,
}

impl Changed {
    /// What is known of it.
    pub(crate) fn images(&self) -> impl Iterator<Item = Conjunction> {
        let known = |row: &Option<Vec<Value>>| row.as_ref().map(|row| whole_row(self.key.0, row));
        [known(&self.before), known(&self.after)]
            .into_iter()
            .flatten()
    }
}

/// All rows of all tables.
#[derive(Debug)]
pub(crate) struct Rows(BTreeMap<Key, Vec<Value>>);

impl Rows {
    pub(crate) fn of(database: &Connection) -> Self {
        let mut all = BTreeMap::new();
        for table in TABLES {
            let columns = ALL_COLUMNS.join(", ");
            let rows = answer(database, &format!("SELECT {columns} FROM {table}")).unwrap();
            for row in rows.iter() {
                let Value::Integer(id) = row[0] else {
                    panic!("an id is an integer");
                };
                all.insert((table, id), row.clone());
            }
        }
        Self(all)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Their names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.0.keys().copied()
    }

    /// Rows that differ, as they were and as they are.
    pub(crate) fn changed(&self, now: &Self) -> Vec<Changed> {
        let gone = self.0.keys().filter(|key| !now.0.contains_key(key));
        let keys = gone.chain(now.0.keys());
        let changed = keys.filter(|key| self.0.get(key) != now.0.get(key));
        changed
            .map(|key| Changed {
                key: *key,
                before: self.0.get(key).cloned(),
                after: now.0.get(key).cloned(),
            })
            .collect()
    }
}

/// A value as an application tells it.
pub(crate) fn datum(value: &Value) -> Option<Datum> {
    let raw = match value {
        Value::Null => Raw::Null,
        Value::Integer(value) => Raw::Int(*value),
        Value::Real(value) => Raw::Float(*value),
        Value::Text(value) => Raw::Text(value),
        Value::Blob(value) => Raw::Bytes(value),
    };
    Datum::of(Dialect::Sqlite, raw)
}

pub(crate) fn whole_row(table: &str, row: &[Value]) -> Conjunction {
    let mut rows = Conjunction::all_of(Table::parse(table).unwrap());
    for (name, value) in ALL_COLUMNS.into_iter().zip(row) {
        if let Some(datum) = datum(value) {
            rows.narrow(Column::parse(name).unwrap(), Cell::Is(datum));
        }
    }
    rows
}
