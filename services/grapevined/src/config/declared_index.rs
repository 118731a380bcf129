//! An index that is declared, as a knob's value: `items:category_id+in_stock`.

use std::fmt;

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Dialect, Raw, SHAPE_COLUMNS_MAX, Shape, Table,
};
use grapevine_core::names::ClassPath;

use super::value::{Element, Value};

/// A table and the columns by which its rows are listed.
#[derive(Clone, PartialEq, Eq)]
pub struct DeclaredIndex {
    shown: String,
    shape: Shape,
}

impl DeclaredIndex {
    /// The class of all of its leaves.
    pub fn class(&self) -> ClassPath {
        self.shape.class()
    }
}

impl fmt::Debug for DeclaredIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Value for DeclaredIndex {
    const KIND: &'static str = "TABLE:COLUMN+COLUMN";

    fn parse(text: &str) -> Result<Self, String> {
        let (table, columns) = text
            .split_once(':')
            .ok_or("is not TABLE:COLUMN or TABLE:COLUMN+COLUMN")?;
        let table = Table::parse(table).map_err(|error| format!("has no table: {error}"))?;
        let mut rows = Conjunction::all_of(table);
        for name in columns.split('+') {
            let column = Column::parse(name);
            let column = column.map_err(|error| format!("has no column {name:?}: {error}"))?;
            if rows.cells.contains_key(&column) {
                return Err(format!("names {name} twice"));
            }
            // Which value does not matter.
            if let Some(any) = Datum::of(Dialect::Postgres, Raw::Null) {
                rows.narrow(column, Cell::Is(any));
            }
        }
        if rows.cells.len() > SHAPE_COLUMNS_MAX {
            let count = rows.cells.len();
            return Err(format!(
                "has {count} columns; the limit is {SHAPE_COLUMNS_MAX}"
            ));
        }
        let shape = Shape::of(&rows);
        if shape.left_out(&rows).next().is_some() {
            return Err(
                "has names of columns that are too long; the limit is 47 bytes for all of them"
                    .to_owned(),
            );
        }
        let shown = text.to_owned();
        Ok(Self { shown, shape })
    }

    fn text(&self) -> String {
        self.shown.clone()
    }
}

impl Element for DeclaredIndex {
    const SEPARATORS: &'static [char] = &[',', ' '];
}
