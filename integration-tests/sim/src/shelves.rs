//! Rows that applications keep lists of: what the database has of them, in all their versions, and what was told of each commit.
//!
//! A row is of a category and has a price, or is deleted. Some are there from the begin. Of one table the application counts
//! the versions of rows, of the other it does not.

use std::collections::BTreeMap;

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Dialect, Raw, Shape, Table};
use grapevine_core::event::{Moment, RowImage};
use grapevine_core::id::EventId;
use grapevine_core::index::{LeafKey, Ordering, Place, RowId, RowIdentity, SortKey};

/// The tables; of the second one versions are counted.
pub(crate) const TABLES: [&str; 2] = ["l", "m"];
/// Rows of each.
pub(crate) const ROWS: usize = 4;
/// Categories of rows.
pub(crate) const CATEGORIES: usize = 2;
/// Prices of rows.
pub(crate) const PRICES: usize = 4;

/// A row as it is: its category and its price, or nothing where it is deleted.
pub(crate) type State = Option<(usize, usize)>;

/// A list: the rows of a category, by id or by falling price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct List {
    /// Of which table.
    pub(crate) table: usize,
    /// Of which category.
    pub(crate) category: usize,
    /// Whether it is by falling price.
    pub(crate) ordered: bool,
}

impl List {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..TABLES.len() * CATEGORIES * 2).map(|number| Self {
            table: number / (CATEGORIES * 2),
            category: number / 2 % CATEGORIES,
            ordered: number % 2 == 1,
        })
    }

    /// Its number among all.
    pub(crate) fn number(self) -> usize {
        (self.table * CATEGORIES + self.category) * 2 + usize::from(self.ordered)
    }

    /// The leaf that it is.
    pub(crate) fn leaf(self) -> LeafKey {
        let rows = rows(self.table, &[("category", self.category)]);
        let classes = Shape::of(&rows).classes_of_read(&rows);
        LeafKey {
            class: classes.into_iter().next().expect("invariant: a class"),
            ordering: Ordering {
                by: self.ordered.then(|| column("price")),
                descending: self.ordered,
                nulls_high: false,
            },
        }
    }

    /// Whether a place lies before another one.
    pub(crate) fn before(self, place: &Place, other: &Place) -> bool {
        if self.ordered {
            place > other
        } else {
            place < other
        }
    }
}

/// A commit that changes rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shift {
    /// One row.
    One {
        /// Of which table.
        table: usize,
        /// Which.
        id: usize,
        /// What it is then.
        to: State,
        /// What is told of what it was.
        before: Before,
    },
    /// All rows of a category go to the next one, and nobody says which ones.
    Category {
        /// Of which table.
        table: usize,
        /// From which category.
        from: usize,
    },
}

/// What is told of what a row was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// All of it.
    Told,
    /// That it was.
    Hinted,
    /// Nothing, unless it is gone.
    Untold,
}

/// A row.
#[derive(Clone, Debug, Default)]
struct Row {
    /// What it was as of which write, and in which version.
    states: Vec<(u64, State, u64)>,
    /// The commits since it came into its category, and since it has its price as well.
    in_category: Vec<u64>,
    at_price: Vec<u64>,
}

impl Row {
    fn state(&self) -> (State, u64) {
        let last = self.states.last();
        last.map_or((None, 0), |(_, state, version)| (*state, *version))
    }

    fn set(&mut self, index: u64, to: State) {
        let (before, version) = self.state();
        let category = |state: State| state.map(|(category, _)| category);
        if category(before) != category(to) {
            self.in_category.clear();
        }
        if before != to {
            self.at_price.clear();
        }
        self.states.push((index, to, version + 1));
        self.in_category.push(index);
        self.at_price.push(index);
    }
}

/// What is to be told of a commit, and the events that told it.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The table and the category that a row came to.
    came: Option<(usize, usize)>,
    images: Vec<RowImage>,
    events: Vec<EventId>,
}

/// The rows.
#[derive(Clone, Debug)]
pub(crate) struct Shelves {
    rows: [[Row; ROWS]; TABLES.len()],
    told: BTreeMap<u64, Told>,
}

/// A row that a list has now.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    /// Where.
    pub(crate) place: Place,
    /// The commits since it came there, 0 for what was there from the begin.
    pub(crate) since: &'a [u64],
}

impl Shelves {
    /// Every second row is there from the begin.
    pub(crate) fn new() -> Self {
        let mut rows: [[Row; ROWS]; TABLES.len()] = Default::default();
        for row in rows.iter_mut().flat_map(|of| of.iter_mut().step_by(2)) {
            row.set(0, Some((0, 1)));
        }
        Self {
            rows,
            told: BTreeMap::new(),
        }
    }

    /// A commit, by the number of its write.
    pub(crate) fn commit(&mut self, index: u64, shift: Shift) {
        let images = match shift {
            Shift::One {
                table,
                id,
                to,
                before,
            } => self.change(index, (table, id), to, before),
            Shift::Category { table, from } => {
                let next = (from + 1) % CATEGORIES;
                for row in &mut self.rows[table] {
                    if let (Some((category, price)), _) = row.state()
                        && category == from
                    {
                        row.set(index, Some((next, price)));
                    }
                }
                let rows = |category| rows(table, &[("category", category)]);
                [from, next].map(|category| rows(category).into()).into()
            }
        };
        let came = match shift {
            Shift::One { table, to, .. } => to.map(|(category, _)| (table, category)),
            Shift::Category { .. } => None,
        };
        let events = Vec::new();
        let told = Told {
            came,
            images,
            events,
        };
        self.told.insert(index, told);
    }

    fn change(
        &mut self,
        index: u64,
        (table, id): (usize, usize),
        to: State,
        told: Before,
    ) -> Vec<RowImage> {
        let (before, _) = self.rows[table][id].state();
        self.rows[table][id].set(index, to);
        let (_, version) = self.rows[table][id].state();
        let identity = RowIdentity {
            id: row_id(id),
            version: counted(table, version),
        };
        let image = |rows, moment| RowImage {
            rows,
            moment,
            identity: Some(identity.clone()),
        };
        let cells = |(category, price)| rows(table, &[("category", category), ("price", price)]);
        let mut images = Vec::new();
        match (told, before) {
            (Before::Told, Some(before)) => images.push(image(cells(before), Moment::Before)),
            (Before::Hinted, Some(_)) => images.push(image(rows(table, &[]), Moment::Before)),
            _ => {}
        }
        if let Some(to) = to {
            images.push(image(cells(to), Moment::After));
        } else if images.is_empty() {
            images.push(image(rows(table, &[]), Moment::Before));
        }
        images
    }

    /// The lists that a commit's row came to.
    pub(crate) fn came_to(&self, index: u64) -> impl Iterator<Item = List> {
        let came = self.told.get(&index).and_then(|told| told.came);
        let orders = [false, true];
        came.into_iter().flat_map(move |(table, category)| {
            orders.map(|ordered| List {
                table,
                category,
                ordered,
            })
        })
    }

    /// What is to be told of a commit.
    pub(crate) fn images(&self, index: u64) -> Vec<RowImage> {
        let told = self.told.get(&index);
        told.map_or_else(Vec::new, |told| told.images.clone())
    }

    /// An event tells of a commit.
    pub(crate) fn tell(&mut self, index: u64, event: EventId) {
        if let Some(told) = self.told.get_mut(&index) {
            told.events.push(event);
        }
    }

    /// The events that told of a commit.
    pub(crate) fn events(&self, index: u64) -> &[EventId] {
        self.told.get(&index).map_or(&[], |told| &told.events)
    }

    /// What a list has, and the versions of its rows, in its order, as of a write.
    pub(crate) fn members(&self, list: List, index: u64) -> Vec<(Place, u64)> {
        let rows = self.rows[list.table].iter().enumerate();
        let members = rows.filter_map(|(id, row)| {
            let seen = row.states.partition_point(|(at, ..)| *at <= index);
            let (_, state, version) = row.states[..seen].last()?;
            let place = place(list, id, *state)?;
            Some((place, counted(list.table, *version)))
        });
        let mut members: Vec<_> = members.collect();
        members.sort();
        if list.ordered {
            members.reverse();
        }
        members
    }

    /// What a list has now.
    pub(crate) fn entries(&self, list: List) -> impl Iterator<Item = Entry<'_>> {
        let rows = self.rows[list.table].iter().enumerate();
        rows.filter_map(move |(id, row)| {
            let place = place(list, id, row.state().0)?;
            let since = if list.ordered {
                &row.at_price
            } else {
                &row.in_category
            };
            Some(Entry { place, since })
        })
    }

    /// Whether a list has something now.
    pub(crate) fn has(&self, list: List, place: &Place) -> bool {
        self.entries(list).any(|entry| entry.place == *place)
    }
}

/// Where a row is in a list, if it is there.
fn place(list: List, id: usize, state: State) -> Option<Place> {
    let (_, price) = state.filter(|(category, _)| *category == list.category)?;
    let key = if list.ordered {
        SortKey::of(&datum(price).value, false)
    } else {
        SortKey::NONE
    };
    let id = row_id(id);
    Some(Place { key, id })
}

/// The version that an application tells.
fn counted(table: usize, version: u64) -> u64 {
    if table == 1 { version } else { 0 }
}

fn row_id(id: usize) -> RowId {
    RowId::parse(&id.to_string()).expect("invariant: a number is an id")
}

fn column(name: &str) -> Column {
    Column::parse(name).expect("invariant: a constant name")
}

fn datum(value: usize) -> Datum {
    let value = i64::try_from(value).expect("invariant: a small number");
    Datum::of(Dialect::Postgres, Raw::Int(value)).expect("invariant: a number has a normal form")
}

fn rows(table: usize, cells: &[(&str, usize)]) -> Conjunction {
    let table = Table::parse(TABLES[table]).expect("invariant: a constant name");
    let mut rows = Conjunction::all_of(table);
    for (name, value) in cells {
        rows.narrow(column(name), Cell::Is(datum(*value)));
    }
    rows
}
