//! The writer: one thread that commits groups of writes and tells the loop when they are flushed.
//!
//! One group is on its way at a time; what the loop gathers meanwhile becomes the next one, so the busier the sidecar,
//! the larger the groups. A failed commit ends the sidecar: its store refuses everything after it, and nothing that
//! depended on the group was let out.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use grapevine_core::machine::effects::CommitId;
use grapevine_core::store::{Taken, Write};
use grapevine_store::{Store, StoreError};
use tokio::sync::mpsc;

/// A group to commit.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) writes: Vec<Write>,
    pub(super) commit: CommitId,
}

/// A group that is flushed, or why it is not.
pub(super) type Outcome = Result<Committed, StoreError>;

/// A flushed group.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) commit: CommitId,
    /// How many writes it had.
    pub(super) writes: usize,
    pub(super) taken: Vec<Taken>,
    /// Whether a sweep of lapsed registrations was among them and left some.
    pub(super) expiry_backlog: bool,
}

/// The loop's end of the writer.
#[derive(Debug)]
pub(super) struct Writer {
    groups: SyncSender<Group>,
    busy: bool,
    waiting: Group,
    weight: usize,
}

impl Writer {
    /// Starts the thread. It ends when the writer is dropped, after the group on its way.
    pub(super) fn start(store: Arc<dyn Store>) -> std::io::Result<(Self, mpsc::Receiver<Outcome>)> {
        // One group on its way, so neither channel ever holds more than one.
        let (groups, incoming) = sync_channel(1);
        let (outcomes, results) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write_groups(&*store, &incoming, &outcomes))?;
        Ok((
            Self {
                groups,
                busy: false,
                waiting: Group::default(),
                weight: 0,
            },
            results,
        ))
    }

    /// Adds writes to the group that is gathered.
    pub(super) fn add(&mut self, writes: Vec<Write>, commit: Option<CommitId>) {
        self.weight += writes.iter().map(weight).sum::<usize>();
        self.waiting.writes.extend(writes);
        if let Some(commit) = commit {
            self.waiting.commit = commit;
        }
    }

    /// Whether no group is on its way.
    pub(super) fn idle(&self) -> bool {
        !self.busy
    }

    /// The weight of the writes gathered so far: a registration counts once for each of its classes, other writes count
    /// as one.
    pub(super) fn waiting(&self) -> usize {
        self.weight
    }

    /// Whether anything is gathered or on its way.
    pub(super) fn unfinished(&self) -> bool {
        self.busy || self.waiting.commit != CommitId::default()
    }

    /// Sends the gathered group on its way, if there is one and none is.
    pub(super) fn kick(&mut self) {
        if self.busy || self.waiting.commit == CommitId::default() {
            return;
        }
        let group = std::mem::take(&mut self.waiting);
        self.weight = 0;
        // A send fails only after the thread ended, and then its outcome has ended the loop.
        self.busy = self.groups.send(group).is_ok();
    }

    /// Notes that the group on its way is done.
    pub(super) fn done(&mut self) {
        self.busy = false;
    }
}

fn weight(write: &Write) -> usize {
    match write {
        Write::Register { registrations, .. } | Write::Unregister { registrations } => {
            registrations.iter().map(|item| item.classes.len()).sum()
        }
        Write::JoinFloor { evict, .. } => evict.len(),
        _ => 1,
    }
}

fn write_groups(store: &dyn Store, groups: &Receiver<Group>, outcomes: &mpsc::Sender<Outcome>) {
    while let Ok(group) = groups.recv() {
        let outcome = if group.writes.is_empty() {
            Ok(Vec::new())
        } else {
            store.commit(&group.writes)
        };
        let failed = outcome.is_err();
        let swept = group
            .writes
            .iter()
            .any(|write| matches!(write, Write::Expire { .. }));
        if outcomes
            .blocking_send(outcome.map(|taken| Committed {
                commit: group.commit,
                writes: group.writes.len(),
                taken,
                expiry_backlog: swept && store.expiry_backlog(),
            }))
            .is_err()
            || failed
        {
            return;
        }
    }
}
