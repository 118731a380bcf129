//! Leaves of indices, as an application reads, loads and prunes them.

use std::collections::BTreeSet;

use grapevine_core::criteria::Column;
use grapevine_core::index::{Combine, LeafKey, Ordering, Place, RowId, SortKey, Window};
use grapevine_core::lease::Lease;
use grapevine_core::machine::effects::{
    FillOutcome, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LoadId, Prune, Reply,
};
use grapevine_core::machine::leaves::leaf_shape;
use grapevine_sql::explain;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use rusqlite::types::Value;

use super::Round;
use super::writes::COUNTED;
use crate::database::{answer, datum};
use crate::generate::{ALL_COLUMNS, TABLES};
use crate::sqlite;

/// Lists of a round.
const LISTS: usize = 6;
/// More than any has.
const NO_LIMIT: usize = 1_000;

/// A list: rows of a table that meet a criterion, in the order of a column.
#[derive(Debug)]
struct List {
    table: &'static str,
    criterion: String,
    /// Its columns, the second one that of the order.
    sql: String,
    leaf: LeafKey,
    /// Whether the order is that of numbers for sure, as SQLite's is.
    exact: bool,
}

/// A list that somebody loads.
#[derive(Debug)]
struct Load {
    at: usize,
    list: usize,
    right: LoadId,
    /// What the database answered, and whether that is all of it.
    answer: Option<(Vec<(Place, u64)>, bool)>,
}

/// Members that were found elsewhere, and are to be pruned.
#[derive(Debug)]
struct Gone {
    at: usize,
    list: usize,
    places: Vec<Place>,
    evidence: Lease,
}

#[derive(Debug, Default)]
pub(super) struct Lists {
    all: Vec<List>,
    loads: Vec<Load>,
    gone: Vec<Gone>,
}

impl Round {
    pub(super) fn think_of_lists(&mut self) {
        while self.lists.all.len() < LISTS {
            let list = self.some_list();
            // Of values that one leaf joins, applications ask for one.
            let leaves = self.lists.all.iter().map(|known| &known.leaf.class);
            if let Some(list) = list
                && !leaves.into_iter().any(|class| *class == list.leaf.class)
            {
                self.lists.all.push(list);
            }
        }
    }

    /// Mostly one that some row meets.
    fn criterion(&mut self, table: &str) -> String {
        let ids: Vec<_> = self.rows.keys().filter(|(of, _)| *of == table).collect();
        if ids.is_empty() || self.chance(0.3) {
            return self.generator.criterion();
        }
        let (_, id) = ids[self.random.random_range(0..ids.len())];
        let column = self.generator.one_of(&ALL_COLUMNS[1..]);
        let sql = format!("SELECT quote({column}) FROM {table} WHERE id = {id}");
        match answer(&self.database, &sql).unwrap()[0].as_slice() {
            [Value::Text(value)] if value == "NULL" => format!("{column} IS NULL"),
            [Value::Text(value)] => format!("{column} = {value}"),
            other => panic!("quote() gives text, not {other:?}"),
        }
    }

    fn some_list(&mut self) -> Option<List> {
        let table = self.generator.one_of(&TABLES);
        let criterion = self.criterion(table);
        let column = self.generator.one_of(&ALL_COLUMNS);
        let order = match self.random.random_range(0..3) {
            0 => None,
            1 => Some("up"),
            _ => Some(column),
        };
        let descending = self.chance(0.5);
        let sql = format!("SELECT id FROM {table} WHERE {criterion}");
        let mut explained = explain(&sql, &[], sqlite()).unwrap();
        let class = match explained.class_paths.len() {
            1 => explained.class_paths.remove(0),
            _ => return None,
        };
        leaf_shape(&class).ok()?;
        let direction = if descending { "DESC" } else { "ASC" };
        let by = order.unwrap_or("id");
        Some(List {
            sql: format!(
                "SELECT id, {by} FROM {table} WHERE {criterion} ORDER BY {by} {direction}, id {direction}"
            ),
            leaf: LeafKey {
                class,
                ordering: Ordering {
                    by: order.map(|column| Column::parse(column).unwrap()),
                    descending,
                    nulls_high: false,
                },
            },
            exact: matches!(order, None | Some("up" | "id")),
            table,
            criterion,
        })
    }

    /// What the database has of a list, in its order, and whether all of it is ordered as numbers are.
    fn rows_of(&self, list: usize) -> (Vec<(Place, u64)>, bool) {
        let list = &self.lists.all[list];
        let ordered = list.leaf.ordering.by.is_some();
        let rows = answer(&self.database, &list.sql).unwrap();
        let mut numbers = true;
        let places = rows.iter().map(|row| {
            let [Value::Integer(id), by] = row.as_slice() else {
                panic!("an id is an integer");
            };
            numbers &= matches!(by, Value::Integer(_) | Value::Real(_) | Value::Null);
            let key = if ordered {
                SortKey::of(&datum(by).unwrap().value, false)
            } else {
                SortKey::NONE
            };
            let version = self.row_versions.get(&(list.table, *id));
            let version = version.filter(|_| list.table == COUNTED);
            let id = RowId::Number(*id);
            (Place { key, id }, version.copied().unwrap_or(0))
        });
        let places = places.collect();
        (places, numbers)
    }

    /// A write that has a row leave a list, or come into one: best of all one that somebody is about to prune.
    pub(super) fn wandering(&mut self) -> String {
        let list = self.random.random_range(0..LISTS);
        let here: Vec<_> = self
            .rows_of(list)
            .0
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        let gone = self.lists.gone.iter().filter(|gone| gone.list == list);
        let gone: Vec<_> = gone.flat_map(|gone| gone.places.clone()).collect();
        let comes = here.is_empty() || self.chance(0.6);
        let from = if comes { &gone } else { &here };
        let id = match from.choose(&mut self.random) {
            Some(place) => place.id.to_string(),
            None => self.random.random_range(1..8).to_string(),
        };
        let List {
            table, criterion, ..
        } = &self.lists.all[list];
        let sets = criterion.split(" AND ").map(|one| {
            let (column, value) = one.split_once(" = ").unwrap_or_else(|| {
                let column = one.strip_suffix(" IS NULL");
                (column.expect("a criterion is of values"), "NULL")
            });
            // Of `up` the order is to be that of numbers.
            let other = if value == "'y'" || column == "up" {
                "0"
            } else {
                "'y'"
            };
            format!("{column} = {}", if comes { value } else { other })
        });
        let sets: Vec<_> = sets.collect();
        format!("UPDATE {table} SET {} WHERE id = {id}", sets.join(", "))
    }

    /// A read of a leaf that is not judged, while writes may be under way.
    pub(super) fn list_without_looking(&mut self) {
        let (at, list) = (self.node(), self.random.random_range(0..LISTS));
        let query = self.query(list);
        let answer = self.network.core(at).read_leaf(&query, self.network.now);
        if matches!(answer, LeafAnswer::Absent(_)) {
            self.begin(at, list);
        }
    }

    fn query(&mut self, list: usize) -> LeafQuery {
        let of = &self.lists.all[list];
        let limit = if of.exact {
            [2, 5, NO_LIMIT][self.random.random_range(0..3)]
        } else {
            NO_LIMIT
        };
        LeafQuery {
            leaves: vec![of.leaf.clone()],
            combine: Combine::Any,
            window: Window {
                limit,
                ..Window::default()
            },
            verified: self.random.random_bool(0.5),
        }
    }

    /// A read of a leaf with the session.
    pub(super) fn list(&mut self) {
        let (at, list) = (self.node(), self.random.random_range(0..LISTS));
        self.catch_up(at);
        let query = self.query(list);
        match self.network.core(at).read_leaf(&query, self.network.now) {
            LeafAnswer::Bypass => {}
            LeafAnswer::Absent(_) => self.begin(at, list),
            LeafAnswer::Found {
                found,
                evidence,
                refill,
            } => {
                let (truth, numbers) = self.rows_of(list);
                let there: BTreeSet<_> = truth.iter().map(|(place, _)| place).collect();
                let members = found.members.into_iter().map(|(place, _)| place);
                let (kept, gone): (Vec<_>, Vec<_>) =
                    members.partition(|place| there.contains(place));
                if self.writes.are_told() {
                    let full = kept.len() + gone.len() == query.window.limit;
                    let all = found.whole && !full;
                    self.counts.members += kept.len() as u64;
                    self.counts.extra += gone.len() as u64;
                    self.judge_list(at, list, (&kept, all), (&truth, numbers));
                }
                if !refill.is_empty() {
                    self.counts.refills += 1;
                    self.begin(at, list);
                }
                if !gone.is_empty() {
                    self.lists.gone.push(Gone {
                        at,
                        list,
                        places: gone,
                        evidence,
                    });
                }
            }
        }
    }

    /// What is left of a leaf's answer is what the database has: all of it, or its beginning.
    fn judge_list(
        &mut self,
        at: usize,
        list: usize,
        (kept, all): (&[Place], bool),
        (truth, numbers): (&[(Place, u64)], bool),
    ) {
        self.counts.lists += 1;
        let list = &self.lists.all[list];
        let mut wanted: Vec<_> = truth.iter().map(|(place, _)| place).collect();
        let mut kept: Vec<_> = kept.iter().collect();
        if !all {
            wanted.truncate(kept.len());
        }
        if !list.exact && !numbers {
            // Texts are in an order of the leaf's own.
            wanted.sort_unstable();
            kept.sort_unstable();
        }
        assert_eq!(
            kept, wanted,
            "seed {}: the leaf of {} WHERE {} {:?} at sidecar {at}, with the session (left), and what the database has, at {}",
            self.seed, list.table, list.criterion, list.leaf.ordering, self.version
        );
    }

    fn begin(&mut self, at: usize, list: usize) {
        let ticket = self.network.ticket();
        let leaf = self.lists.all[list].leaf.clone();
        self.network.input(at, Input::LoadLeaf(ticket, leaf));
        match self.network.reply(at, ticket) {
            Some(Reply::LeafTurn(LeafTurn::Load { load, .. })) => {
                self.counts.loads += 1;
                let load = Load {
                    at,
                    list,
                    right: load,
                    answer: None,
                };
                self.go_on(load);
            }
            Some(Reply::LeafTurn(_)) => {}
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    /// Some of the loads go on.
    pub(super) fn go_on_loading(&mut self) {
        for load in std::mem::take(&mut self.lists.loads) {
            self.go_on(load);
        }
    }

    fn go_on(&mut self, mut load: Load) {
        if self.chance(0.4) {
            return self.lists.loads.push(load);
        }
        let Some((mut members, whole)) = load.answer.take() else {
            let (mut rows, _) = self.rows_of(load.list);
            let first = self.lists.all[load.list].exact && rows.len() > 3 && self.chance(0.3);
            if first {
                rows.truncate(3);
            }
            load.answer = Some((rows, !first));
            return self.go_on(load);
        };
        let rest = if members.len() > 1 && self.chance(0.3) {
            Some(members.split_off(1))
        } else {
            None
        };
        let fill = LeafFill {
            leaf: self.lists.all[load.list].leaf.clone(),
            load: load.right,
            members,
            more: rest.is_some(),
            whole,
            keep: 0,
        };
        let ticket = self.network.ticket();
        self.network.input(load.at, Input::FillLeaf(ticket, fill));
        match self.network.reply(load.at, ticket) {
            Some(Reply::LeafFilled(FillOutcome::More)) => {
                load.answer = rest.map(|rest| (rest, whole));
                self.lists.loads.push(load);
            }
            Some(Reply::LeafFilled(outcome)) => {
                self.counts.loads_condemned += u64::from(outcome != FillOutcome::Stored);
            }
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    /// Some of what was found elsewhere is pruned, perhaps long after.
    pub(super) fn go_on_pruning(&mut self) {
        for gone in std::mem::take(&mut self.lists.gone) {
            if self.chance(0.3) {
                self.lists.gone.push(gone);
                continue;
            }
            let prune = Prune {
                leaf: self.lists.all[gone.list].leaf.clone(),
                places: gone.places,
                evidence: gone.evidence,
            };
            let ticket = self.network.ticket();
            self.network.input(gone.at, Input::PruneLeaf(ticket, prune));
            self.network.reply(gone.at, ticket);
        }
    }
}
