//! What was ever retired, for the judge: views repeat a part of it only, and sidecars forget the rest.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::roster::View;

/// Every retirement that any view told of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retirements {
    /// By run: up to which head, under which name and number.
    told: BTreeMap<Incarnation, Vec<(u64, Incarnation, u64)>>,
    /// The latest view looked at, by the name under which it retires.
    seen: BTreeMap<Incarnation, u64>,
    /// What a sidecar that started over dropped from its disk: which of its bumps of everything stands for it, one each time.
    dropped: BTreeMap<EventId, BTreeSet<EventId>>,
}

impl Retirements {
    /// Takes note of what a view retires.
    pub(crate) fn note(&mut self, view: &View) {
        let Some(name) = view.history.map(Incarnation::as_retirements) else {
            return;
        };
        let latest = view.retired.latest();
        let seen = self.seen.entry(name).or_default();
        if latest <= *seen {
            return;
        }
        let news = view.retired.iter().filter(|(.., number)| *number > *seen);
        for (run, head, number) in news {
            self.told.entry(run).or_default().push((head, name, number));
        }
        *seen = latest;
    }

    /// Takes note that a sidecar drops an event, having bumped everything.
    pub(crate) fn drop_for(&mut self, event: EventId, everything: EventId) {
        self.dropped.entry(event).or_default().insert(everything);
    }

    /// Whether anything was dropped.
    pub(crate) fn any_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// The bumps of everything that stand for an event.
    pub(crate) fn stand_for(&self, event: EventId) -> impl Iterator<Item = EventId> + '_ {
        self.dropped.get(&event).into_iter().flatten().copied()
    }

    /// Whether an event is one of a run that is retired where retirements under a name are applied up to a mark.
    pub(crate) fn have(&self, event: EventId, mark: impl Fn(Incarnation) -> u64) -> bool {
        let told = self.told.get(&event.origin);
        told.into_iter()
            .flatten()
            .any(|&(head, name, number)| event.sequence <= head && mark(name) >= number)
    }
}
