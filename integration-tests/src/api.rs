//! What a test asks of one sidecar: the contract's calls, with the arguments that tests vary and the contract's own answers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_proto::v1;
use grapevine_proto::v1::admin_service_client::AdminServiceClient;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Beyond what any call of a test may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const HOUR_MS: u64 = 3_600_000;

/// One sidecar's application and admin services. Cheap to clone; it connects again after a restart.
#[derive(Clone, Debug)]
pub struct Api {
    /// The application service.
    pub app: ApplicationServiceClient<Channel>,
    /// The admin service.
    pub admin: AdminServiceClient<Channel>,
    /// What both are on.
    pub channel: Channel,
}

impl Api {
    /// The services at an address; connects at the first call.
    pub fn new(address: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .expect("invariant: a socket address is a valid authority")
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .connect_lazy();
        Self {
            app: ApplicationServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Resolves one address of one class.
    pub async fn resolve(&self, address: &str, class: &str) -> Result<v1::Resolution, Status> {
        Ok(self.resolve_in(address, class, None).await?.0)
    }

    /// Resolves one address of one class in a session; tells how fresh the sidecar is, too.
    pub async fn resolve_in(
        &self,
        address: &str,
        class: &str,
        session: Option<v1::Session>,
    ) -> Result<(v1::Resolution, v1::Freshness), Status> {
        let item = v1::ResolveItem {
            address: address.to_owned(),
            classes: vec![class.to_owned()],
            page: None,
        };
        let request = v1::ResolveRequest {
            items: vec![item],
            session,
            snapshot: None,
            local_table: 0,
        };
        let mut answer = self.app.clone().resolve(request).await?.into_inner();
        let freshness = answer.freshness();
        match answer.results.pop() {
            Some(resolution) if answer.results.is_empty() => Ok((resolution, freshness)),
            _ => Err(Status::internal("one look-up has one result")),
        }
    }

    /// The token of a class, and how fresh the sidecar is.
    pub async fn token(&self, class: &str) -> Result<(u64, v1::Freshness), Status> {
        let (resolution, freshness) = self.resolve_in("token", class, None).await?;
        Ok((resolution.token, freshness))
    }

    /// The tokens of many classes, in their order.
    pub async fn tokens(&self, classes: &[String]) -> Result<Vec<u64>, Status> {
        let mut tokens = Vec::with_capacity(classes.len());
        for chunk in classes.chunks(1_000) {
            let items = chunk.iter().map(|class| v1::ResolveItem {
                address: "token".to_owned(),
                classes: vec![class.clone()],
                page: None,
            });
            let request = v1::ResolveRequest {
                items: items.collect(),
                session: None,
                snapshot: None,
                local_table: 0,
            };
            let answer = self.app.clone().resolve(request).await?.into_inner();
            tokens.extend(answer.results.into_iter().map(|result| result.token));
        }
        Ok(tokens)
    }

    /// Invalidates one class, with a receipt and the default deadline.
    pub async fn invalidate(
        &self,
        class: &str,
        receipt: v1::ReceiptLevel,
    ) -> Result<v1::InvalidateResponse, Status> {
        self.invalidate_within(class, receipt, 0).await
    }

    /// Invalidates one class; `timeout_ms` bounds the wait for the receipt.
    pub async fn invalidate_within(
        &self,
        class: &str,
        receipt: v1::ReceiptLevel,
        timeout_ms: u32,
    ) -> Result<v1::InvalidateResponse, Status> {
        let request = v1::InvalidateRequest {
            classes: vec![class.to_owned()],
            receipt: receipt.into(),
            timeout_ms,
            ..Default::default()
        };
        Ok(self.app.clone().invalidate(request).await?.into_inner())
    }

    /// Begins a write of one class.
    pub async fn begin_write(
        &self,
        class: &str,
        lease_ms: u32,
    ) -> Result<v1::BeginWriteResponse, Status> {
        let request = v1::BeginWriteRequest {
            classes: vec![class.to_owned()],
            lease_ms,
            ..Default::default()
        };
        Ok(self.app.clone().begin_write(request).await?.into_inner())
    }

    /// Commits a write of one class.
    pub async fn commit_write(
        &self,
        begun: &v1::BeginWriteResponse,
        class: &str,
    ) -> Result<v1::InvalidateResponse, Status> {
        let request = v1::CommitWriteRequest {
            intent: begun.intent.clone(),
            rows: None,
            invalidation: Some(v1::InvalidateRequest {
                classes: vec![class.to_owned()],
                ..Default::default()
            }),
        };
        let answer = self.app.clone().commit_write(request).await?.into_inner();
        Ok(answer.outcome.unwrap_or_default())
    }

    /// Aborts a write.
    pub async fn abort_write(
        &self,
        begun: &v1::BeginWriteResponse,
    ) -> Result<v1::AbortWriteResponse, Status> {
        let intent = begun.intent.clone();
        let request = v1::AbortWriteRequest { intent };
        Ok(self.app.clone().abort_write(request).await?.into_inner())
    }

    /// Registers addresses of one class for an hour, without leases.
    pub async fn register(
        &self,
        class: &str,
        addresses: impl IntoIterator<Item = String>,
    ) -> Result<v1::RegisterResponse, Status> {
        let registrations = addresses.into_iter().map(|address| v1::Registration {
            address,
            classes: vec![class.to_owned()],
            ttl_ms: HOUR_MS,
            ..Default::default()
        });
        let request = v1::RegisterRequest {
            registrations: registrations.collect(),
        };
        Ok(self.app.clone().register(request).await?.into_inner())
    }

    /// Asks whether a value of one class may be stored at `address`.
    pub async fn commit(
        &self,
        address: &str,
        class: &str,
        resolution: &v1::Resolution,
    ) -> Result<v1::FillVerdict, Status> {
        let fill = v1::Fill {
            address: address.to_owned(),
            classes: vec![class.to_owned()],
            lease: resolution.lease.clone(),
            ..Default::default()
        };
        let request = v1::CommitFillRequest { fills: vec![fill] };
        let mut answer = self.app.clone().commit_fill(request).await?.into_inner();
        answer
            .verdicts
            .pop()
            .ok_or_else(|| Status::internal("one fill has one verdict"))
    }

    /// Every address registered at and below a class, as listed.
    pub async fn addresses(&self, class: &str) -> Result<Vec<v1::AddressEntry>, Status> {
        let request = v1::ListAddressesRequest {
            class: class.to_owned(),
            ..Default::default()
        };
        let mut chunks = self.app.clone().list_addresses(request).await?.into_inner();
        let mut entries = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            entries.extend(chunk.entries);
        }
        Ok(entries)
    }

    /// Starts a watch and takes its first message.
    pub async fn watch(&self, classes: &[&str]) -> Result<Streaming<v1::WatchResponse>> {
        let request = v1::WatchRequest {
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
        };
        let mut stream = self.app.clone().watch(request).await?.into_inner();
        let first = stream.message().await?.and_then(|message| message.kind);
        ensure!(
            matches!(first, Some(v1::watch_response::Kind::Started(_))),
            "a watch began with {first:?}"
        );
        Ok(stream)
    }

    /// The sidecar's state.
    pub async fn status(&self) -> Result<v1::StatusResponse, Status> {
        let request = v1::StatusRequest {};
        Ok(self.admin.clone().status(request).await?.into_inner())
    }

    /// One of its counters; zero when it has none of that name.
    pub async fn counter(&self, name: &str) -> Result<u64, Status> {
        Ok(self
            .status()
            .await?
            .counters
            .get(name)
            .copied()
            .unwrap_or_default())
    }

    /// The members as it knows them.
    pub async fn members(&self) -> Result<Vec<v1::Member>, Status> {
        let request = v1::MembersRequest {};
        Ok(self
            .admin
            .clone()
            .members(request)
            .await?
            .into_inner()
            .members)
    }
}
