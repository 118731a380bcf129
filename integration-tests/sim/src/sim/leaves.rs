//! Readers of lists of rows: look into the leaf, or into two of them as one, load what is absent if nobody else does, look at rows of
//! members and prune those that have moved on. What leaves hold is judged in the part `judge`.
//!
//! A reader reads the database for a leaf as others do for a value: at read-committed isolation, inside a snapshot that begins
//! once it has its right, or at a replica that lags, unless its sidecar says that it must be the primary. Rows it looks at
//! in the primary. It goes on to talk to its sidecar's next run as if nothing had happened: core is to refuse.

mod judge;

use std::collections::BTreeMap;

use grapevine_core::index::{Combine, Place, Window};
use grapevine_core::lease::Lease;
use grapevine_core::machine::effects::{
    FillOutcome, Filling, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LoadId, Prune, Reply,
};

use super::Sim;
use crate::arms::Arm;
use crate::clock::{MILLISECOND, Micros};
use crate::events::Event;
use crate::node::Call;
use crate::schedule::{LeafOp, Source, What};
use crate::shelves::{List, Of};
use crate::tally::Race;

/// How often a reader looks again: for what its session has seen, and for the right to load.
const LOOKS_MAX: u32 = 40;
/// How long it waits in between for its session.
const SESSION_PAUSE: Micros = 10 * MILLISECOND;

/// Members, and the versions of their rows.
type Answer = Vec<(Place, u64)>;

/// A reader of a list.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    step: Step,
    /// The list that it loads or prunes.
    about: List,
    looks: u32,
    /// Whether it has looked into the leaf before, and was to wait.
    looked: bool,
    /// What an arm stores as soon as it has the right, and whether these are all.
    instead: Option<(Answer, bool)>,
}

/// What comes next.
#[derive(Clone, Debug)]
enum Step {
    /// It reads the leaf.
    Look,
    /// It asks for the right to load it.
    Ask,
    /// It reads the database, having got the right at a moment.
    Query(LoadId, Filling, Micros),
    /// It stores what it has read, and a second part of it if there is one.
    Fill(Load),
    /// It looks at rows of members that it was answered.
    Check(Vec<Place>, bool, Lease),
    /// It prunes members, and would write the others back if the arm says so.
    Prune(Vec<Place>, (Answer, bool), Lease),
}

/// What a reader has of a list that it loads.
#[derive(Clone, Debug)]
struct Load {
    right: LoadId,
    answer: Answer,
    whole: bool,
    /// How many of them are stored already.
    stored: usize,
    /// How many are not to be stored yet.
    later: usize,
}

/// Readers under way, by operation.
pub(super) type Listings = BTreeMap<usize, Listing>;

/// The rights given last, by slot and list.
pub(super) type Rights = BTreeMap<(usize, List), LoadId>;

impl LeafOp {
    /// The lists that are read, and how they make one.
    fn lists(&self) -> (Combine, Vec<List>) {
        let (combine, other) = self.with.unzip();
        let lists = std::iter::once(self.list).chain(other).collect();
        (combine.unwrap_or_default(), lists)
    }
}

impl Sim<'_> {
    fn leaf_op(&self, op: usize) -> Option<&LeafOp> {
        match &self.plan.ops[op].what {
            What::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    /// A reader of a list begins.
    pub(super) fn begin_listing(&mut self, op: usize) {
        let Some(leaf) = self.leaf_op(op) else {
            return;
        };
        let listing = Listing {
            step: Step::Look,
            about: leaf.list,
            looks: 0,
            looked: false,
            instead: None,
        };
        self.listings.insert(op, listing);
        self.list_on(op);
    }

    fn next_step(&mut self, op: usize, delay: Micros, step: Step) {
        if let Some(listing) = self.listings.get_mut(&op) {
            listing.step = step;
            self.after(delay, Event::List { op });
        }
    }

    /// A reader of a list goes on.
    pub(super) fn list_on(&mut self, op: usize) {
        let (Some(leaf), Some(listing)) = (self.leaf_op(op).copied(), self.listings.get(&op))
        else {
            return;
        };
        let at = leaf.read.node;
        let listing = listing.clone();
        let about = listing.about;
        let reads = matches!(listing.step, Step::Query(..) | Step::Check(..));
        if !reads && !self.nodes[at].answers(self.now) {
            self.listings.remove(&op);
            return;
        }
        match listing.step {
            Step::Look => self.look_into_leaf(op, &leaf, listing.looks),
            Step::Ask => {
                let ticket = self.ticket(at, Call::List(op));
                let key = self.shop.leaf(about).clone();
                self.input(at, Input::LoadLeaf(ticket, key));
            }
            Step::Query(right, filling, begun) => {
                self.read_list(op, (&leaf, about), (right, filling), begun);
            }
            Step::Fill(load) => self.fill_leaf(op, (&leaf, about), load),
            Step::Check(members, whole, evidence) => {
                self.look_at_rows(op, (&leaf, about), (members, whole), evidence);
            }
            Step::Prune(gone, rest, evidence) => {
                self.prune(op, (&leaf, about), (gone, rest), evidence);
            }
        }
    }

    fn look_into_leaf(&mut self, op: usize, leaf: &LeafOp, looks: u32) {
        let at = leaf.read.node;
        let now = self.time(at);
        let session = self.list_session.event().filter(|_| leaf.read.session);
        let Some(core) = self.nodes[at].core.as_ref() else {
            return;
        };
        if !session.is_none_or(|event| core.has_all(&[event])) {
            if looks < LOOKS_MAX {
                if let Some(listing) = self.listings.get_mut(&op) {
                    listing.looks += 1;
                }
                return self.next_step(op, SESSION_PAUSE, Step::Look);
            }
            self.listings.remove(&op);
            return;
        }
        let (combine, lists) = leaf.lists();
        let leaves = lists.iter().map(|list| self.shop.leaf(*list).clone());
        let query = LeafQuery {
            leaves: leaves.collect(),
            combine,
            window: Window {
                limit: leaf.limit,
                ..Window::default()
            },
            verified: leaf.verified,
        };
        let answer = core.read_leaf(&query, now);
        let again = self.listings.get_mut(&op);
        let again = again.is_some_and(|listing| std::mem::replace(&mut listing.looked, true));
        self.count_answer(again, (combine, &lists), &answer);
        self.tell_answer(op, leaf, &answer);
        match answer {
            LeafAnswer::Bypass => {
                self.listings.remove(&op);
            }
            LeafAnswer::Absent(missing) => {
                self.load_one_of(op, leaf, &lists, &missing);
            }
            LeafAnswer::Found {
                found,
                evidence,
                refill,
            } => {
                self.vouches_by_leaf(at);
                self.judge_leaves(at, (combine, &lists), leaf.limit, &found);
                let whole = found.whole && !found.more;
                let members: Vec<_> = found.members.into_iter().map(|(place, _)| place).collect();
                if !refill.is_empty() {
                    return self.load_one_of(op, leaf, &lists, &refill);
                }
                if members.is_empty() {
                    self.listings.remove(&op);
                    return;
                }
                let check = Step::Check(members, whole, evidence);
                self.next_step(op, leaf.read.query, check);
            }
        }
    }

    /// A reader loads the first of the lists that lack something.
    fn load_one_of(&mut self, op: usize, leaf: &LeafOp, lists: &[List], lacking: &[usize]) {
        if let Some(listing) = self.listings.get_mut(&op)
            && let Some(first) = lacking.first()
        {
            listing.about = lists[*first];
        }
        self.next_step(op, leaf.read.get, Step::Ask);
    }

    /// Counts what a reader's look comes to; of one that looks again, no more than what it finds.
    fn count_answer(
        &mut self,
        again: bool,
        (combine, lists): (Combine, &[List]),
        answer: &LeafAnswer,
    ) {
        let counted = &mut self.tally.leaves;
        let (asked, at_once) = if lists.len() > 1 {
            (&mut counted.together_asked, &mut counted.together_found)
        } else {
            (&mut counted.asked, &mut counted.found)
        };
        *asked += u64::from(!again);
        let found = matches!(answer, LeafAnswer::Found { .. });
        *at_once += u64::from(!again && found);
        match answer {
            LeafAnswer::Bypass => counted.bypassed += u64::from(!again),
            LeafAnswer::Absent(_) => counted.absent += u64::from(!again),
            LeafAnswer::Found { found, refill, .. } => {
                counted.found_later += u64::from(again);
                counted.short += u64::from(!refill.is_empty());
                counted.whole += u64::from(found.whole);
                counted.members += found.members.len() as u64;
                if lists.len() > 1 {
                    let together = match combine {
                        Combine::Any => &mut counted.united,
                        Combine::All => &mut counted.intersected,
                    };
                    *together += 1;
                }
                let extra = |(place, _): &&(Place, _)| {
                    let mut having = lists.iter().map(|list| self.shelves.has(*list, place));
                    match combine {
                        Combine::Any => !having.any(|has| has),
                        Combine::All => !having.all(|has| has),
                    }
                };
                counted.extra += found.members.iter().filter(extra).count() as u64;
            }
        }
    }

    fn tell_answer(&mut self, op: usize, leaf: &LeafOp, answer: &LeafAnswer) {
        let at = leaf.read.node;
        let code = match answer {
            LeafAnswer::Bypass => 1,
            LeafAnswer::Absent(_) => 2,
            LeafAnswer::Found { found, .. } => {
                let sums = [found.members.len(), found.filtered].map(|count| count as u64);
                10 + sums[0] * 64 + sums[1] * 4 + u64::from(found.whole)
            }
        };
        let number = |list: List| list.number() as u64;
        let with = leaf.with.map_or(u64::MAX, |(_, list)| number(list));
        self.transcript
            .fold(&[50, at as u64, number(leaf.list), with, code]);
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            let mut list = describe(leaf.list);
            if let Some((combine, with)) = leaf.with {
                list = format!("{list} and {} ({combine:?})", describe(with));
            }
            match answer {
                LeafAnswer::Found { found, refill, .. } => {
                    let places: Vec<_> = found.members.iter().map(|(place, _)| place).collect();
                    let (whole, more) =
                        (found.whole, if refill.is_empty() { "" } else { ", refill" });
                    format!(
                        "reader {op} at {letter} finds in {list}: {places:?}, whole {whole}{more}"
                    )
                }
                other => format!("reader {op} at {letter} asks for {list}: {other:?}"),
            }
        });
    }

    /// Who answers with a leaf says that it is fresh.
    fn vouches_by_leaf(&mut self, at: usize) {
        let place = self.place();
        let letter = self.nodes[at].letter;
        if let Some(core) = self.nodes[at].core.as_ref() {
            self.checker.vouches(place, (at, letter), core);
        }
    }

    /// A sidecar answers a reader of a list.
    pub(super) fn listing_answered(&mut self, at: usize, op: usize, reply: &Reply) {
        match reply {
            Reply::LeafTurn(turn) => self.turn_to_load(at, op, *turn),
            Reply::LeafFilled(outcome) => self.leaf_filled(at, op, *outcome),
            Reply::Pruned(count) => {
                self.tally.leaves.pruned += *count as u64;
                self.transcript.fold(&[54, op as u64, *count as u64]);
                self.listings.remove(&op);
            }
            _ => {
                self.listings.remove(&op);
            }
        }
    }

    fn turn_to_load(&mut self, at: usize, op: usize, turn: LeafTurn) {
        let (Some(leaf), Some(listing)) = (self.leaf_op(op).copied(), self.listings.get_mut(&op))
        else {
            return;
        };
        let key = (at, listing.about);
        let merges = self.arm == Some(Arm::EpochsMerged) && listing.instead.is_some();
        let given = match turn {
            LeafTurn::Load { load, filling, .. } => {
                self.rights.insert(key, load);
                Some((load, filling))
            }
            // The arm takes the right of whoever has it.
            LeafTurn::Wait { .. } if merges => {
                let right = self.rights.get(&key);
                right.map(|right| (*right, Filling::Free))
            }
            LeafTurn::Wait { after } => {
                listing.looks += 1;
                self.tally.leaves.waited += 1;
                if listing.looks > LOOKS_MAX {
                    self.listings.remove(&op);
                    return;
                }
                let after = u64::try_from(after.as_micros()).unwrap_or(0);
                return self.next_step(op, after, Step::Look);
            }
            LeafTurn::Bypass => None,
        };
        let Some((right, filling)) = given else {
            self.listings.remove(&op);
            return;
        };
        let instead = listing.instead.take();
        self.transcript.fold(&[51, op as u64, right.number]);
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("reader {op} may load it at {letter}: {right:?}, {filling:?}")
        });
        if let Some((answer, whole)) = instead {
            let load = Load {
                right,
                answer,
                whole,
                stored: 0,
                later: 0,
            };
            return self.next_step(op, 0, Step::Fill(load));
        }
        let query = Step::Query(right, filling, self.now);
        self.next_step(op, leaf.read.query, query);
    }

    /// A reader reads the database for a leaf.
    fn read_list(
        &mut self,
        op: usize,
        (leaf, about): (&LeafOp, List),
        (right, filling): (LoadId, Filling),
        begun: Micros,
    ) {
        let index = match leaf.read.source {
            Source::Replica(lag) if filling != Filling::Primary => self.db.lagging(self.now, lag),
            Source::Snapshot => self.db.lagging(begun + leaf.read.snapshot, 0),
            _ => self.db.index(),
        };
        let mut answer = self.shelves.members(about, index);
        let whole = leaf.first == 0 || answer.len() <= leaf.first;
        if !whole {
            answer.truncate(leaf.first);
        }
        self.transcript.fold(&[52, op as u64, index]);
        self.transcript.say(self.now, || {
            format!("reader {op} reads as of write {index}: {answer:?}, whole {whole}")
        });
        let later = if leaf.in_parts { answer.len() / 2 } else { 0 };
        let load = Load {
            right,
            answer,
            whole,
            stored: 0,
            later,
        };
        self.next_step(op, leaf.read.compute, Step::Fill(load));
    }

    fn fill_leaf(&mut self, op: usize, (leaf, about): (&LeafOp, List), mut load: Load) {
        let at = leaf.read.node;
        let (from, to) = (load.stored, load.answer.len() - load.later);
        let fill = LeafFill {
            leaf: self.shop.leaf(about).clone(),
            load: load.right,
            members: load.answer[from..to].to_vec(),
            more: load.later > 0,
            whole: load.whole,
            keep: 0,
        };
        load.stored = to;
        load.later = 0;
        if let Some(listing) = self.listings.get_mut(&op) {
            listing.step = Step::Fill(load);
        }
        let ticket = self.ticket(at, Call::List(op));
        self.input(at, Input::FillLeaf(ticket, fill));
    }

    fn leaf_filled(&mut self, at: usize, op: usize, outcome: FillOutcome) {
        let (Some(leaf), Some(listing)) = (self.leaf_op(op).copied(), self.listings.get(&op))
        else {
            return;
        };
        let (Step::Fill(load), looks) = (listing.step.clone(), listing.looks) else {
            return;
        };
        self.transcript.fold(&[53, op as u64, outcome as u64]);
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("reader {op} has loaded it at {letter}: {outcome:?}")
        });
        if outcome == FillOutcome::More {
            return self.next_step(op, leaf.read.set, Step::Fill(load));
        }
        let counted = &mut self.tally.leaves;
        let again = match outcome {
            FillOutcome::Stored => {
                counted.stored += 1;
                Arm::FillOverwrites
            }
            FillOutcome::Condemned | FillOutcome::More => {
                counted.condemned += 1;
                Arm::EpochsMerged
            }
            FillOutcome::Over => {
                counted.over += 1;
                Arm::EpochsMerged
            }
        };
        let added = match outcome {
            FillOutcome::Stored => load.whole && self.was_added(at, listing.about, &load.answer),
            FillOutcome::Condemned => load.right.run == self.nodes[at].incarnation,
            _ => false,
        };
        if added {
            self.tally.race(Race::LoadedWhileAdded);
        }
        // An arm stores it once more, under a right of now.
        if self.arm == Some(again)
            && looks < LOOKS_MAX
            && let Some(listing) = self.listings.get_mut(&op)
        {
            listing.looks = LOOKS_MAX;
            listing.instead = Some((load.answer, load.whole));
            return self.next_step(op, 0, Step::Ask);
        }
        self.listings.remove(&op);
    }

    /// A reader looks at the rows of members, in the primary.
    fn look_at_rows(
        &mut self,
        op: usize,
        (leaf, about): (&LeafOp, List),
        (members, whole): (Vec<Place>, bool),
        evidence: Lease,
    ) {
        let here = self.shelves.members(about, self.db.index());
        let is_here = |place: &Place| here.iter().any(|(here, _)| here == place);
        let (rest, gone): (Vec<_>, Vec<_>) = members.into_iter().partition(is_here);
        if gone.is_empty() {
            self.listings.remove(&op);
            return;
        }
        let version = |place: &Place| here.iter().find(|(here, _)| here == place);
        let rest = rest.iter().filter_map(version).cloned().collect();
        let prune = Step::Prune(gone, (rest, whole), evidence);
        self.next_step(op, leaf.read.compute, prune);
    }

    fn prune(
        &mut self,
        op: usize,
        (leaf, about): (&LeafOp, List),
        (places, rest): (Vec<Place>, (Answer, bool)),
        mut evidence: Lease,
    ) {
        let at = leaf.read.node;
        if places.iter().any(|place| self.shelves.has(about, place)) {
            self.tally.race(Race::CameBack);
        }
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            let list = describe(about);
            format!("reader {op} prunes {places:?} from {list} at {letter}")
        });
        match self.arm {
            Some(Arm::ListWrittenBack) => {
                if let Some(listing) = self.listings.get_mut(&op) {
                    listing.instead = Some(rest);
                }
                return self.next_step(op, 0, Step::Ask);
            }
            Some(Arm::PruneWithoutStamp) => {
                if let Some(core) = &self.nodes[at].core {
                    evidence.stamp = core.versions().stamp();
                    evidence.incarnation = core.incarnation();
                }
            }
            _ => {}
        }
        let prune = Prune {
            leaf: self.shop.leaf(about).clone(),
            places,
            evidence,
        };
        let ticket = self.ticket(at, Call::List(op));
        self.input(at, Input::PruneLeaf(ticket, prune));
    }

    /// Adds up what the core of a run that ends has counted of its leaves.
    pub(super) fn count_leaves(&mut self, at: usize) {
        if let Some(core) = &self.nodes[at].core {
            self.tally.leaves.evicted += core.counters().leaves_evicted;
            self.tally.leaves.displaced += core.counters().loads_displaced;
            self.tally.leaves.removed += core.counters().members_pruned;
        }
    }
}

fn describe(list: List) -> String {
    let table = crate::shelves::TABLES[list.table];
    match list.of {
        Of::Category(category) => format!("{table} of category {category}"),
        Of::Ordered(category) => format!("{table} of category {category} by falling price"),
        Of::Price(price) => format!("{table} of price {price}"),
    }
}
