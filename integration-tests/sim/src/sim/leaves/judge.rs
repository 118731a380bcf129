//! The judge of what leaves hold (G9).
//!
//! A list that is answered as whole must have each row that is in it now and of whose commits since it came there one was told by an
//! event that the answering sidecar has applied: of lists that are united, what one of them must have; of an intersection, what each of
//! them must have. At the sidecar that took it, a union must also have the rows of a write that was begun, from the answer to that until the
//! write is decided or its lease is over. What else a list has is extra, and only counted.

use grapevine_core::id::EventId;
use grapevine_core::index::{Combine, Found, Place, Window};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{LeafAnswer, LeafQuery};

use super::super::Sim;
use super::{Answer, describe};
use crate::shelves::{self, List};
use crate::violation::Guarantee;

impl Sim<'_> {
    /// Whether a leaf must hold a row that the database's answer did not have.
    pub(super) fn was_added(&self, at: usize, list: List, answer: &Answer) -> bool {
        let Some(core) = &self.nodes[at].core else {
            return false;
        };
        let owed = self.owed_places(core, list);
        let lacks = |place: &Place| !answer.iter().any(|(in_it, _)| in_it == place);
        owed.iter().any(|(place, _)| lacks(place))
    }

    /// What a list must have at a sidecar, and the commits since it is there.
    fn owed_places(&self, core: &Core, list: List) -> Vec<(Place, &[u64])> {
        let entries = self.shelves.entries(list);
        let owed = entries.filter(|entry| self.owes(core, entry.since));
        owed.map(|entry| (entry.place, entry.since)).collect()
    }

    /// Whether a sidecar has applied what told of one of these commits.
    fn owes(&self, core: &Core, since: &[u64]) -> bool {
        let told = |commit: &u64| {
            let mut events = self.shelves.events(*commit).iter();
            *commit == 0 || events.any(|event| self.checker.has(core.progress(), *event))
        };
        since.iter().rev().any(told)
    }

    /// Judges a list that was answered, of one leaf or of several.
    pub(super) fn judge_leaves(
        &mut self,
        at: usize,
        (combine, lists): (Combine, &[List]),
        limit: usize,
        found: &Found,
    ) {
        let places: Vec<_> = found.members.iter().map(|(place, _)| place).collect();
        let Some(core) = self.nodes[at].core.as_ref().filter(|_| found.whole) else {
            return;
        };
        let last = places.last().filter(|_| places.len() >= limit);
        let lacks = |place: &Place| {
            let ahead = last.is_none_or(|last| lists[0].before(place, last));
            ahead && !places.contains(&place)
        };
        let owed = lists.iter().map(|list| self.owed_places(core, *list));
        let owed: Vec<_> = owed.collect();
        let in_all = |place: &Place| {
            let mut of_lists = owed.iter();
            combine == Combine::Any || of_lists.all(|of| of.iter().any(|(owed, _)| owed == place))
        };
        let mut all = owed.iter().flatten();
        let lacking = all.find(|(place, _)| lacks(place) && in_all(place));
        let why = lacking.map(|(place, since)| {
            let events = since
                .iter()
                .map(|commit| (*commit, self.shelves.events(*commit)));
            let events: Vec<_> = events.collect();
            let why = format!("it came there by the first of these writes, told by {events:?}");
            (place.clone(), why)
        });
        let begun = self.begun_places(at, lists);
        let shown = begun.iter().filter(|(_, place)| places.contains(&place));
        self.tally.leaves.begun_shown += shown.count() as u64;
        let why = why.or_else(|| {
            let mut begun = begun.into_iter().filter(|_| combine == Combine::Any);
            let (op, place) = begun.find(|(_, place)| lacks(place))?;
            Some((place, format!("writer {op} has begun to write it")))
        });
        if let Some((place, why)) = why {
            let letter = self.nodes[at].letter;
            let lists: Vec<_> = lists.iter().map(|list| describe(*list)).collect();
            let lists = lists.join(" and ");
            let what = format!(
                "{letter} leaves {place:?} out of {lists} ({combine:?}): {places:?}; {why}"
            );
            self.violated(Guarantee::G9, what);
        }
    }

    /// Where rows will be in lists, of the writes that this sidecar has taken and that are not decided; by operation.
    fn begun_places(&self, at: usize, lists: &[List]) -> Vec<(usize, Place)> {
        let rows = self.rows_begun_at(at);
        let places = rows.flat_map(|(op, (table, id, state))| {
            let lists = lists.iter().filter(move |list| list.table == table);
            let places = lists.filter_map(move |list| shelves::place(*list, id, Some(state)));
            places.map(move |place| (op, place))
        });
        places.collect()
    }

    /// Counts rows that come into a list whose leaf is absent.
    pub(in crate::sim) fn note_adds(&mut self, at: usize, event: EventId) {
        let Some(known) = self.checker.known(event) else {
            return;
        };
        let now = self.time(at);
        let Some(core) = &self.nodes[at].core else {
            return;
        };
        let absent = self.shelves.came_to(known.index).filter(|list| {
            let query = self.query_of(*list, Window::default());
            core.read_leaf(&query, now) == LeafAnswer::Absent(vec![0])
        });
        self.tally.leaves.added_absent += absent.count() as u64;
    }

    /// Reads every leaf at a sidecar that everybody's word has reached, and judges it.
    pub(in crate::sim) fn read_all_leaves(&mut self, at: usize) {
        for list in List::all() {
            let window = Window {
                limit: usize::MAX,
                ..Window::default()
            };
            let query = self.query_of(list, window);
            let now = self.time(at);
            let core = self.nodes[at].core.as_ref();
            let answer = core.map(|core| core.read_leaf(&query, now));
            if let Some(LeafAnswer::Found { found, .. }) = answer {
                self.judge_leaves(at, (Combine::Any, &[list]), usize::MAX, &found);
            }
        }
    }

    fn query_of(&self, list: List, window: Window) -> LeafQuery {
        LeafQuery {
            leaves: vec![self.shop.leaf(list).clone()],
            combine: Combine::Any,
            window,
            verified: false,
        }
    }
}
