//! The application service: each handler checks (in `wire`), asks the engine, and answers.

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::RowImage;
use grapevine_core::machine::effects::{Purpose, RegisterItem, Reply, Verdict};
use grapevine_core::policy::PolicySet;
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_server::ApplicationService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};

use super::look_up::LookUp;
use super::resolve_stream::LookUps;
use super::unread::{Answers, Unread};
use super::writes::mistaken;
use super::{listing, watch as watching};
use crate::engine::{Call, Clock, Engine, INTAKE_WAIT, OfConnection, Places, stopping};
use crate::telemetry::Counter;
use crate::wire::{app, status};

/// Fills and registrations under way at once: some 100 MB of them.
pub(crate) const UNDER_WAY_MAX: usize = 200_000;

/// Look-ups under way at once that are made in pieces: each keeps what it has so far, and more at a time would not be done
/// sooner. Others wait for their turn; there are no more of them than streams of connections.
pub(crate) const LARGE_LOOK_UPS_MAX: usize = 4;

/// Statements explained at once: each may take a tenth of a second of a core. Others wait for their turn, but not for long.
pub(crate) const EXPLAINS_MAX: usize = 2;

/// Statements that wait for that; a further one is refused.
pub(crate) const EXPLAINS_WAITING_MAX: usize = 64;

/// Registrations and their classes that one call has written at a time: a bump waits for what is on its way to the disk,
/// and for what is gathered behind that.
const PIECE_WEIGHT_MAX: usize = 20_000;

/// How long fills and registrations may take to be flushed.
const REGISTER_WAIT: Duration = Duration::from_mins(1);

/// The application service.
#[derive(Clone)]
pub(crate) struct Application {
    pub(crate) engine: Engine,
    /// The same as the machine's, for what is checked before the machine is asked.
    pub(crate) policies: Arc<PolicySet>,
    /// Lease and margin, added to every time to live.
    pub(crate) slack: Duration,
    /// How long a write may take whose caller does not say.
    pub(crate) write_duration: Duration,
    /// Registrations that the directory may hold; a further one is refused, and its value must not be stored.
    pub(crate) registrations_max: u64,
    /// Places for streams of local tables.
    pub(crate) local_tables: Places,
    pub(crate) watchers: Places,
    /// Places for resolve and registration streams and listings; a further one is refused.
    pub(crate) streams: Places,
    /// True once this sidecar drains: streams would not end by themselves.
    pub(crate) stop: watch::Receiver<bool>,
    /// Fills and registrations that may be under way at once; callers beyond wait, then are told to try again.
    pub(crate) under_way: Arc<Semaphore>,
    /// Turns of look-ups too large to be made in one piece.
    pub(crate) large_look_ups: Arc<Semaphore>,
    /// Turns of statements that are explained.
    pub(crate) explains: Arc<Semaphore>,
    /// Places of those that wait for one.
    pub(crate) explains_waiting: Arc<Semaphore>,
    /// Room for answers that their callers have not read.
    pub(crate) unread: Unread,
}

impl Application {
    /// Waits until what a session names was applied here.
    pub(super) async fn await_session(&self, session: app::Session) -> Result<(), Status> {
        self.engine
            .await_session(&session.events, session.wait)
            .await
    }

    pub(super) async fn resolve_now(
        &self,
        request: v1::ResolveRequest,
        carried: &app::Session,
    ) -> Result<v1::ResolveResponse, Status> {
        let look_ups = app::look_ups(request, &self.policies)?;
        let session = look_ups.session.and(carried)?;
        let engine = &self.engine;
        engine.await_session(&session.events, session.wait).await?;
        engine
            .counters
            .add_len(Counter::Resolves, look_ups.queries.len());
        let kept_in = look_ups.local_table;
        let mut look_up = LookUp::new(look_ups.queries, look_ups.snapshot).kept_in(kept_in);
        let mut turn = None;
        while !look_up.advance(engine) {
            if turn.is_none() {
                // An error would mean that it was closed, which nobody does.
                turn = self.large_look_ups.acquire().await.ok();
            }
            tokio::task::yield_now().await;
        }
        let mut response = look_up.finish(engine)?;
        if !session.events.is_empty() {
            // Who has to see a write, its own say, is not to be given what was there before.
            response.results.iter_mut().for_each(|it| it.stale.clear());
        }
        let bypassed = response.results.iter().filter(|result| result.bypass);
        engine
            .counters
            .add_len(Counter::ResolvesBypassed, bypassed.count());
        Ok(response)
    }

    /// What turns times to live into expiries, for a call that waits for its session only then: what it registers is kept
    /// for so much longer.
    fn expiry_before(&self, session: &app::Session) -> app::Expiry<'_> {
        let wait = if session.events.is_empty() {
            Duration::ZERO
        } else {
            session.wait
        };
        app::Expiry {
            policies: &self.policies,
            now: Clock::unix(),
            slack: self.slack + wait,
        }
    }

    async fn register_items(&self, items: Vec<RegisterItem>) -> Result<Vec<Verdict>, Status> {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let room = self.under_way.clone().acquire_many_owned(count);
        let Ok(Ok(mut room)) = tokio::time::timeout(INTAKE_WAIT, room).await else {
            self.engine
                .counters
                .refused("fills and registrations under way");
            let message = format!("{UNDER_WAY_MAX} fills and registrations are under way already");
            return Err(status::exhausted(message, Duration::from_millis(200)));
        };
        let held = self.engine.store.registrations();
        let wanted = items
            .iter()
            .filter(|item| item.purpose == Purpose::Directory)
            .map(|item| item.classes.len() as u64)
            .sum::<u64>();
        if wanted > 0 && held + wanted > self.registrations_max {
            self.engine.counters.refused("limits.registrations_max");
            let max = self.registrations_max;
            let message = format!(
                "registrations: {held} are held and {wanted} more asked for; the limit is {max} (limits.registrations_max)"
            );
            return Err(status::exhausted(message, Duration::from_secs(10)));
        }
        let mut verdicts = Vec::with_capacity(items.len());
        // Only the first piece is refused for a full queue: the call has no effect then.
        let mut intake = INTAKE_WAIT;
        for piece in pieces(items) {
            let share = room.split(piece.len());
            let call = Call::Register(piece);
            let call = self
                .engine
                .call_patiently(call, share, intake, REGISTER_WAIT);
            match call.await?.reply {
                Reply::Registered(more) => verdicts.extend(more),
                Reply::Refused(refusal) => return Err(status::refusal(&refusal)),
                _ => return Err(mistaken("a registration")),
            }
            intake = REGISTER_WAIT;
        }
        Ok(verdicts)
    }

    async fn turn_to_explain(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = || {
            self.engine.counters.refused("statements to explain");
            let message = format!(
                "statements are explained {EXPLAINS_MAX} at a time, and {EXPLAINS_WAITING_MAX} may wait for {INTAKE_WAIT:?}"
            );
            status::exhausted(message, Duration::from_millis(200))
        };
        let Ok(_place) = self.explains_waiting.try_acquire() else {
            return Err(full());
        };
        let turn = self.explains.clone().acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(INTAKE_WAIT, turn).await else {
            return Err(full());
        };
        Ok(turn)
    }

    /// Has a statement explained when it is its turn.
    async fn explained<T: Send + 'static>(
        &self,
        statement: app::Statement,
        explain: impl FnOnce(app::Statement) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.turn_to_explain().await?;
        let explained = tokio::task::spawn_blocking(move || {
            // For as long as it takes, whether or not its caller waits for it.
            let _turn = turn;
            explain(statement)
        });
        explained.await.map_err(|error| {
            tracing::error!(%error, "a statement could not be explained");
            Status::internal("explaining failed; the sidecar's log has the reason")
        })?
    }

    fn listing(
        &self,
        limit: u64,
        connection: Option<&OfConnection>,
    ) -> Result<listing::Listing, Status> {
        Ok(listing::Listing {
            store: self.engine.store.clone(),
            limit,
            place: self.streams.take(connection)?,
            stop: self.stop.clone(),
            unread: self.unread.clone(),
        })
    }

    async fn register_batch(
        &self,
        request: v1::RegisterRequest,
        session: app::Session,
    ) -> Result<v1::RegisterResponse, Status> {
        // What is wrong with it is told before it waits, so that nobody keeps a message here that is refused anyway.
        let items = app::registrations(request.registrations, self.expiry_before(&session))?;
        self.await_session(session).await?;
        let verdicts = self.register_items(items).await?;
        let condemned: Vec<u32> = verdicts
            .iter()
            .zip(0..)
            .filter(|(verdict, _)| matches!(verdict, Verdict::Condemned(_)))
            .map(|(_, position)| position)
            .collect();
        let accepted = (verdicts.len() - condemned.len()) as u64;
        Ok(v1::RegisterResponse {
            accepted,
            condemned,
        })
    }
}

/// Cuts a call's registrations into what is written at a time.
fn pieces(items: Vec<RegisterItem>) -> Vec<Vec<RegisterItem>> {
    let mut pieces: Vec<Vec<RegisterItem>> = Vec::new();
    let mut left = 0;
    for item in items {
        let weight = 1 + item.classes.len();
        match pieces.last_mut() {
            Some(piece) if weight <= left => {
                left -= weight;
                piece.push(item);
            }
            _ => {
                left = PIECE_WEIGHT_MAX.saturating_sub(weight);
                pieces.push(vec![item]);
            }
        }
    }
    pieces
}

#[tonic::async_trait]
impl ApplicationService for Application {
    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        self.resolve_now(request.into_inner(), &carried)
            .await
            .map(Response::new)
    }

    type ResolveStreamStream = Answers<v1::ResolveStreamResponse>;

    async fn resolve_stream(
        &self,
        request: Request<Streaming<v1::ResolveStreamRequest>>,
    ) -> Result<Response<Self::ResolveStreamStream>, Status> {
        let carried = app::carried(request.metadata())?;
        let place = self.streams.take(request.extensions().get())?;
        let look_ups = LookUps {
            application: self.clone(),
            requests: request.into_inner(),
            carried,
            stop: self.stop.clone(),
            _place: place,
        };
        Ok(Answers::of(look_ups.answers()).response())
    }

    async fn open_snapshot(
        &self,
        request: Request<v1::OpenSnapshotRequest>,
    ) -> Result<Response<v1::OpenSnapshotResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        let (session, lease) = app::opening(&request.into_inner())?;
        self.await_session(session.and(&carried)?).await?;
        let now = self.engine.clock.now();
        let snapshot = self.engine.core.read().open_snapshot(lease, now);
        Ok(Response::new(app::opened(snapshot, now)))
    }

    async fn commit_fill(
        &self,
        request: Request<v1::CommitFillRequest>,
    ) -> Result<Response<v1::CommitFillResponse>, Status> {
        let session = app::carried(request.metadata())?;
        let items = app::fills(request.into_inner(), self.expiry_before(&session))?;
        self.await_session(session).await?;
        let verdicts = self.register_items(items).await?;
        let accepted = verdicts
            .iter()
            .filter(|verdict| matches!(verdict, Verdict::Accepted(_)))
            .count();
        self.engine
            .counters
            .add_len(Counter::FillsCommitted, accepted);
        self.engine
            .counters
            .add_len(Counter::FillsCondemned, verdicts.len() - accepted);
        Ok(Response::new(v1::CommitFillResponse {
            verdicts: verdicts.into_iter().map(app::verdict).collect(),
        }))
    }

    type AcquireFillStream = Answers<v1::AcquireFillResponse>;

    async fn acquire_fill(
        &self,
        request: Request<v1::AcquireFillRequest>,
    ) -> Result<Response<Self::AcquireFillStream>, Status> {
        self.await_session(app::carried(request.metadata())?)
            .await?;
        let answer = self.acquire(&request.into_inner()).await?;
        Ok(answer.response())
    }

    async fn finish_fill(
        &self,
        request: Request<v1::FinishFillRequest>,
    ) -> Result<Response<v1::FinishFillResponse>, Status> {
        self.finish(&request.into_inner()).await?;
        Ok(Response::new(v1::FinishFillResponse {}))
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let session = app::carried(request.metadata())?;
        self.register_batch(request.into_inner(), session)
            .await
            .map(Response::new)
    }

    async fn register_stream(
        &self,
        request: Request<Streaming<v1::RegisterStreamRequest>>,
    ) -> Result<Response<v1::RegisterStreamResponse>, Status> {
        self.await_session(app::carried(request.metadata())?)
            .await?;
        let _place = self.streams.take(request.extensions().get())?;
        let (mut batches, mut stop) = (request.into_inner(), self.stop.clone());
        let mut summary = v1::RegisterStreamResponse::default();
        loop {
            let message = tokio::select! {
                message = batches.message() => message?,
                // An error means that nobody can stop it any more, which is as good as being told to.
                _ = stop.wait_for(|stop| *stop) => return Err(stopping()),
            };
            let Some(message) = message else { break };
            let batch = message
                .batch
                .ok_or_else(|| status::invalid("batch", "it is not set"))?;
            let answer = self.register_batch(batch, app::Session::default()).await?;
            summary.accepted += answer.accepted;
            summary.condemned += answer.condemned.len() as u64;
        }
        Ok(Response::new(summary))
    }

    async fn invalidate(
        &self,
        request: Request<v1::InvalidateRequest>,
    ) -> Result<Response<v1::InvalidateResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        let call = app::invalidation(&request.into_inner())?;
        self.invalidate_classes(call, &carried, Call::Invalidate)
            .await
            .map(Response::new)
    }

    async fn row_changed(
        &self,
        request: Request<v1::RowChangedRequest>,
    ) -> Result<Response<v1::RowChangedResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        let changed = app::changed_rows(&request.into_inner())?;
        let outcome = Some(
            self.change_rows(changed, &carried, Call::RowsChanged)
                .await?,
        );
        Ok(Response::new(v1::RowChangedResponse { outcome }))
    }

    async fn invalidate_where(
        &self,
        request: Request<v1::InvalidateWhereRequest>,
    ) -> Result<Response<v1::InvalidateWhereResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        let (changed, terms) = app::changed_where(request.into_inner())?;
        let rows = match changed {
            app::Changed::Rows(rows) => rows,
            app::Changed::By(statement) => self
                .explained(statement, |statement| app::rows_of_write(&statement))
                .await?
                .into_iter()
                .map(RowImage::from)
                .collect(),
        };
        let changed = (rows, terms);
        let outcome = Some(
            self.change_rows(changed, &carried, Call::RowsChanged)
                .await?,
        );
        Ok(Response::new(v1::InvalidateWhereResponse { outcome }))
    }

    async fn index_read(
        &self,
        request: Request<v1::IndexReadRequest>,
    ) -> Result<Response<v1::IndexReadResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        self.read_leaf(request.into_inner(), &carried)
            .await
            .map(Response::new)
    }

    async fn index_fill(
        &self,
        request: Request<v1::IndexFillRequest>,
    ) -> Result<Response<v1::IndexFillResponse>, Status> {
        let answer = self.fill_leaf(&request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn index_prune(
        &self,
        request: Request<v1::IndexPruneRequest>,
    ) -> Result<Response<v1::IndexPruneResponse>, Status> {
        let answer = self.prune_leaf(&request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn begin_write(
        &self,
        request: Request<v1::BeginWriteRequest>,
    ) -> Result<Response<v1::BeginWriteResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        self.begin(request.into_inner(), carried)
            .await
            .map(Response::new)
    }

    async fn commit_write(
        &self,
        request: Request<v1::CommitWriteRequest>,
    ) -> Result<Response<v1::CommitWriteResponse>, Status> {
        let carried = app::carried(request.metadata())?;
        let outcome = Some(self.commit(&request.into_inner(), &carried).await?);
        Ok(Response::new(v1::CommitWriteResponse { outcome }))
    }

    async fn abort_write(
        &self,
        request: Request<v1::AbortWriteRequest>,
    ) -> Result<Response<v1::AbortWriteResponse>, Status> {
        // It bumps nothing and shows nothing: waiting for its session could only make it late.
        self.abort(&request.into_inner()).await.map(Response::new)
    }

    type ListAddressesStream = Answers<v1::ListAddressesResponse>;

    async fn list_addresses(
        &self,
        request: Request<v1::ListAddressesRequest>,
    ) -> Result<Response<Self::ListAddressesStream>, Status> {
        let carried = app::carried(request.metadata())?;
        let connection = request.extensions().get::<OfConnection>().cloned();
        let request = request.into_inner();
        let class = app::class("class", &request.class)?;
        self.await_session(carried).await?;
        let listing = self.listing(request.limit, connection.as_ref())?;
        let rows = listing::addresses(listing, class, &request.page_token);
        Ok(rows.await?.response())
    }

    type ListClassesStream = Answers<v1::ListClassesResponse>;

    async fn list_classes(
        &self,
        request: Request<v1::ListClassesRequest>,
    ) -> Result<Response<Self::ListClassesStream>, Status> {
        let carried = app::carried(request.metadata())?;
        let connection = request.extensions().get::<OfConnection>().cloned();
        let request = request.into_inner();
        let below = match request.below.as_str() {
            "" => None,
            below => Some(app::class("below", below)?),
        };
        self.await_session(carried).await?;
        let listing = self.listing(request.limit, connection.as_ref())?;
        let rows = listing::classes(listing, below, &request.page_token);
        Ok(rows.await?.response())
    }

    type LocalTableStreamStream = Answers<v1::LocalTableStreamResponse>;

    async fn local_table_stream(
        &self,
        request: Request<Streaming<v1::LocalTableStreamRequest>>,
    ) -> Result<Response<Self::LocalTableStreamStream>, Status> {
        let connection = request.extensions().get::<OfConnection>().cloned();
        let table = self.open_table(request.into_inner(), connection).await?;
        Ok(table.response())
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let connection = request.extensions().get::<OfConnection>().cloned();
        let classes = app::watched(&request.into_inner().classes)?;
        let place = self.watchers.take(connection.as_ref())?;
        let (stop, unread) = (self.stop.clone(), self.unread.clone());
        let watch = watching::start(&self.engine, place, stop, unread, classes);
        Ok(watch.response())
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let statement = app::explaining(request.into_inner())?;
        self.explained(statement, |statement| app::explanation(&statement))
            .await
            .map(Response::new)
    }

    async fn report_reads(
        &self,
        request: Request<v1::ReportReadsRequest>,
    ) -> Result<Response<v1::ReportReadsResponse>, Status> {
        for (counter, count) in app::reported(request.get_ref())? {
            self.engine.counters.add(counter, count);
        }
        Ok(Response::new(v1::ReportReadsResponse {}))
    }
}
