//! What readers of indices call.

use std::time::Duration;

use grapevine_core::machine::effects::{LeafAnswer, Reply};
use grapevine_proto::v1;
use tonic::Status;

use super::application::Application;
use super::writes::mistaken;
use crate::engine::Call;
use crate::wire::{self, app, status};

/// How long a call may take that needs no disk: the loop is behind, then.
const LOOP_WAIT: Duration = Duration::from_secs(5);

impl Application {
    pub(super) async fn read_leaf(
        &self,
        request: v1::IndexReadRequest,
        carried: &app::Session,
    ) -> Result<v1::IndexReadResponse, Status> {
        let (query, session) = app::index_read(&request)?;
        self.await_session(session.and(carried)?).await?;
        let now = self.engine.clock.now();
        let (answer, freshness) = {
            let core = self.engine.core.read();
            let answer = if app::index_is_shared(&request) {
                LeafAnswer::Bypass
            } else {
                core.read_leaf(&query, now)
            };
            (answer, core.freshness(now))
        };
        let (wanted, known) = match &answer {
            LeafAnswer::Found { refill, found, .. } => (refill.clone(), found.whole),
            LeafAnswer::Absent(absent) => (absent.clone(), false),
            LeafAnswer::Bypass => (Vec::new(), false),
        };
        let mut response = app::index_found(answer);
        let (state, reason) = wire::freshness(freshness);
        (response.freshness, response.freshness_reason) = (state.into(), reason);
        // Side by side: one turn of the loop gives all of them.
        let turns = wanted.into_iter().map(async |number| {
            let call = Call::LoadLeaf(query.leaves[number].clone());
            (number, self.engine.call(call, None, LOOP_WAIT).await)
        });
        for (number, answer) in futures::future::join_all(turns).await {
            match answer.map(|answer| answer.reply) {
                Ok(Reply::LeafTurn(turn)) => response.turns.push(app::index_turn(number, turn)),
                Ok(_) => return Err(mistaken("a read of an index")),
                // The page is as good without the right to load what lies behind it, and other rights are not lost with one.
                Err(_) if known || !response.turns.is_empty() => {}
                Err(busy) => return Err(busy),
            }
        }
        Ok(response)
    }

    pub(super) async fn fill_leaf(
        &self,
        request: &v1::IndexFillRequest,
    ) -> Result<v1::IndexFillResponse, Status> {
        let call = Call::FillLeaf(app::index_fill(request)?);
        match self.engine.call(call, None, LOOP_WAIT).await?.reply {
            Reply::LeafFilled(outcome) => Ok(app::index_filled(outcome)),
            Reply::Refused(refusal) => Err(status::refusal(&refusal)),
            _ => Err(mistaken("a fill of an index")),
        }
    }

    pub(super) async fn prune_leaf(
        &self,
        request: &v1::IndexPruneRequest,
    ) -> Result<v1::IndexPruneResponse, Status> {
        let call = Call::PruneLeaf(app::index_prune(request)?);
        match self.engine.call(call, None, LOOP_WAIT).await?.reply {
            Reply::Pruned(removed) => Ok(v1::IndexPruneResponse {
                removed: u32::try_from(removed).unwrap_or(u32::MAX),
            }),
            _ => Err(mistaken("a prune of an index")),
        }
    }
}
