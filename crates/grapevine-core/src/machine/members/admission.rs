//! Who may introduce itself: the names and runs of nodes are nobody else's.

use super::{MEMBERS_MAX, Members};
use crate::id::{Incarnation, Time};
use crate::machine::Core;
use crate::machine::effects::PeerHello;
use crate::names::NodeId;
use crate::roster::View;

/// Why a peer is not let in.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AdmitError {
    /// It carries this sidecar's own name.
    #[error(
        "node id {node_id} is this sidecar's own, incarnation {incarnation}: give every sidecar its own node.id"
    )]
    OwnNodeId {
        /// The name.
        node_id: NodeId,
        /// This sidecar's run.
        incarnation: Incarnation,
    },
    /// It carries a linked member's name.
    #[error(
        "node id {node_id} is in use by incarnation {incarnation} at {peer_address}, heard {silent_ms} ms ago: give every sidecar its own node.id"
    )]
    NodeIdInUse {
        /// The name.
        node_id: NodeId,
        /// Who uses it.
        incarnation: Incarnation,
        /// Where.
        peer_address: String,
        /// Since when it has been silent, in milliseconds.
        silent_ms: u128,
    },
    /// It carries the run of another node.
    #[error(
        "incarnation {incarnation} is a run of {holder} and not of {node_id}: every start takes a new one, and no two nodes share one"
    )]
    RunOfAnother {
        /// The name it gives.
        node_id: NodeId,
        /// The run it claims.
        incarnation: Incarnation,
        /// Whose it is.
        holder: NodeId,
    },
    /// There are too many members.
    #[error("{limit} members are known already; the limit is {limit}")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl Members {
    /// Whose run it is, if it is not that of the node which introduces itself with it. Words come with their speaker's run
    /// alone: if two nodes had the same, the one's words would count for the other.
    pub(super) fn run_of_another(&self, hello: &PeerHello, view: &View) -> Option<NodeId> {
        let seats = view.seats.iter();
        let known = self.iter().map(|member| &member.hello);
        let known = known.map(|known| (&known.node_id, &known.incarnation));
        let former = self.former.iter();
        let former = former.map(|former| (&former.node_id, &former.incarnation));
        let mut runs = seats.chain(known).chain(former);
        runs.find(|(node, run)| **run == hello.incarnation && **node != hello.node_id)
            .map(|(node, _)| node.clone())
    }
}

impl Core {
    /// Whether a peer that introduces itself may have a link.
    pub fn admit_peer(&self, hello: &PeerHello, now: Time) -> Result<(), AdmitError> {
        if hello.node_id == self.config.node_id && hello.incarnation != self.config.incarnation {
            let (node_id, incarnation) = (hello.node_id.clone(), self.config.incarnation);
            return Err(AdmitError::OwnNodeId {
                node_id,
                incarnation,
            });
        }
        let own = hello.incarnation == self.config.incarnation;
        let own = (own && hello.node_id != self.config.node_id).then_some(&self.config.node_id);
        let another = || self.members.run_of_another(hello, self.views.view());
        if let Some(holder) = own.cloned().or_else(another) {
            return Err(AdmitError::RunOfAnother {
                node_id: hello.node_id.clone(),
                incarnation: hello.incarnation,
                holder,
            });
        }
        let Some(member) = self.members.by_node(&hello.node_id) else {
            return if self.members.len() < MEMBERS_MAX {
                Ok(())
            } else {
                Err(AdmitError::TooMany { limit: MEMBERS_MAX })
            };
        };
        let silent = now.since(member.last_heard);
        let other = member.hello.incarnation != hello.incarnation;
        if other && member.inbound && silent < self.config.max_staleness * 2 {
            return Err(AdmitError::NodeIdInUse {
                node_id: hello.node_id.clone(),
                incarnation: member.hello.incarnation,
                peer_address: member.hello.peer_address.clone(),
                silent_ms: silent.as_millis(),
            });
        }
        Ok(())
    }
}
