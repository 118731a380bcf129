//! Grants, as each end of one keeps them.
//!
//! The giver remembers how long a peer may still call itself fresh without an event: that is what a receipt waits for,
//! also after the peer's run was superseded or the peer was forgotten. The holder counts a grant from when it asked, and
//! only once it has applied whatever the giver had.
//!
//! What the giver has is told whole where it is little. Else each change of it has a number, a question says up to which
//! one all was applied here that the giver had told, and the answer tells what has changed since: nothing that was applied is
//! ever missing again while both run, also in other views. Before there is such a number, the question has a digest of what was applied
//! here, and where that is what the giver has to tell, all of it was.

use std::collections::VecDeque;

use super::derived::Derived;
use super::effects::Span;
use crate::id::Time;
use crate::progress::{Hole, OriginHead, Progress};

/// Grants given to one peer that are remembered apart; beyond, the newest two become one that claims less and lasts
/// longer.
const GIVEN_MAX: usize = 64;
/// Questions that may still be answered; beyond, the oldest is forgotten and its answer counts for nothing.
const ASKED_MAX: usize = 8;
/// Grants whose heads are not applied; beyond, further ones are left out until the first is applied or over.
const UNAPPLIED_MAX: usize = 8;

/// Grants given to one run of a peer: this sidecar's own head in each, and until when the peer may rely on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(VecDeque<(u64, Time)>);

impl Given {
    /// Notes a grant. Heads and ends only rise.
    pub(super) fn note(&mut self, head: u64, ends: Time, now: Time) {
        self.0.retain(|(_, ends)| *ends > now);
        let full = self.0.len() >= GIVEN_MAX;
        match self.0.back_mut() {
            Some((last, until)) if *last == head || full => *until = ends.max(*until),
            _ => self.0.push_back((head, ends)),
        }
    }

    /// Whether one more is remembered apart.
    pub(super) fn has_room(&self, head: u64, now: Time) -> bool {
        let hold = self.0.iter().filter(|(_, ends)| *ends > now);
        hold.count() < GIVEN_MAX || self.0.back().is_some_and(|(last, _)| *last == head)
    }

    /// Until when the peer may call itself fresh without the event; `None` if no grant ever let it.
    pub(super) fn without(&self, sequence: u64) -> Option<Time> {
        let lacking = self.0.iter().filter(|(head, _)| *head < sequence);
        lacking.map(|(_, ends)| *ends).max()
    }

    /// The head that every grant which holds has, at least; `None` if none holds.
    pub(super) fn least_head(&self, now: Time) -> Option<u64> {
        let holds = self.0.iter().find(|(_, ends)| *ends > now);
        holds.map(|(head, _)| *head)
    }

    /// When the first of those that hold is over.
    pub(super) fn next_end(&self, now: Time) -> Option<Time> {
        self.0
            .iter()
            .map(|(_, ends)| *ends)
            .find(|ends| *ends > now)
    }

    /// Until when any of them holds.
    pub(super) fn until(&self) -> Time {
        self.0.back().map_or(Time::ZERO, |(_, ends)| *ends)
    }
}

/// What a grant tells.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) heads: Vec<OriginHead>,
    pub(super) span: Span,
    pub(super) lacked: Vec<Hole>,
}

/// A grant that counts once what it told is applied.
#[derive(Clone, Debug)]
struct Unapplied {
    ends: Time,
    told: Told,
    /// The first of its heads that was not applied when it was looked at last: nearly always it is what is still waited for.
    lacking: Derived<usize>,
}

impl Unapplied {
    fn is_applied(&mut self, progress: &Progress) -> bool {
        let Told { heads, lacked, .. } = &self.told;
        let behind = |head: &OriginHead| !progress.covers(std::slice::from_ref(head));
        let next = heads[self.lacking.0..].iter().position(behind);
        self.lacking.0 = next.map_or(heads.len(), |next| self.lacking.0 + next);
        next.is_none() && progress.covers_told(heads, lacked)
    }
}

/// Grants asked of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// By their numbers, when they were asked, and whether with a digest of what is applied here.
    open: VecDeque<(u64, Time, bool)>,
    /// Grants that count once what they told is applied, each with its end.
    unapplied: VecDeque<Unapplied>,
    /// Up to where all that the giver had told was applied here, by the giver's numbers: nothing of that has to be told again.
    base: u64,
    fresh_until: Option<Time>,
}

impl Asked {
    /// Notes a question, with a digest of what is applied here or without.
    pub(super) fn ask(&mut self, nonce: u64, now: Time, digest: bool) {
        if self.open.len() >= ASKED_MAX {
            self.open.pop_front();
        }
        self.open.push_back((nonce, now, digest));
    }

    /// Whether an answer to a question still counts.
    pub(super) fn is_open(&self, nonce: u64) -> bool {
        self.open.iter().any(|(asked, ..)| *asked == nonce)
    }

    /// When the question was asked, and whether with a digest, if it still counts. Older ones cannot be answered better.
    pub(super) fn answered(&mut self, nonce: u64) -> Option<(Time, bool)> {
        let at = self.open.iter().position(|(asked, ..)| *asked == nonce)?;
        let question = self.open.drain(..=at).next_back();
        question.map(|(_, sent, digest)| (sent, digest))
    }

    /// Notes a grant that holds until `ends`, once its heads are applied, but for what its giver lacks of closed logs.
    /// One that tells changes behind what was not applied here says too little.
    pub(super) fn note(&mut self, ends: Time, mut told: Told) {
        if self.unapplied.len() < UNAPPLIED_MAX && told.span.since <= self.base {
            told.lacked.sort_unstable();
            let lacking = Derived(0);
            self.unapplied.push_back(Unapplied {
                ends,
                told,
                lacking,
            });
        }
    }

    /// What is left of it in a new view: what was applied stays applied.
    pub(super) fn renewed(&self) -> Self {
        Self {
            base: self.base,
            ..Self::default()
        }
    }

    /// Since when the giver's heads are to be told.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Takes grants into account whose heads are applied by now. Heads only rise, so they are applied in order.
    pub(super) fn review(&mut self, progress: &Progress, now: Time) {
        while let Some(grant) = self.unapplied.front_mut() {
            if grant.is_applied(progress) {
                self.fresh_until = self.fresh_until.max(Some(grant.ends));
                self.base = self.base.max(grant.told.span.until);
            } else if grant.ends > now {
                break;
            }
            self.unapplied.pop_front();
        }
    }

    /// Until when the peer's word lets this sidecar call itself fresh.
    pub(super) fn fresh_until(&self) -> Option<Time> {
        self.fresh_until
    }

    /// Whether a grant waits for events.
    pub(super) fn waits(&self) -> bool {
        !self.unapplied.is_empty()
    }

    /// When the first grant that waits for events is over.
    pub(super) fn waits_until(&self) -> Option<Time> {
        self.unapplied.front().map(|grant| grant.ends)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use crate::id::{Incarnation, Lane};

    fn at(milliseconds: u64) -> Time {
        Time::from_start(Duration::from_millis(milliseconds))
    }

    fn told(heads: Vec<OriginHead>, span: Span) -> Told {
        let lacked = Vec::new();
        Told {
            heads,
            span,
            lacked,
        }
    }

    #[test]
    fn g11_only_what_was_applied_is_not_told_again() {
        let origin = Incarnation::new(7).unwrap();
        let head = |bump| OriginHead {
            incarnation: origin,
            bump,
            directory: 0,
        };
        let span = |since, until| Span {
            since,
            until,
            same: false,
        };
        let mut progress = Progress::default();
        let mut asked = Asked::default();
        asked.note(at(100), told(vec![head(1)], span(0, 5)));
        asked.review(&progress, at(10));
        assert_eq!(asked.base(), 0, "it was told and not applied");
        asked.note(at(110), told(Vec::new(), span(5, 6)));
        asked.review(&progress, at(105));
        assert_eq!(
            asked.fresh_until(),
            None,
            "what it rests on was not applied"
        );
        asked.note(at(120), told(vec![head(1)], span(0, 6)));
        progress.lane_mut(origin, Lane::Bump).apply(1);
        asked.review(&progress, at(105));
        assert_eq!((asked.base(), asked.fresh_until()), (6, Some(at(120))));
        let mut asked = asked.renewed();
        assert_eq!((asked.base(), asked.fresh_until()), (6, None));
        asked.note(at(130), told(Vec::new(), span(6, 6)));
        asked.review(&progress, at(105));
        assert_eq!(asked.fresh_until(), Some(at(130)));
    }

    #[test]
    fn g6_grants_given_are_bounded_and_never_understated() {
        let mut given = Given::default();
        let all: Vec<_> = (0..500).map(|n| (n / 2, at(1_000 + n))).collect();
        for &(head, ends) in &all {
            given.note(head, ends, at(500));
        }
        assert!(given.0.len() <= GIVEN_MAX);
        for sequence in 0..260 {
            let truth = all.iter().filter(|(head, _)| *head < sequence);
            let truth = truth.map(|(_, ends)| *ends).max();
            assert!(given.without(sequence) >= truth, "{sequence}");
        }
        assert_eq!(given.until(), at(1_499));
        given.note(300, at(3_000), at(2_000));
        assert_eq!(given.without(300), None);
        assert_eq!(given.without(301), Some(at(3_000)));
    }

    #[test]
    fn g11_a_grant_counts_from_its_question_and_once_its_heads_are_applied() {
        let origin = Incarnation::new(7).unwrap();
        let head = |bump| {
            vec![OriginHead {
                incarnation: origin,
                bump,
                directory: 9,
            }]
        };
        let mut progress = Progress::default();
        let mut asked = Asked::default();
        (1..=9).for_each(|nonce| asked.ask(nonce, at(nonce), nonce % 2 == 0));
        assert_eq!(asked.answered(1), None, "forgotten");
        assert_eq!(asked.answered(4), Some((at(4), true)));
        assert_eq!(asked.answered(3), None, "a later one was answered");
        asked.note(at(100), told(head(1), Span::default()));
        asked.note(at(120), told(head(2), Span::default()));
        asked.review(&progress, at(10));
        assert_eq!(asked.fresh_until(), None);
        progress.lane_mut(origin, Lane::Bump).apply(1);
        asked.review(&progress, at(10));
        assert_eq!(
            asked.fresh_until(),
            Some(at(100)),
            "new heads do not hold up older ones"
        );
        asked.review(&progress, at(130));
        assert!(!asked.waits(), "a grant that is over waits for nothing");
    }
}
