//! Whether this sidecar can go on as a member, and what it says where it cannot.

use std::time::Duration;

use crate::id::Incarnation;
use crate::machine::Core;
use crate::names::NodeId;
use crate::roster::{Mark, Memory};

impl Core {
    /// Whether this sidecar waits to go on by a view whose only member is its node: how many of those that are expected have
    /// named that view or an earlier one, itself among them. Its disk was lost, so it has the view from others, and whom it let in since
    /// may be cut off and know a later one.
    pub(in crate::machine) fn waits_for_expected(&self) -> Option<usize> {
        let view = self.views.view();
        if !self.views.roster.is_lent() || !view.is_lone(&self.config.node_id) {
            return None;
        }
        let no_later = |mark: &Mark| mark.history != view.history || mark.number <= view.number;
        let members = self.members.iter().filter(|member| member.has_link());
        let met = members.filter(|member| member.mark.as_ref().is_some_and(no_later));
        let met = met.count() + 1;
        (met < self.config.expected_members).then_some(met)
    }

    /// How long a member waits for a majority of its own history before it follows another one.
    pub(super) fn patience_for(&self, history: Option<Incarnation>) -> Duration {
        let times = if history < self.views.view().history {
            1
        } else {
            3
        };
        self.config.member_timeout * times
    }

    /// Whether too few of this sidecar's history are there to have it go on.
    pub(in crate::machine) fn is_stuck(&self) -> bool {
        let view = self.views.view();
        if view.number == 0 {
            // There is no history yet that could go on.
            return true;
        }
        let others = self.seats().with_us;
        if !view.seats.contains_key(&self.config.node_id) {
            others == 0
        } else if self.views.roster.memory() == Memory::Sure {
            others + 1 < view.majority()
        } else {
            others < view.recovery()
        }
    }

    /// Why this run is no member; `None` if it is one, or if there are none yet.
    pub(in crate::machine) fn why_no_seat(&self) -> Option<String> {
        let view = self.views.view();
        if view.number == 0 || self.seated() {
            return None;
        }
        let number = view.number;
        if !view.seats.contains_key(&self.config.node_id) {
            return Some(format!(
                "this run has no seat in the roster yet (view {number})"
            ));
        }
        if let Some(reason) = self.why_left_behind() {
            return Some(reason);
        }
        if let Some(met) = self.waits_for_expected() {
            let expected = self.config.expected_members;
            return Some(format!(
                "this node was the only member, and its disk does not know of it: it was lost, or put back from an older copy, or this node was \
                 down when the others left. {met} of {expected} expected members know of no later view than {number}; \
                 forget one that is gone for good, with --alone, to go on without it"
            ));
        }
        let (linked, needed) = (self.linked_seats(), view.recovery());
        if self.views.roster.memory() == Memory::Sure || linked >= needed {
            return Some(format!(
                "this run is being given its node's seat in the roster (view {number})"
            ));
        }
        let own = &self.config.node_id;
        let missing = view
            .seats
            .keys()
            .filter(|node| *node != own && !self.is_linked(node));
        let missing: Vec<_> = missing.map(NodeId::as_str).take(5).collect();
        Some(format!(
            "after a start {needed} other members of the roster's view {number} must be asked, and {linked} are connected; missing: {}",
            missing.join(", ")
        ))
    }

    /// Where others of this roster have gone on without this run, by an operator's word or after a split: whom it follows.
    fn why_left_behind(&self) -> Option<String> {
        let view = self.views.view();
        if !self.is_stuck() {
            return None;
        }
        let mut linked = self.members.iter().filter(|member| member.linked());
        let (node, mark) = linked.find_map(|member| {
            let mark = member.mark.filter(|mark| mark.number > 0)?;
            let elsewhere = mark.history != view.history;
            elsewhere.then_some((&member.hello.node_id, mark))
        })?;
        let patience = self.patience_for(mark.history);
        Some(format!(
            "{node} has gone on in another history of the roster; this run joins it after {patience:?} without a majority of its own (view {})",
            view.number
        ))
    }
}
