//! Cuts a connection's bytes into frames: a command line, or a storage command's line with its value.
//!
//! A line ends with `\n`, usually after a `\r`. The commands `set`, `add`, `replace` and `cas` name the length of their
//! value as the fifth word, `ms` as the third; the value and `\r\n` follow. A value over the limit is skipped over as
//! it arrives. A line over the limit cannot be skipped with any certainty of where the next command begins, so it is
//! the last frame.

use bytes::{Buf, Bytes, BytesMut};

/// Room for a `get` of 250 keys of the longest length.
const LINE_BYTES_MAX: usize = 64 << 10;

const LINE_END_BYTES: usize = 2;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A line without a value.
    Line(Bytes),
    /// A storage command's line and its value; `terminated` is whether `\r\n` followed.
    Value {
        line: Bytes,
        value: Bytes,
        terminated: bool,
    },
    /// A storage command's line; its value was over the limit.
    ValueTooLarge { line: Bytes },
    /// The connection is to be closed.
    LineTooLong,
}

/// Splits a line into words.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
}

/// A decimal number.
pub(super) fn number<N: std::str::FromStr>(word: &[u8]) -> Option<N> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The cutter's state.
#[derive(Debug)]
pub(super) struct Framer {
    value_bytes_max: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Line,
    Value { line: Bytes, length: usize },
    Skip { line: Bytes, left_bytes: usize },
}

impl Framer {
    pub(super) fn new(value_bytes_max: usize) -> Self {
        Self {
            value_bytes_max,
            state: State::Line,
        }
    }

    /// The next frame in `input`, when all of it is there. Consumes what it used.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Option<Frame> {
        loop {
            match std::mem::replace(&mut self.state, State::Line) {
                State::Line => {
                    let line = match take_line(input)? {
                        Ok(line) => line,
                        Err(frame) => return Some(frame),
                    };
                    match value_length(&line) {
                        None => return Some(Frame::Line(line)),
                        Some(length) if length > self.value_bytes_max => {
                            let left_bytes = length.saturating_add(LINE_END_BYTES);
                            self.state = State::Skip { line, left_bytes };
                        }
                        Some(length) => self.state = State::Value { line, length },
                    }
                }
                State::Value { line, length } => {
                    let whole = length + LINE_END_BYTES;
                    if input.len() < whole {
                        input.reserve(whole - input.len());
                        self.state = State::Value { line, length };
                        return None;
                    }
                    let value = Bytes::copy_from_slice(&input[..length]);
                    let terminated = &input[length..whole] == b"\r\n";
                    input.advance(whole);
                    return Some(Frame::Value {
                        line,
                        value,
                        terminated,
                    });
                }
                State::Skip { line, left_bytes } => {
                    let skipped = left_bytes.min(input.len());
                    input.advance(skipped);
                    if skipped == left_bytes {
                        return Some(Frame::ValueTooLarge { line });
                    }
                    let left_bytes = left_bytes - skipped;
                    self.state = State::Skip { line, left_bytes };
                    return None;
                }
            }
        }
    }
}

fn take_line(input: &mut BytesMut) -> Option<Result<Bytes, Frame>> {
    let Some(newline) = input
        .iter()
        .take(LINE_BYTES_MAX)
        .position(|byte| *byte == b'\n')
    else {
        return (input.len() >= LINE_BYTES_MAX).then_some(Err(Frame::LineTooLong));
    };
    let mut line = input.split_to(newline + 1).freeze();
    line.truncate(newline);
    if line.last() == Some(&b'\r') {
        line.truncate(newline - 1);
    }
    Some(Ok(line))
}

/// The length of the value that follows the line; `None` when none does, or when the line is too malformed to say.
fn value_length(line: &[u8]) -> Option<usize> {
    let mut words = words(line);
    let skip = match words.next()? {
        b"set" | b"add" | b"replace" | b"cas" => 3,
        b"ms" => 1,
        _ => return None,
    };
    number::<u32>(words.nth(skip)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT_BYTES: usize = 10;

    fn frames(stream: &[u8], cut: usize) -> Vec<Frame> {
        let (mut framer, mut input, mut found) =
            (Framer::new(LIMIT_BYTES), BytesMut::new(), Vec::new());
        for piece in [&stream[..cut], &stream[cut..]] {
            input.extend_from_slice(piece);
            while let Some(frame) = framer.next(&mut input) {
                found.push(frame);
            }
        }
        assert!(input.is_empty());
        found
    }

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_cut() {
        let stream = b"get a b\r\nset k 0 0 4\r\n\r\n\n\r\r\nmn\nms k 11 T3\r\n0123456789x\r\n\r\nms k 2\r\nabXYset k 0 0\r\n";
        let line = |text: &'static str| Bytes::from_static(text.as_bytes());
        let value = |text, value: &'static [u8], terminated| Frame::Value {
            line: line(text),
            value: Bytes::from_static(value),
            terminated,
        };
        let expected = [
            Frame::Line(line("get a b")),
            value("set k 0 0 4", b"\r\n\n\r", true),
            Frame::Line(line("mn")),
            Frame::ValueTooLarge {
                line: line("ms k 11 T3"),
            },
            Frame::Line(line("")),
            value("ms k 2", b"ab", false),
            Frame::Line(line("set k 0 0")),
        ];
        for cut in 0..stream.len() {
            assert_eq!(frames(stream, cut), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_held_up_to_its_limit() {
        let mut framer = Framer::new(LIMIT_BYTES);
        let mut input = BytesMut::from(&vec![b'a'; LINE_BYTES_MAX - 1][..]);
        assert_eq!(framer.next(&mut input), None);
        input.extend_from_slice(b"a");
        assert_eq!(framer.next(&mut input), Some(Frame::LineTooLong));
    }
}
