//! A call's look-ups, made in pieces: the machine is locked for a bounded time, however much one call asks for.
//!
//! Each look-up is answered by the machine as it is at that moment, with a stamp of that moment; freshness is told as it
//! is after the last of them.

use grapevine_core::machine::effects::{Input, Query, SnapshotClaim};
use grapevine_core::names::ClassPath;
use grapevine_core::table::TableId;
use grapevine_proto::v1;
use tonic::Status;

use crate::engine::{Command, Engine};
use crate::wire::{self, app, status};

/// Segments of classes, and pages, looked up under one lock: a few tenths of a millisecond.
const PIECE_WEIGHT_MAX: usize = 1_024;

/// Classes whose shapes one call makes known, unless a single address has more.
const NEW_SHAPES_MAX: usize = 64;

/// Look-ups under way.
pub(super) struct LookUp {
    queries: Vec<Query>,
    snapshot: SnapshotClaim,
    /// How many of them are done.
    done: usize,
    results: Vec<v1::Resolution>,
    leases: app::Leases,
    /// Classes of shapes that are not known here.
    new_shapes: Vec<ClassPath>,
    refused: status::Violations,
    local_table: Option<OfTable>,
}

/// The caller's local table.
struct OfTable {
    id: TableId,
    /// Whether the answers may be kept in it.
    keeps: bool,
    /// Up to where it is told of all that they rest on.
    position: Option<u64>,
}

impl LookUp {
    pub(super) fn new(queries: Vec<Query>, snapshot: SnapshotClaim) -> Self {
        Self {
            results: Vec::with_capacity(queries.len()),
            leases: app::Leases::default(),
            queries,
            snapshot,
            done: 0,
            new_shapes: Vec::new(),
            refused: status::Violations::default(),
            local_table: None,
        }
    }

    /// The same, by a caller that would keep the answers in its local table.
    pub(super) fn kept_in(self, table: Option<TableId>) -> Self {
        let local_table = table.map(|id| OfTable {
            id,
            keeps: true,
            position: None,
        });
        Self {
            local_table,
            ..self
        }
    }

    /// Makes some; tells whether all are made.
    pub(super) fn advance(&mut self, engine: &Engine) -> bool {
        let now = engine.clock.now();
        let core = engine.core.read();
        if let Some(table) = &mut self.local_table {
            table.keeps &= core.may_keep(table.id, now);
            // Under the lock of the look-ups, so that neither is ahead of the other. Later pieces rest on no less.
            table.position = core.table_position_of(table.id);
        }
        let mut weight = 0;
        while let Some(query) = self.queries.get(self.done)
            && weight < PIECE_WEIGHT_MAX
        {
            weight += segments(query);
            match core.resolve_in(self.snapshot, query, now, rand::random()) {
                Ok(resolution) => {
                    weight += resolution.targets.len();
                    if resolution.new_shape && self.new_shapes.len() < NEW_SHAPES_MAX {
                        self.new_shapes.extend(query.classes.iter().cloned());
                    }
                    let result = app::resolution(&resolution, &mut self.leases);
                    self.results.push(result);
                }
                Err(error) => app::note_resolve_error(&mut self.refused, self.done, &error),
            }
            self.done += 1;
        }
        drop(core);
        let done = self.done == self.queries.len();
        if done && !self.new_shapes.is_empty() {
            // Without room for it the next look-up asks again.
            let shapes = Input::MeetShapes(std::mem::take(&mut self.new_shapes));
            let _ = engine.urgent.try_send(Command::Input(shapes));
        }
        done
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
            local_table: match &self.local_table {
                Some(table) if table.keeps => table.id.0,
                _ => 0,
            },
            local_table_position: self.local_table.and_then(|table| table.position),
        })
    }
}

fn segments(query: &Query) -> usize {
    let classes = query.classes.iter();
    classes.map(|class| class.prefixes().count()).sum()
}
