//! The auction's database: an SQLite file, many readers and one writer.
//!
//! Every commit has a number, one more than the last, which stands in the database itself: a read tells the number of the snapshot
//! that it was answered from. The writes are logged in the order of their commits, so that whoever judges can do them once more. Queries of
//! readers are counted here, and nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use grapevine_client::IndexRow;
use grapevine_lab::pool::{Pool, blocking, open};
use parking_lot::Mutex;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ToSql, TransactionBehavior, params_from_iter};

use crate::answer::{Answer, write_row};
use crate::ask::{Ask, Shape};
use crate::catalogue::Catalogue;
use crate::write::{Change, Write};

const READERS: usize = 4;

/// The database. Clones share it.
#[derive(Clone)]
pub struct Database {
    readers: Arc<Pool>,
    writer: Arc<Pool>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The writes, in the order of their commits; the first one made commit 1.
    log: Mutex<Vec<Write>>,
    queries: AtomicU64,
}

/// A write that is committed.
#[derive(Debug)]
pub struct Written {
    /// The number of its commit.
    pub commit: u32,
    /// The rows that it changed.
    pub changes: Vec<Change>,
}

impl Database {
    /// Makes one in a new file below `dir`, with what the catalogue has.
    pub async fn create(dir: &Path, catalogue: &Arc<Catalogue>) -> anyhow::Result<Self> {
        let file = dir.join("auction.sqlite");
        let catalogue = Arc::clone(catalogue);
        let connections = blocking(move || -> rusqlite::Result<_> {
            let mut writer = open(&file)?;
            catalogue.stock(&mut writer)?;
            let readers: rusqlite::Result<Vec<_>> = (0..READERS).map(|_| open(&file)).collect();
            Ok((writer, readers?))
        });
        let (writer, readers) = connections.await.context("the database was not made")?;
        Ok(Self {
            readers: Arc::new(Pool::new(readers)),
            writer: Arc::new(Pool::new(vec![writer])),
            shared: Arc::default(),
        })
    }

    /// Queries of readers so far.
    pub fn queries(&self) -> u64 {
        self.shared.queries.load(Ordering::Relaxed)
    }

    /// How many commits there are.
    pub fn commits(&self) -> u32 {
        u32::try_from(self.shared.log.lock().len()).expect("invariant: runs are shorter")
    }

    /// The writes so far, in the order of their commits.
    pub fn log(&self) -> Vec<Write> {
        self.shared.log.lock().clone()
    }

    /// Answers a question.
    pub async fn read(&self, ask: Ask) -> rusqlite::Result<Answer> {
        self.query(move |connection| answer(connection, &ask)).await
    }

    /// The rows of these ids that are there, each as an answer to the question for it alone.
    pub async fn read_many(
        &self,
        shape: Shape,
        ids: Vec<String>,
    ) -> rusqlite::Result<Vec<(String, Answer)>> {
        self.query(move |connection| {
            let (columns, table) = shape.of_many().expect("invariant: a shape of single rows");
            let places = vec!["?"; ids.len()].join(",");
            let sql = format!("SELECT {columns} FROM {table} WHERE id IN ({places})");
            let commit = commit(connection)?;
            let mut statement = connection.prepare_cached(&sql)?;
            let ids = ids.iter().filter_map(|id| id.parse::<i64>().ok());
            let found = statement.query_map(params_from_iter(ids), |row| {
                let mut rows = Vec::new();
                write_row(row, &mut rows)?;
                let id: i64 = row.get(0)?;
                Ok((id.to_string(), Answer::new(commit, &rows)))
            })?;
            found.collect()
        })
        .await
    }

    /// Ids and what they are ordered by, for an index.
    pub async fn ids(
        &self,
        sql: &'static str,
        values: Vec<i64>,
    ) -> rusqlite::Result<Vec<IndexRow>> {
        self.query(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params_from_iter(values), |row| {
                let (id, order): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(IndexRow::new(id).ordered_by(order))
            })?;
            rows.collect()
        })
        .await
    }

    async fn query<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        self.shared.queries.fetch_add(1, Ordering::Relaxed);
        let read = move |connection: &mut Connection| {
            // Deferred: the first statement fixes the snapshot for all of them.
            let transaction = connection.transaction()?;
            work(&transaction)
        };
        self.readers.with(read).await
    }

    /// Writes; answers once it is committed.
    pub async fn write(&self, write: Write) -> rusqlite::Result<Written> {
        let shared = Arc::clone(&self.shared);
        let work = move |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let (commit, changes) = apply(&transaction, &write)?;
            transaction.commit()?;
            // On the one connection that writes: in the order of the commits.
            shared.log.lock().push(write);
            Ok(Written { commit, changes })
        };
        self.writer.with(work).await
    }
}

/// Does a write, as one commit.
pub fn apply(connection: &Connection, write: &Write) -> rusqlite::Result<(u32, Vec<Change>)> {
    let changes = write.apply(connection)?;
    connection
        .prepare_cached("UPDATE commits SET n = n + 1")?
        .execute([])?;
    Ok((commit(connection)?, changes))
}

fn commit(connection: &Connection) -> rusqlite::Result<u32> {
    connection
        .prepare_cached("SELECT n FROM commits")?
        .query_row([], |row| row.get(0))
}

/// Answers a question, within a transaction of the caller's.
pub fn answer(connection: &Connection, ask: &Ask) -> rusqlite::Result<Answer> {
    let commit = commit(connection)?;
    Ok(Answer::new(commit, &rows(connection, ask)?))
}

/// What the database says to a question.
pub fn rows(connection: &Connection, ask: &Ask) -> rusqlite::Result<Vec<u8>> {
    let mut statement = connection.prepare_cached(ask.shape.sql())?;
    let values: Result<Vec<ToSqlOutput<'_>>, _> = ask.values.iter().map(ToSql::to_sql).collect();
    let mut found = statement.query(params_from_iter(values?))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        write_row(row, &mut rows)?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tempfile::TempDir;

    use super::*;
    use crate::catalogue::NOW;

    async fn auction() -> (TempDir, Database) {
        let dir = TempDir::new().unwrap();
        let catalogue = Arc::new(Catalogue::new(1, 20, 200));
        let database = Database::create(dir.path(), &catalogue).await.unwrap();
        (dir, database)
    }

    #[tokio::test]
    async fn an_answer_tells_the_commit_that_it_was_read_at() {
        let (_dir, database) = auction().await;
        let ask = Ask::by_id(Shape::BidFigures, 3_u32);
        let before = database.read(ask.clone()).await.unwrap();
        let write = Write::Bid {
            item: 3,
            user: 1,
            raise: 5,
        };
        let written = database.write(write.clone()).await.unwrap();
        let after = database.read(ask).await.unwrap();
        assert_eq!((before.commit(), written.commit, after.commit()), (0, 1, 1));
        assert_ne!(before.hash(), after.hash());
        assert_eq!(after.numbers(0), [6]);
        assert_eq!((database.queries(), database.log()), (2, vec![write]));
    }

    #[tokio::test]
    async fn every_shape_is_answered_and_rows_of_many_are_those_of_one() {
        let (_dir, database) = auction().await;
        for shape in Shape::ALL {
            let places = shape.sql().matches('?').count();
            let values = (0..places).map(|_| NOW.min(3).into());
            database.read(Ask::new(shape, values)).await.unwrap();
        }
        for shape in [Shape::Item, Shape::Bid] {
            let ids = vec!["3".to_owned(), "999999".to_owned()];
            let many = database.read_many(shape, ids).await.unwrap();
            let one = database.read(Ask::by_id(shape, 3_u32)).await.unwrap();
            assert_eq!(many, [("3".to_owned(), one)]);
        }
    }
}
