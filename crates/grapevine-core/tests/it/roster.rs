//! The roster: members decide views one after another, and never two different ones of one number, whatever is lost,
//! late, doubled or restarted, and though a disk at a time is wiped or put back from an older copy.

use std::collections::BTreeMap;

use grapevine_core::id::Incarnation;
use grapevine_core::names::NodeId;
use grapevine_core::roster::{Ballot, Draft, Memory, Outcome, Record, Roster, Say, View};

/// The first so many nodes make the first view; in every other schedule there are two more.
const FIRST: usize = 3;

/// A small generator, so that a seed is all that a run depends on.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }
}

#[derive(Default)]
struct Slot {
    runs: u128,
    up: Option<Roster>,
    disk: Option<Record>,
    copy: Option<Record>,
}

/// What a change of the rules under test leaves out, to see that the checks have eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Real,
    /// Says what it has not kept yet, so that a crash forgets what was said.
    SayFirst,
    /// Believes a disk that it started on.
    TrustDisk,
}

struct Cluster {
    dice: Dice,
    rule: Rule,
    slots: Vec<Slot>,
    /// Under way: from, to, what.
    messages: Vec<(usize, usize, Option<Incarnation>, Say)>,
    decided: BTreeMap<u64, View>,
    /// Who has lost a disk and is not sure again.
    amnesiac: Option<usize>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    views: usize,
    crashes: usize,
    losses: usize,
    recoveries: usize,
}

fn node(at: usize) -> NodeId {
    NodeId::parse(&format!("n{at}")).unwrap()
}

/// The question of one that would propose.
fn prepare(number: u64, ballot: Ballot) -> Say {
    Say::Prepare {
        number,
        ballot,
        recovers: false,
    }
}

fn slot_of(node: &NodeId) -> usize {
    node.as_str()[1..].parse().unwrap()
}

impl Cluster {
    fn new(seed: u64, rule: Rule) -> Self {
        let mut cluster = Self {
            dice: Dice(seed),
            rule,
            slots: (0..FIRST + 2 * (seed % 2) as usize)
                .map(|_| Slot::default())
                .collect(),
            messages: Vec::new(),
            decided: BTreeMap::new(),
            amnesiac: None,
            counts: Counts::default(),
        };
        (0..cluster.slots.len()).for_each(|at| cluster.start(at));
        cluster
    }

    fn run(&self, at: usize) -> Incarnation {
        Incarnation::new((at as u128 + 1) << 32 | self.slots[at].runs).unwrap()
    }

    fn start(&mut self, at: usize) {
        self.slots[at].runs += 1;
        let run = self.run(at);
        let record = self.slots[at].disk.clone();
        let mut record = record;
        if let (Rule::TrustDisk, Some(record)) = (self.rule, &mut record) {
            // As if the seat were this run's.
            if let Some(seat) = record.view.seats.get_mut(&node(at)) {
                *seat = run;
            }
            let mut roster = Roster::start(node(at), run, None);
            let promised = record.promised;
            let history = record.view.history;
            roster.heard(&node(at), history, Say::Decided(record.view.clone()));
            if let Some(ballot) = promised {
                let number = record.view.number;
                roster.heard(&node(at), history, prepare(number, ballot));
            }
            self.slots[at].up = Some(roster);
            return;
        }
        self.slots[at].up = Some(Roster::start(node(at), run, record));
    }

    fn crash(&mut self, at: usize) {
        if self.slots[at].up.take().is_some() {
            self.counts.crashes += 1;
        }
    }

    /// Takes a disk away or puts an older copy in its place, if no other loss is still being got over.
    fn lose(&mut self, at: usize, wipe: bool) {
        if self.amnesiac.is_some_and(|other| other != at) {
            return;
        }
        self.crash(at);
        self.slots[at].disk = if wipe {
            None
        } else {
            self.slots[at].copy.clone()
        };
        self.amnesiac = Some(at);
        self.counts.losses += 1;
        // Back at once, while what it forgot is still under way.
        self.start(at);
        self.act(at, Roster::recover);
    }

    fn act(&mut self, at: usize, act: impl FnOnce(&mut Roster) -> Outcome) {
        let Some(roster) = self.slots[at].up.as_mut() else {
            return;
        };
        let before = roster.memory();
        let outcome = act(roster);
        let (memory, view) = (roster.memory(), roster.view().clone());
        if before != Memory::Sure && memory == Memory::Sure {
            self.counts.recoveries += 1;
            self.amnesiac.take_if(|lost| *lost == at);
        }
        let forgets = self.rule == Rule::SayFirst && self.dice.roll(2) == 0;
        if let Some(record) = outcome.keep
            && !forgets
        {
            self.slots[at].disk = Some(record);
        }
        for (to, say) in outcome.say {
            self.messages.push((at, slot_of(&to), view.history, say));
        }
        if outcome.adopted {
            self.counts.views += 1;
            let known = self
                .decided
                .entry(view.number)
                .or_insert_with(|| view.clone());
            assert_eq!(*known, view, "two views are number {}", view.number);
        }
    }

    /// The seats that a node would like: itself and whom it draws, with the runs that they have. A newcomer is wanted
    /// only once it has the present view on disk: one that could forget that it was seated would count as a loss.
    fn wish(&mut self, at: usize, view: &View) -> BTreeMap<NodeId, Incarnation> {
        let first = view.number == 0;
        let among = if first { FIRST } else { self.slots.len() };
        let wanted: Vec<_> = (0..among)
            .filter(|other| first || *other == at || self.dice.roll(4) > 0)
            .collect();
        let seat = |other: usize| self.run(other);
        let may = |other: &usize| first || self.may_be_seated(*other, view);
        let seated = wanted.into_iter().filter(may);
        seated.map(|other| (node(other), seat(other))).collect()
    }

    fn may_be_seated(&self, at: usize, view: &View) -> bool {
        let up = self.slots[at].up.as_ref();
        let knows = up.is_some_and(|roster| roster.view().number >= view.number);
        knows || view.seats.contains_key(&node(at))
    }

    fn propose(&mut self, at: usize) {
        let Some(view) = self.slots[at]
            .up
            .as_ref()
            .map(|roster| roster.view().clone())
        else {
            return;
        };
        if view.number == 0 && at >= FIRST {
            return;
        }
        let seats = self.wish(at, &view);
        // A lone member has nobody who could tell it that its disk is an older copy.
        if seats.len() > 1 {
            let bump = self.dice.roll(4) == 0;
            let closed = BTreeMap::new();
            let draft = Draft {
                spared: false,
                seats,
                bump,
                closed,
                ..Draft::default()
            };
            self.act(at, |roster| roster.propose(draft));
        }
    }

    /// What a probe does: whoever is behind is told.
    fn tell(&mut self, from: usize, to: usize) {
        if let Some(roster) = &self.slots[from].up {
            let told = Say::Decided(roster.view().clone());
            self.messages.push((from, to, roster.view().history, told));
        }
    }

    fn deliver(&mut self, nth: usize, again: bool) {
        let (from, to, history, say) = if again {
            self.messages[nth].clone()
        } else {
            self.messages.swap_remove(nth)
        };
        self.act(to, |roster| roster.heard(&node(from), history, say));
    }

    fn step(&mut self) {
        let at = self.dice.roll(self.slots.len());
        match self.dice.roll(100) {
            0..=69 if !self.messages.is_empty() => {
                let nth = self.dice.roll(self.messages.len());
                let again = self.dice.roll(10) == 0;
                self.deliver(nth, again);
            }
            70..=74 if !self.messages.is_empty() => {
                let nth = self.dice.roll(self.messages.len());
                self.messages.swap_remove(nth);
            }
            75..=82 => self.propose(at),
            83..=86 => self.act(at, Roster::recover),
            87..=88 => self.crash(at),
            89..=93 => {
                if self.slots[at].up.is_none() {
                    self.start(at);
                }
            }
            94..=95 => self.slots[at].copy = self.slots[at].disk.clone(),
            96..=97 => {
                let wipe = self.dice.roll(2) == 0;
                self.lose(at, wipe);
            }
            _ => {
                let to = self.dice.roll(self.slots.len());
                self.tell(at, to);
            }
        }
    }

    /// Everything runs and every message arrives: in the end all have seats, by their present runs.
    fn heal(&mut self) -> Result<(), String> {
        for at in 0..self.slots.len() {
            if self.slots[at].up.is_none() {
                self.start(at);
            }
        }
        let present = (0..self.slots.len()).map(|at| (node(at), self.run(at)));
        let all: BTreeMap<_, _> = present.collect();
        for round in 0..60 {
            // One after another: members that outbid each other all the time decide nothing.
            for at in 0..self.slots.len() {
                self.act(at, Roster::recover);
                self.quiet();
            }
            let at = round % self.slots.len();
            let view = self.slots[at].up.as_ref().unwrap().view().clone();
            if view.number > 0 {
                let mut seats = all.clone();
                seats.retain(|node, _| self.may_be_seated(slot_of(node), &view));
                let draft = Draft {
                    seats,
                    ..Draft::default()
                };
                self.act(at, |roster| roster.propose(draft));
            } else {
                self.propose(at);
            }
            self.quiet();
            let size = self.slots.len();
            for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
                self.tell(from, to);
            }
            self.quiet();
            let done = |slot: &Slot| {
                let roster = slot.up.as_ref().unwrap();
                roster.seated() && roster.view().seats == all
            };
            if self.slots.iter().all(done) {
                return Ok(());
            }
        }
        let views: Vec<_> = self
            .slots
            .iter()
            .map(|slot| {
                slot.up
                    .as_ref()
                    .map(|roster| (roster.view().clone(), roster.memory()))
            })
            .collect();
        Err(format!("stuck: {views:?}"))
    }

    fn quiet(&mut self) {
        self.quiet_but(|_, _, _| false);
    }

    /// Delivers everything but what stays under way, by who says it to whom.
    fn quiet_but(&mut self, stays: impl Fn(usize, usize, &Say) -> bool) {
        for _ in 0..10_000 {
            let mut messages = self.messages.iter();
            let Some(nth) = messages.position(|(from, to, _, say)| !stays(*from, *to, say)) else {
                return;
            };
            self.deliver(nth, false);
        }
        panic!("never quiet");
    }
}

/// Runs one schedule; an error is a violation.
fn run(seed: u64, rule: Rule, heal: bool) -> Result<Counts, String> {
    let schedule = move || {
        let mut cluster = Cluster::new(seed, rule);
        (0..600).for_each(|_| cluster.step());
        if heal {
            cluster.heal().unwrap_or_else(|error| panic!("{error}"));
        }
        cluster.counts
    };
    std::panic::catch_unwind(schedule).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        format!("seed {seed}: {}", text.unwrap_or_default())
    })
}

#[test]
fn g7_the_roster_never_has_two_views_of_one_number_and_heals() {
    let mut sum = Counts::default();
    for seed in 0..u64::from(crate::cases(400)) {
        let counts = run(seed, Rule::Real, true).unwrap();
        sum.views += counts.views;
        sum.crashes += counts.crashes;
        sum.losses += counts.losses;
        sum.recoveries += counts.recoveries;
    }
    println!("{sum:?}");
    assert!(sum.views > 2_000 && sum.crashes > 2_000, "{sum:?}");
    assert!(sum.losses > 500 && sum.recoveries > 500, "{sum:?}");
}

/// Members that propose the first view again and again while messages are late, doubled and lost; no disk is.
fn first_view(seed: u64) -> usize {
    let mut cluster = Cluster::new(2 * seed, Rule::Real);
    for _ in 0..120 {
        let at = cluster.dice.roll(FIRST);
        match cluster.dice.roll(100) {
            0..=89 if !cluster.messages.is_empty() => {
                let nth = cluster.dice.roll(cluster.messages.len());
                let again = cluster.dice.roll(10) == 0;
                cluster.deliver(nth, again);
            }
            90..=93 if !cluster.messages.is_empty() => {
                let nth = cluster.dice.roll(cluster.messages.len());
                cluster.messages.swap_remove(nth);
            }
            _ => {
                let view = cluster.slots[at].up.as_ref().map(Roster::view);
                if view.is_some_and(|view| view.number == 0) {
                    cluster.propose(at);
                }
            }
        }
    }
    cluster.counts.views
}

#[test]
fn g7_there_is_one_first_view_whatever_is_late() {
    let seeds = 0..u64::from(crate::cases(200_000));
    let views: usize = seeds.map(first_view).sum();
    println!("{views} views were adopted");
    assert!(views > 100_000, "{views}");
}

/// All accept the first proposal, and its proposer hears of that late; two of them accept the same anew by a second ballot. By
/// that one it cannot have been decided, but by the first: the third ballot must not propose another one.
#[test]
fn g7_what_all_accepted_by_an_earlier_ballot_is_the_first_view() {
    let mut cluster = Cluster::new(0, Rule::Real);
    let late = |from: usize, to: usize, say: &Say| {
        matches!(say, Say::Accepted { .. }) && (from, to) == (1, 0)
    };
    cluster.propose(0);
    cluster.quiet_but(late);
    cluster.propose(1);
    let lost = |to: usize, say: &Say| matches!(say, Say::Accept { .. }) && to == 0;
    cluster.quiet_but(|from, to, say| late(from, to, say) || lost(to, say));
    cluster.messages.retain(|(_, to, _, say)| !lost(*to, say));
    assert_eq!(cluster.counts.views, 0);
    cluster.propose(2);
    cluster.quiet_but(|from, to, say| {
        late(from, to, say) || from != to && matches!(say, Say::Decided(_))
    });
    cluster.quiet();
    assert_eq!(cluster.counts.views, 3);
    assert_eq!(
        cluster.decided[&1].history,
        Some(cluster.run(0).as_history())
    );
}

/// The checks have eyes: members that say before they keep, or believe a disk that may be an older copy, are caught.
#[test]
fn g7_a_roster_that_forgets_what_it_said_is_caught() {
    for rule in [Rule::TrustDisk, Rule::SayFirst] {
        let failed = (0..20_000).filter(|seed| run(*seed, rule, false).is_err());
        let first = failed.clone().next();
        println!("{rule:?}: the first at seed {first:?}");
        assert!(first.is_some(), "{rule:?}");
    }
}

/// The first node was seated with the second, and later alone; its disk is a copy of before. Whichever way its next run comes by
/// the view in which it was alone, it may not be the last one.
#[test]
fn g7_a_view_of_its_node_alone_that_its_disk_does_not_know_is_lent() {
    let (own, other) = (node(0), node(1));
    let run = |number| Incarnation::new(number).unwrap();
    let seats = |seats: &[(&NodeId, u128)]| {
        let seats = seats.iter();
        seats
            .map(|(node, at)| ((*node).clone(), run(*at)))
            .collect()
    };
    let history = Some(run(1).as_history());
    let both = View {
        number: 2,
        history,
        everything: 1,
        seats: seats(&[(&own, 1), (&other, 9)]),
        ..View::default()
    };
    let alone = View {
        number: 3,
        seats: seats(&[(&own, 1)]),
        ..both.clone()
    };
    let start = |accepted| {
        let record = Record {
            view: both.clone(),
            accepted,
            ..Record::default()
        };
        Roster::start(own.clone(), run(2), Some(record))
    };
    let ballot = |round| Ballot { round, by: run(9) };
    let recovers = |roster: &mut Roster, accepted| {
        let asked = roster.recover();
        let [(_, Say::Prepare { number, ballot, .. })] = &asked.say[..] else {
            panic!("{asked:?}");
        };
        let (number, ballot, memory) = (*number, *ballot, Memory::Sure);
        let promise = Say::Promise {
            number,
            ballot,
            accepted,
            memory,
            above: None,
            by: Some(run(3)),
            recovering: BTreeMap::new(),
        };
        roster.heard(&other, history, promise);
        assert_eq!(roster.memory(), Memory::Sure);
    };
    let decided = || Say::Decided(alone.clone());

    let mut told = start(None);
    told.heard(&other, history, decided());
    assert!(told.is_lent(), "told");

    let mut recovered = start(None);
    recovers(&mut recovered, Some((ballot(1), alone.clone())));
    recovered.heard(&other, history, decided());
    assert!(recovered.is_lent(), "recovered from what another accepted");

    let mut asked = start(None);
    recovers(&mut asked, None);
    let next = alone.clone();
    let ballot_of_other = ballot(50);
    let accept = Say::Accept {
        ballot: ballot_of_other,
        next,
    };
    let answer = asked.heard(&other, history, accept);
    assert!(!answer.say.is_empty(), "it accepts");
    asked.heard(&other, history, decided());
    assert!(asked.is_lent(), "accepted now");

    // A disk on which it is accepted knows of it.
    let mut knows = start(Some((ballot(1), alone.clone())));
    knows.heard(&other, history, decided());
    assert!(!knows.is_lent());
}

/// Members before 0.5 refuse who recovers where they have promised a higher ballot. It needs so many others, and none of them in
/// particular: it goes on until it can have too few.
#[test]
fn g7_who_recovers_does_without_those_that_promised_a_higher_ballot() {
    let run = |number| Incarnation::new(number).unwrap();
    let seats = (0..5).map(|at| (node(at), run(10 + at as u128)));
    let view = View {
        number: 2,
        history: Some(run(10).as_history()),
        seats: seats.collect(),
        ..View::default()
    };
    let recovers = |refused: &[usize], promised: &[usize]| {
        let record = Record {
            view: view.clone(),
            ..Record::default()
        };
        let mut roster = Roster::start(node(0), run(99), Some(record));
        let asked = roster.recover();
        let Some((_, Say::Prepare { number, ballot, .. })) = asked.say.first().cloned() else {
            panic!("{asked:?}");
        };
        let (round, by) = (ballot.round + 1, run(10));
        let promised_to = Ballot { round, by };
        for &from in refused {
            let promised = promised_to;
            roster.heard(&node(from), view.history, Say::Refuse { number, promised });
        }
        for &from in promised {
            let promise = Say::Promise {
                number,
                ballot,
                accepted: None,
                memory: Memory::Sure,
                above: None,
                by: Some(run(10 + from as u128)),
                recovering: BTreeMap::new(),
            };
            roster.heard(&node(from), view.history, promise);
        }
        (roster.memory(), roster.is_trying())
    };
    assert_eq!(view.recovery(), 3);
    assert_eq!(recovers(&[4], &[1, 2, 3]), (Memory::Sure, false));
    assert_eq!(recovers(&[4, 4], &[1, 2]), (Memory::Disk, true));
    assert_eq!(recovers(&[4, 3], &[1, 2]), (Memory::Disk, false));
    // What it asks for counts from those that it asked.
    assert_eq!(recovers(&[0], &[1, 2, 3]), (Memory::Sure, false));
}

/// Members of a view of so many, all of which have started again since, on whole disks.
struct Restarted {
    view: View,
    members: Vec<Roster>,
    /// Under way: from, to, what.
    messages: Vec<(usize, usize, Say)>,
    /// How often each has asked others to close rounds.
    asked: Vec<usize>,
}

impl Restarted {
    fn new(size: usize) -> Self {
        let run = |at: usize, nth: u128| Incarnation::new((at as u128 + 1) << 32 | nth).unwrap();
        let seats = (0..size).map(|at| (node(at), run(at, 1)));
        let view = View {
            number: 2,
            history: Some(run(0, 1).as_history()),
            seats: seats.collect(),
            ..View::default()
        };
        let start = |at| {
            let record = Record {
                view: view.clone(),
                ..Record::default()
            };
            Roster::start(node(at), run(at, 2), Some(record))
        };
        Self {
            members: (0..size).map(start).collect(),
            view,
            messages: Vec::new(),
            asked: vec![0; size],
        }
    }

    fn act(&mut self, at: usize, act: impl FnOnce(&mut Roster) -> Outcome) -> Outcome {
        let outcome = act(&mut self.members[at]);
        let recovers =
            |(_, say): &(NodeId, Say)| matches!(say, Say::Prepare { recovers: true, .. });
        self.asked[at] += usize::from(outcome.say.iter().any(recovers));
        let said = outcome.say.iter().cloned();
        let said = said.map(|(to, say)| (at, slot_of(&to), say));
        self.messages.extend(said);
        outcome
    }

    fn deliver(&mut self, nth: usize) -> Outcome {
        let (from, to, say) = self.messages.swap_remove(nth);
        let history = self.view.history;
        self.act(to, |roster| roster.heard(&node(from), history, say))
    }

    fn quiet(&mut self) {
        self.quiet_among(|_, _, _| true);
    }

    /// Delivers what is said from one to another that both are meant, and what comes of it.
    fn quiet_among(&mut self, meant: impl Fn(usize, usize, &Say) -> bool) {
        let next = |all: &Self| {
            let mut messages = all.messages.iter();
            messages.position(|(from, to, say)| meant(*from, *to, say))
        };
        while let Some(nth) = next(self) {
            self.deliver(nth);
        }
    }

    /// The next view with the present runs in it, as one of them would like it.
    fn propose(&mut self, at: usize) {
        let seats = self.view.seats.iter();
        let seats =
            seats.map(|(node, run)| (node.clone(), Incarnation::new(run.get() + 1).unwrap()));
        let draft = Draft {
            seats: seats.collect(),
            ..Draft::default()
        };
        self.act(at, |roster| roster.propose(draft));
    }
}

/// Closing rounds is the same whoever asks for it: nobody is in another's way, whatever the order.
#[test]
fn g7_all_of_many_that_start_at_once_are_sure_after_one_question() {
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let mut all = Restarted::new(40);
        for at in 0..40 {
            all.act(at, Roster::recover);
        }
        while !all.messages.is_empty() {
            let nth = dice.roll(all.messages.len());
            all.deliver(nth);
        }
        let sure = all.members.iter().filter(|it| it.memory() == Memory::Sure);
        assert_eq!(
            (sure.count(), &all.asked),
            (40, &vec![1; 40]),
            "seed {seed}"
        );
    }
}

/// Where some propose meanwhile, who recovers asks once more, of a later round, and not for ever.
#[test]
fn g7_who_recovers_beside_proposals_asks_twice_at_most() {
    let mut twice = 0;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut all = Restarted::new(7);
        for at in 0..7 {
            all.act(at, Roster::recover);
        }
        while !all.messages.is_empty() {
            if dice.roll(40) == 0 {
                let at = dice.roll(7);
                if all.members[at].memory() == Memory::Sure {
                    all.propose(at);
                }
            }
            let nth = dice.roll(all.messages.len());
            all.deliver(nth);
        }
        assert!(
            all.asked.iter().all(|asked| *asked <= 2),
            "seed {seed}: {:?}",
            all.asked
        );
        let sure = all.members.iter().filter(|it| it.memory() == Memory::Sure);
        assert_eq!(sure.count(), 7, "seed {seed}");
        twice += all.asked.iter().filter(|asked| **asked == 2).count();
    }
    assert!(twice > 20, "{twice}");
}

/// What an earlier run accepted was promised by a majority before: somebody tells of that ballot, and until it is closed it may be
/// decided still.
#[test]
fn g7_who_recovers_is_not_sure_while_what_it_may_have_accepted_can_be_decided() {
    let mut all = Restarted::new(3);
    let (number, history) = (all.view.number, all.view.history);
    let by = Incarnation::new(77).unwrap();
    let ballot = Ballot { round: 9, by };
    // Of the two others one has promised it, as the run before had, and neither has accepted it.
    let kept = all.members[1].heard(&node(2), history, prepare(number, ballot));
    assert!(kept.keep.is_some());
    all.act(0, Roster::recover);
    let answers: Vec<_> = [0, 0].map(|_| all.deliver(0)).into();
    let above: Vec<_> = answers
        .iter()
        .flat_map(|outcome| &outcome.say)
        .map(|(_, say)| match say {
            Say::Promise { above, .. } => *above,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(
        above.contains(&Some(ballot)) && above.contains(&None),
        "{above:?}"
    );
    let behind = answers.iter().find(|outcome| outcome.keep.is_none());
    assert!(
        behind.is_some_and(|it| it.after_kept),
        "it rests on a promise from before"
    );
    while all.asked[0] == 1 {
        all.deliver(0);
    }
    assert_eq!(all.members[0].memory(), Memory::Disk);
    while let Some((.., to, _)) = all.messages.first()
        && *to != 0
    {
        all.deliver(0);
    }
    // Closed now: it will not be accepted by the one that had promised it, nor by the other.
    for at in [1, 2] {
        let next = View {
            number: number + 1,
            ..all.view.clone()
        };
        let accept = Say::Accept { ballot, next };
        let answer = all.members[at].heard(&node(2), history, accept);
        assert!(
            matches!(answer.say[..], [(_, Say::Refuse { .. })]),
            "{at}: {answer:?}"
        );
    }
    let mut keeps = None;
    while !all.messages.is_empty() {
        keeps = all.deliver(0).keep.or(keeps);
    }
    assert_eq!(all.members[0].memory(), Memory::Sure);
    let promised = keeps.and_then(|record| record.promised);
    assert!(promised.is_some_and(|it| it.round > 9), "{promised:?}");
}

/// What an earlier run of a seat promised to a ballot that nobody else had heard of, its next one does not know, and votes for a lower
/// one. By both together two views of one number would be decided.
fn promised_before_a_loss(record: Option<fn(&View) -> Record>) {
    /// The one that is lost.
    const X: usize = 4;
    let mut all = Restarted::new(5);
    let history = all.view.history;
    let seats: BTreeMap<_, _> = all
        .view
        .seats
        .iter()
        .map(|(node, run)| (node.clone(), Incarnation::new(run.get() + 1).unwrap()))
        .collect();
    all.view.number += 1;
    all.view.seats = seats.clone();
    for at in 0..5 {
        let decided = Say::Decided(all.view.clone());
        all.act(at, |roster| {
            roster.heard(&node((at + 1) % 5), history, decided)
        });
    }
    let without = |gone: usize| {
        let mut seats = seats.clone();
        seats.remove(&node(gone));
        Draft {
            seats,
            ..Draft::default()
        }
    };
    // The question of the fourth one reaches itself and the fifth, and is late to the others. Nobody heard of the one before.
    all.act(3, |roster| roster.propose(without(1)));
    all.messages.clear();
    all.act(3, |roster| roster.propose(without(1)));
    let (late, soon): (Vec<_>, _) = std::mem::take(&mut all.messages)
        .into_iter()
        .partition(|(_, to, _)| *to < 3);
    all.messages = soon;
    all.quiet();

    // The fifth is lost, and is sure again by the word of the first three.
    let run = Incarnation::new((X as u128 + 1) << 32 | 9).unwrap();
    let record = record.map(|record| record(&all.view));
    all.members[X] = Roster::start(node(X), run, record);
    let decided = Say::Decided(all.view.clone());
    all.act(X, |roster| roster.heard(&node(0), history, decided));
    all.act(X, Roster::recover);
    all.messages.retain(|(from, to, _)| *from != 3 && *to != 3);
    all.quiet();
    assert_eq!(all.members[X].memory(), Memory::Sure);

    // With it, the second and the third have a view follow. That it is decided is told late.
    all.act(2, |roster| roster.propose(without(0)));
    all.quiet_among(|from, to, say| {
        let told = matches!(say, Say::Decided(_));
        !told && [from, to].iter().all(|at| [1, 2, X].contains(at))
    });
    assert_eq!(all.members[2].view().number, all.view.number + 1);

    // The fourth's question reaches the first.
    all.messages = late;
    let with_fourth =
        |from: usize, to: usize, _: &Say| [from, to].iter().all(|at| [0, 3, X].contains(at));
    all.quiet_among(with_fourth);
    let views = [2, 3].map(|at| all.members[at].view().clone());
    assert!(
        views[1].number == all.view.number || views[0] == views[1],
        "{views:?}"
    );
    // It asks anew, and the run that is there promises and tells what it accepted.
    all.act(3, |roster| roster.propose(without(1)));
    all.quiet_among(with_fourth);
    assert_eq!(all.members[3].view(), all.members[2].view());
}

#[test]
fn g7_a_promise_of_a_run_that_is_over_does_not_count_beside_the_next_one() {
    promised_before_a_loss(Some(|view| Record {
        view: view.clone(),
        ..Record::default()
    }));
    promised_before_a_loss(None);
}
