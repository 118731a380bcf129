//! Random writes.

use rand::Rng as _;

use super::{COLUMNS, Generator, TABLES};

impl Generator {
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
                let condition = self.condition(&[""], 1).sql;
                format!(
                    "INSERT INTO {table} (up, k, t) SELECT up, k, t FROM {table} WHERE {condition}"
                )
            }
            3..=5 => {
                self.saw("update");
                let (value, condition) = (self.literal(), self.condition(&[""], 2).sql);
                format!("UPDATE {table} SET {column} = {value} WHERE {condition}")
            }
            6 => {
                self.saw("update expression");
                let condition = self.condition(&[""], 1).sql;
                format!(
                    "UPDATE {table} SET {column} = {column} || 'x', up = up + 1 WHERE {condition}"
                )
            }
            8 | 9 => {
                self.saw("delete");
                let condition = self.condition(&[""], 2).sql;
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
