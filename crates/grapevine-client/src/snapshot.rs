//! Database snapshots that fills read inside (G3).
//!
//! A look-up vouches for reads that begin after it. A transaction with snapshot isolation reads what was there when it began,
//! so the moment before that is marked first, and look-ups for its fills name it. Where a class has changed since, what
//! the transaction sees is not current: the cache's value may be served, and a computed one is given to its caller alone.

use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tokio::time::Instant;

use crate::channel::Gated;
use crate::client::{Client, Resolved, check_items, item};
use crate::error::{CallError, ResolveError};
use crate::session::Session;

/// The moment before a database snapshot began, as the own sidecar knows it. The default one is unknown to every sidecar:
/// with it reads hit, and nothing that is computed is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    bytes: Bytes,
    ends: Option<Instant>,
}

impl Snapshot {
    /// What to give to a look-up.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How long fills may still be stored; afterwards they are computed and not stored.
    pub fn remaining(&self) -> Duration {
        self.ends.map_or(Duration::ZERO, |ends| {
            ends.saturating_duration_since(Instant::now())
        })
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Client {
    /// Marks the moment before a database snapshot begins, for as long as a fill lease of the sidecar's. Call it, then begin
    /// the transaction, and read with [`CachedClient::in_snapshot`](crate::CachedClient::in_snapshot). If it fails, take
    /// [`Snapshot::default`]: reads work, and store nothing.
    pub async fn open_snapshot(&self) -> Result<Snapshot, CallError> {
        self.open_snapshot_for(Duration::ZERO, &Session::new())
            .await
    }

    /// The same for a transaction that takes up to `lease`, at most 10 minutes (zero takes the sidecar's), at a sidecar that
    /// has seen what `session` has.
    pub async fn open_snapshot_for(
        &self,
        lease: Duration,
        session: &Session,
    ) -> Result<Snapshot, CallError> {
        let link = self.own();
        let mut deadline = self.settings().resolve_deadline;
        let mut wire_session = None;
        if !session.is_empty() {
            deadline += session.wait_duration();
            wire_session = Some(session.to_wire());
        }
        let request = v1::OpenSnapshotRequest {
            session: wire_session,
            lease_ms: u32::try_from(lease.as_millis()).unwrap_or(u32::MAX),
        };
        let asked = Instant::now();
        let mut application = link.application();
        let call = application.open_snapshot(request);
        let answer = link.call(Gated::Yes, deadline, call).await?;
        if answer.snapshot.is_empty() {
            return Err(link.bad_answer("a snapshot of no bytes".to_owned()));
        }
        let lease = Duration::from_millis(answer.lease_ms.into());
        Ok(Snapshot {
            bytes: answer.snapshot,
            ends: asked.checked_add(lease),
        })
    }

    /// [`Client::resolve_in`] for values that are computed inside a database snapshot. Where a resolution says
    /// `fill_forbidden`, what is computed there must not be stored.
    pub async fn resolve_in_snapshot(
        &self,
        snapshot: &Snapshot,
        session: &Session,
        items: Vec<v1::ResolveItem>,
    ) -> Result<Vec<Resolved>, ResolveError> {
        check_items(&items)?;
        self.resolve_past(items, session, Some(snapshot)).await
    }

    /// Looks one address up for a value that is computed inside a database snapshot, and by `session`.
    pub(crate) async fn resolve_one_past(
        &self,
        snapshot: Option<&Snapshot>,
        session: Option<&Session>,
        address: &str,
        classes: &[String],
        page: Option<v1::Page>,
    ) -> Result<Resolved, ResolveError> {
        let none = Session::new();
        let session = session.unwrap_or(&none);
        let Some(snapshot) = snapshot else {
            return self.resolve_one_in(session, address, classes, page).await;
        };
        let items = vec![item(address, classes, page)];
        let answers = self.resolve_in_snapshot(snapshot, session, items).await;
        Ok(answers?.pop().expect("invariant: as many answers as items"))
    }
}
