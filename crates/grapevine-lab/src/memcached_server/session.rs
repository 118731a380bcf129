//! One connection: reads, obeys every whole request that is there, writes the answers in one go.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::classic::{self, Answer, BAD_DATA, BAD_LINE, ERROR};
use super::frame::{Frame, Framer, words};
use super::{Shared, meta};

const READ_BYTES: usize = 16 << 10;

/// Answers are written before more is obeyed when this many bytes wait; one answer may come on top.
const UNWRITTEN_BYTES_MAX: usize = 256 << 10;

/// Buffers that a large value made larger than this are not kept.
const IDLE_BUFFER_BYTES_MAX: usize = 512 << 10;

pub(super) async fn run(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session {
        stream,
        shared,
        framer: Framer::new(shared.config.max_value_bytes),
        output: Vec::new(),
    };
    let mut input = BytesMut::with_capacity(READ_BYTES);
    loop {
        while let Some(frame) = session.framer.next(&mut input) {
            if !session.obey(frame).await? {
                return session.flush().await;
            }
        }
        session.flush().await?;
        if input.is_empty() && input.capacity() > IDLE_BUFFER_BYTES_MAX {
            input = BytesMut::with_capacity(READ_BYTES);
        }
        input.reserve(READ_BYTES / 4);
        if session.stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

struct Session<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    framer: Framer,
    output: Vec<u8>,
}

impl Session<'_> {
    /// Obeys one request; says whether the connection goes on.
    async fn obey(&mut self, frame: Frame) -> io::Result<bool> {
        if self.output.len() >= UNWRITTEN_BYTES_MAX {
            self.flush().await?;
        }
        match frame {
            Frame::Line(line) => return self.obey_line(&line).await,
            Frame::Value {
                line,
                value,
                terminated: true,
            } => self.store(&line, Some(value)),
            Frame::Value { .. } => self.line(BAD_DATA),
            Frame::ValueTooLarge { line } => self.store(&line, None),
            Frame::LineTooLong => {
                self.line("CLIENT_ERROR line too long");
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn obey_line(&mut self, line: &Bytes) -> io::Result<bool> {
        match words(line).next() {
            Some(b"get") => self.get(line, false).await?,
            Some(b"gets") => self.get(line, true).await?,
            Some(b"mg" | b"md" | b"mn" | b"ms") => {
                meta::run_line(self.shared, line, &mut self.output);
            }
            _ => match classic::run_line(self.shared, line) {
                Answer::Line(text) => self.line(&text),
                Answer::Nothing => {}
                Answer::Close => return Ok(false),
            },
        }
        Ok(true)
    }

    async fn get(&mut self, line: &Bytes, with_cas: bool) -> io::Result<()> {
        let keys = || words(line).skip(1);
        if keys().next().is_none() {
            self.line(ERROR);
            return Ok(());
        }
        // Before anything is answered: half an answer and an error would be misread.
        if !keys().all(classic::is_key) {
            self.line(BAD_LINE);
            return Ok(());
        }
        let now = Instant::now();
        for key in keys() {
            let found = self.shared.store.lock().get(key, false, now);
            if let Some(found) = found {
                classic::write_value(&mut self.output, key, &found, with_cas);
            }
            if self.output.len() >= UNWRITTEN_BYTES_MAX {
                self.flush().await?;
            }
        }
        self.line("END");
        Ok(())
    }

    fn store(&mut self, line: &Bytes, value: Option<Bytes>) {
        if words(line).next() == Some(b"ms") {
            meta::run_store(self.shared, line, value, &mut self.output);
            return;
        }
        if let Answer::Line(text) = classic::run_store(self.shared, line, value) {
            self.line(&text);
        }
    }

    fn line(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        if self.output.capacity() > IDLE_BUFFER_BYTES_MAX {
            self.output = Vec::new();
        }
        Ok(())
    }
}
