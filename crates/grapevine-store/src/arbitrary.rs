//! Random domain values for the tests of this crate.

use std::sync::Arc;

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Order, Range, Shape, Table, Value,
};
use grapevine_core::event::{
    Bump, BumpEvent, Event, Floor, Match, Moment, NewShape, PurgeMode, Registration,
    RegistrationBatch, RowImage, RowsChanged,
};
use grapevine_core::id::{Incarnation, UnixSeconds};
use grapevine_core::index::{RowId, RowIdentity};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::vector::VersionVector;
use proptest::prelude::*;

pub(crate) fn incarnation() -> impl Strategy<Value = Incarnation> {
    prop_oneof![1_u128..4, 1..=u128::MAX].prop_map(|number| Incarnation::new(number).unwrap())
}

pub(crate) fn vector() -> impl Strategy<Value = VersionVector> {
    let sequence = prop_oneof![1_u64..9, 1..=u64::MAX];
    prop::collection::vec((incarnation(), sequence), 0..4)
        .prop_map(|entries| entries.into_iter().collect())
}

pub(crate) fn class() -> impl Strategy<Value = ClassPath> {
    prop_oneof!["[ab](/[ab]){0,2}", "[!-.0-~]{1,20}", "ä/é"]
        .prop_map(|text| ClassPath::parse(&text).unwrap())
}

fn classes(least: usize) -> impl Strategy<Value = Vec<ClassPath>> {
    prop::collection::btree_set(class(), least..5).prop_map(|set| set.into_iter().collect())
}

pub(crate) fn registration() -> impl Strategy<Value = Registration> {
    let address = prop_oneof!["[!-~]{1,20}", "[a-c]{1,2}", "x{250}"];
    (address, classes(1), any::<u32>()).prop_map(|(address, classes, expires)| Registration {
        address: Address::parse(&address).unwrap(),
        classes,
        expires: UnixSeconds(expires),
    })
}

const ORDERS: [Order; 2] = [Order::Number, Order::Time];

fn cell() -> impl Strategy<Value = Cell> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<u64>().prop_map(Value::Number),
        any::<i64>().prop_map(Value::Time),
        "[a-z/ ']{0,300}".prop_map(|text| Value::Text(text.into())),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
    ];
    let order = prop::option::of(prop::sample::select(&ORDERS[..]));
    prop_oneof![
        (value, order).prop_map(|(value, order)| Cell::Is(Datum { value, order })),
        (prop::sample::select(&ORDERS[..]), any::<(u64, u64)>())
            .prop_map(|(order, (low, high))| Cell::In(Range::of(order, low, high))),
    ]
}

fn conjunction() -> impl Strategy<Value = Conjunction> {
    let cells = prop::collection::btree_map("[a-z~,/]{1,60}", cell(), 0..4);
    ("[a-z/]{1,60}", cells).prop_map(|(table, cells)| {
        let cells = cells.into_iter();
        let column = |name: String| Column::parse(&name).unwrap();
        Conjunction {
            table: Table::parse(&table).unwrap(),
            cells: cells.map(|(name, cell)| (column(name), cell)).collect(),
        }
    })
}

fn image() -> impl Strategy<Value = RowImage> {
    let moment = prop_oneof![Just(Moment::Any), Just(Moment::Before), Just(Moment::After)];
    let identity = prop::option::of(("[0-9a-z]{1,30}", any::<u64>()));
    (conjunction(), moment, identity).prop_map(|(rows, moment, identity)| RowImage {
        rows,
        moment,
        identity: identity.map(|(id, version)| RowIdentity {
            id: RowId::parse(&id).unwrap(),
            version,
        }),
    })
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    conjunction().prop_map(|rows| Shape::of(&rows))
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let bump = (classes(1), any::<(bool, bool)>()).prop_map(|(classes, (all, soft))| {
        BumpEvent::Bump(Bump {
            classes,
            matching: if all { Match::All } else { Match::Any },
            purge: if soft {
                PurgeMode::Soft
            } else {
                PurgeMode::Hard
            },
        })
    });
    let floor = (class(), any::<u16>(), vector()).prop_map(|(top, bucket, vector)| {
        BumpEvent::Floor(Floor {
            top,
            bucket,
            vector,
        })
    });
    let batch = (vector(), prop::collection::vec(registration(), 1..20)).prop_map(
        |(stamp, registrations)| RegistrationBatch {
            stamp,
            registrations,
        },
    );
    let rows = (prop::collection::vec(image(), 1..4), any::<bool>()).prop_map(|(rows, soft)| {
        let purge = if soft {
            PurgeMode::Soft
        } else {
            PurgeMode::Hard
        };
        BumpEvent::Rows(RowsChanged { rows, purge })
    });
    let shape = (shape(), vector())
        .prop_map(|(shape, vector)| BumpEvent::Shape(NewShape { shape, vector }));
    prop_oneof![
        rows.prop_map(|event| Event::Bump(Arc::new(event))),
        shape.prop_map(|event| Event::Bump(Arc::new(event))),
        bump.prop_map(|event| Event::Bump(Arc::new(event))),
        floor.prop_map(|event| Event::Bump(Arc::new(event))),
        batch.prop_map(|batch| Event::Directory(Arc::new(batch))),
    ]
}
