//! The RPCs of the scripted sidecar.

use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use grapevine_client::v1;
use grapevine_client::v1::admin_service_server::AdminService;
use grapevine_client::v1::application_service_server::ApplicationService;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::{Ended, Instead, Method, State, TARGETS_MAX, Write, answer};

pub(super) fn invalid(field: &str, description: &str) -> Status {
    let details = ErrorDetails::with_bad_request(vec![FieldViolation::new(field, description)]);
    Status::with_error_details(Code::InvalidArgument, "1 field", details)
}

impl State {
    fn intent(&self, number: u64) -> Bytes {
        let number = number.to_be_bytes();
        [&[1][..], &self.incarnation, &number].concat().into()
    }

    fn begin(&self, begun: v1::BeginWriteRequest) -> Bytes {
        let ended = Ended::Open;
        let mut writes = self.writes.lock();
        writes.push(Write { begun, ended });
        self.intent(writes.len() as u64 - 1)
    }

    /// Notes how a write of this sidecar ended, if it had not, and tells what it was before.
    fn end(&self, intent: &Bytes, ended: Ended) -> Option<Ended> {
        let mut writes = self.writes.lock();
        let at = (0..writes.len()).find(|at| self.intent(*at as u64) == *intent)?;
        let before = writes[at].ended.clone();
        if before == Ended::Open {
            writes[at].ended = ended;
        }
        Some(before)
    }
}

impl State {
    /// A change of rows, of which the fake knows the tables only, or the statement: as a call to invalidate these.
    async fn bump_all(
        &self,
        classes: Vec<String>,
        (receipt, timeout_ms, session): (i32, u32, Option<v1::Session>),
    ) -> Result<v1::InvalidateResponse, Status> {
        let invalidation = v1::InvalidateRequest {
            classes,
            receipt,
            timeout_ms,
            session,
            ..Default::default()
        };
        let outcome = self.invalidate(Request::new(invalidation)).await?;
        Ok(outcome.into_inner())
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ApplicationService for State {
    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let instead = self.play(Method::Resolve).await?;
        let request = request.into_inner();
        self.check_session(request.session.as_ref())?;
        self.resolve_session.lock().clone_from(&request.session);
        self.resolve_items
            .fetch_add(request.items.len() as u64, Ordering::Relaxed);
        let results = request
            .items
            .iter()
            .enumerate()
            .map(|(index, item)| self.resolve_item(index, item, request.snapshot.as_ref()));
        let results: Vec<v1::Resolution> = results.collect::<Result<_, _>>()?;
        let targets: usize = results.iter().map(|result| result.targets.len()).sum();
        if targets > TARGETS_MAX {
            return Err(invalid(
                "items",
                &format!("{targets} pages are more than {TARGETS_MAX}"),
            ));
        }
        let freshness = if self.unknown.load(Ordering::SeqCst) {
            v1::Freshness::Unknown
        } else {
            v1::Freshness::Fresh
        };
        let (mut local_table, mut position) = (0, None);
        if !self.foreign.load(Ordering::SeqCst) {
            let tables = self.tables.lock();
            local_table = tables.named(request.local_table);
            position = Some(tables.position());
        }
        let response = v1::ResolveResponse {
            results,
            freshness: freshness.into(),
            freshness_reason: String::new(),
            local_table,
            local_table_position: position.filter(|_| local_table != 0),
        };
        answer(instead, response).await
    }

    type ResolveStreamStream = Answers<v1::ResolveStreamResponse>;

    async fn resolve_stream(
        &self,
        _: Request<Streaming<v1::ResolveStreamRequest>>,
    ) -> Result<Response<Self::ResolveStreamStream>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn open_snapshot(
        &self,
        request: Request<v1::OpenSnapshotRequest>,
    ) -> Result<Response<v1::OpenSnapshotResponse>, Status> {
        let instead = self.play(Method::OpenSnapshot).await?;
        self.check_session(request.into_inner().session.as_ref())?;
        let stamp = self.versions.lock().sequence;
        let response = v1::OpenSnapshotResponse {
            snapshot: Bytes::copy_from_slice(&stamp.to_be_bytes()),
            lease_ms: 10_000,
        };
        answer(instead, response).await
    }

    async fn commit_fill(
        &self,
        request: Request<v1::CommitFillRequest>,
    ) -> Result<Response<v1::CommitFillResponse>, Status> {
        let instead = self.play(Method::Commit).await?;
        let verdicts = request
            .into_inner()
            .fills
            .iter()
            .map(|fill| self.commit(fill))
            .collect();
        answer(instead, v1::CommitFillResponse { verdicts }).await
    }

    type AcquireFillStream = Answers<v1::AcquireFillResponse>;

    async fn acquire_fill(
        &self,
        request: Request<v1::AcquireFillRequest>,
    ) -> Result<Response<Self::AcquireFillStream>, Status> {
        let instead = self.play(Method::Acquire).await?;
        let wait = request.into_inner().wait_ms;
        self.turn_waits.lock().push(wait);
        // As one that has just asked for the turn, and whose caller waits for another one's fill.
        let turn = match instead {
            None => v1::AcquireFillResponse {
                turn: v1::FillTurn::Won.into(),
                fill: Bytes::from_static(b"turn"),
                lease_ms: 10_000,
                retry_after_ms: 0,
            },
            Some(Instead::Status(status)) => return Err(status),
            Some(Instead::Nothing | Instead::Late(_)) => {
                return Ok(Response::new(Box::pin(tokio_stream::pending())));
            }
        };
        let open = tokio_stream::iter([Ok(turn)]).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(open)))
    }

    async fn finish_fill(
        &self,
        _: Request<v1::FinishFillRequest>,
    ) -> Result<Response<v1::FinishFillResponse>, Status> {
        Err(Status::unimplemented("not asked of the fake"))
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.play(Method::Register).await?;
        self.check_carried(&request)?;
        let registrations = request.into_inner().registrations;
        let mut versions = self.versions.lock();
        for registration in &registrations {
            for class in &registration.classes {
                versions.directory.insert(
                    (class.clone(), registration.address.clone()),
                    registration.ttl_ms,
                );
            }
        }
        Ok(Response::new(v1::RegisterResponse {
            accepted: registrations.len() as u64,
            condemned: Vec::new(),
        }))
    }

    async fn register_stream(
        &self,
        request: Request<Streaming<v1::RegisterStreamRequest>>,
    ) -> Result<Response<v1::RegisterStreamResponse>, Status> {
        self.check_carried(&request)?;
        let mut batches = request.into_inner();
        let mut accepted = 0;
        while let Some(batch) = batches.message().await? {
            let batch = Request::new(batch.batch.unwrap_or_default());
            accepted += self.register(batch).await?.into_inner().accepted;
        }
        Ok(Response::new(v1::RegisterStreamResponse {
            accepted,
            condemned: 0,
        }))
    }

    async fn invalidate(
        &self,
        request: Request<v1::InvalidateRequest>,
    ) -> Result<Response<v1::InvalidateResponse>, Status> {
        let request = request.into_inner();
        self.receipt_timeouts.lock().push(request.timeout_ms);
        let instead = self.play(Method::Invalidate).await?;
        self.check_session(request.session.as_ref())?;
        if request
            .classes
            .iter()
            .any(|class| class.starts_with("forbidden"))
        {
            return Err(invalid("classes[0]", "forbidden"));
        }
        let mut sequence = 0;
        for class in &request.classes {
            sequence = self.bump(class);
        }
        let holder = v1::Holder {
            node_id: "fake".to_owned(),
            incarnation: self.incarnation.clone(),
            state: v1::HolderState::Has.into(),
        };
        let response = v1::InvalidateResponse {
            event: Some(self.event(sequence)),
            session_token: self.session_token(sequence),
            receipt: Some(v1::Receipt {
                level: request.receipt,
                satisfied: true,
                holders: vec![holder],
            }),
            local_table_position: self.tables.lock().position(),
            ..v1::InvalidateResponse::default()
        };
        answer(instead, response).await
    }

    async fn row_changed(
        &self,
        request: Request<v1::RowChangedRequest>,
    ) -> Result<Response<v1::RowChangedResponse>, Status> {
        let call = request.into_inner();
        let tables = call.changes.iter().map(|change| change.table.clone());
        let terms = (call.receipt, call.timeout_ms, call.session);
        let outcome = Some(self.bump_all(tables.collect(), terms).await?);
        Ok(Response::new(v1::RowChangedResponse { outcome }))
    }

    async fn index_read(
        &self,
        request: Request<v1::IndexReadRequest>,
    ) -> Result<Response<v1::IndexReadResponse>, Status> {
        self.read_leaf(request).await
    }

    async fn index_fill(
        &self,
        request: Request<v1::IndexFillRequest>,
    ) -> Result<Response<v1::IndexFillResponse>, Status> {
        self.fill_leaf(request).await
    }

    async fn index_prune(
        &self,
        request: Request<v1::IndexPruneRequest>,
    ) -> Result<Response<v1::IndexPruneResponse>, Status> {
        self.prune_leaf(request).await
    }

    async fn invalidate_where(
        &self,
        request: Request<v1::InvalidateWhereRequest>,
    ) -> Result<Response<v1::InvalidateWhereResponse>, Status> {
        let call = request.into_inner();
        let mut classes: Vec<_> = call.rows.iter().map(|rows| rows.table.clone()).collect();
        classes.extend(Some(call.sql).filter(|sql| !sql.is_empty()));
        let terms = (call.receipt, call.timeout_ms, call.session);
        let outcome = Some(self.bump_all(classes, terms).await?);
        Ok(Response::new(v1::InvalidateWhereResponse { outcome }))
    }

    async fn begin_write(
        &self,
        request: Request<v1::BeginWriteRequest>,
    ) -> Result<Response<v1::BeginWriteResponse>, Status> {
        let instead = self.play(Method::Begin).await?;
        self.check_carried(&request)?;
        let begun = request.into_inner();
        if begun.classes.iter().any(|class| class == "forbidden") {
            return Err(invalid("classes[0]", "forbidden"));
        }
        let lease_ms = if begun.lease_ms == 0 {
            10_000
        } else {
            begun.lease_ms
        };
        let intent = self.begin(begun);
        answer(instead, v1::BeginWriteResponse { intent, lease_ms }).await
    }

    async fn commit_write(
        &self,
        request: Request<v1::CommitWriteRequest>,
    ) -> Result<Response<v1::CommitWriteResponse>, Status> {
        let instead = self.play(Method::CommitWrite).await?;
        let v1::CommitWriteRequest {
            intent,
            invalidation,
            rows,
        } = request.into_inner();
        assert!(invalidation.is_some() != rows.is_some(), "one of them");
        self.row_commits.lock().extend(rows.clone());
        let invalidation = invalidation.or(rows.map(of_tables)).unwrap();
        self.end(&intent, Ended::Committed(invalidation.clone()));
        let outcome = self.invalidate(Request::new(invalidation)).await?;
        let outcome = Some(outcome.into_inner());
        answer(instead, v1::CommitWriteResponse { outcome }).await
    }

    async fn abort_write(
        &self,
        request: Request<v1::AbortWriteRequest>,
    ) -> Result<Response<v1::AbortWriteResponse>, Status> {
        let instead = self.play(Method::Abort).await?;
        let (outcome, event) = match self.end(&request.into_inner().intent, Ended::Aborted) {
            None => (v1::AbortOutcome::Unknown, None),
            Some(Ended::Committed(_)) => (v1::AbortOutcome::Bumped, Some(self.event(1))),
            Some(_) => (v1::AbortOutcome::NothingBumped, None),
        };
        let response = v1::AbortWriteResponse {
            outcome: outcome.into(),
            event,
        };
        answer(instead, response).await
    }

    type ListAddressesStream = Answers<v1::ListAddressesResponse>;

    async fn list_addresses(
        &self,
        request: Request<v1::ListAddressesRequest>,
    ) -> Result<Response<Self::ListAddressesStream>, Status> {
        self.check_carried(&request)?;
        let request = request.into_inner();
        let below = format!("{}/", request.class);
        let versions = self.versions.lock();
        let matching = versions
            .directory
            .iter()
            .filter(|((class, _), _)| *class == request.class || class.starts_with(&below));
        let entries: Vec<v1::AddressEntry> = matching
            .map(|((class, address), ttl_ms)| v1::AddressEntry {
                class: class.clone(),
                address: address.clone(),
                expires_unix_ms: *ttl_ms,
            })
            .collect();
        let start = request
            .page_token
            .first()
            .map_or(0, |position| usize::from(*position));
        let limit = if request.limit == 0 {
            entries.len()
        } else {
            usize::try_from(request.limit).unwrap()
        };
        let end = entries.len().min(start + limit);
        let chunks: Vec<_> = (start..end)
            .step_by(2)
            .map(|at| {
                let next = (at + 2).min(end);
                Ok(v1::ListAddressesResponse {
                    entries: entries[at..next].to_vec(),
                    next_page_token: if next < entries.len() {
                        Bytes::from(vec![u8::try_from(next).unwrap()])
                    } else {
                        Bytes::new()
                    },
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    type ListClassesStream = Answers<v1::ListClassesResponse>;

    async fn list_classes(
        &self,
        request: Request<v1::ListClassesRequest>,
    ) -> Result<Response<Self::ListClassesStream>, Status> {
        self.check_carried(&request)?;
        let bumps = self.versions.lock().bumps.clone();
        let entries = bumps.into_keys().map(|class| v1::ClassEntry {
            class,
            addresses: 0,
            bumped: true,
        });
        let chunk = v1::ListClassesResponse {
            entries: entries.collect(),
            next_page_token: Bytes::new(),
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(chunk)]))))
    }

    type LocalTableStreamStream = Answers<v1::LocalTableStreamResponse>;

    async fn local_table_stream(
        &self,
        request: Request<Streaming<v1::LocalTableStreamRequest>>,
    ) -> Result<Response<Self::LocalTableStreamStream>, Status> {
        let this = self.this.upgrade().expect("invariant: it runs in an Arc");
        let told = this.open_table(request.into_inner());
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        use v1::watch_response::Kind;
        let started = v1::WatchResponse {
            kind: Some(Kind::Started(v1::WatchStarted {
                incarnation: self.incarnation.clone(),
            })),
        };
        let news = BroadcastStream::new(self.news.subscribe()).map(|message| {
            Ok(message.unwrap_or_else(|lagged| {
                let tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged(missed) =
                    lagged;
                v1::WatchResponse {
                    kind: Some(Kind::Resync(v1::WatchResync { missed })),
                }
            }))
        });
        Ok(Response::new(Box::pin(
            tokio_stream::iter([Ok(started)]).chain(news),
        )))
    }

    async fn report_reads(
        &self,
        request: Request<v1::ReportReadsRequest>,
    ) -> Result<Response<v1::ReportReadsResponse>, Status> {
        self.play(Method::ReportReads).await?;
        self.reports.lock().push(request.into_inner());
        Ok(Response::new(v1::ReportReadsResponse {}))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        self.play(Method::Explain).await?;
        let sql = request.into_inner().sql;
        if sql.contains("nonsense") {
            return Err(invalid("sql", "not understood"));
        }
        // The word behind FROM is the class.
        let table = sql
            .split(" FROM ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        Ok(Response::new(v1::ExplainResponse {
            cacheable: table.is_some() && !sql.contains("volatile"),
            classes: table.map(str::to_owned).into_iter().collect(),
            // What was asked, for tests to see it.
            tables: vec![sql],
            ..v1::ExplainResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl AdminService for State {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(v1::StatusResponse {
            node_id: "fake".to_owned(),
            ..v1::StatusResponse::default()
        }))
    }

    async fn members(
        &self,
        _: Request<v1::MembersRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let members = vec![v1::Member::default()];
        Ok(Response::new(v1::MembersResponse { members, view: 1 }))
    }

    async fn forget(
        &self,
        _: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        Err(Status::unimplemented("not asked of the fake"))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        match request.into_inner().timeout_ms {
            0 | 1 | 2_000 => Ok(Response::new(v1::DrainResponse {})),
            other => Err(Status::failed_precondition(other.to_string())),
        }
    }
}

/// What changes of rows are to this fake: their tables.
fn of_tables(call: v1::RowChangedRequest) -> v1::InvalidateRequest {
    let tables = call.changes.into_iter().map(|change| change.table);
    v1::InvalidateRequest {
        classes: tables.collect(),
        receipt: call.receipt,
        timeout_ms: call.timeout_ms,
        purge: call.purge,
        session: call.session,
        ..Default::default()
    }
}
