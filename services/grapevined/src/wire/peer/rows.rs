//! What peers' messages say of rows and of shapes.

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Order, Range, Shape, Table, Value,
};
use grapevine_core::event::{
    CHANGED_ROWS_BYTES_MAX, CHANGED_ROWS_MAX, Moment, NewShape, PurgeMode, RowImage, RowsChanged,
};
use grapevine_core::index::{LeafKey, Ordering, PLACES_MAX, Place, RowId, RowIdentity};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::machine::leaves::leaf_shape;
use grapevine_core::vector::VersionVector;
use grapevine_proto::v1;

use super::parts::{dots, read_dots};
use super::{Checked, class, count, field, some};

pub(super) fn rows(changed: &RowsChanged) -> v1::ChangedRows {
    v1::ChangedRows {
        rows: changed.rows.iter().map(known_rows).collect(),
        soft: changed.purge == PurgeMode::Soft,
    }
}

pub(super) fn read_rows(changed: &v1::ChangedRows) -> Checked<RowsChanged> {
    some("rows", changed.rows.len(), CHANGED_ROWS_MAX)?;
    let rows = changed.rows.iter().map(read_known_rows);
    let rows: Vec<_> = rows.collect::<Checked<_>>()?;
    let bytes = rows.iter().map(RowImage::bytes).sum();
    count("rows.bytes", bytes, CHANGED_ROWS_BYTES_MAX)?;
    Ok(RowsChanged {
        rows,
        purge: if changed.soft {
            PurgeMode::Soft
        } else {
            PurgeMode::Hard
        },
    })
}

fn known_rows(image: &RowImage) -> v1::KnownRows {
    let columns = image.rows.cells.iter();
    let moment = match image.moment {
        Moment::Any => v1::RowMoment::Unspecified,
        Moment::Before => v1::RowMoment::Before,
        Moment::After => v1::RowMoment::After,
    };
    let identity = image.identity.as_ref();
    v1::KnownRows {
        moment: moment.into(),
        id: identity.map_or_else(String::new, |row| row.id.to_string()),
        version: identity.map_or(0, |row| row.version),
        table: image.rows.table.as_str().to_owned(),
        columns: columns
            .map(|(column, cell)| known_column(column, cell))
            .collect(),
    }
}

fn known_column(column: &Column, cell: &Cell) -> v1::KnownColumn {
    use v1::known_column::Known;
    let (known, order) = match cell {
        Cell::Is(datum) => {
            let known = match &datum.value {
                Value::Null => Known::Null(true),
                Value::Number(bits) => Known::Number(*bits),
                Value::Time(micros) => Known::Time(*micros),
                Value::Text(text) => Known::Text(text.to_string()),
                Value::Bytes(bytes) => Known::Bytes(prost::bytes::Bytes::copy_from_slice(bytes)),
            };
            (known, datum.order)
        }
        Cell::In(range) => {
            let (low, high) = range.ends();
            (
                Known::Range(v1::KnownRange { low, high }),
                Some(range.order),
            )
        }
    };
    let order = match order {
        None => v1::ValueOrder::Unspecified,
        Some(Order::Number) => v1::ValueOrder::Number,
        Some(Order::Time) => v1::ValueOrder::Time,
    };
    v1::KnownColumn {
        column: column.as_str().to_owned(),
        known: Some(known),
        order: order.into(),
    }
}

fn read_known_rows(rows: &v1::KnownRows) -> Checked<RowImage> {
    let moment = match v1::RowMoment::try_from(rows.moment) {
        Ok(v1::RowMoment::Unspecified) => Moment::Any,
        Ok(v1::RowMoment::Before) => Moment::Before,
        Ok(v1::RowMoment::After) => Moment::After,
        Err(_) => return Err(field("rows.moment", format!("{} is none", rows.moment))),
    };
    let identity = if rows.id.is_empty() {
        None
    } else {
        let id = RowId::parse(&rows.id);
        let id = id.map_err(|error| field("rows.id", error.to_string()))?;
        let version = rows.version;
        Some(RowIdentity { id, version })
    };
    Ok(RowImage {
        rows: read_known(rows)?,
        moment,
        identity,
    })
}

fn read_known(rows: &v1::KnownRows) -> Checked<Conjunction> {
    let table = Table::parse(&rows.table);
    let table = table.map_err(|error| field("rows.table", error.to_string()))?;
    let mut known = Conjunction::all_of(table);
    for column in &rows.columns {
        let name = Column::parse(&column.column);
        let name = name.map_err(|error| field("rows.column", error.to_string()))?;
        let cell = read_known_column(column)?;
        if known.cells.insert(name, cell).is_some() {
            let reason = format!("{:?} is there twice", column.column);
            return Err(field("rows.column", reason));
        }
    }
    Ok(known)
}

fn read_known_column(column: &v1::KnownColumn) -> Checked<Cell> {
    use v1::known_column::Known;
    let order = match v1::ValueOrder::try_from(column.order) {
        Ok(v1::ValueOrder::Unspecified) => None,
        Ok(v1::ValueOrder::Number) => Some(Order::Number),
        Ok(v1::ValueOrder::Time) => Some(Order::Time),
        Err(_) => return Err(field("rows.order", format!("{} is none", column.order))),
    };
    let value = match &column.known {
        None => return Err(field("rows.known", "nothing is known")),
        Some(Known::Range(range)) => {
            let order = order.ok_or_else(|| field("rows.order", "a range has one"))?;
            return Ok(Cell::In(Range::of(order, range.low, range.high)));
        }
        Some(Known::Null(_)) => Value::Null,
        Some(Known::Number(bits)) => Value::Number(*bits),
        Some(Known::Time(micros)) => Value::Time(*micros),
        Some(Known::Text(text)) => Value::Text(text.as_str().into()),
        Some(Known::Bytes(bytes)) => Value::Bytes(bytes[..].into()),
    };
    // Of what has an order the position is asked for.
    let fits = match order {
        None => true,
        Some(Order::Number) => matches!(value, Value::Number(_)),
        Some(Order::Time) => matches!(value, Value::Time(_)),
    };
    if !fits {
        let reason = format!("{value} is not in the order {order:?}");
        return Err(field("rows.order", reason));
    }
    Ok(Cell::Is(Datum { value, order }))
}

pub(super) fn pruned(leaf: &LeafKey, places: &[Place], stamp: &VersionVector) -> v1::PrunedMembers {
    let by = leaf.ordering.by.as_ref();
    let places = places.iter().map(|place| place.to_bytes().into());
    v1::PrunedMembers {
        class: leaf.class.as_str().to_owned(),
        order_by: by.map_or_else(String::new, |column| column.as_str().to_owned()),
        descending: leaf.ordering.descending,
        nulls_high: leaf.ordering.nulls_high,
        places: places.collect(),
        stamp: dots(stamp),
    }
}

pub(super) fn read_pruned(pruned: &v1::PrunedMembers) -> Checked<PeerMessage> {
    let class = class(&pruned.class)?;
    leaf_shape(&class).map_err(|error| field("pruned.class", format!("{class}: {error}")))?;
    let by = if pruned.order_by.is_empty() {
        None
    } else {
        let column = Column::parse(&pruned.order_by);
        Some(column.map_err(|error| field("pruned.order_by", error.to_string()))?)
    };
    some("pruned.places", pruned.places.len(), PLACES_MAX)?;
    let places = pruned.places.iter().map(|bytes| {
        let place = Place::from_bytes(bytes);
        place.ok_or_else(|| field("pruned.places", "one is no place"))
    });
    Ok(PeerMessage::Pruned {
        leaf: LeafKey {
            class,
            ordering: Ordering {
                by,
                descending: pruned.descending,
                nulls_high: pruned.nulls_high,
            },
        },
        places: places.collect::<Checked<_>>()?,
        stamp: read_dots(&pruned.stamp)?,
    })
}

pub(super) fn new_shape(new: &NewShape) -> v1::NewShape {
    v1::NewShape {
        class: new.shape.class().as_str().to_owned(),
        vector: dots(&new.vector),
    }
}

pub(super) fn read_new_shape(new: &v1::NewShape) -> Checked<NewShape> {
    let shape = read_shape(&new.class)?;
    if shape.is_of_all() {
        return Err(field("shape.class", "it has no columns"));
    }
    Ok(NewShape {
        shape,
        vector: read_dots(&new.vector)?,
    })
}

pub(super) fn read_shape(text: &str) -> Checked<Shape> {
    let class = class(text)?;
    let shape = Shape::parse(&class).filter(|shape| shape.class() == class);
    shape.ok_or_else(|| field("shape.class", format!("{class} stands for no shape")))
}
