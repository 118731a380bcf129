#![allow(clippy::unwrap_used, reason = "tests")]
use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::machine::CoreConfig;
use crate::machine::effects::{PeerHello, Span};
use crate::policy::{Policy, PolicySet};
use crate::progress::OriginHead;
use crate::roster::View;

fn at(millis: u64) -> Time {
    Time::from_start(Duration::from_millis(millis))
}

/// This sidecar has number 0, and its name stands in the middle.
fn node(number: u8) -> NodeId {
    NodeId::parse(&format!("n{}", (number + 3) % 6)).unwrap()
}

fn run(number: u8) -> Incarnation {
    Incarnation::new(u128::from(number) + 1).unwrap()
}

fn config() -> CoreConfig {
    CoreConfig {
        node_id: node(0),
        incarnation: run(100),
        policies: PolicySet::new(Vec::new(), Policy::fallback()).unwrap(),
        expected_members: 3,
        max_staleness: Duration::from_secs(2),
        member_timeout: Duration::from_mins(1),
        crash_timeout: Duration::from_secs(5),
        retire_after: Duration::from_hours(1),
        lease_duration: Duration::from_secs(30),
        clock_rate_ppm: 500,
        limits: crate::machine::Limits::default(),
    }
}

/// What happens to members.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Take(u8),
    Link(u8, bool),
    /// By which node, and whether of this history, and of this view.
    Marked(u8, bool, bool),
    Suspect(u8, bool),
    Asked(u8),
    /// By which node, until when, and the head that it told.
    Granted(u8, u64, u64),
    Applied(u64),
    Viewed(Vec<(u8, u8)>),
}

fn step() -> impl Strategy<Value = Step> {
    let few = || 1..6_u8;
    prop_oneof![
        (few(), 0..4_u8).prop_map(|(node, run)| Step::Put(node, run)),
        few().prop_map(Step::Take),
        (few(), any::<bool>()).prop_map(|(node, up)| Step::Link(node, up)),
        (few(), any::<bool>(), any::<bool>())
            .prop_map(|(node, history, view)| Step::Marked(node, history, view)),
        (few(), any::<bool>()).prop_map(|(node, is)| Step::Suspect(node, is)),
        few().prop_map(Step::Asked),
        (few(), 0..4_000_u64, 0..5_u64)
            .prop_map(|(node, end, head)| Step::Granted(node, end, head)),
        (1..5_u64).prop_map(Step::Applied),
        prop::collection::vec((0..6_u8, 0..4_u8), 1..6).prop_map(Step::Viewed),
    ]
}

struct World {
    config: CoreConfig,
    members: Members,
    progress: Progress,
    view: View,
    now: u64,
}

impl World {
    fn take(&mut self, step: Step) {
        self.now += 50;
        let now = at(self.now);
        let pace = Pace::of(self.config.max_staleness);
        match step {
            Step::Put(number, of) => {
                let hello = PeerHello {
                    node_id: node(number),
                    incarnation: run(of),
                    peer_address: String::new(),
                    policy_digest: 0,
                };
                self.members.put(Member::new(hello, now));
            }
            Step::Take(number) => drop(self.members.take(&node(number))),
            Step::Link(number, up) => {
                self.members
                    .change(&node(number), |member| member.outbound = up);
            }
            Step::Marked(number, history, view) => {
                let own = self.view.mark();
                let mark = Mark {
                    history: if history { own.history } else { Some(run(99)) },
                    number: own.number + u64::from(!view),
                };
                self.members
                    .change(&node(number), |member| member.mark = Some(mark));
            }
            Step::Suspect(number, is) => {
                self.members
                    .change(&node(number), |member| member.suspected = is);
            }
            Step::Asked(number) => {
                let nonce = Some(self.now);
                self.members.ask(&node(number), (nonce, false), now, pace);
            }
            Step::Granted(number, end, head) => self.granted(number, end, head),
            Step::Applied(sequence) => {
                let lane = self.progress.lane_mut(run(50), crate::id::Lane::Bump);
                lane.apply(sequence);
                self.members.review_asked(&self.progress, now);
            }
            Step::Viewed(seats) => {
                self.view.number += 1;
                self.view.seats = seats
                    .into_iter()
                    .map(|(number, of)| (node(number), run(of)))
                    .collect();
                self.view.seats.insert(node(0), run(100));
                self.members.renew();
            }
        }
    }

    fn granted(&mut self, number: u8, end: u64, head: u64) {
        let (now, pace) = (at(self.now), Pace::of(self.config.max_staleness));
        let nonce = self.now;
        self.members
            .ask(&node(number), (Some(nonce), false), now, pace);
        let Some((_, from)) = self.members.by_node(&node(number)).map(Member::seat) else {
            return;
        };
        let told = Told {
            heads: vec![OriginHead {
                incarnation: run(50),
                bump: head,
                directory: 0,
            }],
            span: Span::default(),
            lacked: Vec::new(),
        };
        let ends = |sent: Time| sent.plus(Duration::from_millis(end));
        let settled = Some(self.view.mark());
        let progress = &self.progress;
        self.members
            .granted((from, nonce), (told, settled), ends, progress, now, pace);
    }

    /// The tally of seats is that of looking at each of them.
    fn check_seats(&self) {
        let (view, own) = (&self.view, node(0));
        let mark = view.mark();
        let seats: Vec<_> = if view.number == 0 {
            self.members.iter().map(|member| (None, member)).collect()
        } else {
            let seats = self.members.of_seats(view);
            seats
                .filter_map(|(_, run, member)| Some((Some(run), member?)))
                .collect()
        };
        let count = |is: &dyn Fn(Option<Incarnation>, &Member) -> bool| {
            seats
                .iter()
                .filter(|(run, member)| is(*run, member))
                .count()
        };
        let history = |member: &Member| member.mark.map(|mark| mark.history);
        let tally = self.members.tally(&own, view);
        assert_eq!(tally.met, seats.len());
        assert_eq!(tally.linked, count(&|_, member| member.outbound));
        let before = |member: &Member| member.outbound && member.hello.node_id < own;
        assert_eq!(tally.before, count(&|_, member| before(member)));
        let with_us = |member: &Member| member.outbound && history(member) == Some(mark.history);
        assert_eq!(tally.with_us, count(&|_, member| with_us(member)));
        let arrived = |member: &Member| member.outbound && member.mark == Some(mark);
        assert_eq!(tally.arrived, count(&|_, member| arrived(member)));
        let other = |run, member: &Member| run != Some(member.hello.incarnation);
        let anew = count(&|run, member| arrived(member) && other(run, member));
        assert_eq!(tally.anew, anew);
    }

    /// Every table says what looking at all members says.
    fn check(&mut self) {
        let all: Vec<_> = self.members.iter().collect();
        for of in (0..8).map(run) {
            let found = self.members.of_run(of).map(Member::seat);
            assert_eq!(found, self.members.of_run_linear(of).map(Member::seat));
        }
        let linked = all.iter().filter(|member| member.outbound);
        let next = linked.map(|member| member.probing.next()).min();
        assert_eq!(self.members.probes.first(), next);
        let nodes = |is: &dyn Fn(&Member) -> bool| -> BTreeSet<_> {
            let found = all.iter().filter(|member| is(member));
            found.map(|member| member.seat().0).collect()
        };
        assert_eq!(self.members.suspects.0, nodes(&|member| member.suspected));
        assert_eq!(
            self.members.waiting.0,
            nodes(&|member| member.asked.waits())
        );
        let truth = self
            .members
            .seats_vouch_until_linear(&self.config, &self.view);
        let known = self.members.seats_vouch_until(&self.config, &self.view);
        assert_eq!(known, truth);
        self.check_seats();
        let now = at(self.now);
        self.members.review_asked(&self.progress, now);
        let nodes = self.members.waiting.iter();
        let done: Vec<_> = nodes
            .filter(|node| !self.members.waits_still(node, &self.progress, now))
            .collect();
        assert!(done.is_empty(), "{done:?} are not reviewed");
        for (node, run, member) in self.members.of_seats(&self.view) {
            let by_node = self.members.by_node(node).map(Member::seat);
            assert_eq!(member.map(Member::seat), by_node);
            assert_eq!(self.view.seats.get(node), Some(&run));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn g7_g11_tables_of_members_never_disagree_with_looking_at_all(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut world = World {
            config: config(),
            members: Members::default(),
            progress: Progress::default(),
            view: View::default(),
            now: 1_000,
        };
        for step in steps {
            world.take(step);
            world.check();
        }
        let known = world.members.by_run.0.clone();
        world.members.index_all();
        prop_assert_eq!(known, world.members.by_run.0);
    }
}

#[test]
fn g11_that_all_is_the_same_counts_only_where_it_was_asked_with_a_digest() {
    let (mut members, progress) = (Members::default(), Progress::default());
    let (now, pace) = (at(1_000), Pace::of(Duration::from_secs(2)));
    let hello = PeerHello {
        node_id: node(1),
        incarnation: run(1),
        peer_address: String::new(),
        policy_digest: 0,
    };
    members.put(Member::new(hello, now));
    let mut grant = |nonce: u64, digest: bool| {
        members.ask(&node(1), (Some(nonce), digest), now, pace);
        let span = Span {
            since: 0,
            until: 7,
            same: true,
        };
        let told = Told {
            heads: Vec::new(),
            span,
            lacked: Vec::new(),
        };
        let ends = |sent: Time| sent.plus(Duration::from_secs(2));
        let told = (told, None);
        members.granted((run(1), nonce), told, ends, &progress, now, pace);
        let asked = members.by_node(&node(1)).unwrap().asked();
        (asked.fresh_until(), asked.base())
    };
    assert_eq!(grant(1, false), (None, 0));
    assert_eq!(grant(2, true), (Some(at(3_000)), 7));
}

#[test]
fn g7_answers_at_once_make_a_calm_and_one_that_is_late_or_missed_by_anybody_ends_it() {
    let (mut members, progress) = (Members::default(), Progress::default());
    let pace = Pace::of(Duration::from_secs(2));
    for number in 1..=2 {
        let hello = PeerHello {
            node_id: node(number),
            incarnation: run(number),
            peer_address: String::new(),
            policy_digest: 0,
        };
        members.put(Member::new(hello, at(0)));
    }
    let answer = |members: &mut Members, number: u8, (sent, answered): (u64, u64)| {
        members.ask(&node(number), (Some(sent), false), at(sent), pace);
        let told = Told {
            heads: Vec::new(),
            span: Span::default(),
            lacked: Vec::new(),
        };
        let ends = |sent: Time| sent.plus(Duration::from_secs(2));
        let given = (told, None);
        members.granted(
            (run(number), sent),
            given,
            ends,
            &progress,
            at(answered),
            pace,
        );
    };
    let mut now = 1_000;
    let mut calm_down = |members: &mut Members| {
        for _ in 0..300 {
            now += 1_000;
            answer(members, 1, (now, now + 5));
        }
        assert_ne!(pace.after(members.calm), pace);
        now
    };
    let then = calm_down(&mut members);
    answer(&mut members, 2, (then + 1_000, then + 1_500));
    assert_eq!(pace.after(members.calm), pace, "it was late");
    let then = calm_down(&mut members);
    for later in [1_000, 2_000] {
        let sent = then + later;
        members.ask(&node(2), (Some(sent), false), at(sent), pace);
    }
    assert_eq!(pace.after(members.calm), pace, "it has not answered");
}
