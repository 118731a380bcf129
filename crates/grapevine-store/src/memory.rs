//! The store in memory: plain maps, for tests and simulators, and the model that the store on disk is held to.
//!
//! It does what [`crate::SledStore`] does, so simply that it can be checked by reading; only which of several due
//! registrations an [`Write::Expire`] with too small a limit removes may differ. A handle is cheap to clone and all
//! handles are one store; [`MemoryStore::fork`] copies the contents, as a disk restored from a backup would have them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grapevine_core::criteria::Shape;
use grapevine_core::event::{Event, Floor, Match, Registration};
use grapevine_core::id::{Incarnation, Lane, UnixSeconds};
use grapevine_core::intent::{Intent, IntentId};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::roster::Record;
use grapevine_core::store::{MemberRecord, Recovered, RecoveredClass, Retirement, Taken, Write};
use grapevine_core::vector::VersionVector;

use crate::ledger::Ledger;
use crate::page::Entry;
use crate::{
    AddressRow, ClassRow, Cursor, LogRead, Page, Store, StoreConfig, StoreError, keys, log, recover,
};

type SortKey = Vec<u8>;

#[derive(Clone, Debug, Default)]
struct Versions {
    entries: VersionVector,
    conjunctions: BTreeMap<Vec<ClassPath>, VersionVector>,
}

#[derive(Clone, Debug, Default)]
struct State {
    own_incarnations: BTreeSet<Incarnation>,
    dropped: BTreeMap<Incarnation, u64>,
    shapes: BTreeMap<ClassPath, Shape>,
    members: BTreeMap<NodeId, MemberRecord>,
    roster: Option<Record>,
    intents: BTreeMap<IntentId, Intent>,
    classes: BTreeMap<SortKey, Versions>,
    floors: BTreeMap<(SortKey, u16), VersionVector>,
    progress: BTreeMap<(Incarnation, Lane), u64>,
    log: BTreeMap<(Lane, Incarnation, u64), (Event, usize)>,
    ledger: Ledger,
    directory: BTreeMap<(SortKey, Address), Entry>,
    /// Whether the last expiry left something that was due.
    expiry_backlog: bool,
}

/// A store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    log_bytes_max: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(StoreConfig::new("").log_bytes_max)
    }
}

impl MemoryStore {
    /// An empty one, whose log keeps so many bytes in each lane.
    pub fn new(log_bytes_max: u64) -> Self {
        Self {
            state: Arc::default(),
            log_bytes_max,
        }
    }

    /// Another store that holds now what this one does.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(self.state().clone())),
            log_bytes_max: self.log_bytes_max,
        }
    }

    /// What a sidecar that starts on this store is told.
    pub fn recover(&self) -> Recovered {
        self.state().recover()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(sort_key: &[u8]) -> ClassPath {
    ClassPath::from_sort_key(sort_key).expect("invariant: sort keys are made from class paths")
}

/// Whether a class is `below` or lies below it, by sort keys.
fn covers(below: &[u8], sort_key: &[u8]) -> bool {
    sort_key
        .strip_prefix(below)
        .is_some_and(|rest| rest.is_empty() || rest[0] == 1)
}

impl State {
    fn apply(&mut self, write: &Write) -> Option<Taken> {
        match write {
            Write::Log {
                origin,
                sequence,
                event,
            } => self.append(*origin, *sequence, event),
            Write::JoinClass {
                class,
                others,
                entries,
            } => self.join_class(class, others, entries),
            Write::JoinFloor { floor, evict } => self.join_floor(floor, evict),
            Write::Progress {
                origin,
                lane,
                watermark,
            } => {
                let stored = self.progress.entry((*origin, *lane)).or_default();
                *stored = (*stored).max(*watermark);
            }
            Write::Register { registrations, own } => self.register(registrations, *own),
            Write::Unregister { registrations } => {
                for registration in registrations {
                    for class in &registration.classes {
                        let key = (class.sort_key(), registration.address.clone());
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
                let (addresses, expires) = self.take(classes, *matching, *own_only);
                return Some(Taken {
                    event: *event,
                    purge: *purge,
                    addresses,
                    expires,
                });
            }
            Write::Expire { now, limit } => self.expire(*now, *limit),
            Write::PutMember(member) => {
                self.members.insert(member.node_id.clone(), member.clone());
            }
            Write::RemoveMember(node_id) => {
                self.members.remove(node_id);
            }
            Write::Roster(record) => self.roster = Some((**record).clone()),
            Write::PutIntent(intent) => drop(self.intents.insert(intent.id, intent.clone())),
            Write::RemoveIntent(id) => drop(self.intents.remove(id)),
            Write::OwnIncarnation(incarnation) => {
                self.own_incarnations.insert(*incarnation);
            }
            Write::Retire(piece) => self.retire(piece),
            Write::ForgetRun(run) => self.forget_run(*run),
            Write::PutShape(shape) => {
                self.shapes.insert(shape.class(), shape.clone());
            }
            Write::Dropped { run, whole } => {
                self.dropped.insert(*run, *whole);
            }
        }
        None
    }

    fn append(&mut self, origin: Incarnation, sequence: u64, event: &Event) {
        let lane = event.lane();
        let bytes = log::framed(event).len();
        self.log.entry((lane, origin, sequence)).or_insert_with(|| {
            self.ledger.add(lane, origin, sequence, bytes as u64);
            (event.clone(), bytes)
        });
    }

    fn trim(&mut self, log_bytes_max: u64) {
        for lane in Lane::ALL {
            while let Some(origin) = self.ledger.overfull(lane, log_bytes_max) {
                let mut of_origin = self.log.range((lane, origin, 0)..=(lane, origin, u64::MAX));
                let Some((&key, &(_, bytes))) = of_origin.next() else {
                    unreachable!("invariant: the ledger counts what the log holds");
                };
                self.log.remove(&key);
                self.ledger.remove(lane, origin, key.2, bytes as u64);
            }
        }
    }

    fn join_class(&mut self, class: &ClassPath, others: &[ClassPath], entries: &VersionVector) {
        if entries.is_empty() {
            return;
        }
        let versions = self.classes.entry(class.sort_key()).or_default();
        let joined = if others.is_empty() {
            &mut versions.entries
        } else {
            versions.conjunctions.entry(others.to_vec()).or_default()
        };
        joined.join(entries);
    }

    fn retire(&mut self, piece: &Retirement) {
        let image = |vector: &mut VersionVector| *vector = piece.retired.image(piece.name, vector);
        for (top, bucket) in &piece.floors {
            self.floors.get_mut(&(top.sort_key(), *bucket)).map(image);
        }
        for class in &piece.classes {
            if let Some(versions) = self.classes.get_mut(&class.sort_key()) {
                image(&mut versions.entries);
                versions.conjunctions.values_mut().for_each(image);
            }
        }
    }

    fn forget_run(&mut self, run: Incarnation) {
        self.own_incarnations.remove(&run);
        self.dropped.remove(&run);
        for lane in Lane::ALL {
            self.progress.remove(&(run, lane));
            self.ledger.forget(lane, run);
        }
        self.log.retain(|(_, origin, _), _| *origin != run);
    }

    fn join_floor(&mut self, floor: &Floor, evict: &[ClassPath]) {
        let key = (floor.top.sort_key(), floor.bucket);
        let joined = self.floors.entry(key).or_default();
        joined.join(&floor.vector);
        for class in evict {
            let key = class.sort_key();
            let Some(versions) = self.classes.get_mut(&key) else {
                continue;
            };
            if joined.dominates(&versions.entries) {
                versions.entries = VersionVector::new();
            }
            versions
                .conjunctions
                .retain(|_, entries| !joined.dominates(entries));
            if versions.entries.is_empty() && versions.conjunctions.is_empty() {
                self.classes.remove(&key);
            }
        }
    }

    fn register(&mut self, registrations: &[Registration], own: bool) {
        for registration in registrations {
            for class in &registration.classes {
                let key = (class.sort_key(), registration.address.clone());
                let expires = registration.expires.0;
                let entry = self.directory.entry(key).or_insert(Entry { expires, own });
                entry.expires = entry.expires.max(expires);
                entry.own |= own;
            }
        }
    }

    fn take(
        &mut self,
        classes: &[ClassPath],
        matching: Match,
        own_only: bool,
    ) -> (Vec<Address>, UnixSeconds) {
        let below = |class: &ClassPath, sort_key: &[u8]| {
            class.is_reserved() || covers(&class.sort_key(), sort_key)
        };
        // In a match of all, the class that stands for every class says nothing beside others.
        let mut classes = classes.to_vec();
        if matching == Match::All && !classes.iter().all(ClassPath::is_reserved) {
            classes.retain(|class| !class.is_reserved());
        }
        let wanted: Option<BTreeSet<Address>> = match matching {
            Match::Any => None,
            Match::All => {
                let sets = classes.iter().map(|class| {
                    self.directory
                        .keys()
                        .filter(|(sort_key, _)| below(class, sort_key))
                        .map(|(_, address)| address.clone())
                        .collect::<BTreeSet<_>>()
                });
                Some(sets.reduce(|a, b| &a & &b).unwrap_or_default())
            }
        };
        let mut taken = BTreeSet::new();
        let mut expires = 0;
        self.directory.retain(|(sort_key, address), entry| {
            let matches = classes.iter().any(|class| below(class, sort_key))
                && wanted.as_ref().is_none_or(|set| set.contains(address));
            if matches && (entry.own || !own_only) {
                taken.insert(address.clone());
                expires = expires.max(entry.expires);
            }
            !matches
        });
        (taken.into_iter().collect(), UnixSeconds(expires))
    }

    fn expire(&mut self, now: UnixSeconds, limit: usize) {
        let due = keys::slot_due(now.0);
        let mut lapsed: Vec<_> = self
            .directory
            .iter()
            .map(|(key, entry)| (keys::slot(entry.expires), key.clone()))
            .filter(|(slot, _)| *slot <= due)
            .collect();
        lapsed.sort();
        self.expiry_backlog = lapsed.len() > limit;
        for (_, key) in lapsed.into_iter().take(limit) {
            self.directory.remove(&key);
        }
    }

    fn recovered_class(sort_key: &[u8], versions: &Versions) -> RecoveredClass {
        let mut conjunctions: Vec<_> = versions.conjunctions.clone().into_iter().collect();
        conjunctions.sort_by_key(|(others, _)| keys::class(&path(sort_key), others));
        RecoveredClass {
            class: path(sort_key),
            entries: versions.entries.clone(),
            conjunctions,
        }
    }

    fn floors(&self) -> Vec<Floor> {
        self.floors
            .iter()
            .filter(|(_, vector)| !vector.is_empty())
            .map(|((top, bucket), vector)| Floor {
                top: path(top),
                bucket: *bucket,
                vector: vector.clone(),
            })
            .collect()
    }

    fn recover(&self) -> Recovered {
        let mut watermarks: BTreeMap<(Incarnation, Lane), u64> = self
            .ledger
            .lanes()
            .map(|(lane, origin)| ((origin, lane), 0))
            .collect();
        watermarks.extend(&self.progress);
        let progress = watermarks
            .into_iter()
            .map(|((origin, lane), watermark)| {
                let above = self.ranges_above(lane, origin, watermark);
                recover::extend(origin, lane, watermark, above)
            })
            .collect();
        Recovered {
            own_incarnations: self.own_incarnations.iter().copied().collect(),
            dropped: self
                .dropped
                .iter()
                .map(|(&run, &whole)| (run, whole))
                .collect(),
            members: self.members.values().cloned().collect(),
            roster: self.roster.clone(),
            intents: self.intents.values().cloned().collect(),
            classes: self
                .classes
                .iter()
                .map(|(sort_key, versions)| Self::recovered_class(sort_key, versions))
                .collect(),
            floors: self.floors(),
            shapes: self.shapes.values().cloned().collect(),
            progress,
            registrations: self.directory.len() as u64,
        }
    }

    fn ranges_above(&self, lane: Lane, origin: Incarnation, watermark: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let all = (lane, origin, 0)..=(lane, origin, u64::MAX);
        for (&(_, _, sequence), _) in self.log.range(all) {
            match ranges.last_mut() {
                _ if sequence <= watermark => {}
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => ranges.push((sequence, sequence)),
            }
        }
        ranges
    }

    fn addresses(
        &self,
        below: Option<&ClassPath>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        let below = below.map(ClassPath::sort_key);
        let after = after.map(Cursor::parse_addresses).transpose()?;
        let mut matching = self.directory.iter().filter(|(key, _)| {
            below.as_ref().is_none_or(|below| covers(below, &key.0))
                && after.as_ref().is_none_or(|after| *key > after)
        });
        let rows: Vec<_> = matching
            .by_ref()
            .take(limit.max(1))
            .map(|((sort_key, address), entry)| AddressRow {
                class: path(sort_key),
                address: address.clone(),
                expires: UnixSeconds(entry.expires),
            })
            .collect();
        let more = matching.next().is_some();
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| Cursor::addresses(&row.class.sort_key(), &row.address));
        Ok(Page { rows, next })
    }

    fn classes(
        &self,
        below: Option<&ClassPath>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<ClassRow>, StoreError> {
        let below = below.map(ClassPath::sort_key);
        let after = after.map(Cursor::parse_classes).transpose()?;
        let mut merged: BTreeMap<&SortKey, (u64, bool)> = BTreeMap::new();
        for sort_key in self.classes.keys() {
            merged.entry(sort_key).or_default().1 = true;
        }
        for (sort_key, _) in self.directory.keys() {
            merged.entry(sort_key).or_default().0 += 1;
        }
        let mut matching = merged.into_iter().filter(|(sort_key, _)| {
            below.as_ref().is_none_or(|below| covers(below, sort_key))
                && after.as_ref().is_none_or(|after| *sort_key > after)
        });
        let rows: Vec<_> = matching
            .by_ref()
            .take(limit.max(1))
            .map(|(sort_key, (addresses, bumped))| ClassRow {
                class: path(sort_key),
                addresses,
                bumped,
            })
            .collect();
        let more = matching.next().is_some();
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| Cursor::classes(&row.class.sort_key()));
        Ok(Page { rows, next })
    }

    fn read_log(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> LogRead {
        if first > last {
            return LogRead::Events(Vec::new());
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        let range = (lane, origin, first)..=(lane, origin, last);
        for (expected, (&(_, _, sequence), (event, size))) in
            (first..=last).zip(self.log.range(range))
        {
            if sequence != expected || (!events.is_empty() && bytes + size > bytes_max) {
                break;
            }
            bytes += size;
            events.push((sequence, event.clone()));
        }
        let dropped = self.ledger.get(lane, origin).dropped;
        let applied = self.progress.get(&(origin, lane)).copied().unwrap_or(0);
        if events.is_empty() && first <= dropped.max(applied) {
            return LogRead::Compacted;
        }
        LogRead::Events(events)
    }
}

impl Store for MemoryStore {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Taken>, StoreError> {
        let mut state = self.state();
        let taken = writes
            .iter()
            .filter_map(|write| state.apply(write))
            .collect();
        state.trim(self.log_bytes_max);
        Ok(taken)
    }

    fn read_log(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<LogRead, StoreError> {
        Ok(self.state().read_log(origin, lane, first, last, bytes_max))
    }

    fn addresses(
        &self,
        below: &ClassPath,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        self.state().addresses(Some(below), after, limit)
    }

    fn classes(
        &self,
        below: Option<&ClassPath>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<ClassRow>, StoreError> {
        self.state().classes(below, after, limit)
    }

    fn snapshot_versions(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<RecoveredClass>, StoreError> {
        let after = after.map(Cursor::parse_versions).transpose()?;
        let state = self.state();
        let mut matching = state
            .classes
            .iter()
            .filter(|(sort_key, _)| after.as_ref().is_none_or(|after| *sort_key > after));
        let rows: Vec<_> = matching
            .by_ref()
            .take(limit.max(1))
            .map(|(sort_key, versions)| State::recovered_class(sort_key, versions))
            .collect();
        let more = matching.next().is_some();
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| Cursor::versions(&row.class.sort_key()));
        Ok(Page { rows, next })
    }

    fn shapes(&self) -> Result<Vec<Shape>, StoreError> {
        Ok(self.state().shapes.values().cloned().collect())
    }

    fn floors(&self) -> Result<Vec<Floor>, StoreError> {
        Ok(self.state().floors())
    }

    fn snapshot_directory(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        self.state().addresses(None, after, limit)
    }

    fn registrations(&self) -> u64 {
        self.state().directory.len() as u64
    }

    fn expiry_backlog(&self) -> bool {
        self.state().expiry_backlog
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
