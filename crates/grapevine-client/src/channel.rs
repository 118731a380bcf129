//! One sidecar: where it is, the connection to it, and calls with deadlines.
//!
//! A [`Link`] connects at its first call and again after the connection broke. All calls share one HTTP/2 connection. A
//! call ends with its deadline at the latest; what it found out about the sidecar goes to the link's [`Gate`], which
//! decides when the next call may try. A gRPC deadline header is not sent: a sidecar that gave up because its caller
//! did would leave an invalidation half waited for. Every RPC, of whichever call, carries its span
//! ([`crate::trace_context`]).

use std::sync::Arc;
use std::time::Duration;

use grapevine_proto::v1::admin_service_client::AdminServiceClient;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

use crate::error::{CallError, ConfigError};
use crate::gate::Gate;
use crate::trace_context::CurrentSpan;

/// The largest answer that is accepted. A full page of a listing is far below; a look-up of 1,000 slices may come near.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Room for answers under way, so that a large batch does not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// While calls are open, a peer that says nothing for this long is asked whether it is there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a link needs beside its address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkSettings {
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
}

/// A sidecar.
#[derive(Debug)]
pub(crate) struct Link {
    name: Arc<str>,
    channel: Traced,
    gate: Gate,
}

/// A connection whose RPCs carry the span that they are part of.
pub(crate) type Traced = InterceptedService<Channel, CurrentSpan>;

/// Whether a call keeps to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gated {
    /// Fail at once while the gate is closed.
    Yes,
    /// The same; but a missed deadline may be due to what is asked, and does not close it.
    AsWork,
    /// Try for real.
    No,
}

impl Link {
    /// Must be called inside a Tokio runtime.
    pub(crate) fn new(
        value: &str,
        settings: LinkSettings,
        span: &CurrentSpan,
    ) -> Result<Self, ConfigError> {
        let endpoint = parse(value)?
            .connect_timeout(settings.connect_timeout)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        Ok(Self {
            name: value.into(),
            channel: InterceptedService::new(endpoint.connect_lazy(), span.clone()),
            gate: Gate::new(settings.backoff_min, settings.backoff_max),
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn application(&self) -> ApplicationServiceClient<Traced> {
        ApplicationServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Traced> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// Fails while the gate is closed, without asking to be its probe.
    pub(crate) fn check_open(&self) -> Result<(), CallError> {
        match self.gate.closed_for(Instant::now()) {
            None => Ok(()),
            Some(left) => Err(self.left_alone(left)),
        }
    }

    fn left_alone(&self, left: Duration) -> CallError {
        CallError::Unreachable {
            endpoint: Arc::clone(&self.name),
            reason: "it failed a moment ago and is left alone for a while".to_owned(),
            retry_after: Some(left),
        }
    }

    /// Awaits `call` for at most `deadline` and tells the gate how it went.
    pub(crate) async fn call<T>(
        &self,
        gated: Gated,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        if gated != Gated::No {
            self.gate
                .admit(deadline, Instant::now())
                .map_err(|left| self.left_alone(left))?;
        }
        let error = match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => {
                self.answered();
                return Ok(response.into_inner());
            }
            Ok(Err(status)) => CallError::from_status(&self.name, &status),
            Err(_) => CallError::Deadline {
                endpoint: Arc::clone(&self.name),
                deadline,
            },
        };
        let late = matches!(error, CallError::Deadline { .. });
        if !(late && gated == Gated::AsWork && self.gate.is_open()) {
            self.note(&error);
        }
        Err(error)
    }

    /// Tells the gate what a failed call found out.
    pub(crate) fn note(&self, error: &CallError) {
        let closed = match error {
            CallError::Unreachable { .. } => self.gate.failure(Instant::now()),
            CallError::Deadline { .. } => self.gate.slow(Instant::now()),
            // The connection is made anew by the next call; that one finds out whether the sidecar is there.
            CallError::Broken { .. } => false,
            _ => {
                self.answered();
                false
            }
        };
        if closed {
            tracing::warn!(endpoint = %self.name, %error, "the sidecar does not answer: leaving it alone for a while");
        }
    }

    fn answered(&self) {
        if self.gate.success() {
            tracing::info!(endpoint = %self.name, "the sidecar answers again");
        }
    }

    pub(crate) fn bad_answer(&self, what: impl Into<String>) -> CallError {
        CallError::BadAnswer {
            endpoint: Arc::clone(&self.name),
            what: what.into(),
        }
    }
}

/// Reads `unix:/path`, `http://host:port` or `host:port`.
fn parse(value: &str) -> Result<Endpoint, ConfigError> {
    let bad = |problem: &str| ConfigError::BadEndpoint {
        value: value.to_owned(),
        problem: problem.to_owned(),
    };
    if let Some(path) = value.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(bad("the path of a Unix socket must be absolute"));
        }
        return Endpoint::from_shared(format!("unix:{path}"))
            .map_err(|error| bad(&error.to_string()));
    }
    if value.starts_with("https://") {
        return Err(bad(
            "applications talk to sidecars without TLS, over a Unix socket or a trusted network",
        ));
    }
    let url = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("the scheme is not known"));
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    // Behind the last colon of a bare IPv6 address there is no port.
    let port_is_there = !port.is_empty() && !port.ends_with(']');
    if uri.host().is_none_or(str::is_empty) || !port_is_there {
        return Err(bad("the host or the port is missing"));
    }
    if uri.port_u16().is_none() {
        return Err(bad("the port is no number up to 65535"));
    }
    if uri
        .path_and_query()
        .is_some_and(|path| path.as_str() != "/")
    {
        return Err(bad("a path makes no sense here"));
    }
    Ok(Endpoint::from(uri))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn g7_work_that_takes_long_closes_no_open_gate_and_opens_no_closed_one() {
        let settings = LinkSettings {
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_mins(1),
        };
        let link = Link::new("127.0.0.1:1", settings, &CurrentSpan::default()).unwrap();
        let late = async |gated, calls| {
            for _ in 0..calls {
                let silence = std::future::pending::<Result<Response<()>, Status>>();
                let error = link.call(gated, Duration::from_millis(20), silence).await;
                assert!(matches!(error, Err(CallError::Deadline { .. })));
            }
        };
        late(Gated::AsWork, 10).await;
        link.check_open().unwrap();
        late(Gated::Yes, 3).await;
        link.check_open().unwrap_err();
        tokio::time::advance(settings.backoff_min).await;
        // As the probe of a closed gate it says as much as any call.
        late(Gated::AsWork, 1).await;
        link.check_open().unwrap_err();
    }

    #[test]
    fn endpoints_are_read_in_their_forms() {
        for value in [
            "unix:/run/grapevine/app.sock",
            "unix:///run/grapevine/app.sock",
            "http://127.0.0.1:7600",
            "127.0.0.1:7600",
            "sidecar-2.example:7600",
            "[::1]:7600",
        ] {
            parse(value).unwrap();
        }
    }

    #[test]
    fn malformed_endpoints_are_named_with_what_is_wrong() {
        for value in [
            "",
            "unix:",
            "unix:relative.sock",
            "https://127.0.0.1:7600",
            "ftp://127.0.0.1:7600",
            "127.0.0.1",
            "http://127.0.0.1",
            "http://127.0.0.1:7600/path",
            "http://:7600",
            "a b:1",
        ] {
            let error = parse(value).unwrap_err();
            assert!(
                matches!(&error, ConfigError::BadEndpoint { value: named, .. } if named == value),
                "{error}"
            );
        }
        let problem = |value| match parse(value) {
            Err(ConfigError::BadEndpoint { problem, .. }) => problem,
            other => panic!("{value}: {other:?}"),
        };
        for value in ["127.0.0.1:99999", "[::1]:65536", "http://h:99999"] {
            assert_eq!(problem(value), "the port is no number up to 65535");
        }
        for value in ["127.0.0.1", "[::1]", "http://h:"] {
            assert_eq!(problem(value), "the host or the port is missing");
        }
    }
}
