//! Streams of local tables: what the machine tells a table goes out in order, and what its client says comes in.
//!
//! Both directions go on side by side, so that a client which does not read does not keep its own word back. A stream ends
//! with a status, or with its client; the machine then counts the table until its leases are over, unless the client has released it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grapevine_core::machine::effects::{Reply, TableWord};
use grapevine_core::table::TableId;
use grapevine_proto::v1;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::application::Application;
use super::unread::{Answers, Charged, Unread};
use super::writes::mistaken;
use crate::engine::{
    Call, INTAKE_WAIT, OfConnection, OpenTable, Place, TableReceiver, stopping, table_channel,
};
use crate::wire::{app, status};

/// How long a client may take to release its table when this sidecar drains.
const CLOSING_WAIT: Duration = Duration::from_millis(500);

type Requests = Streaming<v1::LocalTableStreamRequest>;
type Messages = mpsc::Sender<Charged<v1::LocalTableStreamResponse>>;

impl Application {
    pub(super) async fn open_table(
        &self,
        requests: Requests,
        connection: Option<OfConnection>,
    ) -> Result<Answers<v1::LocalTableStreamResponse>, Status> {
        let place = self.local_tables.take(connection.as_ref())?;
        let id = TableId(rand::random_range(1..=u64::MAX));
        let (sender, told) = table_channel();
        let call = Call::OpenTable(id, sender);
        // Before the call: whoever gives up while it is under way leaves no table behind. The machine hears of that after the call.
        let mut table = OpenTable::new(id, self.engine.urgent.clone());
        let answer = self.engine.call(call, None, INTAKE_WAIT).await?;
        let position = match answer.reply {
            Reply::TableOpened { position } => position,
            Reply::Refused(refusal) => return Err(status::refusal(&refusal)),
            _ => return Err(mistaken("a local table")),
        };
        let (messages, answers) = Answers::channel(1);
        let (incarnation, lease) = {
            let core = self.engine.core.read();
            (core.incarnation(), core.table_lease())
        };
        // There is room for the first message.
        let _ = messages.try_send(Charged::free(app::table_opened(id, incarnation, position)));
        let (mut stop, unread) = (self.stop.clone(), self.unread.clone());
        tokio::spawn(async move {
            let place = Kept { place, lease };
            let sent = AtomicU64::new(position);
            let mut hearing = Hearing::new(requests);
            let end = tokio::select! {
                end = hearing.all(&mut table, &sent) => end,
                end = tell(&told, &messages, &sent, &unread) => end,
                () = messages.closed() => Ok(()),
                () = stopped(&mut stop) => {
                    close(&mut hearing, &mut table, &messages, &sent).await;
                    Err(stopping())
                }
            };
            if !table.is_released() {
                place.until_lapsed();
            }
            if let Err(status) = end {
                // Who reads nothing hears nothing; the end of the stream tells it later.
                let _ = tokio::time::timeout(CLOSING_WAIT, messages.send(status.into())).await;
            }
        });
        Ok(answers)
    }
}

/// A table's place among those of its connection.
struct Kept {
    place: Place,
    lease: Duration,
}

impl Kept {
    /// Keeps it for as long as a lease may last: a connection that opens tables and breaks their streams has no more of them than one that
    /// keeps them open, for the machine counts them until then.
    fn until_lapsed(self) {
        tokio::spawn(async move {
            tokio::time::sleep(self.lease).await;
            drop(self.place);
        });
    }
}

/// Until this sidecar drains.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can stop it any more, which is as good as being told to.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Asks a client to release its table, and waits for a moment until it has.
async fn close(
    hearing: &mut Hearing,
    table: &mut OpenTable,
    messages: &Messages,
    sent: &AtomicU64,
) {
    let closing = v1::LocalTableStreamResponse {
        closing: true,
        ..Default::default()
    };
    let released = async {
        if messages.send(Charged::free(closing)).await.is_ok() {
            // How it ends makes no difference: this is the end.
            let _ = hearing.all(table, sent).await;
        }
    };
    let _ = tokio::time::timeout(CLOSING_WAIT, released).await;
}

/// Tells the client what the machine says, until it has given the table up, or there is no room for what it is to be told.
async fn tell(
    told: &TableReceiver,
    messages: &Messages,
    sent: &AtomicU64,
    unread: &Unread,
) -> Result<(), Status> {
    while let Some(letter) = told.next().await {
        let position = letter.position;
        let message = unread.message(app::table_letter(&letter));
        let failed = message.is_error();
        let room = tokio::select! {
            room = messages.reserve() => room,
            // A table whose client does not read is given up like any other, and keeps its place from others no longer.
            () = told.ended() => break,
        };
        let Ok(place) = room else {
            return Ok(());
        };
        // From here on the client may acknowledge it.
        sent.fetch_max(position, Ordering::Release);
        place.send(message);
        if failed {
            return Ok(());
        }
    }
    let why = "local table: its client was silent about a notice until its lease was over; open another one";
    Err(Status::deadline_exceeded(why))
}

/// What a client says.
struct Hearing {
    requests: Requests,
    /// The number of its last request for a lease.
    asked: u64,
}

impl Hearing {
    fn new(requests: Requests) -> Self {
        Self { requests, asked: 0 }
    }

    /// Hears it all: until the client ends, has released its table, or says what cannot be.
    async fn all(&mut self, table: &mut OpenTable, sent: &AtomicU64) -> Result<(), Status> {
        loop {
            let message = self.requests.message().await.map_err(status::blame)?;
            let Some(message) = message else {
                return Ok(());
            };
            let words = app::table_words(&message, sent.load(Ordering::Acquire), self.asked)?;
            self.asked = self.asked.max(message.lease_request);
            for word in words {
                table.say(word).await;
                if word == TableWord::Released {
                    return Ok(());
                }
            }
        }
    }
}
