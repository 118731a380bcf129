//! A local table's stream, between the loop and the handler: the loop puts in what the table is told, and never waits.

use std::sync::Arc;

use grapevine_core::machine::effects::{Input, TableWord};
use grapevine_core::table::{Letter, Mailbox, Notice, TableId, TableLease};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{Command, send_from_drop};

#[derive(Debug, Default)]
struct Shared {
    mailbox: Mutex<(Mailbox, bool)>,
    news: Notify,
}

/// The loop's end.
#[derive(Debug)]
pub(crate) struct TableSender(Arc<Shared>);

/// The handler's end.
#[derive(Debug)]
pub(crate) struct TableReceiver(Arc<Shared>);

/// Both ends of a new one.
pub(crate) fn table_channel() -> (TableSender, TableReceiver) {
    let shared = Arc::<Shared>::default();
    (TableSender(shared.clone()), TableReceiver(shared))
}

impl TableSender {
    /// Tells whether notices became one of everything, for want of room.
    pub(super) fn notice(&self, position: u64, notice: &Notice) -> bool {
        let collapsed = self.0.mailbox.lock().0.notice(position, notice);
        self.0.news.notify_one();
        collapsed
    }

    pub(super) fn lease(&self, lease: TableLease) {
        self.0.mailbox.lock().0.lease(lease);
        self.0.news.notify_one();
    }
}

/// What is no longer kept by the loop has been given up, or the sidecar ends.
impl Drop for TableSender {
    fn drop(&mut self) {
        self.0.mailbox.lock().1 = true;
        self.0.news.notify_one();
    }
}

impl TableReceiver {
    /// What is to be told next; `None` once the machine has given the table up.
    pub(crate) async fn next(&self) -> Option<Letter> {
        loop {
            {
                let mut shared = self.0.mailbox.lock();
                let (mailbox, ended) = &mut *shared;
                if *ended {
                    return None;
                }
                if let Some(letter) = mailbox.take() {
                    return Some(letter);
                }
            }
            self.0.news.notified().await;
        }
    }

    /// Until the machine has given the table up. Not beside [`Self::next`]: each takes the other's news.
    pub(crate) async fn ended(&self) {
        while !self.0.mailbox.lock().1 {
            self.0.news.notified().await;
        }
    }
}

/// A table that is open. However its stream ends, the machine hears of that.
pub(crate) struct OpenTable {
    id: TableId,
    urgent: mpsc::Sender<Command>,
    released: bool,
}

impl OpenTable {
    pub(crate) fn new(id: TableId, urgent: mpsc::Sender<Command>) -> Self {
        let released = false;
        Self {
            id,
            urgent,
            released,
        }
    }

    /// Whether its client has released it.
    pub(crate) fn is_released(&self) -> bool {
        self.released
    }

    /// Hands the machine a client's word, behind those that wait. Without one it is over, as the sidecar is.
    pub(crate) async fn say(&mut self, word: TableWord) {
        let heard = self.urgent.send(said(self.id, word)).await.is_ok();
        self.released |= heard && word == TableWord::Released;
    }
}

impl Drop for OpenTable {
    fn drop(&mut self) {
        if !self.released {
            send_from_drop(&self.urgent, said(self.id, TableWord::Ended));
        }
    }
}

fn said(id: TableId, word: TableWord) -> Command {
    Command::Input(Input::Table(id, word))
}
