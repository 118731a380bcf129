//! Turns to fill: where policy says `fill = "one"`, the caller of this process that would fill a value (there is one at a
//! time, see [`crate::single_flight`]) asks the sidecar first, so that one caller in the cluster reads the source.
//!
//! No safety rests on a turn. Whatever goes wrong with asking for one, the caller fills all the same, as it would under
//! `fill = "any"`; tokens fence what it stores.

use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tonic::{Response, Streaming};

use crate::channel::Gated;
use crate::client::Client;
use crate::error::CallError;

/// How long the sidecar may take to hear that a turn is over.
const FINISH_DEADLINE: Duration = Duration::from_secs(1);

/// What asking for a turn came to.
#[derive(Debug)]
pub enum FillTurn {
    /// It is the caller's.
    Won(FillHold),
    /// Another caller has stored the value: read the cache again.
    Filled,
    /// It is another caller's still, or too many wait.
    Retry {
        /// When to ask again.
        after: Duration,
    },
}

/// A turn to fill. Dropped without [`FillHold::finish`], it goes to the next caller: at once if this process lives or its
/// connection breaks, else when the sidecar notices.
#[derive(Debug)]
pub struct FillHold {
    client: Client,
    fill: Bytes,
    /// The sidecar takes its end for the end of the turn.
    _open: Box<Streaming<v1::AcquireFillResponse>>,
}

impl FillHold {
    /// What to give to [`Client::commit_fill`] as `fill`; empty when the sidecar had no room to have one winner.
    pub fn fill(&self) -> &Bytes {
        &self.fill
    }

    /// Says that the turn is over, and whether the value is in the cache; those who wait are told.
    pub async fn finish(self, stored: bool) -> Result<(), CallError> {
        if self.fill.is_empty() {
            return Ok(());
        }
        let link = self.client.own();
        let mut application = link.application();
        let request = v1::FinishFillRequest {
            fill: self.fill.clone(),
            stored,
        };
        let call = application.finish_fill(request);
        link.call(Gated::Yes, FINISH_DEADLINE, call).await?;
        Ok(())
    }
}

impl Client {
    /// Asks for the turn to fill the value at a cache address under a token, both as resolve gave them, and waits for it
    /// for at most `wait`, which may be up to a minute. A sidecar that says nothing within `wait` and the client's
    /// `turn_deadline` is [`CallError::Deadline`].
    pub async fn acquire_fill(
        &self,
        address: &str,
        token: u64,
        wait: Duration,
    ) -> Result<FillTurn, CallError> {
        let link = self.own();
        let mut application = link.application();
        let request = v1::AcquireFillRequest {
            address: address.to_owned(),
            token,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let deadline = wait + self.settings().turn_deadline;
        // The headers alone are no answer: one deadline is for both.
        let call = async {
            let mut open = application.acquire_fill(request).await?.into_inner();
            let first = open.message().await?;
            Ok(Response::new((open, first)))
        };
        let (open, first) = link.call(Gated::Yes, deadline, call).await?;
        let answer = first.ok_or_else(|| link.bad_answer("no word of whose turn it is"))?;
        match answer.turn() {
            v1::FillTurn::Won => Ok(FillTurn::Won(FillHold {
                client: self.clone(),
                fill: answer.fill,
                _open: Box::new(open),
            })),
            v1::FillTurn::Filled => Ok(FillTurn::Filled),
            v1::FillTurn::Retry => Ok(FillTurn::Retry {
                after: Duration::from_millis(answer.retry_after_ms.into()),
            }),
            v1::FillTurn::Unspecified => {
                Err(link.bad_answer(format!("{} is nobody's turn", answer.turn)))
            }
        }
    }
}
