//! A logged event's bytes.
//!
//! ```text
//! 1  version of this encoding: 1
//! 1  kind: 1 bump, 2 floor, 3 registrations, 4 rows, 5 shape
//! bump:          1 flags (bit 0: match all, bit 1: soft), varint count, classes front-coded
//! floor:         top-level class (front-coded against nothing), 2 bucket, vector
//! rows:          as in `rows`
//! shape:         the class of its reads (front-coded against nothing), vector
//! registrations: stamp (vector); varint count and the distinct classes, front-coded, in order of first mention;
//!                varint count, 4 earliest expiry, then per registration: address front-coded against the one
//!                before, varint expires - earliest, varint count of classes, their varint places in the table
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use grapevine_core::event::{
    Bump, BumpEvent, Event, Floor, Match, NewShape, PurgeMode, Registration, RegistrationBatch,
};
use grapevine_core::id::UnixSeconds;
use grapevine_core::names::ClassPath;

use crate::codec::{DecodeError, Reader, put_count, put_name, put_varint, put_vector};
use crate::rows;

const VERSION: u8 = 1;
const BUMP: u8 = 1;
const FLOOR: u8 = 2;
const REGISTRATIONS: u8 = 3;
const ROWS: u8 = 4;
const SHAPE: u8 = 5;
const ALL: u8 = 0x01;
const SOFT: u8 = 0x02;

pub(crate) fn encode(event: &Event) -> Vec<u8> {
    let mut out = vec![VERSION];
    match event {
        Event::Bump(event) => match event.as_ref() {
            BumpEvent::Bump(bump) => put_bump(&mut out, bump),
            BumpEvent::Floor(floor) => put_floor(&mut out, floor),
            BumpEvent::Rows(changed) => {
                out.push(ROWS);
                rows::put(&mut out, changed);
            }
            BumpEvent::Shape(new) => put_shape(&mut out, new),
        },
        Event::Directory(batch) => put_batch(&mut out, batch),
    }
    out
}

fn put_bump(out: &mut Vec<u8>, bump: &Bump) {
    out.push(BUMP);
    let all = match bump.matching {
        Match::Any => 0,
        Match::All => ALL,
    };
    let soft = match bump.purge {
        PurgeMode::Hard => 0,
        PurgeMode::Soft => SOFT,
    };
    out.push(all | soft);
    put_classes(out, bump.classes.iter());
}

fn put_classes<'a>(out: &mut Vec<u8>, classes: impl ExactSizeIterator<Item = &'a ClassPath>) {
    put_count(out, classes.len());
    let mut before: &[u8] = &[];
    for class in classes {
        let name = class.as_str().as_bytes();
        put_name(out, before, name);
        before = name;
    }
}

fn put_floor(out: &mut Vec<u8>, floor: &Floor) {
    out.push(FLOOR);
    put_name(out, &[], floor.top.as_str().as_bytes());
    out.extend_from_slice(&floor.bucket.to_be_bytes());
    put_vector(out, &floor.vector);
}

fn put_shape(out: &mut Vec<u8>, new: &NewShape) {
    out.push(SHAPE);
    put_name(out, &[], new.shape.class().as_str().as_bytes());
    put_vector(out, &new.vector);
}

fn put_batch(out: &mut Vec<u8>, batch: &RegistrationBatch) {
    out.reserve(64 + batch.registrations.len() * 24);
    out.push(REGISTRATIONS);
    put_vector(out, &batch.stamp);
    let mut places: HashMap<&str, u64> = HashMap::new();
    let mut table: Vec<&ClassPath> = Vec::new();
    for class in batch.registrations.iter().flat_map(|r| &r.classes) {
        places.entry(class.as_str()).or_insert_with(|| {
            table.push(class);
            table.len() as u64 - 1
        });
    }
    put_classes(out, table.into_iter());
    put_count(out, batch.registrations.len());
    let earliest = batch.registrations.iter().map(|r| r.expires.0).min();
    let earliest = earliest.unwrap_or(0);
    out.extend_from_slice(&earliest.to_be_bytes());
    let mut before: &[u8] = &[];
    for registration in &batch.registrations {
        let name = registration.address.as_str().as_bytes();
        put_name(out, before, name);
        before = name;
        put_varint(out, u64::from(registration.expires.0 - earliest));
        put_count(out, registration.classes.len());
        for class in &registration.classes {
            put_varint(out, places[class.as_str()]);
        }
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(reader.error("an event of an unknown version"));
    }
    let event = match reader.u8()? {
        BUMP => Event::Bump(Arc::new(BumpEvent::Bump(read_bump(&mut reader)?))),
        FLOOR => Event::Bump(Arc::new(BumpEvent::Floor(read_floor(&mut reader)?))),
        ROWS => Event::Bump(Arc::new(BumpEvent::Rows(rows::read(&mut reader)?))),
        SHAPE => Event::Bump(Arc::new(BumpEvent::Shape(read_shape(&mut reader)?))),
        REGISTRATIONS => Event::Directory(Arc::new(read_batch(&mut reader)?)),
        _ => return Err(reader.error("an event of an unknown kind")),
    };
    reader.finish()?;
    Ok(event)
}

fn read_bump(reader: &mut Reader<'_>) -> Result<Bump, DecodeError> {
    let flags = reader.u8()?;
    if flags & !(ALL | SOFT) != 0 {
        return Err(reader.error("a bump with unknown flags"));
    }
    Ok(Bump {
        classes: read_classes(reader)?,
        matching: if flags & ALL == 0 {
            Match::Any
        } else {
            Match::All
        },
        purge: if flags & SOFT == 0 {
            PurgeMode::Hard
        } else {
            PurgeMode::Soft
        },
    })
}

fn read_classes(reader: &mut Reader<'_>) -> Result<Vec<ClassPath>, DecodeError> {
    let count = reader.count()?;
    let mut name = Vec::new();
    let mut classes = Vec::with_capacity(count);
    for _ in 0..count {
        reader.name(&mut name)?;
        classes.push(reader.class(&name)?);
    }
    Ok(classes)
}

fn read_floor(reader: &mut Reader<'_>) -> Result<Floor, DecodeError> {
    let mut name = Vec::new();
    reader.name(&mut name)?;
    Ok(Floor {
        top: reader.class(&name)?,
        bucket: reader.u16()?,
        vector: reader.vector()?,
    })
}

fn read_shape(reader: &mut Reader<'_>) -> Result<NewShape, DecodeError> {
    let mut name = Vec::new();
    reader.name(&mut name)?;
    Ok(NewShape {
        shape: reader.shape(&name)?,
        vector: reader.vector()?,
    })
}

fn read_batch(reader: &mut Reader<'_>) -> Result<RegistrationBatch, DecodeError> {
    let stamp = reader.vector()?;
    let table = read_classes(reader)?;
    let count = reader.count()?;
    let earliest = reader.u32()?;
    let mut name = Vec::new();
    let mut registrations = Vec::with_capacity(count);
    for _ in 0..count {
        reader.name(&mut name)?;
        let address = reader.address(&name)?;
        let expires = u32::try_from(reader.varint()?)
            .ok()
            .and_then(|after| earliest.checked_add(after))
            .ok_or_else(|| reader.error("an expiry beyond 32 bits"))?;
        let classes = (0..reader.count()?)
            .map(|_| {
                let place = reader.varint()?;
                usize::try_from(place)
                    .ok()
                    .and_then(|place| table.get(place).cloned())
                    .ok_or_else(|| reader.error("a class beyond its table"))
            })
            .collect::<Result<_, _>>()?;
        registrations.push(Registration {
            address,
            classes,
            expires: UnixSeconds(expires),
        });
    }
    Ok(RegistrationBatch {
        stamp,
        registrations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_round_trip(event in arbitrary::event()) {
            prop_assert_eq!(decode(&encode(&event)), Ok(event));
        }

        #[test]
        fn a_cut_event_is_refused(event in arbitrary::event(), cut in 1_usize..50) {
            let bytes = encode(&event);
            let end = bytes.len().saturating_sub(cut);
            prop_assert!(decode(&bytes[..end]).is_err());
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes: Vec<u8>, kind in 1_u8..4) {
            let mut garbage = vec![VERSION, kind];
            garbage.extend(bytes);
            let _ = decode(&garbage);
        }
    }

    /// The bytes that docs/formats-store.md shows.
    #[test]
    fn a_bump_has_the_documented_bytes() {
        let classes = ["cart/13", "cart/7"];
        let bump = Bump {
            classes: classes.map(|text| ClassPath::parse(text).unwrap()).into(),
            matching: Match::Any,
            purge: PurgeMode::Hard,
        };
        let framed = crate::log::framed(&Event::Bump(Arc::new(BumpEvent::Bump(bump))));
        assert_eq!(framed, b"\x10\x01\x01\x00\x02\x00\x07cart/13\x05\x017");
    }

    #[test]
    fn a_batch_names_each_class_once() {
        let class = ClassPath::parse("get_items_in_cart/13").unwrap();
        let registrations: Vec<_> = (0..1000)
            .map(|index| Registration {
                address: grapevine_core::names::Address::parse(&format!(
                    "get_items_in_cart::13:10:{index}"
                ))
                .unwrap(),
                classes: vec![class.clone()],
                expires: UnixSeconds(1_700_000_000),
            })
            .collect();
        let batch = RegistrationBatch {
            registrations,
            ..RegistrationBatch::default()
        };
        let bytes = encode(&Event::Directory(Arc::new(batch))).len();
        assert!(bytes < 10_000, "{bytes}");
    }
}
