//! Watching bumps, across reconnects.
//!
//! A [`Watch`] yields what its sidecar applies, from the moment of [`WatchEvent::Started`]. When the connection breaks it
//! says so at once ([`WatchEvent::Lost`]), connects again, with backoff, for as long as it is asked, and yields
//! [`WatchEvent::Resync`] once the new stream has begun: what was bumped in between is not known, so everything watched
//! counts as changed. The same event says that
//! the sidecar itself had to leave messages out. A watcher is never left with silence instead of news: while calls are
//! open the connection is probed, and one that is dead is noticed within about ten seconds.

use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tonic::Streaming;

use crate::channel::Gated;
use crate::client::Client;
use crate::error::CallError;
use crate::gate::pause;
use crate::names::check_classes;

/// The most classes that one watch names.
const WATCH_CLASSES_MAX: usize = 100;

/// A stream of bumps that survives reconnects.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    classes: Vec<String>,
    stream: Option<Streaming<v1::WatchResponse>>,
    /// A stream had begun before: what was missed since is not known.
    began: bool,
    /// A stream has begun and not ended since.
    live: bool,
    failures: u32,
    /// When to connect again; kept here so that a cancelled `next` does not lose it.
    pause_until: Option<tokio::time::Instant>,
}

/// What a watcher hears of.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// Everything applied from now on will be told.
    Started {
        /// The sidecar's incarnation.
        incarnation: Bytes,
    },
    /// Classes changed.
    Bump(v1::WatchBump),
    /// The stream ended, and it is being connected again: from now on nothing is heard. Told once, until a `Resync`.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// Something was missed: treat everything watched as changed.
    Resync(ResyncCause),
}

/// Why a watcher must resynchronise.
#[derive(Debug, Clone, PartialEq)]
pub enum ResyncCause {
    /// The connection broke; a new stream has begun.
    Reconnected {
        /// The incarnation of the sidecar that answers now.
        incarnation: Bytes,
    },
    /// The sidecar left messages out: the watcher was too slow, or a floor or a snapshot was applied.
    Missed {
        /// How many; 0 when there is no number.
        messages: u64,
    },
}

impl Client {
    /// Watches bumps at, below or above up to 100 classes; none means all. Nothing is sent before the first
    /// [`Watch::next`].
    pub fn watch<C: Into<String>>(
        &self,
        classes: impl IntoIterator<Item = C>,
    ) -> Result<Watch, CallError> {
        let classes: Vec<String> = classes.into_iter().map(Into::into).collect();
        if !classes.is_empty() {
            check_classes("classes", &classes, WATCH_CLASSES_MAX)?;
        }
        Ok(Watch {
            client: self.clone(),
            classes,
            stream: None,
            began: false,
            live: false,
            failures: 0,
            pause_until: None,
        })
    }
}

impl Watch {
    /// The next event. Waits for as long as it takes; errors are refusals that trying again would not change. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Result<WatchEvent, CallError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    if let Some(event) = self.translate(message) {
                        return Ok(event);
                    }
                }
                Ok(None) => {
                    let reason = "the sidecar ended the stream, as it does when it drains";
                    if let Some(event) = self.lost(reason.to_owned()) {
                        return Ok(event);
                    }
                }
                Err(status) => {
                    let error = CallError::from_status(self.client.own().name(), &status);
                    self.client.own().note(&error);
                    if let Some(event) = self.retry_or_fail(error)? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// Connects, or says when to try again.
    async fn connect(&mut self) -> Result<(), CallError> {
        if let Some(until) = self.pause_until {
            tokio::time::sleep_until(until).await;
            self.pause_until = None;
        }
        let request = v1::WatchRequest {
            classes: self.classes.clone(),
        };
        let link = self.client.own();
        let mut application = link.application();
        let deadline = self.client.settings().call_deadline;
        match link
            .call(Gated::No, deadline, application.watch(request))
            .await
        {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            // Nothing had begun, so nothing is lost that was not told.
            Err(error) => self.retry_or_fail(error).map(drop),
        }
    }

    /// Takes note of a failure, and answers what there is to tell of it.
    fn retry_or_fail(&mut self, error: CallError) -> Result<Option<WatchEvent>, CallError> {
        let told = self.lost(error.to_string());
        if !error.may_differ_elsewhere() {
            return Err(error);
        }
        tracing::debug!(endpoint = %self.client.own().name(), %error, "a watch lost its stream");
        Ok(told)
    }

    /// Plans the next attempt. The first loss after a stream had begun is told.
    fn lost(&mut self, reason: String) -> Option<WatchEvent> {
        self.stream = None;
        let link = self.client.settings().link;
        let pause: Duration = pause(link.backoff_min, link.backoff_max, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.pause_until = Some(tokio::time::Instant::now() + pause);
        std::mem::take(&mut self.live).then_some(WatchEvent::Lost { reason })
    }

    /// A message without a kind is of a later contract, and nothing that this one promises.
    fn translate(&mut self, message: v1::WatchResponse) -> Option<WatchEvent> {
        use v1::watch_response::Kind;
        match message.kind? {
            Kind::Started(v1::WatchStarted { incarnation }) => {
                self.failures = 0;
                self.live = true;
                if std::mem::replace(&mut self.began, true) {
                    return Some(WatchEvent::Resync(ResyncCause::Reconnected { incarnation }));
                }
                Some(WatchEvent::Started { incarnation })
            }
            Kind::Bump(bump) => Some(WatchEvent::Bump(bump)),
            Kind::Resync(v1::WatchResync { missed }) => {
                Some(WatchEvent::Resync(ResyncCause::Missed { messages: missed }))
            }
        }
    }
}
