//! What writers call: invalidations, and the three calls of a write that is declared before its commit.

use std::time::Duration;

use grapevine_core::event::RowImage;
use grapevine_core::id::Time;
use grapevine_core::machine::effects::{BeginWrite, Invalidate, Reply, RowsChange, Written};
use grapevine_proto::v1;
use tonic::Status;

use super::application::Application;
use crate::engine::{Answer, Call};
use crate::telemetry::Counter;
use crate::wire::{self, app, status};

/// How much longer than its deadline an invalidation may take to be answered: receipts count their deadline from the
/// flush, and a disk that has not flushed by then has stalled.
const DISK_WAIT: Duration = Duration::from_secs(1);
/// How long an abort may take to be flushed.
const ABORT_WAIT: Duration = Duration::from_secs(5);

impl Application {
    /// Invalidates classes, behind what the call's session names.
    pub(super) async fn invalidate_classes(
        &self,
        call: app::Invalidation,
        carried: &app::Session,
        make: impl FnOnce(Invalidate) -> Call,
    ) -> Result<v1::InvalidateResponse, Status> {
        let app::Invalidation {
            classes,
            matching,
            terms,
        } = call;
        let (purge, level) = (terms.purge, terms.level);
        self.bump((terms.session, terms.timeout), carried, move |deadline| {
            make(Invalidate {
                classes,
                matching,
                purge,
                level,
                deadline,
            })
        })
        .await
    }

    /// Tells of changed rows, behind what the call's session names.
    pub(super) async fn change_rows(
        &self,
        (rows, terms): (Vec<RowImage>, app::Terms),
        carried: &app::Session,
        make: impl FnOnce(RowsChange) -> Call,
    ) -> Result<v1::InvalidateResponse, Status> {
        let (purge, level) = (terms.purge, terms.level);
        self.bump((terms.session, terms.timeout), carried, move |deadline| {
            make(RowsChange {
                rows,
                purge,
                level,
                deadline,
            })
        })
        .await
    }

    /// Ends a write that was begun.
    pub(super) async fn commit(
        &self,
        request: &v1::CommitWriteRequest,
        carried: &app::Session,
    ) -> Result<v1::InvalidateResponse, Status> {
        match app::committing(request)? {
            (intent, app::Commit::Classes(call)) => {
                let make = move |call| Call::CommitWrite(intent, Written::Classes(call));
                self.invalidate_classes(call, carried, make).await
            }
            (intent, app::Commit::Rows(rows, terms)) => {
                let make = move |call| Call::CommitWrite(intent, Written::Rows(call));
                self.change_rows((rows, terms), carried, make).await
            }
        }
    }

    /// Makes a call that bumps.
    pub(super) async fn bump(
        &self,
        (session, timeout): (app::Session, Duration),
        carried: &app::Session,
        make: impl FnOnce(Time) -> Call,
    ) -> Result<v1::InvalidateResponse, Status> {
        self.await_session(session.and(carried)?).await?;
        let deadline = tokio::time::Instant::now() + timeout;
        let call = make(self.engine.clock.now().plus(timeout));
        let wait = timeout + DISK_WAIT;
        let answer = self.engine.call(call, None, wait).await?;
        let Answer { reply, purges, .. } = answer;
        let (event, receipt, local_table_position) = match reply {
            Reply::Invalidated {
                event,
                receipt,
                position,
            } => {
                let met = if receipt.satisfied {
                    Counter::ReceiptsSatisfied
                } else {
                    Counter::ReceiptsMissed
                };
                self.engine.counters.inc(met);
                (event, receipt, position)
            }
            Reply::Refused(refusal) => return Err(status::refusal(&refusal)),
            _ => return Err(mistaken("an invalidation")),
        };
        let mut response = v1::InvalidateResponse {
            event: Some(wire::event_id(event)),
            session_token: wire::session_token(event),
            receipt: Some(app::receipt(receipt)),
            local_table_position,
            ..Default::default()
        };
        for purge in purges {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let attempt = purge.first_attempt_within(left).await;
            response.addresses_purged += attempt.purged;
            response.addresses_pending += attempt.pending;
            response.addresses_dropped += attempt.dropped;
        }
        Ok(response)
    }

    pub(super) async fn begin(
        &self,
        request: v1::BeginWriteRequest,
        carried: app::Session,
    ) -> Result<v1::BeginWriteResponse, Status> {
        let call = app::beginning(&request, self.write_duration)?;
        self.await_session(carried).await?;
        let begin = BeginWrite {
            announced: call.announced,
            purge: call.purge,
            lease: call.lease,
            deadline: self.engine.clock.now().plus(call.timeout),
            random: rand::random(),
        };
        let wait = call.timeout + DISK_WAIT;
        let answer = self.engine.call(Call::BeginWrite(begin), None, wait);
        match answer.await?.reply {
            Reply::Begun { intent, lease } => Ok(app::begun(intent, lease)),
            Reply::Refused(refusal) => Err(status::refusal(&refusal)),
            _ => Err(mistaken("a write")),
        }
    }

    pub(super) async fn abort(
        &self,
        request: &v1::AbortWriteRequest,
    ) -> Result<v1::AbortWriteResponse, Status> {
        let intent = app::aborting(request)?;
        let answer = self
            .engine
            .call(Call::AbortWrite(intent), None, ABORT_WAIT)
            .await?;
        match answer.reply {
            Reply::Aborted(outcome) => Ok(app::aborted(outcome)),
            Reply::Refused(refusal) => Err(status::refusal(&refusal)),
            _ => Err(mistaken("an abort")),
        }
    }
}

/// A bug: the machine answered another call.
pub(super) fn mistaken(call: &str) -> Status {
    Status::internal(format!("{call} was answered as another call"))
}
