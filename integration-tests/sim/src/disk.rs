//! A sidecar's disk: what each write of core means, with no thought for speed.
//!
//! Writes come in groups, one for each input that core handled. The groups gathered while a flush is under way travel
//! together in the next one; a crash in the middle keeps a prefix of those groups, and the flush itself loses nothing.
//! Cloning a disk is what a backup is.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_core::criteria::Shape;
use grapevine_core::event::{Event, Floor, Match, Registration};
use grapevine_core::id::{EventId, Incarnation, Lane, UnixSeconds};
use grapevine_core::intent::{Intent, IntentId};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::roster::{Record, View};
use grapevine_core::store::{
    MemberRecord, Recovered, RecoveredClass, RecoveredProgress, Retirement, Taken, Write,
};
use grapevine_core::vector::VersionVector;

/// A class as stored: its own entries under no others, and its conjunctions by their other classes.
type Stored = BTreeMap<Vec<ClassPath>, VersionVector>;

/// What is flushed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    own_incarnations: Vec<Incarnation>,
    dropped: BTreeMap<Incarnation, u64>,
    members: BTreeMap<NodeId, MemberRecord>,
    roster: Option<Record>,
    intents: BTreeMap<IntentId, Intent>,
    classes: BTreeMap<ClassPath, Stored>,
    floors: BTreeMap<(ClassPath, u16), VersionVector>,
    shapes: BTreeSet<Shape>,
    log: BTreeMap<(Incarnation, Lane, u64), Event>,
    watermarks: BTreeMap<(Incarnation, Lane), u64>,
    directory: BTreeMap<(ClassPath, Address), (UnixSeconds, bool)>,
}

impl Disk {
    /// Commits one write; what a take removed comes back. It is long because every kind of write has its arm here.
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
            Write::PutShape(shape) => drop(self.shapes.insert(shape.clone())),
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
                        let key = (class.clone(), registration.address.clone());
                        self.directory.remove(&key);
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

    /// The write intents kept.
    pub(crate) fn intents(&self) -> impl Iterator<Item = IntentId> {
        self.intents.keys().copied()
    }

    /// Whether a write intent is kept.
    pub(crate) fn holds_intent(&self, intent: IntentId) -> bool {
        self.intents.contains_key(&intent)
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
        let key = (floor.top.clone(), floor.bucket);
        let stored = self.floors.entry(key).or_default();
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
            let key = (class.clone(), registration.address.clone());
            let stored = self.directory.entry(key).or_default();
            stored.0 = stored.0.max(registration.expires);
            stored.1 |= own;
        }
    }

    fn take(&mut self, classes: &[ClassPath], matching: Match, own_only: bool) -> Vec<Address> {
        if self.directory.is_empty() {
            return Vec::new();
        }
        let covered = |class: &ClassPath, stored: &ClassPath| {
            class.is_reserved() || class.covers(stored.as_str())
        };
        let below = |class: &ClassPath| {
            let mut found: BTreeMap<Address, bool> = BTreeMap::new();
            for ((stored, address), (_, own)) in &self.directory {
                if covered(class, stored) {
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
            let named = classes.iter().any(|class| covered(class, stored));
            !(named && taken.contains_key(address))
        });
        let reported = taken.into_iter().filter(|(_, own)| *own || !own_only);
        reported.map(|(address, _)| address).collect()
    }

    /// The shapes kept.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        self.shapes.iter().cloned().collect()
    }

    /// What a core finds when it starts on this disk.
    pub(crate) fn recover(&self) -> Recovered {
        let logged = self.log.keys().map(|(origin, lane, _)| (*origin, *lane));
        let lanes: BTreeSet<_> = logged.chain(self.watermarks.keys().copied()).collect();
        let classes = self.classes.iter();
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
            classes: classes
                .map(|(class, stored)| recovered(class, stored))
                .collect(),
            floors: self.floors(),
            shapes: self.shapes(),
            progress: lanes.into_iter().map(|lane| self.progress(lane)).collect(),
            registrations: self.directory.len() as u64,
        }
    }

    fn progress(&self, (origin, lane): (Incarnation, Lane)) -> RecoveredProgress {
        let watermark = self.watermark(origin, lane);
        let beyond = (origin, lane, watermark + 1)..=(origin, lane, u64::MAX);
        let mut above: Vec<(u64, u64)> = Vec::new();
        for &(_, _, sequence) in self.log.range(beyond).map(|(key, _)| key) {
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
    }

    /// The last view that it tells of.
    pub(crate) fn view(&self) -> Option<&View> {
        self.roster.as_ref().map(|record| &record.view)
    }

    /// Whether the effect of an event of a retired run is stored here.
    pub(crate) fn has_retired(&self, event: EventId) -> bool {
        let view = self.view();
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

    /// The watermarks of both lanes of every incarnation.
    pub(crate) fn watermarks(&self) -> impl Iterator<Item = (Incarnation, Lane, u64)> + '_ {
        let stored = self.watermarks.iter();
        stored.map(|(&(origin, lane), &watermark)| (origin, lane, watermark))
    }

    /// Whether the effect of a bump-lane event is stored here.
    pub(crate) fn holds(&self, event: EventId) -> bool {
        let key = (event.origin, Lane::Bump, event.sequence);
        self.has_retired(event)
            || event.sequence <= self.watermark(event.origin, Lane::Bump)
            || self.log.contains_key(&key)
    }

    /// Every bump-lane event that was dropped here, and is remembered as that.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = EventId> + '_ {
        let dropped = self.dropped.iter();
        dropped.flat_map(|(&origin, &whole)| {
            (1..=whole).map(move |sequence| EventId { origin, sequence })
        })
    }

    /// Whether a bump-lane event was dropped here, and that is remembered.
    pub(crate) fn has_dropped(&self, event: EventId) -> bool {
        let whole = self.dropped.get(&event.origin);
        whole.is_some_and(|whole| event.sequence <= *whole)
    }

    /// Every bump-lane event whose effect is stored here.
    pub(crate) fn held(&self) -> BTreeSet<EventId> {
        let marks = self.watermarks().filter(|(_, lane, _)| *lane == Lane::Bump);
        let below = marks.flat_map(|(origin, _, watermark)| {
            (1..=watermark).map(move |sequence| EventId { origin, sequence })
        });
        let logged = self.log.keys().filter(|(_, lane, _)| *lane == Lane::Bump);
        let logged = logged.map(|&(origin, _, sequence)| EventId { origin, sequence });
        below.chain(logged).chain(self.retired()).collect()
    }

    /// The events of retired runs whose effects are stored here.
    fn retired(&self) -> Vec<EventId> {
        let view = self.view();
        let heads = view.into_iter().flat_map(|view| view.retired.iter());
        let events = heads.flat_map(|(origin, head, _)| {
            (1..=head).map(move |sequence| EventId { origin, sequence })
        });
        events.filter(|event| self.has_retired(*event)).collect()
    }

    /// Consecutive events of a lane, from `first` to `last` at most.
    pub(crate) fn log(&self, origin: Incarnation, lane: Lane, first: u64, last: u64) -> Vec<Event> {
        (first..=last)
            .map_while(|sequence| self.log.get(&(origin, lane, sequence)).cloned())
            .collect()
    }

    /// Forgets the log of everything below the watermarks: what is left of it is state.
    pub(crate) fn compact(&mut self) {
        let watermarks = &self.watermarks;
        self.log.retain(|(origin, lane, sequence), _| {
            *sequence > watermarks.get(&(*origin, *lane)).copied().unwrap_or(0)
        });
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
            .map(|(class, stored)| recovered(class, stored))
            .collect()
    }

    /// Every floor.
    pub(crate) fn floors(&self) -> Vec<Floor> {
        let floor = |(key, vector): (&(ClassPath, u16), &VersionVector)| Floor {
            top: key.0.clone(),
            bucket: key.1,
            vector: vector.clone(),
        };
        self.floors.iter().map(floor).collect()
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
}

fn recovered(class: &ClassPath, stored: &Stored) -> RecoveredClass {
    let joint = stored.iter().filter(|(others, _)| !others.is_empty());
    RecoveredClass {
        class: class.clone(),
        entries: stored.get(&Vec::new()).cloned().unwrap_or_default(),
        conjunctions: joint
            .map(|(others, entries)| (others.clone(), entries.clone()))
            .collect(),
    }
}
