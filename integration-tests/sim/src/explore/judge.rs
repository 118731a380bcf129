//! What is judged at every state.

use std::sync::Arc;

use grapevine_core::id::EventId;
use grapevine_core::machine::effects::{Freshness, HolderState, Receipt, ReceiptLevel};

use super::sidecar::{Setting, Sidecar, name};
use super::world::{CLASSES, REGISTERED, SIZE, World};
use crate::arms::Arm;
use crate::arms::rules::Stamps;
use crate::violation::Guarantee;

/// What is wrong, if anything is.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    pub(super) guarantee: Guarantee,
    pub(super) what: String,
}

impl World {
    pub(super) fn answered(&mut self, event: EventId, receipt: &Receipt) -> Result<(), Wrong> {
        for row in &receipt.holders {
            let runs = |sidecar: &Arc<Sidecar>| sidecar.core.incarnation() == row.incarnation;
            let Some(at) = self.sidecars.iter().position(runs) else {
                continue;
            };
            let sidecar = &self.sidecars[at];
            let lie = match row.state {
                HolderState::Has | HolderState::Flushed => !sidecar.disk.holds(event),
                HolderState::CannotServe => {
                    !sidecar.core.progress().has(event) && self.freshness(at) == Freshness::Fresh
                }
                HolderState::HasNot => false,
            };
            if lie {
                let what = format!(
                    "of {} a receipt says {:?} of {event:?}",
                    name(at),
                    row.state
                );
                return Err(Wrong {
                    guarantee: Guarantee::G6,
                    what,
                });
            }
        }
        if receipt.satisfied
            && receipt.level == ReceiptLevel::All
            && let Some(&(class, index)) = self.events.get(&event)
        {
            self.all[class] = self.all[class].max(index);
            for at in 0..SIZE {
                self.judge_class(at, class)?;
            }
        }
        Ok(())
    }

    /// Judges what a sidecar shows.
    pub(super) fn judge(&mut self, setting: &Setting, at: usize) -> Result<(), Wrong> {
        let view = self.sidecars[at].core.roster();
        if let Some(history) = view.history {
            let known = self
                .views
                .entry((history, view.number))
                .or_insert_with(|| view.clone());
            if known != view {
                let what = format!(
                    "two views have one place: {known:?} and, at {}, {view:?}",
                    name(at)
                );
                return Err(Wrong {
                    guarantee: Guarantee::G7,
                    what,
                });
            }
        }
        self.judge_fills(at)?;
        if matches!(self.freshness(at), Freshness::CatchingUp(_))
            && !setting.is(Arm::UnsaltedRestart)
        {
            return Ok(());
        }
        for class in 0..CLASSES {
            self.judge_token(setting, at, class)?;
            self.judge_class(at, class)?;
        }
        Ok(())
    }

    /// A superseded token must not come back (G2).
    fn judge_token(&mut self, setting: &Setting, at: usize, class: usize) -> Result<(), Wrong> {
        let classes = std::slice::from_ref(&setting.classes[class]);
        let sidecar = &self.sidecars[at];
        let token = match &sidecar.rule {
            Some(rule) => rule.token(classes, None, &Stamps::new()),
            None => sidecar.core.versions().token(classes, None),
        };
        if sidecar.superseded.contains(&(class, token)) {
            let class = &setting.classes[class];
            let what = format!(
                "at {} the superseded token {token:?} of {class} is current again",
                name(at)
            );
            return Err(Wrong {
                guarantee: Guarantee::G2,
                what,
            });
        }
        if sidecar.shown[class] != Some(token) {
            let sidecar = Arc::make_mut(&mut self.sidecars[at]);
            sidecar.digest = 0;
            if let Some(before) = sidecar.shown[class].replace(token) {
                sidecar.superseded.insert((class, before));
            }
        }
        // Whoever misses here and now may read what the database has now, and store it whenever it likes.
        self.stored.entry((class, token)).or_insert(self.index);
        Ok(())
    }

    /// The oldest value that a reader may find is no older than what was promised (G3, G7).
    fn judge_class(&self, at: usize, class: usize) -> Result<(), Wrong> {
        let sidecar = &self.sidecars[at];
        let Some(token) = sidecar.shown[class] else {
            return Ok(());
        };
        let Some(&oldest) = self.stored.get(&(class, token)) else {
            return Ok(());
        };
        if oldest < sidecar.applied[class] {
            let applied = sidecar.applied[class];
            let what = format!(
                "{} has applied write {applied} and may serve a value as of {oldest}",
                name(at)
            );
            return Err(Wrong {
                guarantee: Guarantee::G3,
                what,
            });
        }
        if oldest < self.all[class] && self.freshness(at) == Freshness::Fresh {
            let all = self.all[class];
            let what = format!(
                "{} may serve a value as of {oldest}, and the receipt `all` of write {all} was satisfied",
                name(at)
            );
            return Err(Wrong {
                guarantee: Guarantee::G7,
                what,
            });
        }
        Ok(())
    }

    /// Nobody's directory keeps, once everything is written, an address whose value lacks a write that was applied (G4).
    fn judge_fills(&self, at: usize) -> Result<(), Wrong> {
        let sidecar = &self.sidecars[at];
        if self.filled.is_empty() || sidecar.commit.is_some() {
            return Ok(());
        }
        for registration in sidecar.disk.registrations() {
            let index = self.filled.get(&registration.address);
            if index.is_some_and(|index| *index < sidecar.applied[REGISTERED]) {
                let what = format!(
                    "{} keeps {:?}, which write {} made stale",
                    name(at),
                    registration.address,
                    sidecar.applied[REGISTERED]
                );
                return Err(Wrong {
                    guarantee: Guarantee::G4,
                    what,
                });
            }
        }
        Ok(())
    }
}
