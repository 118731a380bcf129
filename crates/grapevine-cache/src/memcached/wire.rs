//! memcached's meta text protocol, as much of it as a cache needs.
//!
//! A request is a line: a two-letter command, a key, flags of one letter each (some with a value), `\r\n`. `ms` is
//! followed by the value and another `\r\n`. The server answers every request with exactly one reply, in order:
//!
//! ```text
//! mg <key> v                 VA <size> <flags>*\r\n<value>\r\n   or EN (absent)
//! ms <key> <size> T<ttl>     HD (stored)                         or NS (not stored)
//! md <key>                   HD (deleted)                        or NF (absent)
//! md <key> I                 HD (marked stale)                   or NF (absent)
//! mn                         MN
//! ```
//!
//! Among the flags of `VA`, `X` says that the value was marked stale and `W` that this reader is the one to replace it.
//! In place of any reply stands `SERVER_ERROR <why>` when the server could not do it; the stream stays in step.
//! `CLIENT_ERROR` and `ERROR` mean that it did not understand us: the stream may be out of step, and the connection is
//! given up. So is one whose replies are not of these forms. Lines are bounded, and a value over the limit is skipped
//! over without being held.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};

/// A longer reply line is not memcached's.
const LINE_BYTES_MAX: usize = 2_048;

/// Smaller values are copied out of the read buffer, so that a kept value does not keep a whole buffer alive.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// TTLs above are absolute times for memcached. Thirty days.
const RELATIVE_TTL_SECONDS_MAX: u64 = 60 * 60 * 24 * 30;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// `VA`: the value, whether it is stale, whether this reader is the one to replace it.
    Value {
        value: Bytes,
        stale: bool,
        refill: bool,
    },
    /// `VA` of a value over the limit, which was skipped.
    ValueTooLarge { size_bytes: usize },
    /// `EN`: nothing there to get.
    Miss,
    /// `HD`: done.
    Done,
    /// `NF`: nothing there to change.
    NotFound,
    /// `NS` or `EX`: not stored.
    NotStored,
    /// `MN`: the answer to `mn`.
    Noop,
    /// `SERVER_ERROR`: it could not.
    Refused(String),
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `mg`.
    Get,
    /// `ms`.
    Set,
    /// `md`.
    Delete,
}

impl Reply {
    /// Whether the protocol allows this reply to a request of that kind. If not, the stream is out of step.
    pub(crate) fn answers(&self, kind: Kind) -> bool {
        match self {
            Self::Value { .. } | Self::ValueTooLarge { .. } | Self::Miss => kind == Kind::Get,
            Self::Done | Self::NotFound => kind != Kind::Get,
            Self::NotStored => kind == Kind::Set,
            Self::Noop => false,
            Self::Refused(_) => true,
        }
    }

    /// Its code, for messages: values are nobody's business.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Value { .. } | Self::ValueTooLarge { .. } => "VA",
            Self::Miss => "EN",
            Self::Done => "HD",
            Self::NotFound => "NF",
            Self::NotStored => "NS",
            Self::Noop => "MN",
            Self::Refused(_) => "SERVER_ERROR",
        }
    }
}

/// The stream is not, or no longer, a row of replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutOfStep(pub(crate) String);

pub(crate) fn encode_get(out: &mut Vec<u8>, key: &str) {
    for part in [b"mg ", key.as_bytes(), b" v\r\n"] {
        out.extend_from_slice(part);
    }
}

pub(crate) fn encode_delete(out: &mut Vec<u8>, key: &str) {
    for part in [b"md ", key.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}

pub(crate) fn encode_mark_stale(out: &mut Vec<u8>, key: &str) {
    for part in [b"md ", key.as_bytes(), b" I\r\n"] {
        out.extend_from_slice(part);
    }
}

pub(crate) const NOOP: &[u8] = b"mn\r\n";

/// The line in front of a value; the value and [`LINE_END`] follow.
pub(crate) fn encode_set_line(key: &str, size_bytes: usize, ttl: Duration) -> Vec<u8> {
    format!(
        "ms {key} {size_bytes} T{}\r\n",
        exptime(ttl, SystemTime::now())
    )
    .into_bytes()
}

pub(crate) const LINE_END: &[u8] = b"\r\n";

/// memcached's clock ticks once a second.
pub(crate) const TTL_GRAIN: Duration = Duration::from_secs(1);

/// memcached's expiry time: whole seconds, rounded down but at least one; above thirty days as Unix time.
///
/// memcached holds it in 31 bits, so from the end of 2037 on TTLs end after thirty days.
fn exptime(ttl: Duration, now: SystemTime) -> u64 {
    let seconds = ttl.as_secs().max(1);
    if seconds <= RELATIVE_TTL_SECONDS_MAX {
        return seconds;
    }
    let absolute = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
        .saturating_add(seconds);
    if i32::try_from(absolute).is_ok() {
        absolute
    } else {
        RELATIVE_TTL_SECONDS_MAX
    }
}

/// Cuts a byte stream into replies.
#[derive(Debug)]
pub(crate) struct Decoder {
    value_bytes_max: usize,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Line,
    Value {
        size_bytes: usize,
        stale: bool,
        refill: bool,
    },
    Skip {
        size_bytes: usize,
        left_bytes: usize,
    },
}

impl Decoder {
    pub(crate) fn new(value_bytes_max: usize) -> Self {
        Self {
            value_bytes_max,
            state: State::Line,
        }
    }

    /// The next reply in `buffer`, when all of it is there. Consumes what it used.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, OutOfStep> {
        loop {
            match self.state {
                State::Line => {
                    let Some(end) = find_line_end(buffer)? else {
                        return Ok(None);
                    };
                    let parsed = parse_line(&buffer[..end], self.value_bytes_max);
                    buffer.advance(end + LINE_END.len());
                    match parsed? {
                        Line::Reply(reply) => return Ok(Some(reply)),
                        Line::Body(state) => self.state = state,
                    }
                }
                State::Value {
                    size_bytes,
                    stale,
                    refill,
                } => {
                    let whole = size_bytes + LINE_END.len();
                    if buffer.len() < whole {
                        buffer.reserve(whole - buffer.len());
                        return Ok(None);
                    }
                    let value = take_value(buffer, size_bytes);
                    expect_line_end(&buffer[..LINE_END.len()])?;
                    buffer.advance(LINE_END.len());
                    self.state = State::Line;
                    return Ok(Some(Reply::Value {
                        value,
                        stale,
                        refill,
                    }));
                }
                State::Skip {
                    size_bytes,
                    left_bytes,
                } => {
                    let skipped = left_bytes.min(buffer.len());
                    buffer.advance(skipped);
                    let left_bytes = left_bytes - skipped;
                    if left_bytes > 0 {
                        self.state = State::Skip {
                            size_bytes,
                            left_bytes,
                        };
                        return Ok(None);
                    }
                    self.state = State::Line;
                    return Ok(Some(Reply::ValueTooLarge { size_bytes }));
                }
            }
        }
    }
}

enum Line {
    Reply(Reply),
    Body(State),
}

fn find_line_end(buffer: &[u8]) -> Result<Option<usize>, OutOfStep> {
    let Some(newline) = buffer
        .iter()
        .take(LINE_BYTES_MAX)
        .position(|byte| *byte == b'\n')
    else {
        if buffer.len() >= LINE_BYTES_MAX {
            return Err(OutOfStep(format!(
                "a reply line of more than {LINE_BYTES_MAX} bytes"
            )));
        }
        return Ok(None);
    };
    match newline.checked_sub(1) {
        Some(end) if buffer[end] == b'\r' => Ok(Some(end)),
        _ => Err(unexpected(&buffer[..newline])),
    }
}

fn parse_line(line: &[u8], value_bytes_max: usize) -> Result<Line, OutOfStep> {
    let (code, rest) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &[][..]),
    };
    let reply = match code {
        b"VA" => return parse_value_line(line, rest, value_bytes_max),
        b"EN" => Reply::Miss,
        b"HD" => Reply::Done,
        b"NF" => Reply::NotFound,
        b"NS" | b"EX" => Reply::NotStored,
        b"MN" => Reply::Noop,
        b"SERVER_ERROR" => Reply::Refused(String::from_utf8_lossy(rest).into_owned()),
        _ => return Err(unexpected(line)),
    };
    Ok(Line::Reply(reply))
}

fn parse_value_line(line: &[u8], rest: &[u8], value_bytes_max: usize) -> Result<Line, OutOfStep> {
    let mut words = rest
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let size_bytes = words
        .next()
        .and_then(|word| std::str::from_utf8(word).ok())
        .and_then(|word| word.parse::<u32>().ok())
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| unexpected(line))?;
    if size_bytes > value_bytes_max {
        return Ok(Line::Body(State::Skip {
            size_bytes,
            left_bytes: size_bytes.saturating_add(LINE_END.len()),
        }));
    }
    let (mut stale, mut refill) = (false, false);
    for word in words {
        stale |= word == b"X";
        refill |= word == b"W";
    }
    Ok(Line::Body(State::Value {
        size_bytes,
        stale,
        refill,
    }))
}

fn take_value(buffer: &mut BytesMut, size_bytes: usize) -> Bytes {
    if size_bytes < COPY_BELOW_BYTES {
        let value = Bytes::copy_from_slice(&buffer[..size_bytes]);
        buffer.advance(size_bytes);
        value
    } else {
        buffer.split_to(size_bytes).freeze()
    }
}

fn expect_line_end(bytes: &[u8]) -> Result<(), OutOfStep> {
    if bytes == LINE_END {
        Ok(())
    } else {
        Err(OutOfStep(format!(
            "a value followed by {:?}",
            String::from_utf8_lossy(bytes)
        )))
    }
}

fn unexpected(line: &[u8]) -> OutOfStep {
    const SHOWN_BYTES_MAX: usize = 120;
    let shown = &line[..line.len().min(SHOWN_BYTES_MAX)];
    OutOfStep(format!(
        "unexpected reply {:?}",
        String::from_utf8_lossy(shown)
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const LIMIT_BYTES: usize = 100_000;

    fn value(bytes: &[u8], stale: bool, refill: bool) -> Reply {
        Reply::Value {
            value: Bytes::copy_from_slice(bytes),
            stale,
            refill,
        }
    }

    fn decode_in_pieces(stream: &[u8], cuts: &[usize]) -> Result<Vec<Reply>, OutOfStep> {
        let mut decoder = Decoder::new(LIMIT_BYTES);
        let (mut buffer, mut replies, mut from) = (BytesMut::new(), Vec::new(), 0);
        for cut in cuts.iter().copied().chain([stream.len()]) {
            buffer.extend_from_slice(&stream[from..cut]);
            from = cut;
            while let Some(reply) = decoder.decode(&mut buffer)? {
                replies.push(reply);
            }
        }
        assert!(buffer.is_empty(), "everything was consumed");
        Ok(replies)
    }

    #[test]
    fn every_form_of_reply_is_read_wherever_the_stream_is_cut() {
        let stream =
            b"EN\r\nHD\r\nVA 5 \r\nhe\r\no\r\nNF\r\nVA 0 W X\r\n\r\nVA 2 X Z\r\nab\r\nNS\r\nMN\r\n\
            SERVER_ERROR out of memory storing object\r\nHD O123\r\n";
        let expected = vec![
            Reply::Miss,
            Reply::Done,
            value(b"he\r\no", false, false),
            Reply::NotFound,
            value(b"", true, true),
            value(b"ab", true, false),
            Reply::NotStored,
            Reply::Noop,
            Reply::Refused("out of memory storing object".to_owned()),
            Reply::Done,
        ];
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                assert_eq!(
                    decode_in_pieces(stream, &[first, second]).unwrap(),
                    expected,
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn values_at_the_limit_are_kept_and_one_byte_more_is_skipped() {
        for size_bytes in [
            COPY_BELOW_BYTES - 1,
            COPY_BELOW_BYTES,
            LIMIT_BYTES,
            LIMIT_BYTES + 1,
        ] {
            let body = vec![b'x'; size_bytes];
            let mut stream = format!("VA {size_bytes}\r\n").into_bytes();
            stream.extend_from_slice(&body);
            stream.extend_from_slice(b"\r\nEN\r\n");
            let first = if size_bytes > LIMIT_BYTES {
                Reply::ValueTooLarge { size_bytes }
            } else {
                value(&body, false, false)
            };
            let replies = decode_in_pieces(&stream, &[10, 5_000, size_bytes]).unwrap();
            assert_eq!(replies, [first, Reply::Miss]);
        }
    }

    #[test]
    fn what_is_not_a_reply_is_refused() {
        for stream in [
            "ERROR\r\n",
            "CLIENT_ERROR bad command line format\r\n",
            "STORED\r\n",
            "VA\r\n",
            "VA x\r\n",
            "VA -1\r\n",
            "VA 99999999999999999999\r\n",
            "\r\n",
            "\n",
            "HD\n",
            "VA 2\r\nabcd",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            let mut buffer = BytesMut::from(stream);
            assert!(
                Decoder::new(LIMIT_BYTES).decode(&mut buffer).is_err(),
                "{stream:?}"
            );
        }
        let mut endless = BytesMut::from(&vec![b'a'; LINE_BYTES_MAX][..]);
        assert!(Decoder::new(LIMIT_BYTES).decode(&mut endless).is_err());
    }

    #[test]
    fn requests_are_these_bytes() {
        let mut out = Vec::new();
        encode_get(&mut out, "k");
        encode_delete(&mut out, "k");
        encode_mark_stale(&mut out, "k");
        out.extend(encode_set_line("k", 3, Duration::from_mins(1)));
        assert_eq!(out, b"mg k v\r\nmd k\r\nmd k I\r\nms k 3 T60\r\n");
    }

    #[test]
    fn ttls_round_down_to_at_least_one_second_and_turn_absolute_above_thirty_days() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let month = Duration::from_secs(RELATIVE_TTL_SECONDS_MAX);
        assert_eq!(exptime(Duration::from_millis(1), now), 1);
        assert_eq!(exptime(Duration::from_millis(2_999), now), 2);
        assert_eq!(exptime(month, now), 2_592_000);
        assert_eq!(exptime(month + Duration::from_secs(1), now), 1_702_592_001);
        let year_2038 = UNIX_EPOCH + Duration::from_secs(1 << 31);
        assert_eq!(exptime(2 * month, year_2038), RELATIVE_TTL_SECONDS_MAX);
        assert_eq!(
            exptime(2 * month, UNIX_EPOCH - Duration::from_secs(1)),
            5_184_000
        );
    }
}
