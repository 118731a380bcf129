//! Lists as ids: the sidecar's index has the ids of a list, in order, and the cache has each row by itself. A bid changes an item, and
//! no list of items.
//!
//! The same is asked as by the statements: items of a category by the end of their auctions, an item's bids by their amounts.
//!
//! A page with an offset is cut from the list's first rows, each of which is looked at, and not found by the index's own offset: that counts
//! members, and one whose place in the order has changed is at its old place, too, until somebody looks for it there. Then the page
//! would begin one row early. An item that is sold out is such a one.

use bytes::Bytes;
use grapevine_client::{Ask as IndexAsk, IndexObjects, IndexRow, Objects, Session, Want};
use grapevine_proto::v1::sql_value::Value;
use parking_lot::Mutex;

use crate::answer::{Answer, hash};
use crate::arm::{DIALECT, Given, Node, source_of};
use crate::ask::{Ask, Shape};
use crate::catalogue::NOW;
use crate::ledger::{Key, Piece, Source};

/// Columns of an item, as its shape has them.
const ITEM_CATEGORY: usize = 2;
const ITEM_END_DATE: usize = 9;
/// The same of a bid.
const BID_ITEM: usize = 2;

/// No list is longer.
const ROWS_MAX: u64 = 1_000_000;

/// Where a row by itself is cached, and under which classes: those that `Explain` tells of its statement.
pub(crate) fn place_of(row: Shape, id: &str) -> (String, Vec<String>) {
    let (_, table) = row.of_many().expect("invariant: a shape of single rows");
    (format!("{table}::{id}"), vec![format!("{table}/:id/{id}")])
}

/// A list: which rows, of which the first value says what they have in common.
struct List<'a> {
    node: &'a Node,
    of: i64,
    row: Shape,
    /// What the database was asked, and said.
    said: Mutex<Vec<(Key, u64)>>,
}

/// Reads a list.
pub(crate) async fn read(node: &Node, ask: &Ask, session: &Session) -> anyhow::Result<Given> {
    let (of, client) = (ask.number(0), node.cached.client());
    let rows = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let (row, before, index) = if ask.shape == Shape::ItemsOfCategory {
        let (limit, before) = (ask.number(2), ask.number(3));
        let index = client.index("items", DIALECT).by("category", of);
        let index = index
            .order_by("end_date")
            .between(Some(NOW.into()), None)
            .limit(rows(before + limit));
        (Shape::Item, rows(before), index)
    } else {
        let index = client.index("bids", DIALECT).by("item_id", of);
        let index = index.order_by("max_bid").descending();
        (Shape::Bid, 0, index.limit(rows(ask.number(1))))
    };
    let list = List {
        node,
        of,
        row,
        said: Mutex::default(),
    };
    let page = index.objects(&node.cached.session(session), &list).await?;
    let said = list.said.into_inner();
    let mut source = source_of(page.how);
    if source == Source::Cache && !said.is_empty() {
        source = Source::Database;
    }
    let mut ids = Vec::with_capacity(page.objects.len());
    let mut pieces = Vec::with_capacity(page.objects.len());
    for object in page.objects.into_iter().skip(before as usize) {
        let answer = Answer::from_bytes(object.object);
        let answer = answer.ok_or_else(|| anyhow::anyhow!("row {} is no answer", object.id))?;
        let id: i64 = object.id.parse()?;
        ids.push(id);
        pieces.push(Piece {
            key: node.ledger.key(&Ask::by_id(row, id)),
            commit: answer.commit(),
            hash: answer.hash(),
        });
    }
    Ok(Given {
        pieces,
        list: Some(ids),
        source,
        said,
    })
}

impl List<'_> {
    /// The statement for the ids, whose values are what the rows have in common, the least of what they are ordered by, and how many.
    fn sql(&self) -> &'static str {
        if self.row == Shape::Item {
            "SELECT id, end_date FROM items WHERE category = ?1 AND end_date >= ?2 ORDER BY end_date, id LIMIT ?3"
        } else {
            "SELECT id, max_bid FROM bids WHERE item_id = ?1 AND max_bid >= ?2 ORDER BY max_bid DESC, id DESC LIMIT ?3"
        }
    }

    /// Notes what the database said of the ids of the whole list, by a question that nobody else asks.
    fn note_ids(&self, rows: &[IndexRow]) {
        let said = hash(format!("{rows:?}").as_bytes());
        let ids_of = Ask::new(self.row, [self.of.into(), 0_u32.into()]);
        let key = self.node.ledger.key(&ids_of);
        self.said.lock().push((key, said));
    }
}

impl IndexObjects for List<'_> {
    type Error = rusqlite::Error;

    fn address(&self, id: &str) -> String {
        place_of(self.row, id).0
    }

    fn classes(&self, id: &str) -> Vec<String> {
        place_of(self.row, id).1
    }

    fn meets(&self, _: &str, object: &Bytes) -> bool {
        let Some(answer) = Answer::from_bytes(object.clone()) else {
            return false;
        };
        if self.row == Shape::Bid {
            return answer.numbers(BID_ITEM) == [self.of];
        }
        let ends = answer.numbers(ITEM_END_DATE);
        answer.numbers(ITEM_CATEGORY) == [self.of] && ends.iter().all(|ends| *ends >= NOW)
    }

    async fn ids(&self, want: Want) -> Result<Vec<IndexRow>, Self::Error> {
        let from = want.from.and_then(|from| from.value);
        let least = match from {
            Some(Value::Integer(least)) => least,
            _ => i64::MIN,
        };
        let count = want.rows.unwrap_or(ROWS_MAX).min(ROWS_MAX);
        let count = i64::try_from(count).expect("invariant: at most a million");
        let values = vec![self.of, least, count];
        let rows = self.node.database.ids(self.sql(), values).await?;
        self.note_ids(&rows);
        Ok(rows)
    }

    async fn objects(&self, ask: IndexAsk) -> Result<Objects, Self::Error> {
        let found = self.node.database.read_many(self.row, ask.ids).await?;
        let mut said = Vec::with_capacity(found.len());
        for (id, answer) in &found {
            let id: i64 = id.parse().expect("invariant: ids are numbers here");
            let key = self.node.ledger.key(&Ask::by_id(self.row, id));
            said.push((key, answer.hash()));
        }
        self.said.lock().extend(said);
        let rows = found.into_iter();
        Ok(Objects::in_primary(
            rows.map(|(id, answer)| (id, answer.to_bytes())),
        ))
    }
}
