#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const INTERVAL: Duration = Duration::from_millis(100);

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// A tracker for the sidecar `own`, and what its chitchat lists, moved by hand.
struct Scene {
    tracker: Tracker,
    start: Instant,
    now: Instant,
    listed: BTreeMap<(&'static str, u64), Listed>,
}

struct Listed {
    port: u16,
    heartbeat: u64,
    version: u64,
    live: bool,
    keys: BTreeMap<String, String>,
}

impl Scene {
    fn new(max_peers: usize) -> Self {
        let rules = Rules {
            node_id: "own".into(),
            incarnation: 1,
            own_addr: addr(1),
            interval: INTERVAL,
            suspect_after: INTERVAL * 10,
            max_peers,
        };
        let now = Instant::now();
        Self {
            tracker: Tracker::new(rules),
            start: now,
            now,
            listed: BTreeMap::new(),
        }
    }

    fn list(&mut self, node_id: &'static str, generation: u64, incarnation: u128) {
        let facts = Facts {
            peer_address: "h:1".into(),
            bump_head: generation,
            ..Facts::default()
        };
        let keys = facts::key_values(incarnation, &facts).into_iter().collect();
        let port = u16::try_from(generation).unwrap();
        self.listed.insert(
            (node_id, generation),
            Listed {
                port,
                heartbeat: 7,
                version: 5,
                live: false,
                keys,
            },
        );
    }

    /// One interval passes, in which the heartbeats of `moving` rise.
    fn step(&mut self, moving: &[(&'static str, u64)]) -> View {
        self.now += INTERVAL;
        for key in moving {
            self.listed.get_mut(key).unwrap().heartbeat += 1;
        }
        self.tracker.begin();
        for ((node_id, generation), listed) in &self.listed {
            let seen = Sighting {
                node_id,
                generation: *generation,
                addr: addr(listed.port),
                heartbeat: listed.heartbeat,
                version: listed.version,
                believed_live: listed.live,
            };
            self.tracker.sight(self.now, &seen, |key| {
                listed.keys.get(key).map(String::as_str)
            });
        }
        self.tracker.settle(self.now);
        self.tracker.view(self.now)
    }

    fn steps(&mut self, count: u32, moving: &[(&'static str, u64)]) -> View {
        (0..count).map(|_| self.step(moving)).last().unwrap()
    }
}

#[test]
fn a_run_is_alive_once_its_heartbeat_has_moved_and_until_it_was_silent() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    assert!(
        !scene.step(&[]).peers["a"].alive,
        "somebody may just remember the dead"
    );
    assert!(scene.step(&[("a", 1)]).peers["a"].alive);
    assert!(scene.steps(10, &[]).peers["a"].alive);
    assert!(!scene.step(&[]).peers["a"].alive);
    assert!(scene.step(&[("a", 1)]).peers["a"].alive);
}

#[test]
fn a_silent_run_is_not_suspected_while_the_detector_believes_in_it() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.steps(2, &[("a", 1)]);
    scene.listed.get_mut(&("a", 1)).unwrap().live = true;
    assert!(scene.steps(30, &[]).peers["a"].alive);
    scene.listed.get_mut(&("a", 1)).unwrap().live = false;
    assert!(!scene.step(&[]).peers["a"].alive);
}

#[test]
fn a_peer_is_remembered_after_chitchat_forgot_its_runs() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.steps(3, &[("a", 1)]);
    scene.listed.clear();
    let peer = &scene.steps(50, &[]).peers["a"];
    assert_eq!(
        (peer.incarnation, peer.alive, peer.facts.bump_head),
        (11, false, 1)
    );
    scene.list("a", 2, 12);
    let view = scene.steps(2, &[("a", 2)]);
    assert_eq!(
        (view.peers["a"].incarnation, view.peers["a"].alive),
        (12, true)
    );
    assert!(scene.tracker.remembered.is_empty());
    scene.tracker.forget("a");
    scene.listed.clear();
    assert!(scene.step(&[]).peers.is_empty());
}

#[test]
fn an_emptied_list_does_not_make_the_living_flap() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.steps(3, &[("a", 1)]);
    let listed = std::mem::take(&mut scene.listed);
    assert!(scene.steps(5, &[]).peers["a"].alive);
    scene.listed = listed;
    assert!(scene.step(&[("a", 1)]).peers["a"].alive);
}

#[test]
fn the_longest_silent_are_forgotten_beyond_the_bound() {
    let mut scene = Scene::new(2);
    for (node_id, generation) in [("a", 1), ("b", 2), ("c", 3)] {
        scene.list(node_id, generation, 11);
        scene.steps(2, &[(node_id, generation)]);
    }
    scene.listed.clear();
    let view = scene.steps(20, &[]);
    assert_eq!(view.peers.keys().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn the_newest_of_two_moving_runs_is_the_peer() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.list("a", 2, 12);
    assert_eq!(
        scene.steps(3, &[("a", 1), ("a", 2)]).peers["a"].incarnation,
        12
    );
}

#[test]
fn a_restart_with_a_clock_that_stepped_back_is_seen_and_is_no_conflict() {
    let mut scene = Scene::new(9);
    scene.list("a", 9, 11);
    scene.steps(3, &[("a", 9)]);
    scene.list("a", 4, 12);
    for _ in 0..40 {
        assert!(scene.step(&[("a", 4)]).conflicts.is_empty());
    }
    let peer = &scene.step(&[("a", 4)]).peers["a"];
    assert_eq!((peer.incarnation, peer.alive), (12, true));
    // Already when the old run has just fallen silent and is not suspected yet.
    scene.list("b", 9, 21);
    scene.steps(3, &[("b", 9)]);
    scene.list("b", 4, 22);
    assert_eq!(scene.steps(6, &[("b", 4)]).peers["b"].incarnation, 22);
}

#[test]
fn two_processes_with_one_name_are_a_conflict_until_one_is_gone() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.list("a", 2, 12);
    let both = [("a", 1), ("a", 2)];
    assert!(scene.steps(CONFLICT_INTERVALS, &both).conflicts.is_empty());
    let expected = Conflict {
        node_id: "a".into(),
        incarnations: vec![(11, addr(1)), (12, addr(2))],
    };
    assert_eq!(scene.steps(2, &both).conflicts, [expected]);
    assert!(scene.steps(6, &[("a", 2)]).conflicts.is_empty());
}

#[test]
fn a_crash_loop_is_no_conflict_at_one_address_or_at_many() {
    for same_address in [true, false] {
        let mut scene = Scene::new(9);
        for generation in 1..20 {
            scene.list("a", generation, 10 + u128::from(generation));
            if same_address {
                scene.listed.get_mut(&("a", generation)).unwrap().port = 7;
            }
            // It lives for a few intervals, in which its predecessor still counts as moving.
            for _ in 0..4 {
                let view = scene.step(&[("a", generation)]);
                assert!(view.conflicts.is_empty(), "{:?}", view.conflicts);
            }
        }
    }
    // Two that share an address cannot both be there, however long they are told of.
    let mut scene = Scene::new(9);
    for generation in [1, 2] {
        scene.list("a", generation, 10 + u128::from(generation));
        scene.listed.get_mut(&("a", generation)).unwrap().port = 7;
    }
    let told = scene.steps(40, &[("a", 1), ("a", 2)]);
    assert!(told.conflicts.is_empty());
    // One that stays is told of beside one that restarts again and again only once both stay.
    scene.list("a", 3, 13);
    assert!(
        scene
            .steps(CONFLICT_INTERVALS, &[("a", 2), ("a", 3)])
            .conflicts
            .is_empty()
    );
    let told = scene.steps(2, &[("a", 2), ("a", 3)]);
    assert_eq!(
        told.conflicts[0].incarnations,
        [(12, addr(7)), (13, addr(3))]
    );
}

#[test]
fn a_process_that_uses_our_own_name_is_a_conflict_and_no_peer() {
    let mut scene = Scene::new(9);
    scene.list("own", 5, 99);
    let view = scene.steps(CONFLICT_INTERVALS + 2, &[("own", 5)]);
    assert!(view.peers.is_empty());
    assert_eq!(
        view.conflicts[0].incarnations,
        [(1, addr(1)), (99, addr(5))]
    );
    // Our own earlier run is silent, and a replaced gossip task has our incarnation.
    let mut scene = Scene::new(9);
    scene.list("own", 4, 98);
    scene.list("own", 3, 1);
    assert!(scene.steps(40, &[("own", 3)]).conflicts.is_empty());
}

#[test]
fn one_who_left_is_not_alive_and_not_remembered() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.steps(3, &[("a", 1)]);
    let listed = scene.listed.get_mut(&("a", 1)).unwrap();
    listed.keys.insert(facts::LEFT.into(), "1".into());
    listed.version += 1;
    let peer = scene.step(&[("a", 1)]).peers.remove("a").unwrap();
    assert!(peer.left && !peer.alive);
    scene.listed.clear();
    assert!(scene.steps(20, &[]).peers.is_empty());
}

#[test]
fn malformed_facts_are_ignored_and_counted_and_the_last_good_ones_stay() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.steps(2, &[("a", 1)]);
    let listed = scene.listed.get_mut(&("a", 1)).unwrap();
    listed.keys.insert(facts::HEADS.into(), "many".into());
    listed.version += 1;
    assert_eq!(scene.steps(3, &[("a", 1)]).peers["a"].facts.bump_head, 1);
    assert_eq!(scene.tracker.take_malformed(), 1);
    scene.list("b", 2, 0);
    assert!(!scene.step(&[]).peers.contains_key("b"));
    assert_eq!(scene.tracker.take_malformed(), 1);
}

#[test]
fn only_last_heard_changing_is_no_news() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    let before = scene.steps(2, &[("a", 1)]);
    let after = scene.step(&[("a", 1)]);
    assert!(after.says_what(&before));
    assert!(after.peers["a"].last_heard > before.peers["a"].last_heard);
    assert!(!scene.steps(20, &[]).says_what(&before));
    assert!(scene.now > scene.start);
}

#[test]
fn heads_alone_are_news_of_heads_and_not_of_members() {
    let mut scene = Scene::new(9);
    scene.list("a", 1, 11);
    scene.list("b", 2, 12);
    let both = [("a", 1), ("b", 2)];
    let before = scene.steps(3, &both);
    assert_eq!(
        before.heads_since(&View::default()).len(),
        2,
        "all at first"
    );
    let listed = scene.listed.get_mut(&("b", 2)).unwrap();
    listed.keys.insert(facts::HEADS.into(), "7 9".into());
    listed.version += 1;
    let after = scene.step(&both);
    assert!(after.same_members(&before));
    assert!(!after.says_what(&before), "and yet watchers are woken");
    let heads = Heads {
        incarnation: 12,
        bump: 7,
        directory: 9,
    };
    assert_eq!(after.heads_since(&before), [heads]);
    assert_eq!(after.heads_since(&after), []);
    // Another run's heads are news although the numbers are the same.
    scene.list("b", 3, 13);
    let run = scene.listed.get_mut(&("b", 3)).unwrap();
    run.keys.insert(facts::HEADS.into(), "7 9".into());
    run.version += 1;
    let restarted = scene.steps(9, &[("a", 1), ("b", 3)]);
    assert!(!restarted.same_members(&after));
    assert_eq!(
        restarted.heads_since(&after),
        [Heads {
            incarnation: 13,
            ..heads
        }]
    );
    let gone = scene.steps(40, &[]);
    assert!(!gone.same_members(&restarted), "a suspicion is of members");
    assert_eq!(gone.heads_since(&restarted), []);
}
