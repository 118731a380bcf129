//! The application service: each handler checks (in `wire`), asks the engine, and answers.

use std::time::Duration;

use grapevine_core::machine::effects::{Invalidate, RegisterItem, Reply, Verdict};
use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_server::ApplicationService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{listing, watch};
use crate::engine::{Answer, Call, Clock, Engine, INTAKE_WAIT};
use crate::telemetry::Counter;
use crate::wire::{self, app, status};

/// Answers of a resolve stream that wait for the caller to read them; then its requests are not read either.
const STREAM_ANSWERS: usize = 64;

/// Fills and registrations under way at once: some 100 MB of them.
pub(crate) const UNDER_WAY_MAX: usize = 200_000;

/// The application service.
#[derive(Clone)]
pub(crate) struct Application {
    pub(crate) engine: Engine,
    /// Lease and margin, added to every time to live.
    pub(crate) slack: Duration,
    /// Registrations that the directory may hold; a further one is refused, and its value must not be stored.
    pub(crate) registrations_max: u64,
    pub(crate) watchers: std::sync::Arc<tokio::sync::Semaphore>,
    /// True once this sidecar drains: watches would not end by themselves.
    pub(crate) stop: tokio::sync::watch::Receiver<bool>,
    /// Fills and registrations that may be under way at once; callers beyond wait, then are told to try again.
    pub(crate) under_way: std::sync::Arc<tokio::sync::Semaphore>,
}

impl Application {
    async fn resolve_now(
        &self,
        request: v1::ResolveRequest,
    ) -> Result<v1::ResolveResponse, Status> {
        let queries = app::queries(request.items)?;
        if request.session.is_some() {
            let session = app::session(request.session)?;
            self.engine
                .await_session(&session.events, session.wait)
                .await?;
        }
        let engine = &self.engine;
        engine.counters.add_len(Counter::Resolves, queries.len());
        let now = engine.clock.now();
        let core = engine.core.read();
        let results: Vec<_> = queries
            .iter()
            .enumerate()
            .map(|(at, query)| {
                let resolution = core.resolve(query, now, rand::random());
                resolution
                    .map(app::resolution)
                    .map_err(|error| app::resolve_error(at, &error))
            })
            .collect::<Result<_, _>>()?;
        let bypassed = results
            .iter()
            .filter(|result: &&v1::Resolution| result.bypass)
            .count();
        engine.counters.add_len(Counter::ResolvesBypassed, bypassed);
        let (freshness, freshness_reason) = wire::freshness(core.freshness(now));
        Ok(v1::ResolveResponse {
            results,
            freshness: freshness.into(),
            freshness_reason,
        })
    }

    fn expiry_now<'a>(&self, policies: &'a grapevine_core::policy::PolicySet) -> app::Expiry<'a> {
        app::Expiry {
            policies,
            now: Clock::unix(),
            slack: self.slack,
        }
    }

    async fn register_items(&self, items: Vec<RegisterItem>) -> Result<Vec<Verdict>, Status> {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let Ok(Ok(_place)) =
            tokio::time::timeout(INTAKE_WAIT, self.under_way.acquire_many(count)).await
        else {
            self.engine.counters.inc(Counter::IntakeRejected);
            let message = format!("{UNDER_WAY_MAX} fills and registrations are under way already");
            return Err(status::exhausted(message, Duration::from_millis(200)));
        };
        let held = self.engine.store.registrations();
        let wanted = items
            .iter()
            .filter(|item| item.register)
            .map(|item| item.classes.len() as u64)
            .sum::<u64>();
        if wanted > 0 && held + wanted > self.registrations_max {
            self.engine.counters.inc(Counter::IntakeRejected);
            let max = self.registrations_max;
            let message = format!(
                "registrations: {held} are held and {wanted} more asked for; the limit is {max} (limits.registrations_max)"
            );
            return Err(status::exhausted(message, Duration::from_secs(10)));
        }
        match self.engine.call(Call::Register(items)).await?.reply {
            Reply::Registered(verdicts) => Ok(verdicts),
            Reply::Refused(refusal) => Err(status::refusal(&refusal)),
            Reply::Invalidated { .. } => Err(Status::internal(
                "a registration was answered as an invalidation",
            )),
        }
    }

    async fn register_batch(
        &self,
        request: v1::RegisterRequest,
    ) -> Result<v1::RegisterResponse, Status> {
        let items = {
            let core = self.engine.core.read();
            app::registrations(
                request.registrations,
                self.expiry_now(&core.config().policies),
            )?
        };
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

    fn class_or_all(field: &str, value: &str) -> Result<Option<ClassPath>, Status> {
        if value.is_empty() {
            Ok(None)
        } else {
            app::class(field, value).map(Some)
        }
    }
}

#[tonic::async_trait]
impl ApplicationService for Application {
    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        self.resolve_now(request.into_inner())
            .await
            .map(Response::new)
    }

    type ResolveStreamStream = ReceiverStream<Result<v1::ResolveStreamResponse, Status>>;

    async fn resolve_stream(
        &self,
        request: Request<Streaming<v1::ResolveStreamRequest>>,
    ) -> Result<Response<Self::ResolveStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, responses) = mpsc::channel(STREAM_ANSWERS);
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(message) = requests.message().await.transpose() {
                // An error is of the caller's making (too large a message, say) or its end, and then nobody hears it.
                let answer = match message.map(|message| message.request) {
                    Ok(Some(request)) => this.resolve_now(request).await,
                    Ok(None) => Err(status::invalid("request", "it is not set")),
                    Err(status) => Err(status),
                };
                let failed = answer.is_err();
                let answer = answer.map(|response| v1::ResolveStreamResponse {
                    response: Some(response),
                });
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn commit_fill(
        &self,
        request: Request<v1::CommitFillRequest>,
    ) -> Result<Response<v1::CommitFillResponse>, Status> {
        let items = {
            let core = self.engine.core.read();
            app::fills(
                request.into_inner(),
                self.expiry_now(&core.config().policies),
            )?
        };
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

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.register_batch(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn register_stream(
        &self,
        request: Request<Streaming<v1::RegisterStreamRequest>>,
    ) -> Result<Response<v1::RegisterStreamResponse>, Status> {
        let mut batches = request.into_inner();
        let mut summary = v1::RegisterStreamResponse::default();
        while let Some(message) = batches.message().await? {
            let batch = message
                .batch
                .ok_or_else(|| status::invalid("batch", "it is not set"))?;
            let answer = self.register_batch(batch).await?;
            summary.accepted += answer.accepted;
            summary.condemned += answer.condemned.len() as u64;
        }
        Ok(Response::new(summary))
    }

    async fn invalidate(
        &self,
        request: Request<v1::InvalidateRequest>,
    ) -> Result<Response<v1::InvalidateResponse>, Status> {
        let request = request.into_inner();
        let call = app::invalidation(&request)?;
        let session = app::session(request.session)?;
        self.engine
            .await_session(&session.events, session.wait)
            .await?;
        let deadline = tokio::time::Instant::now() + call.timeout;
        let invalidate = Invalidate {
            classes: call.classes,
            matching: call.matching,
            purge: call.purge,
            level: call.level,
            deadline: self.engine.clock.now().plus(call.timeout),
        };
        let Answer { reply, purges } = self.engine.call(Call::Invalidate(invalidate)).await?;
        let (event, receipt) = match reply {
            Reply::Invalidated { event, receipt } => {
                let met = if receipt.satisfied {
                    Counter::ReceiptsSatisfied
                } else {
                    Counter::ReceiptsMissed
                };
                self.engine.counters.inc(met);
                (event, receipt)
            }
            Reply::Refused(refusal) => return Err(status::refusal(&refusal)),
            Reply::Registered(_) => {
                return Err(Status::internal(
                    "an invalidation was answered as a registration",
                ));
            }
        };
        let mut response = v1::InvalidateResponse {
            event: Some(wire::event_id(event)),
            session_token: wire::session_token(event),
            receipt: Some(app::receipt(receipt)),
            ..Default::default()
        };
        for purge in purges {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let attempt = purge.first_attempt_within(left).await;
            response.addresses_purged += attempt.purged;
            response.addresses_pending += attempt.pending + attempt.dropped;
        }
        Ok(Response::new(response))
    }

    type ListAddressesStream = ReceiverStream<Result<v1::ListAddressesResponse, Status>>;

    async fn list_addresses(
        &self,
        request: Request<v1::ListAddressesRequest>,
    ) -> Result<Response<Self::ListAddressesStream>, Status> {
        let request = request.into_inner();
        let class = app::class("class", &request.class)?;
        let rows = listing::addresses(
            self.engine.store.clone(),
            class,
            request.limit,
            &request.page_token,
        )
        .await?;
        Ok(Response::new(rows))
    }

    type ListClassesStream = ReceiverStream<Result<v1::ListClassesResponse, Status>>;

    async fn list_classes(
        &self,
        request: Request<v1::ListClassesRequest>,
    ) -> Result<Response<Self::ListClassesStream>, Status> {
        let request = request.into_inner();
        let below = Self::class_or_all("below", &request.below)?;
        let rows = listing::classes(
            self.engine.store.clone(),
            below,
            request.limit,
            &request.page_token,
        )
        .await?;
        Ok(Response::new(rows))
    }

    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let classes = app::watched(&request.into_inner().classes)?;
        watch::start(&self.engine, &self.watchers, self.stop.clone(), classes).map(Response::new)
    }
}
