//! The machine: one sidecar's decisions.
//!
//! [`Core::handle`] takes an input and the time and returns effects; [`Core::resolve`] reads. What must be durable before
//! it shows is kept in a queue of pending work until its flush is told back. The parts: `app` takes calls, `flushed`
//! lets out what is durable, `evict` keeps the classes within their limits, `remote` takes peers' events, `relaying` has them passed on among many, `members` knows
//! who is there, `views` and `wishes` have members agreed on, `freshness` and `grants` who may call itself fresh, `telling` what grants say of heads, `repair`
//! finds and fills gaps, `rows` turns changes of rows into bumps of what is read, `leaves` keeps lists of ids right by them, `snapshot` takes state over whole, `losses` gives up what nobody can fill, `receipts` tells who has
//! what, `retire` forgets runs that are over, `lost_track` helps who was away for too many of those, `intents` keeps what
//! writers declared before their commits, `tables` tells clients' local tables and waits for them, `fills` has one of many callers fill, `read_snapshots` stamps fills that read
//! inside database snapshots, `source_lag` knows what a lagging source may not show yet.

mod app;
mod derived;
pub mod effects;
mod evict;
pub mod fills;
mod flushed;
mod freshness;
mod grants;
mod intents;
pub mod leaves;
mod losses;
mod lost_track;
mod members;
mod probing;
mod read_snapshots;
mod receipts;
mod relaying;
mod remote;
mod repair;
mod retire;
mod rows;
mod snapshot;
mod source_lag;
mod tables;
mod telling;
mod views;
mod wishes;

use std::collections::VecDeque;
use std::time::Duration;

use thiserror::Error;

use crate::address::{AddressError, plan};
use crate::event::ADDRESS_CLASSES_MAX;
use crate::id::{EventId, Incarnation, Lane, Time, UnixSeconds};
use crate::lease::{History, Lease};
use crate::names::{ClassPath, NodeId};
use crate::policy::{FillRule, OnUnknown, Policy, PolicySet, Strategy};
use crate::progress::Progress;
use crate::roster::View;
use crate::store::{Recovered, Write};
use crate::token::Token;
use crate::versions::Versions;
use effects::{CommitId, Counters, Effects, Filling, Freshness, Input, Query, Resolution, Stale};
use flushed::Pending;
pub use members::AdmitError;
pub use rows::SHAPES_PER_TABLE_MAX;

/// Limits on tables. At one, Grapevine over-invalidates or refuses with the limit's name; it never drops an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Top-level classes that may be bumped. Each costs up to 256 buckets and is never evicted.
    pub top_level_classes_max: usize,
    /// Bumped classes below one top-level class; beyond, its fullest bucket is swallowed by its floor.
    pub classes_per_top_max: usize,
    /// Bumped classes in all; beyond, the largest top-level class gives way. About 200 bytes each.
    pub classes_max: usize,
    /// Calls to invalidate that may wait for receipts.
    pub receipts_max: usize,
    /// Write intents that may be open; they name at most 20 times as many classes together, and this sidecar holds at most
    /// twice as much for its peers. About 200 bytes each, and as much for each class.
    pub intents_max: usize,
    /// Local tables of clients, those among them that are gone and whose leases are not over. About 200 bytes each, and the queues of
    /// their streams.
    pub local_tables_max: usize,
    /// Callers that may wait for their turn to fill and, counted apart, sidecars that may wait for turns which this one gives.
    /// About 100 bytes each.
    pub fill_waits_max: usize,
    /// Incarnations followed; with more, the sidecar does not call itself fresh.
    pub origins_max: usize,
    /// Runs that are over and followed all the same; with more, they are retired, which costs the hits of what was last
    /// bumped by them.
    pub old_runs_max: usize,
    /// Retirements that views repeat, for members that were away; who was away for more takes a snapshot. At most
    /// [`crate::roster::RETIRED_MAX`].
    pub retired_max: usize,
    /// Members of leaves in all, those being loaded among them, and eight for each leaf; beyond, loads that are silent are given up, and then
    /// the leaf that was loaded longest ago is dropped. About 100 bytes each.
    pub index_members_max: usize,
    /// Rows whose newest version is remembered, so that members which have moved on can be told. About 300 bytes each.
    pub index_rows_max: usize,
    /// Peers that own events are told directly; with more, some of them pass these on to the others.
    pub direct_pushes_max: usize,
    /// Runs whose heads every grant tells; with more, grants tell those that have changed.
    pub whole_heads_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            top_level_classes_max: 1_024,
            classes_per_top_max: 250_000,
            classes_max: 1_000_000,
            receipts_max: 10_000,
            intents_max: 10_000,
            local_tables_max: 200,
            fill_waits_max: 65_536,
            origins_max: 65_536,
            old_runs_max: 64,
            retired_max: crate::roster::RETIRED_MAX,
            index_members_max: 2_000_000,
            index_rows_max: 100_000,
            direct_pushes_max: 64,
            whole_heads_max: 16,
        }
    }
}

/// What a sidecar is told at its start.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Its configured name.
    pub node_id: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
    /// The policies.
    pub policies: PolicySet,
    /// How many members the first roster is to seat; later ones are agreed on, whatever their size.
    pub expected_members: usize,
    /// How old a sidecar's knowledge may be while it calls itself fresh. Raising it lets a cut-off sidecar serve old
    /// data for longer and makes `Invalidate(all)` wait longer for one that is gone.
    pub max_staleness: Duration,
    /// How long a member may be gone before the others stop waiting for it, whatever that costs.
    pub member_timeout: Duration,
    /// How long it may be gone before they do so where it costs nothing: it is the only one that is gone.
    pub crash_timeout: Duration,
    /// How long a run must have been over before it is retired: as long as somebody may be away and yet return without a
    /// snapshot.
    pub retire_after: Duration,
    /// How long a fill may take. Raising it keeps more history in memory.
    pub lease_duration: Duration,
    /// The largest difference between two members' clock rates, in parts per million.
    pub clock_rate_ppm: u32,
    /// Limits on tables.
    pub limits: Limits,
}

/// Why an address could not be resolved.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ResolveError {
    /// No classes, or too many.
    #[error("classes: {value} of them; the limits are 1 to {ADDRESS_CLASSES_MAX}")]
    ClassCount {
        /// How many.
        value: usize,
    },
    /// The address cannot be planned.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// One sidecar's state and decisions. A clone is what an explorer of all orders branches by.
#[derive(Clone, Debug)]
pub struct Core {
    config: CoreConfig,
    versions: Versions,
    history: History,
    progress: Progress,
    next_bump: u64,
    next_batch: u64,
    commits: CommitId,
    pending: VecDeque<(CommitId, Pending)>,
    gathered: app::Gathered,
    suppressed: app::Suppressed,
    admitted: app::Admitted,
    ahead: remote::Ahead,
    receipts: receipts::Receipts,
    intents: intents::Intents,
    fills: fills::Fills,
    members: members::Members,
    views: views::Views,
    repair: repair::Repair,
    relaying: relaying::Relaying,
    telling: telling::Telling,
    retirements: retire::Retirements,
    shapes: rows::Shapes,
    leaves: leaves::Leaves,
    tables: tables::Tables,
    caught_up: bool,
    /// How often this run had caught up and was catching up again.
    relapses: u32,
    started: Time,
    /// When the last input came, where a policy lets stale values be served for so long after it, or where there are local tables.
    now: Time,
    /// For how long at most a policy lets stale values be served.
    stale_window: Duration,
    lately: source_lag::Lately,
    /// Set when this sidecar leaves: new invalidations are refused, and nothing is vouched for any more.
    draining: bool,
    refused_since: Option<Time>,
    /// Own floors that are being written.
    evicting: usize,
    counters: Counters,
}

/// What the store held of classes and floors.
fn recovered_versions(recovered: &Recovered) -> Versions {
    let mut versions = Versions::new();
    for class in &recovered.classes {
        versions.join_class(class);
    }
    for floor in &recovered.floors {
        versions.join_floor(floor);
    }
    versions
}

/// How far the store had followed each run, and which of them its view has ended.
fn recovered_progress(recovered: &Recovered) -> Progress {
    let mut progress = Progress::default();
    for lane in &recovered.progress {
        let found = progress.lane_mut(lane.origin, lane.lane);
        found.adopt(lane.watermark);
        for sequence in lane.above.iter().flat_map(|&(first, last)| first..=last) {
            found.apply(sequence);
        }
    }
    let views = recovered.roster.iter().map(|record| &record.view);
    for (origin, end) in views.flat_map(View::written_off) {
        let lane = progress.lane_mut(origin, Lane::Bump);
        if lane.plausible(end) {
            lane.close(end);
        }
    }
    progress
}

impl Core {
    /// A sidecar that starts with what its store held. Until it has caught up it vouches for nothing (G11).
    pub fn start(config: CoreConfig, recovered: &Recovered, now: Time) -> (Self, Effects) {
        let left = recovered;
        let over = lost_track::starts_over(left, &config).then(|| left.without_versions());
        let recovered = over.as_ref().unwrap_or(left);
        let versions = recovered_versions(recovered);
        let mut progress = recovered_progress(recovered);
        progress.lane_mut(config.incarnation, Lane::Bump);
        let mut history = History::default();
        history.cut(versions.stamp());
        let lag = config.policies.source_lag_max();
        let lag = freshness::stretched(lag, config.clock_rate_ppm);
        let mut core = Self {
            lately: source_lag::Lately::start(lag, versions.stamp(), now),
            members: members::Members::recover(&recovered.members, &config, now),
            views: views::Views::start(
                config.node_id.clone(),
                config.incarnation,
                recovered.roster.clone(),
            ),
            versions,
            history,
            progress,
            next_bump: 1,
            next_batch: 1,
            commits: CommitId::default(),
            pending: VecDeque::new(),
            gathered: app::Gathered::default(),
            suppressed: app::Suppressed::default(),
            admitted: app::Admitted::default(),
            ahead: remote::Ahead::default(),
            receipts: receipts::Receipts::default(),
            intents: intents::Intents::default(),
            fills: fills::Fills::default(),
            repair: repair::Repair::default(),
            relaying: relaying::Relaying::default(),
            telling: telling::Telling::default(),
            retirements: retire::Retirements::default(),
            shapes: rows::Shapes::recover(&recovered.shapes),
            leaves: leaves::Leaves::default(),
            tables: tables::Tables::default(),
            caught_up: false,
            relapses: 0,
            started: now,
            now,
            stale_window: config.policies.stale_while_revalidate_max(),
            draining: false,
            refused_since: None,
            evicting: 0,
            counters: Counters::default(),
            config,
        };
        let mut effects = Effects::default();
        core.write(
            &mut effects,
            [Write::OwnIncarnation(core.config.incarnation)],
            Pending::Nothing,
        );
        core.retirements.dropped.clone_from(&recovered.dropped);
        if over.is_some() {
            core.start_over(left, &mut effects);
        }
        core.recover_retirements(recovered);
        core.evict_dominated(recovered, &mut effects);
        core.review_roster(now, &mut effects);
        core.recover_intents(&recovered.intents, now, &mut effects);
        core.review_freshness(now);
        (core, effects)
    }

    /// Takes an input. `unix` serves the expiry of registrations only.
    pub fn handle(&mut self, input: Input, now: Time, unix: UnixSeconds) -> Effects {
        let mut effects = Effects::default();
        if !self.stale_window.is_zero() || self.tables() > 0 {
            self.now = now;
        }
        let knew = self.caught_up;
        let mut review_intents = intents::concerned(&input);
        let (mark, seated) = (self.views.view().mark(), self.seated());
        match input {
            Input::Invalidate(ticket, call) => self.invalidate(ticket, &call, now, &mut effects),
            Input::RowsChanged(ticket, call) => self.rows_changed(ticket, call, now, &mut effects),
            Input::MeetShapes(classes) => self.meet_shapes(&classes, &mut effects),
            Input::BeginWrite(ticket, call) => self.begin_write(ticket, &call, now, &mut effects),
            Input::CommitWrite(ticket, intent, call) => {
                self.commit_write(ticket, intent, call, now, &mut effects);
            }
            Input::AbortWrite(ticket, intent) => self.abort_write(ticket, intent, &mut effects),
            Input::Register(ticket, items) => self.register(ticket, items, now, &mut effects),
            Input::AcquireFill(ticket, key, deadline) => {
                self.acquire_fill(ticket, (key, deadline), now, &mut effects);
            }
            Input::EndFill(fill, stored) => self.end_fill(fill, stored, now, &mut effects),
            Input::LoadLeaf(ticket, leaf) => self.load_leaf(ticket, leaf, now, &mut effects),
            Input::FillLeaf(ticket, fill) => self.fill_leaf(ticket, fill, now, &mut effects),
            Input::PruneLeaf(ticket, prune) => self.prune_leaf(ticket, prune, &mut effects),
            Input::OpenTable(ticket, id) => self.open_table(ticket, id, now, &mut effects),
            Input::Table(id, word) => self.table_said(id, word, now),
            Input::Gone(tickets) => {
                self.gone(&tickets, now, &mut effects);
                self.fill_callers_gone(&tickets, now, &mut effects);
            }
            Input::Forget(ticket, call) => self.forget(ticket, call, now, &mut effects),
            Input::Seal => self.seal(&mut effects),
            Input::Flushed(commit) => self.flushed(commit, now, &mut effects),
            Input::LinkUp { hello, side } => self.link_up(&hello, side, now, &mut effects),
            Input::LinkDown { peer, side } => {
                self.link_down(peer, side, now);
                self.fill_peer_gone(peer, now, &mut effects);
            }
            Input::NodeIdRefused { reason } => self.node_id_refused(&reason, now, &mut effects),
            Input::Peer { from, message } => self.peer_message(from, message, now, &mut effects),
            Input::Seen(sightings) => self.seen(sightings, now, &mut effects),
            Input::HeadsSeen(heads) => self.heads_seen(&heads, now, &mut effects),
            Input::ExpiryBacklog => self.members.next_sweep = now,
            Input::Wake => {
                self.wake(now, unix, &mut effects);
                self.fills_due(now, &mut effects);
            }
            Input::Drain => self.drain(now, &mut effects),
        }
        if self.caught_up && !knew {
            // What the store held may be more than this run's limits allow.
            self.evict_if_overfull(remote::OVERFULL_BY_OTHERS, &mut effects);
        }
        if (mark, seated) != (self.views.view().mark(), self.seated()) {
            // Who is alone, or leaves, and whose word counts: all of it rests on the view.
            review_intents = true;
            self.settle_receipts(now, &mut effects);
        }
        if review_intents {
            self.review_intents(now, &mut effects);
        }
        self.review_relays(now, &mut effects);
        self.review_leaves(now);
        self.review_tables(now, &mut effects);
        self.lately.note(self.versions.stamp(), now);
        if self.retirements.track == lost_track::Track::Ends {
            // Once it names its view, peers would take it for one that follows them.
            effects.fall_silent();
        }
        effects
    }

    /// When [`Input::Wake`] is wanted next.
    pub fn next_wake(&self, now: Time) -> Time {
        let soon = [
            self.members.next_wake(&self.config, self.views.view(), now),
            self.views.next_wake(now),
            self.repair.next_wake(),
            self.relaying.next_wake(),
            Some(self.retirements.next_wake()),
            self.receipts.next_wake(),
            self.intents.next_wake().filter(|_| !self.draining),
            self.fills.next_wake(),
            self.tables_wake(),
        ];
        let idle = now.plus(freshness::EXPIRY_SWEEP);
        soon.into_iter().flatten().fold(idle, Time::min)
    }

    /// Answers a look-up. `jitter` is a random number drawn by the caller.
    pub fn resolve(
        &self,
        query: &Query,
        now: Time,
        jitter: u32,
    ) -> Result<Resolution, ResolveError> {
        let (Some(first), true) = (
            query.classes.first(),
            query.classes.len() <= ADDRESS_CLASSES_MAX,
        ) else {
            return Err(ResolveError::ClassCount {
                value: query.classes.len(),
            });
        };
        let policy = self.config.policies.of(first);
        let token = match policy.strategy {
            Strategy::Ttl => Token::NONE,
            _ => self.token(&query.classes),
        };
        let targets = plan(&query.address, first, query.slice, policy, token)?;
        let new_shape = policy.strategy != Strategy::Ttl && !self.shapes_are_known(&query.classes);
        let bypass = new_shape || self.bypass(policy.strategy, policy.on_unknown, now);
        let stale = if bypass || query.slice.is_some() || policy.strategy == Strategy::Ttl {
            Vec::new()
        } else {
            self.stale(query, policy, now)?
        };
        let mut resolution = Resolution {
            targets,
            stale,
            token,
            lease: Lease {
                incarnation: self.config.incarnation,
                stamp: self.versions.stamp(),
                ends: now.plus(self.config.lease_duration),
            },
            lease_duration: self.config.lease_duration,
            strategy: policy.strategy,
            ttl: jittered(policy.ttl, policy.jitter_percent, jitter),
            bypass,
            new_shape,
            elect: policy.fill == FillRule::One,
            filling: Filling::Free,
        };
        self.heed_source_lag(&mut resolution, &query.classes, policy, now);
        Ok(resolution)
    }

    /// What may be served while it is computed anew.
    fn stale(&self, query: &Query, policy: &Policy, now: Time) -> Result<Vec<Stale>, AddressError> {
        let window = policy.stale_while_revalidate;
        let tokens = self.versions.stale_tokens(&query.classes, window, now);
        let planned = tokens.into_iter().map(|token| {
            let targets = plan(&query.address, &query.classes[0], None, policy, token)?;
            let addresses = targets.into_iter().map(|target| target.address);
            Ok(addresses.map(move |address| Stale { token, address }))
        });
        let planned: Result<Vec<_>, AddressError> = planned.collect();
        Ok(planned?.into_iter().flatten().collect())
    }

    fn token(&self, classes: &[ClassPath]) -> Token {
        self.versions.token(
            classes,
            (!self.caught_up).then_some(self.config.incarnation.salt(self.relapses)),
        )
    }

    fn bypass(&self, strategy: Strategy, on_unknown: OnUnknown, now: Time) -> bool {
        if strategy == Strategy::Ttl {
            // Nothing that other sidecars know makes a difference to it.
            return false;
        }
        if !self.caught_up {
            return true;
        }
        match on_unknown {
            OnUnknown::Bypass => now >= self.members.fresh_until(),
            OnUnknown::Serve(limit) => now >= self.members.shown_until().plus(limit),
        }
    }

    /// What this sidecar can show of its own knowledge.
    pub fn freshness(&self, now: Time) -> Freshness {
        if !self.caught_up {
            return Freshness::CatchingUp(self.why_not_fresh(now));
        }
        if self.draining {
            return Freshness::Unknown("this sidecar is leaving".to_owned());
        }
        if now < self.members.fresh_until() {
            return Freshness::Fresh;
        }
        Freshness::Unknown(self.why_not_fresh(now))
    }

    /// Whether tokens are those that others give with the same knowledge: it is not catching up, nor again.
    pub fn has_caught_up(&self) -> bool {
        self.caught_up
    }

    fn why_not_fresh(&self, now: Time) -> String {
        if let Some(why) = self.why_no_seat() {
            return why;
        }
        let view = self.views.view();
        let why = self.members.why_not_fresh(&self.config, view, now);
        if why.is_empty() && !self.retirements_settled() {
            return "what retired runs had bumped is not known here yet".to_owned();
        }
        if why.is_empty() && !self.views.debts.is_empty() {
            return "events known of are not applied here yet".to_owned();
        }
        why
    }

    /// Whether a session has been seen here (G5): each of its events was applied, and all that their runs had issued before
    /// them was, or is no longer waited for, everything having been bumped in its stead. Of several writes at one run a
    /// session carries the last one.
    pub fn has_all(&self, session: &[EventId]) -> bool {
        // What this sidecar dropped when it started over was applied, and everything was bumped since.
        let dropped =
            |event: &EventId| self.retirements.dropped.get(event.origin) >= event.sequence;
        session
            .iter()
            .all(|event| self.progress.has_through(*event) || dropped(event))
    }

    /// This sidecar's run.
    pub fn incarnation(&self) -> Incarnation {
        self.config.incarnation
    }

    /// The configuration.
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Counters of decisions.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Versions of classes.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Which events are known and applied.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The members, this sidecar not among them, by node id.
    pub fn members(&self, now: Time) -> Vec<effects::MemberView> {
        let own = self.progress.lane(self.config.incarnation, Lane::Bump);
        let flushed = own.map_or(0, crate::progress::LaneProgress::watermark);
        self.members.views(&self.progress, flushed, now)
    }

    /// Whether every member has acknowledged all own bumps that are flushed.
    pub fn is_heard_by_all(&self) -> bool {
        let own = self.progress.lane(self.config.incarnation, Lane::Bump);
        let flushed = own.map_or(0, crate::progress::LaneProgress::watermark);
        let mut members = self.members.iter();
        members.all(|member| member.flushed.watermark() >= flushed)
    }

    /// Why the member that has this node's seat does not vouch for this sidecar; none when it does, or has no seat.
    pub fn why_not_granted(&self, node: &NodeId, now: Time) -> Option<String> {
        let run = *self.views.view().seats.get(node)?;
        self.members.why_not_granted(node, run, now)
    }

    /// Queues writes and what waits for their flush.
    fn write(
        &mut self,
        effects: &mut Effects,
        writes: impl IntoIterator<Item = Write>,
        pending: Pending,
    ) {
        effects.writes.extend(writes);
        self.commits.0 += 1;
        effects.commit = Some(self.commits);
        self.pending.push_back((self.commits, pending));
    }

    fn drain(&mut self, now: Time, effects: &mut Effects) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.recall_tables(now);
        self.leave_intents(now, effects);
        self.dismiss_fills(effects);
        self.review_freshness(now);
        self.seal(effects);
        self.write(effects, [], Pending::Leave);
    }
}

/// Takes up to `percent` of the TTL off, so that values stored together lapse apart and none lives longer than its TTL.
fn jittered(ttl: Duration, percent: u8, random: u32) -> Duration {
    let share = f64::from(percent) / 100.0 * f64::from(random) / f64::from(u32::MAX);
    ttl.mul_f64(1.0 - share)
}
