//! Look-ups and their answers.

use std::time::Duration;

use grapevine_core::address::Slice;
use grapevine_core::event::ADDRESS_CLASSES_MAX;
use grapevine_core::machine::{ResolveError, effects as core};
use grapevine_core::names::Address;
use grapevine_core::policy::Strategy;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::super::status::Violations;
use super::{address_class, counted};

/// Look-ups in one call.
pub(super) const ITEMS_MAX: usize = 1_000;

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
    super::super::status::invalid(&format!("items[{at}].{field}"), error.to_string())
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
