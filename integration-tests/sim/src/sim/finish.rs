//! The end of a run: everything is well again, and what must hold then is checked.
//!
//! Paths open, disks are fast, whoever is down starts. From then on it may take a while, and no longer, until every
//! sidecar is fresh and lacks nothing. Then everybody has what was answered (G1) and what
//! intents owed (G8), shows the same tokens (G12), holds no
//! more than its limits allow (G10), and serves nothing stale.

use std::collections::BTreeSet;

use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::machine::effects::Freshness;
use grapevine_core::policy::Strategy;
use grapevine_core::progress::{LaneProgress, OriginHead};

use super::Sim;
use super::intents::INTENTS_LAST;
use crate::arms::Arm;
use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::shop::{ADDRESSES_MAX, MARKERS};
use crate::violation::Guarantee;

/// How long recovery may take: a snapshot whose request was lost is asked for anew after a minute, and that one may be
/// needed twice.
const RECOVERY_MAX: Micros = 150 * SECOND;
/// What takes longer is counted as slow.
const RECOVERY_SLOW: Micros = 20 * SECOND;
/// How often it is looked whether the cluster has come to rest.
const LOOK: Micros = 100 * MILLISECOND;
/// Oracle hits from which on a run says something about hits.
const ORACLE_HITS_MIN: u64 = 100;

impl Sim<'_> {
    /// Heals everything, waits, and checks.
    pub(super) fn finish(&mut self) {
        self.heal();
        let begin = self.now;
        loop {
            self.run_until(self.now + LOOK);
            if self
                .checker
                .violations
                .iter()
                .any(|found| found.gap.is_none())
            {
                return;
            }
            if self.at_rest() {
                break;
            }
            let well_since = begin.max(self.last_declared);
            if self.now > well_since + INTENTS_LAST && self.intents_left() {
                let what = "write intents outlast their leases".to_owned();
                return self.violated(Guarantee::G8, what);
            }
            if self.now > begin + RECOVERY_MAX {
                let what = format!(
                    "after {} s not at rest: {}",
                    RECOVERY_MAX / SECOND,
                    self.describe()
                );
                return self.violated(Guarantee::Recovery, what);
            }
        }
        for at in 0..self.size {
            self.turns_end(at);
        }
        if self.now > begin + RECOVERY_SLOW {
            self.tally.fault("slow_recovery");
        }
        self.check_events();
        self.check_owed();
        self.check_tokens();
        self.check_tables();
        self.read_everything();
        for at in 0..self.size {
            self.read_all_leaves(at);
            self.count_leaves(at);
        }
        self.check_hits();
    }

    fn heal(&mut self) {
        self.healed = true;
        self.transcript
            .say(self.now, || "everything is well again".to_owned());
        self.net.heal();
        self.cut_off.clear();
        self.traps.clear();
        self.heal_locals();
        let now = self.now;
        for node in &mut self.nodes {
            node.suspects = Default::default();
            node.slow_until = 0;
            node.trap = None;
            node.stopped_until = node.stopped_until.min(now);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].up() {
                self.resume(at);
            } else if at < self.size {
                self.start(at);
            }
        }
        self.end_twin();
    }

    /// Whether every sidecar is fresh, knows the same heads, and has applied and written everything.
    fn at_rest(&mut self) -> bool {
        if self.nodes[self.size].up() || self.intents_left() {
            return false;
        }
        let beyond = self.beyond_recovery();
        let mut heads = BTreeSet::new();
        for at in 0..self.size {
            let now = self.time(at);
            let node = &self.nodes[at];
            let Some(core) = node.core.as_ref().filter(|_| node.flushing.is_empty()) else {
                return false;
            };
            if core.freshness(now) != Freshness::Fresh || core.fills_open() != (0, 0) {
                return false;
            }
            let told = core.progress().heads();
            // What others did not hear of a history that was given up they need not.
            let counts = |head: &OriginHead| {
                let run = head.incarnation;
                head.bump > 0 && !run.is_history() && !beyond.contains(&run)
            };
            let told = told.into_iter().filter(counts);
            let bumps: Vec<_> = told.map(|head| (head.incarnation, head.bump)).collect();
            let whole = bumps.iter().all(|(origin, _)| {
                let lane = core.progress().lane(*origin, Lane::Bump);
                lane.is_none_or(|lane| lane.gaps().next().is_none())
            });
            if !whole {
                return false;
            }
            heads.insert(bumps);
        }
        heads.len() == 1
    }

    /// The runs that somebody has closed with a hole, where a sidecar started over: nobody can have what is missing any more.
    fn beyond_recovery(&self) -> BTreeSet<Incarnation> {
        if !self.checker.retired.any_dropped() {
            return BTreeSet::new();
        }
        let cores = self.nodes.iter().filter_map(|node| node.core.as_ref());
        let runs = cores.flat_map(|core| core.progress().runs());
        let lost =
            runs.filter(|(_, lane)| lane.gaps().next().is_some() && lane.covered() >= lane.head());
        lost.map(|(run, _)| run).collect()
    }

    fn describe(&self) -> String {
        let lines = self.nodes.iter().enumerate().map(|(at, node)| {
            let Some(core) = &node.core else {
                return format!("{} is down", node.letter);
            };
            let freshness = core.freshness(self.time(at));
            let lanes = core.progress().heads().into_iter().map(|head| {
                let origin = head.incarnation;
                let lane = core.progress().lane(origin, Lane::Bump);
                let mark = lane.map_or(0, LaneProgress::watermark);
                format!("{origin:?} {mark}/{}", head.bump)
            });
            let lanes: Vec<_> = lanes.collect();
            format!("{} {freshness:?} [{}]", node.letter, lanes.join(", "))
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    fn check_events(&mut self) {
        let mut lacking = Vec::new();
        for (event, known) in self.checker.events() {
            if !known.answered || known.is_lost() {
                continue;
            }
            let lacks = |at: &usize| {
                let core = self.nodes[*at].core.as_ref();
                core.is_none_or(|core| !self.checker.has(core.progress(), event))
            };
            if let Some(at) = (0..self.size).find(lacks) {
                lacking.push((at, event, known.is_held()));
            }
        }
        for (at, event, held) in lacking {
            let letter = self.nodes[at].letter;
            let where_ = if held {
                "a disk holds it"
            } else {
                "no disk ever held it"
            };
            let what = format!("{letter} lacks {event:?}, which was answered; {where_}");
            self.violated(Guarantee::G1, what);
        }
    }

    fn check_tokens(&mut self) {
        if self.is(Arm::NoFence) {
            return;
        }
        let beyond = !self.beyond_recovery().is_empty();
        for address in 0..ADDRESSES_MAX {
            let looks = (0..self.size).filter_map(|at| self.look(at, address, 0));
            // Who was told of a shape while it left, and had changes to add to it, has left it out: its reads bypass the cache until one
            // of them makes it known to all once more, with these.
            let (unknown, shown): (Vec<_>, Vec<_>) = looks.partition(|found| found.new_shape);
            let tokens: Vec<_> = shown.iter().map(|found| found.token).collect();
            for _ in unknown {
                self.tally.fault("shape_unknown_at_rest");
            }
            let distinct: BTreeSet<_> = tokens.iter().collect();
            if distinct.len() > 1 && beyond {
                // Of a log that was closed with a hole somebody may have entries by a snapshot, and nobody the events. All
                // of it was bumped since: it costs hits.
                self.tally.fault("tokens_differ_after_a_loss");
            } else if distinct.len() > 1 {
                let name = &self.shop.items[address].query.address;
                let what = format!("{name} has different tokens at rest: {tokens:?}");
                self.violated(Guarantee::G12, what);
            }
        }
    }

    fn check_tables(&mut self) {
        let tops: BTreeSet<_> = self
            .shop
            .kinds
            .iter()
            .flat_map(|kind| &kind.classes)
            .collect();
        let tops = tops.iter().map(|class| class.top());
        let tops: BTreeSet<_> = tops.chain([MARKERS]).collect();
        // Sidecars tolerate an eighth more from others than they would make themselves.
        let per_top = self.plan.classes_per_top + self.plan.classes_per_top / 8;
        let most = tops.len() * (per_top + 1);
        for at in 0..self.size {
            let held = self.nodes[at]
                .core
                .as_ref()
                .map_or(0, |core| core.versions().len());
            if held > most {
                let letter = self.nodes[at].letter;
                let what = format!("{letter} holds {held} classes; its limits come to {most}");
                self.violated(Guarantee::G10, what);
            }
        }
    }

    /// Reads every address at every sidecar, and judges what is served.
    fn read_everything(&mut self) {
        for at in 0..self.size {
            for address in 0..ADDRESSES_MAX {
                let Some(found) = self.look(at, address, 0) else {
                    continue;
                };
                let promise = self.checker.promise(self.now, at, address);
                let Some(value) = self.cache.get(self.now, &found.targets[0].address) else {
                    continue;
                };
                let fenced =
                    found.envelope() && !self.is(Arm::NoFence) && found.strategy != Strategy::Ttl;
                let fits = value.address == address && (!fenced || value.token == found.token);
                if fits && !found.bypass {
                    self.judge(at, address, &promise, &value);
                }
            }
        }
    }

    fn check_hits(&mut self) {
        let (hits, oracle) = (self.tally.hits, self.tally.oracle_hits);
        if self.plan.calm && oracle >= ORACLE_HITS_MIN && hits * 100 < oracle * 85 {
            let what = format!("{hits} hits where the oracle has {oracle}");
            self.violated(Guarantee::Hits, what);
        }
    }
}
