//! What an operator asks of the own sidecar.

use std::time::Duration;

use grapevine_proto::v1;

use crate::channel::Gated;
use crate::client::Client;
use crate::error::CallError;

impl Client {
    /// The sidecar's state and counters.
    pub async fn status(&self) -> Result<v1::StatusResponse, CallError> {
        let mut admin = self.own().admin();
        self.own()
            .call(
                Gated::No,
                self.settings().call_deadline,
                admin.status(v1::StatusRequest {}),
            )
            .await
    }

    /// The members as the sidecar knows them, by node id.
    pub async fn members(&self) -> Result<Vec<v1::Member>, CallError> {
        let mut admin = self.own().admin();
        let deadline = self.settings().call_deadline;
        Ok(self
            .own()
            .call(Gated::No, deadline, admin.members(v1::MembersRequest {}))
            .await?
            .members)
    }

    /// Takes the seat of a member that is gone for good. `alone`: go on without the others if no majority is left, which is
    /// right only if all of them are stopped for good. Tells whether the sidecar goes on alone.
    pub async fn forget(&self, node_id: &str, alone: bool) -> Result<bool, CallError> {
        let mut admin = self.own().admin();
        let request = v1::ForgetRequest {
            node_id: node_id.to_owned(),
            alone,
        };
        let deadline = self.settings().call_deadline;
        let link = self.own();
        let answer = link.call(Gated::No, deadline, admin.forget(request));
        Ok(answer.await?.alone)
    }

    /// Makes the sidecar leave the cluster in order and end; `None` takes its configured bound on open calls. The answer
    /// says that it has begun.
    pub async fn drain(&self, timeout: Option<Duration>) -> Result<(), CallError> {
        // Rounded up: a bound below a millisecond must not become 0, which means the configured one.
        let timeout_ms = timeout.map_or(0, |timeout| {
            u32::try_from(timeout.as_micros().div_ceil(1_000).max(1)).unwrap_or(u32::MAX)
        });
        let mut admin = self.own().admin();
        let request = v1::DrainRequest { timeout_ms };
        self.own()
            .call(
                Gated::No,
                self.settings().call_deadline,
                admin.drain(request),
            )
            .await?;
        Ok(())
    }
}
