//! Counters of a client and of cached reads: atomics inside, plain snapshots outside.
//!
//! Counters only grow. A snapshot reads them one by one: its sums may be off by what happened while it was taken.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$doc:meta])* $live:ident => $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        #[derive(Debug, Default)]
        pub(crate) struct $live {
            $(pub(crate) $field: Counter,)*
        }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.get(),)* }
            }
        }

        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $snapshot {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $snapshot {
            /// Every counter with its stable name, for export.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }
        }
    };
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// What a [`Client`](crate::Client) has done since it was built; clones share it.
    ClientCounters => ClientStats {
        /// Look-ups sent, alone or in batches.
        resolve_items,
        /// `Resolve` RPCs that carried them.
        resolve_rpcs,
        /// Look-ups refused because the queue was full.
        resolve_queue_full,
        /// Fills sent to be committed.
        commit_items,
        /// `CommitFill` RPCs that carried them.
        commit_rpcs,
        /// `IndexRead` RPCs.
        index_reads,
        /// Pages of ids that a leaf had.
        index_hits,
        /// Leaves loaded from the database, and kept.
        index_fills,
        /// Members removed from leaves because their rows were elsewhere.
        index_pruned,
        /// Streams of a local table that were opened.
        local_streams,
        /// Leases of a local table.
        local_leases,
        /// Messages that told a local table of changes.
        local_notices,
        /// Answers that a local table has kept.
        local_kept,
        /// Invalidations that another sidecar than the own one acknowledged.
        invalidate_failovers,
        /// Invalidations that no sidecar acknowledged.
        invalidate_failures,
    }
}

counters! {
    /// What a [`CachedClient`](crate::CachedClient) has done since it was made; clones share it. Pages count one by one.
    CacheCounters => CacheStats {
        /// Values served from the cache.
        hits,
        /// Of these, by the word of a local table.
        local_hits,
        /// Values that the cache did not have, or that could not be served.
        misses,
        /// Fill functions run to fill a miss, those that failed included.
        fills,
        /// Fill functions that gave an error.
        fill_errors,
        /// Values stored.
        stored,
        /// Values served although a soft invalidation had replaced them.
        stale_served,
        /// Of those, how many had this client compute the new value in the background.
        revalidations,
        /// Values served from another caller's fill.
        single_flight_waits,
        /// Values served from the fill of a caller of another process, which this one had waited for.
        turn_waits,
        /// Requests for a turn to fill that got no answer: filled without one.
        turn_failures,
        /// Fills taken over from a caller that was cancelled or panicked.
        takeovers,
        /// Fills that a bump overtook, or whose lease had ended: given to the caller, not stored.
        condemned,
        /// Fills whose commit got no answer: given to the caller, not stored.
        commit_failures,
        /// Fills with a malformed dependency or too many of them: given to the caller, not stored.
        bad_dependencies,
        /// Fills that took so long that less was left of the TTL than the cache can count
        /// ([`Cache::ttl_grain`](grapevine_cache::Cache::ttl_grain)): given to the caller, not stored. Many of them mean that
        /// the TTL is too short for that cache, or that the source is too slow for the TTL.
        too_short_to_store,
        /// Stored values that were not what was asked for: another token, another address, or no envelope.
        envelope_mismatch,
        /// Cache reads that failed; counted as misses too.
        cache_get_errors,
        /// Cache writes that failed.
        cache_set_errors,
        /// Hits that were audited ([`ClientBuilder::audit`](crate::ClientBuilder::audit)).
        audits,
        /// ... that differ from the source while the sidecar, fresh, vouches for them: somebody wrote to the database and
        /// did not invalidate, or wrote to the cache. Whatever is above zero here wants a look.
        audit_mismatches,
        /// ... that differ from the source as they may: a writer was about to invalidate them, or policy says `ttl`.
        audit_differed_innocent,
        /// ... of which the sidecar could not say that they were to be right: it was not fresh, or their classes were
        /// bumped before the source was read.
        audits_undecided,
        /// ... for which the fill function gave an error.
        audit_errors,
        /// Hits drawn for an audit beyond what may be audited at once or in a second.
        audits_skipped,
        /// Misses whose value is not stored, because what it is computed from may lag behind the last invalidation.
        fills_of_lagging_source,
        /// Reads that went to the source because policy said so.
        bypass_policy,
        /// ... because the sidecar could not be reached or broke off.
        bypass_unreachable,
        /// ... because the sidecar did not answer in time.
        bypass_deadline,
        /// ... because too many look-ups waited already, here or there.
        bypass_overloaded,
        /// ... because the sidecar had not applied what the session had seen.
        bypass_session,
        /// ... because their database snapshot does not show what is current, and the cache had nothing: misses too.
        bypass_snapshot,
        /// ... because the sidecar refused, or answered against the contract.
        bypass_refused,
        /// ... because a statement's answer cannot be cached, or the statement is not understood.
        bypass_not_cacheable,
    }
}

impl CacheStats {
    /// Reads that went to the source and stored nothing, for whatever reason.
    pub fn bypasses(&self) -> u64 {
        self.bypass_policy
            + self.bypass_unreachable
            + self.bypass_deadline
            + self.bypass_overloaded
            + self.bypass_session
            + self.bypass_snapshot
            + self.bypass_refused
            + self.bypass_not_cacheable
    }

    /// Cache operations that failed.
    pub fn cache_errors(&self) -> u64 {
        self.cache_get_errors + self.cache_set_errors
    }
}
