//! What soft bumps replaced, for stale-while-revalidate.
//!
//! A soft bump says: the values may be served a little longer while they are computed anew. For that a reader must
//! recognise them, by the token that they carry. So when a soft bump of a class is applied, its entries from before are kept
//! beside the present ones, as a *generation*, for as long as the longest policy allows. The *stale tokens* of an address
//! are its tokens as they were just before a soft bump of its classes, with everything else as it is now: a hard bump of
//! an ancestor, say, is in all of them, so nothing from before it can be served.
//!
//! Whatever could hide a hard bump drops the generations of the class: a hard bump of it, also one that was applied late and
//! changes no token; a conjunction that it anchors; a floor; a state that was taken over from a peer. Dropped means that
//! nothing stale is served, which is never wrong. Nothing of this is written to disk, and stale tokens are told apart from
//! present ones wherever they are told: a superseded token does not come back by them (G2).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Entries, Versions};
use crate::event::{Bump, Match, PurgeMode};
use crate::id::{EventId, Time};
use crate::names::{ClassPath, EVERYTHING};
use crate::token::Token;

/// The most generations in all; beyond, the oldest is dropped. With their entries some 10 MB.
const GENERATIONS_MAX: usize = 10_000;
/// The most generations of one class; beyond, its oldest is dropped.
const GENERATIONS_PER_CLASS_MAX: usize = 4;
/// The most entries of a class that is kept beside its present ones; one with more gets no generation.
const GENERATION_ENTRIES_MAX: usize = 64;

/// The generations kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Generations {
    by_class: BTreeMap<Box<str>, Vec<Generation>>,
    /// All of them, oldest first; some may be gone.
    ages: VecDeque<(u64, Box<str>)>,
    count: usize,
    last: u64,
}

/// A class's entries just before a soft bump of it.
#[derive(Clone, Debug)]
struct Generation {
    number: u64,
    replaced: Time,
    entries: Entries,
}

impl Generations {
    fn push(&mut self, class: &str, entries: Entries, now: Time) {
        self.last += 1;
        let generation = Generation {
            number: self.last,
            replaced: now,
            entries,
        };
        let kept = self.by_class.entry(class.into()).or_default();
        kept.push(generation);
        self.count += 1;
        self.ages.push_back((self.last, class.into()));
        if kept.len() > GENERATIONS_PER_CLASS_MAX {
            kept.remove(0);
            self.count -= 1;
        }
        while self.count > GENERATIONS_MAX {
            self.drop_oldest();
        }
        // Those that are gone are forgotten here, at the latest when they are as many as may be kept.
        while self.ages.len() > 2 * GENERATIONS_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((number, class)) = self.ages.pop_front() else {
            return;
        };
        if let Some(kept) = self.by_class.get_mut(&class) {
            let before = kept.len();
            kept.retain(|generation| generation.number != number);
            self.count -= before - kept.len();
            if kept.is_empty() {
                self.by_class.remove(&class);
            }
        }
    }

    /// Forgets those that nobody may use any more.
    fn expire(&mut self, window: Duration, now: Time) {
        while let Some((number, class)) = self.ages.front() {
            let kept = self.by_class.get(class);
            let found = kept.and_then(|kept| kept.iter().find(|it| it.number == *number));
            if found.is_some_and(|found| found.replaced.plus(window) > now) {
                return;
            }
            self.drop_oldest();
        }
    }

    pub(super) fn drop_class(&mut self, class: &str) {
        if let Some(kept) = self.by_class.remove(class) {
            self.count -= kept.len();
        }
    }

    /// Drops those of a top-level class and of all below it.
    pub(super) fn drop_top(&mut self, top: &str) {
        if self.count == 0 {
            return;
        }
        let below = |class: &str| crate::names::covers(top, class);
        let (count, by_class) = (&mut self.count, &mut self.by_class);
        by_class.retain(|class, kept| {
            let drop = below(class);
            if drop {
                *count -= kept.len();
            }
            !drop
        });
    }

    /// Drops all: their entries name origins by indices that count no longer.
    pub(super) fn clear(&mut self) {
        self.by_class.clear();
        self.ages.clear();
        self.count = 0;
    }

    fn of(&self, path: &str) -> &[Generation] {
        self.by_class.get(path).map_or(&[], Vec::as_slice)
    }
}

impl Versions {
    /// To be called just before a bump is applied: keeps what a soft one replaces for as long as `window`, and drops what a
    /// hard one must not leave.
    pub(crate) fn keep_stale(&mut self, id: EventId, bump: &Bump, window: Duration, now: Time) {
        if window.is_zero() {
            return;
        }
        self.stale.expire(window, now);
        // A late bump of a retired run counts with those of others, some of them hard.
        let retired = self.retired.head(id.origin).is_some();
        let soft = bump.purge == PurgeMode::Soft && bump.matching == Match::Any && !retired;
        let origin = self.origins.intern(id.origin);
        for class in &bump.classes {
            let found = self.find(class);
            let plain = found.is_none_or(|class| class.conjunctions.is_empty());
            let entries = found.map_or_else(Entries::default, |class| class.entries.clone());
            if soft && plain && entries.len() <= GENERATION_ENTRIES_MAX {
                // One that a later bump of the same run covers replaces nothing.
                if entries.get(origin) < id.sequence {
                    self.stale.push(class.as_str(), entries, now);
                }
            } else {
                self.stale.drop_class(class.as_str());
            }
        }
    }

    /// Tokens that a value of these classes may carry that was replaced by soft bumps alone, no longer ago than `window`:
    /// those before the last and before the first of them. Never the present one.
    pub(crate) fn stale_tokens(
        &self,
        classes: &[ClassPath],
        window: Duration,
        now: Time,
    ) -> Vec<Token> {
        if window.is_zero() || self.stale.count == 0 {
            return Vec::new();
        }
        let prefixes = classes.iter().flat_map(ClassPath::prefixes);
        let recent: Vec<u64> = [EVERYTHING]
            .into_iter()
            .chain(prefixes)
            .flat_map(|path| self.stale.of(path))
            .filter(|generation| generation.replaced.plus(window) > now)
            .map(|generation| generation.number)
            .collect();
        let present = self.token(classes, None);
        let mut tokens: Vec<Token> = Vec::new();
        for before in [recent.iter().max(), recent.iter().min()] {
            let Some(&before) = before else { break };
            let token = self.token_of(classes, None, |path| {
                let kept = self.stale.of(path).iter();
                let mut since = kept.filter(|generation| generation.number >= before);
                since.next().map(|generation| &generation.entries)
            });
            if token != present && !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }
}

#[cfg(test)]
mod tests;
