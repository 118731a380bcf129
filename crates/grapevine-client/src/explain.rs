//! What statements of SQL depend on or change.

use grapevine_proto::v1;

use crate::channel::Gated;
use crate::client::Client;
use crate::error::CallError;

impl Client {
    /// Tells which rows a statement of SQL depends on or changes, as far as its text tells: for a read, the classes to cache
    /// its answer under. The sidecar takes about a millisecond for it, some hundredths of a second for the largest statements.
    pub async fn explain(
        &self,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, CallError> {
        let link = self.own();
        let mut application = link.application();
        let call = application.explain(request);
        link.call(Gated::AsWork, self.settings().call_deadline, call)
            .await
    }
}
