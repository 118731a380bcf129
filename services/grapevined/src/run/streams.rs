//! Which streams of an HTTP/2 connection are open, from the heads of the frames that pass (RFC 9113, section 4.1).
//!
//! A stream is open from the caller's first HEADERS on, until our `END_STREAM` has been written, or it was reset by either
//! side. Nothing is checked here: what is wrong ends the connection, which is the library's matter.
//!
//! Not every HEADERS makes a stream that the library counts: behind the last GOAWAY it passes over them, however many come.
//! So only so many are remembered as a caller may have open at a time. One who keeps to that has none beyond it, for
//! it counts a stream as over after this side does.

/// The length of HTTP/2's client preface.
pub(super) const PREFACE_BYTES: usize = 24;
/// The most streams that are remembered: as many as any listener lets a caller have open.
const STREAMS_MAX: usize = super::listen::STREAMS_MAX as usize;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// The streams of a server's connection.
#[derive(Debug)]
pub(super) struct Streams {
    coming: Frames,
    going: Frames,
    /// The last one that was begun: their numbers rise.
    newest: u32,
    /// [`STREAMS_MAX`] at most; those that come when it is full are not remembered.
    open: Vec<Open>,
}

/// A stream that is open.
#[derive(Debug)]
struct Open {
    stream: u32,
    /// Whether its answer has begun: a head was written that does not end it.
    answered: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            coming: Frames {
                payload_bytes: PREFACE_BYTES,
                ..Frames::default()
            },
            going: Frames::default(),
            newest: 0,
            open: Vec::new(),
        }
    }
}

impl Streams {
    /// Takes what the caller has sent.
    pub(super) fn came(&mut self, bytes: &[u8]) {
        let Self {
            coming,
            newest,
            open,
            ..
        } = self;
        coming.pass(bytes, |head| match head.kind {
            HEADERS if head.stream > *newest => {
                *newest = head.stream;
                if open.len() < STREAMS_MAX {
                    open.push(Open {
                        stream: head.stream,
                        answered: false,
                    });
                }
            }
            RST_STREAM => {
                close(open, head.stream);
            }
            _ => {}
        });
    }

    /// Takes what has been written; tells how many refusals were: answers that are a head and nothing else.
    pub(super) fn went(&mut self, bytes: &[u8]) -> usize {
        let Self { going, open, .. } = self;
        let mut refusals = 0;
        going.pass(bytes, |head| match head.kind {
            DATA | HEADERS if head.flags & END_STREAM != 0 => {
                let ended = close(open, head.stream);
                refusals += usize::from(ended.is_some_and(|it| !it.answered));
            }
            HEADERS => {
                let begun = open.iter_mut().find(|open| open.stream == head.stream);
                if let Some(open) = begun {
                    open.answered = true;
                }
            }
            RST_STREAM => {
                close(open, head.stream);
            }
            _ => {}
        });
        refusals
    }

    /// How many have no answer that has begun, and so may have a refusal that is not written.
    pub(super) fn unanswered(&self) -> usize {
        self.open.iter().filter(|open| !open.answered).count()
    }

    /// Whether none is open, and the last frame of one written as a whole. A frame of the connection itself may be in part:
    /// whoever does not read what is left of a GOAWAY has no call for that.
    pub(super) fn are_done(&self) -> bool {
        self.open.is_empty() && !self.going.are_within_a_stream()
    }
}

fn close(open: &mut Vec<Open>, stream: u32) -> Option<Open> {
    let place = open.iter().position(|open| open.stream == stream)?;
    Some(open.swap_remove(place))
}

/// What the head of a frame says, but for its length.
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Frames of one direction, which come in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 9],
    /// How much of the next frame's head is there.
    head_bytes: usize,
    /// How much of the last frame's payload is missing.
    payload_bytes: usize,
    /// The last frame's stream; 0 is the connection itself.
    stream: u32,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            if self.payload_bytes > 0 {
                let skipped = self.payload_bytes.min(bytes.len());
                self.payload_bytes -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let more = (self.head.len() - self.head_bytes).min(bytes.len());
            let end = self.head_bytes + more;
            self.head[self.head_bytes..end].copy_from_slice(&bytes[..more]);
            self.head_bytes = end;
            bytes = &bytes[more..];
            if end == self.head.len() {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.head_bytes = 0;
                self.payload_bytes = u32::from_be_bytes([0, a, b, c]) as usize;
                // The first bit is reserved.
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                self.stream = stream;
                each(Head {
                    kind,
                    flags,
                    stream,
                });
            }
        }
    }

    /// Whether something is missing of a stream's frame whose head is there.
    fn are_within_a_stream(&self) -> bool {
        self.payload_bytes > 0 && self.stream > 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        // As much like heads as can be.
        frame.extend(std::iter::repeat_n(HEADERS, payload));
        frame
    }

    fn numbers(streams: &Streams) -> Vec<u32> {
        streams.open.iter().map(|open| open.stream).collect()
    }

    /// Streams after what has come, in pieces of so many bytes.
    fn after(came: &[Vec<u8>], piece: usize) -> Streams {
        let mut streams = Streams::default();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let all = [preface, came.concat()].concat();
        for piece in all.chunks(piece) {
            streams.came(piece);
        }
        streams
    }

    #[test]
    fn streams_are_open_until_their_answers_are_written() {
        for piece in [1, 2, 8, 9, 10, 1_000] {
            let mut streams = after(
                &[
                    frame(SETTINGS, 0, 0, 18),
                    frame(HEADERS, END_HEADERS, 1, 40),
                    frame(HEADERS, END_HEADERS | END_STREAM, 3, 0),
                    // The caller's own end, trailers, is no answer, and begins nothing.
                    frame(DATA, END_STREAM, 1, 300),
                ],
                piece,
            );
            assert_eq!(numbers(&streams), [1, 3], "in pieces of {piece}");
            let answer = [
                frame(SETTINGS, END_STREAM, 0, 0),
                frame(HEADERS, END_HEADERS, 3, 20),
                frame(DATA, 0, 3, 500),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, 0),
                frame(DATA, END_STREAM, 3, 100),
            ]
            .concat();
            let (most, last) = answer.split_at(answer.len() - 1);
            assert_eq!(streams.unanswered(), 2);
            let refusals = most.chunks(piece).map(|piece| streams.went(piece));
            assert_eq!(refusals.sum::<usize>(), 1, "of stream 1 alone");
            assert_eq!(streams.unanswered(), 0);
            assert_eq!(numbers(&streams), [0; 0]);
            assert!(!streams.are_done(), "a byte is missing");
            streams.went(last);
            assert!(streams.are_done());
            // A frame of the connection is nobody's call, whatever is missing of it.
            for piece in frame(GOAWAY, 0, 0, 8).chunks(piece) {
                streams.went(piece);
                assert!(streams.are_done());
            }
        }
    }

    #[test]
    fn as_many_streams_are_remembered_as_may_be_open_whatever_comes() {
        let begun = (0..3 * STREAMS_MAX).map(|number| {
            let stream = u32::try_from(2 * number + 1).unwrap();
            frame(HEADERS, END_HEADERS, stream, 3)
        });
        let begun: Vec<_> = begun.collect();
        let mut streams = after(&begun, 1_000);
        assert_eq!(streams.open.len(), STREAMS_MAX);
        // The first ones: those that the library counts.
        for stream in numbers(&streams) {
            assert!(!streams.are_done());
            streams.went(&frame(HEADERS, END_HEADERS | END_STREAM, stream, 3));
        }
        assert!(streams.are_done());
        // What comes later is remembered again, and those between are over for good.
        let last = u32::try_from(6 * STREAMS_MAX - 1).unwrap();
        streams.came(&frame(HEADERS, END_HEADERS, last, 3));
        assert!(streams.are_done());
        streams.came(&frame(HEADERS, END_HEADERS, last + 2, 3));
        assert_eq!(numbers(&streams), [last + 2]);
    }

    #[test]
    fn streams_end_by_resets_of_either_side_and_once() {
        let begun = [1, 3, 5].map(|stream| frame(HEADERS, END_HEADERS, stream, 3));
        let mut streams = after(&begun, 1_000);
        streams.came(&frame(RST_STREAM, 0, 3, 4));
        assert_eq!(numbers(&streams), [1, 5]);
        streams.went(&frame(RST_STREAM, 0, 1, 4));
        // An answer before the caller's end is followed by a reset.
        streams.went(&frame(HEADERS, END_HEADERS | END_STREAM, 5, 3));
        streams.went(&frame(RST_STREAM, 0, 5, 4));
        assert!(streams.are_done());
        // Headers of one that is over are trailers that come late.
        streams.came(&frame(HEADERS, END_HEADERS | END_STREAM, 5, 3));
        assert!(streams.are_done());
        streams.came(&frame(HEADERS, END_HEADERS, 7 | 1 << 31, 3));
        assert_eq!(numbers(&streams), [7]);
    }
}
