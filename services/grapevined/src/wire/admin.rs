//! The admin service's messages.

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::MemberView;
use grapevine_core::names::NodeId;
use grapevine_core::roster::View;
use grapevine_proto::v1;

use super::incarnation;

/// A member other than this sidecar.
pub(crate) fn member(
    view: MemberView,
    policy_digest: u64,
    roster: &View,
    reason: String,
) -> v1::Member {
    let millis =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let state = if view.alive {
        v1::MemberState::Alive
    } else {
        v1::MemberState::Suspect
    };
    v1::Member {
        node_id: view.hello.node_id.as_str().to_owned(),
        incarnation: incarnation(view.hello.incarnation),
        peer_address: view.hello.peer_address,
        state: state.into(),
        last_heard_ms: millis(view.silent).max(1),
        head: view.head,
        watermark: view.watermark,
        policy_agrees: view.hello.policy_digest == policy_digest,
        grant_left_ms: millis(view.grant_left),
        seated: roster.seats_run(&view.hello.node_id, view.hello.incarnation),
        reason,
    }
}

/// A member that was not met since this sidecar's start.
pub(crate) fn unmet(node_id: &NodeId, run: Incarnation, reason: String) -> v1::Member {
    v1::Member {
        node_id: node_id.as_str().to_owned(),
        incarnation: incarnation(run),
        state: v1::MemberState::Suspect.into(),
        seated: true,
        reason,
        ..Default::default()
    }
}
