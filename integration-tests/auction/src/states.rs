//! The pages of the auction and how visitors go from one to the next.
//!
//! The 27 pages are those of the published benchmark (RUBiS). The
//! probabilities are our own: they come to its *bidding mix*, 15 % of pages that write and 85 % that only read, and to visits of some
//! 45 pages. A visit begins at the front page; where it ends, the next visitor begins.

use rand::Rng;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the page of its name")]
pub enum State {
    Home,
    Register,
    RegisterUser,
    Browse,
    BrowseCategories,
    SearchItemsInCategory,
    BrowseRegions,
    BrowseCategoriesInRegion,
    SearchItemsInRegion,
    ViewItem,
    ViewUserInfo,
    ViewBidHistory,
    BuyNowAuth,
    BuyNow,
    StoreBuyNow,
    PutBidAuth,
    PutBid,
    StoreBid,
    PutCommentAuth,
    PutComment,
    StoreComment,
    Sell,
    SelectCategoryToSellItem,
    SellItemForm,
    RegisterItem,
    AboutMeAuth,
    AboutMe,
}

/// Where a visitor goes, or nowhere: the visit ends.
type Next = (Option<State>, u32);

/// What the probabilities of a page sum up to.
const WHOLE: u32 = 1_000;

impl State {
    /// Every page.
    pub const ALL: [Self; 27] = [
        Self::Home,
        Self::Register,
        Self::RegisterUser,
        Self::Browse,
        Self::BrowseCategories,
        Self::SearchItemsInCategory,
        Self::BrowseRegions,
        Self::BrowseCategoriesInRegion,
        Self::SearchItemsInRegion,
        Self::ViewItem,
        Self::ViewUserInfo,
        Self::ViewBidHistory,
        Self::BuyNowAuth,
        Self::BuyNow,
        Self::StoreBuyNow,
        Self::PutBidAuth,
        Self::PutBid,
        Self::StoreBid,
        Self::PutCommentAuth,
        Self::PutComment,
        Self::StoreComment,
        Self::Sell,
        Self::SelectCategoryToSellItem,
        Self::SellItemForm,
        Self::RegisterItem,
        Self::AboutMeAuth,
        Self::AboutMe,
    ];

    /// Whether it writes to the database.
    pub fn writes(self) -> bool {
        matches!(
            self,
            Self::RegisterUser
                | Self::StoreBuyNow
                | Self::StoreBid
                | Self::StoreComment
                | Self::RegisterItem
        )
    }

    /// The next page; `None` where the visit ends.
    pub fn next(self, random: &mut impl Rng) -> Option<Self> {
        let mut drawn = random.random_range(0..WHOLE);
        for (next, probability) in self.transitions() {
            if drawn < *probability {
                return *next;
            }
            drawn -= probability;
        }
        unreachable!("invariant: the probabilities of a page sum up to {WHOLE}")
    }

    /// Where visitors of this page go, in thousandths.
    fn transitions(self) -> &'static [Next] {
        use State as S;
        match self {
            S::Home => &[
                (Some(S::Register), 80),
                (Some(S::Browse), 640),
                (Some(S::Sell), 180),
                (Some(S::AboutMeAuth), 100),
            ],
            S::Register => &[(Some(S::RegisterUser), 1_000)],
            S::RegisterUser => &[
                (Some(S::Browse), 600),
                (Some(S::Sell), 200),
                (Some(S::Home), 200),
            ],
            S::Browse => &[
                (Some(S::BrowseCategories), 700),
                (Some(S::BrowseRegions), 300),
            ],
            S::BrowseCategories => &[(Some(S::SearchItemsInCategory), 1_000)],
            S::SearchItemsInCategory => &[
                (Some(S::SearchItemsInCategory), 170),
                (Some(S::ViewItem), 730),
                (Some(S::Browse), 50),
                (Some(S::Home), 20),
                (None, 30),
            ],
            S::BrowseRegions => &[(Some(S::BrowseCategoriesInRegion), 1_000)],
            S::BrowseCategoriesInRegion => &[(Some(S::SearchItemsInRegion), 1_000)],
            S::SearchItemsInRegion => &[
                (Some(S::SearchItemsInRegion), 100),
                (Some(S::ViewItem), 700),
                (Some(S::Browse), 140),
                (Some(S::Home), 30),
                (None, 30),
            ],
            S::ViewItem => &[
                (Some(S::ViewUserInfo), 80),
                (Some(S::ViewBidHistory), 70),
                (Some(S::BuyNowAuth), 20),
                (Some(S::BuyNow), 50),
                (Some(S::PutBidAuth), 80),
                (Some(S::PutBid), 400),
                (Some(S::SearchItemsInCategory), 210),
                (Some(S::Browse), 60),
                (None, 30),
            ],
            _ => self.transitions_of_forms(),
        }
    }

    /// The same, of pages that one comes to from those above.
    fn transitions_of_forms(self) -> &'static [Next] {
        use State as S;
        match self {
            S::ViewUserInfo => &[
                (Some(S::PutCommentAuth), 120),
                (Some(S::PutComment), 280),
                (Some(S::ViewItem), 400),
                (Some(S::Browse), 160),
                (None, 40),
            ],
            S::ViewBidHistory => &[
                (Some(S::ViewItem), 400),
                (Some(S::PutBid), 300),
                (Some(S::ViewUserInfo), 150),
                (Some(S::Browse), 150),
            ],
            S::BuyNowAuth => &[(Some(S::BuyNow), 1_000)],
            S::BuyNow => &[(Some(S::StoreBuyNow), 850), (Some(S::ViewItem), 150)],
            S::StoreBuyNow => &[
                (Some(S::Browse), 500),
                (Some(S::PutComment), 200),
                (Some(S::Home), 200),
                (None, 100),
            ],
            S::PutBidAuth => &[(Some(S::PutBid), 1_000)],
            S::PutBid => &[(Some(S::StoreBid), 900), (Some(S::ViewItem), 100)],
            S::StoreBid => &[
                (Some(S::SearchItemsInCategory), 340),
                (Some(S::ViewItem), 150),
                (Some(S::PutBid), 310),
                (Some(S::Browse), 100),
                (Some(S::AboutMe), 50),
                (None, 50),
            ],
            S::PutCommentAuth => &[(Some(S::PutComment), 1_000)],
            S::PutComment => &[(Some(S::StoreComment), 900), (Some(S::ViewUserInfo), 100)],
            S::StoreComment => &[
                (Some(S::ViewUserInfo), 200),
                (Some(S::Browse), 500),
                (Some(S::Home), 200),
                (None, 100),
            ],
            S::Sell => &[(Some(S::SelectCategoryToSellItem), 1_000)],
            S::SelectCategoryToSellItem => &[(Some(S::SellItemForm), 1_000)],
            S::SellItemForm => &[(Some(S::RegisterItem), 900), (Some(S::Home), 100)],
            S::RegisterItem => &[
                (Some(S::SellItemForm), 350),
                (Some(S::Home), 250),
                (Some(S::AboutMe), 100),
                (Some(S::Browse), 250),
                (None, 50),
            ],
            S::AboutMeAuth => &[(Some(S::AboutMe), 1_000)],
            _ => &[
                (Some(S::ViewItem), 400),
                (Some(S::Browse), 300),
                (Some(S::Home), 150),
                (None, 150),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The share of each page in the long run: visits, one after another.
    fn shares() -> BTreeMap<State, f64> {
        let mut shares: BTreeMap<_, _> = State::ALL.map(|state| (state, 1.0 / 27.0)).into();
        for _ in 0..2_000 {
            let mut next: BTreeMap<State, f64> = BTreeMap::new();
            for (state, share) in &shares {
                for (to, probability) in state.transitions() {
                    let flow = share * f64::from(*probability) / f64::from(WHOLE);
                    *next.entry(to.unwrap_or(State::Home)).or_default() += flow;
                }
            }
            shares = next;
        }
        shares
    }

    #[test]
    fn the_probabilities_of_each_page_sum_up_to_one() {
        for state in State::ALL {
            let sum: u32 = state.transitions().iter().map(|(_, of)| of).sum();
            assert_eq!(sum, WHOLE, "{state:?}");
        }
    }

    #[test]
    fn every_page_is_named_once_and_is_reached() {
        let shares = shares();
        assert_eq!(shares.len(), 27);
        for (state, share) in shares {
            assert!(share > 0.001, "{state:?} has {share}");
        }
    }

    #[test]
    fn fifteen_of_a_hundred_pages_write() {
        let shares = shares();
        let writing: f64 = shares
            .iter()
            .filter(|(state, _)| state.writes())
            .map(|(_, share)| share)
            .sum();
        assert!((writing - 0.15).abs() < 0.005, "{writing}");
    }
}
