//! Invalidations: declared once, acknowledged by the own sidecar or, when that cannot answer, by another one.
//!
//! Sidecars are asked one after another: the own one first, then the others in the order configured; one that failed a
//! moment ago goes to the end of the line, and is still tried before giving up. Once its pause is over one call takes it in
//! its place in the line again, as its probe, so that a client that only writes finds its way back too; if it still hangs,
//! that call pays its deadline, at most once per pause. A sidecar that did nothing and one of
//! which nobody knows what it did are treated alike, because an invalidation may be repeated: the second event makes
//! stale what the first one made stale, and costs at most a few values their place in the cache. So an acknowledged
//! outcome can stand for more than one event; [`InvalidateOutcome::repeated`] tells. Refusals that every sidecar would
//! give (malformed classes above all) end the matter at once. Every try is remembered until the end, the first one on a
//! connection that broke included: it may have been the one that did it. A sidecar that has not seen what the session
//! names leaves the matter to the others, of which the session's issuer is one.
//!
//! The worst case takes (timeout + `invalidate_slack`, and with a session its wait) for each endpoint: the second try at an
//! endpoint has what the first one left of that.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tokio::time::Instant;

use crate::channel::{Gated, Link};
use crate::client::{Client, check_count};
use crate::error::{CallError, InvalidRequest, InvalidateError};
use crate::names::{INVALIDATE_CLASSES_MAX, check_classes};
use crate::rows::Changed;
use crate::session::Session;

/// The shortest wait for a receipt that the contract knows; 0 would mean its default.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The most classes that `match_all` takes.
pub(crate) const MATCH_ALL_CLASSES_MAX: usize = 8;

/// An invalidation to be sent: set what differs from the defaults, then `.await` it.
#[derive(Debug, Clone)]
#[must_use = "nothing is invalidated until it is awaited"]
pub struct Invalidate {
    client: Client,
    classes: Vec<String>,
    /// What changed, where that is told by rows.
    rows: Option<Changed>,
    matching: v1::Match,
    receipt: v1::ReceiptLevel,
    timeout: Duration,
    purge: v1::PurgeMode,
    session: Option<Session>,
    /// Set for the commit of a write that was begun.
    intent: Option<Bytes>,
    /// The position of the endpoint that is asked first.
    first: usize,
}

/// What an invalidation did.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidateOutcome {
    /// The event's identity.
    pub event: v1::EventId,
    /// Hand it to later reads, at any sidecar, to see this write (see [`Session::add`]).
    pub session_token: Bytes,
    /// Who has it. An unsatisfied receipt is not an error: the event is durable and spreads either way.
    pub receipt: v1::Receipt,
    /// Known addresses deleted or marked stale before the answer.
    pub addresses_purged: u64,
    /// Deletes that failed at least once and are being retried.
    pub addresses_pending: u64,
    /// Known addresses that nobody will try, because too many deletes were waiting. Their values are not served any more, and
    /// lie in the cache until their time to live ends.
    pub addresses_dropped: u64,
    /// The endpoint that acknowledged it, as configured.
    pub answered_by: Arc<str>,
    /// An earlier try, at this sidecar or at another one, may have done it as well: there may be a second event with the
    /// same effect.
    pub repeated: bool,
}

impl Client {
    /// Declares classes changed, each covering everything below it. Call it once the change is visible to the reads that
    /// fill the cache: after the commit, not before.
    ///
    /// By default any of the classes matches, the receipt is `One`, purged values are deleted, and the answer is waited
    /// for as long as the builder's `invalidate_timeout`.
    pub fn invalidate<C: Into<String>>(&self, classes: impl IntoIterator<Item = C>) -> Invalidate {
        let classes = classes.into_iter().map(Into::into).collect();
        self.invalidation(classes, None)
    }

    /// An invalidation of what is told by rows.
    pub(crate) fn changed(&self, rows: Changed) -> Invalidate {
        self.invalidation(Vec::new(), Some(rows))
    }

    fn invalidation(&self, classes: Vec<String>, rows: Option<Changed>) -> Invalidate {
        Invalidate {
            client: self.clone(),
            classes,
            rows,
            matching: v1::Match::Any,
            receipt: v1::ReceiptLevel::One,
            timeout: self.settings().invalidate_timeout,
            purge: v1::PurgeMode::Hard,
            session: None,
            intent: None,
            first: 0,
        }
    }
}

impl Invalidate {
    /// Only what belongs to every one of the classes (2 to 8 of them) is stale.
    pub fn match_all(mut self) -> Self {
        self.matching = v1::Match::All;
        self
    }

    /// Makes it the commit of a write, for which the endpoint that began it is asked first.
    pub(crate) fn of_write(mut self, intent: Bytes, first: usize) -> Self {
        self.intent = Some(intent);
        self.first = first;
        self
    }

    /// Which sidecars must have it before the answer.
    pub fn receipt(mut self, level: v1::ReceiptLevel) -> Self {
        self.receipt = level;
        self
    }

    /// How long a sidecar waits for the receipt and the first purge attempt; 1 ms to 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Marks known addresses stale where the cache can, instead of deleting them.
    pub fn soft(mut self) -> Self {
        self.purge = v1::PurgeMode::Soft;
        self
    }

    /// This write comes after what the session has seen.
    pub fn session(mut self, session: &Session) -> Self {
        self.session = (!session.is_empty()).then(|| session.clone());
        self
    }

    /// Sends it; the same as awaiting it.
    pub async fn send(self) -> Result<InvalidateOutcome, InvalidateError> {
        self.check()?;
        self.client.traced(self.ask_in_turn()).await
    }

    /// Asks sidecars until one acknowledges it.
    async fn ask_in_turn(&self) -> Result<InvalidateOutcome, InvalidateError> {
        let mut attempts = Vec::new();
        let links = self.client.links();
        for (position, link) in Line::of(links, self.first, self.deadline()) {
            match self.ask(link, &mut attempts).await {
                Ok(answer) => {
                    if position != self.first {
                        self.client.counters().invalidate_failovers.increment();
                    }
                    self.note_locally(&answer).await;
                    return Ok(outcome(answer, link, &attempts));
                }
                Err(error) if error.may_differ_elsewhere() => attempts.push(error),
                Err(error) => return Err(self.ended(error, attempts)),
            }
        }
        self.client.counters().invalidate_failures.increment();
        Err(nobody(attempts))
    }

    /// Has the local table know of it: nothing that it has from before is served from now on. Where another sidecar took the write, the own one
    /// may answer look-ups from before until it has heard: who must see it carries the session.
    async fn note_locally(&self, answer: &v1::InvalidateResponse) {
        let Some(table) = self.client.local() else {
            return;
        };
        table.note(&self.classes);
        // Which classes rows mean, and a write that was begun elsewhere, the sidecar knows.
        if self.rows.is_some() || self.intent.is_some() {
            let run = answer.event.as_ref().map(|event| &event.incarnation[..]);
            let run = run.unwrap_or_default();
            table.catch_up(run, answer.local_table_position).await;
        }
    }

    /// What a refusal that every sidecar would give comes to. It says that this try did nothing, and nothing of those before.
    fn ended(&self, error: CallError, mut attempts: Vec<CallError>) -> InvalidateError {
        if attempts.iter().any(CallError::may_have_had_effect) {
            attempts.push(error);
            self.client.counters().invalidate_failures.increment();
            return InvalidateError::NoSidecar { attempts };
        }
        match error {
            CallError::Invalid(invalid) => invalid.into(),
            error => InvalidateError::Refused(error),
        }
    }

    /// Asks one sidecar, twice if the connection broke; the first try then goes to `attempts`.
    async fn ask(
        &self,
        link: &Link,
        attempts: &mut Vec<CallError>,
    ) -> Result<v1::InvalidateResponse, CallError> {
        let deadline = self.deadline();
        let began = Instant::now();
        let first = self.ask_once(link, self.timeout, deadline).await;
        let spent = began.elapsed();
        let left = deadline.saturating_sub(spent);
        match first {
            // A connection that broke while it was idle says nothing about the sidecar: the second try makes a new one.
            Err(error @ CallError::Broken { .. }) if !left.is_zero() => {
                attempts.push(error);
                let timeout = self.timeout.saturating_sub(spent).max(TIMEOUT_MIN);
                self.ask_once(link, timeout, left).await
            }
            settled => settled,
        }
    }

    /// The most that one endpoint may take.
    fn deadline(&self) -> Duration {
        let wait = self.session.as_ref().map(Session::wait_duration);
        self.timeout + self.client.settings().invalidate_slack + wait.unwrap_or_default()
    }

    async fn ask_once(
        &self,
        link: &Link,
        timeout: Duration,
        deadline: Duration,
    ) -> Result<v1::InvalidateResponse, CallError> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let answer = match &self.rows {
            Some(rows) => self.ask_of_rows(link, rows, timeout_ms, deadline).await?,
            None => self.ask_of_classes(link, timeout_ms, deadline).await?,
        };
        if answer.event.is_none() || answer.receipt.is_none() {
            return Err(link.bad_answer("an invalidation without its event or its receipt"));
        }
        Ok(answer)
    }

    async fn ask_of_classes(
        &self,
        link: &Link,
        timeout_ms: u32,
        deadline: Duration,
    ) -> Result<v1::InvalidateResponse, CallError> {
        let request = v1::InvalidateRequest {
            classes: self.classes.clone(),
            r#match: self.matching.into(),
            receipt: self.receipt.into(),
            timeout_ms,
            purge: self.purge.into(),
            session: self.session.as_ref().map(Session::to_wire),
        };
        let mut application = link.application();
        let Some(intent) = &self.intent else {
            let call = application.invalidate(request);
            return link.call(Gated::No, deadline, call).await;
        };
        let call = application.commit_write(v1::CommitWriteRequest {
            intent: intent.clone(),
            invalidation: Some(request),
            rows: None,
        });
        let answer = link.call(Gated::No, deadline, call).await?;
        Ok(answer.outcome.unwrap_or_default())
    }

    async fn ask_of_rows(
        &self,
        link: &Link,
        rows: &Changed,
        timeout_ms: u32,
        deadline: Duration,
    ) -> Result<v1::InvalidateResponse, CallError> {
        let session = self.session.as_ref().map(Session::to_wire);
        let mut application = link.application();
        let outcome = match rows {
            Changed::Rows(call) => {
                let call = v1::RowChangedRequest {
                    receipt: self.receipt.into(),
                    timeout_ms,
                    purge: self.purge.into(),
                    session,
                    ..call.clone()
                };
                if let Some(intent) = &self.intent {
                    let call = application.commit_write(v1::CommitWriteRequest {
                        intent: intent.clone(),
                        rows: Some(call),
                        invalidation: None,
                    });
                    link.call(Gated::No, deadline, call).await?.outcome
                } else {
                    let call = application.row_changed(call);
                    link.call(Gated::No, deadline, call).await?.outcome
                }
            }
            Changed::Where(call) => {
                let call = application.invalidate_where(v1::InvalidateWhereRequest {
                    receipt: self.receipt.into(),
                    timeout_ms,
                    purge: self.purge.into(),
                    session,
                    ..call.clone()
                });
                link.call(Gated::No, deadline, call).await?.outcome
            }
        };
        Ok(outcome.unwrap_or_default())
    }

    /// Says what [`send`](Self::send) would refuse before it asks anybody.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        match &self.rows {
            None => check_classes_meant(&self.classes, self.matching)?,
            Some(rows) => rows.check(self.matching)?,
        }
        check_timeout(self.timeout)
    }
}

/// What an invalidation and a write that is begun have in common.
pub(crate) fn check_classes_meant(
    classes: &[String],
    matching: v1::Match,
) -> Result<(), InvalidRequest> {
    check_classes("classes", classes, INVALIDATE_CLASSES_MAX)?;
    if matching == v1::Match::All {
        if classes.len() < 2 {
            let reason = "match_all needs at least 2 classes; there is 1";
            return Err(InvalidRequest::one("classes", reason.to_owned()));
        }
        check_count("classes", classes.len(), MATCH_ALL_CLASSES_MAX)?;
    }
    Ok(())
}

pub(crate) fn check_timeout(timeout: Duration) -> Result<(), InvalidRequest> {
    if (1..=60_000).contains(&timeout.as_millis()) {
        return Ok(());
    }
    let reason = format!("{timeout:?} is outside 1 ms to 60 s");
    Err(InvalidRequest::one("timeout", reason))
}

impl IntoFuture for Invalidate {
    type Output = Result<InvalidateOutcome, InvalidateError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Whom to ask next: the links with their positions, those that are being left alone at the end.
pub(crate) struct Line<'a> {
    /// In the order in which they are asked.
    links: std::vec::IntoIter<(usize, &'a Arc<Link>)>,
    left_alone: VecDeque<(usize, &'a Arc<Link>)>,
    probe_for: Duration,
}

impl<'a> Line<'a> {
    /// The link at `first` comes first, the others in their order.
    pub(crate) fn of(links: &'a [Arc<Link>], first: usize, probe_for: Duration) -> Self {
        let mut links: Vec<_> = links.iter().enumerate().collect();
        links.sort_by_key(|(position, _)| *position != first);
        Self {
            links: links.into_iter(),
            left_alone: VecDeque::new(),
            probe_for,
        }
    }
}

impl<'a> Iterator for Line<'a> {
    type Item = (usize, &'a Arc<Link>);

    fn next(&mut self) -> Option<Self::Item> {
        // A gate is asked when its link's turn comes, not before: to be admitted may mean to be the probe.
        for (position, link) in self.links.by_ref() {
            if link.gate().admit(self.probe_for, Instant::now()).is_ok() {
                return Some((position, link));
            }
            self.left_alone.push_back((position, link));
        }
        self.left_alone.pop_front()
    }
}

/// What the last one waited for, if being behind a session is why none of them took the call. Where some are behind and some
/// are away, one of those may have what the session names: then being behind is not the whole reason.
pub(crate) fn all_behind(attempts: &[CallError]) -> Option<String> {
    let behind = |error: &CallError| match error {
        CallError::SessionBehind { message, .. } => Some(message.clone()),
        _ => None,
    };
    let all: Option<Vec<String>> = attempts.iter().map(behind).collect();
    all?.pop()
}

/// What it comes to when all were asked.
fn nobody(attempts: Vec<CallError>) -> InvalidateError {
    match all_behind(&attempts) {
        Some(message) => InvalidateError::SessionBehind { message },
        None => InvalidateError::NoSidecar { attempts },
    }
}

fn outcome(
    answer: v1::InvalidateResponse,
    link: &Link,
    attempts: &[CallError],
) -> InvalidateOutcome {
    InvalidateOutcome {
        event: answer.event.unwrap_or_default(),
        session_token: answer.session_token,
        receipt: answer.receipt.unwrap_or_default(),
        addresses_purged: answer.addresses_purged,
        addresses_pending: answer.addresses_pending,
        addresses_dropped: answer.addresses_dropped,
        answered_by: Arc::clone(link.name()),
        repeated: attempts.iter().any(CallError::may_have_had_effect),
    }
}
