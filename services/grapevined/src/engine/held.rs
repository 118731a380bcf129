//! A turn to fill on its way to, or in the hands of, the caller that won it. Wherever it is dropped, the machine hears that
//! the turn is over: with an answer that nobody waits for any more, with a stream that its caller ended, with a task that
//! panicked. After the caller said how it ended that changes nothing.

use grapevine_core::fill::FillId;
use grapevine_core::machine::effects::Input;
use tokio::sync::mpsc;

use super::Command;

/// A turn to fill.
pub(crate) struct Held {
    fill: FillId,
    urgent: mpsc::Sender<Command>,
}

impl Held {
    pub(super) fn new(fill: FillId, urgent: mpsc::Sender<Command>) -> Self {
        Self { fill, urgent }
    }

    pub(crate) fn fill(&self) -> FillId {
        self.fill
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let command = Command::Input(Input::EndFill(self.fill, false));
        // The queue may be full, and a drop cannot wait.
        if let Err(mpsc::error::TrySendError::Full(command)) = self.urgent.try_send(command) {
            let urgent = self.urgent.clone();
            tokio::spawn(async move { urgent.send(command).await });
        }
    }
}
