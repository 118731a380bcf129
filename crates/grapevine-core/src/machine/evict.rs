//! Floors: how a table of classes that is over its limits comes back within them.
//!
//! A bucket is evicted by an own floor event, which travels like any other. Buckets of one top-level class are evicted
//! together, as many as its excess needs, and none more before those are flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Core;
use super::effects::Effects;
use super::flushed::Pending;
use crate::event::{BumpEvent, Floor};
use crate::id::EventId;
use crate::names::ClassPath;
use crate::store::{Recovered, Write};
use crate::vector::VersionVector;
use crate::versions::bucket_of;

impl Core {
    /// Evicts buckets if there are too many classes, by the limits and this divisor's share more.
    pub(super) fn evict_if_overfull(&mut self, spare: Option<usize>, effects: &mut Effects) {
        let limits = self.config.limits;
        let widened = |limit: usize| limit + spare.map_or(0, |divisor| limit / divisor);
        // One that leaves tells its last head when it does: nothing may follow.
        if self.evicting > 0 || self.draining {
            return;
        }
        let overfull = self.versions.overfull(
            widened(limits.classes_per_top_max),
            widened(limits.classes_max),
        );
        for (top, bucket) in overfull {
            self.evict(&top, bucket, effects);
        }
    }

    fn evict(&mut self, top: &ClassPath, bucket: u16, effects: &mut Effects) {
        self.evicting += 1;
        self.counters.floors_own += 1;
        let id = self.next_bump_id();
        let floor = self.versions.eviction(id, top, bucket);
        let mut evict = self.versions.bucket_classes(top, bucket);
        evict.extend(self.unflushed_classes(top, bucket));
        let event = Arc::new(BumpEvent::Floor(floor.clone()));
        let first = self.rewritten_first(top, bucket, &evict);
        let meaning = first.into_iter().chain([Write::JoinFloor { floor, evict }]);
        self.write_own(id, (event.clone(), event), meaning, None, effects);
    }

    /// Removes stored classes that a stored floor dominates: nothing else would ever name them again.
    pub(super) fn evict_dominated(&mut self, recovered: &Recovered, effects: &mut Effects) {
        let mut evict: BTreeMap<(&str, u16), Vec<ClassPath>> = BTreeMap::new();
        for class in recovered.classes.iter().map(|class| &class.class) {
            if !class.is_top() && !self.versions.holds(class) {
                let bucket = (class.top(), bucket_of(class.as_str()));
                evict.entry(bucket).or_default().push(class.clone());
            }
        }
        let writes: Vec<_> = evict
            .into_values()
            .filter_map(|evict| {
                let class = evict.first()?;
                let floor = Floor {
                    top: ClassPath::parse(class.top()).ok()?,
                    bucket: bucket_of(class.as_str()),
                    vector: VersionVector::new(),
                };
                Some(Write::JoinFloor { floor, evict })
            })
            .collect();
        if !writes.is_empty() {
            self.write(effects, writes, Pending::Nothing);
        }
    }

    /// Applies a flushed own floor. A class that came into the bucket after the floor was written and is covered by it
    /// has a record that the floor's own write did not name: it goes with a second one.
    pub(super) fn apply_own_floor(
        &mut self,
        id: EventId,
        event: &BumpEvent,
        effects: &mut Effects,
    ) {
        let BumpEvent::Floor(Floor {
            top,
            bucket,
            vector,
        }) = event
        else {
            return;
        };
        let before = self.versions.bucket_classes(top, *bucket);
        self.apply_event(id, event);
        self.evicting -= 1;
        let left: BTreeSet<_> = self
            .versions
            .bucket_classes(top, *bucket)
            .into_iter()
            .collect();
        let evict: Vec<_> = before
            .into_iter()
            .filter(|class| !left.contains(class))
            .collect();
        if evict.is_empty() {
            return;
        }
        let floor = Floor {
            top: top.clone(),
            bucket: *bucket,
            vector: vector.clone(),
        };
        let first = self.rewritten_first(top, *bucket, &evict);
        let writes = first.into_iter().chain([Write::JoinFloor { floor, evict }]);
        self.write(effects, writes, Pending::Nothing);
    }

    /// The classes of a bucket that own bumps are being written for: a floor with a later number covers them, too.
    fn unflushed_classes(&self, top: &ClassPath, bucket: u16) -> Vec<ClassPath> {
        let bumps = self
            .pending
            .iter()
            .filter_map(|(_, pending)| match pending {
                Pending::OwnBump { meant, .. } => match &**meant {
                    BumpEvent::Bump(bump) => Some(bump.classes.clone()),
                    BumpEvent::Shape(new) => Some(vec![new.shape.class()]),
                    BumpEvent::Floor(_) | BumpEvent::Rows(_) => None,
                },
                _ => None,
            });
        bumps
            .flatten()
            .filter(|class| class.top() == top.as_str() && !class.is_top())
            .filter(|class| bucket_of(class.as_str()) == bucket)
            .collect()
    }
}
