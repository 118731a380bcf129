//! The demo's database: an SQLite shop of carts and their items, in a file.
//!
//! A cart has a version, raised by one in the transaction that adds an item, and a list of items, newest first, so that
//! an added item shifts every page. Reading a slice reads version and items in one transaction: the version tells exactly which
//! additions the slice shows.
//!
//! There is one connection for writing, since SQLite has one writer at a time anyway, and a fixed number for reading; see
//! [`crate::pool`].

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use thiserror::Error;

use crate::pool::{Pool, blocking, open};

const SCHEMA: &str = "
    CREATE TABLE carts (
        id      INTEGER PRIMARY KEY,
        version INTEGER NOT NULL,
        items   INTEGER NOT NULL
    );
    CREATE TABLE items (
        cart    INTEGER NOT NULL REFERENCES carts (id),
        number  INTEGER NOT NULL,
        product TEXT    NOT NULL,
        PRIMARY KEY (cart, number)
    ) WITHOUT ROWID;
";

/// Why the shop did not do it.
#[derive(Debug, Error)]
pub enum ShopError {
    /// There is no such cart.
    #[error("shop: there is no cart {0}")]
    NoCart(u32),
    /// SQLite failed.
    #[error("shop: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Some items of a cart, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartSlice {
    /// Additions that the slice shows.
    pub version: u64,
    /// Items in the whole cart.
    pub cart_items: u64,
    /// Names of the products.
    pub products: Vec<String>,
}

/// The shop. Clones share it.
#[derive(Clone)]
pub struct Shop {
    readers: Arc<Pool>,
    writer: Arc<Pool>,
}

impl Shop {
    /// Makes a shop in a new file below `dir`, with `carts` carts (numbered from 1) of `items_per_cart` items each, all at version 0,
    /// and `readers` connections for reading (at least one).
    pub async fn create(
        dir: &Path,
        carts: u32,
        items_per_cart: u32,
        readers: usize,
    ) -> Result<Self, ShopError> {
        let file = dir.join("shop.sqlite");
        let connections = blocking(move || -> Result<_, ShopError> {
            let mut writer = open(&file)?;
            writer.execute_batch(SCHEMA)?;
            stock(&mut writer, carts, items_per_cart)?;
            let readers = (0..readers.max(1))
                .map(|_| open(&file))
                .collect::<Result<Vec<_>, _>>()?;
            Ok((writer, readers))
        });
        let (writer, readers) = connections.await?;
        Ok(Self {
            readers: Arc::new(Pool::new(readers)),
            writer: Arc::new(Pool::new(vec![writer])),
        })
    }

    /// Adds an item to a cart; answers the cart's version with it, once it is committed.
    pub async fn add_item(&self, cart: u32, product: String) -> Result<u64, ShopError> {
        let add = move |connection: &mut Connection| add_item(connection, cart, &product);
        self.writer.with(add).await
    }

    /// Items of a cart, newest first: at most `limit` of them after the first `offset`.
    pub async fn items(&self, cart: u32, offset: u64, limit: u32) -> Result<CartSlice, ShopError> {
        self.readers
            .with(move |connection| items(connection, cart, offset, limit))
            .await
    }
}

fn stock(writer: &mut Connection, carts: u32, items_per_cart: u32) -> Result<(), ShopError> {
    let transaction = writer.transaction()?;
    {
        let mut cart_row = transaction.prepare("INSERT INTO carts VALUES (?1, 0, ?2)")?;
        let mut item_row = transaction.prepare("INSERT INTO items VALUES (?1, ?2, ?3)")?;
        for cart in 1..=carts {
            cart_row.execute((cart, items_per_cart))?;
            for number in 1..=items_per_cart {
                item_row.execute((cart, number, product(cart, number)))?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// A product's name, from what is at hand.
fn product(cart: u32, number: u32) -> String {
    const GOODS: [&str; 8] = [
        "tea", "rice", "apples", "soap", "bread", "honey", "lentils", "grapes",
    ];
    let pick = (cart as usize * 31 + number as usize * 7) % GOODS.len();
    format!("{} no. {number}", GOODS[pick])
}

fn add_item(connection: &mut Connection, cart: u32, product: &str) -> Result<u64, ShopError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let row: Option<(u64, u64)> = transaction
        .prepare_cached(
            "UPDATE carts SET version = version + 1, items = items + 1 WHERE id = ?1
             RETURNING version, items",
        )?
        .query_row([cart], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (version, number) = row.ok_or(ShopError::NoCart(cart))?;
    transaction
        .prepare_cached("INSERT INTO items VALUES (?1, ?2, ?3)")?
        .execute((cart, number, product))?;
    transaction.commit()?;
    Ok(version)
}

fn items(
    connection: &mut Connection,
    cart: u32,
    offset: u64,
    limit: u32,
) -> Result<CartSlice, ShopError> {
    // Deferred: the first statement's read fixes the snapshot for both.
    let transaction = connection.transaction()?;
    let row: Option<(u64, u64)> = transaction
        .prepare_cached("SELECT version, items FROM carts WHERE id = ?1")?
        .query_row([cart], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (version, cart_items) = row.ok_or(ShopError::NoCart(cart))?;
    let products = transaction
        .prepare_cached(
            "SELECT product FROM items WHERE cart = ?1 ORDER BY number DESC LIMIT ?2 OFFSET ?3",
        )?
        .query_map((cart, limit, offset), |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    transaction.commit()?;
    Ok(CartSlice {
        version,
        cart_items,
        products,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    async fn shop(carts: u32, items: u32) -> (TempDir, Shop) {
        let dir = TempDir::new().unwrap();
        let shop = Shop::create(dir.path(), carts, items, 2).await.unwrap();
        (dir, shop)
    }

    #[tokio::test]
    async fn a_new_item_comes_first_and_raises_the_version() {
        let (_dir, shop) = shop(2, 30).await;
        let before = shop.items(1, 0, 10).await.unwrap();
        assert_eq!(
            (before.version, before.cart_items, before.products.len()),
            (0, 30, 10)
        );
        assert_eq!(shop.add_item(1, "wine".to_owned()).await.unwrap(), 1);
        let after = shop.items(1, 0, 10).await.unwrap();
        assert_eq!((after.version, after.cart_items), (1, 31));
        assert_eq!(after.products[0], "wine");
        assert_eq!(after.products[1..], before.products[..9]);
        assert_eq!(shop.items(2, 0, 10).await.unwrap().version, 0);
    }

    #[tokio::test]
    async fn slices_end_where_the_cart_does() {
        let (_dir, shop) = shop(1, 30).await;
        assert_eq!(shop.items(1, 25, 10).await.unwrap().products.len(), 5);
        assert_eq!(shop.items(1, 30, 10).await.unwrap().products.len(), 0);
    }

    #[tokio::test]
    async fn an_unknown_cart_is_named() {
        let (_dir, shop) = shop(1, 1).await;
        assert!(matches!(
            shop.items(9, 0, 1).await,
            Err(ShopError::NoCart(9))
        ));
        let added = shop.add_item(9, "wine".to_owned()).await;
        assert!(matches!(added, Err(ShopError::NoCart(9))));
        assert_eq!(shop.add_item(1, "wine".to_owned()).await.unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_slice_is_one_snapshot_under_many_writers_and_readers() {
        let (_dir, shop) = shop(1, 5).await;
        let mut tasks = Vec::new();
        for task in 0..16 {
            let shop = shop.clone();
            tasks.push(tokio::spawn(async move {
                for n in 0..25 {
                    if task % 2 == 0 {
                        shop.add_item(1, format!("{task}-{n}")).await.unwrap();
                    } else {
                        let slice = shop.items(1, 0, 1_000).await.unwrap();
                        assert_eq!(slice.cart_items, 5 + slice.version);
                        assert_eq!(slice.products.len() as u64, slice.cart_items);
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(shop.items(1, 0, 1).await.unwrap().version, 200);
    }

    #[tokio::test]
    async fn a_connection_outlives_a_dropped_caller() {
        let (_dir, shop) = shop(1, 5).await;
        for _ in 0..20 {
            let call = shop.items(1, 0, 5);
            let _ = tokio::time::timeout(Duration::ZERO, call).await;
        }
        assert_eq!(shop.items(1, 0, 5).await.unwrap().products.len(), 5);
    }
}
