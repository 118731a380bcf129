//! Clients of Grapevine and of the empty service, on a runtime of one thread that is theirs alone: the caller of a look-up does not
//! also run what else the bench does.

use std::path::Path;

use anyhow::Context;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use tonic::transport::{Channel, Endpoint};

/// Does the work on a thread of its own with a runtime of its own.
pub(super) async fn alone<T, F>(work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    let done = tokio::task::spawn_blocking(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build()?.block_on(work())
    });
    done.await.context("the measuring thread")?
}

/// A connection to a Unix socket, as tonic makes it by default.
pub(super) async fn channel(socket: &Path) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))?;
    let connected = endpoint.connect().await;
    connected.with_context(|| format!("cannot connect to {}", socket.display()))
}

/// A client of the application service.
pub(super) async fn application(
    socket: &Path,
) -> anyhow::Result<ApplicationServiceClient<Channel>> {
    Ok(ApplicationServiceClient::new(channel(socket).await?))
}
