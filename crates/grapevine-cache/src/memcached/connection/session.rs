//! A connection that is up: what was asked and is not answered, in order.
//!
//! One loop reads, takes, writes and watches. Replies belong to the front of the list of who waits; the buffers on both
//! sides are bounded, and one that a large value made larger is given back.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep};

use super::super::address::Stream;
use super::super::wire::{self, Decoder, Kind, OutOfStep, Reply};
use super::{Answer, End, Request, Worker};
use crate::CacheError;

/// Replies owed by the server. When reached, the queue is not drained until some arrive.
const PIPELINE_REPLIES_MAX: usize = 4_096;

/// Bytes encoded and not yet written. When reached, requests taken from the queue wait, with their values where the
/// requesters have them, until some are written; one more value may be added on top.
const UNWRITTEN_BYTES_MAX: usize = 256 << 10;

const REQUESTS_PER_TURN: usize = 128;
const READ_BYTES: usize = 16 << 10;

/// A buffer that a large value made larger than this is not kept.
const IDLE_BUFFER_BYTES_MAX: usize = 256 << 10;

struct Waiting {
    since: Instant,
    kind: Kind,
    answer: Answer,
}

/// The state *up*.
pub(super) struct Session<'a> {
    worker: &'a mut Worker,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    unread: BytesMut,
    /// Taken from the queue, and not encoded yet.
    taken: VecDeque<Request>,
    unwritten: BytesMut,
    /// How much was unwritten at most since the buffer was made.
    unwritten_peak: usize,
    decoder: Decoder,
    waiting: VecDeque<Waiting>,
    replies_owed: usize,
    served: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(worker: &'a mut Worker, stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            decoder: Decoder::new(worker.settings.value_bytes_max),
            worker,
            reader,
            writer,
            unread: BytesMut::with_capacity(READ_BYTES),
            taken: VecDeque::new(),
            unwritten: BytesMut::with_capacity(READ_BYTES),
            unwritten_peak: 0,
            waiting: VecDeque::new(),
            replies_owed: 0,
            served: false,
        }
    }

    pub(super) async fn run(mut self) -> End {
        let end = self.exchange().await;
        if let End::Failed { error, .. } = &end {
            let sent = self.waiting.drain(..).map(|waiting| waiting.answer);
            let unsent = self.taken.drain(..).map(|request| request.answer);
            for answer in sent.chain(unsent) {
                answer.fail(error.clone());
            }
        }
        end
    }

    async fn exchange(&mut self) -> End {
        let mut batch = Vec::with_capacity(REQUESTS_PER_TURN);
        let watchdog = sleep(self.worker.settings.timeout);
        tokio::pin!(watchdog);
        loop {
            self.make_room();
            self.encode();
            let may_take = self.taken.is_empty() && self.may_encode();
            // Replies first: they free room and people wait for them. Requests before writing: more go in one write.
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.unread) => match read {
                    Ok(0) => return self.broken("the server closed the connection".to_owned()),
                    Ok(_) => if let Err(end) = self.deliver() { return end },
                    Err(error) => return self.broken(error.to_string()),
                },
                taken = self.worker.queue.recv_many(&mut batch, REQUESTS_PER_TURN), if may_take => {
                    if taken == 0 {
                        return End::Dropped;
                    }
                    self.taken.extend(batch.drain(..));
                }
                written = self.writer.write_buf(&mut self.unwritten), if !self.unwritten.is_empty() => {
                    if let Err(error) = written {
                        return self.broken(error.to_string());
                    }
                }
                () = &mut watchdog => match self.overdue() {
                    Ok(next) => watchdog.as_mut().reset(next),
                    Err(end) => return end,
                },
            }
        }
    }

    fn may_encode(&self) -> bool {
        self.replies_owed < PIPELINE_REPLIES_MAX && self.unwritten.len() < UNWRITTEN_BYTES_MAX
    }

    /// Encodes what was taken, as far as there is room.
    fn encode(&mut self) {
        let since = Instant::now();
        while self.may_encode() {
            let Some(request) = self.taken.pop_front() else {
                break;
            };
            // Not sent yet, and nobody waits: sending it would only let a late write land.
            if request.answer.is_abandoned() {
                continue;
            }
            self.unwritten.extend_from_slice(&request.head);
            if let Some(body) = request.body {
                self.unwritten.extend_from_slice(&body);
                self.unwritten.extend_from_slice(wire::LINE_END);
            }
            self.replies_owed += request.answer.expected();
            self.waiting.push_back(Waiting {
                since,
                kind: request.kind,
                answer: request.answer,
            });
        }
        self.unwritten_peak = self.unwritten_peak.max(self.unwritten.len());
    }

    fn deliver(&mut self) -> Result<(), End> {
        loop {
            match self.decoder.decode(&mut self.unread) {
                Ok(None) => return Ok(()),
                Ok(Some(reply)) => self.hand_out(reply)?,
                Err(OutOfStep(what)) => return Err(self.out_of_step(what)),
            }
        }
    }

    fn hand_out(&mut self, reply: Reply) -> Result<(), End> {
        match self.waiting.front_mut() {
            None => return Err(self.out_of_step(format!("reply {} to no request", reply.name()))),
            Some(front) if !reply.answers(front.kind) => {
                let what = format!("reply {} to a {:?} request", reply.name(), front.kind);
                return Err(self.out_of_step(what));
            }
            Some(front) => {
                self.served = true;
                self.replies_owed -= 1;
                if let Answer::Many {
                    replies, expected, ..
                } = &mut front.answer
                    && replies.len() + 1 < *expected
                {
                    replies.push(reply);
                    return Ok(());
                }
            }
        }
        // The last, or only, reply to this request. A requester that went away is not told, and that is all.
        match self.waiting.pop_front().map(|front| front.answer) {
            Some(Answer::One(sender)) => drop(sender.send(Ok(reply))),
            Some(Answer::Many {
                sender,
                mut replies,
                ..
            }) => {
                replies.push(reply);
                drop(sender.send(Ok(replies)));
            }
            None => {}
        }
        Ok(())
    }

    /// When to look again whether the oldest request is overdue; an error when it is.
    fn overdue(&self) -> Result<Instant, End> {
        let now = Instant::now();
        let timeout = self.worker.settings.timeout;
        match self.waiting.front() {
            None => Ok(now + timeout),
            Some(oldest) if oldest.since + timeout > now => Ok(oldest.since + timeout),
            Some(_) => Err(End::Failed {
                error: self.worker.timed_out(),
                restarted: false,
            }),
        }
    }

    fn make_room(&mut self) {
        if self.unread.is_empty() && self.unread.capacity() > IDLE_BUFFER_BYTES_MAX {
            self.unread = BytesMut::with_capacity(READ_BYTES);
        }
        // Its capacity tells only what is left behind what was written.
        if self.unwritten.is_empty() && self.unwritten_peak > IDLE_BUFFER_BYTES_MAX {
            self.unwritten = BytesMut::with_capacity(READ_BYTES);
            self.unwritten_peak = 0;
        }
        if self.unread.capacity() - self.unread.len() < READ_BYTES / 4 {
            self.unread.reserve(READ_BYTES);
        }
    }

    fn broken(&self, cause: String) -> End {
        End::Failed {
            error: self.worker.unreachable(cause),
            restarted: self.served,
        }
    }

    fn out_of_step(&self, what: String) -> End {
        End::Failed {
            error: CacheError::Protocol {
                server: self.worker.server.clone(),
                what,
            },
            restarted: false,
        }
    }
}

#[cfg(test)]
mod tests;
