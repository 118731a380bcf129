//! Look-ups and their answers.

use std::time::Duration;

use grapevine_core::address::{AddressError, OFFSET_MAX, Slice, Target};
use grapevine_core::event::ADDRESS_CLASSES_MAX;
use grapevine_core::lease::Lease;
use grapevine_core::machine::{ResolveError, effects as core};
use grapevine_core::names::Address;
use grapevine_core::policy::{PolicySet, Strategy};
use grapevine_core::table::TableId;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::super::status::Violations;
use super::snapshots::snapshot;
use super::{Session, address_class, counted, session};

/// Look-ups in one call.
pub(super) const ITEMS_MAX: usize = 1_000;

/// Pages of slices in one call: each is an address to compute and to tell, under the machine's lock.
const PAGES_MAX: u64 = 10_000;

/// A checked call.
pub(crate) struct LookUps {
    pub(crate) queries: Vec<core::Query>,
    pub(crate) snapshot: core::SnapshotClaim,
    pub(crate) session: Session,
    /// The local table in which the caller would keep the answers.
    pub(crate) local_table: Option<TableId>,
}

/// Reads a call, all of it before anything is told to be wrong.
pub(crate) fn look_ups(
    request: v1::ResolveRequest,
    policies: &PolicySet,
) -> Result<LookUps, Status> {
    let mut violations = Violations::default();
    let session = session(&mut violations, request.session.as_ref());
    let snapshot = snapshot(&mut violations, request.snapshot.as_deref());
    let queries = queries(&mut violations, request.items);
    let pages: u64 = queries.iter().map(|query| pages(query, policies)).sum();
    if pages > PAGES_MAX {
        violations.add(
            "items",
            format!("they touch {pages} pages; the limit is {PAGES_MAX} pages in one call"),
        );
    }
    violations.finish()?;
    Ok(LookUps {
        queries,
        snapshot,
        session,
        local_table: (request.local_table != 0).then_some(TableId(request.local_table)),
    })
}

/// How many pages a slice touches. What is wrong with it is told when it is resolved.
fn pages(query: &core::Query, policies: &PolicySet) -> u64 {
    let size = query
        .classes
        .first()
        .and_then(|class| policies.of(class).page_size);
    match (&query.slice, size) {
        (Some(slice), Some(size)) if slice.offset <= OFFSET_MAX && slice.limit > 0 => {
            let last = slice.offset + u64::from(slice.limit) - 1;
            let size = u64::from(size.max(1));
            last / size - slice.offset / size + 1
        }
        _ => 1,
    }
}

fn queries(violations: &mut Violations, items: Vec<v1::ResolveItem>) -> Vec<core::Query> {
    counted(violations, "items", items.len(), 1..=ITEMS_MAX);
    let mut queries = Vec::with_capacity(items.len().min(ITEMS_MAX));
    for (at, item) in items.into_iter().enumerate().take(ITEMS_MAX) {
        let address = violations.check(
            || format!("items[{at}].address"),
            Address::parse(&item.address),
        );
        if item.classes.is_empty() || item.classes.len() > ADDRESS_CLASSES_MAX {
            counted(
                violations,
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
    queries
}

/// Notes why the look-up at a position has no answer.
pub(crate) fn note_resolve_error(violations: &mut Violations, at: usize, error: &ResolveError) {
    let field = match error {
        ResolveError::ClassCount { .. } => "classes",
        ResolveError::Address(AddressError::TooLong { .. }) => "address",
        ResolveError::Address(_) => "page",
    };
    violations.add(format!("items[{at}].{field}"), error.to_string());
}

/// The leases of one call's answers in their byte form. Those taken at one moment are the same, and their bytes are shared.
#[derive(Default)]
pub(crate) struct Leases {
    last: Option<(Lease, Bytes)>,
}

impl Leases {
    fn bytes(&mut self, lease: Lease) -> Bytes {
        match &self.last {
            Some((last, bytes)) if *last == lease => bytes.clone(),
            _ => {
                let bytes = Bytes::copy_from_slice(&lease.to_bytes());
                self.last = Some((lease, bytes.clone()));
                bytes
            }
        }
    }
}

fn target(target: &Target) -> v1::Target {
    let page = target.page;
    v1::Target {
        address: target.address.as_str().to_owned(),
        page_index: page.map_or(0, |page| page.index),
        page_size: page.map_or(0, |page| page.size),
        skip: page.map_or(0, |page| page.skip),
        take: page.map_or(0, |page| page.take),
    }
}

pub(crate) fn resolution(resolution: &core::Resolution, leases: &mut Leases) -> v1::Resolution {
    let (envelope, commit_required) = (resolution.envelope(), resolution.commit_required());
    v1::Resolution {
        targets: resolution.targets.iter().map(target).collect(),
        token: resolution.token.0,
        lease: leases.bytes(resolution.lease),
        lease_ms: milliseconds(resolution.lease_duration),
        strategy: strategy(resolution.strategy).into(),
        ttl_ms: u64::try_from(resolution.ttl.as_millis())
            .unwrap_or(u64::MAX)
            .max(1),
        envelope,
        commit_required,
        bypass: resolution.bypass,
        elect: resolution.elect,
        fill_forbidden: resolution.filling == core::Filling::Forbidden,
        read_primary: resolution.filling == core::Filling::Primary,
        stale: resolution
            .stale
            .iter()
            .map(|stale| v1::StaleTarget {
                token: stale.token.0,
                address: stale.address.as_str().to_owned(),
            })
            .collect(),
    }
}

pub(super) fn milliseconds(duration: Duration) -> u32 {
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
