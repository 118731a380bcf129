//! Write intents: begun, committed, aborted.

use std::time::Duration;

use grapevine_core::event::{PurgeMode, RowImage};
use grapevine_core::intent::{INTENT_LEASE_MAX, INTENT_LEASE_MIN, IntentId};
use grapevine_core::machine::effects as core;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::super::event_id;
use super::super::status::{Violations, invalid};
use super::explain::read_dialect;
use super::invalidate::{
    Invalidation, TIMEOUT_DEFAULT, Terms, read_changed, read_invalidation, read_purge,
};
use super::rows::{read_changed_rows, read_changes};
use super::wait;

/// A checked call to begin a write, but for its deadline on the sidecar's clock.
pub(crate) struct Beginning {
    pub(crate) announced: core::Announced,
    pub(crate) purge: PurgeMode,
    pub(crate) lease: Duration,
    pub(crate) timeout: Duration,
}

pub(crate) fn beginning(
    message: &v1::BeginWriteRequest,
    lease_default: Duration,
) -> Result<Beginning, Status> {
    let mut violations = Violations::default();
    let announced = announced(&mut violations, message);
    let purge = read_purge(&mut violations, message.purge);
    let mut lease = Duration::from_millis(message.lease_ms.into());
    if lease.is_zero() {
        lease = lease_default;
    }
    if !(INTENT_LEASE_MIN..=INTENT_LEASE_MAX).contains(&lease) {
        let (least, most) = (INTENT_LEASE_MIN.as_millis(), INTENT_LEASE_MAX.as_millis());
        let given = message.lease_ms;
        violations.add(
            "lease_ms",
            format!("{given} ms; the limits are {least} to {most} ms"),
        );
    }
    let timeout = wait(
        &mut violations,
        "timeout_ms",
        message.timeout_ms,
        TIMEOUT_DEFAULT,
    );
    violations.finish()?;
    Ok(Beginning {
        announced,
        purge,
        lease,
        timeout,
    })
}

/// What a write will change: classes or rows.
fn announced(violations: &mut Violations, message: &v1::BeginWriteRequest) -> core::Announced {
    if message.changes.is_empty() {
        if message.classes.is_empty() {
            violations.add(
                "classes",
                "none, and no changes either: one of them must be set",
            );
            return core::Announced::Rows(Vec::new());
        }
        let (classes, matching) = read_changed(violations, &message.classes, message.r#match);
        return core::Announced::Classes { classes, matching };
    }
    if !message.classes.is_empty() {
        violations.add("changes", "classes are named, too: only one of them may be");
    }
    let dialect = read_dialect(violations, message.dialect);
    core::Announced::Rows(read_changes(violations, &message.changes, dialect))
}

/// What a write has changed.
pub(crate) enum Commit {
    Classes(Invalidation),
    Rows(Vec<RowImage>, Terms),
}

pub(crate) fn committing(message: &v1::CommitWriteRequest) -> Result<(IntentId, Commit), Status> {
    let mut violations = Violations::default();
    let intent = violations.check(|| "intent".to_owned(), read_intent(&message.intent));
    let written = match (&message.invalidation, &message.rows) {
        (Some(given), None) => {
            violations.descend("invalidation.");
            let call = read_invalidation(&mut violations, given);
            Some(Commit::Classes(call))
        }
        (None, Some(given)) => {
            violations.descend("rows.");
            let (rows, terms) = read_changed_rows(&mut violations, given);
            Some(Commit::Rows(rows, terms))
        }
        (None, None) => {
            violations.add("invalidation", "it is not set, and rows neither");
            None
        }
        (Some(_), Some(_)) => {
            violations.add("rows", "invalidation is set, too: only one of them may be");
            None
        }
    };
    violations.finish()?;
    match intent.zip(written) {
        Some(call) => Ok(call),
        None => unreachable!("invariant: what is missing is a violation"),
    }
}

pub(crate) fn aborting(message: &v1::AbortWriteRequest) -> Result<IntentId, Status> {
    read_intent(&message.intent).map_err(|error| invalid("intent", error))
}

fn read_intent(bytes: &[u8]) -> Result<IntentId, String> {
    IntentId::from_bytes(bytes).map_err(|wrong| format!("an intent of {wrong}"))
}

pub(crate) fn begun(intent: IntentId, lease: Duration) -> v1::BeginWriteResponse {
    v1::BeginWriteResponse {
        intent: Bytes::copy_from_slice(&intent.to_bytes()),
        lease_ms: u32::try_from(lease.as_millis()).unwrap_or(u32::MAX),
    }
}

pub(crate) fn aborted(outcome: core::AbortOutcome) -> v1::AbortWriteResponse {
    let (outcome, event) = match outcome {
        core::AbortOutcome::InTime => (v1::AbortOutcome::NothingBumped, None),
        core::AbortOutcome::Bumped(event) => (v1::AbortOutcome::Bumped, Some(event_id(event))),
        core::AbortOutcome::Unknown => (v1::AbortOutcome::Unknown, None),
    };
    v1::AbortWriteResponse {
        outcome: outcome.into(),
        event,
    }
}
