//! What the auction has when it opens: users, items, bids and comments, from a seed, scaled down so that it is there within a second.
//!
//! The auction's clock stands still. `end_date >= now` is in the queries of the benchmark; with a clock that runs each second would be another
//! question, and no answer could be found again. Items end within a week of [`NOW`], and one that is sold out ended just before it.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::Connection;

/// Categories, as in the benchmark.
pub const CATEGORIES: u32 = 20;
/// Regions, as in the benchmark.
pub const REGIONS: u32 = 62;
/// The auction's clock, in seconds.
pub const NOW: i64 = 1_000_000;
/// Rows of a page of a list.
pub const PAGE_ROWS: u32 = 20;
/// How long auctions run at the most.
pub const AUCTION_SECONDS: i64 = 7 * 24 * 60 * 60;

const BIDS_PER_ITEM: u32 = 5;
const COMMENTS_PER_USER: u32 = 2;

const SCHEMA: &str = "
    CREATE TABLE commits (n INTEGER NOT NULL);
    INSERT INTO commits VALUES (0);
    CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE regions (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE users (
        id       INTEGER PRIMARY KEY,
        nickname TEXT    NOT NULL UNIQUE,
        password TEXT    NOT NULL,
        region   INTEGER NOT NULL,
        rating   INTEGER NOT NULL
    );
    CREATE INDEX users_region ON users (region);
    CREATE TABLE items (
        id            INTEGER PRIMARY KEY,
        name          TEXT    NOT NULL,
        category      INTEGER NOT NULL,
        seller        INTEGER NOT NULL,
        initial_price INTEGER NOT NULL,
        buy_now       INTEGER NOT NULL,
        quantity      INTEGER NOT NULL,
        max_bid       INTEGER NOT NULL,
        nb_of_bids    INTEGER NOT NULL,
        end_date      INTEGER NOT NULL
    );
    CREATE INDEX items_category ON items (category, end_date);
    CREATE INDEX items_seller ON items (seller);
    CREATE TABLE bids (
        id      INTEGER PRIMARY KEY,
        user_id INTEGER NOT NULL,
        item_id INTEGER NOT NULL,
        bid     INTEGER NOT NULL,
        max_bid INTEGER NOT NULL,
        date    INTEGER NOT NULL
    );
    CREATE INDEX bids_item ON bids (item_id, max_bid);
    CREATE INDEX bids_user ON bids (user_id);
    CREATE TABLE buy_now (
        id       INTEGER PRIMARY KEY,
        buyer    INTEGER NOT NULL,
        item_id  INTEGER NOT NULL,
        date     INTEGER NOT NULL
    );
    CREATE INDEX buy_now_buyer ON buy_now (buyer);
    CREATE TABLE comments (
        id        INTEGER PRIMARY KEY,
        from_user INTEGER NOT NULL,
        to_user   INTEGER NOT NULL,
        item_id   INTEGER NOT NULL,
        rating    INTEGER NOT NULL,
        date      INTEGER NOT NULL,
        comment   TEXT    NOT NULL
    );
    CREATE INDEX comments_to ON comments (to_user);
";

/// An item when the auction opens.
#[derive(Debug, Clone, Copy)]
struct Item {
    category: u32,
    seller: u32,
    end_date: i64,
}

/// What there is when the auction opens. Users and items are numbered from 1.
#[derive(Debug, Clone)]
pub struct Catalogue {
    seed: u64,
    users: u32,
    items: Vec<Item>,
    /// Of each category its items by the end of their auctions.
    by_category: Vec<Vec<u32>>,
}

impl Catalogue {
    /// So many users and items; the same seed gives the same.
    pub fn new(seed: u64, users: u32, items: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let item = |_| Item {
            category: random.random_range(1..=CATEGORIES),
            seller: random.random_range(1..=users),
            end_date: NOW + random.random_range(1..=AUCTION_SECONDS),
        };
        let items: Vec<_> = (0..items).map(item).collect();
        let mut by_category = vec![Vec::new(); CATEGORIES as usize];
        for (id, item) in (1..).zip(&items) {
            by_category[(item.category - 1) as usize].push(id);
        }
        let mut catalogue = Self {
            seed,
            users,
            items,
            by_category: Vec::new(),
        };
        for ids in &mut by_category {
            ids.sort_unstable_by_key(|id| (catalogue.item(*id).end_date, *id));
        }
        catalogue.by_category = by_category;
        catalogue
    }

    /// Users when it opens.
    pub fn users(&self) -> u32 {
        self.users
    }

    /// Items when it opens.
    pub fn items(&self) -> u32 {
        u32::try_from(self.items.len()).expect("invariant: made from a u32")
    }

    /// A category's items, by the end of their auctions.
    pub fn of_category(&self, category: u32) -> &[u32] {
        &self.by_category[(category - 1) as usize]
    }

    /// Who sells an item.
    pub fn seller(&self, item: u32) -> u32 {
        self.item(item).seller
    }

    /// An item's category.
    pub fn category(&self, item: u32) -> u32 {
        self.item(item).category
    }

    fn item(&self, id: u32) -> Item {
        self.items[(id - 1) as usize]
    }

    /// Makes the tables and fills them.
    pub fn stock(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        let mut random = SmallRng::seed_from_u64(self.seed ^ 1);
        for (table, count) in [("categories", CATEGORIES), ("regions", REGIONS)] {
            let mut row = transaction.prepare(&format!("INSERT INTO {table} VALUES (?1, ?2)"))?;
            for id in 1..=count {
                row.execute((id, format!("{table} {id}")))?;
            }
        }
        let mut user =
            transaction.prepare("INSERT INTO users VALUES (?1, ?2, 'secret', ?3, ?4)")?;
        let mut comment = transaction.prepare(
            "INSERT INTO comments (from_user, to_user, item_id, rating, date, comment) VALUES (?1, ?2, ?3, ?4, 0, 'as described')",
        )?;
        for id in 1..=self.users {
            let region = random.random_range(1..=REGIONS);
            user.execute((id, nickname(id), region, COMMENTS_PER_USER))?;
            for _ in 0..COMMENTS_PER_USER {
                let from = random.random_range(1..=self.users);
                let item = random.random_range(1..=self.items());
                comment.execute((from, id, item, 1))?;
            }
        }
        let mut row = transaction
            .prepare("INSERT INTO items VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
        let mut bid = transaction.prepare(
            "INSERT INTO bids (user_id, item_id, bid, max_bid, date) VALUES (?1, ?2, ?3, ?3, 0)",
        )?;
        for (id, item) in (1_u32..).zip(&self.items) {
            let price = random.random_range(1..=1_000_u32);
            let highest = price + BIDS_PER_ITEM;
            row.execute((
                id,
                format!("item {id}"),
                item.category,
                item.seller,
                price,
                price * 2,
                random.random_range(1..=3_u32),
                highest,
                BIDS_PER_ITEM,
                item.end_date,
            ))?;
            for amount in price + 1..=highest {
                bid.execute((random.random_range(1..=self.users), id, amount))?;
            }
        }
        drop((user, comment, row, bid));
        transaction.commit()
    }
}

/// By what name a user logs in.
pub fn nickname(user: u32) -> String {
    format!("user {user}")
}
