//! Natural batching: concurrent small calls travel together, and a lone one waits for nobody.
//!
//! A caller puts its item into a queue. When few RPCs are in flight, one more leaves at once with all that is queued (up
//! to a limit); when enough are, items gather until one of them returns. So the batch size follows the load by itself:
//! one caller gets an RPC of its own, sixty-four busy ones share a handful, and there is no timer to tune.
//!
//! The queue is bounded; when it is full a caller is told so at once. Items whose callers have gone are dropped unsent.
//! When the sidecar refuses a whole batch as invalid, the item that the field violation names gets the refusal and the
//! others are told to try again, alone when nothing is named: one caller's mistake is not the others' failure.
//!
//! A batch is part of one trace: of the first of its callers whose trace is sampled, and if none is, of the first that has any.
//!
//! A batch is bounded in bytes as well as in items, below what every sidecar takes. Where it is still too much for one
//! message (answers can be long, and sidecars have limits of their own), its callers are told to come again in batches of at
//! most half of it: what is too much by itself is alone in the end, and fails alone.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Code;

use crate::error::{CallError, InvalidRequest};
use crate::trace_context::{TraceContext, done_for, of_this_call};

/// After so many spoiled batches an item goes alone.
const SPOILED_BATCHES_MAX: u32 = 2;
/// The longest batch, in bytes: half of the least `message_bytes_max` that a sidecar can be given, which is 1 MiB.
pub(crate) const BATCH_BYTES_MAX: usize = 512 << 10;

/// An RPC that takes many items and answers each of them.
pub(crate) trait BatchCall: Send + Sync + 'static {
    /// One caller's part of the request.
    type Item: Send + 'static;
    /// One caller's part of the answer.
    type Answer: Send + 'static;
    /// The request's repeated field, as violations name it.
    const FIELD: &'static str;

    /// What an item takes in the request, in bytes; rather too much than too little.
    fn bytes(item: &Self::Item) -> usize;

    /// Sends a batch; answers as many as there were items, in order.
    fn send(
        &self,
        items: Vec<Self::Item>,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, CallError>> + Send;
}

/// Why an item of a batch has no answer.
#[derive(Debug, Clone)]
pub(crate) enum BatchError {
    /// The queue is full.
    QueueFull { limit: usize },
    /// Another item spoiled the batch: try again, in a call of its own if `alone`.
    Again { alone: bool },
    /// The batch was too much for one message: try again with at most so many items in it.
    Smaller { items: usize },
    /// The RPC failed.
    Call(CallError),
}

/// The most of each that a [`Batcher`] takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Items that may wait.
    pub(crate) queue: usize,
    /// Items in one RPC.
    pub(crate) batch: usize,
    /// RPCs at a time.
    pub(crate) in_flight: usize,
}

/// Gathers items and sends them; clones share the queue.
pub(crate) struct Batcher<C: BatchCall> {
    shared: Arc<Shared<C>>,
}

struct Shared<C: BatchCall> {
    call: C,
    limits: BatchLimits,
    state: Mutex<State<C>>,
}

struct State<C: BatchCall> {
    queue: VecDeque<Waiting<C>>,
    in_flight: usize,
}

struct Waiting<C: BatchCall> {
    item: C::Item,
    /// The most items in its batch.
    batch: usize,
    /// Of its caller's call.
    span: Option<TraceContext>,
    answer: oneshot::Sender<Result<C::Answer, BatchError>>,
}

impl<C: BatchCall> Batcher<C> {
    pub(crate) fn new(call: C, limits: BatchLimits) -> Self {
        let state = State {
            queue: VecDeque::new(),
            in_flight: 0,
        };
        Self {
            shared: Arc::new(Shared {
                call,
                limits,
                state: Mutex::new(state),
            }),
        }
    }

    /// Sends what `item` makes, and again where another item spoiled the batch or the connection broke on the way: what is
    /// batched may be repeated without harm.
    pub(crate) async fn send_with(
        &self,
        item: impl Fn() -> C::Item,
    ) -> Result<C::Answer, BatchError> {
        let (mut spoiled, mut broken) = (0, false);
        let mut batch = self.shared.limits.batch;
        loop {
            match self.send(item(), batch).await {
                // Never more than half of it: this ends.
                Err(BatchError::Smaller { items }) => batch = items,
                Err(BatchError::Again { alone: false }) if spoiled < SPOILED_BATCHES_MAX => {
                    spoiled += 1;
                }
                Err(BatchError::Again { .. }) => return self.send_alone(item()).await,
                Err(BatchError::Call(CallError::Broken { .. })) if !broken => broken = true,
                settled => return settled,
            }
        }
    }

    async fn send_alone(&self, item: C::Item) -> Result<C::Answer, BatchError> {
        let mut answers = self
            .shared
            .call
            .send(vec![item])
            .await
            .map_err(BatchError::Call)?;
        Ok(answers.pop().expect("invariant: as many answers as items"))
    }

    /// Sends one item, with others where there are any, at most `batch` in all. The caller brings the deadline; dropping the
    /// future is fine.
    pub(crate) async fn send(&self, item: C::Item, batch: usize) -> Result<C::Answer, BatchError> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            item,
            batch,
            span: of_this_call(),
            answer,
        };
        self.enqueue(waiting)?;
        // The sender is lost only when the sending task is: on a panic, or when the runtime shuts down.
        answered
            .await
            .unwrap_or(Err(BatchError::Again { alone: true }))
    }

    fn enqueue(&self, waiting: Waiting<C>) -> Result<(), BatchError> {
        let Shared { limits, state, .. } = &*self.shared;
        let mut state = state.lock();
        if state.queue.len() >= limits.queue {
            state.queue.retain(|waiting| !waiting.answer.is_closed());
        }
        if state.queue.len() >= limits.queue {
            let limit = limits.queue;
            return Err(BatchError::QueueFull { limit });
        }
        state.queue.push_back(waiting);
        if state.in_flight < limits.in_flight {
            state.in_flight += 1;
            let slot = Slot {
                shared: Arc::clone(&self.shared),
                held: true,
            };
            drop(state);
            tokio::spawn(slot.run());
        }
        Ok(())
    }
}

/// The right to have one RPC in flight.
struct Slot<C: BatchCall> {
    shared: Arc<Shared<C>>,
    held: bool,
}

impl<C: BatchCall> Slot<C> {
    async fn run(mut self) {
        // Lets callers that are ready to run now put their items in as well; costs nothing when there are none.
        tokio::task::yield_now().await;
        loop {
            let batch = self.take_batch();
            if batch.is_empty() {
                return;
            }
            let span = span_of(&batch);
            let (items, answers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|waiting| (waiting.item, waiting.answer))
                .unzip();
            match done_for(span, self.shared.call.send(items)).await {
                Ok(results) => {
                    for (answer, result) in answers.into_iter().zip(results) {
                        // A caller that has gone needs no answer.
                        let _ = answer.send(Ok(result));
                    }
                }
                Err(error) => refuse::<C>(answers, &error),
            }
        }
    }

    /// What to send next. Nothing left: the slot is given back under the same lock, so that no item can slip in between.
    fn take_batch(&mut self) -> Vec<Waiting<C>> {
        let Shared { limits, state, .. } = &*self.shared;
        let mut state = state.lock();
        let mut batch = Vec::with_capacity(state.queue.len().min(limits.batch));
        let (mut room, mut bytes) = (limits.batch, 0);
        while batch.len() < room
            && let Some(waiting) = state.queue.pop_front()
        {
            if waiting.answer.is_closed() {
                continue;
            }
            bytes += C::bytes(&waiting.item);
            let fits = bytes <= BATCH_BYTES_MAX && batch.len() < waiting.batch;
            if !fits && !batch.is_empty() {
                state.queue.push_front(waiting);
                break;
            }
            room = room.min(waiting.batch);
            batch.push(waiting);
        }
        if batch.is_empty() {
            state.in_flight -= 1;
            self.held = false;
        }
        batch
    }
}

impl<C: BatchCall> Drop for Slot<C> {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        // The call panicked or the runtime is ending. If nobody else would send what waits, its callers are told.
        let mut state = self.shared.state.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.queue.clear();
        }
    }
}

/// Whose span a batch is part of.
fn span_of<C: BatchCall>(batch: &[Waiting<C>]) -> Option<TraceContext> {
    let spans = || batch.iter().filter_map(|waiting| waiting.span.as_ref());
    let sampled = spans().find(|span| span.is_sampled());
    sampled.or_else(|| spans().next()).cloned()
}

fn refuse<C: BatchCall>(
    answers: Vec<oneshot::Sender<Result<C::Answer, BatchError>>>,
    error: &CallError,
) {
    let items = answers.len();
    let smaller = BatchError::Smaller { items: items / 2 };
    let (named, others) = match error {
        _ if items == 1 => (Vec::new(), BatchError::Call(error.clone())),
        error if is_too_much(error, C::FIELD) => (Vec::new(), smaller),
        CallError::Invalid(invalid) => {
            let named = split_by_item::<C>(invalid);
            let alone = named.is_empty();
            (named, BatchError::Again { alone })
        }
        error => (Vec::new(), BatchError::Call(error.clone())),
    };
    for (index, answer) in answers.into_iter().enumerate() {
        let verdict = match named.iter().find(|(item, _)| *item == index) {
            Some((_, own)) => BatchError::Call(CallError::Invalid(own.clone())),
            None => others.clone(),
        };
        let _ = answer.send(Err(verdict));
    }
}

/// Whether the request, or the answer to it, was too much for one message: `OUT_OF_RANGE` is what gRPC for Rust says of a
/// message above a limit of either side, `RESOURCE_EXHAUSTED` what gRPC for other languages says. A sidecar that is full for
/// the moment says when to come again, and a refusal of all items together names the field without a position.
pub(crate) fn is_too_much(error: &CallError, field: &str) -> bool {
    match error {
        CallError::Refused { code, .. } => *code == Code::OutOfRange,
        CallError::Overloaded { retry_after, .. } => retry_after.is_none(),
        CallError::Invalid(invalid) => invalid
            .violations
            .iter()
            .any(|violation| violation.field == field),
        _ => false,
    }
}

/// The violations by the item they name, with field paths as if the item had been the only one.
fn split_by_item<C: BatchCall>(invalid: &InvalidRequest) -> Vec<(usize, InvalidRequest)> {
    let mut named: Vec<(usize, InvalidRequest)> = Vec::new();
    for violation in &invalid.violations {
        let Some((index, rest)) = item_of(C::FIELD, &violation.field) else {
            continue;
        };
        let mut own = violation.clone();
        own.field = format!("{}[0]{rest}", C::FIELD);
        match named.iter_mut().find(|(item, _)| *item == index) {
            Some((_, request)) => request.violations.push(own),
            None => named.push((
                index,
                InvalidRequest {
                    message: invalid.message.clone(),
                    violations: vec![own],
                },
            )),
        }
    }
    named
}

/// Reads `items[3].address` as 3 and `.address`.
pub(crate) fn item_of<'a>(field: &str, path: &'a str) -> Option<(usize, &'a str)> {
    let (index, rest) = path
        .strip_prefix(field)?
        .strip_prefix('[')?
        .split_once(']')?;
    Some((index.parse().ok()?, rest))
}

#[cfg(test)]
mod tests;
