//! Watches: each watcher reads the news at its own pace; one that falls behind gets a RESYNC in place of what it missed.
//! They end when the sidecar drains.

use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use grapevine_proto::v1::watch_response::Kind;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::unread::{Answers, Charged, Unread};
use crate::engine::{Engine, News, Place};
use crate::telemetry::Counter;
use crate::wire;

/// Messages between a watcher's turn and its socket; the news behind them wait in the shared ring.
const AHEAD: usize = 1;

pub(crate) fn start(
    engine: &Engine,
    place: Place,
    mut stop: watch::Receiver<bool>,
    unread: Unread,
    classes: Vec<ClassPath>,
) -> Answers<v1::WatchResponse> {
    let mut news = engine.news.subscribe();
    let (messages, answers) = Answers::channel(AHEAD);
    let incarnation = wire::incarnation(engine.core.read().incarnation());
    let counters = engine.counters.clone();
    tokio::spawn(async move {
        let _place = place;
        let started = Kind::Started(v1::WatchStarted { incarnation });
        let mut message = Some(v1::WatchResponse {
            kind: Some(started),
        });
        loop {
            if let Some(message) = message.take() {
                // A watcher that does not read must not keep the sidecar from ending.
                let place = tokio::select! {
                    place = messages.reserve() => place,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                let Ok(place) = place else { return };
                let mut charged = unread.message(message);
                if charged.is_error() {
                    // Nothing may be left out without a word, and these few bytes there is always room for.
                    charged = Charged::free(resync(1));
                }
                place.send(charged);
            }
            message = tokio::select! {
                () = messages.closed() => return,
                // An error means that nobody can stop it any more, which is as good as being told to.
                _ = stop.wait_for(|stop| *stop) => return,
                heard = news.recv() => match heard {
                    Ok(News::Applied(event, what)) => wire::app::watch_bump(event, &what, &classes),
                    Ok(News::Resync) => Some(resync(0)),
                    Err(RecvError::Lagged(missed)) => {
                        counters.inc(Counter::WatchResyncs);
                        Some(resync(missed))
                    }
                    Err(RecvError::Closed) => return,
                },
            };
        }
    });
    answers
}

/// What takes the place of so many messages.
fn resync(missed: u64) -> v1::WatchResponse {
    v1::WatchResponse {
        kind: Some(Kind::Resync(v1::WatchResync { missed })),
    }
}
