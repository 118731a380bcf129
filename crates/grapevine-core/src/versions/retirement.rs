//! Retired runs: what was bumped by them counts under the name of the history's retirements, here as in whatever comes.
//!
//! All entries are gone through once, and origins that nothing refers to any more lose their index: however many runs a
//! cluster has seen, memory holds those that it follows. What changes is told by buckets, for the store has it yet to
//! write (`machine/retire.rs`). What soft bumps replaced is forgotten: nothing stale is served then.

use super::Versions;
use super::top::Class;
use crate::entries::Moving;
use crate::id::Incarnation;
use crate::names::ClassPath;
use crate::roster::Retired;
use crate::store::Write;
use crate::vector::VersionVector;

/// What retiring has changed: each top-level class itself (no bucket), and each bucket.
pub(crate) type Rewritten = Vec<(ClassPath, Option<u16>)>;

impl Versions {
    /// A vector as it counts here.
    pub(crate) fn image(&self, vector: &VersionVector) -> VersionVector {
        match self.retirements {
            Some(name) => self.retired.image(name, vector),
            None => vector.clone(),
        }
    }

    /// Has writes of classes say what counts here.
    pub(crate) fn map_writes(&self, writes: &mut [Write]) {
        for write in writes {
            if let Write::JoinClass { entries, .. } = write {
                *entries = self.image(entries);
            }
        }
    }

    /// Whether nothing is retired here.
    pub(crate) fn has_no_retirements(&self) -> bool {
        self.retired.is_identity()
    }

    /// Origins that memory is spent on.
    pub fn origins(&self) -> usize {
        self.origins.len()
    }

    /// Has these retirements count from now on, in place of those before.
    pub fn retire(&mut self, retired: Retired, name: Incarnation) -> Vec<(ClassPath, Option<u16>)> {
        let known = self.retirements == Some(name) && self.retired.has_all(&retired);
        self.retired = retired;
        self.retirements = Some(name);
        if known || self.retired.is_identity() {
            return Vec::new();
        }
        let retired = self.retired.clone();
        self.rewrite(&retired, name)
    }

    fn rewrite(&mut self, retired: &Retired, name: Incarnation) -> Rewritten {
        self.applied += 1;
        self.stale.clear();
        let applied = self.applied;
        let mut moving = Moving::new(&self.origins, retired, name);
        let mut rewritten = Vec::new();
        for (path, top) in &mut self.tops {
            let path = ClassPath::parse(path);
            let changed = top.class.move_entries(&mut moving, applied);
            rewritten.extend(
                path.iter()
                    .filter(|_| changed)
                    .map(|path| (path.clone(), None)),
            );
            for (&number, bucket) in &mut top.buckets {
                let floor = moving.apply(&mut bucket.floor);
                if floor {
                    bucket.floor_changed = applied;
                }
                let classes = bucket.classes.values_mut();
                let changed = classes.fold(floor, |changed, class| {
                    class.move_entries(&mut moving, applied) | changed
                });
                let concerned = path.iter().filter(|_| changed);
                rewritten.extend(concerned.map(|path| (path.clone(), Some(number))));
            }
        }
        self.origins = moving.finish();
        rewritten
    }
}

impl Class {
    /// Tells whether anything says something else now.
    fn move_entries(&mut self, moving: &mut Moving<'_>, applied: u64) -> bool {
        let own = moving.apply(&mut self.entries);
        if own {
            self.changed = applied;
        }
        let mut any = own;
        for (_, entries, changed_at) in &mut self.conjunctions {
            if moving.apply(entries) {
                *changed_at = applied;
                any = true;
            }
        }
        any
    }
}
