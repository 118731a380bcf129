//! The way to a fill where policy says `fill = "one"`: whoever would fill asks for its turn first (see [`crate::turn`]), and
//! looks into the cache again before it does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{FlightLead, FlightResult, Look, Right, Settled, Unit};
use crate::cached::CachedClient;
use crate::error::CallError;
use crate::fill::Fill;
use crate::outcome::How;
use crate::turn::{FillHold, FillTurn};

/// How long a caller waits for others to fill, before it does so itself: longer than most sources take, and than a turn
/// whose caller died without a trace is open.
const TURN_WAIT_MAX: Duration = Duration::from_mins(1);
/// How long the sidecar is asked to wait at a time. One that was stopped says nothing when that is over, and is found out; it
/// costs one that is well a question a second for each process and value that wait.
const TURN_ASK_MAX: Duration = Duration::from_secs(1);
/// So often a caller is told that the value is there, does not find it, and asks again; then it fills for itself.
const DISAPPOINTED_MAX: u32 = 2;

impl CachedClient {
    /// Asks for the turn to fill, and fills if it has it, or if nobody can tell whose it is.
    pub(super) async fn elected<E, F, Fut>(
        &self,
        unit: &Unit<'_>,
        mut lead: FlightLead<'_>,
        fill: &mut Option<F>,
    ) -> Result<Settled, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        let counters = &self.shared().counters;
        let (address, token) = (&unit.key.target, unit.key.token);
        let until = Instant::now() + TURN_WAIT_MAX;
        let mut disappointed = 0;
        let right = loop {
            let left = until.saturating_duration_since(Instant::now());
            let client = &self.shared().client;
            let (asked, wait) = (Instant::now(), left.min(TURN_ASK_MAX));
            let hold = match client.acquire_fill(address, token, wait).await {
                Ok(FillTurn::Won(hold)) => Some(hold),
                Ok(FillTurn::Filled) => None,
                // It has waited for as long as it was asked to.
                Ok(FillTurn::Retry { .. }) if wait < left && asked.elapsed() >= wait => continue,
                Ok(FillTurn::Retry { after }) if after < left => {
                    tokio::time::sleep(after).await;
                    continue;
                }
                Ok(FillTurn::Retry { .. }) => break Right::Unelected,
                Err(error) => {
                    counters.turn_failures.increment();
                    tracing::debug!(address, %error, "nobody tells whose turn it is to fill");
                    break match error {
                        CallError::Deadline { .. } => Right::None,
                        _ => Right::Unelected,
                    };
                }
            };
            // Also the winner looks: somebody may have stored it after this caller had looked.
            let found = self.read_cache(address).await;
            match self.judge(unit, found).await {
                Look::Hit(value) => {
                    lead.publish(FlightResult::Value(value.clone()));
                    if let Some(hold) = hold {
                        self.finish_turn(hold, true).await;
                    }
                    counters.turn_waits.increment();
                    return Ok(Settled::Done {
                        value,
                        how: How::Waited,
                        stored: false,
                    });
                }
                Look::Bypass(reason) => return Ok(Settled::Bypass(reason)),
                Look::Miss => match hold {
                    Some(hold) => break Right::Elected(hold),
                    None => disappointed += 1,
                },
            }
            if disappointed > DISAPPOINTED_MAX {
                break Right::Unelected;
            }
        };
        self.fill(unit, Some(lead), right, fill).await
    }

    pub(super) async fn finish_turn(&self, hold: FillHold, stored: bool) {
        if let Err(error) = hold.finish(stored).await {
            // The sidecar takes the end of the stream for it.
            tracing::debug!(%error, "the end of a turn to fill was not heard");
        }
    }
}
