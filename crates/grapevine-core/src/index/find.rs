//! Finding members: of one leaf, of any of several (OR, IN), or of all of several (AND).
//!
//! Leaves that are read together are of one table and in one order, so a row as it is has the same place in each of them, and they are merged
//! place by place. (A row without versions may stand at an old place, too, in one leaf or in another.) Of a leaf that is known up to some place only nothing behind that is told, of none of them: there may be
//! rows between.

use std::collections::btree_map::Range;
use std::ops::Bound;

use super::members::{Member, Members};
use super::place::{Place, RowId, SortKey};

/// The most leaves that one read unites.
pub const UNITED_MAX: usize = 32;
/// The most leaves that one read intersects.
pub const INTERSECTED_MAX: usize = 4;
/// The most members that one read leaves out, or passes by because they are not in all leaves. Behind them it ends, as where nothing more
/// is known.
const PASSED_MAX: usize = 10_000;

/// How several leaves make one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combine {
    /// What is in at least one of them.
    #[default]
    Any,
    /// What is in every one of them.
    All,
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Members behind this place, in the leaf's direction.
    pub after: Option<Place>,
    /// Without the first so many of them.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
    /// Members whose key is at least this.
    pub least: Option<SortKey>,
    /// Members whose key is at most this.
    pub most: Option<SortKey>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The members, in the leaf's order; of a place that is in several leaves, with the newest version known there.
    pub members: Vec<(Place, Member)>,
    /// How many there were that a filter left out.
    pub filtered: usize,
    /// Whether all of the window was seen: there are no more, or as many as were asked for.
    pub whole: bool,
    /// Whether there are more behind them.
    pub more: bool,
}

/// The members in a window of leaves of one order, for which `keep` holds in one of the leaves that have them (`Any`), or in all (`All`). It is
/// told the number of the leaf.
pub fn find(
    leaves: &[&Members],
    combine: Combine,
    window: &Window,
    keep: impl Fn(usize, &Place, Member) -> bool,
) -> Found {
    let mut found = Found::default();
    let Some(bounds) = bounds(window, is_descending(leaves)) else {
        found.whole = true;
        return found;
    };
    let mut skip = window.offset;
    let mut merge = Merge::new(leaves, combine, bounds);
    while let Some(place) = merge.next_place() {
        let (member, kept) = merge.take(place, &keep);
        if !kept {
            found.filtered += 1;
            merge.passed += 1;
        } else if skip > 0 {
            skip -= 1;
        } else if found.members.len() < window.limit {
            found.members.push((place.clone(), member));
        } else {
            found.more = true;
            break;
        }
    }
    let cut = merge.is_cut();
    let covered = leaves.iter().all(|leaf| covers(leaf, window));
    let full = found.members.len() == window.limit;
    found.whole = full || !cut && covered;
    found.more |= cut || !found.whole || full && !covered;
    found
}

fn is_descending(leaves: &[&Members]) -> bool {
    leaves.first().is_some_and(|leaf| leaf.descending)
}

/// Leaves side by side, each at a place of its own.
struct Merge<'a> {
    runs: Vec<Run<'a>>,
    combine: Combine,
    descending: bool,
    /// The first of the places behind which not all of them are known.
    end: Option<&'a Place>,
    /// How many members were passed by.
    passed: usize,
}

/// What is left of a leaf.
struct Run<'a> {
    leaf: &'a Members,
    range: Range<'a, Place, Member>,
    last: Bound<Place>,
    head: Option<(&'a Place, &'a Member)>,
}

impl Run<'_> {
    fn advance(&mut self) {
        self.head = if self.leaf.descending {
            self.range.next_back()
        } else {
            self.range.next()
        };
    }

    /// Goes on to a place, or to what lies behind it.
    fn seek(&mut self, place: &Place) {
        let first = Bound::Included(place.clone());
        let range = if self.leaf.descending {
            (self.last.clone(), first)
        } else {
            (first, self.last.clone())
        };
        self.range = self.leaf.by_place.range(range);
        self.advance();
    }
}

impl<'a> Merge<'a> {
    fn new(leaves: &[&'a Members], combine: Combine, bounds: (Bound<Place>, Bound<Place>)) -> Self {
        let descending = is_descending(leaves);
        let runs = leaves.iter().map(|leaf| {
            let mut run = Run {
                leaf,
                range: leaf.by_place.range(bounds.clone()),
                last: if descending {
                    bounds.0.clone()
                } else {
                    bounds.1.clone()
                },
                head: None,
            };
            run.advance();
            run
        });
        let runs = runs.collect();
        let ends = leaves.iter().filter_map(|leaf| leaf.end.as_ref());
        let end = if descending { ends.max() } else { ends.min() };
        Self {
            runs,
            combine,
            descending,
            end,
            passed: 0,
        }
    }

    fn is_cut(&self) -> bool {
        self.passed >= PASSED_MAX
    }

    fn is_behind(&self, place: &Place, other: &Place) -> bool {
        if self.descending {
            place < other
        } else {
            place > other
        }
    }

    /// The next place of the list; none where it ends, or where not all is known.
    fn next_place(&mut self) -> Option<&'a Place> {
        if self.is_cut() {
            return None;
        }
        let place = match self.combine {
            Combine::Any => self.first_head(),
            Combine::All => self.common_head(),
        };
        let known = |place: &&Place| self.end.is_none_or(|end| !self.is_behind(place, end));
        place.filter(known)
    }

    fn first_head(&self) -> Option<&'a Place> {
        let heads = self.runs.iter().filter_map(|run| run.head);
        let places = heads.map(|(place, _)| place);
        if self.descending {
            places.max()
        } else {
            places.min()
        }
    }

    /// Has all leaves go on to the next place that is in each of them.
    fn common_head(&mut self) -> Option<&'a Place> {
        let (mut place, _) = self.runs.first()?.head?;
        let mut agreed = 0;
        let count = self.runs.len();
        let mut at = 0;
        while agreed < count && !self.is_cut() {
            let descending = self.descending;
            let run = &mut self.runs[at % count];
            let (mut head, _) = run.head?;
            let before = if descending {
                head > place
            } else {
                head < place
            };
            if before {
                run.seek(place);
                (head, _) = run.head?;
                self.passed += 1;
            }
            if head == place {
                agreed += 1;
            } else {
                (place, agreed) = (head, 1);
            }
            at += 1;
        }
        (agreed == count).then_some(place)
    }

    /// What the leaves have at a place, and whether it is to be kept; they go on behind it.
    fn take(
        &mut self,
        place: &'a Place,
        keep: &impl Fn(usize, &Place, Member) -> bool,
    ) -> (Member, bool) {
        let mut newest: Option<Member> = None;
        let (mut any, mut all) = (false, true);
        for (number, run) in self.runs.iter_mut().enumerate() {
            let Some((_, member)) = run.head.filter(|(head, _)| *head == place) else {
                continue;
            };
            let kept = keep(number, place, *member);
            (any, all) = (any | kept, all & kept);
            newest = newest
                .filter(|known| known.version >= member.version)
                .or(Some(*member));
            run.advance();
        }
        let kept = match self.combine {
            Combine::Any => any,
            Combine::All => all,
        };
        (newest.unwrap_or_default(), kept)
    }
}

/// Whether all that there is of a leaf in a window is known.
pub fn covers(leaf: &Members, window: &Window) -> bool {
    let last = if leaf.descending {
        &window.least
    } else {
        &window.most
    };
    match (&leaf.end, last) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(last)) if leaf.descending => end.key < *last,
        (Some(end), Some(last)) => end.key > *last,
    }
}

/// A window as a range of places; `None` if nothing can be in it.
fn bounds(window: &Window, descending: bool) -> Option<(Bound<Place>, Bound<Place>)> {
    let first = |key: &SortKey| Place {
        key: key.clone(),
        id: RowId::Number(i64::MIN),
    };
    // NULL lies in no range, wherever it stands in the order.
    let ranged = window.least.is_some() || window.most.is_some();
    let least = window.least.clone();
    let least = least.or_else(|| ranged.then_some(SortKey::Bits(1)));
    let mut low = least.map_or(Bound::Unbounded, |key| Bound::Included(first(&key)));
    let above = window.most.as_ref().map(next);
    let above = above.or_else(|| ranged.then(SortKey::null_above));
    let mut high = above.map_or(Bound::Unbounded, |key| Bound::Excluded(first(&key)));
    if let Some(after) = &window.after {
        let end = Bound::Excluded(after.clone());
        let inner = |bound: &Bound<Place>, beyond: fn(&Place, &Place) -> bool| match bound {
            Bound::Included(place) | Bound::Excluded(place) => beyond(place, after),
            Bound::Unbounded => false,
        };
        if descending && !inner(&high, |high, after| high <= after) {
            high = end;
        } else if !descending && !inner(&low, |low, after| low > after) {
            low = end;
        }
    }
    let empty = match (&low, &high) {
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
        _ => false,
    };
    (!empty).then_some((low, high))
}

/// The least key above another one.
fn next(key: &SortKey) -> SortKey {
    match key {
        SortKey::Bits(u64::MAX) => SortKey::Bytes([].into()),
        SortKey::Bits(bits) => SortKey::Bits(bits + 1),
        SortKey::Bytes(bytes) => {
            let mut longer = bytes.to_vec();
            longer.push(0);
            SortKey::Bytes(longer.into())
        }
    }
}
