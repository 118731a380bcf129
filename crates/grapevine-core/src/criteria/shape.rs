//! Shapes: what reads have in common that differ in values only, and the classes that follow.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_128;

use super::pattern::{Cell, Conjunction};
use super::range::{Node, Range};
use super::value::{Order, Value};
use super::{Column, Table};
use crate::names::ClassPath;

/// The most columns with a value that a shape has; further conditions of a read are left out, which makes it depend on more rows.
pub const SHAPE_COLUMNS_MAX: usize = 4;
/// The most bytes of a table's class, and of a shape's segment below it; a longer one is hashed.
const NAME_BYTES_MAX: usize = 38;
/// The most bytes of a value in a class; a longer one is hashed.
const VALUE_BYTES_MAX: usize = 24;

/// The columns by which a read narrows a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// The table.
    pub table: Table,
    /// The columns that have a value, ascending.
    pub equal: Vec<Column>,
    /// The column that lies in a range.
    pub range: Option<(Column, Order)>,
}

impl Shape {
    /// The shape of reads of these rows: up to [`SHAPE_COLUMNS_MAX`] columns that have a value, and one that lies in a range, if
    /// possible one with two ends; of several the first by name.
    pub fn of(read: &Conjunction) -> Self {
        let valued = read.cells.iter().filter_map(|(column, cell)| match cell {
            Cell::Is(_) => Some(column.clone()),
            Cell::In(_) => None,
        });
        let ranges = read.cells.iter().filter_map(|(column, cell)| match cell {
            Cell::Is(_) => None,
            Cell::In(range) => Some((column.clone(), *range)),
        });
        let range = ranges.min_by_key(|(_, range)| !range.is_closed());
        Self {
            table: read.table.clone(),
            equal: valued.take(SHAPE_COLUMNS_MAX).collect(),
            range: range.map(|(column, range)| (column, range.order)),
        }
    }

    /// The columns of a conjunction that its shape leaves out.
    pub fn left_out<'a>(&self, read: &'a Conjunction) -> impl Iterator<Item = &'a Column> {
        let kept = |column: &Column| {
            let ranged = self.range.as_ref().map(|(column, _)| column);
            self.equal.contains(column) || ranged == Some(column)
        };
        read.cells.keys().filter(move |column| !kept(column))
    }

    /// The class of all reads of this shape, below that of the table.
    pub fn class(&self) -> ClassPath {
        class(&self.name())
    }

    fn name(&self) -> String {
        let mut columns: Vec<_> = self
            .equal
            .iter()
            .map(|column| escaped(column.as_str()))
            .collect();
        if let Some((column, order)) = &self.range {
            let order = match order {
                Order::Number => 'n',
                Order::Time => 't',
            };
            columns.push(format!("{}~{order}", escaped(column.as_str())));
        }
        let columns = if columns.is_empty() {
            "*".to_owned()
        } else {
            columns.join(",")
        };
        let table = table_name(&self.table);
        // No class that applications name by a table's keys looks like that.
        format!("{table}/{}", bounded(format!(":{columns}")))
    }

    /// The classes of a read of these rows, which has this shape: one, or one for each node that covers its range.
    pub fn classes_of_read(&self, read: &Conjunction) -> Vec<ClassPath> {
        let path = match self.path(read) {
            Path::Whole(path) => path,
            Path::Beginning(path) => return vec![class(&path)],
        };
        let range = self
            .range
            .as_ref()
            .and_then(|(column, order)| match read.cells.get(column) {
                Some(Cell::In(range)) if range.order == *order => Some(range),
                _ => None,
            });
        let Some(range) = range else {
            return vec![class(&path)];
        };
        let nodes = range.cover();
        nodes.map(|node| class(&below(&path, node))).collect()
    }

    /// The classes that a change of these rows concerns: none if reads of this shape depend on no such row. Where a value is not known,
    /// it is the class above.
    pub fn classes_of_write(&self, rows: &Conjunction) -> Vec<ClassPath> {
        if rows.table != self.table {
            return Vec::new();
        }
        let path = match self.path(rows) {
            Path::Whole(path) => path,
            Path::Beginning(path) => return vec![class(&path)],
        };
        let Some((column, order)) = &self.range else {
            return vec![class(&path)];
        };
        match rows.cells.get(column) {
            Some(Cell::Is(datum)) if datum.value == Value::Null => Vec::new(),
            Some(Cell::Is(datum)) if datum.order == Some(*order) => {
                let position = datum.value.position();
                let position = position.expect("invariant: what has an order has a position");
                let nodes = Range::nodes_of(position);
                nodes.map(|node| class(&below(&path, node))).collect()
            }
            _ => vec![class(&path)],
        }
    }

    /// The path of the values, as far as they are known.
    fn path(&self, rows: &Conjunction) -> Path {
        let mut path = self.name();
        for column in &self.equal {
            let Some(Cell::Is(datum)) = rows.cells.get(column) else {
                return Path::Beginning(path);
            };
            path.push('/');
            path.push_str(&segment(&datum.value));
        }
        Path::Whole(path)
    }
}

/// A path of a shape's values.
enum Path {
    /// All of them.
    Whole(String),
    /// The first ones; the next one is not known.
    Beginning(String),
}

/// The class of a table, a top-level class: a bump of it concerns whatever reads it.
pub fn table_class(table: &Table) -> ClassPath {
    class(&table_name(table))
}

fn table_name(table: &Table) -> String {
    bounded(escaped(table.as_str()))
}

fn bounded(name: String) -> String {
    if name.len() <= NAME_BYTES_MAX {
        name
    } else {
        hashed(&name)
    }
}

fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).expect("invariant: names are escaped and bounded")
}

fn below(path: &str, node: Node) -> String {
    format!("{path}/{}.{:x}", node.width, node.index)
}

/// A value as a segment of a path; two values have one only if they are the same, or by collision of a 128-bit hash.
fn segment(value: &Value) -> String {
    let text = match value {
        Value::Null => "~null".to_owned(),
        Value::Number(_) => value.to_string(),
        Value::Time(micros) => format!("~t{micros}"),
        Value::Text(text) if text.is_empty() => "~".to_owned(),
        Value::Text(text) => escaped(text),
        Value::Bytes(bytes) => {
            let mut hex = "~x".to_owned();
            for byte in bytes.iter() {
                let _ = write!(hex, "{byte:02x}");
            }
            hex
        }
    };
    if text.len() <= VALUE_BYTES_MAX {
        text
    } else {
        hashed(&text)
    }
}

/// `~h` and 22 characters.
fn hashed(text: &str) -> String {
    let hash = xxh3_128(text.as_bytes()).to_be_bytes();
    format!("~h{}", URL_SAFE_NO_PAD.encode(hash))
}

/// Letters, digits, `_`, `$`, `.` and `-` as they are, other bytes as `%` and two digits.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_$.-".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
