//! What peers' messages are made of: vectors, heads, events, batches, versions.

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{
    ADDRESS_CLASSES_MAX, BATCH_REGISTRATIONS_MAX, BUMP_CLASSES_MAX, Bump, BumpEvent,
    CONJUNCTION_CLASSES_MAX, Floor, Match, PurgeMode, Registration, RegistrationBatch,
};
use grapevine_core::fill::{FillKey, FillWord};
use grapevine_core::id::{EventId, Lane, UnixSeconds};
use grapevine_core::intent::{INTENT_LEASE_MAX, Intent, IntentId, Owed};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::progress::{HOLES_MAX, Hole, OriginHead};
use grapevine_core::store::RecoveredClass;
use grapevine_core::vector::VersionVector;
use grapevine_core::versions::{BUCKETS, sorted_classes};
use grapevine_proto::v1;
use prost::bytes::Bytes;

use super::super::incarnation as bytes;
use super::rows::{new_shape, read_new_shape, read_rows, rows};
use super::{Checked, class, count, field, origin, some};

/// The most entries in a vector from a peer.
pub(super) const VECTOR_MAX: usize = 65_536;

pub(super) fn dots(vector: &VersionVector) -> Vec<v1::Dot> {
    vector
        .iter()
        .map(|(origin, sequence)| v1::Dot {
            incarnation: bytes(origin),
            sequence,
        })
        .collect()
}

pub(super) fn read_dots(dots: &[v1::Dot]) -> Checked<VersionVector> {
    count("vector", dots.len(), VECTOR_MAX)?;
    dots.iter()
        .map(|dot| {
            Ok((
                origin("vector.incarnation", &dot.incarnation)?,
                dot.sequence,
            ))
        })
        .collect()
}

pub(super) fn heads(heads: &[OriginHead]) -> Vec<v1::OriginHead> {
    heads
        .iter()
        .map(|head| v1::OriginHead {
            incarnation: bytes(head.incarnation),
            bump: head.bump,
            directory: head.directory,
        })
        .collect()
}

pub(super) fn read_heads(heads: &[v1::OriginHead]) -> Checked<Vec<OriginHead>> {
    count("heads", heads.len(), VECTOR_MAX)?;
    heads
        .iter()
        .map(|head| {
            let incarnation = origin("heads.incarnation", &head.incarnation)?;
            Ok(OriginHead {
                incarnation,
                bump: head.bump,
                directory: head.directory,
            })
        })
        .collect()
}

pub(super) fn hole(hole: Hole) -> v1::Hole {
    v1::Hole {
        incarnation: bytes(hole.incarnation),
        first: hole.first,
        last: hole.last,
    }
}

pub(super) fn read_holes(holes: &[v1::Hole]) -> Checked<Vec<Hole>> {
    count("lacked", holes.len(), HOLES_MAX)?;
    holes
        .iter()
        .map(|hole| {
            let (first, last) = (hole.first, hole.last);
            if first == 0 || last < first {
                let range = format!("{first} to {last} is no range");
                return Err(field("lacked.last", range));
            }
            Ok(Hole {
                incarnation: origin("lacked.incarnation", &hole.incarnation)?,
                first,
                last,
            })
        })
        .collect()
}

pub(super) fn floor(floor: &Floor) -> v1::Floor {
    v1::Floor {
        top: floor.top.as_str().to_owned(),
        bucket: floor.bucket.into(),
        vector: dots(&floor.vector),
    }
}

pub(super) fn read_floor(floor: &v1::Floor) -> Checked<Floor> {
    let top = class(&floor.top)?;
    if !top.is_top() {
        return Err(field(
            "floor.top",
            format!("{top} is not a top-level class"),
        ));
    }
    let bucket = u16::try_from(floor.bucket)
        .ok()
        .filter(|bucket| *bucket < BUCKETS);
    let bucket = bucket.ok_or_else(|| {
        field(
            "floor.bucket",
            format!("{} is not below {BUCKETS}", floor.bucket),
        )
    })?;
    Ok(Floor {
        top,
        bucket,
        vector: read_dots(&floor.vector)?,
    })
}

pub(super) fn bump_event(event: &BumpEvent) -> v1::BumpEvent {
    let kind = match event {
        BumpEvent::Bump(it) => v1::bump_event::Kind::Bump(bump(it)),
        BumpEvent::Floor(it) => v1::bump_event::Kind::Floor(floor(it)),
        BumpEvent::Rows(it) => v1::bump_event::Kind::Rows(rows(it)),
        BumpEvent::Shape(it) => v1::bump_event::Kind::Shape(new_shape(it)),
    };
    v1::BumpEvent { kind: Some(kind) }
}

fn bump(bump: &Bump) -> v1::Bump {
    let classes = bump.classes.iter();
    v1::Bump {
        classes: classes.map(|class| class.as_str().to_owned()).collect(),
        match_all: bump.matching == Match::All,
        soft: bump.purge == PurgeMode::Soft,
    }
}

pub(super) fn read_bump_event(event: v1::BumpEvent) -> Checked<Arc<BumpEvent>> {
    Ok(Arc::new(
        match event.kind.ok_or_else(|| field("event", "no kind"))? {
            v1::bump_event::Kind::Floor(floor) => BumpEvent::Floor(read_floor(&floor)?),
            v1::bump_event::Kind::Rows(rows) => BumpEvent::Rows(read_rows(&rows)?),
            v1::bump_event::Kind::Shape(new) => BumpEvent::Shape(read_new_shape(&new)?),
            v1::bump_event::Kind::Bump(bump) => BumpEvent::Bump(read_bump(&bump)?),
        },
    ))
}

fn read_bump(bump: &v1::Bump) -> Checked<Bump> {
    let limit = if bump.match_all {
        CONJUNCTION_CLASSES_MAX
    } else {
        BUMP_CLASSES_MAX
    };
    count("bump.classes", bump.classes.len(), limit)?;
    let classes: Vec<_> = bump
        .classes
        .iter()
        .map(|value| class(value))
        .collect::<Checked<_>>()?;
    let classes = sorted_classes(&classes);
    if classes.len() < if bump.match_all { 2 } else { 1 } {
        return Err(field("bump.classes", "too few"));
    }
    Ok(Bump {
        classes,
        matching: if bump.match_all {
            Match::All
        } else {
            Match::Any
        },
        purge: if bump.soft {
            PurgeMode::Soft
        } else {
            PurgeMode::Hard
        },
    })
}

pub(super) fn intent_id(id: IntentId) -> v1::IntentId {
    v1::IntentId {
        incarnation: bytes(id.origin),
        number: id.number,
    }
}

pub(super) fn read_intent_id(id: Option<&v1::IntentId>) -> Checked<IntentId> {
    let id = id.ok_or_else(|| field("intent.id", "none"))?;
    Ok(IntentId {
        origin: origin("intent.id.incarnation", &id.incarnation)?,
        number: id.number,
    })
}

/// An event that was issued: they are numbered from 1, and everybody has number 0 of everybody.
pub(super) fn read_event(dot: &v1::Dot) -> Checked<EventId> {
    if dot.sequence == 0 {
        return Err(field("event.sequence", "0; the least is 1"));
    }
    Ok(EventId {
        origin: origin("event.incarnation", &dot.incarnation)?,
        sequence: dot.sequence,
    })
}

/// The longest turn that a peer may tell of.
const TURN_MAX: Duration = Duration::from_hours(24);

pub(super) fn fill_word(key: FillKey, word: FillWord) -> v1::FillElection {
    let (said, left) = match word {
        FillWord::Ask => (v1::FillWord::Ask, Duration::ZERO),
        FillWord::Done { stored: true } => (v1::FillWord::Stored, Duration::ZERO),
        FillWord::Done { stored: false } => (v1::FillWord::Abandoned, Duration::ZERO),
        FillWord::Won => (v1::FillWord::Won, Duration::ZERO),
        FillWord::Wait { left } => (v1::FillWord::Wait, left.min(TURN_MAX)),
        FillWord::Filled => (v1::FillWord::Filled, Duration::ZERO),
        FillWord::Superseded => (v1::FillWord::Superseded, Duration::ZERO),
    };
    v1::FillElection {
        key: Bytes::copy_from_slice(&key.to_bytes()),
        word: said.into(),
        left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    }
}

pub(super) fn read_fill_word(said: &v1::FillElection) -> Checked<(FillKey, FillWord)> {
    let key = FillKey::from_bytes(&said.key).ok_or_else(|| {
        field(
            "fill.key",
            format!("{} bytes; 16 are wanted", said.key.len()),
        )
    })?;
    let left = Duration::from_millis(said.left_ms.into());
    if left > TURN_MAX {
        let (value, limit) = (said.left_ms, TURN_MAX.as_millis());
        let reason = format!("{value} ms; the limit is {limit} ms");
        return Err(field("fill.left_ms", reason));
    }
    let word = match v1::FillWord::try_from(said.word) {
        Ok(v1::FillWord::Ask) => FillWord::Ask,
        Ok(v1::FillWord::Stored) => FillWord::Done { stored: true },
        Ok(v1::FillWord::Abandoned) => FillWord::Done { stored: false },
        Ok(v1::FillWord::Won) => FillWord::Won,
        Ok(v1::FillWord::Wait) => FillWord::Wait { left },
        Ok(v1::FillWord::Filled) => FillWord::Filled,
        Ok(v1::FillWord::Superseded) => FillWord::Superseded,
        Ok(v1::FillWord::Unspecified) | Err(_) => {
            return Err(field("fill.word", format!("{} is none", said.word)));
        }
    };
    Ok((key, word))
}

pub(super) fn intent(intent: &Intent) -> v1::WriteIntent {
    // Up: a holder must not count a shorter lease than the origin does.
    let lease_ms = intent.lease.as_nanos().div_ceil(1_000_000);
    let (bump, rows) = match &intent.owed {
        Owed::Classes(owed) => (Some(bump(owed)), None),
        Owed::Rows(owed) => (None, Some(rows(owed))),
    };
    v1::WriteIntent {
        id: Some(intent_id(intent.id)),
        bump,
        rows,
        lease_ms: u32::try_from(lease_ms).unwrap_or(u32::MAX),
    }
}

/// The longest lease that a peer may ask for: what is left of the longest one, longer by the bound on clock rates.
const LEASE_MAX: Duration = INTENT_LEASE_MAX.saturating_add(Duration::from_secs(10));

pub(super) fn read_intent(intent: &v1::WriteIntent) -> Checked<Intent> {
    let lease = Duration::from_millis(intent.lease_ms.into());
    if lease > LEASE_MAX {
        let (value, limit) = (intent.lease_ms, LEASE_MAX.as_millis());
        let reason = format!("{value} ms; the limit is {limit} ms");
        return Err(field("intent.lease_ms", reason));
    }
    let owed = match (&intent.bump, &intent.rows) {
        (Some(bump), None) => Owed::Classes(read_bump(bump)?),
        (None, Some(rows)) => Owed::Rows(read_rows(rows)?),
        _ => return Err(field("intent", "it owes a bump or rows, one of them")),
    };
    Ok(Intent {
        id: read_intent_id(intent.id.as_ref())?,
        owed,
        lease,
    })
}

pub(super) fn batch(
    stamp: &VersionVector,
    registrations: &[Registration],
) -> v1::RegistrationBatch {
    let mut classes: Vec<&ClassPath> = registrations
        .iter()
        .flat_map(|item| &item.classes)
        .collect();
    classes.sort_unstable();
    classes.dedup();
    let position = |class: &ClassPath| {
        let at = classes
            .binary_search(&class)
            .expect("invariant: every class was gathered");
        u32::try_from(at).expect("invariant: a batch has at most 160,000 classes")
    };
    v1::RegistrationBatch {
        stamp: dots(stamp),
        registrations: registrations
            .iter()
            .map(|item| v1::PackedRegistration {
                address: item.address.as_str().to_owned(),
                classes: item.classes.iter().map(position).collect(),
                expires_unix_s: item.expires.0,
            })
            .collect(),
        classes: classes
            .iter()
            .map(|class| class.as_str().to_owned())
            .collect(),
    }
}

pub(super) fn read_batch(batch: v1::RegistrationBatch) -> Checked<RegistrationBatch> {
    some(
        "batch.registrations",
        batch.registrations.len(),
        BATCH_REGISTRATIONS_MAX,
    )?;
    count(
        "batch.classes",
        batch.classes.len(),
        BATCH_REGISTRATIONS_MAX * ADDRESS_CLASSES_MAX,
    )?;
    let classes: Vec<_> = batch
        .classes
        .iter()
        .map(|value| class(value))
        .collect::<Checked<_>>()?;
    let registrations = batch
        .registrations
        .into_iter()
        .map(|item| {
            count(
                "registration.classes",
                item.classes.len(),
                ADDRESS_CLASSES_MAX,
            )?;
            let address = Address::parse(&item.address)
                .map_err(|error| field("registration.address", error.to_string()))?;
            let named: Vec<_> = item
                .classes
                .iter()
                .map(|at| {
                    classes
                        .get(*at as usize)
                        .cloned()
                        .ok_or_else(|| field("registration.classes", "no such class"))
                })
                .collect::<Checked<_>>()?;
            if named.is_empty() {
                return Err(field("registration.classes", "none"));
            }
            let expires = UnixSeconds(item.expires_unix_s);
            Ok(Registration {
                address,
                classes: sorted_classes(&named),
                expires,
            })
        })
        .collect::<Checked<_>>()?;
    Ok(RegistrationBatch {
        stamp: read_dots(&batch.stamp)?,
        registrations,
    })
}

pub(super) fn class_version(class: &RecoveredClass) -> v1::ClassVersion {
    v1::ClassVersion {
        class: class.class.as_str().to_owned(),
        entries: dots(&class.entries),
        conjunctions: class
            .conjunctions
            .iter()
            .map(|(others, entries)| v1::Conjunction {
                others: others
                    .iter()
                    .map(|other| other.as_str().to_owned())
                    .collect(),
                entries: dots(entries),
            })
            .collect(),
    }
}

pub(super) fn read_class_version(version: &v1::ClassVersion) -> Checked<RecoveredClass> {
    let conjunctions = version
        .conjunctions
        .iter()
        .map(|conjunction| {
            some(
                "conjunction.others",
                conjunction.others.len(),
                CONJUNCTION_CLASSES_MAX - 1,
            )?;
            let others: Vec<_> = conjunction
                .others
                .iter()
                .map(|value| class(value))
                .collect::<Checked<_>>()?;
            Ok((sorted_classes(&others), read_dots(&conjunction.entries)?))
        })
        .collect::<Checked<_>>()?;
    Ok(RecoveredClass {
        class: class(&version.class)?,
        entries: read_dots(&version.entries)?,
        conjunctions,
    })
}

pub(super) fn lane(lane: Lane) -> v1::Lane {
    match lane {
        Lane::Bump => v1::Lane::Bump,
        Lane::Directory => v1::Lane::Directory,
    }
}

pub(super) fn read_lane(value: i32) -> Checked<Lane> {
    match v1::Lane::try_from(value) {
        Ok(v1::Lane::Bump) => Ok(Lane::Bump),
        Ok(v1::Lane::Directory) => Ok(Lane::Directory),
        _ => Err(field("lane", format!("{value} is not a lane"))),
    }
}
