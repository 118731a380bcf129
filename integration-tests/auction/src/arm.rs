//! The ways of caching that a run compares, and a node of each: it reads, and tells of writes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use grapevine_cache::Cache;
use grapevine_client::{CachedClient, Fill, GetOutcome, How, Invalidate, Session};
use grapevine_proto::v1;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use crate::answer::Answer;
use crate::ask::{Ask, Shape, Table};
use crate::database::{Database, Written};
use crate::ledger::{Begun, Key, Ledger, Piece, Read, Source};
use crate::lists;
use crate::write::Change;

/// The statements' dialect.
pub(crate) const DIALECT: v1::SqlDialect = v1::SqlDialect::Sqlite;

/// A way of caching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// Grapevine: answers by their statements, writes by their rows.
    Grapevine,
    /// The same, and lists of rows as ids in an index, with their rows one by one.
    Lists,
    /// Grapevine's own classes, one for each table.
    Tables,
    /// No invalidation, a short time to live.
    Timeouts,
}

impl Arm {
    /// Every one, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Grapevine, Self::Lists, Self::Tables, Self::Timeouts];

    /// Whether no read may be stale.
    pub fn promises_writes(self) -> bool {
        self != Self::Timeouts
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Grapevine => "grapevine",
            Self::Lists => "grapevine-lists",
            Self::Tables => "table-level",
            Self::Timeouts => "timeouts-only",
        })
    }
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|arm| arm.to_string() == name);
        named.ok_or_else(|| {
            format!("`{name}` is none of grapevine, grapevine-lists, table-level, timeouts-only")
        })
    }
}

/// A node: what one process of the application has.
pub struct Node {
    /// The way of caching.
    pub arm: Arm,
    /// The client of this node's sidecar, with the cache.
    pub cached: CachedClient,
    /// The database.
    pub database: Database,
    /// The arm's book.
    pub ledger: Arc<Ledger>,
    /// How far a write must have come before it counts as told.
    pub receipt: v1::ReceiptLevel,
    /// How long an answer lives where nothing else ends it.
    pub ttl: Duration,
    /// Rows of this table are not told: for tests, which must see it.
    pub untold: Option<Table>,
}

/// What a read was given.
pub(crate) struct Given {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) list: Option<Vec<i64>>,
    pub(crate) source: Source,
    /// What the database was asked, and said.
    pub(crate) said: Vec<(Key, u64)>,
}

impl Node {
    /// Asks, for a session that has made these commits.
    pub async fn read(&self, ask: &Ask, session: &Session, owed: &[u32]) -> anyhow::Result<Read> {
        let begun = self.ledger.begin(ask);
        let given = match (self.arm, ask.shape) {
            (Arm::Timeouts, _) => self.read_while_it_lives(ask, begun.key).await,
            (Arm::Tables, _) => self.read_by_tables(ask, session, begun.key).await,
            (Arm::Lists, Shape::ItemsOfCategory | Shape::BidsByAmount) => {
                lists::read(self, ask, session).await
            }
            (Arm::Lists, Shape::Item) => {
                let id = ask.number(0).to_string();
                let (address, classes) = lists::place_of(Shape::Item, &id);
                self.read_in_classes(ask, session, begun.key, &address, &classes)
                    .await
            }
            (Arm::Lists | Arm::Grapevine, _) => self.read_by_sql(ask, session, begun.key).await,
        };
        let given = given.with_context(|| format!("{ask:?} was not answered"))?;
        Ok(self.noted(begun, given, owed))
    }

    fn noted(&self, begun: Begun, given: Given, owed: &[u32]) -> Read {
        let again = self.ledger.fill(begun, &given.said);
        Read {
            key: begun.key,
            began: begun.began,
            told: begun.told,
            until: self.database.commits(),
            owed: owed.to_vec(),
            pieces: given.pieces,
            list: given.list,
            source: given.source,
            needless: again && given.source == Source::Database,
        }
    }

    async fn read_by_sql(&self, ask: &Ask, session: &Session, key: Key) -> anyhow::Result<Given> {
        let said = Mutex::new(None);
        let cached = self.cached.session(session);
        let fill = |_: Fill| self.ask_database(ask, &said);
        let outcome = cached
            .cached_query(ask.shape.sql(), ask.values.clone(), None, fill)
            .await?;
        one_piece(key, outcome, said.into_inner())
    }

    async fn read_by_tables(
        &self,
        ask: &Ask,
        session: &Session,
        key: Key,
    ) -> anyhow::Result<Given> {
        let tables = ask.shape.tables().iter();
        let classes: Vec<_> = tables.map(|table| table.class().to_owned()).collect();
        self.read_in_classes(ask, session, key, &address(ask), &classes)
            .await
    }

    async fn read_in_classes(
        &self,
        ask: &Ask,
        session: &Session,
        key: Key,
        address: &str,
        classes: &[String],
    ) -> anyhow::Result<Given> {
        let said = Mutex::new(None);
        let cached = self.cached.session(session);
        let fill = |_: Fill| self.ask_database(ask, &said);
        let outcome = cached.get_or_fill(address, classes, None, fill).await?;
        one_piece(key, outcome, said.into_inner())
    }

    async fn ask_database(
        &self,
        ask: &Ask,
        said: &Mutex<Option<Answer>>,
    ) -> rusqlite::Result<Bytes> {
        let answer = self.database.read(ask.clone()).await?;
        *said.lock() = Some(answer.clone());
        Ok(answer.to_bytes())
    }

    /// As is done without Grapevine: look, ask, store.
    async fn read_while_it_lives(&self, ask: &Ask, key: Key) -> anyhow::Result<Given> {
        let (cache, address): (&Arc<dyn Cache>, _) = (self.cached.cache(), address(ask));
        let found = cache.get(&address).await?;
        let (answer, said) = if let Some(answer) = found.and_then(Answer::from_bytes) {
            (answer, None)
        } else {
            let answer = self.database.read(ask.clone()).await?;
            cache.set(&address, answer.to_bytes(), self.ttl).await?;
            (answer.clone(), Some(answer))
        };
        let source = said.as_ref().map_or(Source::Cache, |_| Source::Database);
        Ok(given(key, &answer, source, said))
    }

    /// Tells of a write once it is committed. Answers the session token, where there is one.
    pub async fn tell(
        &self,
        written: &Written,
        session: &Session,
    ) -> anyhow::Result<Option<Bytes>> {
        let told: Vec<&Change> = written
            .changes
            .iter()
            .filter(|change| Some(change.table) != self.untold)
            .collect();
        if told.is_empty() {
            return Ok(None);
        }
        let client = self.cached.client();
        let call: Invalidate = match self.arm {
            Arm::Timeouts => return Ok(None),
            Arm::Tables => client.invalidate(told.iter().map(|change| change.table.class())),
            Arm::Grapevine | Arm::Lists => {
                let rows: Vec<_> = told.into_iter().map(Change::to_wire).collect();
                client.row_changed(DIALECT, rows)
            }
        };
        let outcome = call.receipt(self.receipt).session(session).await?;
        ensure!(
            outcome.receipt.satisfied,
            "the receipt of commit {} was not reached: {:?}",
            written.commit,
            outcome.receipt
        );
        Ok(Some(outcome.session_token))
    }
}

fn one_piece(key: Key, outcome: GetOutcome, said: Option<Answer>) -> anyhow::Result<Given> {
    let answer = Answer::from_bytes(outcome.value).context("it is no answer")?;
    Ok(given(key, &answer, source_of(outcome.how), said))
}

fn given(key: Key, answer: &Answer, source: Source, said: Option<Answer>) -> Given {
    let piece = Piece {
        key,
        commit: answer.commit(),
        hash: answer.hash(),
    };
    Given {
        pieces: vec![piece],
        list: None,
        source,
        said: said.map(|said| (key, said.hash())).into_iter().collect(),
    }
}

/// Where a value came from, in the words of the ledger.
pub(crate) fn source_of(how: How) -> Source {
    match how {
        How::Hit | How::Stale | How::Waited => Source::Cache,
        How::Filled => Source::Database,
        How::Bypassed(_) => Source::Bypass,
    }
}

/// The cache address of a question, for those who make it themselves.
fn address(ask: &Ask) -> String {
    let values = format!("{:?}", ask.values);
    format!(
        "auction::{:?}::{:032x}",
        ask.shape,
        xxh3_128(values.as_bytes())
    )
}
