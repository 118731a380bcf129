//! Shapes: what reads have in common that differ in values only, and the classes that follow.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_128;

use super::pattern::{Cell, Conjunction};
use super::range::{Node, Range};
use super::value::{Order, Value};
use super::{Column, Table};
use crate::names::{CLASS_BYTES_MAX, ClassPath};

/// The most columns with a value that a shape has; further conditions of a read are left out, which makes it depend on more rows.
pub const SHAPE_COLUMNS_MAX: usize = 4;
/// How the segment of a shape begins, below the class of its table.
pub const SHAPE_MARK: char = ':';
/// The most bytes of a table's class; a longer one is hashed.
const TABLE_BYTES_MAX: usize = 32;
/// The most bytes of a shape's segment below it; columns that have no room are left out, so that the others can be read there.
const COLUMNS_BYTES_MAX: usize = 47;
/// The most bytes of a value in a class; a longer one is hashed.
const VALUE_BYTES_MAX: usize = 24;

/// The columns by which a read narrows a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// The class of the table.
    pub table: ClassPath,
    /// The columns that have a value, ascending.
    pub equal: Vec<Column>,
    /// The column that lies in a range.
    pub range: Option<(Column, Order)>,
}

impl Shape {
    /// The shape of reads of these rows: up to [`SHAPE_COLUMNS_MAX`] columns that have a value, and one that lies in a range, if
    /// possible one with two ends; of several the first by name for which there is room.
    pub fn of(read: &Conjunction) -> Self {
        let mut shape = Self {
            table: table_class(&read.table),
            equal: Vec::new(),
            range: None,
        };
        let mut ranges = Vec::new();
        for (column, cell) in &read.cells {
            match cell {
                Cell::Is(_) if shape.equal.len() < SHAPE_COLUMNS_MAX => {
                    shape.equal.push(column.clone());
                    if !shape.has_room() {
                        shape.equal.pop();
                    }
                }
                Cell::Is(_) => {}
                Cell::In(range) => ranges.push((column, range)),
            }
        }
        ranges.sort_by_key(|(_, range)| !range.is_closed());
        for (column, range) in ranges {
            shape.range = Some((column.clone(), range.order));
            if shape.has_room() {
                break;
            }
            shape.range = None;
        }
        shape
    }

    /// The shape of a class that [`Self::class`] or [`Self::classes_of_read`] gives, or that lies below one; `None` for any other.
    pub fn parse(class: &ClassPath) -> Option<Self> {
        let mut segments = class.as_str().split('/');
        let (table, columns) = (segments.next()?, segments.next()?);
        let mut shape = Self {
            table: ClassPath::parse(table).ok()?,
            equal: Vec::new(),
            range: None,
        };
        let names = columns.strip_prefix(SHAPE_MARK)?.split(',');
        for name in names.filter(|name| *name != "*") {
            let (name, order) = match name.split_once('~') {
                None => (name, None),
                Some((name, "n")) => (name, Some(Order::Number)),
                Some((name, "t")) => (name, Some(Order::Time)),
                Some(_) => return None,
            };
            let column = Column::parse(&unescaped(name)?).ok()?;
            match order {
                Some(order) => shape.range = Some((column, order)),
                None => shape.equal.push(column),
            }
        }
        let ascending = shape.equal.is_sorted_by(|one, next| one < next);
        let ranged = shape.range.as_ref().map(|(column, _)| column);
        let once = ranged.is_none_or(|column| !shape.equal.contains(column));
        let few = shape.equal.len() <= SHAPE_COLUMNS_MAX;
        // Names have one notation, and the range comes last.
        let same = shape.columns() == columns && shape.has_room();
        (ascending && once && few && same).then_some(shape)
    }

    /// That of the reads of a table that nothing narrows. Every change of a row of the table concerns them.
    pub fn of_all(table: ClassPath) -> Self {
        Self {
            table,
            equal: Vec::new(),
            range: None,
        }
    }

    /// Whether it has no columns.
    pub fn is_of_all(&self) -> bool {
        self.equal.is_empty() && self.range.is_none()
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
        // Room for the values, too: this is done for each shape of a table at each change of its rows.
        let mut name = String::with_capacity(CLASS_BYTES_MAX);
        name.push_str(self.table.as_str());
        name.push('/');
        self.push_columns(&mut name);
        name
    }

    fn has_room(&self) -> bool {
        self.columns().len() <= COLUMNS_BYTES_MAX
    }

    fn columns(&self) -> String {
        let mut columns = String::new();
        self.push_columns(&mut columns);
        columns
    }

    /// Writes its segment. No class that applications name by a table's keys begins like that.
    fn push_columns(&self, path: &mut String) {
        path.push(SHAPE_MARK);
        for (at, column) in self.equal.iter().enumerate() {
            if at > 0 {
                path.push(',');
            }
            push_escaped(path, column.as_str());
        }
        if let Some((column, order)) = &self.range {
            if !self.equal.is_empty() {
                path.push(',');
            }
            push_escaped(path, column.as_str());
            path.push_str(match order {
                Order::Number => "~n",
                Order::Time => "~t",
            });
        }
        if self.is_of_all() {
            path.push('*');
        }
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
        if !is_class_of(&self.table, &rows.table) {
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
            push_segment(&mut path, &datum.value);
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
    let name = escaped(table.as_str());
    if name.len() <= TABLE_BYTES_MAX {
        class(&name)
    } else {
        class(&hashed(&name))
    }
}

/// Whether a class is that of a table.
fn is_class_of(class: &ClassPath, table: &Table) -> bool {
    let name = table.as_str();
    if name.len() <= TABLE_BYTES_MAX && name.bytes().all(is_plain) {
        return class.as_str() == name;
    }
    *class == table_class(table)
}

fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).expect("invariant: names are escaped and bounded")
}

fn below(path: &str, node: Node) -> String {
    format!("{path}/{}.{:x}", node.width, node.index)
}

/// Writes a value as a segment of a path; two values have one only if they are the same, or by collision of a 128-bit hash.
fn push_segment(path: &mut String, value: &Value) {
    let begin = path.len();
    // Writing to a string does not fail.
    let _ = match value {
        Value::Null => path.write_str("~null"),
        Value::Number(_) => write!(path, "{value}"),
        Value::Time(micros) => write!(path, "~t{micros}"),
        Value::Text(text) if text.is_empty() => path.write_str("~"),
        Value::Text(text) => {
            push_escaped(path, text);
            Ok(())
        }
        Value::Bytes(bytes) => {
            path.push_str("~x");
            let mut bytes = bytes.iter();
            bytes.try_for_each(|byte| write!(path, "{byte:02x}"))
        }
    };
    if path.len() - begin > VALUE_BYTES_MAX {
        let hashed = hashed(&path[begin..]);
        path.truncate(begin);
        path.push_str(&hashed);
    }
}

/// `~h` and 22 characters.
fn hashed(text: &str) -> String {
    let hash = xxh3_128(text.as_bytes()).to_be_bytes();
    format!("~h{}", URL_SAFE_NO_PAD.encode(hash))
}

/// Letters, digits, `_`, `$`, `.` and `-`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_$.-".contains(&byte)
}

/// Writes what is plain as it is, other bytes as `%` and two digits.
fn push_escaped(path: &mut String, text: &str) {
    for byte in text.bytes() {
        if is_plain(byte) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_escaped(&mut escaped, text);
    escaped
}

/// What [`escaped`] gave; of other texts anything.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}
