//! Limits at work, told once a burst.
//!
//! At a limit Grapevine invalidates more than was asked, or refuses a call; it never forgets (G10). Counters say how often. A
//! log line for each time would be a flood on top of a flood, so only the first of a *burst* is logged, with the limit and the
//! top-level class that it concerns where there is one; then how many there were, when nothing came for [`QUIET`] or, while
//! it lasts, every [`LONGEST`]. The burst of one class says nothing of another's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::warn;

/// How long nothing has to come for a burst to be over.
const QUIET: Duration = Duration::from_secs(10);
/// How long a burst may last until it is summed up and another one begins.
const LONGEST: Duration = Duration::from_mins(1);
/// Bursts followed at a time; what comes beyond is one under the class [`OTHERS`], for each limit.
const BURSTS_MAX: usize = 256;
const OTHERS: &str = "(others)";

#[derive(Debug)]
struct Burst {
    since: Instant,
    last: Instant,
    count: u64,
}

/// The bursts under way, by the limit, what was done about it and the top-level class, which is empty where the limit is no
/// class's.
#[derive(Debug, Default)]
pub(super) struct Bursts(BTreeMap<(&'static str, &'static str, String), Burst>);

impl Bursts {
    /// A limit was met so many times: `what` says what was done about it.
    pub(super) fn note(
        &mut self,
        (limit, class): (&'static str, &str),
        what: &'static str,
        count: u64,
        now: Instant,
    ) {
        let mut key = (limit, what, class.to_owned());
        if !self.0.contains_key(&key) && self.0.len() >= BURSTS_MAX {
            OTHERS.clone_into(&mut key.2);
        }
        if let Some(burst) = self.0.get_mut(&key) {
            burst.last = now;
            burst.count += count;
            return;
        }
        let class = &key.2;
        warn!(limit, class, "a limit is reached: {what}");
        let (since, last) = (now, now);
        self.0.insert(key, Burst { since, last, count });
    }

    /// Sums up what is over, or lasts.
    pub(super) fn review(&mut self, now: Instant) {
        self.0.retain(|(limit, what, class), burst| {
            let over = now - burst.last >= QUIET || now - burst.since >= LONGEST;
            if over && burst.count > 1 {
                let (count, seconds) = (burst.count, (burst.last - burst.since).as_secs());
                warn!(
                    limit,
                    class, count, seconds, "a limit was reached so often in this burst: {what}"
                );
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that something logs.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn seconds(since: Instant) -> impl Fn(u64) -> Instant {
        move |seconds| since + Duration::from_secs(seconds)
    }

    const KEY: &str = "limits.classes_per_top_max";

    #[test]
    fn g10_a_flood_is_logged_once_a_burst_and_counted() {
        let lines = logged(|| {
            let mut bursts = Bursts::default();
            let at = seconds(Instant::now());
            for n in 0..100_000 {
                bursts.note((KEY, "carts"), "a bucket was swallowed", 1, at(n / 10_000));
                bursts.review(at(n / 10_000));
            }
            bursts.note((KEY, "users"), "a bucket was swallowed", 1, at(9));
            bursts.review(at(18));
            bursts.review(at(19));
            bursts.note((KEY, "carts"), "a bucket was swallowed", 1, at(20));
        });
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(
            lines[0].contains("carts") && lines[0].contains(KEY),
            "{lines:#?}"
        );
        assert!(lines[1].contains("users"), "{lines:#?}");
        assert!(
            lines[2].contains("carts") && lines[2].contains("100000"),
            "{lines:#?}"
        );
        assert!(lines[3].contains("carts"), "a burst of its own: {lines:#?}");
    }

    #[test]
    fn g10_a_burst_that_lasts_is_summed_up_each_minute() {
        let lines = logged(|| {
            let mut bursts = Bursts::default();
            let at = seconds(Instant::now());
            for second in 0..150 {
                bursts.note((KEY, "carts"), "a bucket was swallowed", 2, at(second));
                bursts.review(at(second));
            }
        });
        let sums = lines
            .iter()
            .filter(|line| line.contains("so often"))
            .count();
        assert_eq!((lines.len(), sums), (5, 2), "{lines:#?}");
    }

    #[test]
    fn g10_bursts_are_bounded() {
        let lines = logged(|| {
            let mut bursts = Bursts::default();
            let at = seconds(Instant::now());
            for n in 0..10_000 {
                bursts.note((KEY, &format!("c{n}")), "a bump was refused", 1, at(0));
            }
            assert_eq!(bursts.0.len(), BURSTS_MAX + 1);
        });
        assert_eq!(lines.len(), BURSTS_MAX + 1);
    }
}
