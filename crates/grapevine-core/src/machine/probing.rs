//! When members are asked for grants (`freshness`): a matter of cost, not of safety.
//!
//! A member is asked anew after a quarter of `max_staleness`, for where messages are lost a grant that comes late is soon
//! over. A *steady* one has answered at once so often in a row that nothing is lost between the two: it is asked after half,
//! and whoever it asks asks back with the answer, for both go in one packet.

use std::time::Duration;

use crate::id::Time;

/// How many questions in a row a member answers at once before it is asked less often. Where one message in five is lost, that
/// happens to one series in a thousand.
const STEADY: u32 = 16;
/// How soon after a probe gossip may call for the next one.
const PROBE_AGAIN: Duration = Duration::from_millis(50);

/// Times between questions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After a question.
    again: Duration,
    /// After a question that a steady member has answered.
    steady: Duration,
    /// An answer that took longer tells of a network that loses packets, or of a busy member.
    prompt: Duration,
    /// How much longer one waits who asked with an answer: the other one is the first to ask then, and both do not.
    follow: Duration,
}

impl Pace {
    pub(super) fn of(max_staleness: Duration) -> Self {
        Self {
            again: max_staleness / 4,
            steady: max_staleness / 2,
            prompt: max_staleness / 16,
            follow: max_staleness / 8,
        }
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

    /// It is asked. Whatever it was asked before it has had its time to answer.
    pub(super) fn ask(&mut self, now: Time, pace: Pace) {
        if self.open && now.since(self.last) > pace.prompt {
            self.prompt = 0;
        }
        (self.last, self.next, self.follows) = (now, now.plus(pace.again), false);
        self.open = true;
    }

    /// That went together with an answer.
    pub(super) fn asked_back(&mut self) {
        self.follows = true;
    }

    /// It answered what it was asked then, with a grant that counts already or not.
    pub(super) fn answered(&mut self, asked: Time, counts: bool, now: Time, pace: Pace) {
        self.open &= asked != self.last;
        if !counts || now.since(asked) > pace.prompt {
            self.prompt = 0;
            return;
        }
        self.prompt = self.prompt.saturating_add(1);
        if self.is_steady() {
            let follow = if self.follows {
                pace.follow
            } else {
                Duration::ZERO
            };
            self.next = self.next.max(asked.plus(pace.steady + follow));
        }
    }

    /// When it is to be asked again.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Whether it is to be asked together with one that is due: it is due soon, not likely to ask first, nor about to answer.
    /// With half of the time between questions all members come to be due at one moment.
    pub(super) fn is_due_soon(&self, now: Time, pace: Pace) -> bool {
        let between = if self.is_steady() {
            pace.steady
        } else {
            pace.again
        };
        let rests = self.follows || now < self.last.plus(pace.prompt);
        !rests && self.next <= now.plus(between / 2)
    }

    /// Whether it may be asked together with being answered: unless it was asked lately.
    pub(super) fn may_ask_back(&self, now: Time, pace: Pace) -> bool {
        self.is_steady() && now >= self.last.plus(pace.again)
    }

    /// Whether it may be asked although it is not due, for gossip tells of news.
    pub(super) fn may_ask_again(&self, now: Time) -> bool {
        now >= self.last.plus(PROBE_AGAIN)
    }

    /// Whether it answered the last question at once.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt > 0
    }

    fn is_steady(&self) -> bool {
        self.prompt >= STEADY
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
        assert!(probing.is_steady());
        probing
    }

    #[test]
    fn g7_who_does_not_answer_or_answers_late_is_steady_no_longer() {
        let pace = Pace::of(MAX_STALENESS);
        let mut probing = steady(pace);
        probing.ask(at(60_000), pace);
        // News of gossip has it asked again, before it could answer.
        probing.ask(at(60_050), pace);
        assert!(probing.is_steady());
        probing.ask(at(60_550), pace);
        assert!(!probing.is_steady(), "it has not answered");
        let mut probing = steady(pace);
        probing.ask(at(60_000), pace);
        // What TCP has sent once more comes after 200 ms at the least.
        probing.answered(at(60_000), true, at(60_200), pace);
        assert!(!probing.is_steady(), "it was late");
        assert_eq!(probing.next(), at(60_500));
        let mut probing = steady(pace);
        probing.ask(at(60_000), pace);
        probing.answered(at(60_000), false, at(60_005), pace);
        assert!(!probing.is_steady(), "its grant did not count");
    }
}
