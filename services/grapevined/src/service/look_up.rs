//! A call's look-ups, made in pieces: the machine is locked for a bounded time, however much one call asks for.
//!
//! Each look-up is answered by the machine as it is at that moment, with a stamp of that moment; freshness is told as it
//! is after the last of them.

use grapevine_core::machine::effects::{Query, SnapshotClaim};
use grapevine_proto::v1;
use tonic::Status;

use crate::engine::Engine;
use crate::wire::{self, app, status};

/// Segments of classes, and pages, looked up under one lock: a few tenths of a millisecond.
const PIECE_WEIGHT_MAX: usize = 1_024;

/// Look-ups under way.
pub(super) struct LookUp {
    queries: Vec<Query>,
    snapshot: SnapshotClaim,
    /// How many of them are done.
    done: usize,
    results: Vec<v1::Resolution>,
    refused: status::Violations,
}

impl LookUp {
    pub(super) fn new(queries: Vec<Query>, snapshot: SnapshotClaim) -> Self {
        Self {
            results: Vec::with_capacity(queries.len()),
            queries,
            snapshot,
            done: 0,
            refused: status::Violations::default(),
        }
    }

    /// Makes some; tells whether all are made.
    pub(super) fn advance(&mut self, engine: &Engine) -> bool {
        let now = engine.clock.now();
        let core = engine.core.read();
        let mut weight = 0;
        while let Some(query) = self.queries.get(self.done)
            && weight < PIECE_WEIGHT_MAX
        {
            weight += segments(query);
            match core.resolve_in(self.snapshot, query, now, rand::random()) {
                Ok(resolution) => {
                    weight += resolution.targets.len();
                    self.results.push(app::resolution(resolution));
                }
                Err(error) => app::note_resolve_error(&mut self.refused, self.done, &error),
            }
            self.done += 1;
        }
        self.done == self.queries.len()
    }

    /// The answer, or all that is wrong with the call.
    pub(super) fn finish(self, engine: &Engine) -> Result<v1::ResolveResponse, Status> {
        self.refused.finish()?;
        let freshness = engine.core.read().freshness(engine.clock.now());
        let (freshness, freshness_reason) = wire::freshness(freshness);
        Ok(v1::ResolveResponse {
            results: self.results,
            freshness: freshness.into(),
            freshness_reason,
        })
    }
}

fn segments(query: &Query) -> usize {
    let classes = query.classes.iter();
    classes.map(|class| class.prefixes().count()).sum()
}
