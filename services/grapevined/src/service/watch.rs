//! Watches: each watcher reads the news at its own pace; one that falls behind gets a RESYNC in place of what it missed.
//! They end when the sidecar drains.

use std::sync::Arc;

use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use grapevine_proto::v1::watch_response::Kind;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::engine::{Engine, News};
use crate::telemetry::Counter;
use crate::wire;
use crate::wire::status::exhausted;

/// Messages between a watcher's turn and its socket; the news behind them wait in the shared ring.
const AHEAD: usize = 2;

pub(crate) fn start(
    engine: &Engine,
    watchers: &Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
    classes: Vec<ClassPath>,
) -> Result<ReceiverStream<Result<v1::WatchResponse, Status>>, Status> {
    let Ok(place) = watchers.clone().try_acquire_owned() else {
        let message = "as many watchers as limits.watchers_max allows are there already";
        return Err(exhausted(message, std::time::Duration::from_secs(1)));
    };
    let mut news = engine.news.subscribe();
    let (messages, stream) = mpsc::channel(AHEAD);
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
                let sent = tokio::select! {
                    sent = messages.send(Ok(message)) => sent,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                if sent.is_err() {
                    return;
                }
            }
            let resync = |missed| {
                Some(v1::WatchResponse {
                    kind: Some(Kind::Resync(v1::WatchResync { missed })),
                })
            };
            message = tokio::select! {
                () = messages.closed() => return,
                // An error means that nobody can stop it any more, which is as good as being told to.
                _ = stop.wait_for(|stop| *stop) => return,
                heard = news.recv() => match heard {
                    Ok(News::Applied(event, what)) => wire::app::watch_bump(event, &what, &classes),
                    Ok(News::Resync) => resync(0),
                    Err(RecvError::Lagged(missed)) => {
                        counters.inc(Counter::WatchResyncs);
                        resync(missed)
                    }
                    Err(RecvError::Closed) => return,
                },
            };
        }
    });
    Ok(ReceiverStream::new(stream))
}
