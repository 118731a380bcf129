//! The stream that keeps a table in step with its sidecar: opened again when it ends, for as long as the client lives.
//!
//! What a message tells is counted before the lease in it is set, and acknowledged behind that. However the stream ends, the table
//! is emptied at once. What the client has to say waits for room without holding anything else up: a later position stands for those
//! before, so there is one message to say at most. Neither many notices nor a sidecar that does not read keep leases or a release back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use grapevine_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Table, clock};
use crate::channel::{Gated, Link};
use crate::error::CallError;
use crate::gate::pause;
use crate::stats::ClientCounters;

/// How long opening a stream may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Pauses before another stream is opened.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// When a sidecar that gives no lease is asked again.
const NO_LEASE_AGAIN: Duration = Duration::from_millis(100);
/// When one that does not answer is asked again.
const SILENCE_AGAIN: Duration = Duration::from_secs(1);
/// The shortest time between two requests.
const AGAIN_MIN: Duration = Duration::from_millis(2);
/// Requests that may still be answered; of those before, an answer counts for nothing.
const ASKED_MAX: usize = 8;
/// How long the sidecar may take to end a stream whose table was released.
const RELEASE_WAIT: Duration = Duration::from_millis(250);
/// Messages on their way out.
const OUT: usize = 1;

pub(super) struct Stream {
    pub(super) table: Arc<Table>,
    pub(super) link: Arc<Link>,
    pub(super) counters: Arc<ClientCounters>,
}

/// One stream that is open.
struct Open {
    words: mpsc::Sender<v1::LocalTableStreamRequest>,
    told: Streaming<v1::LocalTableStreamResponse>,
    talk: Talk,
}

/// What is to be said, and what was asked.
struct Talk {
    /// The position to be acknowledged; 0 for none.
    acknowledges: u64,
    /// Requests, and when they were sent.
    asked: VecDeque<(u64, u64)>,
    requests: u64,
    /// When a lease is to be asked for.
    ask_at: Instant,
}

/// The notices of a message are counted: only then may its lease be taken, and its position be acknowledged.
struct Counted {
    /// 0 for none.
    position: u64,
}

/// Whether the last thing that ended a table, or kept it from being there, was a refusal.
#[derive(Debug, Default)]
struct Refusals {
    last: bool,
}

impl Refusals {
    /// Whether this is to be told: the first of refusals in a row. Whoever cannot be reached is told of elsewhere, and comes back.
    fn is_news(&mut self, error: &CallError) -> bool {
        let refused = matches!(
            error,
            CallError::Overloaded { .. } | CallError::Refused { .. }
        );
        let before = std::mem::replace(&mut self.last, refused);
        refused && !before
    }
}

impl Stream {
    /// Runs until the client is gone.
    pub(super) async fn run(self, mut ended: oneshot::Receiver<()>) {
        let (mut failures, mut refusals) = (0, Refusals::default());
        loop {
            let open = tokio::select! {
                _ = &mut ended => return,
                open = self.open() => open,
            };
            let closing = match open {
                Ok(open) => {
                    failures = 0;
                    self.keep(open, &mut ended).await
                }
                Err(error) => Some(error),
            };
            if let Some(error) = &closing {
                self.tell_of(error, &mut refusals);
            }
            self.table.empty();
            if closing.is_none() {
                return;
            }
            let pause = pause(PAUSE_MIN, PAUSE_MAX, failures);
            failures = failures.saturating_add(1);
            tokio::select! {
                _ = &mut ended => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Says why there is no table, where somebody has to do something about it.
    fn tell_of(&self, error: &CallError, refusals: &mut Refusals) {
        let endpoint = self.link.name();
        if refusals.is_news(error) {
            tracing::warn!(%endpoint, %error, "the sidecar refuses a local table: each look-up is a call until it does not");
        } else {
            tracing::debug!(%endpoint, %error, "no local table");
        }
    }

    async fn open(&self) -> Result<Open, CallError> {
        let (words, out) = mpsc::channel(OUT);
        let mut application = self.link.application();
        let call = application.local_table_stream(ReceiverStream::new(out));
        let told = self.link.call(Gated::No, OPEN_DEADLINE, call).await?;
        self.counters.local_streams.increment();
        Ok(Open {
            words,
            told,
            talk: Talk {
                acknowledges: 0,
                asked: VecDeque::new(),
                requests: 0,
                ask_at: Instant::now(),
            },
        })
    }

    /// Keeps the table in step until the stream ends, which it tells the reason of, or the client is gone.
    async fn keep(&self, mut open: Open, ended: &mut oneshot::Receiver<()>) -> Option<CallError> {
        loop {
            let due = open.talk.is_due();
            tokio::select! {
                message = open.told.message() => match message {
                    Ok(Some(message)) if message.closing => {
                        // The sidecar drains, and is not to be kept waiting.
                        self.release(open).await;
                        return Some(self.over("the sidecar drains"));
                    }
                    Ok(Some(message)) => {
                        if let Err(error) = self.hear(&mut open.talk, message) {
                            return Some(error);
                        }
                    }
                    Ok(None) => return Some(self.over("the sidecar ended the stream")),
                    Err(status) => {
                        let error = CallError::from_status(self.link.name(), &status);
                        tracing::debug!(endpoint = %self.link.name(), %error, "a local table lost its stream");
                        return Some(error);
                    }
                },
                _ = &mut *ended => {
                    self.release(open).await;
                    return None;
                }
                room = has_room(&open.words), if due => {
                    // Nobody else sends, so there still is.
                    if !room || open.words.try_send(open.talk.say()).is_err() {
                        return Some(self.over("the stream takes no words"));
                    }
                }
                () = tokio::time::sleep_until(open.talk.ask_at), if !due => {}
            }
        }
    }

    fn over(&self, why: &str) -> CallError {
        CallError::Broken {
            endpoint: Arc::clone(self.link.name()),
            code: tonic::Code::Unavailable,
            message: why.to_owned(),
        }
    }

    /// Takes a message: what changed, and only then a lease.
    fn hear(
        &self,
        talk: &mut Talk,
        message: v1::LocalTableStreamResponse,
    ) -> Result<(), CallError> {
        let lease = message.lease;
        let counted = self.count(message)?;
        if let Some(lease) = lease {
            self.take_lease(talk, lease, &counted);
        }
        if counted.position > 0 {
            talk.acknowledges = counted.position;
        }
        Ok(())
    }

    /// Counts what has changed.
    fn count(&self, message: v1::LocalTableStreamResponse) -> Result<Counted, CallError> {
        let table = &self.table;
        if let Some(opened) = message.opened {
            if opened.local_table == 0 {
                return Err(self.over("a local table without a name"));
            }
            table.opened(opened.incarnation, opened.local_table, opened.position);
        }
        if message.everything {
            table.changes.note_everything();
        }
        for class in &message.classes {
            table.changes.note(class);
        }
        let position = message.position;
        if position > 0 {
            table.told(position);
            self.counters.local_notices.increment();
        }
        Ok(Counted { position })
    }

    /// A lease counts from its request.
    fn take_lease(&self, talk: &mut Talk, lease: v1::LocalTableLease, _behind: &Counted) {
        let Some(at) = talk
            .asked
            .iter()
            .position(|(asked, _)| *asked == lease.request)
        else {
            return;
        };
        let sent = talk
            .asked
            .drain(..=at)
            .next_back()
            .map_or(0, |(_, sent)| sent);
        let again = if lease.duration_us == 0 {
            NO_LEASE_AGAIN
        } else {
            let nanos = lease.duration_us.saturating_mul(1_000);
            let ends = sent.saturating_add(nanos);
            self.table.lease_ends.fetch_max(ends, Ordering::AcqRel);
            self.counters.local_leases.increment();
            Duration::from_micros(lease.duration_us / 4)
        };
        talk.ask_at = Instant::now() + again.max(AGAIN_MIN);
    }

    /// Gives the lease up, and says so: nobody waits for this table then.
    async fn release(&self, mut open: Open) {
        self.table.empty();
        let released = v1::LocalTableStreamRequest {
            released: true,
            ..Default::default()
        };
        let told = async {
            if open.words.send(released).await.is_ok() {
                while let Ok(Some(_)) = open.told.message().await {}
            }
        };
        let _ = tokio::time::timeout(RELEASE_WAIT, told).await;
    }
}

/// Waits for room; there will be none if the stream is over.
async fn has_room(words: &mpsc::Sender<v1::LocalTableStreamRequest>) -> bool {
    words.reserve().await.is_ok()
}

impl Talk {
    /// Whether there is something to say now.
    fn is_due(&self) -> bool {
        self.acknowledges > 0 || self.ask_at <= Instant::now()
    }

    /// What is to be said. The moment of a request is taken before it is sent.
    fn say(&mut self) -> v1::LocalTableStreamRequest {
        let mut word = v1::LocalTableStreamRequest {
            acknowledged: std::mem::take(&mut self.acknowledges),
            ..Default::default()
        };
        if self.ask_at <= Instant::now() {
            self.requests += 1;
            word.lease_request = self.requests;
            if self.asked.len() >= ASKED_MAX {
                self.asked.pop_front();
            }
            self.asked.push_back((self.requests, clock::now()));
            self.ask_at = Instant::now() + SILENCE_AGAIN;
        }
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_a_row_are_told_once() {
        let (endpoint, message) = (Arc::from("a"), String::from("m"));
        let full = CallError::Overloaded {
            endpoint: Arc::clone(&endpoint),
            message,
            retry_after: None,
        };
        let silent = CallError::Deadline {
            endpoint,
            deadline: OPEN_DEADLINE,
        };
        let mut refusals = Refusals::default();
        let told = [&silent, &full, &full, &full, &silent, &full];
        let told = told.map(|error| refusals.is_news(error));
        assert_eq!(told, [false, true, false, false, false, true]);
    }
}
