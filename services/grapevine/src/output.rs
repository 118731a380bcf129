//! Standard output: tables or lines for people, one JSON object per line for scripts.
//!
//! A reader that leaves early (`| head`) ends the command quietly: that is [`Failure::ReaderLeft`]. Tables have no frames, so
//! that `grep` and `awk` work on them. Progress goes to standard error, and only to a terminal.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};
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

    /// A part of a table; only the first has the header.
    pub(crate) fn table_part(&mut self, rows: &Rows, first: bool) -> Result<(), Failure> {
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
                column.set_padding((0, 2));
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
                column.set_padding((0, 2));
            }
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
    fn json_is_one_line() {
        let text = written(|out| out.json(&serde_json::json!({"a": "line\nbreak"})));
        assert_eq!(text, "{\"a\":\"line\\nbreak\"}\n");
    }
}
