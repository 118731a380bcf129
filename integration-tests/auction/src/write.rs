//! What pages write, and the rows that a write changes, as they were and as they are.

use std::collections::BTreeMap;

use grapevine_client::SqlScalar;
use grapevine_proto::v1;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, ToSql};

use crate::ask::{Table, Value};
use crate::catalogue::{NOW, nickname};

/// A write: one transaction. What it does follows from itself and from the rows that it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A bid above the highest.
    Bid {
        /// On which item.
        item: u32,
        /// Whose.
        user: u32,
        /// By how much.
        raise: u32,
    },
    /// One of an item is bought; with the last one its auction ends.
    BuyNow {
        /// Which item.
        item: u32,
        /// Who buys.
        user: u32,
    },
    /// A comment, which changes the rating of whom it is about.
    Comment {
        /// Whose.
        from: u32,
        /// About whom.
        to: u32,
        /// About which item.
        item: u32,
        /// What it adds.
        rating: i32,
    },
    /// A new item.
    Item {
        /// Its id.
        id: u32,
        /// Its category.
        category: u32,
        /// Who sells it.
        seller: u32,
        /// What it costs at first.
        price: u32,
        /// When its auction ends.
        end_date: i64,
    },
    /// A new user.
    User {
        /// The id.
        id: u32,
        /// Where.
        region: u32,
    },
}

/// A row by its columns.
pub type Row = BTreeMap<String, Value>;

/// A row that a write changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its table.
    pub table: Table,
    /// Its id.
    pub id: i64,
    /// As it was; none if it is new.
    pub before: Option<Row>,
    /// As it is.
    pub after: Option<Row>,
}

impl Write {
    /// The tables in which it changes rows.
    pub fn tables(&self) -> &'static [Table] {
        match self {
            Self::Bid { .. } => &[Table::Bids, Table::Items],
            Self::BuyNow { .. } => &[Table::BuyNow, Table::Items],
            Self::Comment { .. } => &[Table::Comments, Table::Users],
            Self::Item { .. } => &[Table::Items],
            Self::User { .. } => &[Table::Users],
        }
    }

    /// Does it, within a transaction of the caller's.
    pub fn apply(&self, connection: &Connection) -> rusqlite::Result<Vec<Change>> {
        let tables = Tables(connection);
        match self {
            Self::Bid { item, user, raise } => {
                let bid = tables.insert(
                    Table::Bids,
                    "INSERT INTO bids (user_id, item_id, bid, max_bid, date)
                     SELECT ?1, id, max_bid + ?3, max_bid + ?3 + 1, (SELECT n FROM commits) FROM items WHERE id = ?2",
                    &[user, item, raise],
                )?;
                let item = tables.update(
                    (Table::Items, *item),
                    "UPDATE items SET max_bid = max_bid + ?2, nb_of_bids = nb_of_bids + 1 WHERE id = ?1",
                    &[item, raise],
                )?;
                Ok(vec![bid, item])
            }
            Self::BuyNow { item, user } => {
                let bought = tables.insert(
                    Table::BuyNow,
                    "INSERT INTO buy_now (buyer, item_id, date) VALUES (?1, ?2, (SELECT n FROM commits))",
                    &[user, item],
                )?;
                let item = tables.update(
                    (Table::Items, *item),
                    "UPDATE items SET quantity = max(quantity - 1, 0),
                        end_date = CASE WHEN quantity <= 1 THEN ?2 ELSE end_date END WHERE id = ?1",
                    &[item, &(NOW - 1)],
                )?;
                Ok(vec![bought, item])
            }
            Self::Comment {
                from,
                to,
                item,
                rating,
            } => {
                let comment = tables.insert(
                    Table::Comments,
                    "INSERT INTO comments (from_user, to_user, item_id, rating, date, comment)
                     VALUES (?1, ?2, ?3, ?4, (SELECT n FROM commits), 'a comment')",
                    &[from, to, item, rating],
                )?;
                let user = tables.update(
                    (Table::Users, *to),
                    "UPDATE users SET rating = rating + ?2 WHERE id = ?1",
                    &[to, rating],
                )?;
                Ok(vec![comment, user])
            }
            Self::Item {
                id,
                category,
                seller,
                price,
                end_date,
            } => {
                let item = tables.insert(
                    Table::Items,
                    "INSERT INTO items VALUES (?1, 'item ' || ?1, ?2, ?3, ?4, ?4 * 2, 1, ?4, 0, ?5)",
                    &[id, category, seller, price, end_date],
                )?;
                Ok(vec![item])
            }
            Self::User { id, region } => {
                let user = tables.insert(
                    Table::Users,
                    "INSERT INTO users VALUES (?1, ?2, 'secret', ?3, 0)",
                    &[id, &nickname(*id), region],
                )?;
                Ok(vec![user])
            }
        }
    }
}

/// The tables, to be changed one row at a time.
struct Tables<'a>(&'a Connection);

impl Tables<'_> {
    fn run(&self, sql: &str, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
        self.0.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    fn insert(&self, table: Table, sql: &str, values: &[&dyn ToSql]) -> rusqlite::Result<Change> {
        self.run(sql, values)?;
        changed(self.0, table, self.0.last_insert_rowid(), None)
    }

    fn update(
        &self,
        (table, id): (Table, u32),
        sql: &str,
        values: &[&dyn ToSql],
    ) -> rusqlite::Result<Change> {
        let before = row(self.0, table, id.into())?;
        self.run(sql, values)?;
        changed(self.0, table, id.into(), before)
    }
}

fn changed(
    connection: &Connection,
    table: Table,
    id: i64,
    before: Option<Row>,
) -> rusqlite::Result<Change> {
    let after = row(connection, table, id)?;
    Ok(Change {
        table,
        id,
        before,
        after,
    })
}

/// A row with all its columns.
fn row(connection: &Connection, table: Table, id: i64) -> rusqlite::Result<Option<Row>> {
    let sql = format!("SELECT * FROM {} WHERE id = ?1", table.name());
    let mut statement = connection.prepare_cached(&sql)?;
    let columns: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let found = statement.query_row([id], |row| {
        let cells = columns.iter().enumerate().map(|(place, column)| {
            let value = match row.get_ref(place)? {
                ValueRef::Integer(value) => Value::Integer(value),
                value => Value::Text(value.as_str()?.to_owned()),
            };
            Ok((column.clone(), value))
        });
        cells.collect()
    });
    found.optional()
}

impl Change {
    /// As Grapevine is told of it.
    pub fn to_wire(&self) -> v1::RowChange {
        let none = Row::new();
        let (before, after) = (
            self.before.as_ref().unwrap_or(&none),
            self.after.as_ref().unwrap_or(&none),
        );
        let same = |(column, value): &(&String, &Value)| {
            before.get(*column) == Some(value) && after.get(*column) == Some(value)
        };
        let wire = |(column, value): (&String, &Value)| v1::ColumnValue {
            column: column.clone(),
            value: Some(SqlScalar::from(value.clone()).into()),
        };
        let kind = match (&self.before, &self.after) {
            (None, _) => v1::RowChangeKind::Insert,
            (Some(_), Some(_)) => v1::RowChangeKind::Update,
            (Some(_), None) => v1::RowChangeKind::Delete,
        };
        v1::RowChange {
            table: self.table.name().to_owned(),
            kind: kind.into(),
            unchanged: after.iter().filter(same).map(wire).collect(),
            old: before.iter().filter(|cell| !same(cell)).map(wire).collect(),
            new: after.iter().filter(|cell| !same(cell)).map(wire).collect(),
            id: self.id.to_string(),
            version: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::catalogue::Catalogue;

    fn auction() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        Catalogue::new(1, 10, 10).stock(&mut connection).unwrap();
        connection
    }

    fn columns(of: &[v1::ColumnValue]) -> Vec<&str> {
        of.iter().map(|cell| &*cell.column).collect()
    }

    #[test]
    fn a_bid_is_told_as_a_new_row_and_as_what_it_changes_of_its_item() {
        let write = Write::Bid {
            item: 3,
            user: 4,
            raise: 5,
        };
        let changes = write.apply(&auction()).unwrap();
        let [bid, item] = &changes[..] else {
            panic!("{changes:?}")
        };
        let (bid, item) = (bid.to_wire(), item.to_wire());
        assert_eq!(bid.kind(), v1::RowChangeKind::Insert);
        assert_eq!((bid.old.len(), bid.new.len()), (0, 6));
        assert_eq!(item.kind(), v1::RowChangeKind::Update);
        assert_eq!(item.id, "3");
        assert_eq!(columns(&item.old), ["max_bid", "nb_of_bids"]);
        assert_eq!(columns(&item.new), ["max_bid", "nb_of_bids"]);
        assert_eq!(item.unchanged.len(), 8);
    }

    #[test]
    fn the_last_one_of_an_item_that_is_bought_ends_its_auction() {
        let connection = auction();
        let write = Write::BuyNow { item: 3, user: 4 };
        let mut ended = false;
        for _ in 0..3 {
            let changes = write.apply(&connection).unwrap();
            let after = changes[1].after.clone().unwrap();
            ended = after["end_date"] == Value::Integer(NOW - 1);
            assert_eq!(ended, after["quantity"] == Value::Integer(0));
        }
        assert!(ended);
    }
}
