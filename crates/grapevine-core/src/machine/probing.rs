//! When members are asked for grants (`freshness`): a matter of cost, not of safety.
//!
//! A member is asked anew after a quarter of `max_staleness`, for where messages are lost a grant that comes late is soon
//! over. A *steady* one has answered at once so often in a row that nothing is lost between the two: it is asked after half,
//! and whoever it asks asks back with the answer, for both go in one packet.
//!
//! Among many, each hears hundreds of answers a second, and what is lost anywhere shows soon. Where none of so many was late a member is
//! taken for steady sooner: where all of a cluster starts anew the first pace would be most of what that costs.

use std::time::Duration;

use crate::id::Time;

/// How many questions in a row a member answers at once before it is asked less often. Where one message in five is lost, that
/// happens to one series in a thousand.
const STEADY: u32 = 16;
/// The same while nothing is late anywhere.
const STEADY_IN_CALM: u32 = 6;
/// How many answers in a row, of whichever members, make a calm: what sixteen members give until each of them is steady by itself, so
/// that among fewer nothing is gained. Where one message in a hundred is lost, that happens to fewer than one
/// series in a hundred.
const CALM: u32 = 16 * STEADY;
/// How soon after a probe gossip may call for the next one.
const PROBE_AGAIN: Duration = Duration::from_millis(50);

/// Times between questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// After a question.
    again: Duration,
    /// After a question that a steady member has answered.
    steady: Duration,
    /// An answer that took longer tells of a network that loses packets, or of a busy member.
    prompt: Duration,
    /// How much longer one waits who asked with an answer: the other one is the first to ask then, and both do not.
    follow: Duration,
    /// How many answers at once make a member steady.
    answers: u32,
}

impl Pace {
    pub(super) fn of(max_staleness: Duration) -> Self {
        Self {
            again: max_staleness / 4,
            steady: max_staleness / 2,
            prompt: max_staleness / 16,
            follow: max_staleness / 8,
            answers: STEADY,
        }
    }

    /// The same where so many answers in a row came at once, of whichever members.
    pub(super) fn after(self, calm: Calm) -> Self {
        let answers = if calm.0 >= CALM {
            STEADY_IN_CALM
        } else {
            STEADY
        };
        Self { answers, ..self }
    }

    /// The same for who can be granted nothing yet, so that its questions only tell and ask who is where.
    pub(super) fn in_vain(self) -> Self {
        Self {
            again: self.steady,
            ..self
        }
    }
}

/// How many answers in a row came at once, of whichever members; counted no further than matters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calm(u32);

impl Calm {
    /// One more question was answered at once, or was not.
    pub(super) fn note(&mut self, prompt: bool) {
        self.0 = if prompt { CALM.min(self.0 + 1) } else { 0 };
    }
}

/// When a member was asked, and how it answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    last: Time,
    next: Time,
    /// Whether it was asked together with being answered, so that it is likely to be the first to ask again.
    follows: bool,
    /// How many questions in a row it answered at once.
    prompt: u32,
    /// Whether it has not answered the last one.
    open: bool,
}

impl Probing {
    /// A member that is to be asked now.
    pub(super) fn start(now: Time) -> Self {
        Self {
            last: Time::ZERO,
            next: now,
            follows: false,
            prompt: 0,
            open: false,
        }
    }

    /// It is asked. Whatever it was asked before it has had its time to answer: tells whether it has not.
    pub(super) fn ask(&mut self, now: Time, pace: Pace) -> bool {
        let missed = self.open && now.since(self.last) > pace.prompt;
        if missed {
            self.prompt = 0;
        }
        (self.last, self.next, self.follows) = (now, now.plus(pace.again), false);
        self.open = true;
        missed
    }

    /// That went together with an answer.
    pub(super) fn asked_back(&mut self) {
        self.follows = true;
    }

    /// It answered what it was asked then, with a grant that counts already or not: tells whether at once.
    pub(super) fn answered(&mut self, asked: Time, counts: bool, now: Time, pace: Pace) -> bool {
        self.open &= asked != self.last;
        let prompt = now.since(asked) <= pace.prompt;
        if !counts || !prompt {
            self.prompt = 0;
            return prompt;
        }
        self.prompt = self.prompt.saturating_add(1);
        if self.is_steady(pace) {
            let follow = if self.follows {
                pace.follow
            } else {
                Duration::ZERO
            };
            self.next = self.next.max(asked.plus(pace.steady + follow));
        }
        prompt
    }

    /// When it is to be asked again.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Whether it is to be asked together with one that is due: it is due soon, not likely to ask first, nor about to answer.
    /// With half of the time between questions all members come to be due at one moment.
    pub(super) fn is_due_soon(&self, now: Time, pace: Pace) -> bool {
        let between = if self.is_steady(pace) {
            pace.steady
        } else {
            pace.again
        };
        let rests = self.follows || now < self.last.plus(pace.prompt);
        !rests && self.next <= now.plus(between / 2)
    }

    /// Whether it may be asked together with being answered: unless it was asked lately.
    pub(super) fn may_ask_back(&self, now: Time, pace: Pace) -> bool {
        self.is_steady(pace) && now >= self.last.plus(pace.again)
    }

    /// Whether it may be asked although it is not due, for gossip tells of news.
    pub(super) fn may_ask_again(&self, now: Time) -> bool {
        now >= self.last.plus(PROBE_AGAIN)
    }

    /// Whether it answered the last question at once.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt > 0
    }

    fn is_steady(&self, pace: Pace) -> bool {
        self.prompt >= pace.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_STALENESS: Duration = Duration::from_secs(2);

    fn at(millis: u64) -> Time {
        Time::from_start(Duration::from_millis(millis))
    }

    fn steady(pace: Pace) -> Probing {
        let mut probing = Probing::start(at(0));
        for second in 0..u64::from(STEADY) {
            probing.ask(at(second * 1_000), pace);
            probing.answered(at(second * 1_000), true, at(second * 1_000 + 5), pace);
        }
        assert!(probing.is_steady(pace));
        probing
    }

    #[test]
    fn g7_who_does_not_answer_or_answers_late_is_steady_no_longer() {
        let pace = Pace::of(MAX_STALENESS);
        let mut probing = steady(pace);
        probing.ask(at(60_000), pace);
        // News of gossip has it asked again, before it could answer.
        probing.ask(at(60_050), pace);
        assert!(probing.is_steady(pace));
        probing.ask(at(60_550), pace);
        assert!(!probing.is_steady(pace), "it has not answered");
        let mut probing = steady(pace);
        probing.ask(at(60_000), pace);
        // What TCP has sent once more comes after 200 ms at the least.
        probing.answered(at(60_000), true, at(60_200), pace);
        assert!(!probing.is_steady(pace), "it was late");
        assert_eq!(probing.next(), at(60_500));
        let mut probing = steady(pace);
        probing.ask(at(60_000), pace);
        probing.answered(at(60_000), false, at(60_005), pace);
        assert!(!probing.is_steady(pace), "its grant did not count");
    }

    #[test]
    fn g7_where_nothing_is_late_anywhere_a_member_is_steady_sooner_and_not_once_something_is() {
        let (mut calm, pace) = (Calm::default(), Pace::of(MAX_STALENESS));
        let mut probing = Probing::start(at(0));
        for second in 0..u64::from(STEADY_IN_CALM) {
            assert!(!probing.ask(at(second * 1_000), pace));
            assert!(probing.answered(at(second * 1_000), true, at(second * 1_000 + 5), pace));
        }
        (1..CALM).for_each(|_| calm.note(true));
        assert!(!probing.is_steady(pace.after(calm)));
        (0..9).for_each(|_| calm.note(true));
        assert!(probing.is_steady(pace.after(calm)));
        // Whichever member it was that did not answer at once.
        let mut other = Probing::start(at(0));
        other.ask(at(60_000), pace);
        calm.note(other.answered(at(60_000), true, at(60_200), pace));
        assert!(!probing.is_steady(pace.after(calm)));
        (0..CALM).for_each(|_| calm.note(true));
        other.ask(at(61_000), pace);
        assert!(other.ask(at(62_000), pace), "it has not answered");
    }
}
