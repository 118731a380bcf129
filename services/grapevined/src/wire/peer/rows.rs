//! What peers' messages say of rows and of shapes.

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Order, Range, Shape, Table, Value,
};
use grapevine_core::event::{
    CHANGED_ROWS_BYTES_MAX, CHANGED_ROWS_MAX, NewShape, PurgeMode, RowsChanged,
};
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
    let bytes = rows.iter().map(Conjunction::bytes).sum();
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

fn known_rows(rows: &Conjunction) -> v1::KnownRows {
    let columns = rows.cells.iter();
    v1::KnownRows {
        table: rows.table.as_str().to_owned(),
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

fn read_known_rows(rows: &v1::KnownRows) -> Checked<Conjunction> {
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
