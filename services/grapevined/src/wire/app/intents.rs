//! Write intents: begun, committed, aborted.

use std::time::Duration;

use grapevine_core::event::{Match, PurgeMode};
use grapevine_core::intent::{INTENT_LEASE_MAX, INTENT_LEASE_MIN, IntentId};
use grapevine_core::machine::effects as core;
use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::super::event_id;
use super::super::status::{Violations, invalid};
use super::invalidate::{
    Invalidation, TIMEOUT_DEFAULT, read_changed, read_invalidation, read_purge,
};
use super::wait;

/// A checked call to begin a write, but for its deadline on the sidecar's clock.
pub(crate) struct Beginning {
    pub(crate) classes: Vec<ClassPath>,
    pub(crate) matching: Match,
    pub(crate) purge: PurgeMode,
    pub(crate) lease: Duration,
    pub(crate) timeout: Duration,
}

pub(crate) fn beginning(
    message: &v1::BeginWriteRequest,
    lease_default: Duration,
) -> Result<Beginning, Status> {
    let mut violations = Violations::default();
    let (classes, matching) = read_changed(&mut violations, &message.classes, message.r#match);
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
        classes,
        matching,
        purge,
        lease,
        timeout,
    })
}

pub(crate) fn committing(
    message: &v1::CommitWriteRequest,
) -> Result<(IntentId, Invalidation), Status> {
    let mut violations = Violations::default();
    let intent = violations.check(|| "intent".to_owned(), read_intent(&message.intent));
    let Some(given) = &message.invalidation else {
        violations.add("invalidation", "it is not set");
        return Err(violations.finish().err().unwrap_or_else(|| {
            unreachable!("invariant: a violation was added");
        }));
    };
    violations.descend("invalidation.");
    let call = read_invalidation(&mut violations, given);
    violations.finish()?;
    match intent {
        Some(intent) => Ok((intent, call)),
        None => unreachable!("invariant: what is no intent is a violation"),
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
