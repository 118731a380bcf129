//! Receipts against the truth (G6).
//!
//! A row that says *has* speaks of a run whose disk holds the event, for as long as that run is there to be looked at. A
//! row that says *cannot serve* speaks of a run that does not call itself fresh without the event. A satisfied receipt
//! says no less than its level.

use grapevine_core::id::EventId;
use grapevine_core::machine::effects::{Freshness, HolderState, Receipt, ReceiptLevel};

use super::Sim;
use crate::violation::Guarantee;

impl Sim<'_> {
    /// Judges a receipt at the moment when it is given.
    pub(super) fn check_receipt(&mut self, event: EventId, receipt: &Receipt) {
        for row in &receipt.holders {
            let runs = |node: &crate::node::Node| node.up() && node.incarnation == row.incarnation;
            let Some(at) = self.nodes.iter().position(runs) else {
                continue;
            };
            let letter = self.nodes[at].letter;
            let lie = match row.state {
                HolderState::Has if !self.checker.holds(&self.nodes[at].disk, event) => {
                    format!("{letter} has {event:?}, says a receipt, and its disk does not")
                }
                HolderState::Flushed if !self.checker.holds(&self.nodes[at].disk, event) => {
                    format!("{letter} has flushed {event:?}, says a receipt, and has not")
                }
                HolderState::Has | HolderState::CannotServe if self.served_locally(at, event) => {
                    format!(
                        "{letter} serves nothing from before {event:?}, says a receipt, and a table there may"
                    )
                }
                HolderState::Has if self.unheard_locally(at, event) => {
                    format!(
                        "{letter} has {event:?}, says a receipt, and a table there has a lease and has not heard of it"
                    )
                }
                HolderState::CannotServe if self.serves_without(at, event) => {
                    format!("{letter} cannot serve, says a receipt, but is fresh without {event:?}")
                }
                _ => continue,
            };
            self.violated(Guarantee::G6, lie);
        }
        let issuer = |node: &crate::node::Node| node.up() && node.incarnation == event.origin;
        let members = self.nodes.iter().find(|node| issuer(node));
        let members = members.and_then(|node| node.core.as_ref());
        let members = members.map_or(self.size, |core| core.roster().seats.len());
        if receipt.satisfied && !says_enough(receipt, members) {
            let what = format!("a receipt is satisfied and says too little: {receipt:?}");
            self.violated(Guarantee::G6, what);
        }
    }

    fn serves_without(&self, at: usize, event: EventId) -> bool {
        let now = self.time(at);
        self.nodes[at].core.as_ref().is_some_and(|core| {
            !self.checker.has(core.progress(), event) && core.freshness(now) == Freshness::Fresh
        })
    }
}

/// Whether the rows of a receipt say what its level asks for.
fn says_enough(receipt: &Receipt, members: usize) -> bool {
    let rows = |state| {
        receipt
            .holders
            .iter()
            .filter(|row| row.state == state)
            .count()
    };
    let on_disk = rows(HolderState::Has) + rows(HolderState::Flushed);
    match receipt.level {
        ReceiptLevel::None => true,
        ReceiptLevel::One => on_disk >= 2 || members == 1,
        ReceiptLevel::Quorum => on_disk > members / 2,
        ReceiptLevel::All => rows(HolderState::HasNot) + rows(HolderState::Flushed) == 0,
    }
}
