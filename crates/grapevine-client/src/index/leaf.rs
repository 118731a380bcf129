//! The calls themselves: reading a leaf, telling what the database has, and having members removed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tokio::time::Instant;

use super::{Cursor, INDEX_ID_BYTES_MAX, Index, IndexRow};
use crate::batcher::BATCH_BYTES_MAX;
use crate::channel::{Gated, Link};
use crate::client::Client;
use crate::error::{CallError, InvalidRequest, ResolveError};

/// The most rows in one call.
const FILL_ROWS_MAX: usize = 10_000;
/// The most places in one call.
const PRUNE_PLACES_MAX: usize = 1_000;

/// What a sidecar knows of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafState {
    /// These members.
    Present,
    /// Nothing: read the database.
    Absent,
    /// It cannot show that it is fresh, and policy says not to rely on it then: read the database.
    Bypass,
}

/// A page of a leaf, as a sidecar knows it.
#[derive(Debug)]
pub struct LeafPage {
    /// Whether anything is known.
    pub state: LeafState,
    /// The members, in the leaf's order.
    pub members: Vec<LeafMember>,
    /// These are as many as were asked for, or all that there are. Otherwise the leaf goes on where nothing is known: read the
    /// database.
    pub complete: bool,
    /// There are more behind them.
    pub more: bool,
    /// Where to go on; `None` without members.
    pub next: Option<Cursor>,
    /// Members left out by [`Index::verified`].
    pub filtered: u32,
    /// Whether the sidecar could show that it is fresh.
    pub freshness: v1::Freshness,
    /// Why not, for people.
    pub freshness_reason: String,
    /// One for each leaf that this caller is to load. Others are told to wait for it until it ends: use it, and soon.
    pub loads: Vec<LoadRight>,
    /// Another caller loads one: when to look again.
    pub retry_after: Option<Duration>,
    /// With members, but for those of [`Index::and`]: to have some of them removed.
    pub evidence: Option<Evidence>,
    /// The endpoint that answered, as configured.
    pub answered_by: Arc<str>,
}

/// A member of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafMember {
    /// The row's id.
    pub id: String,
    /// The newest version of it that is known to be in the leaf; 0 if none is.
    pub version: u64,
    /// Where it is, for [`Evidence::prune`].
    pub place: Bytes,
}

/// How much of a leaf its rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafExtent {
    /// All that there are.
    Whole,
    /// The first ones, in the leaf's order: by `order_by` and then by id, in the same direction, or rows would be lacking where the
    /// last ones are equal. For leaves by id, by numbers below 2^53 and by times: a database orders other columns in its own way.
    First {
        /// How many members it is to have at least; with fewer left, a reader is asked to load it anew. 0: as many as came.
        keep: u32,
    },
}

/// What telling a leaf's rows came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafFill {
    /// The leaf is present.
    Stored,
    /// Something changed meanwhile that could not be followed: what was read may be shown, and is not kept.
    Condemned,
    /// The right is over.
    Over,
}

/// Whom to call.
#[derive(Clone)]
struct Pin {
    client: Client,
    link: Arc<Link>,
}

/// The right to load a leaf, at the sidecar that gave it.
pub struct LoadRight {
    pin: Pin,
    leaf: v1::IndexLeaf,
    number: usize,
    load: Bytes,
    ends: Instant,
    read_primary: bool,
}

/// The moment of a sidecar's answer about a leaf, to have members of it removed there. It says nothing by itself: whoever uses it
/// says that the rows were read in the primary database, by a read that began after that answer, and do not meet the criterion.
#[derive(Clone)]
pub struct Evidence {
    pin: Pin,
    leaves: Vec<v1::IndexLeaf>,
    moment: Bytes,
}

impl fmt::Debug for LoadRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadRight")
            .field("sidecar", self.pin.link.name())
            .field("remaining", &self.remaining())
            .field("read_primary", &self.read_primary)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence")
            .field("sidecar", self.pin.link.name())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Asks what is known of this part of the leaf. For every error but `Invalid`, and for every state but `Present`: read the
    /// database.
    ///
    /// The own sidecar is asked; if it says at once that it cannot answer, the others in turn, all within the client's
    /// `resolve_deadline` and the wait of the session. An answer may give the right to load the leaf; who will not use it
    /// should not ask, since others wait for it.
    pub async fn read(&self) -> Result<LeafPage, ResolveError> {
        let request = self.request()?;
        self.client.traced(self.read_in_turn(request)).await
    }

    /// Asks sidecars until one answers.
    async fn read_in_turn(&self, request: v1::IndexReadRequest) -> Result<LeafPage, ResolveError> {
        let deadline = self.client.settings().resolve_deadline + self.session.extra();
        let end = Instant::now() + deadline;
        let mut first_error = None;
        for link in self.client.links() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.read_at(link, request.clone(), left).await {
                Ok(page) => return Ok(page),
                Err(error) if error.may_differ_elsewhere() => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let late = || CallError::Deadline {
            endpoint: Arc::clone(self.client.own().name()),
            deadline,
        };
        Err(first_error.unwrap_or_else(late).into())
    }

    pub(super) async fn read_at(
        &self,
        link: &Arc<Link>,
        request: v1::IndexReadRequest,
        deadline: Duration,
    ) -> Result<LeafPage, CallError> {
        self.client.counters().index_reads.increment();
        let mut application = link.application();
        let call = application.index_read(request);
        let answer = link.call(Gated::Yes, deadline, call).await?;
        self.page(link, answer)
    }

    fn page(&self, link: &Arc<Link>, answer: v1::IndexReadResponse) -> Result<LeafPage, CallError> {
        let state = match answer.state() {
            v1::IndexState::Present => LeafState::Present,
            v1::IndexState::Absent => LeafState::Absent,
            v1::IndexState::Bypass => LeafState::Bypass,
            v1::IndexState::Unspecified => {
                return Err(link.bad_answer("a leaf of which it is not said what is known"));
            }
        };
        if answer.members.len() > self.limit as usize {
            let (count, limit) = (answer.members.len(), self.limit);
            return Err(link.bad_answer(format!("{count} members where {limit} were asked for")));
        }
        let pin = || Pin {
            client: self.client.clone(),
            link: Arc::clone(link),
        };
        let leaves = self.leaves();
        let mut loads = Vec::new();
        for turn in answer.turns.iter().filter(|turn| !turn.load.is_empty()) {
            let number = turn.leaf as usize;
            let Some(leaf) = leaves.get(number) else {
                return Err(link.bad_answer(format!("a right to load leaf {number}")));
            };
            loads.push(LoadRight {
                pin: pin(),
                leaf: leaf.clone(),
                number,
                load: turn.load.clone(),
                ends: Instant::now() + Duration::from_millis(turn.lease_ms.into()),
                read_primary: turn.read_primary,
            });
        }
        let passed = self.passed().saturating_add(answer.members.len() as u64);
        let last = answer.members.last();
        let next = last.map(|last| Cursor::new(answer.next_cursor.clone(), &last.id, passed));
        let freshness = answer.freshness();
        let waits = answer.turns.iter().map(|turn| turn.retry_after_ms);
        let wait = waits.filter(|millis| *millis > 0).max();
        let evidence = (!answer.evidence.is_empty() && !self.is_intersection()).then(|| Evidence {
            pin: pin(),
            leaves,
            moment: answer.evidence,
        });
        let members = answer.members.into_iter().map(|member| LeafMember {
            id: member.id,
            version: member.version,
            place: member.place,
        });
        Ok(LeafPage {
            state,
            members: members.collect(),
            complete: answer.complete,
            more: answer.more,
            next,
            filtered: answer.filtered,
            freshness,
            freshness_reason: answer.freshness_reason,
            loads,
            retry_after: wait.map(|millis| Duration::from_millis(millis.into())),
            evidence,
            answered_by: Arc::clone(link.name()),
        })
    }
}

impl LoadRight {
    /// How long it holds. Rows that are told later are not kept.
    pub fn remaining(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Whether to read the primary: a replica may lag behind what the sidecar has applied.
    pub fn read_primary(&self) -> bool {
        self.read_primary
    }

    /// Which leaf it is of: 0 for the index's own criteria, from 1 those of [`Index::or`] or [`Index::and`].
    pub fn part(&self) -> usize {
        self.number
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.pin.link
    }

    /// Tells the leaf's rows, as a read of the database has them that began after the right was given. They travel in calls of up to
    /// 10,000; each takes at most the client's `commit_deadline`.
    pub async fn fill(
        self,
        rows: Vec<IndexRow>,
        extent: LeafExtent,
    ) -> Result<LeafFill, CallError> {
        check_rows(&self.leaf, &rows, extent)?;
        self.pin
            .client
            .traced(self.fill_in_parts(rows, extent))
            .await
    }

    async fn fill_in_parts(
        &self,
        rows: Vec<IndexRow>,
        extent: LeafExtent,
    ) -> Result<LeafFill, CallError> {
        let mut rows = rows.into_iter().peekable();
        loop {
            if self.remaining().is_zero() {
                return Ok(LeafFill::Over);
            }
            let part = take_part(&mut rows);
            match self.send(part, rows.peek().is_some(), extent).await? {
                v1::IndexFillOutcome::More => {}
                v1::IndexFillOutcome::Stored => {
                    self.pin.client.counters().index_fills.increment();
                    return Ok(LeafFill::Stored);
                }
                v1::IndexFillOutcome::Condemned => return Ok(LeafFill::Condemned),
                v1::IndexFillOutcome::Over => return Ok(LeafFill::Over),
                v1::IndexFillOutcome::Unspecified => {
                    return Err(self.pin.link.bad_answer("a fill without its outcome"));
                }
            }
        }
    }

    async fn send(
        &self,
        rows: Vec<IndexRow>,
        more: bool,
        extent: LeafExtent,
    ) -> Result<v1::IndexFillOutcome, CallError> {
        let (partial, keep) = match extent {
            LeafExtent::Whole => (false, 0),
            LeafExtent::First { keep } => (true, keep),
        };
        let request = v1::IndexFillRequest {
            leaf: Some(self.leaf.clone()),
            load: self.load.clone(),
            rows: rows.into_iter().map(IndexRow::into_wire).collect(),
            more,
            partial,
            keep,
        };
        let deadline = self.pin.client.settings().commit_deadline;
        let mut application = self.pin.link.application();
        let call = application.index_fill(request);
        let answer = self.pin.link.call(Gated::Yes, deadline, call).await?;
        let outcome = answer.outcome();
        if (outcome == v1::IndexFillOutcome::More) != more
            && !matches!(
                outcome,
                v1::IndexFillOutcome::Condemned | v1::IndexFillOutcome::Over
            )
        {
            let what = format!("{outcome:?} to a part of a fill with more: {more}");
            return Err(self.pin.link.bad_answer(what));
        }
        Ok(outcome)
    }
}

/// Cuts off what goes into one call: one row at least, if there is one.
fn take_part(rows: &mut std::iter::Peekable<std::vec::IntoIter<IndexRow>>) -> Vec<IndexRow> {
    let mut part = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next_if(|row| {
        part.is_empty() || part.len() < FILL_ROWS_MAX && bytes + row.bytes() <= BATCH_BYTES_MAX
    }) {
        bytes += row.bytes();
        part.push(row);
    }
    part
}

/// Says what a sidecar would refuse, and what it could not see: first rows that are out of order.
pub(super) fn check_rows(
    leaf: &v1::IndexLeaf,
    rows: &[IndexRow],
    extent: LeafExtent,
) -> Result<(), InvalidRequest> {
    let partial = matches!(extent, LeafExtent::First { .. });
    if partial && rows.is_empty() {
        let reason = "the first rows of a leaf are at least one; none are the whole of it";
        return Err(InvalidRequest::one("rows", reason.to_owned()));
    }
    for (at, row) in rows.iter().enumerate() {
        let bytes = row.id.len();
        if !(1..=INDEX_ID_BYTES_MAX).contains(&bytes) {
            let reason = format!("{bytes} bytes are outside 1 to {INDEX_ID_BYTES_MAX}");
            return Err(InvalidRequest::one(&format!("rows[{at}].id"), reason));
        }
        if row.order.is_some() == leaf.order_by.is_empty() {
            let reason = match &row.order {
                Some(_) => "the index has no order_by".to_owned(),
                None => format!("it must have the value of {}", leaf.order_by),
            };
            return Err(InvalidRequest::one(&format!("rows[{at}].order"), reason));
        }
    }
    let pairs = rows.windows(2).enumerate();
    for (at, pair) in pairs.filter(|_| partial) {
        let in_order = match pair[0].id_order().cmp(&pair[1].id_order()) {
            std::cmp::Ordering::Less => !leaf.descending,
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => leaf.descending,
        };
        if pair[0].order == pair[1].order && !in_order {
            let reason = format!(
                "{} comes behind {}, which is equal in the order: order by ids next, in the same direction, or first rows may be lacking",
                pair[1].id, pair[0].id
            );
            return Err(InvalidRequest::one(&format!("rows[{}]", at + 1), reason));
        }
    }
    Ok(())
}

impl Evidence {
    /// Has members removed, by their places, and tells how many were; those that were added again meanwhile stay. They travel in calls
    /// of up to 1,000; each takes at most the client's `resolve_deadline`. That none is removed is no error: the sidecar may have
    /// restarted. Of leaves that were [read together](Index::or) they are removed from each.
    ///
    /// Only for rows that the *primary database* showed not to meet the criterion, or to be gone, in a read that began *after* the
    /// answer that this came with. What a cache or a replica shows, or a transaction that had begun before, is no evidence: a row
    /// that came back would be lost.
    pub async fn prune(&self, places: &[Bytes]) -> Result<u64, CallError> {
        self.pin.client.traced(self.prune_in_parts(places)).await
    }

    async fn prune_in_parts(&self, places: &[Bytes]) -> Result<u64, CallError> {
        let mut removed = 0;
        for leaf in &self.leaves {
            for places in places.chunks(PRUNE_PLACES_MAX) {
                removed += self.prune_part(leaf, places).await?;
            }
        }
        self.pin.client.counters().index_pruned.add(removed);
        Ok(removed)
    }

    async fn prune_part(&self, leaf: &v1::IndexLeaf, places: &[Bytes]) -> Result<u64, CallError> {
        let request = v1::IndexPruneRequest {
            leaf: Some(leaf.clone()),
            evidence: self.moment.clone(),
            places: places.to_vec(),
        };
        let deadline = self.pin.client.settings().resolve_deadline;
        let mut application = self.pin.link.application();
        let call = application.index_prune(request);
        let answer = self.pin.link.call(Gated::Yes, deadline, call).await?;
        Ok(answer.removed.into())
    }
}
