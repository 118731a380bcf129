//! Leaves: lists of ids that follow the changes of rows (G9, docs/decisions/0019).
//!
//! A leaf is *present* here when its list was loaded from the database and every change of its class since then is accounted for. The
//! proof is the one of a cached value: it has the [`Stamp`] of its load, and is whole for as long as nothing that its class's token rests on
//! has changed later. What a cached value cannot do is to follow a change: a leaf takes in the rows that the change says are in
//! it now, and its stamp goes on to the moment behind it. Any other change of the class, of one above it or of a floor, and any state that is
//! adopted whole, leaves the stamp behind, and the leaf is *absent* again: unknown, never empty.
//!
//! So a leaf is a matter of one sidecar. What is replicated are changes of rows, which are logged events, and hints of what was pruned. Nothing
//! is merged between sidecars, and there is no list that an old copy of could come back.
//!
//! A leaf follows only changes that come *in the order of their run*. Of changes of one run a token shows the last one: an earlier one that
//! arrives behind it changes no token. For a value that is computed behind the later one that is as it should be, for it has the
//! earlier one, too. A leaf that had followed the later one would lack it. So a change with a gap before it leaves the leaf absent.
//!
//! A load is a race between the database's answer and the rows that change meanwhile. Whoever finds a leaf absent gets the right to load it,
//! with a number; from then on changes are gathered as for a leaf that is present. The answer is united with them, and
//! stands only if all that happened in between could be gathered. An answer to an earlier right, given before the leaf was last dropped, has
//! another number, and is refused.

mod changes;
mod coming;
mod loads;
mod newest;
mod read;
mod table;

use std::time::Duration;

use self::changes::Change;
use self::coming::Coming;
use self::newest::Newest;
use self::table::{NoRight, Table};
use super::Core;
use super::effects::{
    Action, Effects, FillOutcome, Filling, LeafFill, LeafTurn, PeerMessage, Prune, Refusal, Reply,
    Ticket,
};
use crate::criteria::{Cell, Conjunction, SHAPE_MARK, Shape};
use crate::event::BumpEvent;
use crate::id::{
    EventId, Incarnation, Lane, NAMED_BYTES, NamedError, Time, named_bytes, read_named,
};
use crate::index::{LeafKey, Members, Ordering, Place, RowId, SortKey};
use crate::names::ClassPath;
use crate::policy::LagRule;
use crate::progress::LaneProgress;
use crate::vector::VersionVector;
use crate::versions::Stamp;

/// How long whoever finds that another caller loads a leaf is told to wait at least before it looks again.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// Members that a leaf of which not all are known may have beyond those that are wanted, and half as many again.
const SLACK: usize = 16;
/// Leaves that follow a row which left one of them, it is not told which; the others are absent then.
const LEAVES_FOLLOWED_MAX: usize = 4_096;
/// Loads under way at most, and fewer where there is room for few members.
const LOADS_MAX: usize = 4_096;

/// Names one right to load a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadId {
    /// The run that gave it.
    pub run: Incarnation,
    /// Its number there.
    pub number: u64,
}

/// The version of the byte form of a [`LoadId`], first in it.
const LOAD_VERSION: u8 = 3;

impl LoadId {
    /// The byte form.
    pub fn to_bytes(self) -> [u8; NAMED_BYTES] {
        named_bytes(LOAD_VERSION, self.run, self.number)
    }

    /// Reads the byte form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NamedError> {
        let (run, number) = read_named(bytes, LOAD_VERSION)?;
        Ok(Self { run, number })
    }
}

/// Why a class names no leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no class of the rows whose columns have certain values")]
pub struct NotALeaf;

/// The shape of the rows of a leaf, if it is one: of columns with values, and all of those told.
pub fn leaf_shape(class: &ClassPath) -> Result<Shape, NotALeaf> {
    let below = class.as_str().split_once('/').map(|(_, below)| below);
    let shape = below
        .filter(|below| below.starts_with(SHAPE_MARK))
        .and_then(|_| Shape::parse(class))
        .ok_or(NotALeaf)?;
    let values = class.prefixes().count() - 2;
    let told = shape.range.is_none() && values == shape.equal.len();
    told.then_some(shape).ok_or(NotALeaf)
}

/// The leaves of this sidecar, and the newest versions of rows that it has heard of.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaves {
    table: Table,
    newest: Newest,
    coming: Coming,
}

impl Leaves {
    /// Drops all leaves, and refuses what is being loaded: a run is retired, and what it had told counts as applied, whether or not
    /// anybody has followed it.
    pub(super) fn forget_all(&mut self) {
        self.table.clear();
    }
}

/// A leaf that is present.
#[derive(Clone, Debug)]
struct Present {
    /// That of its load.
    number: u64,
    /// All that changed up to here is accounted for.
    stamp: Stamp,
    members: Members,
    /// How many members are wanted at least and at most, where not all of them are known.
    keep: usize,
    most: usize,
}

/// A leaf that somebody loads.
#[derive(Clone, Debug)]
struct Loading {
    number: u64,
    ends: Time,
    /// All that changed up to here was applied before the right was given, or is gathered.
    stamp: Stamp,
    /// Rows that were added since the right was given.
    gathered: Members,
    /// What has come of the database's answer.
    answer: Members,
    /// The last place that came, where these are to be the first ones of the leaf.
    last: Option<Place>,
}

impl Loading {
    /// Whether a part of the answer may follow what has come. First rows only are those up to the last one if nothing lies before it that
    /// is not among them: so they must rise in the leaf's order, through all parts.
    fn is_continued_by(&mut self, fill: &LeafFill) -> bool {
        if fill.whole {
            return self.last.is_none();
        }
        if self.last.is_none() && !self.answer.is_empty() {
            return false;
        }
        for (place, _) in &fill.members {
            if let Some(last) = &self.last
                && !self.answer.is_behind(place, last)
            {
                return false;
            }
            self.last = Some(place.clone());
        }
        true
    }
}

/// A leaf.
#[derive(Clone, Debug, Default)]
struct Leaf {
    present: Option<Present>,
    loading: Option<Loading>,
}

/// What is to be done with a leaf behind an event.
#[derive(Debug)]
pub(super) struct Touched {
    key: LeafKey,
    /// Whether all before the event was accounted for: of what is present, and of what is being loaded.
    present: bool,
    loading: bool,
    added: Vec<(Place, u64)>,
    left: Vec<(RowId, u64)>,
}

impl Core {
    /// Somebody found a leaf absent, or too short, and would load it.
    pub(super) fn load_leaf(
        &mut self,
        ticket: Ticket,
        key: LeafKey,
        now: Time,
        effects: &mut Effects,
    ) {
        let turn = self.turn_to_load(key, now, effects);
        let reply = Action::Reply(ticket, Reply::LeafTurn(turn));
        effects.actions.push(reply);
    }

    fn turn_to_load(&mut self, key: LeafKey, now: Time, effects: &mut Effects) -> LeafTurn {
        let class = std::slice::from_ref(&key.class);
        let policy = self.config.policies.of(&key.class);
        if self.draining || self.bypass(policy.strategy, policy.on_unknown, now) {
            return LeafTurn::Bypass;
        }
        if !self.shapes_are_known(class) {
            self.meet_shapes(class, effects);
            // Where there is no room for it, to wait is in vain.
            return if self.shapes_are_met(class) {
                LeafTurn::Wait { after: RETRY_AFTER }
            } else {
                LeafTurn::Bypass
            };
        }
        // What a lagging source shows may be older than what was applied.
        let mut stamp = self.versions.stamp();
        let mut filling = Filling::Free;
        if !policy.source_lag.is_zero() {
            let shown = self.shown_by_source(policy.source_lag, now);
            if self.versions.changed_since(class, shown) || !self.history.knows(shown) {
                filling = match policy.on_source_lag {
                    LagRule::Primary => Filling::Primary,
                    LagRule::NoStore => return LeafTurn::Bypass,
                };
            } else {
                stamp = shown;
            }
        }
        let lease = self.config.lease_duration;
        let room = (self.config.limits.index_members_max, lease);
        match self.leaves.table.admit(&key, room, now) {
            Ok(displaced) => self.counters.loads_displaced += u64::from(displaced),
            Err(NoRight::IsLoaded { after }) => return LeafTurn::Wait { after },
            Err(NoRight::Full) => {
                self.counters.loads_refused += 1;
                return LeafTurn::Bypass;
            }
        }
        let run = self.config.incarnation;
        // Only for who gets the right: it looks at all rows of writes under way.
        if !self.leaves.coming.is_empty()
            && let Ok(shape) = leaf_shape(&key.class)
            && !self.leaves.table.has(&shape)
        {
            self.leaves.coming.meet(&shape);
        }
        let times = (now, now.plus(lease));
        let number = self.leaves.table.begin_load(key, stamp, times);
        LeafTurn::Load {
            load: LoadId { run, number },
            lease,
            filling,
        }
    }

    /// A part of the database's answer, or the last one.
    pub(super) fn fill_leaf(
        &mut self,
        ticket: Ticket,
        fill: LeafFill,
        now: Time,
        effects: &mut Effects,
    ) {
        let reply = match self.take_fill(fill, now) {
            Ok(outcome) => Reply::LeafFilled(outcome),
            Err(refusal) => Reply::Refused(refusal),
        };
        effects.actions.push(Action::Reply(ticket, reply));
    }

    fn take_fill(&mut self, fill: LeafFill, now: Time) -> Result<FillOutcome, Refusal> {
        let class = std::slice::from_ref(&fill.leaf.class);
        let limit = self.config.limits.index_members_max;
        // When the answer was read is not known, but it was before now.
        let added = self.versions.stamp();
        let current = |stamp| !self.versions.changed_since(class, stamp);
        let known = self.caught_up && self.shapes_are_known(class);
        if fill.load.run != self.config.incarnation {
            // Numbers of other runs say nothing of the loads here.
            return Ok(FillOutcome::Over);
        }
        let Some(loading) = self.leaves.table.loading(&fill.leaf, fill.load.number, now) else {
            return Ok(FillOutcome::Over);
        };
        if !(known && current(loading.stamp)) {
            self.leaves.table.end_load(&fill.leaf);
            self.counters.leaves_condemned += 1;
            return Ok(FillOutcome::Condemned);
        }
        if !loading.is_continued_by(&fill) {
            self.leaves.table.end_load(&fill.leaf);
            return Err(Refusal::LeafOutOfOrder);
        }
        let count = self
            .leaves
            .table
            .answer(&fill.leaf, fill.members, (added, now));
        if count > limit {
            self.leaves.table.end_load(&fill.leaf);
            return Err(Refusal::LeafTooLarge { count, limit });
        }
        if fill.more {
            return Ok(FillOutcome::More);
        }
        let Some(loading) = self.leaves.table.end_load(&fill.leaf) else {
            return Ok(FillOutcome::Over);
        };
        let Loading {
            number,
            stamp,
            gathered,
            mut answer,
            ..
        } = loading;
        if !fill.whole && !answer.end_as_told() {
            self.counters.leaves_condemned += 1;
            return Ok(FillOutcome::Condemned);
        }
        let keep = match fill.keep {
            0 => answer.len(),
            keep => keep.min(answer.len()),
        };
        let most = answer.len().max(keep + keep / 2 + SLACK);
        answer.unite(gathered);
        let present = Present {
            number,
            stamp,
            members: answer,
            keep,
            most,
        };
        self.leaves.table.put(&fill.leaf, present);
        self.counters.leaves_loaded += 1;
        Ok(FillOutcome::Stored)
    }

    /// Somebody has looked at rows, behind the moment of its evidence, and found them elsewhere.
    pub(super) fn prune_leaf(&mut self, ticket: Ticket, prune: Prune, effects: &mut Effects) {
        let Prune {
            leaf,
            places,
            evidence,
        } = prune;
        let ours = evidence.incarnation == self.config.incarnation
            && evidence.stamp <= self.versions.stamp();
        if !ours {
            let reply = Action::Reply(ticket, Reply::Pruned(0));
            return effects.actions.push(reply);
        }
        let removed = self.leaves.table.prune(&leaf, &places, evidence.stamp);
        self.counters.members_pruned += removed as u64;
        let reply = Action::Reply(ticket, Reply::Pruned(removed));
        effects.actions.push(reply);
        if removed == 0 || !self.history.knows(evidence.stamp) {
            return;
        }
        let watermarks = self.progress.covered_bumps();
        let stamp = self.history.vectors_at(&[evidence.stamp], &watermarks);
        if let Some(stamp) = stamp.into_iter().next() {
            let hint = PeerMessage::Pruned {
                leaf,
                places,
                stamp,
            };
            effects.actions.push(Action::Broadcast(hint));
        }
    }

    /// The same at a peer, which had applied this much. It counts here if nothing that concerns the leaf was applied here beyond that.
    pub(super) fn pruned_by_peer(
        &mut self,
        leaf: &LeafKey,
        places: &[Place],
        stamp: &VersionVector,
    ) {
        let class = std::slice::from_ref(&leaf.class);
        if !self.versions.exceeds(class, stamp) {
            let until = self.versions.stamp();
            let removed = self.leaves.table.prune(leaf, places, until);
            self.counters.members_pruned += removed as u64;
        }
    }

    /// What an event will mean for the leaves here. To be asked before it is applied.
    pub(super) fn leaves_touched(&self, id: EventId, event: &BumpEvent) -> Vec<Touched> {
        let BumpEvent::Rows(changed) = event else {
            return Vec::new();
        };
        let lane = self.progress.lane(id.origin, Lane::Bump);
        let watermark = lane.map_or(0, LaneProgress::watermark);
        if id.sequence != watermark + 1 {
            return Vec::new();
        }
        let changes = self.leaves.table.changes(&changed.rows);
        let mut touched = Vec::new();
        for (class, change) in changes {
            if change.lost {
                continue;
            }
            let last = self.versions.last_change(std::slice::from_ref(&class));
            for (ordering, leaf) in self.leaves.table.of_class(&class) {
                touched.extend(leaf.touched(&class, ordering, &change, last));
            }
        }
        touched
    }

    /// An event was applied, which meant this for the leaves here.
    pub(super) fn leaves_follow(&mut self, event: &BumpEvent, touched: Vec<Touched>) {
        let stamp = self.versions.stamp();
        for one in touched {
            self.leaves.table.follow(one, stamp);
        }
        if let BumpEvent::Rows(changed) = event {
            let limit = self.config.limits.index_rows_max;
            self.leaves.newest.note(&changed.rows, limit);
        }
    }

    /// Behind every input: ends loads whose leases are over, and drops what there is no room for. Where there is nothing to do that is two
    /// comparisons.
    pub(super) fn review_leaves(&mut self, now: Time) {
        let (most, lease) = (
            self.config.limits.index_members_max,
            self.config.lease_duration,
        );
        self.leaves.table.end_over(now);
        let dropped = self.leaves.table.evict(most, lease, now);
        self.counters.leaves_evicted += dropped.leaves;
        self.counters.loads_displaced += dropped.loads;
    }

    /// Leaves present here, and their members, with what has come of those that are being loaded.
    pub fn leaf_counts(&self) -> (usize, usize) {
        self.leaves.table.counts()
    }
}

impl Leaf {
    /// What an event means for it, whose class changed last at that moment; nothing if it cannot be followed.
    fn touched(
        &self,
        class: &ClassPath,
        ordering: &Ordering,
        change: &Change<'_>,
        last: Stamp,
    ) -> Option<Touched> {
        let present = self.present.as_ref();
        let present = present.is_some_and(|present| last <= present.stamp);
        let loading = self.loading.as_ref();
        let loading = loading.is_some_and(|loading| last <= loading.stamp);
        if !present && !loading {
            return None;
        }
        let added = change.added.iter().map(|image| {
            let identity = image.identity.as_ref()?;
            let key = sort_key(&image.rows, ordering)?;
            let id = identity.id.clone();
            Some((Place { key, id }, identity.version))
        });
        let left = change.left.iter().filter_map(|image| {
            let identity = image.identity.as_ref()?;
            (identity.version > 0).then(|| (identity.id.clone(), identity.version))
        });
        Some(Touched {
            key: LeafKey {
                class: class.clone(),
                ordering: ordering.clone(),
            },
            present,
            loading,
            // One whose place is not known is not lost: the leaf is.
            added: added.collect::<Option<_>>()?,
            left: left.collect(),
        })
    }
}

/// By what a row is sorted; `None` if that is not known.
fn sort_key(row: &Conjunction, ordering: &Ordering) -> Option<SortKey> {
    let Some(column) = &ordering.by else {
        return Some(SortKey::NONE);
    };
    match row.cells.get(column) {
        Some(Cell::Is(datum)) => Some(SortKey::of(&datum.value, ordering.nulls_high)),
        _ => None,
    }
}
