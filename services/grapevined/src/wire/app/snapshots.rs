//! Database snapshots that fills read inside.

use std::time::Duration;

use grapevine_core::id::Time;
use grapevine_core::lease::{ReadSnapshot, SNAPSHOT_LEASE_MAX};
use grapevine_core::machine::effects::SnapshotClaim;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::super::status::Violations;
use super::register::LEASE_BYTES_MAX;
use super::resolve::milliseconds;
use super::{Session, session};

/// What a look-up shows. Bytes that are no snapshot may be of another release, or of a call that failed: fills are forbidden
/// then, and reads are not.
pub(super) fn snapshot(violations: &mut Violations, bytes: Option<&[u8]>) -> SnapshotClaim {
    let Some(bytes) = bytes else {
        return SnapshotClaim::Absent;
    };
    if bytes.len() > LEASE_BYTES_MAX {
        let given = bytes.len();
        violations.add(
            "snapshot",
            format!("{given} bytes; the limit is {LEASE_BYTES_MAX} bytes"),
        );
    }
    ReadSnapshot::from_bytes(bytes).map_or(SnapshotClaim::Malformed, SnapshotClaim::Snapshot)
}

/// What is to be applied first, and how long the snapshot is to hold; zero leaves that to the sidecar.
pub(crate) fn opening(message: &v1::OpenSnapshotRequest) -> Result<(Session, Duration), Status> {
    let mut violations = Violations::default();
    let session = session(&mut violations, message.session.as_ref());
    let lease = Duration::from_millis(message.lease_ms.into());
    if lease > SNAPSHOT_LEASE_MAX {
        let (given, most) = (message.lease_ms, SNAPSHOT_LEASE_MAX.as_millis());
        violations.add("lease_ms", format!("{given} ms; the limit is {most} ms"));
    }
    violations.finish()?;
    Ok((session, lease))
}

pub(crate) fn opened(snapshot: ReadSnapshot, now: Time) -> v1::OpenSnapshotResponse {
    v1::OpenSnapshotResponse {
        snapshot: Bytes::copy_from_slice(&snapshot.to_bytes()),
        lease_ms: milliseconds(snapshot.ends.since(now)),
    }
}
