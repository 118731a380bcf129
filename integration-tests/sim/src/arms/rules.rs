//! Simpler rules for versions, which lose invalidations.
//!
//! A rule keeps a table of its own beside the core's, fed with what the core applied, and makes tokens from it.
//! `EntryElseFloor` hashes a class's entries if it has any, else its bucket's floor: entries that a floor replaced vanish
//! from the token when the class is bumped again, so sidecars that lack them agree with sidecars that do not.
//! `LastWriterWins` keeps the highest wall-clock time of a bump: one from a clock that is late changes nothing.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use grapevine_core::event::{BumpEvent, Match};
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::names::{ClassPath, EVERYTHING};
use grapevine_core::store::Recovered;
use grapevine_core::token::Token;
use grapevine_core::vector::VersionVector;
use grapevine_core::versions::bucket_of;

/// Which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Entries, else the floor.
    EntryElseFloor,
    /// The latest time wins.
    LastWriterWins,
}

/// A conjunction: its other classes, and its entries.
type Joint = BTreeMap<Vec<ClassPath>, VersionVector>;

/// A table of versions by a simpler rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    kind: Kind,
    entries: BTreeMap<ClassPath, VersionVector>,
    joint: BTreeMap<ClassPath, Joint>,
    floors: BTreeMap<(Box<str>, u16), VersionVector>,
}

/// The wall-clock times of bumps: what they would carry if versions were times.
pub(crate) type Stamps = BTreeMap<EventId, u64>;

impl Rule {
    /// The table of a sidecar that starts with what its disk held.
    pub(crate) fn recover(kind: Kind, recovered: &Recovered) -> Self {
        let mut rule = Self {
            kind,
            entries: BTreeMap::new(),
            joint: BTreeMap::new(),
            floors: BTreeMap::new(),
        };
        for class in &recovered.classes {
            rule.join(&class.class, &[], &class.entries);
            for (others, entries) in &class.conjunctions {
                rule.join(&class.class, others, entries);
            }
        }
        for floor in &recovered.floors {
            rule.join_floor(&floor.top, floor.bucket, &floor.vector);
        }
        rule
    }

    fn join(&mut self, class: &ClassPath, others: &[ClassPath], entries: &VersionVector) {
        if entries.is_empty() {
            return;
        }
        let stored = if others.is_empty() {
            self.entries.entry(class.clone()).or_default()
        } else {
            let joint = self.joint.entry(class.clone()).or_default();
            joint.entry(others.to_vec()).or_default()
        };
        stored.join(entries);
    }

    fn join_floor(&mut self, top: &ClassPath, bucket: u16, vector: &VersionVector) {
        let floor = self
            .floors
            .entry((top.as_str().into(), bucket))
            .or_default();
        floor.join(vector);
        let within = |class: &ClassPath| {
            class.top() == top.as_str() && !class.is_top() && bucket_of(class.as_str()) == bucket
        };
        self.entries
            .retain(|class, entries| !(within(class) && floor.dominates(entries)));
        for (_, joint) in self.joint.iter_mut().filter(|(class, _)| within(class)) {
            joint.retain(|_, entries| !floor.dominates(entries));
        }
    }

    /// Applies an event.
    pub(crate) fn apply(&mut self, id: EventId, event: &BumpEvent) {
        let one: VersionVector = [(id.origin, id.sequence)].into_iter().collect();
        match event {
            BumpEvent::Bump(bump) if bump.matching == Match::All => {
                if let Some((anchor, others)) = bump.classes.split_first() {
                    self.join(anchor, others, &one);
                }
            }
            BumpEvent::Bump(bump) => {
                for class in &bump.classes {
                    self.join(class, &[], &one);
                }
            }
            BumpEvent::Floor(floor) => {
                let mut vector = floor.vector.clone();
                vector.join(&one);
                self.join_floor(&floor.top, floor.bucket, &vector);
            }
            // Reads by criteria are left out where a rule stands for core's.
            BumpEvent::Rows(_) | BumpEvent::Shape(_) => {}
        }
    }

    /// The token of an address's classes, sorted.
    pub(crate) fn token(
        &self,
        classes: &[ClassPath],
        salt: Option<Incarnation>,
        stamps: &Stamps,
    ) -> Token {
        let mut hasher = DefaultHasher::new();
        salt.map(Incarnation::get).hash(&mut hasher);
        self.part(&mut hasher, EVERYTHING, classes, stamps);
        for class in classes {
            for prefix in class.prefixes() {
                self.part(&mut hasher, prefix, classes, stamps);
            }
        }
        Token(hasher.finish().max(1))
    }

    fn part(&self, hasher: &mut DefaultHasher, prefix: &str, of: &[ClassPath], stamps: &Stamps) {
        prefix.hash(hasher);
        let none = VersionVector::new();
        let entries = self.entries.get(prefix).unwrap_or(&none);
        let top = prefix.split('/').next().unwrap_or(prefix);
        let floor = self.floors.get(&(top.into(), bucket_of(prefix)));
        let floor = floor.filter(|_| top.len() < prefix.len()).unwrap_or(&none);
        let joint = self.joint.get(prefix).into_iter().flatten();
        let met = joint.filter(|(others, _)| {
            let covers = |other: &ClassPath| of.iter().any(|class| other.covers(class.as_str()));
            others.iter().all(covers)
        });
        let met: Vec<_> = met.map(|(_, entries)| entries).collect();
        match self.kind {
            Kind::EntryElseFloor => {
                let chosen = if entries.is_empty() { floor } else { entries };
                chosen.hash(hasher);
                met.hash(hasher);
            }
            Kind::LastWriterWins => {
                let all = met.into_iter().chain([entries, floor]);
                let events = all.flat_map(VersionVector::iter);
                let stamps = events
                    .filter_map(|(origin, sequence)| stamps.get(&EventId { origin, sequence }));
                stamps.max().hash(hasher);
            }
        }
    }
}
