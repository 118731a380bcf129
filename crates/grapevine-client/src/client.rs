//! The client: a handle on the own sidecar, and on others for invalidations that the own one cannot take.
//!
//! Look-ups of concurrent callers travel together (see [`crate::batcher`]); those of a session travel alone, because a
//! request carries one session and waits for it. Every look-up ends within `resolve_deadline`, counted from the call.
//! What is too much for one message travels in several.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use grapevine_proto::v1;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::Instant;

use crate::batcher::{
    BATCH_BYTES_MAX, BatchCall, BatchError, BatchLimits, Batcher, is_too_much, item_of,
};
use crate::builder::{ClientBuilder, Settings};
use crate::channel::{Gated, Link};
use crate::error::{CallError, ConfigError, InvalidRequest, ResolveError};
use crate::local::{LocalHit, LocalTable, Table};
use crate::names::{self, BATCH_MAX, CLASSES_MAX};
use crate::session::Session;
use crate::snapshot::Snapshot;
use crate::stats::{ClientCounters, ClientStats};
use crate::trace_context::{CurrentSpan, Doing};

/// A client of a sidecar. Cloning it is cheap; clones share connections, queues and counters.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    /// The own sidecar first; never empty.
    links: Vec<Arc<Link>>,
    settings: Settings,
    resolves: Batcher<ResolveCall>,
    commits: Batcher<CommitCall>,
    counters: Arc<ClientCounters>,
    span: CurrentSpan,
    local: Option<LocalTable>,
}

/// One look-up's answer, with what the sidecar could show about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// What to do for the address.
    pub resolution: v1::Resolution,
    /// Whether the sidecar could show that it is fresh.
    pub freshness: v1::Freshness,
    /// Why not; `None` when it could.
    pub freshness_reason: Option<Arc<str>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.inner.links.iter().map(|link| link.name()).collect();
        f.debug_struct("Client")
            .field("endpoints", &endpoints)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the sidecar at `own` (`unix:/path`, `http://host:port` or `host:port`) with default settings.
    pub fn connect(own: impl Into<String>) -> Result<Self, ConfigError> {
        ClientBuilder::new(own).build()
    }

    /// See [`ClientBuilder::new`].
    pub fn builder(own: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(own)
    }

    pub(crate) fn open(builder: &ClientBuilder) -> Result<Self, ConfigError> {
        let settings = builder.settings;
        let open =
            |endpoint: &String| Link::new(endpoint, settings.link, &builder.span).map(Arc::new);
        let links = builder
            .endpoints
            .iter()
            .map(open)
            .collect::<Result<Vec<_>, _>>()?;
        let own = links.first().ok_or(ConfigError::NoEndpoint)?;
        let counters = Arc::new(ClientCounters::default());
        let limits = BatchLimits {
            queue: settings.queue_max,
            batch: settings.batch_max,
            in_flight: settings.in_flight_max,
        };
        let local = settings
            .local_table
            .map(|entries| LocalTable::open(entries, own, &counters));
        let resolve = ResolveCall {
            link: Arc::clone(own),
            table: local.as_ref().map(LocalTable::shared),
            deadline: settings.resolve_deadline,
            counters: Arc::clone(&counters),
        };
        let commit = CommitCall {
            link: Arc::clone(own),
            deadline: settings.commit_deadline,
            counters: Arc::clone(&counters),
        };
        let inner = Inner {
            resolves: Batcher::new(resolve, limits),
            commits: Batcher::new(commit, limits),
            links,
            settings,
            counters,
            span: builder.span.clone(),
            local,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The endpoints as configured, the own sidecar first.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.inner.links.iter().map(|link| &**link.name())
    }

    /// What this client and its clones have done.
    pub fn stats(&self) -> ClientStats {
        self.inner.counters.snapshot()
    }

    pub(crate) fn own(&self) -> &Link {
        &self.inner.links[0]
    }

    pub(crate) fn links(&self) -> &[Arc<Link>] {
        &self.inner.links
    }

    pub(crate) fn settings(&self) -> Settings {
        self.inner.settings
    }

    pub(crate) fn counters(&self) -> &ClientCounters {
        &self.inner.counters
    }

    /// What a call does, all of it part of one span. To be called in the caller's task, which is asked for the span here. A single
    /// RPC need not be wrapped: it asks for itself.
    pub(crate) fn traced<F: Future>(&self, call: F) -> TaskLocalFuture<Doing, F> {
        self.inner.span.call(call)
    }

    /// Looks one address up; concurrent callers share RPCs. `classes` has 1 to 16 entries, the first one's policy governs;
    /// `page` asks for a slice of a list.
    pub async fn resolve_one<C: AsRef<str>>(
        &self,
        address: &str,
        classes: &[C],
        page: Option<v1::Page>,
    ) -> Result<Resolved, ResolveError> {
        check_item(address, classes, page)?;
        self.own().check_open()?;
        let deadline = self.inner.settings.resolve_deadline;
        let local = self.local().filter(|_| page.is_none());
        let before = local.and_then(|table| table.before(classes));
        let sent = self
            .inner
            .resolves
            .send_with(|| item(address, classes, page));
        let sent = self.traced(sent);
        match tokio::time::timeout(deadline, sent).await {
            Ok(Ok((resolved, local_table))) => {
                if let Some((table, before)) = local.zip(before)
                    && local_table == before.name
                    && table.keep(&before, (address, classes), &resolved.resolution)
                {
                    self.counters().local_kept.increment();
                }
                Ok(resolved)
            }
            Ok(Err(error)) => Err(self.resolve_error(error)),
            Err(_) => Err(ResolveError::Call(CallError::Deadline {
                endpoint: Arc::clone(self.own().name()),
                deadline,
            })),
        }
    }

    /// Looks one address up at a sidecar that has seen what `session` has, waiting for it as long as the session says.
    pub async fn resolve_one_in<C: AsRef<str>>(
        &self,
        session: &Session,
        address: &str,
        classes: &[C],
        page: Option<v1::Page>,
    ) -> Result<Resolved, ResolveError> {
        if session.is_empty() {
            return self.resolve_one(address, classes, page).await;
        }
        let mut answers = self
            .resolve_in(session, vec![item(address, classes, page)])
            .await?;
        Ok(answers.pop().expect("invariant: as many answers as items"))
    }

    /// Looks 1 to 1,000 addresses up: in one RPC, or in several, one after another, if they or their answers are too long for
    /// one message. Answers of one RPC know the same bumps.
    pub async fn resolve(
        &self,
        items: Vec<v1::ResolveItem>,
    ) -> Result<Vec<Resolved>, ResolveError> {
        self.resolve_in(&Session::new(), items).await
    }

    /// The same, at a sidecar that has seen what `session` has.
    pub async fn resolve_in(
        &self,
        session: &Session,
        items: Vec<v1::ResolveItem>,
    ) -> Result<Vec<Resolved>, ResolveError> {
        check_items(&items)?;
        self.resolve_past(items, session, None).await
    }

    pub(crate) async fn resolve_past(
        &self,
        items: Vec<v1::ResolveItem>,
        session: &Session,
        snapshot: Option<&Snapshot>,
    ) -> Result<Vec<Resolved>, ResolveError> {
        let mut deadline = self.inner.settings.resolve_deadline;
        let mut past = Past {
            session: None,
            snapshot: snapshot.map(|snapshot| snapshot.bytes().clone()),
        };
        if !session.is_empty() {
            deadline += session.wait_duration();
            past.session = Some(session.to_wire());
        }
        let sidecar = Sidecar {
            link: self.own(),
            table: self.local(),
            counters: self.counters(),
        };
        let resolved = resolve_all(sidecar, deadline, items, past);
        let mut answers = self.traced(resolved).await?;
        if snapshot.is_some_and(Snapshot::is_unknown) {
            // Also a sidecar that does not know of snapshots must not be misunderstood.
            for answer in &mut answers {
                answer.resolution.fill_forbidden = true;
            }
        }
        Ok(answers)
    }

    /// Where to look for an address, by the [local table](ClientBuilder::local_table): its cache address is written into `into`. It
    /// makes no call, takes no lock and allocates nothing, but for `into` to grow to 250 bytes once. `None` if there is no table, if it
    /// does not know, or has no lease: then ask [`Self::resolve_one`], which has the table know it if it can.
    #[inline]
    pub fn local_look_up<C: AsRef<str>>(
        &self,
        address: &str,
        classes: &[C],
        into: &mut String,
    ) -> Option<LocalHit> {
        self.local()?.look_up(address, classes, into)
    }

    /// The local table, if there is one.
    #[inline]
    pub(crate) fn local(&self) -> Option<&Table> {
        self.inner.local.as_ref().map(LocalTable::table)
    }

    fn resolve_error(&self, error: BatchError) -> ResolveError {
        match error {
            BatchError::QueueFull { limit } => {
                self.counters().resolve_queue_full.increment();
                ResolveError::QueueFull { limit }
            }
            BatchError::Call(error) => error.into(),
            BatchError::Again { .. } | BatchError::Smaller { .. } => {
                ResolveError::Call(self.spoiled())
            }
        }
    }

    fn spoiled(&self) -> CallError {
        CallError::Broken {
            endpoint: Arc::clone(self.own().name()),
            code: tonic::Code::Aborted,
            message: "the batch was given up".to_owned(),
        }
    }

    /// Tells that a value was computed and asks whether it may be stored. Concurrent callers share RPCs. `address` is the
    /// cache address and `lease` the lease that resolve gave; an accepted fill is durable.
    pub async fn commit_fill(&self, fill: v1::Fill) -> Result<v1::FillVerdict, CallError> {
        self.own().check_open()?;
        let deadline = self.inner.settings.commit_deadline;
        let sent = self.traced(self.inner.commits.send_with(|| fill.clone()));
        match tokio::time::timeout(deadline, sent).await {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(BatchError::Call(error))) => Err(error),
            Ok(Err(BatchError::QueueFull { limit })) => Err(CallError::Overloaded {
                endpoint: Arc::clone(self.own().name()),
                message: format!("{limit} fills wait for it already"),
                retry_after: None,
            }),
            Ok(Err(BatchError::Again { .. } | BatchError::Smaller { .. })) => Err(self.spoiled()),
            Err(_) => Err(CallError::Deadline {
                endpoint: Arc::clone(self.own().name()),
                deadline,
            }),
        }
    }
}

pub(crate) fn item<C: AsRef<str>>(
    address: &str,
    classes: &[C],
    page: Option<v1::Page>,
) -> v1::ResolveItem {
    v1::ResolveItem {
        address: address.to_owned(),
        classes: classes
            .iter()
            .map(|class| class.as_ref().to_owned())
            .collect(),
        page,
    }
}

pub(crate) fn check_items(items: &[v1::ResolveItem]) -> Result<(), InvalidRequest> {
    check_count("items", items.len(), BATCH_MAX)?;
    items
        .iter()
        .try_for_each(|item| check_item(&item.address, &item.classes, item.page))
}

fn check_item<C: AsRef<str>>(
    address: &str,
    classes: &[C],
    page: Option<v1::Page>,
) -> Result<(), InvalidRequest> {
    names::check_address("address", address)?;
    names::check_classes("classes", classes, CLASSES_MAX)?;
    page.map_or(Ok(()), names::check_page)
}

pub(crate) fn check_count(field: &str, count: usize, max: usize) -> Result<(), InvalidRequest> {
    if (1..=max).contains(&count) {
        return Ok(());
    }
    Err(InvalidRequest::one(
        field,
        format!("{count} entries are outside 1 to {max}"),
    ))
}

/// The look-ups of a request, as violations name them.
const ITEMS: &str = "items";
/// More than tags, lengths and numbers of one item take on the wire.
const FIELD_BYTES_MAX: usize = 32;

/// More than it takes on the wire.
fn item_bytes(item: &v1::ResolveItem) -> usize {
    FIELD_BYTES_MAX + item.address.len() + classes_bytes(&item.classes)
}

fn classes_bytes<'a>(classes: impl IntoIterator<Item = &'a String>) -> usize {
    // A tag, and at most two bytes for a length of up to 200.
    classes.into_iter().map(|class| 3 + class.len()).sum()
}

/// Cuts off what fits into one message: one item at least.
fn take_fitting(items: &mut Vec<v1::ResolveItem>) -> Vec<v1::ResolveItem> {
    let mut bytes = 0;
    let fitting = items.iter().take_while(|item| {
        bytes += item_bytes(item);
        bytes <= BATCH_BYTES_MAX
    });
    let count = fitting.count().max(1);
    let rest = items.split_off(count.min(items.len()));
    std::mem::replace(items, rest)
}

/// What a request's look-ups are seen from.
#[derive(Clone, Default)]
struct Past {
    session: Option<v1::Session>,
    snapshot: Option<bytes::Bytes>,
}

/// Who is asked, and the local table that hears of its answers.
#[derive(Clone, Copy)]
struct Sidecar<'a> {
    link: &'a Link,
    table: Option<&'a Table>,
    counters: &'a ClientCounters,
}

/// Looks all of them up within `deadline`, in as many RPCs as it takes.
async fn resolve_all(
    sidecar: Sidecar<'_>,
    deadline: Duration,
    mut items: Vec<v1::ResolveItem>,
    past: Past,
) -> Result<Vec<Resolved>, CallError> {
    let end = Instant::now() + deadline;
    let mut answers = Vec::with_capacity(items.len());
    // What was halved; the next one is the last.
    let mut halves: Vec<Vec<v1::ResolveItem>> = Vec::new();
    while let Some(batch) = halves
        .pop()
        .or_else(|| (!items.is_empty()).then(|| take_fitting(&mut items)))
    {
        // Only plans of slices can be too much although the request was not.
        let may_split = batch.len() > 1 && batch.iter().any(|item| item.page.is_some());
        let spare = may_split.then(|| batch.clone());
        let left = end.saturating_duration_since(Instant::now());
        match resolve_batch(sidecar, left, batch, past.clone()).await {
            Ok(batch) => answers.extend(batch.into_iter().map(|(resolved, _)| resolved)),
            Err(error) => match spare {
                Some(mut front) if is_too_much(&error, ITEMS) => {
                    let back = front.split_off(front.len() / 2);
                    halves.extend([back, front]);
                }
                _ => return Err(renumbered(error, answers.len())),
            },
        }
    }
    Ok(answers)
}

/// The error with the positions that its items have in the whole list, where `before` others come first.
fn renumbered(error: CallError, before: usize) -> CallError {
    let CallError::Invalid(mut invalid) = error else {
        return error;
    };
    for violation in &mut invalid.violations {
        if let Some((index, rest)) = item_of(ITEMS, &violation.field) {
            violation.field = format!("{ITEMS}[{}]{rest}", before + index);
        }
    }
    CallError::Invalid(invalid)
}

struct ResolveCall {
    link: Arc<Link>,
    table: Option<Arc<Table>>,
    deadline: Duration,
    counters: Arc<ClientCounters>,
}

impl BatchCall for ResolveCall {
    type Item = v1::ResolveItem;
    /// With the local table that may keep it; 0 for none.
    type Answer = (Resolved, u64);
    const FIELD: &'static str = ITEMS;

    fn bytes(item: &v1::ResolveItem) -> usize {
        item_bytes(item)
    }

    async fn send(&self, items: Vec<v1::ResolveItem>) -> Result<Vec<(Resolved, u64)>, CallError> {
        let sidecar = Sidecar {
            link: &self.link,
            table: self.table.as_deref(),
            counters: &self.counters,
        };
        resolve_batch(sidecar, self.deadline, items, Past::default()).await
    }
}

async fn resolve_batch(
    sidecar: Sidecar<'_>,
    deadline: Duration,
    items: Vec<v1::ResolveItem>,
    past: Past,
) -> Result<Vec<(Resolved, u64)>, CallError> {
    let Sidecar {
        link,
        table,
        counters,
    } = sidecar;
    let count = items.len();
    let name = table.map_or(0, Table::name);
    counters.resolve_rpcs.increment();
    counters.resolve_items.add(count as u64);
    let mut application = link.application();
    let request = v1::ResolveRequest {
        items,
        session: past.session,
        snapshot: past.snapshot,
        local_table: name,
    };
    let answer = link
        .call(Gated::Yes, deadline, application.resolve(request))
        .await?;
    if let Some(table) = table {
        // Before anybody has the answers.
        table.answered(name, answer.local_table_position);
    }
    if answer.results.len() != count {
        return Err(link.bad_answer(format!(
            "{} results for {count} look-ups",
            answer.results.len()
        )));
    }
    let freshness = answer.freshness();
    let reason = (!answer.freshness_reason.is_empty()).then(|| Arc::from(answer.freshness_reason));
    let local_table = answer.local_table;
    let with_freshness = |resolution| {
        let freshness_reason = reason.clone();
        let resolved = Resolved {
            resolution,
            freshness,
            freshness_reason,
        };
        (resolved, local_table)
    };
    Ok(answer.results.into_iter().map(with_freshness).collect())
}

struct CommitCall {
    link: Arc<Link>,
    deadline: Duration,
    counters: Arc<ClientCounters>,
}

impl BatchCall for CommitCall {
    type Item = v1::Fill;
    type Answer = v1::FillVerdict;
    const FIELD: &'static str = "fills";

    fn bytes(fill: &v1::Fill) -> usize {
        let classes = fill.classes.iter().chain(&fill.added_classes);
        FIELD_BYTES_MAX + fill.address.len() + fill.lease.len() + classes_bytes(classes)
    }

    async fn send(&self, fills: Vec<v1::Fill>) -> Result<Vec<v1::FillVerdict>, CallError> {
        let count = fills.len();
        self.counters.commit_rpcs.increment();
        self.counters.commit_items.add(count as u64);
        let mut application = self.link.application();
        let request = v1::CommitFillRequest { fills };
        let answer = self
            .link
            .call(Gated::Yes, self.deadline, application.commit_fill(request))
            .await?;
        if answer.verdicts.len() != count {
            return Err(self.link.bad_answer(format!(
                "{} verdicts for {count} fills",
                answer.verdicts.len()
            )));
        }
        Ok(answer.verdicts)
    }
}
