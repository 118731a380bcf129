//! Invalidations and receipts.

use std::time::Duration;

use grapevine_core::event::{BUMP_CLASSES_MAX, CONJUNCTION_CLASSES_MAX, Match, PurgeMode};
use grapevine_core::machine::effects as core;
use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use tonic::Status;

use super::super::incarnation;
use super::super::status::Violations;
use super::{Session, bump_class, classes, counted, session, wait};

/// How long a caller waits for receipts and holders that says nothing.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// A checked call to invalidate.
pub(crate) struct Invalidation {
    pub(crate) classes: Vec<ClassPath>,
    pub(crate) matching: Match,
    pub(crate) terms: Terms,
}

/// On which terms something is invalidated, but for the deadline on the sidecar's clock.
pub(crate) struct Terms {
    pub(crate) purge: PurgeMode,
    pub(crate) level: core::ReceiptLevel,
    pub(crate) timeout: Duration,
    pub(crate) session: Session,
}

pub(crate) fn invalidation(message: &v1::InvalidateRequest) -> Result<Invalidation, Status> {
    let mut violations = Violations::default();
    let call = read_invalidation(&mut violations, message);
    violations.finish()?;
    Ok(call)
}

/// Reads a call, noting what is wrong beside whatever else is wrong.
pub(super) fn read_invalidation(
    violations: &mut Violations,
    message: &v1::InvalidateRequest,
) -> Invalidation {
    let (classes, matching) = read_changed(violations, &message.classes, message.r#match);
    let terms = read_terms(
        violations,
        (message.receipt, message.timeout_ms, message.purge),
        message.session.as_ref(),
    );
    Invalidation {
        classes,
        matching,
        terms,
    }
}

/// Reads the terms of a call: receipt, timeout and purge mode, and its session.
pub(super) fn read_terms(
    violations: &mut Violations,
    (receipt, timeout_ms, purge): (i32, u32, i32),
    past: Option<&v1::Session>,
) -> Terms {
    let level = match v1::ReceiptLevel::try_from(receipt) {
        Ok(v1::ReceiptLevel::Unspecified | v1::ReceiptLevel::One) => core::ReceiptLevel::One,
        Ok(v1::ReceiptLevel::None) => core::ReceiptLevel::None,
        Ok(v1::ReceiptLevel::Quorum) => core::ReceiptLevel::Quorum,
        Ok(v1::ReceiptLevel::All) => core::ReceiptLevel::All,
        Err(_) => {
            violations.add(
                "receipt",
                format!("{receipt} is not a value of ReceiptLevel"),
            );
            core::ReceiptLevel::One
        }
    };
    Terms {
        purge: read_purge(violations, purge),
        level,
        timeout: wait(violations, "timeout_ms", timeout_ms, TIMEOUT_DEFAULT),
        session: session(violations, past),
    }
}

/// The classes that change, and whether any or all of them are meant.
pub(super) fn read_changed(
    violations: &mut Violations,
    given: &[String],
    matching: i32,
) -> (Vec<ClassPath>, Match) {
    let matching = match v1::Match::try_from(matching) {
        Ok(v1::Match::Unspecified | v1::Match::Any) => Match::Any,
        Ok(v1::Match::All) => Match::All,
        Err(_) => {
            violations.add("match", format!("{matching} is not a value of Match"));
            Match::Any
        }
    };
    let limits = match matching {
        Match::Any => 1..=BUMP_CLASSES_MAX,
        Match::All => 2..=CONJUNCTION_CLASSES_MAX,
    };
    let few = &given[..given.len().min(*limits.end())];
    counted(violations, "classes", given.len(), limits);
    (classes(violations, "classes", few, bump_class), matching)
}

pub(super) fn read_purge(violations: &mut Violations, purge: i32) -> PurgeMode {
    match v1::PurgeMode::try_from(purge) {
        Ok(v1::PurgeMode::Unspecified | v1::PurgeMode::Hard) => PurgeMode::Hard,
        Ok(v1::PurgeMode::Soft) => PurgeMode::Soft,
        Err(_) => {
            violations.add("purge", format!("{purge} is not a value of PurgeMode"));
            PurgeMode::Hard
        }
    }
}

pub(crate) fn receipt(receipt: core::Receipt) -> v1::Receipt {
    let level = match receipt.level {
        core::ReceiptLevel::None => v1::ReceiptLevel::None,
        core::ReceiptLevel::One => v1::ReceiptLevel::One,
        core::ReceiptLevel::Quorum => v1::ReceiptLevel::Quorum,
        core::ReceiptLevel::All => v1::ReceiptLevel::All,
    };
    let holders = receipt
        .holders
        .into_iter()
        .map(|holder| v1::Holder {
            node_id: holder.node_id.as_str().to_owned(),
            incarnation: incarnation(holder.incarnation),
            state: match holder.state {
                core::HolderState::Has => v1::HolderState::Has,
                core::HolderState::Flushed => v1::HolderState::Flushed,
                core::HolderState::HasNot => v1::HolderState::HasNot,
                core::HolderState::CannotServe => v1::HolderState::CannotServe,
            }
            .into(),
        })
        .collect();
    v1::Receipt {
        level: level.into(),
        satisfied: receipt.satisfied,
        holders,
    }
}
