//! The application service's messages.

use std::ops::RangeInclusive;
use std::time::Duration;

use grapevine_core::address::Slice;
use grapevine_core::event::{
    ADDRESS_CLASSES_MAX, BUMP_CLASSES_MAX, BumpEvent, CONJUNCTION_CLASSES_MAX, Match, PurgeMode,
};
use grapevine_core::id::{EventId, UnixSeconds};
use grapevine_core::lease::Lease;
use grapevine_core::machine::{ResolveError, effects as core};
use grapevine_core::names::{Address, ClassPath, EVERYTHING};
use grapevine_core::policy::{PolicySet, Strategy, TTL_MAX};
use grapevine_core::versions::sorted_classes;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::status::Violations;
use super::{event_id, incarnation, session_event};

/// Look-ups in one call.
pub(crate) const ITEMS_MAX: usize = 1_000;
/// Registrations in one call.
pub(crate) const REGISTRATIONS_MAX: usize = 10_000;
/// Session tokens in one call.
const SESSION_TOKENS_MAX: usize = 3;
/// The longest wait of any kind.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Prefixes of one watch.
const WATCH_CLASSES_MAX: usize = 100;

/// What a caller must be able to see, and how long it waits for it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) events: Vec<EventId>,
    pub(crate) wait: Duration,
}

/// Checks a count.
fn counted(violations: &mut Violations, field: &str, value: usize, limits: RangeInclusive<usize>) {
    if !limits.contains(&value) {
        let (least, most) = (limits.start(), limits.end());
        violations.add(
            field,
            format!("{value} of them; the limits are {least} to {most}"),
        );
    }
}

/// A class that an address may belong to.
fn address_class(value: &str) -> Result<ClassPath, String> {
    let class = ClassPath::parse(value).map_err(|error| error.to_string())?;
    if class.is_reserved() {
        return Err(format!(
            "class {value:?}: {EVERYTHING:?} stands for every class, and no address belongs to it"
        ));
    }
    Ok(class)
}

/// A class that may be invalidated or watched: also the one that stands for all, but nothing below it.
fn bump_class(value: &str) -> Result<ClassPath, String> {
    if value == EVERYTHING {
        Ok(ClassPath::everything())
    } else {
        address_class(value)
    }
}

fn classes(
    violations: &mut Violations,
    field: &str,
    values: &[String],
    parse: fn(&str) -> Result<ClassPath, String>,
) -> Vec<ClassPath> {
    values
        .iter()
        .enumerate()
        .filter_map(|(at, value)| violations.check(|| format!("{field}[{at}]"), parse(value)))
        .collect()
}

fn wait(violations: &mut Violations, field: &str, value_ms: u32, default: Duration) -> Duration {
    let value = Duration::from_millis(value_ms.into());
    if value > WAIT_MAX {
        violations.add(
            field,
            format!("{value_ms} ms; the limit is {} ms", WAIT_MAX.as_millis()),
        );
    }
    if value.is_zero() { default } else { value }
}

pub(crate) fn session(message: Option<v1::Session>) -> Result<Session, Status> {
    let Some(message) = message else {
        return Ok(Session::default());
    };
    let mut violations = Violations::default();
    if message.tokens.len() > SESSION_TOKENS_MAX {
        let given = message.tokens.len();
        violations.add(
            "session.tokens",
            format!("{given} of them; the limit is {SESSION_TOKENS_MAX}"),
        );
    }
    let mut events = Vec::new();
    for (at, token) in message.tokens.iter().enumerate().take(SESSION_TOKENS_MAX) {
        match session_event(token) {
            Some(event) => events.push(event),
            None => violations.add(
                format!("session.tokens[{at}]"),
                format!("{} bytes that are not a session token", token.len()),
            ),
        }
    }
    let wait = wait(
        &mut violations,
        "session.wait_ms",
        message.wait_ms,
        Duration::from_secs(1),
    );
    violations.finish()?;
    Ok(Session { events, wait })
}

pub(crate) fn queries(items: Vec<v1::ResolveItem>) -> Result<Vec<core::Query>, Status> {
    let mut violations = Violations::default();
    counted(&mut violations, "items", items.len(), 1..=ITEMS_MAX);
    let mut queries = Vec::with_capacity(items.len().min(ITEMS_MAX));
    for (at, item) in items.into_iter().enumerate().take(ITEMS_MAX) {
        let address = violations.check(
            || format!("items[{at}].address"),
            Address::parse(&item.address),
        );
        if item.classes.is_empty() || item.classes.len() > ADDRESS_CLASSES_MAX {
            counted(
                &mut violations,
                &format!("items[{at}].classes"),
                item.classes.len(),
                1..=ADDRESS_CLASSES_MAX,
            );
            continue;
        }
        let given = item.classes.len();
        let classes: Vec<_> = item
            .classes
            .iter()
            .enumerate()
            .filter_map(|(class, value)| {
                violations.check(
                    || format!("items[{at}].classes[{class}]"),
                    address_class(value),
                )
            })
            .collect();
        if let (Some(address), true) = (address, classes.len() == given) {
            let slice = item.page.map(|page| Slice {
                offset: page.offset,
                limit: page.limit,
            });
            queries.push(core::Query {
                address,
                classes,
                slice,
            });
        }
    }
    violations.finish()?;
    Ok(queries)
}

pub(crate) fn resolve_error(at: usize, error: &ResolveError) -> Status {
    let field = match error {
        ResolveError::ClassCount { .. } => "classes",
        ResolveError::Address(grapevine_core::address::AddressError::TooLong { .. }) => "address",
        ResolveError::Address(_) => "page",
    };
    super::status::invalid(&format!("items[{at}].{field}"), error.to_string())
}

pub(crate) fn resolution(resolution: core::Resolution) -> v1::Resolution {
    let (envelope, commit_required) = (resolution.envelope(), resolution.commit_required());
    v1::Resolution {
        targets: resolution
            .targets
            .into_iter()
            .map(|target| {
                let address = target.address.as_str().to_owned();
                target.page.map_or_else(
                    || v1::Target {
                        address: address.clone(),
                        ..v1::Target::default()
                    },
                    |page| v1::Target {
                        address: address.clone(),
                        page_index: page.index,
                        page_size: page.size,
                        skip: page.skip,
                        take: page.take,
                    },
                )
            })
            .collect(),
        token: resolution.token.0,
        lease: Bytes::copy_from_slice(&resolution.lease.to_bytes()),
        lease_ms: milliseconds(resolution.lease_duration),
        strategy: strategy(resolution.strategy).into(),
        ttl_ms: u64::try_from(resolution.ttl.as_millis())
            .unwrap_or(u64::MAX)
            .max(1),
        envelope,
        commit_required,
        bypass: resolution.bypass,
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn strategy(strategy: Strategy) -> v1::Strategy {
    match strategy {
        Strategy::Versioned => v1::Strategy::Versioned,
        Strategy::Registered => v1::Strategy::Registered,
        Strategy::Bucketed(_) => v1::Strategy::Bucketed,
        Strategy::Ttl => v1::Strategy::Ttl,
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

fn lease(bytes: &[u8]) -> core::LeaseClaim {
    match Lease::from_bytes(bytes) {
        Some(lease) => core::LeaseClaim::Lease(lease),
        None if bytes.is_empty() => core::LeaseClaim::Absent,
        None => core::LeaseClaim::Malformed,
    }
}

pub(crate) fn fills(
    message: v1::CommitFillRequest,
    expiry: Expiry<'_>,
) -> Result<Vec<core::RegisterItem>, Status> {
    let mut violations = Violations::default();
    counted(&mut violations, "fills", message.fills.len(), 1..=ITEMS_MAX);
    let mut items = Vec::with_capacity(message.fills.len().min(ITEMS_MAX));
    for (at, fill) in message.fills.into_iter().enumerate().take(ITEMS_MAX) {
        let field = format!("fills[{at}]");
        let Some(address) =
            violations.check(|| format!("{field}.address"), Address::parse(&fill.address))
        else {
            continue;
        };
        let total = fill.classes.len() + fill.added_classes.len();
        if fill.classes.is_empty() || total > ADDRESS_CLASSES_MAX {
            let what =
                format!("{total} with added_classes; the limits are 1 to {ADDRESS_CLASSES_MAX}");
            violations.add(format!("{field}.classes"), what);
            continue;
        }
        let mut named = classes(
            &mut violations,
            &format!("{field}.classes"),
            &fill.classes,
            address_class,
        );
        named.extend(classes(
            &mut violations,
            &format!("{field}.added_classes"),
            &fill.added_classes,
            address_class,
        ));
        let Some(first) = named.first() else { continue };
        let expires = expiry.of(
            &mut violations,
            || format!("{field}.ttl_ms"),
            fill.ttl_ms,
            first,
        );
        let register = expiry.policies.of(first).strategy == Strategy::Registered;
        let claim = match lease(&fill.lease) {
            // A fill without a lease has no stamp, so nothing can be said for it.
            core::LeaseClaim::Absent => core::LeaseClaim::Malformed,
            claim => claim,
        };
        let classes = sorted_classes(&named);
        items.push(core::RegisterItem {
            address,
            classes,
            expires,
            lease: claim,
            register,
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
        let field = format!("registrations[{at}]");
        let address = violations.check(
            || format!("{field}.address"),
            Address::parse(&registration.address),
        );
        if registration.classes.is_empty() || registration.classes.len() > ADDRESS_CLASSES_MAX {
            let given = registration.classes.len();
            counted(
                &mut violations,
                &format!("{field}.classes"),
                given,
                1..=ADDRESS_CLASSES_MAX,
            );
            continue;
        }
        let named = classes(
            &mut violations,
            &format!("{field}.classes"),
            &registration.classes,
            address_class,
        );
        let (Some(address), Some(first)) = (address, named.first()) else {
            continue;
        };
        let expires = expiry.of(
            &mut violations,
            || format!("{field}.ttl_ms"),
            registration.ttl_ms,
            first,
        );
        let lease = lease(&registration.lease);
        let classes = sorted_classes(&named);
        items.push(core::RegisterItem {
            address,
            classes,
            expires,
            lease,
            register: true,
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
            }
            .into(),
            token: 0,
        },
    }
}

/// A checked call to invalidate, but for its deadline on the sidecar's clock.
pub(crate) struct Invalidation {
    pub(crate) classes: Vec<ClassPath>,
    pub(crate) matching: Match,
    pub(crate) purge: PurgeMode,
    pub(crate) level: core::ReceiptLevel,
    pub(crate) timeout: Duration,
}

pub(crate) fn invalidation(message: &v1::InvalidateRequest) -> Result<Invalidation, Status> {
    let mut violations = Violations::default();
    let matching = match v1::Match::try_from(message.r#match) {
        Ok(v1::Match::Unspecified | v1::Match::Any) => Match::Any,
        Ok(v1::Match::All) => Match::All,
        Err(_) => {
            violations.add(
                "match",
                format!("{} is not a value of Match", message.r#match),
            );
            Match::Any
        }
    };
    let limits = match matching {
        Match::Any => 1..=BUMP_CLASSES_MAX,
        Match::All => 2..=CONJUNCTION_CLASSES_MAX,
    };
    let few = &message.classes[..message.classes.len().min(*limits.end())];
    counted(&mut violations, "classes", message.classes.len(), limits);
    let classes = classes(&mut violations, "classes", few, bump_class);
    let level = match v1::ReceiptLevel::try_from(message.receipt) {
        Ok(v1::ReceiptLevel::Unspecified | v1::ReceiptLevel::One) => core::ReceiptLevel::One,
        Ok(v1::ReceiptLevel::None) => core::ReceiptLevel::None,
        Ok(v1::ReceiptLevel::Quorum) => core::ReceiptLevel::Quorum,
        Ok(v1::ReceiptLevel::All) => core::ReceiptLevel::All,
        Err(_) => {
            violations.add(
                "receipt",
                format!("{} is not a value of ReceiptLevel", message.receipt),
            );
            core::ReceiptLevel::One
        }
    };
    let purge = match v1::PurgeMode::try_from(message.purge) {
        Ok(v1::PurgeMode::Unspecified | v1::PurgeMode::Hard) => PurgeMode::Hard,
        Ok(v1::PurgeMode::Soft) => PurgeMode::Soft,
        Err(_) => {
            violations.add(
                "purge",
                format!("{} is not a value of PurgeMode", message.purge),
            );
            PurgeMode::Hard
        }
    };
    let timeout = wait(
        &mut violations,
        "timeout_ms",
        message.timeout_ms,
        Duration::from_secs(5),
    );
    violations.finish()?;
    Ok(Invalidation {
        classes,
        matching,
        purge,
        level,
        timeout,
    })
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

/// One optional or required class.
pub(crate) fn class(field: &str, value: &str) -> Result<ClassPath, Status> {
    ClassPath::parse(value).map_err(|error| super::status::invalid(field, error.to_string()))
}

/// The classes of a watch; empty watches all.
pub(crate) fn watched(values: &[String]) -> Result<Vec<ClassPath>, Status> {
    let mut violations = Violations::default();
    if values.len() > WATCH_CLASSES_MAX {
        violations.add(
            "classes",
            format!("{} of them; the limit is {WATCH_CLASSES_MAX}", values.len()),
        );
    }
    let classes = classes(
        &mut violations,
        "classes",
        &values[..values.len().min(WATCH_CLASSES_MAX)],
        bump_class,
    );
    violations.finish()?;
    Ok(classes)
}

/// A bump as watchers see it; `None` if none of the watched classes is at, below or above one of its own.
pub(crate) fn watch_bump(
    event: EventId,
    what: &BumpEvent,
    watched: &[ClassPath],
) -> Option<v1::WatchResponse> {
    let kind = match what {
        // A floor swallowed a bucket: which of the watched classes it touches is not worth telling apart.
        BumpEvent::Floor(_) => v1::watch_response::Kind::Resync(v1::WatchResync { missed: 0 }),
        BumpEvent::Bump(bump) => {
            let meets = |class: &ClassPath| {
                class.is_reserved()
                    || watched
                        .iter()
                        .any(|watch| watch.covers(class.as_str()) || class.covers(watch.as_str()))
            };
            if !watched.is_empty() && !bump.classes.iter().any(meets) {
                return None;
            }
            v1::watch_response::Kind::Bump(v1::WatchBump {
                event: Some(event_id(event)),
                classes: bump
                    .classes
                    .iter()
                    .map(|class| class.as_str().to_owned())
                    .collect(),
                r#match: match bump.matching {
                    Match::Any => v1::Match::Any,
                    Match::All => v1::Match::All,
                }
                .into(),
            })
        }
    };
    Some(v1::WatchResponse { kind: Some(kind) })
}
