//! Fills, registrations and what becomes of them.

use std::fmt;
use std::time::Duration;

use grapevine_core::event::ADDRESS_CLASSES_MAX;
use grapevine_core::fill::FillId;
use grapevine_core::id::UnixSeconds;
use grapevine_core::lease::Lease;
use grapevine_core::machine::effects as core;
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::policy::{PolicySet, Strategy, TTL_MAX};
use grapevine_core::versions::sorted_classes;
use grapevine_proto::v1;
use tonic::Status;

use super::super::status::Violations;
use super::resolve::ITEMS_MAX;
use super::{address_class, classes, counted};

/// Registrations in one call.
pub(crate) const REGISTRATIONS_MAX: usize = 10_000;

/// The largest lease, or turn to fill, that any release gives.
pub(super) const LEASE_BYTES_MAX: usize = 64;

/// A place in a message: of thousands of them none is written out unless something is wrong there.
#[derive(Clone, Copy)]
struct Field {
    list: &'static str,
    at: usize,
    part: &'static str,
}

impl Field {
    fn part(self, part: &'static str) -> Self {
        Self { part, ..self }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}].{}", self.list, self.at, self.part)
    }
}

/// What turns times to live into expiries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry<'a> {
    pub(crate) policies: &'a PolicySet,
    pub(crate) now: UnixSeconds,
    /// Lease and margin: how long after the call the value may still be stored, and be alive beyond its TTL.
    pub(crate) slack: Duration,
}

impl Expiry<'_> {
    fn of(
        &self,
        violations: &mut Violations,
        field: impl Fn() -> String,
        ttl_ms: u64,
        class: &ClassPath,
    ) -> UnixSeconds {
        let ttl = Duration::from_millis(ttl_ms);
        if ttl > TTL_MAX {
            violations.add(
                field(),
                format!(
                    "{ttl_ms} ms; the limit is {} ms (10 years)",
                    TTL_MAX.as_millis()
                ),
            );
        }
        let ttl = if ttl.is_zero() {
            self.policies.of(class).ttl
        } else {
            ttl.min(TTL_MAX)
        };
        self.now.plus(ttl + self.slack)
    }
}

fn lease(violations: &mut Violations, field: Field, bytes: &[u8]) -> core::LeaseClaim {
    if bytes.len() > LEASE_BYTES_MAX {
        let given = bytes.len();
        violations.add(
            field.part("lease").to_string(),
            format!("{given} bytes; the limit is {LEASE_BYTES_MAX} bytes"),
        );
    }
    match Lease::from_bytes(bytes) {
        Some(lease) => core::LeaseClaim::Lease(lease),
        None if bytes.is_empty() => core::LeaseClaim::Absent,
        None => core::LeaseClaim::Malformed,
    }
}

/// A turn to fill. What is none may be of another release, and is taken for none.
fn turn(violations: &mut Violations, field: Field, bytes: &[u8]) -> Option<FillId> {
    if bytes.len() > LEASE_BYTES_MAX {
        let given = bytes.len();
        violations.add(
            field.part("fill").to_string(),
            format!("{given} bytes; the limit is {LEASE_BYTES_MAX} bytes"),
        );
    }
    FillId::from_bytes(bytes)
}

pub(crate) fn fills(
    message: v1::CommitFillRequest,
    expiry: Expiry<'_>,
) -> Result<Vec<core::RegisterItem>, Status> {
    let mut violations = Violations::default();
    counted(&mut violations, "fills", message.fills.len(), 1..=ITEMS_MAX);
    let mut items = Vec::with_capacity(message.fills.len().min(ITEMS_MAX));
    for (at, fill) in message.fills.into_iter().enumerate().take(ITEMS_MAX) {
        let field = Field {
            list: "fills",
            at,
            part: "address",
        };
        let Some(address) = violations.check(|| field.to_string(), Address::parse(&fill.address))
        else {
            continue;
        };
        let total = fill.classes.len() + fill.added_classes.len();
        if fill.classes.is_empty() || total > ADDRESS_CLASSES_MAX {
            let what =
                format!("{total} with added_classes; the limits are 1 to {ADDRESS_CLASSES_MAX}");
            violations.add(field.part("classes").to_string(), what);
            continue;
        }
        let mut named = classes(
            &mut violations,
            field.part("classes"),
            &fill.classes,
            address_class,
        );
        named.extend(classes(
            &mut violations,
            field.part("added_classes"),
            &fill.added_classes,
            address_class,
        ));
        let Some(first) = named.first() else { continue };
        let expires = expiry.of(
            &mut violations,
            || field.part("ttl_ms").to_string(),
            fill.ttl_ms,
            first,
        );
        let purpose = match expiry.policies.of(first).strategy {
            Strategy::Registered => core::Purpose::Directory,
            Strategy::Versioned | Strategy::Bucketed(_) => core::Purpose::Verdict,
            Strategy::Ttl => core::Purpose::Lapses,
        };
        let lease = lease(&mut violations, field, &fill.lease);
        let turn = turn(&mut violations, field, &fill.fill);
        let claim = match (lease, turn) {
            // A fill without a lease has no stamp, so nothing can be said for it.
            (core::LeaseClaim::Absent, _) => core::LeaseClaim::Malformed,
            (core::LeaseClaim::Lease(lease), Some(turn)) => core::LeaseClaim::Elected(lease, turn),
            (claim, _) => claim,
        };
        let classes = sorted_classes(&named);
        items.push(core::RegisterItem {
            address,
            classes,
            expires,
            lease: claim,
            purpose,
        });
    }
    violations.finish()?;
    Ok(items)
}

pub(crate) fn registrations(
    message: Vec<v1::Registration>,
    expiry: Expiry<'_>,
) -> Result<Vec<core::RegisterItem>, Status> {
    let mut violations = Violations::default();
    counted(
        &mut violations,
        "registrations",
        message.len(),
        1..=REGISTRATIONS_MAX,
    );
    let mut items = Vec::with_capacity(message.len().min(REGISTRATIONS_MAX));
    for (at, registration) in message.into_iter().enumerate().take(REGISTRATIONS_MAX) {
        let field = Field {
            list: "registrations",
            at,
            part: "address",
        };
        let address = violations.check(|| field.to_string(), Address::parse(&registration.address));
        if registration.classes.is_empty() || registration.classes.len() > ADDRESS_CLASSES_MAX {
            let given = registration.classes.len();
            counted(
                &mut violations,
                &field.part("classes").to_string(),
                given,
                1..=ADDRESS_CLASSES_MAX,
            );
            continue;
        }
        let named = classes(
            &mut violations,
            field.part("classes"),
            &registration.classes,
            address_class,
        );
        let (Some(address), Some(first)) = (address, named.first()) else {
            continue;
        };
        let expires = expiry.of(
            &mut violations,
            || field.part("ttl_ms").to_string(),
            registration.ttl_ms,
            first,
        );
        let lease = lease(&mut violations, field, &registration.lease);
        let classes = sorted_classes(&named);
        items.push(core::RegisterItem {
            address,
            classes,
            expires,
            lease,
            purpose: core::Purpose::Directory,
        });
    }
    violations.finish()?;
    Ok(items)
}

pub(crate) fn verdict(verdict: core::Verdict) -> v1::FillVerdict {
    match verdict {
        core::Verdict::Accepted(token) => v1::FillVerdict {
            accepted: true,
            reason: v1::CondemnReason::Unspecified.into(),
            token: token.0,
        },
        core::Verdict::Condemned(reason) => v1::FillVerdict {
            accepted: false,
            reason: match reason {
                core::CondemnReason::Bumped => v1::CondemnReason::Bumped,
                core::CondemnReason::LeaseUnknown => v1::CondemnReason::LeaseUnknown,
                core::CondemnReason::Superseded => v1::CondemnReason::Superseded,
                core::CondemnReason::ShapeUnknown => v1::CondemnReason::ShapeUnknown,
            }
            .into(),
            token: 0,
        },
    }
}
