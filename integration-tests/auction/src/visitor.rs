//! Visitors: what each does on each page follows from a seed and from what the auction had when it opened, and never from what a page
//! showed. So all arms of a run are asked the same, in the same order by each visitor.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::ask::{Ask, Shape, Value};
use crate::catalogue::{AUCTION_SECONDS, CATEGORIES, Catalogue, NOW, PAGE_ROWS, REGIONS, nickname};
use crate::states::State;
use crate::write::Write;

/// Pages of a list that anybody looks at.
const PAGES_MAX: u32 = 4;
/// Rows of a user's comments on a page.
const COMMENT_ROWS: u32 = 20;

/// A page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Which one.
    pub state: State,
    /// The node that is asked.
    pub node: usize,
    /// Somebody new has come.
    pub new_session: bool,
    /// What the page shows.
    pub asks: Vec<Ask>,
    /// What it writes, before it shows anything.
    pub write: Option<Write>,
}

/// One visitor after another, without an end.
pub struct Visitors {
    catalogue: Arc<Catalogue>,
    random: SmallRng,
    nodes: usize,
    /// Nothing before the first page.
    state: Option<State>,
    user: u32,
    category: u32,
    region: u32,
    page: u32,
    item: u32,
    /// Whom the visitor looks at, or writes to.
    other: u32,
    /// Ids of what is registered here: every so many, from the next.
    step: u32,
    next_user: u32,
    next_item: u32,
}

impl Visitors {
    /// The visitors of place `at` of `places`, between so many nodes.
    pub fn new(
        seed: u64,
        catalogue: Arc<Catalogue>,
        (at, places): (u32, u32),
        nodes: usize,
    ) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed ^ u64::from(at + 1) << 32),
            nodes,
            state: None,
            user: 1,
            category: 1,
            region: 1,
            page: 0,
            item: 1,
            other: 1,
            step: places,
            next_user: catalogue.users() + 1 + at,
            next_item: catalogue.items() + 1 + at,
            catalogue,
        }
    }

    /// The next page.
    pub fn next_visit(&mut self) -> Visit {
        let before = self.state;
        let next = before.and_then(|state| state.next(&mut self.random));
        let new_session = next.is_none();
        let state = next.unwrap_or(State::Home);
        if new_session {
            self.user = self.random.random_range(1..=self.catalogue.users());
            self.item = self.random.random_range(1..=self.catalogue.items());
        }
        self.turn_to(before, state);
        self.state = Some(state);
        Visit {
            state,
            node: self.random.random_range(0..self.nodes),
            new_session,
            asks: self.asks(state),
            write: self.write(state),
        }
    }

    /// Chooses what the page is about.
    fn turn_to(&mut self, before: Option<State>, state: State) {
        match state {
            State::BrowseCategories
            | State::BrowseCategoriesInRegion
            | State::SelectCategoryToSellItem => {
                self.category = self.random.random_range(1..=CATEGORIES);
                self.region = self.random.random_range(1..=REGIONS);
                self.page = 0;
            }
            State::SearchItemsInCategory | State::SearchItemsInRegion if before == Some(state) => {
                self.page = (self.page + 1) % PAGES_MAX;
            }
            State::ViewItem
                if matches!(
                    before,
                    Some(State::SearchItemsInCategory | State::SearchItemsInRegion)
                ) =>
            {
                self.item = self.item_of_page();
            }
            State::ViewUserInfo | State::PutComment => {
                self.other = self.catalogue.seller(self.item);
            }
            _ => {}
        }
    }

    /// One of those that the page had when the auction opened.
    fn item_of_page(&mut self) -> u32 {
        let ids = self.catalogue.of_category(self.category);
        let rows = PAGE_ROWS as usize;
        let page = ids.chunks(rows).nth(self.page as usize).unwrap_or(ids);
        if page.is_empty() {
            return self.item;
        }
        page[self.random.random_range(0..page.len())]
    }

    fn asks(&self, state: State) -> Vec<Ask> {
        let (limit, offset) = (PAGE_ROWS, self.page * PAGE_ROWS);
        let auth = || Ask::new(Shape::UserByNickname, [Value::Text(nickname(self.user))]);
        let item = || Ask::by_id(Shape::Item, self.item);
        let figures = || Ask::by_id(Shape::BidFigures, self.item);
        let user = |id: u32| Ask::by_id(Shape::User, id);
        let comments = |id: u32| Ask::new(Shape::CommentsOfUser, [id.into(), COMMENT_ROWS.into()]);
        match state {
            State::BrowseCategories | State::BrowseCategoriesInRegion => {
                vec![Ask::new(Shape::Categories, [])]
            }
            State::BrowseRegions => vec![Ask::new(Shape::Regions, [])],
            State::SearchItemsInCategory => vec![Ask::new(
                Shape::ItemsOfCategory,
                [
                    self.category.into(),
                    NOW.into(),
                    limit.into(),
                    offset.into(),
                ],
            )],
            State::SearchItemsInRegion => vec![Ask::new(
                Shape::ItemsOfRegion,
                [
                    self.category.into(),
                    self.region.into(),
                    NOW.into(),
                    limit.into(),
                    offset.into(),
                ],
            )],
            State::ViewItem => vec![item(), figures(), user(self.catalogue.seller(self.item))],
            State::ViewUserInfo => vec![user(self.other), comments(self.other)],
            State::ViewBidHistory => vec![
                item(),
                Ask::new(Shape::BidsByAmount, [self.item.into(), PAGE_ROWS.into()]),
            ],
            State::BuyNow => vec![auth(), item(), user(self.catalogue.seller(self.item))],
            State::PutBid => vec![auth(), item(), figures()],
            State::PutComment => vec![auth(), item(), user(self.other)],
            State::SelectCategoryToSellItem => vec![auth(), Ask::new(Shape::Categories, [])],
            State::AboutMe => vec![
                auth(),
                user(self.user),
                Ask::new(Shape::SellingOfUser, [self.user.into(), NOW.into()]),
                Ask::new(Shape::BidsOfUser, [self.user.into(), NOW.into()]),
                Ask::by_id(Shape::BoughtByUser, self.user),
                comments(self.user),
            ],
            // Forms, and pages that say thank you.
            _ => vec![],
        }
    }

    fn write(&mut self, state: State) -> Option<Write> {
        Some(match state {
            State::StoreBid => Write::Bid {
                item: self.item,
                user: self.user,
                raise: self.random.random_range(1..=10),
            },
            State::StoreBuyNow => Write::BuyNow {
                item: self.item,
                user: self.user,
            },
            State::StoreComment => Write::Comment {
                from: self.user,
                to: self.other,
                item: self.item,
                rating: self.random.random_range(-5..=5),
            },
            State::RegisterItem => {
                let id = self.next_item;
                self.next_item += self.step;
                Write::Item {
                    id,
                    category: self.category,
                    seller: self.user,
                    price: self.random.random_range(1..=1_000),
                    end_date: NOW + self.random.random_range(1..=AUCTION_SECONDS),
                }
            }
            State::RegisterUser => {
                self.user = self.next_user;
                self.next_user += self.step;
                Write::User {
                    id: self.user,
                    region: self.random.random_range(1..=REGIONS),
                }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn visits(at: u32, count: usize) -> Vec<Visit> {
        let catalogue = Arc::new(Catalogue::new(7, 100, 400));
        let mut visitors = Visitors::new(7, catalogue, (at, 3), 3);
        (0..count).map(|_| visitors.next_visit()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_visits_and_each_place_its_own() {
        assert_eq!(visits(0, 500), visits(0, 500));
        let pages = |at| visits(at, 500).into_iter().map(|visit| visit.state);
        assert!(pages(0).ne(pages(1)));
    }

    #[test]
    fn visits_come_to_every_page_and_to_every_node_and_write_what_is_their_page_s() {
        let visits = visits(0, 20_000);
        let states: BTreeSet<_> = visits.iter().map(|visit| visit.state).collect();
        assert_eq!(states.len(), 27);
        let nodes: BTreeSet<_> = visits.iter().map(|visit| visit.node).collect();
        assert_eq!(nodes.len(), 3);
        for visit in &visits {
            assert_eq!(visit.write.is_some(), visit.state.writes(), "{visit:?}");
        }
        let writes = visits.iter().filter(|visit| visit.write.is_some()).count();
        assert!((2_600..3_400).contains(&writes), "{writes} of 20,000");
    }

    #[test]
    fn what_is_registered_at_different_places_has_different_ids() {
        let ids = |at| -> BTreeSet<u32> {
            let visits = visits(at, 5_000);
            let ids = visits.iter().filter_map(|visit| match visit.write {
                Some(Write::Item { id, .. }) => Some(id),
                _ => None,
            });
            ids.collect()
        };
        assert!(ids(0).len() > 10 && ids(0).is_disjoint(&ids(1)));
    }
}
