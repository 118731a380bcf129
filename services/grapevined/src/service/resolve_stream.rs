//! Look-ups over a stream. Each is made by whoever writes its answer, when there is room to write it: between the caller's
//! request and its answer there is no queue and nobody to be woken, answers that are ready together are written together, and of
//! a caller who reads nothing nothing is read.

use futures::{Stream, stream};
use grapevine_proto::v1;
use tokio::sync::watch;
use tonic::Streaming;

use super::application::Application;
use super::unread::Charged;
use crate::engine::{Place, stopping};
use crate::wire::{app, status};

/// A stream of look-ups under way.
pub(super) struct LookUps {
    pub(super) application: Application,
    pub(super) requests: Streaming<v1::ResolveStreamRequest>,
    /// What the stream's metadata say.
    pub(super) carried: app::Session,
    /// True once this sidecar drains.
    pub(super) stop: watch::Receiver<bool>,
    pub(super) _place: Place,
}

impl LookUps {
    /// Answers until the caller ends the stream, one of its look-ups is wrong, or this sidecar drains.
    pub(super) fn answers(self) -> impl Stream<Item = Charged<v1::ResolveStreamResponse>> + Send {
        stream::unfold(Some(self), async |look_ups| {
            let mut look_ups = look_ups?;
            let answer = look_ups.next().await?;
            let goes_on = !answer.is_error();
            Some((answer, goes_on.then_some(look_ups)))
        })
    }

    async fn next(&mut self) -> Option<Charged<v1::ResolveStreamResponse>> {
        // Whoever asks without a pause hears of it, too.
        if *self.stop.borrow() {
            return Some(stopping().into());
        }
        let message = tokio::select! {
            biased;
            message = self.requests.message() => message.transpose()?,
            // An error means that nobody can stop it any more, which is as good as being told to.
            _ = self.stop.wait_for(|stop| *stop) => Err(stopping()),
        };
        // An error is of the caller's making (too large a message, say) or its end, and then nobody hears it.
        let answer = match message.map(|message| message.request) {
            Ok(Some(request)) => self.application.resolve_now(request, &self.carried).await,
            Ok(None) => Err(status::invalid("request", "it is not set")),
            Err(status) => Err(status::blame(status)),
        };
        Some(answer.map_or_else(Charged::from, |response| {
            let response = Some(response);
            let answer = v1::ResolveStreamResponse { response };
            self.application.unread.message(answer)
        }))
    }
}
