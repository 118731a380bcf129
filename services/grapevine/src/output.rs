//! Standard output: tables or lines for people, one JSON object per line for scripts.
//!
//! A reader that leaves early (`| head`) ends the command quietly: that is [`Failure::ReaderLeft`]. Tables have no frames, so
//! that `grep` and `awk` work on them. Progress goes to standard error, and only to a terminal.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, Table, Width, presets};
use serde::Serialize;

use crate::exit::Failure;

pub(crate) struct Output<W: Write = Stdout> {
    writer: BufWriter<W>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self::to(io::stdout())
    }
}

impl<W: Write> Output<W> {
    pub(crate) fn to(writer: W) -> Self {
        Self {
            writer: BufWriter::new(writer),
        }
    }

    /// One JSON object on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::Failed(format!("cannot write JSON: {error}")))?;
        self.line(&line)
    }

    /// A table.
    pub(crate) fn table(&mut self, rows: &Rows) -> Result<(), Failure> {
        self.line(&rows.0.trim_fmt())
    }

    /// A part of a table; only the first has the header. Its columns are as wide as those of the parts before it, or wider.
    pub(crate) fn table_part(
        &mut self,
        rows: &mut Rows,
        widths: &mut Widths,
    ) -> Result<(), Failure> {
        let first = widths.0.is_empty();
        rows.widen(widths);
        let text = rows.0.trim_fmt();
        let rest = if first { None } else { text.split_once('\n') };
        self.line(rest.map_or(text.as_str(), |(_, rows)| rows))
    }

    /// A line, or several.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.writer
            .write_all(text.as_bytes())
            .and_then(|()| self.writer.write_all(b"\n"))
            .map_err(|error| failure(&error))
    }

    /// Makes all of it visible. Also called when it is dropped, but then nobody hears of errors.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| failure(&error))
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::ReaderLeft,
        _ => Failure::Failed(format!("standard output: {error}")),
    }
}

/// How wide the columns of a table are, of which some parts have been written; nothing before the first.
#[derive(Default)]
pub(crate) struct Widths(Vec<u16>);

/// Spaces behind each column.
const PADDING: u16 = 2;

/// A table under construction.
pub(crate) struct Rows(Table);

impl Rows {
    /// With a header; columns whose name begins with `#` hold numbers and are aligned right.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(
            columns
                .iter()
                .map(|name| Cell::new(name.trim_start_matches('#'))),
        );
        for (index, name) in columns.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, PADDING));
                if name.starts_with('#') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self(table)
    }

    /// Without a header: names and values.
    pub(crate) fn pairs() -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        Self(table)
    }

    pub(crate) fn add<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.0.add_row(cells);
        if self.0.header().is_none() {
            for column in self.0.column_iter_mut() {
                column.set_padding((0, PADDING));
            }
        }
    }

    /// Makes no column narrower than it was, and notes how wide it is.
    fn widen(&mut self, widths: &mut Widths) {
        let own = self.0.column_max_content_widths();
        widths.0.resize(own.len(), 0);
        let columns = self.0.column_iter_mut();
        for (column, (width, own)) in columns.zip(widths.0.iter_mut().zip(own)) {
            *width = own.max(*width);
            let with_padding = Width::Fixed(width.saturating_add(PADDING));
            column.set_constraint(ColumnConstraint::LowerBoundary(with_padding));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.row_iter().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(write: impl FnOnce(&mut Output<&mut Vec<u8>>) -> Result<(), Failure>) -> String {
        let mut bytes = Vec::new();
        {
            let mut output = Output::to(&mut bytes);
            write(&mut output).unwrap();
            output.flush().unwrap();
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_reader_that_left_ends_the_command_quietly() {
        let mut output = Output::to(Gone);
        output.line("something").unwrap();
        assert!(matches!(output.flush(), Err(Failure::ReaderLeft)));
    }

    #[test]
    fn tables_have_no_frames_and_no_spaces_at_line_ends() {
        let mut rows = Rows::new(&["NODE", "#HEAD"]);
        assert!(rows.is_empty());
        rows.add(["a", "7"]);
        rows.add(["longer", "12345"]);
        assert_eq!(
            written(|out| out.table(&rows)),
            "NODE     HEAD\na           7\nlonger  12345\n"
        );
    }

    #[test]
    fn parts_of_a_table_are_in_line_as_far_as_they_can_be() {
        let part = |rows: [[&str; 2]; 2]| {
            let mut part = Rows::new(&["NODE", "#HEAD"]);
            for row in rows {
                part.add(row);
            }
            part
        };
        let mut widths = Widths::default();
        let text = written(|out| {
            out.table_part(&mut part([["longer", "7"], ["a", "12345"]]), &mut widths)?;
            out.table_part(&mut part([["b", "1"], ["c", "2"]]), &mut widths)?;
            out.table_part(&mut part([["longest", "3"], ["d", "4"]]), &mut widths)?;
            out.table_part(&mut part([["e", "5"], ["f", "6"]]), &mut widths)
        });
        let expected = [
            "NODE     HEAD",
            "longer      7",
            "a       12345",
            "b           1",
            "c           2",
            "longest      3",
            "d            4",
            "e            5",
            "f            6",
            "",
        ];
        assert_eq!(text, expected.join("\n"));
    }

    #[test]
    fn json_is_one_line() {
        let text = written(|out| out.json(&serde_json::json!({"a": "line\nbreak"})));
        assert_eq!(text, "{\"a\":\"line\\nbreak\"}\n");
    }
}
