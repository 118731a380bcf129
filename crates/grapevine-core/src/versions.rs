//! What a sidecar knows of every class's bumps, and the tokens that follow from it.
//!
//! A class has *entries*: incarnation -> sequence of its latest bump there. To bound memory, the classes of a top-level
//! class are spread over [`BUCKETS`] buckets, each with a *floor*, also such a map. A bucket is evicted by a floor
//! event whose vector joins the old floor, every evicted entry and the event itself; an entry may be dropped only when
//! its bucket's floor dominates it. A token hashes, for each prefix of the class from the top down, the join of its
//! entries and its floor. Because the floor is always in the hash and is larger than all it replaced, a superseded
//! token cannot come back by eviction (G2), and sidecars that evicted at different moments agree (G12).
//!
//! Buckets belong to one top-level class, so an eviction over-invalidates within the offender's top-level class and
//! never a neighbour's (G10). Top-level classes themselves have no floor and are never evicted; their number is limited
//! where bumps enter. A class never bumped costs no memory.
//!
//! A *conjunction* is a bump that meant only addresses in all of several classes. It is held by its anchor, the smallest
//! of them in byte order, and counts for an address when all of its classes cover classes of the address. It lives and
//! is evicted with its anchor. One that its anchor's join covers says nothing: a later bump of the whole anchor was
//! issued by the same run. It must not count then, or a conjunction that arrives late would change the token until the
//! next eviction, which would bring the superseded one back (G2).
//!
//! The class [`EVERYTHING`] (`*`) stands for every class: its entries come first in every token. A cluster begins its
//! history with a bump of it, so that tokens of an earlier history, lost with its disks, do not come back (G2).
//!
//! Every change is stamped with the local *apply index*, a counter. A [`Stamp`] is its value at resolve, and a fill is
//! dead if anything that its token rests on changed later (G3, G4).

mod retirement;
mod stale;
mod top;

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use self::top::{Bucket, Class, Top};
use crate::criteria::SHAPE_MARK;
use crate::entries::{Entries, OriginIndex, Origins};
use crate::event::{Bump, Floor, Match};
use crate::id::{EventId, Incarnation};
use crate::names::{ClassPath, EVERYTHING, covers};
use crate::roster::Retired;
use crate::store::RecoveredClass;
use crate::token::{Token, TokenHasher};
use crate::vector::VersionVector;

/// Buckets of one top-level class.
pub const BUCKETS: u16 = 256;
/// The most conjunctions that one class anchors at its origin; beyond, a further one bumps the anchor as a whole.
pub const CONJUNCTIONS_MAX: usize = 64;

/// The local apply index at some moment: how much this run of this sidecar had applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// The bucket of a class below a top-level class.
pub fn bucket_of(path: &str) -> u16 {
    u16::try_from(xxh3_64(path.as_bytes()) % u64::from(BUCKETS)).expect("invariant: below BUCKETS")
}

/// Whether a class, of this top-level class, has the path of a shape's, below which those of its values lie.
fn is_shape(path: &str, top: &str) -> bool {
    let below = path.get(top.len() + 1..);
    below.is_some_and(|below| below.starts_with(SHAPE_MARK) && !below.contains('/'))
}

/// What is known of a prefix: the class, the bucket whose floor counts for it, and entries in place of the class's own.
type Part<'a> = (Option<&'a Class>, Option<&'a Bucket>, Option<&'a Entries>);

/// The versions of all classes.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    origins: Origins,
    tops: BTreeMap<Box<str>, Top>,
    classes: usize,
    applied: u64,
    stale: stale::Generations,
    /// What is retired here, and the name under which its bumps go on.
    retired: Retired,
    retirements: Option<Incarnation>,
}

impl Versions {
    /// Nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The apply index now.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.applied)
    }

    /// Advances the apply index without a change of its own, so that every stamp taken before lies below it.
    pub(crate) fn note_change(&mut self) {
        self.applied += 1;
    }

    /// Classes held in memory, top-level ones included.
    pub fn len(&self) -> usize {
        self.classes + self.tops.len()
    }

    /// Whether no class is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Top-level classes held, without the one that stands for all.
    pub fn tops(&self) -> usize {
        self.tops.len() - usize::from(self.everything().is_some())
    }

    /// Whether a top-level class is held.
    pub fn has_top(&self, class: &ClassPath) -> bool {
        self.tops.contains_key(class.top())
    }

    /// Conjunctions that a class anchors. An origin that finds [`CONJUNCTIONS_MAX`] of them bumps the anchor as a whole
    /// instead; receivers never decide that, for they would decide it differently (G12).
    pub fn conjunction_count(&self, anchor: &ClassPath) -> usize {
        self.find(anchor)
            .map_or(0, |class| class.conjunctions.len())
    }

    /// Whether a class anchors this conjunction already: one more bump of it takes no more room.
    pub(crate) fn has_conjunction(&self, anchor: &ClassPath, others: &[ClassPath]) -> bool {
        self.find(anchor)
            .is_some_and(|class| class.conjunctions.iter().any(|(known, ..)| known == others))
    }

    fn find(&self, class: &ClassPath) -> Option<&Class> {
        self.tops.get(class.top())?.find(class.as_str()).0
    }

    /// Applies a bump; tells whether any token changed. Applying it again, or after a floor that dominates it, changes
    /// nothing.
    pub fn apply_bump(&mut self, id: EventId, bump: &Bump) -> bool {
        self.applied += 1;
        if self.retired.head(id.origin).is_some() {
            let alone = [(id.origin, id.sequence)].into_iter().collect();
            let image = self.image(&alone);
            return image.iter().fold(false, |changed, (origin, sequence)| {
                let part = EventId { origin, sequence };
                self.apply_part(part, bump) | changed
            });
        }
        self.apply_part(id, bump)
    }

    fn apply_part(&mut self, id: EventId, bump: &Bump) -> bool {
        let origin = self.origins.intern(id.origin);
        match bump.matching {
            Match::Any => bump.classes.iter().fold(false, |changed, class| {
                self.raise(class, origin, id.sequence) | changed
            }),
            Match::All => {
                let (anchor, others) = bump
                    .classes
                    .split_first()
                    .expect("invariant: a bump names a class");
                self.raise_conjunction(anchor, others, origin, id.sequence)
            }
        }
    }

    /// Applies a floor event: joins it and drops what it dominates. `id` is the event's own, which the vector of a
    /// well-formed floor covers; it is joined all the same.
    pub fn apply_floor(&mut self, id: EventId, floor: &Floor) -> bool {
        self.applied += 1;
        self.stale.drop_top(floor.top.as_str());
        let mut vector = floor.vector.clone();
        vector.raise(id.origin, id.sequence);
        let vector = self.image(&vector);
        let (applied, origins) = (self.applied, &mut self.origins);
        let top = self.tops.entry(floor.top.as_str().into()).or_default();
        let bucket = top.buckets.entry(floor.bucket).or_default();
        let changed = bucket.floor.join(&vector, origins);
        if changed {
            bucket.floor_changed = applied;
        }
        let before = bucket.classes.len();
        bucket.drop_dominated();
        let dropped = before - bucket.classes.len();
        top.classes -= dropped;
        self.classes -= dropped;
        changed
    }

    /// Joins a class's state from a snapshot or the store; tells whether any token changed.
    pub fn join_class(&mut self, recovered: &RecoveredClass) -> bool {
        let joint = recovered.conjunctions.iter();
        let parts = joint.map(|(others, entries)| (&others[..], entries));
        [(&[][..], &recovered.entries)]
            .into_iter()
            .chain(parts)
            .fold(false, |changed, (others, entries)| {
                self.join_part(&recovered.class, others, entries) | changed
            })
    }

    /// Joins a class's own entries, or with `others` those of a conjunction that it anchors; tells whether any token changed.
    pub(crate) fn join_part(
        &mut self,
        class: &ClassPath,
        others: &[ClassPath],
        entries: &VersionVector,
    ) -> bool {
        self.applied += 1;
        // What is joined may hide a hard bump under a soft one.
        self.stale.drop_class(class.as_str());
        self.image(entries)
            .iter()
            .fold(false, |changed, (origin, sequence)| {
                let origin = self.origins.intern(origin);
                let raised = if others.is_empty() {
                    self.raise(class, origin, sequence)
                } else {
                    self.raise_conjunction(class, others, origin, sequence)
                };
                raised | changed
            })
    }

    /// The bumps of a class itself, and all that its floor stands for.
    pub(crate) fn vector_of(&self, class: &ClassPath) -> VersionVector {
        let mut vector = VersionVector::new();
        if let Some(top) = self.tops.get(class.top()) {
            let (class, bucket) = top.find(class.as_str());
            let entries = class.map(|class| &class.entries);
            for entries in entries
                .into_iter()
                .chain(bucket.map(|bucket| &bucket.floor))
            {
                vector.join(&entries.to_vector(&self.origins));
            }
        }
        vector
    }

    /// Joins a floor from a snapshot or the store; tells whether any token changed.
    pub fn join_floor(&mut self, floor: &Floor) -> bool {
        match floor.vector.iter().next() {
            None => false,
            Some((origin, sequence)) => self.apply_floor(EventId { origin, sequence }, floor),
        }
    }

    /// The floor event that would evict a bucket now: the join of its floor, its entries and the event itself.
    pub fn eviction(&self, id: EventId, top: &ClassPath, bucket: u16) -> Floor {
        let mut vector = VersionVector::new();
        vector.raise(id.origin, id.sequence);
        if let Some(found) = self
            .tops
            .get(top.as_str())
            .and_then(|top| top.buckets.get(&bucket))
        {
            vector.join(&found.floor.to_vector(&self.origins));
            for class in found.classes.values() {
                vector.join(&class.entries.to_vector(&self.origins));
                for (_, entries, _) in &class.conjunctions {
                    vector.join(&entries.to_vector(&self.origins));
                }
            }
        }
        Floor {
            top: top.clone(),
            bucket,
            vector,
        }
    }

    /// The classes held in a bucket, in byte order.
    pub fn bucket_classes(&self, top: &ClassPath, bucket: u16) -> Vec<ClassPath> {
        let found = self
            .tops
            .get(top.as_str())
            .and_then(|top| top.buckets.get(&bucket));
        let mut classes: Vec<_> = found
            .into_iter()
            .flat_map(|bucket| bucket.classes.keys())
            .filter_map(|path| ClassPath::parse(path).ok())
            .collect();
        classes.sort_unstable();
        classes
    }

    /// Which buckets to evict to come back within bounds: the fullest ones of the largest top-level class over its own
    /// quota, else, when all together are too many, of the largest one that grew since all were within bounds: a
    /// neighbour that did not grow does not pay. None when within bounds.
    pub fn overfull(&mut self, per_top_max: usize, total_max: usize) -> Vec<(ClassPath, u16)> {
        let largest = self.tops.values().map(|top| top.classes).max().unwrap_or(0);
        let over_quota = largest > per_top_max;
        if !over_quota && self.classes <= total_max {
            self.tops.values_mut().for_each(|top| top.grown = false);
            return Vec::new();
        }
        let paying = self.tops.iter().filter(|(_, top)| over_quota || top.grown);
        let Some((path, top)) = paying.max_by_key(|(_, top)| top.classes) else {
            return Vec::new();
        };
        let excess = top.classes.saturating_sub(per_top_max);
        let excess = excess.max(self.classes.saturating_sub(total_max));
        let buckets = top.fullest(excess).into_iter();
        buckets
            .filter_map(|bucket| Some((ClassPath::parse(path).ok()?, bucket)))
            .collect()
    }

    /// The token of an address's classes, which need not be sorted. `salt` is set while catching up.
    pub fn token(&self, classes: &[ClassPath], salt: Option<Incarnation>) -> Token {
        self.token_of(classes, salt, |_| None)
    }

    /// The same, with other entries in the place of some classes' own.
    fn token_of<'a>(
        &'a self,
        classes: &[ClassPath],
        salt: Option<Incarnation>,
        instead: impl Fn(&str) -> Option<&'a Entries>,
    ) -> Token {
        let mut hasher = TokenHasher::new(salt);
        let sorted;
        let classes = if classes.is_sorted_by(|a, b| a < b) {
            classes
        } else {
            sorted = sorted_classes(classes);
            &sorted[..]
        };
        hasher.path(EVERYTHING);
        let part = (self.everything(), None, instead(EVERYTHING));
        self.hash_class(&mut hasher, part, classes, &[]);
        for class in classes {
            let top_path = class.top();
            let top = self.tops.get(top_path);
            let mut told = Vec::new();
            for prefix in class.prefixes() {
                hasher.path(prefix);
                let is_top = prefix.len() == top_path.len();
                let (found, floor) = match top {
                    None => (None, None),
                    Some(top) if is_top => (Some(&top.class), None),
                    Some(top) => top.find_below(prefix),
                };
                let part = (found, floor, instead(prefix));
                self.hash_class(&mut hasher, part, classes, &told);
                if is_shape(prefix, top_path) {
                    told = self.joined(part, &told);
                }
            }
        }
        hasher.finish()
    }

    /// The class that stands for every class; none of its buckets is ever used.
    fn everything(&self) -> Option<&Class> {
        self.tops.get(EVERYTHING).map(|top| &top.class)
    }

    /// The bumps of everything.
    pub fn everything_bumps(&self) -> VersionVector {
        self.everything().map_or_else(VersionVector::new, |class| {
            class.entries.to_vector(&self.origins)
        })
    }

    /// What was bumped under a prefix, but for what is `told` already.
    fn joined(
        &self,
        (class, floor, instead): Part<'_>,
        told: &[(Incarnation, u64)],
    ) -> Vec<(Incarnation, u64)> {
        let entries = instead.or(class.map(|class| &class.entries));
        let floor = floor.map(|bucket| &bucket.floor);
        let empty = Entries::default();
        let entries = entries.unwrap_or(&empty);
        let mut all = entries.joined_by_incarnation([floor], &self.origins);
        all.retain(|(origin, sequence)| {
            let at = told.binary_search_by_key(origin, |(origin, _)| *origin);
            !at.is_ok_and(|at| told[at].1 >= *sequence)
        });
        all
    }

    /// Hashes what was bumped under a prefix, but for what is `told` already: by the class of a shape, above it. A change of rows may be
    /// counted there by one sidecar, which did not know the shape when it applied it, and below as well by another, which did.
    fn hash_class(
        &self,
        hasher: &mut TokenHasher,
        part: Part<'_>,
        of: &[ClassPath],
        told: &[(Incarnation, u64)],
    ) {
        let (class, floor, instead) = part;
        let floor = floor.map(|bucket| &bucket.floor);
        let entries = instead.or(class.map(|class| &class.entries));
        let is_joined = floor.is_some_and(|floor| !floor.is_empty()) || !told.is_empty();
        if !is_joined && entries.is_none_or(|entries| entries.len() <= 1) {
            // By far the most prefixes: never bumped, or by one run only. There is nothing to put in order.
            let entry = entries.and_then(|entries| entries.first(&self.origins));
            hasher.count(usize::from(entry.is_some()));
            if let Some((origin, sequence)) = entry {
                hasher.entry(origin, sequence);
            }
        } else {
            let all = self.joined(part, told);
            hasher.count(all.len());
            for (origin, sequence) in all {
                hasher.entry(origin, sequence);
            }
        }
        let conjunctions = class.map_or(&[][..], |class| &class.conjunctions);
        if conjunctions.is_empty() {
            hasher.count(0);
            return;
        }
        let empty = Entries::default();
        let entries = entries.unwrap_or(&empty);
        let met: Vec<_> = conjunctions
            .iter()
            .filter(|(others, joint, _)| {
                // A covered one says nothing new, and other sidecars may have dropped it or never kept it.
                meets(others, of) && !joint.covered_by(entries, floor)
            })
            .collect();
        hasher.count(met.len());
        for (others, joint, _) in met {
            hasher.count(others.len());
            for other in others {
                hasher.path(other.as_str());
            }
            // The anchor's join is joined here too, so that what it covers makes no difference.
            let joined = joint.joined_by_incarnation([Some(entries), floor], &self.origins);
            hasher.count(joined.len());
            for (origin, sequence) in joined {
                hasher.entry(origin, sequence);
            }
        }
    }

    /// Whether anything that the classes' token rests on changed after the stamp.
    pub fn changed_since(&self, classes: &[ClassPath], stamp: Stamp) -> bool {
        self.last_change(classes) > stamp
    }

    /// When anything that the classes' token rests on changed last.
    pub(crate) fn last_change(&self, classes: &[ClassPath]) -> Stamp {
        let mut last = 0;
        self.any_part(classes, |class, floor| {
            last = last.max(floor.map_or(0, |bucket| bucket.floor_changed));
            if let Some(class) = class {
                let met = class
                    .conjunctions
                    .iter()
                    .filter(|(others, _, changed)| *changed > last && meets(others, classes));
                let joint = met.map(|(_, _, changed)| *changed).max();
                last = last.max(class.changed).max(joint.unwrap_or(0));
            }
            false
        });
        Stamp(last)
    }

    /// Whether a class is held: a bump of it is not covered by its floor.
    pub(crate) fn holds(&self, class: &ClassPath) -> bool {
        self.find(class).is_some()
    }

    /// Whether anything that the classes' token rests on is an event which the vector does not cover.
    pub fn exceeds(&self, classes: &[ClassPath], vector: &VersionVector) -> bool {
        let uncovered = |entries: &Entries| !entries.covered_by_vector(vector, &self.origins);
        self.any_part(classes, |class, floor| {
            class.is_some_and(|class| uncovered(&class.entries))
                || floor.is_some_and(|bucket| uncovered(&bucket.floor))
                || class.is_some_and(|class| {
                    class
                        .conjunctions
                        .iter()
                        .any(|(others, entries, _)| meets(others, classes) && uncovered(entries))
                })
        })
    }

    fn any_part(
        &self,
        classes: &[ClassPath],
        mut test: impl FnMut(Option<&Class>, Option<&Bucket>) -> bool,
    ) -> bool {
        if test(self.everything(), None) {
            return true;
        }
        classes.iter().any(|class| {
            self.tops.get(class.top()).is_some_and(|top| {
                class.prefixes().any(|prefix| {
                    let (class, floor) = top.find(prefix);
                    test(class, floor)
                })
            })
        })
    }

    fn raise(&mut self, class: &ClassPath, origin: OriginIndex, sequence: u64) -> bool {
        let applied = self.applied;
        let Some(found) = self.slot(class, origin, sequence) else {
            return false;
        };
        let changed = found.entries.raise(origin, sequence);
        if changed {
            found.changed = applied;
            // What the whole class's bumps cover says nothing any more, and is refused should it come again.
            let entries = &found.entries;
            found
                .conjunctions
                .retain(|(_, joint, _)| !entries.dominates(joint));
        }
        changed
    }

    fn raise_conjunction(
        &mut self,
        anchor: &ClassPath,
        others: &[ClassPath],
        origin: OriginIndex,
        sequence: u64,
    ) -> bool {
        let applied = self.applied;
        let Some(found) = self.slot(anchor, origin, sequence) else {
            return false;
        };
        if found.entries.get(origin) >= sequence {
            return false;
        }
        let at = match found
            .conjunctions
            .binary_search_by(|(known, _, _)| known.as_slice().cmp(others))
        {
            Ok(at) => at,
            Err(at) => {
                found
                    .conjunctions
                    .insert(at, (others.to_vec(), Entries::default(), 0));
                at
            }
        };
        let (_, entries, changed_at) = &mut found.conjunctions[at];
        let changed = entries.raise(origin, sequence);
        if changed {
            *changed_at = applied;
        }
        changed
    }

    /// The class to raise, made if need be; `None` when its floor covers the event already.
    fn slot(
        &mut self,
        class: &ClassPath,
        origin: OriginIndex,
        sequence: u64,
    ) -> Option<&mut Class> {
        if !self.tops.contains_key(class.top()) {
            self.tops.insert(class.top().into(), Top::default());
        }
        let top = self
            .tops
            .get_mut(class.top())
            .expect("invariant: just made");
        if class.is_top() {
            return Some(&mut top.class);
        }
        let bucket = top.buckets.entry(bucket_of(class.as_str())).or_default();
        if bucket.floor.get(origin) >= sequence {
            return None;
        }
        if !bucket.classes.contains_key(class.as_str()) {
            bucket
                .classes
                .insert(class.as_str().into(), Class::default());
            top.classes += 1;
            top.grown = true;
            self.classes += 1;
        }
        bucket.classes.get_mut(class.as_str())
    }
}

/// Whether every one of a conjunction's other classes covers a class of the address.
fn meets(others: &[ClassPath], of: &[ClassPath]) -> bool {
    others.iter().all(|other| {
        other.is_reserved()
            || of
                .iter()
                .any(|class| covers(other.as_str(), class.as_str()))
    })
}

/// Sorted in byte order, without repetitions: the canonical form of an address's classes.
pub fn sorted_classes(classes: &[ClassPath]) -> Vec<ClassPath> {
    let mut sorted = classes.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

#[cfg(test)]
mod tests;
