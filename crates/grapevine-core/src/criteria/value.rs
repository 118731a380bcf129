//! Values of columns, in a form in which whatever a database may call equal is the same.
//!
//! Applications give one value in many ways: `5`, `5.0` and `'5'`; `true` and `1`; `'Books'` and `'books '`, which are the same
//! to MySQL. What a column's type is, nobody tells. So the normal form joins all that any column type of the dialect would call
//! equal, as far as a literal of the column's own type is compared. It errs on one side only: values that the database tells apart may
//! have one form, which invalidates more; values that it does not tell apart never have two.

use std::fmt;
use std::sync::Arc;

/// Whose rules say which values are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL: text as it is, but for spaces at its end; columns of type `citext` or with nondeterministic collations
    /// are not supported.
    #[default]
    Postgres,
    /// MySQL and its relatives: text without regard to case and to spaces at its end.
    MySql,
    /// SQLite: by default text as it is, but a column may be declared `COLLATE NOCASE` or `RTRIM`, so without regard to
    /// ASCII case and to spaces at its end.
    Sqlite,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::MySql, Self::Sqlite];

    /// Its name, as configuration and calls write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::Sqlite => "sqlite",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value as an application or a statement gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw<'a> {
    /// NULL.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer above the range of the other.
    Uint(u64),
    /// A floating-point number, or one that is close enough to the decimal that was meant.
    Float(f64),
    /// Text; also decimals, dates, times and UUIDs, in their usual notation.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl Raw<'_> {
    /// Whether whatever else has this value's normal form is the same value to the database, of whatever type its column is: nobody's rows are
    /// taken for another's then. Not so of `05`, which is the number 5 and another text than `5`, and of integers that floats do not tell apart.
    /// Letters' case counts as [`Dialect`] says.
    pub fn is_alone(self, dialect: Dialect) -> bool {
        const EXACT: u64 = 1 << 53;
        match self {
            Self::Null | Self::Bool(_) | Self::Float(_) => true,
            Self::Int(value) => value.unsigned_abs() <= EXACT,
            Self::Uint(value) => value <= EXACT,
            Self::Bytes(bytes) => {
                dialect == Dialect::Postgres || std::str::from_utf8(bytes).is_err()
            }
            Self::Text(given) => match Datum::of(dialect, self).map(|datum| datum.value) {
                Some(Value::Text(text)) => dialect != Dialect::Postgres || *text == *given,
                Some(value) => value.to_string() == given,
                None => false,
            },
        }
    }
}

/// A value's normal form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// NULL, which `IS NULL` looks for and no comparison finds.
    Null,
    /// A number, or text that reads as one, as the bits of its closest 64-bit float.
    Number(u64),
    /// A date, or a date and time, in microseconds since 1970; without a zone it counts as UTC.
    Time(i64),
    /// Text.
    Text(Arc<str>),
    /// Bytes that are no text.
    Bytes(Arc<[u8]>),
}

/// What a value may be compared with by `<` and `>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Numbers.
    Number,
    /// Dates and times.
    Time,
}

/// A value, and how it is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Datum {
    /// Its normal form.
    pub value: Value,
    /// Among which values; `None` where that depends on more than is known here: text is ordered by collations.
    pub order: Option<Order>,
}

impl Datum {
    /// NULL, which is in no order.
    pub const NULL: Self = Self {
        value: Value::Null,
        order: None,
    };

    /// The normal form of a value; `None` where it cannot be told what the database calls equal to it.
    pub fn of(dialect: Dialect, raw: Raw<'_>) -> Option<Self> {
        let datum = match raw {
            Raw::Null => Self::NULL,
            Raw::Bool(value) => number(f64::from(u8::from(value))),
            #[expect(clippy::cast_precision_loss, reason = "coarser, and in order")]
            Raw::Int(value) => number(value as f64),
            #[expect(clippy::cast_precision_loss, reason = "coarser, and in order")]
            Raw::Uint(value) => number(value as f64),
            Raw::Float(value) => number(value),
            Raw::Text(value) => return text(dialect, value),
            Raw::Bytes(value) => return bytes(dialect, value),
        };
        Some(datum)
    }
}

impl Value {
    fn of_number(value: f64) -> Self {
        // One zero, and one that is no number.
        let value = if value.is_nan() {
            f64::NAN
        } else {
            value + 0.0
        };
        Self::Number(value.to_bits())
    }

    /// Where it lies in its order, if it is in one: positions rise with numbers, and with times, but for what is too close together.
    /// Numbers below 2^42 are in steps of 2^-20, larger ones in those of floats; times in microseconds.
    pub(super) fn position(&self) -> Option<u64> {
        const MIDDLE: u64 = 1 << 63;
        match self {
            Self::Number(_) => {
                let number = self.number().filter(|number| !number.is_nan());
                let Some(number) = number else {
                    return Some(u64::MAX);
                };
                let distance = distance(number.abs());
                Some(if number < 0.0 {
                    MIDDLE - distance
                } else {
                    MIDDLE + distance
                })
            }
            Self::Time(micros) => Some(micros.cast_unsigned() ^ MIDDLE),
            Self::Null | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    /// The value at a position; `None` at the ends of the axis.
    pub(super) fn at(order: Order, position: u64) -> Option<Self> {
        const MIDDLE: u64 = 1 << 63;
        if matches!(position, 0 | u64::MAX) {
            return None;
        }
        Some(match order {
            Order::Number if position >= MIDDLE => Self::of_number(magnitude(position - MIDDLE)),
            Order::Number => Self::of_number(-magnitude(MIDDLE - position)),
            Order::Time => Self::Time((position ^ MIDDLE).cast_signed()),
        })
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Number(_) | Self::Time(_) => size_of::<u64>(),
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// The number that is meant, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(bits) => Some(f64::from_bits(*bits)),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Number(_) => {
                let number = self.number().expect("invariant: it is a number");
                if let Some(whole) = small_whole(number) {
                    return write!(f, "{whole}");
                }
                let shown = format!("{number:?}");
                f.write_str(shown.strip_suffix(".0").unwrap_or(&shown))
            }
            Self::Time(micros) => time::show(*micros, f),
            Self::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Bytes(bytes) => {
                f.write_str("x'")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}

/// A number as an integer where it is one and not large, which most are: those are written faster, and as the same text.
fn small_whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = 1e15;
    let whole = number.fract() == 0.0 && number.abs() < LIMIT;
    let negative_zero = number == 0.0 && number.is_sign_negative();
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
    (whole && !negative_zero).then_some(number as i64)
}

/// From here on positions of numbers are in the steps of floats.
const EVEN_TO: f64 = 4_398_046_511_104.0;
/// Positions between two integers below that.
const STEPS: f64 = 1_048_576.0;

/// How far from zero a number's position is: below 2^63.
fn distance(magnitude: f64) -> u64 {
    if magnitude < EVEN_TO {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive and below 2^62; what is below a step is left out"
        )]
        return (magnitude * STEPS) as u64;
    }
    (1 << 62) + (magnitude.to_bits() - EVEN_TO.to_bits())
}

/// The number that is so far from zero: the inverse of [`distance`], but for what that leaves out.
fn magnitude(distance: u64) -> f64 {
    match distance.checked_sub(1 << 62) {
        Some(above) => f64::from_bits(above + EVEN_TO.to_bits()),
        #[expect(clippy::cast_precision_loss, reason = "it is shown to people")]
        None => distance as f64 / STEPS,
    }
}

fn number(value: f64) -> Datum {
    Datum {
        value: Value::of_number(value),
        order: Some(Order::Number),
    }
}

fn text(dialect: Dialect, given: &str) -> Option<Datum> {
    // MySQL passes over them, SQLite where a column is declared so, PostgreSQL in columns of type `char(n)`.
    let given = given.trim_end_matches(' ');
    // Before numbers: its digits may all be decimal, with hyphens or without.
    if let Some(uuid) = uuid(given).filter(|_| dialect == Dialect::Postgres) {
        return Some(plain(Value::Text(uuid.into())));
    }
    if let Some(value) = reads_as_number(given) {
        // SQLite orders text in a column of text as text, whatever it is compared with.
        let order = (dialect != Dialect::Sqlite).then_some(Order::Number);
        let value = Value::of_number(value);
        return Some(Datum { value, order });
    }
    if let Some(micros) = time::parse(given) {
        let (value, order) = (Value::Time(micros), Some(Order::Time));
        return Some(Datum { value, order });
    }
    // Their columns of dates and times take other notations, too. In a column of text these are in another order.
    if dialect != Dialect::Sqlite {
        if let Some(micros) = time::parse_loosely(given) {
            return Some(plain(Value::Time(micros)));
        }
        if let Some(of_day) = time::of_day(given) {
            return Some(plain(Value::of_number(of_day)));
        }
    }
    let folded = match dialect {
        Dialect::Postgres => {
            if let Some(truth) = reads_as_bool(given) {
                return Datum::of(dialect, Raw::Bool(truth));
            }
            if let Some(bytes) = hex(given) {
                return Some(plain(Value::Bytes(bytes.into())));
            }
            given.to_owned()
        }
        // Its collations call letters equal that differ in accents, and pass over some characters: ASCII is what is sure.
        Dialect::MySql if !given.bytes().all(|byte| matches!(byte, b' '..=b'~')) => return None,
        Dialect::MySql | Dialect::Sqlite => given.to_ascii_lowercase(),
    };
    Some(plain(Value::Text(folded.into())))
}

fn bytes(dialect: Dialect, given: &[u8]) -> Option<Datum> {
    match dialect {
        Dialect::Postgres => Some(plain(Value::Bytes(given.into()))),
        // MySQL takes bytes for text where it compares them with text.
        Dialect::MySql | Dialect::Sqlite => match std::str::from_utf8(given) {
            Ok(given) => text(dialect, given),
            Err(_) => Some(plain(Value::Bytes(given.into()))),
        },
    }
}

/// What is in no order.
fn plain(value: Value) -> Datum {
    Datum { value, order: None }
}

/// A number in decimal notation, or one of the special ones by its name, perhaps with spaces around it.
fn reads_as_number(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let of_numbers = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let named = [
        "nan",
        "inf",
        "+inf",
        "-inf",
        "infinity",
        "+infinity",
        "-infinity",
    ];
    if text.bytes().all(of_numbers) || named.contains(&text.to_ascii_lowercase().as_str()) {
        text.parse().ok()
    } else {
        None
    }
}

/// What PostgreSQL takes for a boolean: a prefix of these words that is one of one only.
fn reads_as_bool(text: &str) -> Option<bool> {
    let text = text
        .trim_matches(|c: char| c.is_ascii_whitespace())
        .to_ascii_lowercase();
    match text.as_str() {
        "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" => Some(true),
        "f" | "fa" | "fal" | "fals" | "false" | "n" | "no" | "of" | "off" => Some(false),
        _ => None,
    }
}

/// Bytes as PostgreSQL writes them: `\x6869`.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    let digits: Vec<_> = digits
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    let pair = |pair: &[u8; 2]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    rest.is_empty()
        .then(|| pairs.iter().map(pair).collect())
        .flatten()
}

/// A UUID in its usual notation, if it is one: in either case, in braces, with hyphens after any four digits or none.
fn uuid(text: &str) -> Option<String> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let digits: String = inner.chars().filter(|c| *c != '-').collect();
    let is_one = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| digits.to_ascii_lowercase())
}

mod time {
    //! Dates and times in ISO 8601's notation, as databases print them.

    use std::fmt;

    /// `YYYY-MM-DD`, and ` hh:mm:ss` and a fraction if they are not zero.
    pub(super) fn show(micros: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
        // Of the days since the first of March of year 0, in eras of 400 years; see `days`.
        let days = days + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = (from_march + 2) % 12 + 1;
        let year = year + era * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")?;
        if rest != 0 {
            let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
            let (minutes, second) = (seconds / 60, seconds % 60);
            write!(f, " {:02}:{:02}:{second:02}", minutes / 60, minutes % 60)?;
            if fraction != 0 {
                write!(f, ".{fraction:06}")?;
            }
        }
        Ok(())
    }

    const DAY: i64 = 86_400_000_000;

    /// The same as [`parse`] where month, day, hour, minute or second have one digit, or the date has `/` or `.` in place of its hyphens.
    pub(super) fn parse_loosely(text: &str) -> Option<i64> {
        let text = text.trim_matches(' ');
        let at = text.find([' ', 'T']).unwrap_or(text.len());
        let (date, of_day) = text.split_at(at);
        let mut parts = date.split(['-', '/', '.']);
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let is_date = parts.next().is_none() && year.len() == 4;
        let of_day = padded(of_day);
        is_date.then(|| parse(&format!("{year}-{month:0>2}-{day:0>2}{of_day}")))?
    }

    /// The same, with two digits where there is one before or behind a colon.
    fn padded(of_day: &str) -> String {
        let bytes = of_day.as_bytes();
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let mut padded = String::with_capacity(of_day.len() + 3);
        for (at, letter) in of_day.char_indices() {
            let alone = digit(at) && (at == 0 || !digit(at - 1)) && !digit(at + 1);
            let of_a_time = bytes.get(at + 1) == Some(&b':') || at > 0 && bytes[at - 1] == b':';
            if alone && of_a_time {
                padded.push('0');
            }
            padded.push(letter);
        }
        padded
    }

    /// A time of day, or MySQL's time of more than one, as the number that MySQL takes for it: `9:05` and `09:05:00` are 90,500. A
    /// zone is passed over: that joins times that differ.
    pub(super) fn of_day(text: &str) -> Option<f64> {
        let text = text.trim_matches(' ');
        let (sign, text) = match text.strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text),
        };
        // MySQL's days, which come before it.
        let (days, text) = match text.split_once(' ') {
            Some((days, rest)) if days.bytes().all(|it| it.is_ascii_digit()) => (days, rest),
            _ => ("0", text),
        };
        let end = text.find(['+', '-', 'Z', 'z', ' ']).unwrap_or(text.len());
        let (text, zone) = text.split_at(end);
        let of_zones = |byte: u8| byte.is_ascii_digit() || b"+-Zz: ".contains(&byte);
        let mut parts = text.split(':');
        let (hours, minutes) = (parts.next()?, parts.next()?);
        let seconds = parts.next().unwrap_or("0");
        let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let is_one = parts.next().is_none()
            && zone.bytes().all(of_zones)
            && [
                (days, 2),
                (hours, 3),
                (minutes, 2),
                (whole, 2),
                (fraction, 9),
            ]
            .iter()
            .all(|(part, most)| {
                (1..=*most).contains(&part.len()) && part.bytes().all(|it| it.is_ascii_digit())
            });
        let number = |part: &str| part.parse::<u64>().ok();
        is_one.then(|| {
            // Both round to microseconds; and 60 seconds, or what is rounded to them, are a minute.
            let fraction = format!("0.{fraction}").parse::<f64>().ok()?;
            let micros = (fraction * 1e6).round();
            let seconds = number(whole)? + u64::from(micros >= 1e6);
            let minutes = number(minutes)? + seconds / 60;
            let hours = number(days)? * 24 + number(hours)? + minutes / 60;
            let whole = hours * 10_000 + minutes % 60 * 100 + seconds % 60;
            let text = format!("{whole}.{:06}", micros % 1e6);
            text.parse::<f64>().ok().map(|it| sign * it)
        })?
    }

    /// Microseconds since 1970 of `YYYY-MM-DD`, optionally followed by `T` or a space and `hh:mm`, `:ss`, a fraction, and a zone
    /// (`Z`, `+hh`, `+hhmm`, `+hh:mm`); `None` if it is not exactly that.
    pub(super) fn parse(text: &str) -> Option<i64> {
        let mut rest = text.trim_matches(' ').as_bytes();
        let year = digits(&mut rest, 4)?;
        expect(&mut rest, b"-")?;
        let month = digits(&mut rest, 2)?;
        expect(&mut rest, b"-")?;
        let day = digits(&mut rest, 2)?;
        let days = days(year, month, day)?;
        let mut micros = 0;
        if expect(&mut rest, b"T ").is_some() {
            let hour = digits(&mut rest, 2).filter(|hour| *hour <= 24)?;
            expect(&mut rest, b":")?;
            let minute = digits(&mut rest, 2).filter(|minute| *minute < 60)?;
            let mut second = 0;
            if expect(&mut rest, b":").is_some() {
                second = digits(&mut rest, 2).filter(|second| *second <= 60)?;
                if expect(&mut rest, b".").is_some() {
                    micros = fraction(&mut rest)?;
                }
            }
            micros += ((hour * 60 + minute) * 60 + second) * 1_000_000;
            micros -= zone(&mut rest)? * 1_000_000;
        }
        rest.is_empty().then_some(days * DAY + micros)
    }

    fn expect(rest: &mut &[u8], any: &[u8]) -> Option<u8> {
        let (first, after) = rest.split_first()?;
        any.contains(first).then(|| *rest = after)?;
        Some(*first)
    }

    fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
        let (taken, after) = rest.split_at_checked(count)?;
        let value = taken.iter().try_fold(0, |value, byte| {
            byte.is_ascii_digit()
                .then(|| value * 10 + i64::from(byte - b'0'))
        })?;
        *rest = after;
        Some(value)
    }

    /// In microseconds, rounded as databases do.
    fn fraction(rest: &mut &[u8]) -> Option<i64> {
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (taken, after) = rest.split_at(count);
        *rest = after;
        let padded = taken.iter().copied().chain(std::iter::repeat(b'0'));
        let micros = padded
            .take(6)
            .fold(0, |value, byte| value * 10 + i64::from(byte - b'0'));
        let up = taken.get(6).is_some_and(|next| *next >= b'5');
        (count > 0).then_some(micros + i64::from(up))
    }

    /// Seconds east of Greenwich.
    fn zone(rest: &mut &[u8]) -> Option<i64> {
        let Some(sign) = expect(rest, b"+-Zz") else {
            return Some(0);
        };
        if matches!(sign, b'Z' | b'z') {
            return Some(0);
        }
        let hours = digits(rest, 2).filter(|hours| *hours <= 15)?;
        let minutes = if rest.is_empty() {
            0
        } else {
            let _ = expect(rest, b":");
            digits(rest, 2).filter(|minutes| *minutes < 60)?
        };
        let seconds = (hours * 60 + minutes) * 60;
        Some(if sign == b'-' { -seconds } else { seconds })
    }

    /// Days since 1970 in the Gregorian calendar, by Howard Hinnant's `days_from_civil`.
    fn days(year: i64, month: i64, day: i64) -> Option<i64> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        if !(1..=length).contains(&day) {
            return None;
        }
        let shifted = year - i64::from(month <= 2);
        let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
    }
}
