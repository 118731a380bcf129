//! Writes that are declared before the database commits them: [`Client::begin_write`], [`WriteIntent::commit`],
//! [`WriteIntent::abort`].
//!
//! An invalidation after the commit is lost when the application dies between the two. A write that was begun is bumped
//! whatever happens: by its commit, or when its lease ends, by the sidecar that took it or by a peer of it.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use thiserror::Error;
use tokio::time::Instant;

use crate::channel::{Gated, Link};
use crate::client::{Client, check_count};
use crate::error::{CallError, InvalidRequest, list, without_field};
use crate::invalidate::{Invalidate, Line, all_behind, check_classes_meant, check_timeout};
use crate::rows::{CHANGES_MAX, check_matching};
use crate::session::Session;

/// The shortest lease of a write.
pub const WRITE_LEASE_MIN: Duration = Duration::from_millis(100);
/// The longest lease of a write.
pub const WRITE_LEASE_MAX: Duration = Duration::from_mins(10);

/// A write to be begun: set what differs from the defaults, then `.await` it.
#[derive(Debug, Clone)]
#[must_use = "nothing is begun until it is awaited"]
pub struct BeginWrite {
    client: Client,
    what: What,
    matching: v1::Match,
    purge: v1::PurgeMode,
    lease: Option<Duration>,
    timeout: Duration,
    session: Session,
}

/// What a write changes.
#[derive(Debug, Clone)]
enum What {
    Classes(Vec<String>),
    Rows(v1::SqlDialect, Vec<v1::RowChange>),
}

/// A write that was begun and has not ended.
///
/// Commit the database's transaction, then [`commit`](Self::commit) this. If the transaction failed for certain,
/// [`abort`](Self::abort) it.
///
/// **Dropping it does neither**: the intent stays open and its classes are bumped when the lease ends. A guard is
/// dropped also by an error on the way out, by a panic or by a cancelled task, and then nobody knows whether the
/// database has committed: an abort would leave stale values, a bump costs a few hits.
///
/// **The database transaction's own timeout must lie below the lease** ([`remaining`](Self::remaining)): a transaction
/// that becomes visible after the lease has ended, of an application that dies before `commit`, leaves stale values.
#[derive(Debug)]
#[must_use = "an intent that is neither committed nor aborted is bumped when its lease ends"]
pub struct WriteIntent {
    call: BeginWrite,
    intent: Bytes,
    /// The endpoint that began it.
    position: usize,
    /// From before the call that began it was made.
    ends: Instant,
    lease: Duration,
    begun_by: Arc<str>,
}

/// What an abort came to.
#[derive(Debug, Clone, PartialEq)]
pub enum AbortOutcome {
    /// It came in time: nothing was bumped.
    NothingBumped,
    /// The write had ended before, and its classes were bumped.
    Bumped {
        /// The bump.
        event: v1::EventId,
    },
    /// The sidecar that answered did not begin the write, or remembers it no longer: its classes may have been bumped,
    /// or will be when the lease ends.
    Unknown,
}

/// Why a write was not begun. Do not commit it to the database, or invalidate afterwards and live with the gap.
#[derive(Debug, Clone, Error)]
pub enum BeginWriteError {
    /// The classes or a setting are malformed. Correct the caller.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// No sidecar that could be asked has applied what the session has seen, and all answered. Nothing was begun; ask again.
    #[error(
        "no sidecar has caught up with the session: {}",
        without_field(message)
    )]
    SessionBehind {
        /// For what the last one waited.
        message: String,
    },
    /// A sidecar refused for a reason that every other one would have too.
    #[error(transparent)]
    Refused(CallError),
    /// No sidecar began it. One that gave no clear answer may have, and then bumps when the lease ends, which harms
    /// nothing.
    #[error("no sidecar began the write: {}", list(.attempts))]
    NoSidecar {
        /// One entry per attempt, in order.
        attempts: Vec<CallError>,
    },
}

impl BeginWriteError {
    /// How long to wait before asking again, where a sidecar said so.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::NoSidecar { attempts } = self else {
            return None;
        };
        attempts.iter().filter_map(CallError::retry_after).min()
    }
}

impl Client {
    /// Declares a write before the database commits it, so that its classes are bumped even if this process dies right
    /// after the commit. When it fails, refuse the write: nobody would bump for it.
    ///
    /// By default any of the classes matches, purged values are deleted, the lease is the sidecar's
    /// (`lease.write_duration`), and a peer is waited for as long as the builder's `invalidate_timeout`. Another sidecar
    /// takes it when the own one does not.
    ///
    /// ```no_run
    /// # async fn example(client: grapevine_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// # struct Transaction;
    /// # impl Transaction { async fn commit(self) -> Result<(), std::io::Error> { Ok(()) } }
    /// # async fn update_cart(_: std::time::Duration) -> Result<Transaction, std::io::Error> { Ok(Transaction) }
    /// let write = client.begin_write(["get_items_in_cart/13"]).await?;
    /// // The transaction must not outlive the lease.
    /// let transaction = update_cart(write.remaining() / 2).await?;
    /// transaction.commit().await?;
    /// write.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_write<C: Into<String>>(&self, classes: impl IntoIterator<Item = C>) -> BeginWrite {
        let classes = classes.into_iter().map(Into::into);
        self.begin(What::Classes(classes.collect()))
    }

    /// The same for a write of rows (1 to 32), by what is known of them as they are and as they will be: what
    /// [`row_changed`](Self::row_changed) would tell behind it. Until the write ends, leaves of [indices](Self::index) show the rows where they
    /// will be as well, at every sidecar that hears of it, and nobody removes them; if it ends with its lease, leaves that they may
    /// concern are absent.
    ///
    /// What the application has cached under classes of its own names is not bumped by it.
    pub fn begin_row_write(
        &self,
        dialect: v1::SqlDialect,
        changes: impl IntoIterator<Item = v1::RowChange>,
    ) -> BeginWrite {
        self.begin(What::Rows(dialect, changes.into_iter().collect()))
    }

    fn begin(&self, what: What) -> BeginWrite {
        BeginWrite {
            client: self.clone(),
            what,
            matching: v1::Match::Any,
            purge: v1::PurgeMode::Hard,
            lease: None,
            timeout: self.settings().invalidate_timeout,
            session: Session::new(),
        }
    }

    /// Ends a write that another process or an earlier run of this one began: a commit by its intent and classes. A write that was begun by
    /// rows is to be ended by rows ([`commit_row_write`](Self::commit_row_write)), or the leaves that they may concern are absent.
    pub fn commit_write<C: Into<String>>(
        &self,
        intent: impl Into<Bytes>,
        classes: impl IntoIterator<Item = C>,
    ) -> Invalidate {
        self.invalidate(classes).of_write(intent.into(), 0)
    }

    /// The same by the rows that were written.
    pub fn commit_row_write(
        &self,
        intent: impl Into<Bytes>,
        dialect: v1::SqlDialect,
        changes: impl IntoIterator<Item = v1::RowChange>,
    ) -> Invalidate {
        self.row_changed(dialect, changes)
            .of_write(intent.into(), 0)
    }

    /// Ends a write that another process or an earlier run of this one began: an abort by its intent.
    pub async fn abort_write(&self, intent: impl Into<Bytes>) -> Result<AbortOutcome, CallError> {
        self.traced(abort(self, &intent.into(), 0)).await
    }
}

impl BeginWrite {
    /// Only what belongs to every one of the classes (2 to 8 of them) is written.
    pub fn match_all(mut self) -> Self {
        self.matching = v1::Match::All;
        self
    }

    /// Marks known addresses stale where the cache can, instead of deleting them.
    pub fn soft(mut self) -> Self {
        self.purge = v1::PurgeMode::Soft;
        self
    }

    /// How long the database may take to commit; 100 ms to 10 min. Raising it leaves what a process that died had written
    /// stale for so much longer.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// How long a sidecar waits for a peer to hold the intent; 1 ms to 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// This write comes after what the session has seen.
    pub fn session(mut self, session: &Session) -> Self {
        self.session = session.clone();
        self
    }

    /// Says what [`send`](Self::send) would refuse before it asks anybody.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        match &self.what {
            What::Classes(classes) => check_classes_meant(classes, self.matching)?,
            What::Rows(_, changes) => {
                check_count("changes", changes.len(), CHANGES_MAX)?;
                check_matching(self.matching)?;
            }
        }
        check_timeout(self.timeout)?;
        if let Some(lease) = self.lease
            && !(WRITE_LEASE_MIN..=WRITE_LEASE_MAX).contains(&lease)
        {
            let reason = format!("{lease:?} is outside 100 ms to 10 min");
            return Err(InvalidRequest::one("lease", reason));
        }
        Ok(())
    }

    /// Sends it; the same as awaiting it.
    pub async fn send(self) -> Result<WriteIntent, BeginWriteError> {
        self.check()?;
        let client = self.client.clone();
        client.traced(self.ask_in_turn()).await
    }

    /// Asks sidecars until one begins it.
    async fn ask_in_turn(self) -> Result<WriteIntent, BeginWriteError> {
        let mut attempts = Vec::new();
        for (position, link) in Line::of(self.client.links(), 0, self.deadline()) {
            // Each sidecar counts the lease from when it is asked; so does this one, and no later.
            let began = Instant::now();
            match self.ask(link).await {
                Ok(answer) => {
                    let lease = Duration::from_millis(answer.lease_ms.into());
                    return Ok(WriteIntent {
                        intent: answer.intent,
                        position,
                        ends: began + lease,
                        lease,
                        begun_by: Arc::clone(link.name()),
                        call: self,
                    });
                }
                Err(error) if error.may_differ_elsewhere() => attempts.push(error),
                Err(CallError::Invalid(invalid)) => return Err(invalid.into()),
                Err(error) => return Err(BeginWriteError::Refused(error)),
            }
        }
        Err(match all_behind(&attempts) {
            Some(message) => BeginWriteError::SessionBehind { message },
            None => BeginWriteError::NoSidecar { attempts },
        })
    }

    /// The most that one endpoint may take.
    fn deadline(&self) -> Duration {
        self.timeout + self.client.settings().invalidate_slack + self.session.extra()
    }

    /// Asks one sidecar, twice if the connection broke: what the first try may have begun ends with its lease.
    async fn ask(&self, link: &Link) -> Result<v1::BeginWriteResponse, CallError> {
        let deadline = self.deadline();
        let began = Instant::now();
        let first = self.ask_once(link, deadline).await;
        let left = deadline.saturating_sub(began.elapsed());
        match first {
            Err(CallError::Broken { .. }) if !left.is_zero() => self.ask_once(link, left).await,
            settled => settled,
        }
    }

    async fn ask_once(
        &self,
        link: &Link,
        deadline: Duration,
    ) -> Result<v1::BeginWriteResponse, CallError> {
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let (classes, dialect, changes) = match self.what.clone() {
            What::Classes(classes) => (classes, v1::SqlDialect::Unspecified, Vec::new()),
            What::Rows(dialect, changes) => (Vec::new(), dialect, changes),
        };
        let request = v1::BeginWriteRequest {
            classes,
            r#match: self.matching.into(),
            purge: self.purge.into(),
            lease_ms: self.lease.map_or(0, millis),
            timeout_ms: millis(self.timeout),
            changes,
            dialect: dialect.into(),
        };
        let mut application = link.application();
        let call = application.begin_write(self.session.request(request));
        let answer = link.call(Gated::No, deadline, call).await?;
        if answer.intent.is_empty() || answer.lease_ms == 0 {
            return Err(link.bad_answer("a write begun without its intent or its lease"));
        }
        Ok(answer)
    }
}

impl IntoFuture for BeginWrite {
    type Output = Result<WriteIntent, BeginWriteError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl WriteIntent {
    /// The intent, to be handed to another process: opaque, at most 64 bytes.
    pub fn intent(&self) -> &Bytes {
        &self.intent
    }

    /// The lease granted.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// What is left of the lease: by then the database must have committed, or never will.
    pub fn remaining(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// The endpoint that began it, as configured.
    pub fn begun_by(&self) -> &str {
        &self.begun_by
    }

    /// Ends it after the database committed: an invalidation of its classes or rows, with the same options and outcome, to be
    /// awaited. It goes to the sidecar that began the write first, then to the others; a lease that has ended does not
    /// matter. If nobody answers, the classes are bumped when the lease ends.
    pub fn commit(self) -> Invalidate {
        let BeginWrite {
            client,
            what,
            matching,
            purge,
            ..
        } = self.call;
        let mut commit = match what {
            What::Classes(classes) => client.invalidate(classes),
            What::Rows(dialect, changes) => client.row_changed(dialect, changes),
        };
        if matching == v1::Match::All {
            commit = commit.match_all();
        }
        if purge == v1::PurgeMode::Soft {
            commit = commit.soft();
        }
        commit.of_write(self.intent, self.position)
    }

    /// The same by rows, for a write that was begun by other ones, or by classes: a database that numbers its rows tells their ids only now.
    /// What the write was begun with and is not among these is bumped as when a lease ends. With no rows, as of an UPDATE that met
    /// none, [`abort`](Self::abort) it.
    pub fn commit_rows(
        self,
        dialect: v1::SqlDialect,
        changes: impl IntoIterator<Item = v1::RowChange>,
    ) -> Invalidate {
        let call = BeginWrite {
            what: What::Rows(dialect, changes.into_iter().collect()),
            matching: v1::Match::Any,
            ..self.call
        };
        Self { call, ..self }.commit()
    }

    /// Ends it without a bump. Only for a transaction that has not committed and never will: after a timeout or a broken
    /// connection to the database nobody knows that, and then the guard is to be dropped.
    ///
    /// An error means that nobody could be told: the classes are bumped when the lease ends, which harms nothing.
    pub async fn abort(self) -> Result<AbortOutcome, CallError> {
        let client = &self.call.client;
        let aborted = abort(client, &self.intent, self.position);
        client.traced(aborted).await
    }
}

/// Tells the sidecar that began it, and if that does not answer another one, which passes it on.
async fn abort(client: &Client, intent: &Bytes, first: usize) -> Result<AbortOutcome, CallError> {
    let deadline = client.settings().invalidate_timeout + client.settings().invalidate_slack;
    let mut failed = None;
    for (_, link) in Line::of(client.links(), first, deadline) {
        let ask = async || {
            let request = v1::AbortWriteRequest {
                intent: intent.clone(),
            };
            let mut application = link.application();
            let call = application.abort_write(request);
            link.call(Gated::No, deadline, call).await
        };
        let answer = match ask().await {
            // A connection that broke while it was idle says nothing about the sidecar, and an abort may be repeated.
            Err(CallError::Broken { .. }) => ask().await,
            settled => settled,
        };
        match answer {
            Ok(answer) => return outcome(&answer, link),
            Err(error) if error.may_differ_elsewhere() => {
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(failed.unwrap_or_else(|| client.own().bad_answer("no endpoint was asked")))
}

fn outcome(answer: &v1::AbortWriteResponse, link: &Link) -> Result<AbortOutcome, CallError> {
    match (answer.outcome(), &answer.event) {
        (v1::AbortOutcome::NothingBumped, _) => Ok(AbortOutcome::NothingBumped),
        (v1::AbortOutcome::Bumped, Some(event)) => Ok(AbortOutcome::Bumped {
            event: event.clone(),
        }),
        (v1::AbortOutcome::Unknown, _) => Ok(AbortOutcome::Unknown),
        (v1::AbortOutcome::Unspecified | v1::AbortOutcome::Bumped, _) => {
            Err(link.bad_answer("an abort without its outcome"))
        }
    }
}
