//! Reads of leaves: of one, or of several as one list, with the rows that writes under way will add.

use super::{Present, leaf_shape};
use crate::id::Time;
use crate::index::{Combine, Found, LeafKey, Member, Members, Place, covers, find};
use crate::lease::Lease;
use crate::machine::Core;
use crate::machine::effects::{LeafAnswer, LeafQuery};

impl Core {
    /// Reads a part of a leaf, or of several.
    pub fn read_leaf(&self, query: &LeafQuery, now: Time) -> LeafAnswer {
        let bypassed = query.leaves.iter().any(|leaf| {
            let policy = self.config.policies.of(&leaf.class);
            self.bypass(policy.strategy, policy.on_unknown, now)
        });
        if bypassed {
            return LeafAnswer::Bypass;
        }
        let leaves: Vec<_> = query.leaves.iter().map(|leaf| self.present(leaf)).collect();
        let numbered = || leaves.iter().enumerate();
        if leaves.iter().any(Option::is_none) {
            let absent = numbered().filter(|(_, leaf)| leaf.is_none());
            return LeafAnswer::Absent(absent.map(|(number, _)| number).collect());
        }
        let present: Vec<&Present> = leaves.iter().copied().flatten().collect();
        let found = self.find(query, &present, now);
        let evidence = Lease {
            incarnation: self.config.incarnation,
            stamp: self.versions.stamp(),
            ends: now.plus(self.config.lease_duration),
        };
        let refill = |leaf: &Present| {
            let members = &leaf.members;
            let short = !members.is_whole() && members.len() < leaf.keep;
            short || !found.whole && (found.filtered > 0 || !covers(members, &query.window))
        };
        let refill = present.iter().enumerate().filter(|(_, leaf)| refill(leaf));
        LeafAnswer::Found {
            refill: refill.map(|(number, _)| number).collect(),
            found,
            evidence,
        }
    }

    fn find(&self, query: &LeafQuery, present: &[&Present], now: Time) -> Found {
        let coming = self.coming(query, now);
        let members = present.iter().map(|leaf| &leaf.members);
        let members: Vec<_> = members.chain(&coming).collect();
        let of_leaves = query.leaves.iter();
        // Only for these it is looked up what is known of the rows.
        let shapes: Vec<_> = of_leaves
            .map(|leaf| leaf_shape(&leaf.class).ok().filter(|_| query.verified))
            .collect();
        let newest = &self.leaves.newest;
        let keep = |number: usize, place: &Place, member: Member| {
            let shape = shapes.get(number).and_then(Option::as_ref);
            shape.is_none_or(|shape| {
                let class = &query.leaves[number].class;
                newest.may_be_in(shape, class, &place.id, member.version)
            })
        };
        find(&members, query.combine, &query.window, keep)
    }

    /// What writes under way will add. It is not shown in an intersection, of which it would have to be known leaf by leaf.
    fn coming(&self, query: &LeafQuery, now: Time) -> Vec<Members> {
        let coming = &self.leaves.coming;
        if coming.is_empty() || query.combine == Combine::All {
            return Vec::new();
        }
        let applied = |event| self.progress.has_through(event);
        let leaves = query.leaves.iter();
        let members = leaves.filter_map(|leaf| coming.members(leaf, now, applied));
        members.collect()
    }

    /// What is present of a leaf, if all changes are accounted for.
    fn present(&self, key: &LeafKey) -> Option<&Present> {
        let present = self.leaves.table.get(key)?.present.as_ref()?;
        let class = std::slice::from_ref(&key.class);
        let current = !self.versions.changed_since(class, present.stamp);
        (current && self.shapes_are_known(class)).then_some(present)
    }
}
