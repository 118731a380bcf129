//! What the simulated application has: addresses of every strategy, and the kinds of writes that change them.
//!
//! A few names are enough for every race, and the fewer there are the more often things meet. *Fillers* are classes of
//! no address that lie in the same buckets as those of addresses: bumping them is what makes floors swallow the others.

use std::time::Duration;

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Dialect, Range, Raw, Shape, Table,
};
use grapevine_core::event::Match;
use grapevine_core::index::LeafKey;
use grapevine_core::machine::effects::Query;
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::policy::{FillRule, LagRule, OnUnknown, Pattern, Policy, PolicySet, Strategy};
use grapevine_core::versions::bucket_of;

use crate::clock::Micros;
use crate::shelves::{List, TABLES};

/// The most addresses.
pub(crate) const ADDRESSES_MAX: usize = 27;
/// Those whose classes are named; the others are read by criteria.
const NAMED: usize = 22;
/// How long classes of `s/**` are served after freshness was shown last.
pub(crate) const SERVE_UNKNOWN_FOR: Duration = Duration::from_millis(700);
/// The top-level class of [`marker`]s.
pub(crate) const MARKERS: &str = "i";
/// How long values of `t/**` live.
pub(crate) const SHORT_TTL: Duration = Duration::from_millis(300);

/// How far a replica may lag, and those of the schedules do.
const SOURCE_LAG: Duration = Duration::from_millis(400);

/// Addresses and their classes, the governing one first.
const ADDRESSES: [(&str, &[&str]); NAMED] = [
    ("v1", &["v/1"]),
    ("v2", &["v/2", "w/1"]),
    ("v3", &["v/1/x"]),
    ("v4", &["v"]),
    ("v5", &["v/3"]),
    ("v6", &["v/4", "w/2"]),
    ("r1", &["r/1"]),
    ("r2", &["r/2", "w/1"]),
    ("r3", &["r/2/x"]),
    ("r4", &["r/3"]),
    ("b1", &["b/1"]),
    ("b2", &["b/2", "w/2"]),
    ("b3", &["b/1/y"]),
    ("s1", &["s/1"]),
    ("s2", &["s/2"]),
    ("t1", &["t/1"]),
    ("e1", &["e/1"]),
    ("e2", &["e/2", "w/2"]),
    ("f1", &["f/1"]),
    ("p1", &["p/1"]),
    ("p2", &["p/1/z", "w/1"]),
    ("q1", &["q/1"]),
];

/// Writes by the classes that they change; the first ones are common, see [`Shop::kinds`].
const WRITES: [(&[&str], Match); 30] = [
    (&["v/1"], Match::Any),
    (&["v/2"], Match::Any),
    (&["v/3"], Match::Any),
    (&["r/1"], Match::Any),
    (&["r/2"], Match::Any),
    (&["r/3"], Match::Any),
    (&["b/1"], Match::Any),
    (&["b/2"], Match::Any),
    (&["s/1"], Match::Any),
    (&["w/1"], Match::Any),
    (&["v/1/x"], Match::Any),
    (&["r/2/x"], Match::Any),
    (&["v/4", "r/1"], Match::Any),
    (&["b/1/y", "s/2"], Match::Any),
    (&["t/1"], Match::Any),
    (&["w/2"], Match::Any),
    (&["e/1"], Match::Any),
    (&["e/2"], Match::Any),
    (&["f/1"], Match::Any),
    (&["p/1"], Match::Any),
    (&["p/1/z"], Match::Any),
    (&["p"], Match::Any),
    (&["q/1"], Match::Any),
    (&["v/2", "w/1"], Match::All),
    (&["r/2", "w"], Match::All),
    (&["r", "w/1"], Match::All),
    (&["b/2", "w/2"], Match::All),
    (&["v"], Match::Any),
    (&["r"], Match::Any),
    (&["*"], Match::Any),
];

/// The table of reads by criteria, and the class of it.
const TABLE: &str = "c";

/// What is known of a column: a value, or a range that it lies in.
type Known = (&'static str, i64, i64);

/// Reads by criteria: their addresses, and the rows that they find.
const READS: [(&str, &[Known]); ADDRESSES_MAX - NAMED] = [
    ("c1", &[("k", 1, 1)]),
    ("c2", &[("k", 2, 2)]),
    ("c3", &[("k", 1, 1), ("n", 10, 19)]),
    ("c4", &[("n", 15, 30)]),
    ("c5", &[]),
];

/// Changes of rows, as they were and as they are: a row that moves, a new one, one that nothing is known of but its `k`, all in
/// a range, and all.
const CHANGES: [&[&[Known]]; 6] = [
    &[&[("k", 1, 1), ("n", 40, 40)], &[("k", 2, 2), ("n", 40, 40)]],
    &[&[("k", 1, 1), ("n", 15, 15)]],
    &[&[("k", 3, 3), ("n", 18, 18)], &[("k", 3, 3), ("n", 99, 99)]],
    &[&[("k", 2, 2)]],
    &[&[("n", 28, 35)]],
    &[&[]],
];

/// Classes whose buckets the fillers share.
const CROWDED: [&str; 7] = ["v/1", "v/2", "v/3", "r/1", "r/2", "b/1", "p/1"];
/// Fillers of each.
const FILLERS: usize = 3;

/// A set of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask(u32);

impl Mask {
    /// All addresses.
    pub(crate) const ALL: Self = Self((1 << ADDRESSES_MAX) - 1);

    /// Those for which something holds.
    fn of(test: impl Fn(usize) -> bool) -> Self {
        let chosen = (0..ADDRESSES_MAX).filter(|address| test(*address));
        Self(chosen.fold(0, |bits, address| bits | 1 << address))
    }

    /// Whether an address is in it.
    pub(crate) fn has(self, address: usize) -> bool {
        self.0 & (1 << address) != 0
    }

    /// The addresses in it, ascending.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..ADDRESSES_MAX).filter(move |address| self.has(*address))
    }
}

/// One address.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// The address and its classes.
    pub(crate) query: Query,
    /// The classes, sorted.
    pub(crate) classes: Vec<ClassPath>,
    /// How its classes are treated.
    pub(crate) strategy: Strategy,
    /// How long its policy serves while freshness is unknown.
    pub(crate) serve: Duration,
    /// The rows that it is about, if it is read by criteria.
    pub(crate) reads: Option<Conjunction>,
}

/// One kind of write.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// What is bumped.
    pub(crate) classes: Vec<ClassPath>,
    /// Any or all of them.
    pub(crate) matching: Match,
    /// What is known of the rows that change, where that is told in place of classes.
    pub(crate) rows: Vec<Conjunction>,
    /// The addresses that it changes.
    pub(crate) covers: Mask,
}

/// The application.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    /// The addresses.
    pub(crate) items: Vec<Item>,
    /// The kinds of writes: common ones, then fillers, and last what changes rows of lists.
    pub(crate) kinds: Vec<Kind>,
    /// How many of the kinds are not fillers.
    pub(crate) common: usize,
    /// Which kind changes rows of lists.
    pub(crate) shifts: usize,
    /// The leaf of each list, by its number.
    leaves: Vec<LeafKey>,
    /// The policies of every sidecar.
    pub(crate) policies: PolicySet,
}

impl Shop {
    /// The addresses that one caller fills for all.
    pub(crate) fn elected(&self) -> Vec<usize> {
        let rule = |address: &usize| {
            self.policies
                .of(&self.items[*address].query.classes[0])
                .fill
        };
        let all = 0..ADDRESSES_MAX;
        all.filter(|address| rule(address) == FillRule::One)
            .collect()
    }

    /// Makes the application, for a source that lags or not.
    pub(crate) fn new(lags: bool) -> Self {
        let policies = policies(lags);
        let item = |name: &str, classes: Vec<ClassPath>, reads| {
            let query = Query {
                address: Address::parse(name).expect("invariant: a constant address"),
                classes,
                slice: None,
            };
            let policy = policies.of(&query.classes[0]);
            let mut classes = query.classes.clone();
            classes.sort_unstable();
            Item {
                query,
                classes,
                strategy: policy.strategy,
                serve: match policy.on_unknown {
                    OnUnknown::Serve(limit) => limit,
                    OnUnknown::Bypass => Duration::ZERO,
                },
                reads,
            }
        };
        let named = ADDRESSES.iter().map(|(name, paths)| {
            let classes = paths.iter().map(|path| class(path)).collect();
            item(name, classes, None)
        });
        let by_criteria = READS.iter().map(|(name, known)| {
            let rows = rows(known);
            item(name, Shape::of(&rows).classes_of_read(&rows), Some(rows))
        });
        let items: Vec<_> = named.chain(by_criteria).collect();
        let kind = |classes: Vec<ClassPath>, matching| Kind {
            covers: Mask::of(|address| covers(&classes, matching, &items[address].classes)),
            classes,
            matching,
            rows: Vec::new(),
        };
        let change = |changed: &&[&[Known]]| {
            let changed: Vec<_> = changed.iter().map(|known| rows(known)).collect();
            let meets = |reads: &Conjunction| changed.iter().any(|rows| rows.may_meet(reads));
            Kind {
                covers: Mask::of(|address| items[address].reads.as_ref().is_some_and(meets)),
                // What it is declared by, before it is committed: all of the table.
                classes: vec![class(TABLE)],
                matching: Match::Any,
                rows: changed,
            }
        };
        let mut kinds: Vec<_> = WRITES
            .iter()
            .map(|(paths, matching)| {
                kind(paths.iter().map(|path| class(path)).collect(), *matching)
            })
            .collect();
        // Before those of whole top-level classes, which are rare.
        let whole = kinds.split_off(kinds.len() - 3);
        kinds.extend(CHANGES.iter().map(change));
        kinds.extend(whole);
        let common = kinds.len();
        for path in CROWDED {
            let filler = |path| kind(vec![class(path)], Match::Any);
            kinds.extend(fillers(path).iter().map(|path| filler(path)));
        }
        let shifts = kinds.len();
        kinds.push(Kind {
            classes: TABLES.iter().map(|table| class(table)).collect(),
            matching: Match::Any,
            rows: Vec::new(),
            covers: Mask::default(),
        });
        Self {
            items,
            kinds,
            common,
            shifts,
            leaves: List::all().map(List::leaf).collect(),
            policies,
        }
    }

    /// The leaf that a list is.
    pub(crate) fn leaf(&self, list: List) -> &LeafKey {
        &self.leaves[list.number()]
    }

    /// The addresses of which what a soft write replaced may be served for a while.
    pub(crate) fn fading(&self) -> Vec<usize> {
        let all = 0..ADDRESSES_MAX;
        all.filter(|address| self.window(*address) > 0).collect()
    }

    /// How long that may be served.
    pub(crate) fn window(&self, address: usize) -> Micros {
        let policy = self.policies.of(&self.items[address].query.classes[0]);
        u64::try_from(policy.stale_while_revalidate.as_micros()).unwrap_or(0)
    }

    /// The addresses that a bump changes.
    pub(crate) fn covers(&self, classes: &[ClassPath], matching: Match) -> Mask {
        Mask::of(|address| covers(classes, matching, &self.items[address].classes))
    }

    /// The addresses whose tokens a floor of this top-level class may change.
    pub(crate) fn below(&self, top: &ClassPath) -> Mask {
        Mask::of(|address| {
            let mut classes = self.items[address].classes.iter();
            classes.any(|class| class.top() == top.as_str())
        })
    }
}

/// A class of no address that names the declaration of a write, by operation and attempt, whose bump it is in.
pub(crate) fn marker(op: usize, attempt: u32) -> ClassPath {
    class(&format!("{MARKERS}/{op}.{attempt}"))
}

/// Which declaration a class names, if it is a marker.
pub(crate) fn marked(class: &ClassPath) -> Option<(usize, u32)> {
    let name = class.as_str().strip_prefix(MARKERS)?.strip_prefix('/')?;
    let (op, attempt) = name.split_once('.')?;
    Some((op.parse().ok()?, attempt.parse().ok()?))
}

/// Rows of the table of which something is known.
fn rows(known: &[Known]) -> Conjunction {
    let table = Table::parse(TABLE).expect("invariant: a constant name");
    let mut rows = Conjunction::all_of(table);
    for &(column, least, most) in known {
        let column = Column::parse(column).expect("invariant: a constant name");
        let datum = |value| {
            let datum = Datum::of(Dialect::Postgres, Raw::Int(value));
            datum.expect("invariant: a number has a normal form")
        };
        let cell = if least == most {
            Cell::Is(datum(least))
        } else {
            let range = Range::between(Some(&datum(least)), Some(&datum(most)));
            Cell::In(range.expect("invariant: numbers are in order"))
        };
        rows.narrow(column, cell);
    }
    rows
}

/// A class by a path that is known to be good.
fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).expect("invariant: a constant class path")
}

/// Whether a write of these classes changes an address of those.
fn covers(named: &[ClassPath], matching: Match, of: &[ClassPath]) -> bool {
    let met =
        |class: &ClassPath| class.is_reserved() || of.iter().any(|of| class.covers(of.as_str()));
    match matching {
        Match::Any => named.iter().any(met),
        Match::All => named.iter().all(met),
    }
}

/// Classes beside this one that share its bucket.
fn fillers(path: &str) -> Vec<String> {
    let top = class(path).top().to_owned();
    (10..)
        .map(|number| format!("{top}/{number}"))
        .filter(|filler| bucket_of(filler) == bucket_of(path))
        .take(FILLERS)
        .collect()
}

/// The same policy, by which one caller fills for all.
fn elected(policy: Policy) -> Policy {
    Policy {
        fill: FillRule::One,
        ..policy
    }
}

/// The same policy, by which what a soft write replaced may be served for so many milliseconds.
fn fading(policy: Policy, window: u64) -> Policy {
    Policy {
        stale_while_revalidate: Duration::from_millis(window),
        ..policy
    }
}

fn policies(lags: bool) -> PolicySet {
    let policy = |pattern: &str, strategy, on_unknown, ttl| Policy {
        pattern: Pattern::parse(pattern).expect("invariant: a constant pattern"),
        strategy,
        on_unknown,
        ttl,
        source_lag: if lags { SOURCE_LAG } else { Duration::ZERO },
        on_source_lag: match strategy {
            Strategy::Bucketed(_) => LagRule::Primary,
            _ if TABLES.iter().any(|table| pattern.starts_with(table)) => LagRule::Primary,
            _ => LagRule::NoStore,
        },
        ..Policy::fallback()
    };
    let hour = Duration::from_hours(1);
    let bypass = OnUnknown::Bypass;
    let policies = vec![
        policy("v/**", Strategy::Versioned, bypass, hour),
        policy("r/**", Strategy::Registered, bypass, hour),
        policy("b/**", Strategy::Bucketed(64), bypass, hour),
        policy(
            "s/**",
            Strategy::Versioned,
            OnUnknown::Serve(SERVE_UNKNOWN_FOR),
            hour,
        ),
        policy("c/**", Strategy::Versioned, bypass, hour),
        policy("l/**", Strategy::Versioned, bypass, hour),
        policy("m/**", Strategy::Versioned, bypass, hour),
        policy("t/**", Strategy::Ttl, bypass, SHORT_TTL),
        elected(policy("e/**", Strategy::Versioned, bypass, hour)),
        elected(policy("f/**", Strategy::Registered, bypass, hour)),
        fading(policy("p/**", Strategy::Versioned, bypass, hour), 300),
        elected(fading(
            policy("q/**", Strategy::Registered, bypass, hour),
            800,
        )),
    ];
    PolicySet::new(policies, Policy::fallback()).expect("invariant: constant policies")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_share_a_bucket_and_change_no_address() {
        let shop = Shop::new(false);
        assert_eq!(shop.shifts, shop.common + CROWDED.len() * FILLERS);
        for kind in &shop.kinds[shop.common..] {
            let mut covered = kind.covers.iter();
            // All but the address of the top-level class itself, which lies above.
            assert_eq!(covered.next(), None, "{:?}", kind.classes);
        }
        for kind in &shop.kinds[..shop.common] {
            assert_ne!(kind.covers, Mask::default(), "{:?}", kind.classes);
        }
        assert_eq!(shop.kinds[shop.common - 1].covers, Mask::ALL);
    }
}
