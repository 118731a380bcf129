//! Rules for versions: the real one, and simpler ones that lose invalidations.
//!
//! Design section 4 names two that fail: a token of "the entry, else the floor" ([`Kind::EntryElseFloor`]), and
//! last-writer-wins or wall-clock versions ([`Kind::LastWriterWins`]). [`Kind::FloorAlone`] is the third that its sentence on
//! floors implies: a floor that carries only its own event, with the entries dropped although it does not dominate
//! them. [`Kind::Join`] is the right rule in a few lines, as a check on the check. None of them knows conjunctions.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use grapevine_core::event::{Bump, Floor, Match, PurgeMode};
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::names::ClassPath;
use grapevine_core::store::Write;
use grapevine_core::vector::VersionVector;
use grapevine_core::versions::{Versions, bucket_of, sorted_classes};

use crate::disk::Disk;

/// A way to keep versions: how events are made, what they do, and what token follows.
pub(crate) trait Rule: Sized {
    type Event: Clone;
    type Copy: Clone;

    fn new() -> Self;
    fn bump(&self, id: EventId, clock: u64, classes: &[ClassPath], matching: Match) -> Self::Event;
    fn evict(&self, id: EventId, clock: u64, top: &ClassPath, bucket: u16) -> Self::Event;
    fn apply(&mut self, event: &Self::Event);
    fn token(&self, classes: &[ClassPath], salt: Option<Incarnation>) -> u64;
    /// What a disk holds.
    fn save(&self) -> Self::Copy;
    /// What a start finds on it.
    fn load(copy: &Self::Copy) -> Self;
}

/// The rule of grapevine-core, with a disk beneath it.
#[derive(Debug, Default)]
pub(crate) struct Real {
    versions: Versions,
    disk: Disk,
}

#[derive(Clone, Debug)]
pub(crate) enum RealEvent {
    Bump(EventId, Bump),
    Floor(EventId, Floor),
}

impl Rule for Real {
    type Event = RealEvent;
    type Copy = Disk;

    fn new() -> Self {
        Self::default()
    }

    fn bump(&self, id: EventId, _: u64, classes: &[ClassPath], matching: Match) -> RealEvent {
        let classes = sorted_classes(classes);
        let purge = PurgeMode::Hard;
        RealEvent::Bump(
            id,
            Bump {
                classes,
                matching,
                purge,
            },
        )
    }

    fn evict(&self, id: EventId, _: u64, top: &ClassPath, bucket: u16) -> RealEvent {
        RealEvent::Floor(id, self.versions.eviction(id, top, bucket))
    }

    fn apply(&mut self, event: &RealEvent) {
        match event {
            RealEvent::Bump(id, bump) => {
                self.versions.apply_bump(*id, bump);
                let entries: VersionVector = [(id.origin, id.sequence)].into_iter().collect();
                let (own, others): (&[ClassPath], _) = match bump.matching {
                    Match::Any => (&bump.classes, Vec::new()),
                    Match::All => (&bump.classes[..1], bump.classes[1..].to_vec()),
                };
                for class in own {
                    let (class, others) = (class.clone(), others.clone());
                    let entries = entries.clone();
                    self.disk.commit(&Write::JoinClass {
                        class,
                        others,
                        entries,
                    });
                }
            }
            RealEvent::Floor(id, floor) => {
                let evict = self.versions.bucket_classes(&floor.top, floor.bucket);
                self.versions.apply_floor(*id, floor);
                let floor = floor.clone();
                self.disk.commit(&Write::JoinFloor { floor, evict });
            }
        }
    }

    fn token(&self, classes: &[ClassPath], salt: Option<Incarnation>) -> u64 {
        self.versions.token(classes, salt).0
    }

    fn save(&self) -> Disk {
        self.disk.clone()
    }

    fn load(copy: &Disk) -> Self {
        let mut versions = Versions::new();
        let recovered = copy.recover();
        for class in &recovered.classes {
            versions.join_class(class);
        }
        for floor in &recovered.floors {
            versions.join_floor(floor);
        }
        Self {
            versions,
            disk: copy.clone(),
        }
    }
}

/// Which of the simple rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Join,
    EntryElseFloor,
    LastWriterWins,
    FloorAlone,
}

pub(crate) const JOIN: u8 = Kind::Join as u8;
pub(crate) const ENTRY_ELSE_FLOOR: u8 = Kind::EntryElseFloor as u8;
pub(crate) const LAST_WRITER_WINS: u8 = Kind::LastWriterWins as u8;
pub(crate) const FLOOR_ALONE: u8 = Kind::FloorAlone as u8;

/// A simple rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Simple<const KIND: u8> {
    entries: BTreeMap<ClassPath, VersionVector>,
    floors: BTreeMap<(String, u16), VersionVector>,
}

#[derive(Clone, Debug)]
pub(crate) enum SimpleEvent {
    Bump(Vec<ClassPath>, VersionVector),
    Floor(ClassPath, u16, VersionVector),
}

impl<const KIND: u8> Simple<KIND> {
    /// What an event adds: itself, or where versions are times, its time.
    fn mark(id: EventId, clock: u64) -> VersionVector {
        let one = if KIND == LAST_WRITER_WINS {
            (Incarnation::new(1).unwrap(), clock)
        } else {
            (id.origin, id.sequence)
        };
        [one].into_iter().collect()
    }

    fn within(class: &ClassPath, top: &str, bucket: u16) -> bool {
        class.top() == top && !class.is_top() && bucket_of(class.as_str()) == bucket
    }
}

impl<const KIND: u8> Rule for Simple<KIND> {
    type Event = SimpleEvent;
    type Copy = Self;

    fn new() -> Self {
        Self::default()
    }

    fn bump(&self, id: EventId, clock: u64, classes: &[ClassPath], _: Match) -> SimpleEvent {
        SimpleEvent::Bump(classes.to_vec(), Self::mark(id, clock))
    }

    fn evict(&self, id: EventId, clock: u64, top: &ClassPath, bucket: u16) -> SimpleEvent {
        let mut vector = Self::mark(id, clock);
        if let Some(old) = self.floors.get(&(top.to_string(), bucket)) {
            vector.join(old);
        }
        if KIND != FLOOR_ALONE {
            for (class, entries) in &self.entries {
                if Self::within(class, top.as_str(), bucket) {
                    vector.join(entries);
                }
            }
        }
        SimpleEvent::Floor(top.clone(), bucket, vector)
    }

    fn apply(&mut self, event: &SimpleEvent) {
        match event {
            SimpleEvent::Bump(classes, mark) => {
                for class in classes {
                    self.entries.entry(class.clone()).or_default().join(mark);
                }
            }
            SimpleEvent::Floor(top, bucket, vector) => {
                let floor = self.floors.entry((top.to_string(), *bucket)).or_default();
                floor.join(vector);
                self.entries.retain(|class, entries| {
                    let evicted = KIND == FLOOR_ALONE || floor.dominates(entries);
                    !(Self::within(class, top.as_str(), *bucket) && evicted)
                });
            }
        }
    }

    fn token(&self, classes: &[ClassPath], salt: Option<Incarnation>) -> u64 {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        for class in sorted_classes(classes) {
            for prefix in class.prefixes() {
                prefix.hash(&mut hasher);
                let entries = self.entries.get(prefix);
                let key = (class.top().to_owned(), bucket_of(prefix));
                let floor = self.floors.get(&key).filter(|_| prefix.contains('/'));
                let mut hashed = entries.cloned().unwrap_or_default();
                if KIND != ENTRY_ELSE_FLOOR || entries.is_none() {
                    hashed.join(floor.unwrap_or(&VersionVector::new()));
                }
                hashed.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    fn save(&self) -> Self {
        self.clone()
    }

    fn load(copy: &Self) -> Self {
        copy.clone()
    }
}
