//! Readers: look up, look into the cache, read the database on a miss, commit where that is asked for, store.
//!
//! A reader holds on to what its look-up said, however long the rest takes: its promise is that of the look-up, its stamp
//! is older than its read, and its store may come when everything has changed. What arms do wrong at a reader is done
//! here: ignoring tokens, taking the stamp when the value is stored, never reading the cache.

use std::time::Duration;

use grapevine_core::address::plan;
use grapevine_core::event::PurgeMode;
use grapevine_core::machine::effects::{
    Filling, Freshness, Input, LeaseClaim, Purpose, RegisterItem, Resolution, Ticket, Verdict,
};
use grapevine_core::names::Address;
use grapevine_core::policy::Strategy;
use grapevine_core::token::Token;

use super::Sim;
use super::sessions::SessionWait;
use super::turns::Asking;
use crate::arms::Arm;
use crate::cache::Value;
use crate::checker::Promise;
use crate::clock::{MILLISECOND, Micros};
use crate::events::Event;
use crate::node::Call;
use crate::schedule::{ReadOp, Source};
use crate::shop::SHORT_TTL;
use crate::soft::Fresher;
use crate::tally::Race;
use crate::violation::Guarantee;

/// How long a commit may take before the application gives up on it.
const COMMIT_PATIENCE: Micros = 1_000 * MILLISECOND;

/// A read under way.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) read: ReadOp,
    pub(super) at: usize,
    pub(super) address: usize,
    begun: Micros,
    promise: Promise,
    pub(super) resolution: Resolution,
    index: u64,
    pub(super) committed: Micros,
    /// What a stale value must have, and whether one was served.
    pub(super) stale: Option<Fresher>,
    /// How it stands with its turn to fill.
    pub(super) asking: Asking,
    /// Whether a local table said where to look: its sidecar knows nothing of it.
    local: bool,
}

impl Reading {
    /// Of a reader whose table says where to look.
    pub(super) fn local(
        read: &ReadOp,
        (at, address): (usize, usize),
        begun: Micros,
        (promise, resolution): (Promise, Resolution),
    ) -> Self {
        Self {
            read: *read,
            at,
            address,
            begun,
            promise,
            resolution,
            index: 0,
            committed: 0,
            stale: None,
            asking: Asking::default(),
            local: true,
        }
    }

    /// The newest write whose bump its sidecar had applied.
    pub(super) fn applied(&self) -> u64 {
        self.promise.applied
    }
}

impl Sim<'_> {
    /// A reader looks an address up, at the slot's sidecar or, if that is a twin that is not there, at another.
    pub(super) fn begin_read(&mut self, op: usize, read: &ReadOp) {
        let local = read.local.filter(|_| self.has_locals());
        let goes_on = local.map_or(0, |nth| self.locals[read.node][nth].stopped_until);
        if goes_on > self.now {
            // The process reads when it does.
            return self.queue.push(goes_on, Event::Op(op));
        }
        self.tally.reads += 1;
        let mut at = read.node;
        if at >= self.size && !self.nodes[at].up() {
            at %= self.size;
        }
        let mut address = read.address;
        let session = self.session.event().filter(|_| read.session);
        if session.is_some() {
            address = self.session.of_these(address, &self.checker);
        }
        self.ask_oracle(read, address);
        if let Some(nth) = local {
            return self.read_locally((op, read), (at, nth), address);
        }
        if !self.nodes[at].answers(self.now) {
            self.tally.bypassed += 1;
            return;
        }
        if let Some(event) = session {
            let write = self.session.newest(address, &self.checker);
            self.tally.sessions.0 += 1;
            let waits = SessionWait {
                at,
                address,
                event,
                write,
            };
            return self.wait_for_session(op, 0, read, waits);
        }
        self.resolve(op, read, at, address, 0);
    }

    fn ask_oracle(&mut self, read: &ReadOp, address: usize) {
        let ttl = match self.shop.items[address].strategy {
            Strategy::Ttl => SHORT_TTL,
            _ => Duration::from_hours(1),
        };
        let ttl = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        let fill = read.get + read.query + read.compute + read.set;
        let truth = (self.db.last(address), self.db.index());
        if self.oracle.read(self.now, address, truth, (fill, ttl)) {
            self.tally.oracle_hits += 1;
        }
    }

    pub(super) fn read_op(&self, op: usize) -> Option<ReadOp> {
        match self.plan.ops[op].what {
            crate::schedule::What::Read(read) => Some(read),
            _ => None,
        }
    }

    pub(super) fn resolve(
        &mut self,
        op: usize,
        read: &ReadOp,
        at: usize,
        address: usize,
        session: u64,
    ) {
        let Some(mut resolution) = self.look(at, address, read.jitter) else {
            return;
        };
        if resolution.new_shape {
            let classes = self.shop.items[address].query.classes.clone();
            self.input(at, Input::MeetShapes(classes));
        }
        let mut promise = self.checker.promise(self.now, at, address);
        promise.session = session;
        if let Source::Inside(opened) = read.source {
            self.heed_snapshot(opened, read.jitter, (at, address), &mut resolution);
        }
        self.transcript
            .fold(&[20, at as u64, address as u64, resolution.token.0]);
        let (letter, name) = (
            self.nodes[at].letter,
            &self.shop.items[address].query.address,
        );
        self.transcript.say(self.now, || {
            let bypass = if resolution.bypass { ", bypass" } else { "" };
            format!(
                "reader {op} at {letter} resolves {name}: {:?}{bypass}",
                resolution.token
            )
        });
        if resolution.bypass {
            self.tally.bypassed += 1;
            return;
        }
        let stale = self.stale_promise(read, (at, address), &resolution, session);
        self.reads[op] = Some(Box::new(Reading {
            read: *read,
            at,
            address,
            begun: self.now,
            promise,
            resolution,
            index: self.db.index(),
            committed: 0,
            stale,
            asking: Asking::default(),
            local: false,
        }));
        self.after(read.get, Event::Got { op });
    }

    /// What a sidecar answers to a look-up, judged; with what an arm makes of it.
    pub(super) fn look(&mut self, at: usize, address: usize, jitter: u32) -> Option<Resolution> {
        let caught_up = self.caught_up(at);
        let now = self.time(at);
        let item = &self.shop.items[address];
        let node = &self.nodes[at];
        let core = node.core.as_ref()?;
        let mut resolution = core.resolve(&item.query, now, jitter).ok()?;
        if item.strategy == Strategy::Ttl {
            resolution.bypass |= self.is(Arm::BypassAll);
            return Some(resolution);
        }
        if item.reads.is_some() && node.rule.is_some() {
            return None;
        }
        if resolution.new_shape {
            self.tally.new_shapes += 1;
            if !self.is(Arm::NewShapesServed) {
                // Its token says nothing yet, and nobody relies on it.
                return Some(resolution);
            }
            resolution.bypass = core.freshness(now) != Freshness::Fresh;
        }
        let salt = (!caught_up).then_some(node.incarnation);
        let token = match (self.arm, &node.rule) {
            (_, Some(rule)) => rule.token(&item.classes, salt, &self.stamps),
            (Some(Arm::UnsaltedRestart), _) => {
                resolution.bypass &= caught_up;
                core.versions().token(&item.classes, None)
            }
            _ => resolution.token,
        };
        resolution.bypass |= self.is(Arm::BypassAll);
        if self.is(Arm::SourceLagIgnored) {
            resolution.lease.stamp = core.versions().stamp();
            resolution.filling = Filling::Free;
        }
        if token != resolution.token {
            let policy = self.shop.policies.of(&item.query.classes[0]);
            resolution.token = token;
            let first = &item.query.classes[0];
            resolution.targets = plan(&item.query.address, first, None, policy, token).ok()?;
        }
        let place = self.place();
        let letter = node.letter;
        if !resolution.bypass && item.serve.is_zero() {
            self.checker.vouches(place, (at, letter), core);
        }
        if self.is(Arm::NoFence) {
            resolution.token = Token::NONE;
            resolution.targets[0].address = item.query.address.clone();
            return Some(resolution);
        }
        let name = item.query.address.as_str();
        if self.arm == Some(Arm::StaleAfterHard) {
            Self::keep_before(
                &mut self.before,
                (at, address),
                self.now,
                self.shop,
                &mut resolution,
            );
        }
        self.checker.shown(
            place,
            (at, letter),
            (address, name),
            resolution.token,
            caught_up,
        );
        Some(resolution)
    }

    /// Whether a reader accepts what it found.
    fn accepts(&self, reading: &Reading, value: &Value) -> bool {
        let resolution = &reading.resolution;
        let ignores = self.is(Arm::NoFence) || resolution.strategy == Strategy::Ttl;
        let same = value.token == resolution.token || !resolution.envelope();
        value.address == reading.address && (same || ignores)
    }

    /// The cache answers a reader.
    pub(super) fn got(&mut self, op: usize) {
        let Some(reading) = self.reads[op].clone() else {
            return;
        };
        let (at, address) = (reading.at, reading.address);
        if self.checker.newest_applied(at, address) > reading.promise.applied {
            self.tally.race(Race::OvertakenToken);
        }
        let found = self.cache.get(self.now, target(&reading));
        if found.is_some_and(|value| value.undead) {
            self.tally.race(Race::Undead);
        }
        let Some(value) = found.filter(|value| self.accepts(&reading, value)) else {
            self.transcript.fold(&[21, op as u64]);
            if reading.local {
                return self.local_missed(op, &reading);
            }
            self.serve_stale(op);
            return self.missed(op);
        };
        self.reads[op] = None;
        self.tally.locals.hits += u64::from(reading.local);
        if reading.asking.has_asked() {
            self.tally.turns.waited += 1;
            self.end_turn(&reading.asking, true);
        } else if !matches!(reading.read.source, Source::Inside(_)) {
            self.tally.hits += 1;
        }
        self.transcript.fold(&[22, op as u64, value.index]);
        let (letter, name) = (
            self.nodes[at].letter,
            &self.shop.items[address].query.address,
        );
        self.transcript.say(self.now, || {
            format!(
                "reader {op} at {letter} is served {name} as of write {}",
                value.index
            )
        });
        self.judge(at, address, &reading.promise, &value);
    }

    /// Judges a value that was served.
    pub(super) fn judge(&mut self, at: usize, address: usize, promise: &Promise, value: &Value) {
        let item = &self.shop.items[address];
        if item.strategy == Strategy::Ttl {
            return;
        }
        let place = self.place();
        let (letter, name) = (self.nodes[at].letter, item.query.address.as_str());
        self.checker.served(place, (letter, name), promise, value);
    }

    /// A reader that missed reads the database.
    pub(super) fn query(&mut self, op: usize) {
        let Some(mut reading) = self.reads[op].take() else {
            return;
        };
        let source = match reading.read.source {
            Source::Replica(_) if reading.resolution.filling == Filling::Primary => Source::Primary,
            source => source,
        };
        match source {
            Source::Primary => reading.index = self.db.index(),
            Source::Snapshot => {
                let begun = reading.begun + reading.read.snapshot.min(reading.read.get);
                reading.index = self.db.lagging(begun, 0);
            }
            Source::Inside(opened) => reading.index = self.index_inside(opened),
            Source::Replica(lag) => {
                reading.index = self.db.lagging(self.now, lag);
                if reading.index < reading.promise.applied {
                    self.tally.race(Race::LaggingFill);
                }
            }
        }
        self.transcript.fold(&[23, op as u64, reading.index]);
        let compute = reading.read.compute;
        self.reads[op] = Some(reading);
        self.after(compute, Event::Computed { op });
    }

    /// A reader has its value, and stores it or asks whether it may.
    pub(super) fn computed(&mut self, op: usize) {
        let Some(mut reading) = self.reads[op].take() else {
            return;
        };
        self.tally.fills += 1;
        let (at, address) = (reading.at, reading.address);
        if reading.resolution.filling == Filling::Forbidden {
            self.transcript.fold(&[26, op as u64]);
            let inside = matches!(reading.read.source, Source::Inside(_));
            self.tally.inside.forbidden += u64::from(inside);
            return self.end_turn(&reading.asking, false);
        }
        self.judge_turn(&mut reading);
        let overtaken = reading.index < self.checker.newest_applied(at, address);
        let within = matches!(reading.read.source, Source::Snapshot | Source::Inside(_));
        if overtaken && within {
            self.tally.race(Race::OldSnapshot);
        }
        let mut lease = LeaseClaim::Lease(reading.resolution.lease);
        let licensed = self.is(Arm::TurnIsALicence) && reading.asking.has_turn();
        if self.is(Arm::StampAtCommit) || licensed {
            let again = self.nodes[at].answers(self.now);
            let again = again.then(|| self.look(at, address, 0)).flatten();
            let Some(again) = again.filter(|again| !again.bypass) else {
                return self.end_turn(&reading.asking, false);
            };
            reading.resolution = again;
            lease = LeaseClaim::Absent;
        } else if let Some(fill) = reading.asking.fill() {
            lease = LeaseClaim::Elected(reading.resolution.lease, fill);
        }
        let (commits, token) = (
            reading.resolution.commit_required(),
            reading.resolution.token,
        );
        if !commits || licensed || self.is(Arm::NoFence) {
            let set = reading.read.set;
            self.reads[op] = Some(reading);
            return self.after(set, Event::Set { op, token });
        }
        if !self.nodes[at].answers(self.now) {
            return self.end_turn(&reading.asking, false);
        }
        reading.committed = self.now;
        self.reads[op] = Some(reading);
        self.register(at, address, lease, Call::Fill(op));
    }

    /// Commits or registers an address.
    pub(super) fn register(&mut self, at: usize, address: usize, lease: LeaseClaim, call: Call) {
        let item = &self.shop.items[address];
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let unix = self.nodes[at].wall.unix(self.now);
        let register = RegisterItem {
            address: item.query.address.clone(),
            classes: item.classes.clone(),
            expires: unix.plus(Duration::from_hours(2)),
            lease,
            purpose: match item.strategy {
                Strategy::Registered => Purpose::Directory,
                _ => Purpose::Verdict,
            },
        };
        self.nodes[at].calls.insert(ticket, call);
        self.input(at, Input::Register(ticket, vec![register]));
    }

    /// A commit is answered.
    pub(super) fn fill_answered(&mut self, op: usize, verdict: Verdict) {
        let Some(reading) = self.reads[op].clone() else {
            return;
        };
        let (at, address) = (reading.at, reading.address);
        let in_time = self.now < reading.committed + COMMIT_PATIENCE;
        let Verdict::Accepted(token) = verdict else {
            self.transcript.fold(&[24, op as u64]);
            self.reads[op] = None;
            return self.turn_condemned(&reading.asking, verdict);
        };
        self.judge_accepted(at, &reading.asking);
        self.judge_inside(at, &reading);
        let newest = self.checker.newest_applied(at, address);
        if reading.index < newest {
            let letter = self.nodes[at].letter;
            let index = reading.index;
            let what = format!(
                "{letter} accepts a fill as of write {index} after it applied the bump of write {newest}"
            );
            let place = self.place();
            self.checker.violated(Guarantee::G4, place, None, what);
        }
        // An arm's table of versions knows nothing of verdicts.
        let own = self.nodes[at].rule.is_some();
        let token = if own { reading.resolution.token } else { token };
        if in_time {
            self.after(reading.read.set, Event::Set { op, token });
        } else {
            self.reads[op] = None;
            self.end_turn(&reading.asking, false);
        }
    }

    /// A store arrives at the cache.
    pub(super) fn set(&mut self, op: usize, token: Token) {
        let Some(reading) = self.reads[op].take() else {
            return;
        };
        let address = reading.address;
        if reading.index < self.checker.newest_anywhere(address) {
            self.tally.race(Race::LateSet);
        }
        let ttl = u64::try_from(reading.resolution.ttl.as_micros()).unwrap_or(u64::MAX);
        let value = Value {
            address,
            token,
            index: reading.index,
            expires: reading.begun.saturating_add(ttl),
            stored: self.tally.steps,
            marked: false,
            undead: false,
        };
        self.transcript.fold(&[25, op as u64, token.0, value.index]);
        let key = target(&reading).clone();
        self.transcript.say(self.now, || {
            format!("reader {op} stores {key} as of write {}", value.index)
        });
        let stored = self.cache.set(self.now, key, value);
        self.end_turn(&reading.asking, stored);
    }

    /// A delete arrives at the cache.
    pub(super) fn delete(&mut self, address: &Address, mode: PurgeMode) {
        let arrived = self.cache.delete(self.now, address, mode);
        self.transcript.fold(&[26, u64::from(arrived)]);
        self.transcript.say(self.now, || {
            let lost = if arrived { "" } else { ", and that is lost" };
            format!("{address} is purged, {mode:?}{lost}")
        });
    }

    /// What a naive application deletes when it invalidates.
    pub(super) fn delete_plainly(&mut self, covers: crate::shop::Mask) {
        let names = covers
            .iter()
            .map(|address| self.shop.items[address].query.address.clone());
        self.purge(names.collect(), PurgeMode::Hard);
    }

    /// Registers an address that an application filled without a lease: the directory is to know it.
    pub(super) fn register_plainly(&mut self, at: usize, address: usize) {
        let known = self.shop.items[address].strategy == Strategy::Registered;
        if known && self.nodes[at].answers(self.now) {
            self.register(at, address, LeaseClaim::Absent, Call::Plain);
        }
    }
}

/// The cache address of a read.
pub(super) fn target(reading: &Reading) -> &Address {
    &reading.resolution.targets[0].address
}
