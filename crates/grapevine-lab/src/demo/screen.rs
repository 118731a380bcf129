//! What the demo writes: plain lines, with colours and a moving bar where a terminal looks on; nothing where a script wants the
//! figures only.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::print;

const WIDTH: usize = 100;

const MARGIN: &str = "   ";

/// Standard output, and the bar on standard error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    fancy: bool,
    silent: bool,
    margin: &'static str,
}

impl Screen {
    pub(crate) fn new(fancy: bool) -> Self {
        Self {
            fancy,
            silent: false,
            margin: MARGIN,
        }
    }

    pub(crate) fn silent() -> Self {
        Self {
            silent: true,
            ..Self::new(false)
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.fancy {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A chapter.
    pub(crate) fn heading(self, name: &str, about: &str) {
        if self.silent {
            return;
        }
        let rule = "─".repeat(WIDTH.saturating_sub(name.chars().count() + 4));
        print(format_args!(
            "\n{}",
            self.paint("1;36", &format!("── {name} {rule}"))
        ));
        if !about.is_empty() {
            self.line(&self.paint("2", about));
        }
    }

    /// A line of the story.
    pub(crate) fn line(self, text: &str) {
        if !self.silent {
            print(format_args!("{}{text}", self.margin));
        }
    }

    /// Text that has lines of its own.
    pub(crate) fn block(self, text: impl Display) {
        if !self.silent {
            print(text);
        }
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn code(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// A number that should be 0.
    pub(crate) fn verdict(self, number: u64) -> String {
        self.paint(if number == 0 { "1;32" } else { "1;31" }, &count(number))
    }

    /// Good or bad news.
    pub(crate) fn news(self, good: bool, text: &str) -> String {
        self.paint(if good { "1;32" } else { "1;31" }, text)
    }

    /// A bar of `length` ticks; hidden where nobody looks on.
    pub(crate) fn bar(self, length: u64) -> ProgressBar {
        if !self.fancy {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(length);
        let style = ProgressStyle::with_template("   {bar:20.green/black} {msg}");
        bar.set_style(style.expect("invariant: the template is well-formed"));
        bar
    }
}

/// A number of things, the things named in singular.
pub(crate) fn things(number: u64, thing: &str) -> String {
    let ending = match (number, thing.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {thing}{ending}", count(number))
}

/// A number with its thousands apart.
pub(crate) fn count(number: impl Display) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// A part in per cent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let per_mille = u128::from(part) * 1_000 / u128::from(whole);
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234), "1,234");
        assert_eq!(count(123_456_789), "123,456,789");
        assert_eq!(things(1, "event"), "1 event");
        assert_eq!(things(0, "event"), "0 events");
        assert_eq!(things(1_500, "address"), "1,500 addresses");
        assert_eq!(percent(933, 1_000), "93.3 %");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(ms(Duration::from_micros(1_234)), "1.2 ms");
        assert_eq!(ms(Duration::from_millis(1_234)), "1234 ms");
    }

    #[test]
    fn plain_lines_have_no_colours() {
        assert_eq!(Screen::new(false).strong("a"), "a");
        assert_eq!(Screen::new(true).strong("a"), "\x1b[1ma\x1b[0m");
    }
}
