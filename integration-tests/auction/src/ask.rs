//! What pages ask of the database: the shapes of the benchmark's queries, one statement each, with its values.
//!
//! Only what changes nothing of the question was left out of the benchmark's: columns that no page here shows. Its `NOW()` is a value
//! ([`NOW`](crate::catalogue::NOW)), and lists have the id behind what they are ordered by, for an order that is the same each time.

use grapevine_client::SqlScalar;
use rusqlite::ToSql;
use rusqlite::types::ToSqlOutput;

/// A table that is written to, or only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the table of its name")]
pub enum Table {
    Users,
    Items,
    Bids,
    BuyNow,
    Comments,
    Categories,
    Regions,
}

impl Table {
    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Items => "items",
            Self::Bids => "bids",
            Self::BuyNow => "buy_now",
            Self::Comments => "comments",
            Self::Categories => "categories",
            Self::Regions => "regions",
        }
    }

    /// The class that stands for all of it, where tables are invalidated as a whole.
    pub fn class(self) -> &'static str {
        match self {
            Self::Users => "Users",
            Self::Items => "Items",
            Self::Bids => "Bids",
            Self::BuyNow => "BuyNow",
            Self::Comments => "Comments",
            Self::Categories => "Categories",
            Self::Regions => "Regions",
        }
    }
}

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "their statements say what they are")]
pub enum Shape {
    Categories,
    Regions,
    ItemsOfCategory,
    ItemsOfRegion,
    Item,
    BidFigures,
    BidsByAmount,
    Bid,
    User,
    UserByNickname,
    CommentsOfUser,
    SellingOfUser,
    BidsOfUser,
    BoughtByUser,
}

/// The columns of an item, first of them its id.
const ITEM: &str =
    "id, name, category, seller, initial_price, buy_now, quantity, max_bid, nb_of_bids, end_date";

impl Shape {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::Categories,
        Self::Regions,
        Self::ItemsOfCategory,
        Self::ItemsOfRegion,
        Self::Item,
        Self::BidFigures,
        Self::BidsByAmount,
        Self::Bid,
        Self::User,
        Self::UserByNickname,
        Self::CommentsOfUser,
        Self::SellingOfUser,
        Self::BidsOfUser,
        Self::BoughtByUser,
    ];

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Categories => "categories",
            Self::Regions => "regions",
            Self::ItemsOfCategory => "items of a category",
            Self::ItemsOfRegion => "items of a category in a region",
            Self::Item => "an item",
            Self::BidFigures => "number and maximum of an item's bids",
            Self::BidsByAmount => "an item's bids by amount",
            Self::Bid => "a bid",
            Self::User => "a user",
            Self::UserByNickname => "a user by nickname",
            Self::CommentsOfUser => "a user's comments",
            Self::SellingOfUser => "what a user sells",
            Self::BidsOfUser => "what a user bids on",
            Self::BoughtByUser => "what a user bought",
        }
    }

    /// The statement, with its values by place.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Categories => "SELECT id, name FROM categories ORDER BY id",
            Self::Regions => "SELECT id, name FROM regions ORDER BY id",
            Self::ItemsOfCategory => {
                "SELECT id, name, initial_price, max_bid, nb_of_bids, end_date FROM items \
                 WHERE category = ?1 AND end_date >= ?2 ORDER BY end_date, id LIMIT ?3 OFFSET ?4"
            }
            Self::ItemsOfRegion => {
                "SELECT items.id, items.name, items.initial_price, items.max_bid, items.nb_of_bids, items.end_date, \
                 users.nickname FROM items JOIN users ON items.seller = users.id \
                 WHERE items.category = ?1 AND users.region = ?2 AND items.end_date >= ?3 \
                 ORDER BY items.end_date, items.id LIMIT ?4 OFFSET ?5"
            }
            Self::Item => {
                "SELECT id, name, category, seller, initial_price, buy_now, quantity, max_bid, nb_of_bids, end_date \
                 FROM items WHERE id = ?1"
            }
            Self::BidFigures => "SELECT count(*), max(bid) FROM bids WHERE item_id = ?1",
            Self::BidsByAmount => {
                "SELECT id, user_id, item_id, bid, max_bid, date FROM bids WHERE item_id = ?1 \
                 ORDER BY max_bid DESC, id DESC LIMIT ?2"
            }
            Self::Bid => "SELECT id, user_id, item_id, bid, max_bid, date FROM bids WHERE id = ?1",
            Self::User => "SELECT id, nickname, region, rating FROM users WHERE id = ?1",
            Self::UserByNickname => "SELECT id, password FROM users WHERE nickname = ?1",
            Self::CommentsOfUser => {
                "SELECT id, from_user, item_id, rating, date, comment FROM comments WHERE to_user = ?1 \
                 ORDER BY date DESC, id DESC LIMIT ?2"
            }
            Self::SellingOfUser => {
                "SELECT id, name, max_bid, nb_of_bids, end_date FROM items WHERE seller = ?1 AND end_date >= ?2 \
                 ORDER BY end_date, id"
            }
            Self::BidsOfUser => {
                "SELECT items.id, items.name, items.max_bid, items.nb_of_bids, items.end_date, max(bids.max_bid) \
                 FROM bids JOIN items ON items.id = bids.item_id \
                 WHERE bids.user_id = ?1 AND items.end_date >= ?2 GROUP BY items.id ORDER BY items.id"
            }
            Self::BoughtByUser => {
                "SELECT buy_now.id, items.id, items.name, items.buy_now FROM buy_now JOIN items ON items.id = buy_now.item_id \
                 WHERE buy_now.buyer = ?1 ORDER BY buy_now.id"
            }
        }
    }

    /// The rows themselves that are kept one by one where lists are kept as ids: as [`Item`](Self::Item) and
    /// [`Bid`](Self::Bid) have them.
    pub fn of_many(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Item => Some((ITEM, "items")),
            Self::Bid => Some(("id, user_id, item_id, bid, max_bid, date", "bids")),
            _ => None,
        }
    }

    /// The tables that it reads.
    pub fn tables(self) -> &'static [Table] {
        match self {
            Self::Categories => &[Table::Categories],
            Self::Regions => &[Table::Regions],
            Self::ItemsOfCategory | Self::Item | Self::SellingOfUser => &[Table::Items],
            Self::ItemsOfRegion => &[Table::Items, Table::Users],
            Self::BidFigures | Self::BidsByAmount | Self::Bid => &[Table::Bids],
            Self::User | Self::UserByNickname => &[Table::Users],
            Self::CommentsOfUser => &[Table::Comments],
            Self::BidsOfUser => &[Table::Bids, Table::Items],
            Self::BoughtByUser => &[Table::BuyNow, Table::Items],
        }
    }
}

/// A value of a statement or of a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "their types say it")]
pub enum Value {
    Integer(i64),
    Text(String),
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<Value> for SqlScalar {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(value) => value.into(),
            Value::Text(value) => value.into(),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Integer(value) => value.to_sql(),
            Self::Text(value) => value.to_sql(),
        }
    }
}

/// A question: a shape and its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ask {
    /// Its shape.
    pub shape: Shape,
    /// As many as its statement has places.
    pub values: Vec<Value>,
}

impl Ask {
    /// A question.
    pub fn new(shape: Shape, values: impl IntoIterator<Item = Value>) -> Self {
        Self {
            shape,
            values: values.into_iter().collect(),
        }
    }

    /// About one row, or of one.
    pub fn by_id(shape: Shape, id: impl Into<Value>) -> Self {
        Self::new(shape, [id.into()])
    }

    /// A number among its values; nothing else stands where one is asked for.
    pub fn number(&self, place: usize) -> i64 {
        match self.values.get(place) {
            Some(Value::Integer(number)) => *number,
            _ => unreachable!("invariant: shapes have numbers in fixed places"),
        }
    }
}
