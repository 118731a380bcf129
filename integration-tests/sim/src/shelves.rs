//! Rows that applications keep lists of: what the database has of them, in all their versions, and what was told of each commit.
//!
//! A row is of a category and has a price, or is deleted. Some are there from the begin. Of one table the application counts
//! the versions of rows, of the other it does not. What is told of a write that was begun carries a marker, a column that names it.

use std::collections::BTreeMap;

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Dialect, Raw, Shape, Table, Value,
};
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

/// The column that names a write which was begun.
const MARKER: &str = "writer";

/// A row as it is: its category and its price, or nothing where it is deleted.
pub(crate) type State = Option<(usize, usize)>;

/// A list: the rows of a table that meet a criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct List {
    /// Of which table.
    pub(crate) table: usize,
    /// Which of its lists.
    pub(crate) of: Of,
}

/// Which rows a list has, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    /// Those of a category, by id.
    Category(usize),
    /// Those of a category, by falling price.
    Ordered(usize),
    /// Those of a price, by id.
    Price(usize),
}

impl Of {
    /// All lists of a table.
    const ALL: [Self; 2 * CATEGORIES + PRICES] = [
        Self::Category(0),
        Self::Category(1),
        Self::Ordered(0),
        Self::Ordered(1),
        Self::Price(0),
        Self::Price(1),
        Self::Price(2),
        Self::Price(3),
    ];

    /// Whether a row of this category and price is in it.
    fn meets(self, (category, price): (usize, usize)) -> bool {
        match self {
            Self::Category(of) | Self::Ordered(of) => of == category,
            Self::Price(of) => of == price,
        }
    }
}

impl List {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..TABLES.len()).flat_map(|table| Of::ALL.map(|of| Self { table, of }))
    }

    /// Its number among all.
    pub(crate) fn number(self) -> usize {
        let of = Of::ALL.iter().position(|of| *of == self.of);
        self.table * Of::ALL.len() + of.expect("invariant: it is one of all")
    }

    /// Whether it is by falling price.
    pub(crate) fn ordered(self) -> bool {
        matches!(self.of, Of::Ordered(_))
    }

    /// The lists that a row is in.
    fn of_row(table: usize, state: (usize, usize)) -> impl Iterator<Item = Self> {
        let all = Of::ALL.into_iter().map(move |of| Self { table, of });
        all.filter(move |list| list.of.meets(state))
    }

    /// The leaf that it is.
    pub(crate) fn leaf(self) -> LeafKey {
        let cell = match self.of {
            Of::Category(category) | Of::Ordered(category) => ("category", category),
            Of::Price(price) => ("price", price),
        };
        let rows = rows(self.table, &[cell]);
        let classes = Shape::of(&rows).classes_of_read(&rows);
        LeafKey {
            class: classes.into_iter().next().expect("invariant: a class"),
            ordering: Ordering {
                by: self.ordered().then(|| column("price")),
                descending: self.ordered(),
                nulls_high: false,
            },
        }
    }

    /// Whether a place lies before another one.
    pub(crate) fn before(self, place: &Place, other: &Place) -> bool {
        if self.ordered() {
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

/// A write that was begun: its operation, and which of its attempts to declare it was taken.
pub(crate) type Begun = (usize, u32);

/// A row.
#[derive(Clone, Debug, Default)]
struct Row {
    /// What it was as of which write, and in which version.
    states: Vec<(u64, State, u64)>,
    /// The commits since it came into its category, since it has its price, and since it has both.
    in_category: Vec<u64>,
    at_price: Vec<u64>,
    in_both: Vec<u64>,
}

impl Row {
    fn state(&self) -> (State, u64) {
        let last = self.states.last();
        last.map_or((None, 0), |(_, state, version)| (*state, *version))
    }

    fn set(&mut self, index: u64, to: State) {
        let (before, version) = self.state();
        let category = |state: State| state.map(|(category, _)| category);
        let price = |state: State| state.map(|(_, price)| price);
        if category(before) != category(to) {
            self.in_category.clear();
        }
        if price(before) != price(to) {
            self.at_price.clear();
        }
        if before != to {
            self.in_both.clear();
        }
        self.states.push((index, to, version + 1));
        for since in [&mut self.in_category, &mut self.at_price, &mut self.in_both] {
            since.push(index);
        }
    }
}

/// What is to be told of a commit, and the events that told it.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The lists that a row came to.
    came: Vec<List>,
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

    /// A commit, by the number of its write; of one that was begun.
    pub(crate) fn commit(&mut self, index: u64, shift: Shift, begun: Option<Begun>) {
        let images = self.images_of(shift, begun);
        let came = match shift {
            Shift::One { table, id, to, .. } => {
                self.rows[table][id].set(index, to);
                let lists = to.map(|to| List::of_row(table, to));
                lists.into_iter().flatten().collect()
            }
            Shift::Category { table, from } => {
                let next = (from + 1) % CATEGORIES;
                for row in &mut self.rows[table] {
                    if let (Some((category, price)), _) = row.state()
                        && category == from
                    {
                        row.set(index, Some((next, price)));
                    }
                }
                Vec::new()
            }
        };
        let events = Vec::new();
        let told = Told {
            came,
            images,
            events,
        };
        self.told.insert(index, told);
    }

    /// What is to be told of a commit that would be made now.
    pub(crate) fn images_of(&self, shift: Shift, begun: Option<Begun>) -> Vec<RowImage> {
        let mut images = match shift {
            Shift::One {
                table,
                id,
                to,
                before,
            } => self.images_of_row((table, id), to, before),
            Shift::Category { table, from } => {
                let next = (from + 1) % CATEGORIES;
                let rows = |category| rows(table, &[("category", category)]);
                [from, next].map(|category| rows(category).into()).into()
            }
        };
        if let Some((op, attempt)) = begun {
            let name = format!("writer {op}.{attempt}");
            let marker = Datum::of(Dialect::Postgres, Raw::Text(&name));
            let marker = Cell::Is(marker.expect("invariant: a short text has a normal form"));
            for image in &mut images {
                image.rows.narrow(column(MARKER), marker.clone());
            }
        }
        images
    }

    fn images_of_row(&self, (table, id): (usize, usize), to: State, told: Before) -> Vec<RowImage> {
        let (before, version) = self.rows[table][id].state();
        let identity = RowIdentity {
            id: row_id(id),
            version: counted(table, version + 1),
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
        let told = self.told.get(&index);
        told.into_iter().flat_map(|told| told.came.iter().copied())
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
        if list.ordered() {
            members.reverse();
        }
        members
    }

    /// What a list has now.
    pub(crate) fn entries(&self, list: List) -> impl Iterator<Item = Entry<'_>> {
        let rows = self.rows[list.table].iter().enumerate();
        rows.filter_map(move |(id, row)| {
            let place = place(list, id, row.state().0)?;
            let since = match list.of {
                Of::Category(_) => &row.in_category,
                Of::Price(_) => &row.at_price,
                Of::Ordered(_) => &row.in_both,
            };
            Some(Entry { place, since })
        })
    }

    /// Whether a list has something now.
    pub(crate) fn has(&self, list: List, place: &Place) -> bool {
        self.entries(list).any(|entry| entry.place == *place)
    }
}

/// The write that was begun and that rows are told of, if they say so.
pub(crate) fn begun(image: &RowImage) -> Option<Begun> {
    let Some(Cell::Is(marker)) = image.rows.cells.get(&column(MARKER)) else {
        return None;
    };
    let Value::Text(name) = &marker.value else {
        return None;
    };
    let (op, attempt) = name.strip_prefix("writer ")?.split_once('.')?;
    Some((op.parse().ok()?, attempt.parse().ok()?))
}

/// Where a row is in a list, if it is there.
pub(crate) fn place(list: List, id: usize, state: State) -> Option<Place> {
    let (_, price) = state.filter(|state| list.of.meets(*state))?;
    let key = if list.ordered() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_write_that_was_begun_names_it() {
        let shelves = Shelves::new();
        let shift = Shift::One {
            table: 1,
            id: 0,
            to: Some((1, 2)),
            before: Before::Told,
        };
        let named = |by| {
            let images = shelves.images_of(shift, by);
            images.iter().map(begun).collect::<Vec<_>>()
        };
        assert_eq!(named(Some((314, 2))), [Some((314, 2)); 2]);
        assert_eq!(named(None), [None; 2]);
    }
}
