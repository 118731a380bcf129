//! Registrations of addresses that other programs fill.

use grapevine_proto::v1;
use rand::Rng as _;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt as _};

use crate::channel::Gated;
use crate::client::{Client, check_count};
use crate::error::CallError;
use crate::session::Session;

/// The most registrations in one call, and in one batch of a stream.
pub const REGISTER_MAX: usize = 10_000;

impl Client {
    /// Registers 1 to 10,000 addresses, together below the sidecar's `message_bytes_max`; durable when it answers.
    /// `condemned` lists the positions of those that a bump has overtaken: their addresses are being deleted from the cache.
    ///
    /// A sidecar that has no room for it now is asked again when it says, give or take half of that, as long as the client's
    /// `call_deadline` has not passed. After an error without a clear answer it may be called again: registering twice does no
    /// harm.
    pub async fn register(
        &self,
        registrations: Vec<v1::Registration>,
    ) -> Result<v1::RegisterResponse, CallError> {
        self.register_in(&Session::new(), registrations).await
    }

    /// The same, at a sidecar that has seen what `session` has, waiting for it as long as the session says.
    pub async fn register_in(
        &self,
        session: &Session,
        registrations: Vec<v1::Registration>,
    ) -> Result<v1::RegisterResponse, CallError> {
        check_count("registrations", registrations.len(), REGISTER_MAX)?;
        let until = Instant::now() + self.settings().call_deadline + session.extra();
        let request = v1::RegisterRequest { registrations };
        let registered = async {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let mut application = self.own().application();
                let call = application.register(session.request(request.clone()));
                let refused = match self.own().call(Gated::Yes, left, call).await {
                    Err(CallError::Overloaded {
                        retry_after: Some(after),
                        ..
                    }) if after * 2 < left => after,
                    answer => return answer,
                };
                // All who were refused at once would else come back at once.
                let spread = rand::rng().random_range(0.5..=1.5);
                tokio::time::sleep(refused.mul_f64(spread)).await;
            }
        };
        self.traced(registered).await
    }

    /// Registers batches (of up to 10,000 each) as the stream brings them, and answers one summary at its end.
    ///
    /// The stream's pace is the sidecar's: it is polled when the connection has room. There is no deadline, since only the
    /// caller knows how long its stream is; dropping the future ends the call. Batches taken before an error may remain
    /// registered.
    pub async fn register_stream(
        &self,
        batches: impl Stream<Item = Vec<v1::Registration>> + Send + 'static,
    ) -> Result<v1::RegisterStreamResponse, CallError> {
        self.register_stream_in(&Session::new(), batches).await
    }

    /// The same, at a sidecar that has seen what `session` has, before it takes the first batch.
    pub async fn register_stream_in(
        &self,
        session: &Session,
        batches: impl Stream<Item = Vec<v1::Registration>> + Send + 'static,
    ) -> Result<v1::RegisterStreamResponse, CallError> {
        self.own().check_open()?;
        let request = batches.map(|registrations| v1::RegisterStreamRequest {
            batch: Some(v1::RegisterRequest { registrations }),
        });
        match self
            .own()
            .application()
            .register_stream(session.request(request))
            .await
        {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                let error = CallError::from_status(self.own().name(), &status);
                self.own().note(&error);
                Err(error)
            }
        }
    }
}
