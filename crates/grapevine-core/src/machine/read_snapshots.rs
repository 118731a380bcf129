//! Fills that read inside a database snapshot.
//!
//! A look-up's stamp speaks for reads that begin after it. Inside a database snapshot they do not: whatever the fill reads
//! is as old as the snapshot. So the application marks the moment before that begins, and the look-ups of its fills
//! take their stamp from there. The token is the present one, for a hit is good for whoever reads now; but where a
//! class has changed since the snapshot was opened, the token promises what the snapshot does not show, and nothing that is
//! computed there may be stored under it (G3).
//!
//! Like a lease a read snapshot is told to its bearer and kept nowhere. One that says nothing here, being over or of another
//! run, is taken for older than everything: its reads are answered, and their fills forbidden.

use std::time::Duration;

use super::Core;
use super::effects::{Filling, Query, Resolution, SnapshotClaim};
use super::{ResolveError, Strategy};
use crate::id::Time;
use crate::lease::{Lease, ReadSnapshot};
use crate::versions::Stamp;

impl Core {
    /// Marks the moment before a database snapshot begins, for `lease` or, if that is zero, for as long as a fill lease.
    pub fn open_snapshot(&self, lease: Duration, now: Time) -> ReadSnapshot {
        let lease = match lease {
            Duration::ZERO => self.config.lease_duration,
            lease => lease,
        };
        ReadSnapshot {
            incarnation: self.config.incarnation,
            stamp: self.versions.stamp(),
            shown: self.lately.shown(now),
            opened: now,
            ends: now.plus(lease),
        }
    }

    /// Answers a look-up for a fill that reads inside a database snapshot, or outside of any.
    pub fn resolve_in(
        &self,
        snapshot: SnapshotClaim,
        query: &Query,
        now: Time,
        jitter: u32,
    ) -> Result<Resolution, ResolveError> {
        let mut resolution = self.resolve(query, now, jitter)?;
        let policy = self.config.policies.of(&query.classes[0]);
        let known = match snapshot {
            SnapshotClaim::Absent => return Ok(resolution),
            SnapshotClaim::Malformed => None,
            SnapshotClaim::Snapshot(snapshot) => {
                // One of a source that lags shows what was applied here as long before it was opened.
                let bumps_matter = resolution.strategy != Strategy::Ttl;
                let lags = bumps_matter && !policy.source_lag.is_zero();
                let shows = if lags { snapshot.shown } else { snapshot.stamp };
                self.known_snapshot(snapshot, shows, now)
            }
        };
        let lease = &mut resolution.lease;
        if let Some((snapshot, shows)) = known {
            lease.stamp = shows;
            lease.ends = lease.ends.min(snapshot.ends);
            let age = now.since(snapshot.opened);
            resolution.ttl = resolution.ttl.saturating_sub(age);
        } else {
            // It has ended, so its commit is condemned.
            *lease = Lease {
                stamp: Stamp::default(),
                ends: now,
                ..*lease
            };
        }
        resolution.lease_duration = resolution.lease.ends.since(now);
        let stamp = resolution.lease.stamp;
        let shows_what_is_current = known.is_some_and(|_| {
            let bumps_matter = resolution.strategy != Strategy::Ttl;
            !bumps_matter || !self.versions.changed_since(&query.classes, stamp)
        });
        // What it shows was settled when it was opened, whatever the source would show by now.
        resolution.filling = Filling::Free;
        if !shows_what_is_current || resolution.ttl.is_zero() {
            resolution.filling = Filling::Forbidden;
            // Whoever computed it anew would do so in vain.
            resolution.stale.clear();
        }
        Ok(resolution)
    }

    /// The snapshot and what it shows, if this run can still say what has changed since.
    fn known_snapshot(
        &self,
        snapshot: ReadSnapshot,
        shows: Stamp,
        now: Time,
    ) -> Option<(ReadSnapshot, Stamp)> {
        let known = snapshot.incarnation == self.config.incarnation
            && snapshot.stamp <= self.versions.stamp()
            && now < snapshot.ends
            && shows <= snapshot.stamp
            && self.history.knows(shows);
        known.then_some((snapshot, shows))
    }
}
