//! Scenarios: a script and its transcript side by side, in `tests/scenarios/*.txt`.
//!
//! A line that begins with `> ` is a command; what it made the sidecars do follows it. Everything else is prose. Run with
//! `UPDATE_EXPECT=1` to write the transcripts anew, and read the difference.
//!
//! ```text
//! start a b c              run sidecars; each start is a new incarnation: a1, a2, ...
//! link a b                 each dials the other            cut a b     both links end, with what is under way
//! run                      start, link and settle all, saying nothing
//! a invalidate cart/13     also `x & y` for a conjunction, and `receipt=none|one|quorum|all`
//! a flush                  what was written is flushed     a seal      what was gathered may be written
//! deliver a->b             all that is under way           drop a->b   the same, lost
//! a resolve F1 items::13 cart/13    keeps the lease as F1, and names the token
//! a commit F1              register under the lease        a register items::13 cart/13
//! a holds items::13        whether its directory does      a compact   its log forgets what is applied
//! crash a   wipe a   save a   restore a   drain a   pump a (one part of a snapshot)
//! advance 500ms            from wake to wake               settle      flush and deliver until nothing is under way
//! a fresh                  what it says of its freshness   quiet ...   any of these, saying nothing
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use expect_test::expect_file;
use grapevine_core::event::Match;
use grapevine_core::machine::effects::{Freshness, Input, LeaseClaim, ReceiptLevel, Resolution};
use grapevine_core::token::Token;

use crate::disk::Disk;
use crate::world::World;

struct Script {
    world: World,
    fills: BTreeMap<String, (String, Vec<String>, Resolution)>,
    tokens: HashMap<Token, usize>,
    copies: HashMap<usize, Disk>,
}

fn node(name: &str) -> usize {
    let letter = name.bytes().next().expect("a node's name");
    assert!(
        name.len() == 1 && letter.is_ascii_lowercase(),
        "{name:?} names no node"
    );
    usize::from(letter - b'a')
}

fn pair(text: &str) -> (usize, usize) {
    let (from, to) = text.split_once("->").expect("from->to");
    (node(from), node(to))
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

impl Script {
    fn new(size: usize) -> Self {
        Self {
            world: World::with(size, |config| {
                config.limits.classes_per_top_max = 8;
                config.member_timeout = Duration::from_secs(30);
            }),
            fills: BTreeMap::new(),
            tokens: HashMap::new(),
            copies: HashMap::new(),
        }
    }

    /// Runs one command; gives what it made happen.
    fn run(&mut self, command: &str) -> Vec<String> {
        self.world.transcript.clear();
        let words: Vec<&str> = command.split_whitespace().collect();
        if words[0] == "quiet" {
            self.run(&words[1..].join(" "));
            return Vec::new();
        }
        let answer = self.command(&words);
        let mut lines = std::mem::take(&mut self.world.transcript);
        lines.extend(answer);
        lines
    }

    fn command(&mut self, words: &[&str]) -> Option<String> {
        let world = &mut self.world;
        match words {
            ["run"] => {
                for at in 0..world.nodes.len() {
                    world.start(at);
                }
                world.connect_all();
                world.settle();
                world.transcript.clear();
            }
            ["start", names @ ..] => names.iter().for_each(|name| world.start(node(name))),
            ["crash", name] => world.crash(node(name)),
            ["wipe", name] => world.wipe(node(name)),
            ["save", name] => {
                let disk = world.nodes[node(name)].disk.clone();
                self.copies.insert(node(name), disk);
            }
            ["restore", name] => {
                assert!(
                    !world.up(node(name)),
                    "a disk is replaced while nobody uses it"
                );
                world.nodes[node(name)].disk = self.copies[&node(name)].clone();
            }
            ["drain", name] => world.input(node(name), Input::Drain),
            ["pump", name] => drop(world.pump(node(name))),
            ["link", one, other] => world.connect(node(one), node(other)),
            ["cut", one, other] => world.cut(node(one), node(other)),
            ["deliver", link] => {
                let (from, to) = pair(link);
                world.deliver_all(from, to);
            }
            ["drop", link] => {
                let (from, to) = pair(link);
                return Some(format!("{} lost", world.drop_all(from, to)));
            }
            ["advance", time] => {
                let milliseconds = time.strip_suffix("ms").expect("a time in ms");
                world.advance(Duration::from_millis(
                    milliseconds.parse().expect("a number"),
                ));
            }
            ["settle"] => world.settle(),
            [name, rest @ ..] => return self.at(node(name), rest),
            [] => panic!("an empty command"),
        }
        None
    }

    fn at(&mut self, at: usize, words: &[&str]) -> Option<String> {
        let world = &mut self.world;
        match words {
            ["flush"] => drop(world.flush(at)),
            ["seal"] => world.input(at, Input::Seal),
            ["compact"] => world.nodes[at].disk.compact(),
            ["fresh"] => {
                return Some(match world.core(at).freshness(world.now) {
                    Freshness::Fresh => "fresh".to_owned(),
                    Freshness::CatchingUp(why) => format!("catching up: {why}"),
                    Freshness::Unknown(why) => format!("unknown: {why}"),
                });
            }
            ["holds", address] => return Some(world.nodes[at].disk.lists(address).to_string()),
            ["invalidate", rest @ ..] => self.invalidate(at, rest),
            ["resolve", fill, address, classes @ ..] => {
                let resolution = world.resolve(at, address, classes);
                let next = self.tokens.len() + 1;
                let name = *self.tokens.entry(resolution.token).or_insert(next);
                let classes = classes.iter().map(ToString::to_string).collect();
                let advice = if resolution.bypass { ", bypass" } else { "" };
                let kept = ((*address).to_owned(), classes, resolution);
                self.fills.insert((*fill).to_owned(), kept);
                return Some(format!("token {name}{advice}"));
            }
            ["commit", fill] => {
                let (address, classes, resolution) = &self.fills[*fill];
                let lease = LeaseClaim::Lease(resolution.lease);
                world.register(at, address, &refs(classes), lease);
            }
            ["register", address, classes @ ..] => {
                world.register(at, address, classes, LeaseClaim::Absent);
            }
            _ => panic!("{words:?} is no command"),
        }
        None
    }

    fn invalidate(&mut self, at: usize, words: &[&str]) {
        let mut level = ReceiptLevel::None;
        let mut matching = Match::Any;
        let mut paths = Vec::new();
        for word in words {
            match *word {
                "&" => matching = Match::All,
                "receipt=none" => level = ReceiptLevel::None,
                "receipt=one" => level = ReceiptLevel::One,
                "receipt=quorum" => level = ReceiptLevel::Quorum,
                "receipt=all" => level = ReceiptLevel::All,
                path => paths.push(path),
            }
        }
        let patience = Duration::from_secs(3);
        self.world
            .invalidate_as(at, &paths, matching, level, patience);
    }
}

/// The prose and commands of a file, each command followed by what it makes happen now.
fn replay(text: &str) -> String {
    let mut script = Script::new(3);
    let mut told = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        writeln!(told, "{line}").expect("a string takes all");
        if let Some(command) = line.strip_prefix("> ") {
            // What followed it until now.
            while lines.next_if(|line| line.starts_with("  ")).is_some() {}
            for line in script.run(command) {
                writeln!(told, "  {line}").expect("a string takes all");
            }
        }
    }
    told
}

macro_rules! scenario {
    ($($(#[$doc:meta])* $name:ident: $file:literal,)*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                let text = include_str!(concat!("../scenarios/", $file, ".txt"));
                expect_file![concat!("../scenarios/", $file, ".txt")].assert_eq(&replay(text));
            }
        )*
    };
}

scenario! {
    g3_race_01_the_late_set: "race-01-late-set",
    g4_race_02_registration_meets_bump: "race-02-registration-meets-bump",
    g2_race_04_an_old_token_overtakes: "race-04-old-token",
    g3_race_05_the_cache_comes_back: "race-05-cache-comes-back",
    g2_g11_race_06_an_older_disk: "race-06-older-disk",
    g2_g11_race_06_a_wiped_node: "race-06-wiped-node",
    g11_race_12_all_restart_together: "race-12-restart-together",
    g1_race_14_pushed_to_one_peer_only: "race-14-one-peer-only",
    g1_g11_race_16_crash_within_a_snapshot: "race-16-snapshot-crash",
    g6_receipts_of_all: "receipt-all",
    g10_a_floor_swallows_its_bucket: "floor",
    g3_conjunctions: "conjunction",
}
