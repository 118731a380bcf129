//! Random schedules: messages lost, links cut, processes killed and started again, one disk lost, writers that commit, abort,
//! fail over or die.
//!
//! Whoever got an answer to `BeginWrite` and did not abort may have committed to its database at any moment within the
//! lease. So at the end, when everything was started and linked and the leases are over, every node must have applied
//! a bump of the class that was issued no earlier than that moment.

use super::*;

const NODES: usize = 3;

/// One write: its class, and when its database committed, if it did.
struct Written {
    at: usize,
    call: u64,
    path: String,
    called: grapevine_core::id::Time,
    /// How much of its lease the writer takes until its database commits.
    takes: Duration,
    aborts: bool,
    /// Index of the first event that each node applied after the commit.
    committed: Option<[usize; NODES]>,
    told: bool,
}

type Step = (u8, u8, u8, u8);

struct Run {
    world: World,
    writes: Vec<Written>,
    wiped: bool,
    ends: u64,
}

impl Run {
    fn step(&mut self, (kind, a, b, c): Step) {
        let (at, other) = (usize::from(a) % NODES, usize::from(b) % NODES);
        let world = &mut self.world;
        match kind % 20 {
            0..=2 if world.up(at) => {
                let path = format!("w/{}", self.writes.len());
                let call = begin(world, at, &[&path]);
                self.writes.push(Written {
                    at,
                    call,
                    path,
                    called: world.now,
                    takes: LEASE.mul_f64(f64::from(b) / 256.0),
                    aborts: c % 4 == 0,
                    committed: None,
                    told: false,
                });
            }
            3..=5 if world.up(at) => drop(world.flush(at)),
            6 | 7 => drop((0..=c % 4).map(|_| world.deliver(at, other)).max()),
            8 => drop(world.deliver_nth(at, other, usize::from(c) % 3)),
            9 => drop(world.drop_all(at, other)),
            10 if at != other && world.up(at) && world.up(other) => world.cut(at, other),
            11 if at != other => world.connect(at, other),
            12 if c % 2 == 0 => self.crash(at, c % 8 == 0),
            13 if !world.up(at) => world.start(at),
            14..=16 => self.finish(usize::from(c), at),
            17 | 18 => world.settle(),
            _ => world.advance(Duration::from_millis(u64::from(c) * 4)),
        }
        self.commit_due();
    }

    fn crash(&mut self, at: usize, wipe: bool) {
        if !self.world.up(at) {
            return;
        }
        self.world.crash(at);
        // One disk: that is the loss which G1 survives.
        if wipe && !self.wiped {
            self.wiped = true;
            self.world.wipe(at);
        }
    }

    /// The databases of writers that have their answer commit when their time comes.
    fn commit_due(&mut self) {
        let world = &self.world;
        let applied: [usize; NODES] = std::array::from_fn(|at| world.nodes[at].applied.len());
        for write in &mut self.writes {
            let answered = begun(world, write.at, write.call).is_some();
            let due = world.now >= write.called.plus(write.takes);
            let in_time = world.now < write.called.plus(LEASE);
            if answered && due && in_time && !write.aborts && write.committed.is_none() {
                write.committed = Some(applied);
            }
        }
    }

    /// A writer that has its answer tells how it ended, somewhere; most never do.
    fn finish(&mut self, which: usize, at: usize) {
        if !self.world.up(at) {
            return;
        }
        let ready = |write: &&mut Written| {
            let answered = begun(&self.world, write.at, write.call).is_some();
            answered && !write.told && (write.aborts || write.committed.is_some())
        };
        let Some(write) = self.writes.iter_mut().filter(ready).nth(which % 2) else {
            return;
        };
        let Some(intent) = begun(&self.world, write.at, write.call) else {
            return;
        };
        write.told = true;
        if write.aborts {
            abort(&mut self.world, at, intent);
        } else {
            commit(&mut self.world, at, intent, &[&write.path]);
        }
        self.ends += 1;
    }

    fn heal(&mut self) -> Result<(), TestCaseError> {
        for at in 0..NODES {
            if !self.world.up(at) {
                self.world.start(at);
            }
        }
        self.world.connect_all();
        // In small steps: writers with an answer commit until their leases are over.
        let end = self.world.now.plus(2 * LEASE + INTENT_GRACE + STRETCH);
        while self.world.now < end {
            self.world.settle();
            self.commit_due();
            self.world.advance(STEP);
        }
        self.world.settle();
        for write in &self.writes {
            let Some(since) = write.committed else {
                continue;
            };
            for (at, since) in since.into_iter().enumerate() {
                let applied = &self.world.nodes[at].applied[since..];
                let named = applied.iter().any(|(_, event)| match event {
                    BumpEvent::Bump(bump) => bump
                        .classes
                        .iter()
                        .any(|class| class.as_str() == write.path || class.is_reserved()),
                    _ => false,
                });
                prop_assert!(
                    named,
                    "{} was never bumped at {at} after its commit",
                    write.path
                );
            }
        }
        for (at, node) in self.world.nodes.iter().enumerate() {
            prop_assert!(node.disk.intents().is_empty(), "{at} keeps intents");
            prop_assert!(self.world.core(at).intents_open() == 0);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::config(150))]
    #[test]
    fn g8_every_write_that_was_begun_and_committed_is_bumped_whatever_happens(
        steps in vec(any::<Step>(), 0..120),
    ) {
        let mut run = Run {
            world: World::running(NODES),
            writes: Vec::new(),
            wiped: false,
            ends: 0,
        };
        for step in steps {
            run.step(step);
        }
        run.heal()?;
    }
}

/// The property is worth little if nothing happens in its runs.
#[test]
fn g8_random_schedules_begin_commit_and_expire() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut begun_count, mut commits, mut told) = (0, 0, 0);
    let mut expired = [0; 3];
    for _ in 0..60 {
        let steps = vec(any::<Step>(), 120)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut run = Run {
            world: World::running(NODES),
            writes: Vec::new(),
            wiped: false,
            ends: 0,
        };
        for step in steps {
            run.step(step);
        }
        run.heal().unwrap();
        let world = &run.world;
        let answered = |write: &&Written| begun(world, write.at, write.call).is_some();
        begun_count += run.writes.iter().filter(answered).count();
        commits += run
            .writes
            .iter()
            .filter(|write| write.committed.is_some())
            .count();
        told += run.ends;
        for at in 0..NODES {
            let counters = world.core(at).counters();
            expired[0] += counters.intents_expired;
            expired[1] += counters.intents_expired_for_others;
            expired[2] += counters.intents_recovered;
        }
    }
    assert!(
        begun_count > 100 && commits > 60 && told > 10 && expired.iter().all(|count| *count > 10),
        "begun {begun_count}, committed {commits}, told {told}, expired {expired:?}"
    );
}
