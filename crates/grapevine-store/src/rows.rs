//! The bytes of what is known of rows.
//!
//! ```text
//! rows:        1 flags (bit 0: soft), varint count of images
//! image:       1 kind: 0 any rows, 1 a row before, 2 a row after, 4 more if its id is told: id, varint version; conjunction
//! conjunction: table (2 length, text), varint count, then by column: name (2 length, text), 1 kind, and
//!              0 a value of no order, 1 of numbers, 2 of times: the value
//!              3 a range of numbers, 4 of times: 8 low, 8 high
//! value:       1 kind, and 0 NULL, 1 number: 8 bits of a float, 2 time: 8 microseconds, 3 text, 4 bytes: varint length, bytes
//! ```

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Order, Range, Table, Value};
use grapevine_core::event::{Moment, PurgeMode, RowImage, RowsChanged};
use grapevine_core::index::{RowId, RowIdentity};

use crate::codec::{DecodeError, Reader, put_count, put_varint};

const SOFT: u8 = 0x01;
/// Of an image: the id of its row follows.
const IDENTITY: u8 = 0x04;

pub(crate) fn put(out: &mut Vec<u8>, changed: &RowsChanged) {
    out.push(match changed.purge {
        PurgeMode::Hard => 0,
        PurgeMode::Soft => SOFT,
    });
    put_count(out, changed.rows.len());
    for RowImage {
        rows,
        moment,
        identity,
    } in &changed.rows
    {
        let kind = match moment {
            Moment::Any => 0,
            Moment::Before => 1,
            Moment::After => 2,
        };
        match identity {
            None => out.push(kind),
            Some(row) => {
                out.push(kind | IDENTITY);
                put_text(out, &row.id.to_string());
                put_varint(out, row.version);
            }
        }
        put_text(out, rows.table.as_str());
        put_count(out, rows.cells.len());
        for (column, cell) in &rows.cells {
            put_text(out, column.as_str());
            put_cell(out, cell);
        }
    }
}

fn put_text(out: &mut Vec<u8>, name: &str) {
    put_count(out, name.len());
    out.extend_from_slice(name.as_bytes());
}

fn put_cell(out: &mut Vec<u8>, cell: &Cell) {
    match cell {
        Cell::Is(datum) => {
            out.push(match datum.order {
                None => 0,
                Some(Order::Number) => 1,
                Some(Order::Time) => 2,
            });
            put_value(out, &datum.value);
        }
        Cell::In(range) => {
            out.push(match range.order {
                Order::Number => 3,
                Order::Time => 4,
            });
            let (low, high) = range.ends();
            out.extend_from_slice(&low.to_be_bytes());
            out.extend_from_slice(&high.to_be_bytes());
        }
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Number(bits) => {
            out.push(1);
            out.extend_from_slice(&bits.to_be_bytes());
        }
        Value::Time(micros) => {
            out.push(2);
            out.extend_from_slice(&micros.to_be_bytes());
        }
        Value::Text(text) => {
            out.push(3);
            put_text(out, text);
        }
        Value::Bytes(bytes) => {
            out.push(4);
            put_count(out, bytes.len());
            out.extend_from_slice(bytes);
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Result<RowsChanged, DecodeError> {
    let purge = match reader.u8()? {
        0 => PurgeMode::Hard,
        SOFT => PurgeMode::Soft,
        _ => return Err(reader.error("a change of rows with unknown flags")),
    };
    let rows = (0..reader.count()?).map(|_| read_image(reader));
    Ok(RowsChanged {
        rows: rows.collect::<Result<_, _>>()?,
        purge,
    })
}

fn read_image(reader: &mut Reader<'_>) -> Result<RowImage, DecodeError> {
    let kind = reader.u8()?;
    let moment = match kind & !IDENTITY {
        0 => Moment::Any,
        1 => Moment::Before,
        2 => Moment::After,
        _ => return Err(reader.error("rows of an unknown moment")),
    };
    let identity = if kind & IDENTITY == 0 {
        None
    } else {
        let id = RowId::parse(read_text(reader)?);
        let id = id.map_err(|_| reader.error("not the id of a row"))?;
        let version = reader.varint()?;
        Some(RowIdentity { id, version })
    };
    Ok(RowImage {
        rows: read_conjunction(reader)?,
        moment,
        identity,
    })
}

fn read_conjunction(reader: &mut Reader<'_>) -> Result<Conjunction, DecodeError> {
    let table = Table::parse(read_text(reader)?);
    let table = table.map_err(|_| reader.error("not the name of a table"))?;
    let mut rows = Conjunction::all_of(table);
    for _ in 0..reader.count()? {
        let column = Column::parse(read_text(reader)?);
        let column = column.map_err(|_| reader.error("not the name of a column"))?;
        rows.cells.insert(column, read_cell(reader)?);
    }
    Ok(rows)
}

fn read_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let length = reader.count()?;
    let bytes = reader.take(length)?;
    std::str::from_utf8(bytes).map_err(|_| reader.error("not text"))
}

fn read_cell(reader: &mut Reader<'_>) -> Result<Cell, DecodeError> {
    let order = match reader.u8()? {
        0 => None,
        1 => Some(Order::Number),
        2 => Some(Order::Time),
        kind @ (3 | 4) => {
            let order = if kind == 3 {
                Order::Number
            } else {
                Order::Time
            };
            return Ok(Cell::In(Range::of(order, reader.u64()?, reader.u64()?)));
        }
        _ => return Err(reader.error("a column of an unknown kind")),
    };
    let value = read_value(reader)?;
    Ok(Cell::Is(Datum { value, order }))
}

fn read_value(reader: &mut Reader<'_>) -> Result<Value, DecodeError> {
    Ok(match reader.u8()? {
        0 => Value::Null,
        1 => Value::Number(reader.u64()?),
        2 => Value::Time(reader.u64()?.cast_signed()),
        3 => Value::Text(read_text(reader)?.into()),
        4 => {
            let length = reader.count()?;
            Value::Bytes(reader.take(length)?.into())
        }
        _ => return Err(reader.error("a value of an unknown kind")),
    })
}
