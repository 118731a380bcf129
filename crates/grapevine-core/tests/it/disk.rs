//! A plain model of a store: what each write means, with no thought for speed. Cloning it makes an older copy.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_core::criteria::Shape;
use grapevine_core::event::{Event, Floor, Match, Registration};
use grapevine_core::id::{EventId, Incarnation, Lane, UnixSeconds};
use grapevine_core::intent::{Intent, IntentId};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::roster::Record;
use grapevine_core::store::{
    MemberRecord, Recovered, RecoveredClass, RecoveredProgress, Retirement, Taken, Write,
};
use grapevine_core::vector::VersionVector;

/// One class as stored: its own entries, and its conjunctions by their other classes.
type StoredClass = BTreeMap<Vec<ClassPath>, VersionVector>;

/// What is flushed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    own_incarnations: Vec<Incarnation>,
    pub(crate) dropped: BTreeMap<Incarnation, u64>,
    members: BTreeMap<NodeId, MemberRecord>,
    roster: Option<Record>,
    intents: BTreeMap<IntentId, Intent>,
    shapes: BTreeSet<Shape>,
    classes: BTreeMap<ClassPath, StoredClass>,
    floors: BTreeMap<(ClassPath, u16), VersionVector>,
    log: BTreeMap<(Incarnation, Lane, u64), Event>,
    watermarks: BTreeMap<(Incarnation, Lane), u64>,
    directory: BTreeMap<(ClassPath, Address), (UnixSeconds, bool)>,
}

impl Disk {
    /// Commits one write; what a take removed comes back.
    pub(crate) fn commit(&mut self, write: &Write) -> Option<Taken> {
        match write {
            Write::Log {
                origin,
                sequence,
                event,
            } => {
                let key = (*origin, event.lane(), *sequence);
                self.log.insert(key, event.clone());
            }
            Write::JoinClass {
                class,
                others,
                entries,
            } => {
                let stored = self.classes.entry(class.clone()).or_default();
                stored.entry(others.clone()).or_default().join(entries);
            }
            Write::JoinFloor { floor, evict } => self.join_floor(floor, evict),
            Write::Progress {
                origin,
                lane,
                watermark,
            } => {
                let stored = self.watermarks.entry((*origin, *lane)).or_default();
                *stored = (*stored).max(*watermark);
            }
            Write::Register { registrations, own } => {
                for registration in registrations {
                    self.register(registration, *own);
                }
            }
            Write::Unregister { registrations } => {
                for registration in registrations {
                    for class in &registration.classes {
                        self.directory
                            .remove(&(class.clone(), registration.address.clone()));
                    }
                }
            }
            Write::Take {
                event,
                classes,
                matching,
                own_only,
                purge,
            } => {
                return Some(Taken {
                    event: *event,
                    purge: *purge,
                    addresses: self.take(classes, *matching, *own_only),
                    // Deletes are not tried again here, so it makes no difference.
                    expires: UnixSeconds(u32::MAX),
                });
            }
            Write::Expire { now, .. } => self.directory.retain(|_, (expires, _)| *expires > *now),
            Write::PutMember(record) => {
                self.members.insert(record.node_id.clone(), record.clone());
            }
            Write::RemoveMember(node) => {
                self.members.remove(node);
            }
            Write::Roster(record) => self.roster = Some((**record).clone()),
            Write::PutIntent(intent) => drop(self.intents.insert(intent.id, intent.clone())),
            Write::PutShape(shape) => drop(self.shapes.insert(shape.clone())),
            Write::RemoveIntent(id) => drop(self.intents.remove(id)),
            Write::OwnIncarnation(incarnation) => self.own_incarnations.push(*incarnation),
            Write::Retire(piece) => self.retire(piece),
            Write::Dropped { run, whole } => drop(self.dropped.insert(*run, *whole)),
            Write::ForgetRun(run) => {
                self.own_incarnations.retain(|own| own != run);
                self.dropped.remove(run);
                self.watermarks.retain(|(origin, _), _| origin != run);
                self.log.retain(|(origin, ..), _| origin != run);
            }
        }
        None
    }

    fn retire(&mut self, piece: &Retirement) {
        let image = |vector: &mut VersionVector| *vector = piece.retired.image(piece.name, vector);
        for floor in &piece.floors {
            self.floors.get_mut(floor).map(image);
        }
        for class in &piece.classes {
            let stored = self.classes.get_mut(class);
            stored
                .into_iter()
                .flatten()
                .for_each(|(_, vector)| image(vector));
        }
    }

    fn join_floor(&mut self, floor: &Floor, evict: &[ClassPath]) {
        let stored = self
            .floors
            .entry((floor.top.clone(), floor.bucket))
            .or_default();
        stored.join(&floor.vector);
        for class in evict {
            if let Some(entries) = self.classes.get_mut(class) {
                entries.retain(|_, vector| !stored.dominates(vector));
                if entries.is_empty() {
                    self.classes.remove(class);
                }
            }
        }
    }

    fn register(&mut self, registration: &Registration, own: bool) {
        for class in &registration.classes {
            let stored = self
                .directory
                .entry((class.clone(), registration.address.clone()))
                .or_default();
            stored.0 = stored.0.max(registration.expires);
            stored.1 |= own;
        }
    }

    fn take(&mut self, classes: &[ClassPath], matching: Match, own_only: bool) -> Vec<Address> {
        let below = |class: &ClassPath| -> BTreeMap<Address, bool> {
            let mut found = BTreeMap::new();
            for ((stored, address), (_, own)) in &self.directory {
                if class.covers(stored.as_str()) {
                    *found.entry(address.clone()).or_default() |= *own;
                }
            }
            found
        };
        let mut sets = classes.iter().map(below);
        let mut taken = sets.next().unwrap_or_default();
        for set in sets {
            match matching {
                Match::Any => taken.extend(set),
                Match::All => taken.retain(|address, _| set.contains_key(address)),
            }
        }
        self.directory.retain(|(stored, address), _| {
            let covered = classes.iter().any(|class| class.covers(stored.as_str()));
            !(covered && taken.contains_key(address))
        });
        taken
            .into_iter()
            .filter(|(_, own)| *own || !own_only)
            .map(|(address, _)| address)
            .collect()
    }

    /// What a core finds when it starts on this disk.
    pub(crate) fn recover(&self) -> Recovered {
        let lanes: BTreeSet<_> = self
            .log
            .keys()
            .map(|(origin, lane, _)| (*origin, *lane))
            .chain(self.watermarks.keys().copied())
            .collect();
        let progress = lanes.into_iter().map(|(origin, lane)| {
            let watermark = self.watermark(origin, lane);
            let mut above: Vec<(u64, u64)> = Vec::new();
            for &(_, _, sequence) in self
                .log
                .range((origin, lane, watermark + 1)..=(origin, lane, u64::MAX))
                .map(|(key, _)| key)
            {
                match above.last_mut() {
                    Some((_, last)) if *last + 1 == sequence => *last = sequence,
                    _ => above.push((sequence, sequence)),
                }
            }
            RecoveredProgress {
                origin,
                lane,
                watermark,
                above,
            }
        });
        Recovered {
            own_incarnations: self.own_incarnations.clone(),
            dropped: self
                .dropped
                .iter()
                .map(|(run, whole)| (*run, *whole))
                .collect(),
            members: self.members.values().cloned().collect(),
            roster: self.roster.clone(),
            intents: self.intents.values().cloned().collect(),
            shapes: self.shapes(),
            classes: self
                .classes
                .iter()
                .map(|(class, stored)| recovered_class(class, stored))
                .collect(),
            floors: self.floors.iter().map(recovered_floor).collect(),
            progress: progress.collect(),
            registrations: self.directory.len() as u64,
        }
    }

    /// The shapes stored.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        self.shapes.iter().cloned().collect()
    }

    /// Whether the effect of an event of a retired run is stored here.
    pub(crate) fn has_retired(&self, event: EventId) -> bool {
        let view = self.roster.as_ref().map(|record| &record.view);
        let name = view
            .and_then(|view| view.history)
            .map(Incarnation::as_retirements);
        let (Some(view), Some(name)) = (view, name) else {
            return false;
        };
        let here = view.retired.up_to(self.watermark(name, Lane::Bump));
        here.head(event.origin)
            .is_some_and(|head| event.sequence <= head)
    }

    /// A lane's watermark.
    pub(crate) fn watermark(&self, origin: Incarnation, lane: Lane) -> u64 {
        self.watermarks.get(&(origin, lane)).copied().unwrap_or(0)
    }

    /// The write intents stored.
    pub(crate) fn intents(&self) -> Vec<IntentId> {
        self.intents.keys().copied().collect()
    }

    /// Whether the effect of a bump-lane event is stored here.
    pub(crate) fn holds(&self, event: EventId) -> bool {
        self.has_retired(event)
            || event.sequence <= self.watermark(event.origin, Lane::Bump)
            || self
                .log
                .contains_key(&(event.origin, Lane::Bump, event.sequence))
    }

    /// Consecutive events of a lane, from `first` to `last` at most.
    pub(crate) fn log(&self, origin: Incarnation, lane: Lane, first: u64, last: u64) -> Vec<Event> {
        (first..=last)
            .map_while(|sequence| self.log.get(&(origin, lane, sequence)).cloned())
            .collect()
    }

    /// Forgets the log of everything below the watermarks: what is left of it is state.
    pub(crate) fn compact(&mut self) {
        let watermarks = self.watermarks.clone();
        self.log.retain(|(origin, lane, sequence), _| {
            *sequence > watermarks.get(&(*origin, *lane)).copied().unwrap_or(0)
        });
    }

    /// Forgets whom it met, and not the roster.
    pub(crate) fn forget_members(&mut self) {
        self.members.clear();
    }

    /// Up to `limit` classes after `after`, in order.
    pub(crate) fn classes_after(
        &self,
        after: Option<&ClassPath>,
        limit: usize,
    ) -> Vec<RecoveredClass> {
        self.classes
            .iter()
            .filter(|(class, _)| after.is_none_or(|after| *class > after))
            .take(limit)
            .map(|(class, stored)| recovered_class(class, stored))
            .collect()
    }

    /// The names of the classes stored.
    pub(crate) fn class_names(&self) -> Vec<String> {
        self.classes.keys().map(ToString::to_string).collect()
    }

    /// Every floor.
    pub(crate) fn floors(&self) -> Vec<Floor> {
        self.floors.iter().map(recovered_floor).collect()
    }

    /// The directory, an address once.
    pub(crate) fn registrations(&self) -> Vec<Registration> {
        let mut found: BTreeMap<&Address, Registration> = BTreeMap::new();
        for ((class, address), (expires, _)) in &self.directory {
            let registration = found.entry(address).or_insert_with(|| Registration {
                address: address.clone(),
                classes: Vec::new(),
                expires: *expires,
            });
            registration.classes.push(class.clone());
        }
        found.into_values().collect()
    }

    /// Whether the directory has the address at or below the class.
    pub(crate) fn lists_below(&self, class: &str, address: &str) -> bool {
        let class = ClassPath::parse(class).expect("a class");
        let mut rows = self.directory.keys();
        rows.any(|(stored, listed)| class.covers(stored.as_str()) && listed.as_str() == address)
    }

    /// Whether the directory has the address.
    pub(crate) fn lists(&self, address: &str) -> bool {
        self.directory
            .keys()
            .any(|(_, listed)| listed.as_str() == address)
    }
}

fn recovered_class(class: &ClassPath, stored: &StoredClass) -> RecoveredClass {
    RecoveredClass {
        class: class.clone(),
        entries: stored.get(&Vec::new()).cloned().unwrap_or_default(),
        conjunctions: stored
            .iter()
            .filter(|(others, _)| !others.is_empty())
            .map(|(others, entries)| (others.clone(), entries.clone()))
            .collect(),
    }
}

fn recovered_floor((key, vector): (&(ClassPath, u16), &VersionVector)) -> Floor {
    Floor {
        top: key.0.clone(),
        bucket: key.1,
        vector: vector.clone(),
    }
}
