//! A turn to fill on its way to, or in the hands of, the caller that won it. Wherever it is dropped, the machine hears that
//! the turn is over: with an answer that nobody waits for any more, with a stream that its caller ended, with a task that
//! panicked. After the caller said how it ended that changes nothing.

use grapevine_core::fill::FillId;
use grapevine_core::machine::effects::Input;
use tokio::sync::mpsc;

use super::{Command, send_from_drop};

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
        send_from_drop(&self.urgent, command);
    }
}

#[cfg(test)]
mod tests {
    use grapevine_core::id::Incarnation;

    use super::*;

    fn turn(number: u64) -> Option<FillId> {
        let origin = Incarnation::new(7)?;
        Some(FillId { origin, number })
    }

    #[test]
    fn a_turn_that_outlives_its_runtime_ends_without_a_panic() {
        let (urgent, mut commands) = mpsc::channel(1);
        for number in 1..=2 {
            drop(turn(number).map(|fill| Held::new(fill, urgent.clone())));
        }
        assert!(commands.try_recv().is_ok(), "there was room for one");
        assert!(commands.try_recv().is_err());
    }

    #[tokio::test]
    async fn the_end_of_a_turn_waits_for_room() {
        let (urgent, mut commands) = mpsc::channel(1);
        for number in 1..=2 {
            drop(turn(number).map(|fill| Held::new(fill, urgent.clone())));
        }
        drop(urgent);
        for number in 1..=2 {
            let ended = commands.recv().await;
            assert!(
                matches!(ended, Some(Command::Input(Input::EndFill(fill, false))) if Some(fill) == turn(number))
            );
        }
    }
}
