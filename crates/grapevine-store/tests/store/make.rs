//! Short ways to say the values that tests need.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{
    Bump, BumpEvent, Event, Floor, Match, PurgeMode, Registration, RegistrationBatch,
};
use grapevine_core::id::{EventId, Incarnation, UnixSeconds};
use grapevine_core::intent::{Intent, IntentId, Owed};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::store::{Taken, Write};
use grapevine_core::vector::VersionVector;
use grapevine_store::{SledStore, Store, StoreConfig};

pub(crate) fn class(text: &str) -> ClassPath {
    ClassPath::parse(text).unwrap()
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub(crate) fn origin(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

pub(crate) fn vector(entries: &[(u128, u64)]) -> VersionVector {
    entries.iter().map(|&(o, s)| (origin(o), s)).collect()
}

pub(crate) fn registration(text: &str, classes: &[&str], expires: u32) -> Registration {
    Registration {
        address: address(text),
        classes: classes.iter().map(|text| class(text)).collect(),
        expires: UnixSeconds(expires),
    }
}

pub(crate) fn bump(classes: &[&str]) -> Event {
    Event::Bump(Arc::new(BumpEvent::Bump(Bump {
        classes: classes.iter().map(|text| class(text)).collect(),
        matching: Match::Any,
        purge: PurgeMode::Hard,
    })))
}

pub(crate) fn intent_id_of(number: u128, nth: u64) -> IntentId {
    IntentId {
        origin: origin(number),
        number: nth,
    }
}

pub(crate) fn put_intent(id: IntentId, classes: &[&str], lease_micros: u64) -> Write {
    Write::PutIntent(Intent {
        id,
        owed: Owed::Classes(Bump {
            classes: classes.iter().map(|text| class(text)).collect(),
            matching: Match::Any,
            purge: PurgeMode::Soft,
        }),
        lease: Duration::from_micros(lease_micros),
    })
}

pub(crate) fn batch(registrations: Vec<Registration>) -> Event {
    Event::Directory(Arc::new(RegistrationBatch {
        stamp: vector(&[(1, 1)]),
        registrations,
    }))
}

pub(crate) fn log(number: u128, sequence: u64, event: Event) -> Write {
    Write::Log {
        origin: origin(number),
        sequence,
        event,
    }
}

pub(crate) fn join(text: &str, others: &[&str], entries: &[(u128, u64)]) -> Write {
    Write::JoinClass {
        class: class(text),
        others: others.iter().map(|text| class(text)).collect(),
        entries: vector(entries),
    }
}

pub(crate) fn floor(top: &str, bucket: u16, entries: &[(u128, u64)]) -> Floor {
    Floor {
        top: class(top),
        bucket,
        vector: vector(entries),
    }
}

pub(crate) fn register(registrations: Vec<Registration>) -> Write {
    Write::Register {
        registrations,
        own: false,
    }
}

pub(crate) fn take(classes: &[&str]) -> Write {
    take_as(classes, Match::Any, false)
}

pub(crate) fn take_as(classes: &[&str], matching: Match, own_only: bool) -> Write {
    Write::Take {
        event: EventId {
            origin: origin(1),
            sequence: 7,
        },
        classes: classes.iter().map(|text| class(text)).collect(),
        matching,
        own_only,
        purge: PurgeMode::Soft,
    }
}

pub(crate) fn names(taken: &Taken) -> Vec<&str> {
    taken.addresses.iter().map(Address::as_str).collect()
}

/// Every row at and below a class, read in pages of `limit`.
pub(crate) fn listed(store: &impl Store, below: &str, limit: usize) -> Vec<(String, String, u32)> {
    let below = class(below);
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.addresses(&below, after.as_ref(), limit).unwrap();
        assert!(page.rows.len() <= limit);
        for row in page.rows {
            rows.push((
                row.class.as_str().to_owned(),
                row.address.as_str().to_owned(),
                row.expires.0,
            ));
        }
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}

pub(crate) fn config(path: &Path) -> StoreConfig {
    StoreConfig {
        cache_bytes: 8 << 20,
        ..StoreConfig::new(path)
    }
}

pub(crate) fn open(path: &Path) -> SledStore {
    let (store, _, report) = grapevine_store::open(&config(path)).unwrap();
    assert_eq!(report.set_aside, None, "{:?}", report.reason);
    store
}
