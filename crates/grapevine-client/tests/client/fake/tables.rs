//! Local tables: a stream for each, told of every bump, leased as the test says.

use std::time::Instant;

use bytes::Bytes;
use grapevine_client::v1;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::State;

type Told = Result<v1::LocalTableStreamResponse, Status>;

/// The tables of a sidecar.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a script, each by itself"
)]
#[derive(Debug, Default)]
pub(crate) struct Tables {
    open: Vec<(u64, mpsc::Sender<Told>)>,
    /// How many there were.
    pub(crate) opened: u64,
    position: u64,
    /// How long leases are, in milliseconds; 0 gives none.
    pub(crate) lease_ms: u64,
    /// Notices are kept back.
    pub(crate) holds: bool,
    held: Vec<v1::LocalTableStreamResponse>,
    /// Leases are kept back.
    pub(crate) holds_leases: bool,
    /// The last request that was not answered, and when it was heard.
    pub(crate) unanswered: Option<(u64, Instant)>,
    /// What clients say is not read.
    pub(crate) deaf: bool,
    /// A stream whose table was released goes on until it is ended.
    pub(crate) lingers: bool,
    pub(crate) acknowledged: u64,
    pub(crate) asked: u64,
    pub(crate) released: u64,
}

impl Tables {
    /// Tells all tables of a change.
    pub(super) fn tell(&mut self, class: &str) {
        if self.open.is_empty() {
            return;
        }
        self.position += 1;
        let notice = v1::LocalTableStreamResponse {
            position: self.position,
            classes: vec![class.to_owned()],
            ..Default::default()
        };
        self.held.push(notice);
        if !self.holds {
            self.let_go();
        }
    }

    /// Tells what was kept back.
    pub(crate) fn let_go(&mut self) {
        for notice in std::mem::take(&mut self.held) {
            self.say(&notice);
        }
    }

    /// Tells of changes and answers the request that was kept back, both in one message.
    pub(crate) fn merge(&mut self, classes: Vec<String>) -> u64 {
        self.position += 1;
        let message = v1::LocalTableStreamResponse {
            position: self.position,
            classes,
            lease: self.lease(),
            ..Default::default()
        };
        self.say(&message);
        self.position
    }

    /// Answers the request that was kept back.
    pub(crate) fn let_lease_go(&mut self) {
        let message = v1::LocalTableStreamResponse {
            lease: self.lease(),
            ..Default::default()
        };
        self.say(&message);
    }

    fn lease(&mut self) -> Option<v1::LocalTableLease> {
        let (request, _) = self.unanswered.take()?;
        Some(v1::LocalTableLease {
            request,
            duration_us: self.lease_ms * 1_000,
        })
    }

    /// Says something to all tables.
    pub(crate) fn say(&mut self, message: &v1::LocalTableStreamResponse) {
        self.open
            .retain(|(_, told)| told.try_send(Ok(message.clone())).is_ok());
    }

    /// Ends all streams.
    pub(crate) fn end(&mut self) {
        self.open.clear();
    }

    pub(super) fn position(&self) -> u64 {
        if self.open.is_empty() {
            0
        } else {
            self.position
        }
    }

    /// Its name, if it is open.
    pub(super) fn named(&self, name: u64) -> u64 {
        let open = self.open.iter().any(|(open, _)| *open == name);
        if open { name } else { 0 }
    }

    fn begin(&mut self, incarnation: Bytes) -> (u64, mpsc::Receiver<Told>) {
        self.opened += 1;
        let (told, messages) = mpsc::channel(64);
        let opened = v1::LocalTableStreamResponse {
            opened: Some(v1::LocalTableOpened {
                local_table: self.opened,
                incarnation,
                position: self.position,
            }),
            ..Default::default()
        };
        told.try_send(Ok(opened)).unwrap();
        self.open.push((self.opened, told));
        (self.opened, messages)
    }

    fn hear(&mut self, name: u64, word: &v1::LocalTableStreamRequest) {
        self.acknowledged = self.acknowledged.max(word.acknowledged);
        self.released += u64::from(word.released);
        if word.lease_request > 0 {
            self.asked += 1;
            self.unanswered = Some((word.lease_request, Instant::now()));
            if self.holds_leases {
                return;
            }
            let answer = v1::LocalTableStreamResponse {
                lease: self.lease(),
                ..Default::default()
            };
            if let Some((_, told)) = self.open.iter().find(|(open, _)| *open == name) {
                let _ = told.try_send(Ok(answer));
            }
        }
    }
}

impl State {
    pub(super) fn open_table(
        self: std::sync::Arc<Self>,
        mut words: Streaming<v1::LocalTableStreamRequest>,
    ) -> mpsc::Receiver<Told> {
        let (name, messages) = self.tables.lock().begin(self.incarnation.clone());
        tokio::spawn(async move {
            while let Ok(Some(word)) = words.message().await {
                self.tables.lock().hear(name, &word);
                if self.tables.lock().deaf {
                    return std::future::pending().await;
                }
                if word.released && !self.tables.lock().lingers {
                    break;
                }
            }
            self.tables.lock().open.retain(|(open, _)| *open != name);
        });
        messages
    }
}
