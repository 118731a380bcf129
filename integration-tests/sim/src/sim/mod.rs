//! One run: a cluster, its applications, their database and cache, and everything that goes wrong.
//!
//! A discrete-event loop: take the next event, let it happen, judge. `process` runs sidecars as `grapevined` does,
//! `links` carries their messages, `serve` sends logs and snapshots, `gossip` tells whom they see, `reads`, `locals`, `turns`, `soft`, `snapshots`,
//! `leaves`, `writes` and `intents` are the applications, `faults` is what goes wrong, `losses` counts
//! the disks that did, `receipts` judges answers, `finish` heals everything and checks what
//! must hold at the end.

mod faults;
mod finish;
mod gossip;
mod intents;
mod leaves;
mod links;
mod locals;
mod losses;
mod process;
mod reads;
mod receipts;
mod serve;
mod sessions;
mod snapshots;
mod soft;
mod turns;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use grapevine_core::intent::IntentId;
use grapevine_core::machine::effects::Side;
use grapevine_core::names::NodeId;
use rand::Rng as _;

use crate::arms::Arm;
use crate::arms::rules::Stamps;
use crate::cache::Cache;
use crate::checker::Checker;
use crate::clock::{DriftClock, Micros, SECOND, WallClock};
use crate::database::Database;
use crate::events::Event;
use crate::generate::Plan;
use crate::local::Local;
use crate::network::{Network, SLOTS_MAX};
use crate::node::Node;
use crate::oracle::Oracle;
use crate::queue::Queue;
use crate::rng::stream;
use crate::schedule::HORIZON;
use crate::shelves::Shelves;
use crate::shop::Shop;
use crate::tally::Tally;
use crate::transcript::Transcript;
use crate::violation::{Guarantee, Violation};
use intents::{Declaring, Owed};
use leaves::{Listings, Rights};
use reads::Reading;
use sessions::{Session, SessionWait};
use snapshots::Opened;
use soft::Before;
use turns::OpenTurns;
use writes::Writing;

/// The staleness bound of every sidecar.
pub(crate) const MAX_STALENESS: Duration = Duration::from_millis(500);
/// How long a fill may take.
const LEASE: Duration = Duration::from_secs(2);
/// The largest difference between two clocks' rates.
const CLOCK_RATE_PPM: u32 = 10_000;
/// How far a clock's rate may be off true time: a little under half of that.
const SKEW_PPM: i32 = 4_900;

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// What occurred.
    pub(crate) tally: Tally,
    /// What was violated, in order.
    pub(crate) violations: Vec<Violation>,
    /// The hash of the whole transcript.
    pub(crate) hash: u64,
    /// The transcript, if it was to be kept.
    pub(crate) lines: Vec<String>,
}

/// The most steps of a run: a hundred times what the longest ones of five nodes take.
const STEPS_MAX: u64 = 5_000_000;

/// The world.
pub(crate) struct Sim<'a> {
    shop: &'a Shop,
    plan: &'a Plan,
    arm: Option<Arm>,
    size: usize,
    now: Micros,
    queue: Queue<Event>,
    nodes: Vec<Node>,
    net: Network,
    db: Database,
    shelves: Shelves,
    cache: Cache,
    oracle: Oracle,
    checker: Checker,
    tally: Tally,
    transcript: Transcript,
    reads: Vec<Option<Box<Reading>>>,
    /// The token of an address before the present one, for the arm that serves stale whatever replaced it.
    before: Before,
    /// Database snapshots that sidecars were told of, by operation.
    opened: BTreeMap<usize, Opened>,
    /// Turns to fill that readers have.
    turns: OpenTurns,
    /// Local tables of each sidecar's clients.
    locals: Vec<Vec<Local>>,
    /// Readers that wait for what their session has seen.
    waits: BTreeMap<usize, SessionWait>,
    /// Readers of lists, the rights to load given last, and what a session of theirs carries.
    listings: Listings,
    rights: Rights,
    list_session: Session,
    writes: Vec<Option<Writing>>,
    /// Writes that were declared, by operation.
    declaring: BTreeMap<usize, Declaring>,
    /// Writes that were committed within the lease of their declaration.
    owed: Vec<Owed>,
    /// When a write was declared last.
    last_declared: Micros,
    /// When all disks were lost at once.
    wiped_at: Micros,
    /// The slots whose disks were lost since all sidecars were whole, a bit each.
    lost: u8,
    /// What was on them of write intents.
    bereft: BTreeSet<IntentId>,
    /// Operations that wait for a seat to be spared, in a view later than this one.
    traps: Vec<(usize, u64)>,
    tickets: u64,
    /// What a session carries.
    session: Session,
    /// Wall-clock times of bumps, for the arm that believes in them.
    stamps: Stamps,
    /// Sidecars that are cut off, until when, and whether writes were made there and elsewhere.
    cut_off: VecDeque<(usize, Micros, bool, bool)>,
    /// Sidecars that want to end themselves.
    ending: Vec<(usize, String)>,
    /// Whether two processes had one node id, so that one of them may end itself.
    twins: bool,
    /// What grants have told on each link, for the arm that tells it once.
    told_once: BTreeMap<crate::network::LinkId, Vec<grapevine_core::progress::OriginHead>>,
    /// Whether what goes wrong is over.
    healed: bool,
}

impl<'a> Sim<'a> {
    fn new(plan: &'a Plan, shop: &'a Shop, arm: Option<Arm>, keep: bool) -> Self {
        let seed = plan.seed;
        let mut rng = stream(seed, 1);
        let slots = plan.size + 1;
        let nodes = (0..slots).zip('a'..).map(|(slot, letter)| {
            let clock = DriftClock::new(
                rng.random_range(SECOND..1_000 * SECOND),
                rng.random_range(-SKEW_PPM..=SKEW_PPM),
            );
            let wall = WallClock::new(rng.random_range(-3_600..=3_600));
            let name = NodeId::parse(&letter.to_string()).expect("invariant: a letter is a name");
            Node::new(name, letter, (clock, wall), stream(seed, 100 + slot as u64))
        });
        let nodes: Vec<_> = nodes.collect();
        let mut serve = [0; crate::shop::ADDRESSES_MAX];
        for (serve, item) in serve.iter_mut().zip(&shop.items) {
            let micros = u64::try_from(item.serve.as_micros()).unwrap_or(0);
            // Counted on a clock that may be slow.
            *serve = micros + micros / 100;
        }
        let windows = std::array::from_fn(|address| {
            // Counted on a clock that may be slow.
            let window = shop.window(address);
            window + window / 100
        });
        let staleness = u64::try_from(MAX_STALENESS.as_micros()).unwrap_or(0);
        Self {
            shop,
            plan,
            arm,
            size: plan.size,
            now: 0,
            queue: Queue::new(stream(seed, 2)),
            nodes,
            net: Network::new(plan.weather, stream(seed, 3)),
            db: Database::new(),
            shelves: Shelves::new(),
            cache: Cache::default(),
            oracle: Oracle::default(),
            checker: Checker::new(staleness, serve, windows),
            tally: Tally::default(),
            transcript: Transcript::new(keep),
            reads: plan.ops.iter().map(|_| None).collect(),
            before: Before::new(),
            opened: BTreeMap::new(),
            turns: OpenTurns::new(),
            locals: Self::make_locals(seed, plan.size),
            waits: BTreeMap::new(),
            listings: Listings::new(),
            rights: Rights::new(),
            list_session: Session::default(),
            writes: plan.ops.iter().map(|_| None).collect(),
            declaring: BTreeMap::new(),
            owed: Vec::new(),
            last_declared: 0,
            wiped_at: 0,
            lost: 0,
            bereft: BTreeSet::new(),
            traps: Vec::new(),
            tickets: 0,
            session: Session::default(),
            stamps: Stamps::new(),
            cut_off: VecDeque::new(),
            ending: Vec::new(),
            twins: false,
            told_once: BTreeMap::new(),
            healed: false,
        }
    }

    /// Whether an arm is on.
    fn is(&self, arm: Arm) -> bool {
        self.arm == Some(arm)
    }

    fn place(&self) -> (u64, Micros) {
        (self.tally.steps, self.now)
    }

    fn violated(&mut self, guarantee: Guarantee, what: String) {
        let place = self.place();
        self.transcript.say(self.now, || {
            format!("VIOLATION {}: {what}", guarantee.name())
        });
        self.checker.violated(guarantee, place, None, what);
    }

    fn after(&mut self, delay: Micros, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// Lets everything happen that is due by then, or until something is violated.
    fn run_until(&mut self, until: Micros) {
        while self
            .checker
            .violations
            .iter()
            .all(|found| found.gap.is_some())
            && let Some((at, event)) = self.queue.pop(until)
        {
            if self.tally.steps >= STEPS_MAX {
                self.has_no_end();
                break;
            }
            self.now = at;
            self.tally.steps += 1;
            self.dispatch(event);
        }
        self.now = until.max(self.now);
    }

    /// Messages that multiply never come to rest, and would hold up whoever waits for this run.
    fn has_no_end(&mut self) {
        if self.tally.steps == STEPS_MAX {
            self.tally.steps += 1;
            let what = format!("it has not come to rest after {STEPS_MAX} steps");
            self.violated(Guarantee::Recovery, what);
        }
    }

    /// The process that an event is for: its slot and run. `None` for events of the world.
    fn process_of(&self, event: &Event) -> Option<(usize, u64)> {
        match *event {
            Event::Flushed { node, run }
            | Event::Wake { node, run, .. }
            | Event::Gossip { node, run }
            | Event::Dial { node, run, .. }
            | Event::Exit { node, run, .. }
            | Event::Turn { node, run, .. }
            | Event::Pump { node, run, .. } => Some((node, run)),
            Event::LocalPost { of, run }
            | Event::LocalSays { of, run }
            | Event::LocalEnds { of, run, .. } => Some((of.at, run)),
            Event::Deliver { link, .. } => {
                let end = self.net.link(link).to;
                Some((end.slot, end.run))
            }
            Event::LinkLost { link, side } => {
                let link = self.net.link(link);
                let end = if side == Side::Inbound {
                    link.to
                } else {
                    link.from
                };
                Some((end.slot, end.run))
            }
            _ => None,
        }
    }

    fn dispatch(&mut self, event: Event) {
        if let Some((slot, run)) = self.process_of(&event) {
            if !self.nodes[slot].up() || self.nodes[slot].run != run {
                return;
            }
            if self.nodes[slot].stopped(self.now) {
                self.nodes[slot].deferred.push(event);
                return;
            }
        }
        match event {
            Event::Op(op) => self.begin(op),
            Event::Flushed { node, .. } => self.flushed(node),
            Event::Wake { node, at, .. } => self.wake(node, at),
            Event::Gossip { node, .. } => self.gossip(node),
            Event::Dial { node, to, .. } => self.dial(node, to),
            Event::Welcomed { link } => self.welcomed(link),
            Event::LinkLost { link, side } => self.link_lost(link, side),
            Event::BreakLinks { from, to } => self.break_links(from, to),
            Event::Deliver { link, message } => self.deliver(link, *message),
            Event::Pump { node, link, .. } => self.pump(node, link),
            Event::Start { node, run } => self.start_again(node, run),
            Event::Resume { node } => self.resume(node),
            Event::Flap { op, left } => self.flap(op, left),
            Event::Spared { op } => self.spared(op),
            Event::TwinEnds => self.end_twin(),
            Event::Exit { node, down, .. } => self.exit(node, down),
            Event::InsideBegins { op } => self.inside_begins(op),
            Event::InsideReads { op, nth } => self.inside_reads(op, nth),
            Event::List { op } => self.list_on(op),
            Event::Session { op, attempt } => self.look_with_session(op, attempt),
            Event::Got { op } => self.got(op),
            Event::Ask { op, attempt } => self.ask(op, attempt),
            Event::AskFails {
                op,
                attempt,
                silent,
            } => self.ask_fails(op, attempt, silent),
            Event::AskAgain { op, attempt } => self.ask_again(op, attempt),
            Event::ReaderGoes { op } => self.reader_goes(op),
            Event::Turn { node, word, .. } => self.hear_of_turn(node, word),
            Event::Query { op } => self.query(op),
            Event::Computed { op } => self.computed(op),
            Event::Set { op, token } => self.set(op, token),
            Event::Delete { address, mode } => self.delete(&address, mode),
            Event::LocalOpens(of) => self.local_opens(of),
            Event::LocalHears(of) => self.local_hears(of),
            Event::LocalAsks(of) => self.local_asks(of),
            Event::LocalLost(of) => self.local_lost(of),
            Event::LocalPost { of, .. } => self.local_post(of),
            Event::LocalSays { of, .. } => self.local_says(of),
            Event::LocalEnds { of, id, .. } => self.local_ends(of.at, id),
            Event::LocalResolves {
                of,
                op,
                address,
                before,
            } => self.local_resolves(of, (op, address), before),
            Event::LocalKeeps { of, address, kept } => self.local_keeps(of, address, *kept),
            Event::Declare { op, attempt } => self.declare(op, attempt),
            Event::Undeclared { op, attempt } => self.undeclared(op, attempt),
            Event::Decide { op } => self.decide(op),
            Event::Invalidate { op, attempt } => self.invalidate(op, attempt),
            Event::Overdue { op, attempt } => self.overdue(op, attempt),
        }
    }
}

/// Runs a plan from its begin to its end.
pub(crate) fn run(plan: &Plan, shop: &Shop, arm: Option<Arm>, keep: bool) -> Outcome {
    debug_assert!(
        plan.size < SLOTS_MAX,
        "invariant: there is a slot for a twin"
    );
    let mut sim = Sim::new(plan, shop, arm, keep);
    for (op, planned) in plan.ops.iter().enumerate() {
        sim.queue.push(planned.at, Event::Op(op));
    }
    for node in 0..plan.size {
        sim.start(node);
    }
    sim.open_locals();
    sim.run_until(HORIZON);
    sim.finish();
    for violation in &sim.checker.violations {
        sim.transcript
            .fold(&[violation.step, violation.at, violation.guarantee as u64]);
    }
    Outcome {
        hash: sim.transcript.hash(),
        tally: sim.tally,
        violations: sim.checker.violations,
        lines: sim.transcript.into_lines(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;
    use crate::scenario::Scenario;

    #[test]
    fn a_run_that_does_not_come_to_rest_is_ended_and_told() {
        let shop = Shop::new(false);
        let plan = generate(1, 3, Scenario::Storm, &shop);
        let mut sim = Sim::new(&plan, &shop, None, false);
        sim.start(0);
        sim.tally.steps = STEPS_MAX;
        sim.run_until(HORIZON);
        sim.run_until(2 * HORIZON);
        let told: Vec<_> = sim.checker.violations.iter().collect();
        assert!(
            matches!(told.as_slice(), [one] if one.guarantee == Guarantee::Recovery && one.gap.is_none())
        );
    }
}
