//! The classic text commands, one line (and value) in, an answer out. `get` and `gets` are the session's, because
//! their answers may be large.

use bytes::Bytes;
use grapevine_cache::KEY_BYTES_MAX;
use tokio::time::Instant;

use super::Shared;
use super::frame::{number, words};
use super::store::{ChangeOutcome, Condition, Counted, Found, New, SetOutcome, unix_seconds};

pub(super) const ERROR: &str = "ERROR";
pub(super) const BAD_LINE: &str = "CLIENT_ERROR bad command line format";
pub(super) const BAD_DATA: &str = "CLIENT_ERROR bad data chunk";
pub(super) const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
pub(super) const OUT_OF_MEMORY: &str = "SERVER_ERROR out of memory storing object";
pub(super) const VERSION: &str = "1.6.18-grapevine";

/// An answer, and whether the connection goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A line, to which `\r\n` is added.
    Line(String),
    /// Nothing: the request said `noreply`.
    Nothing,
    /// The client said goodbye.
    Close,
}

impl From<&str> for Answer {
    fn from(line: &str) -> Self {
        Self::Line(line.to_owned())
    }
}

pub(super) fn is_key(word: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&word.len())
        && word.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

/// Obeys a line without a value.
pub(super) fn run_line(shared: &Shared, line: &[u8]) -> Answer {
    let mut words: Vec<_> = words(line).collect();
    let quiet = words.last() == Some(&&b"noreply"[..]);
    if quiet {
        words.pop();
    }
    let now = Instant::now();
    let answer = match words[..] {
        [b"delete", key] | [b"delete", key, b"0"] => with_key(key, || delete(shared, key, now)),
        [b"touch", key, exptime] => with_key(key, || touch(shared, key, exptime, now)),
        [b"incr", key, delta] => with_key(key, || count(shared, key, delta, true, now)),
        [b"decr", key, delta] => with_key(key, || count(shared, key, delta, false, now)),
        [b"flush_all"] => flush_all(shared, b"0", now),
        [b"flush_all", delay] => flush_all(shared, delay, now),
        [b"version"] => Answer::Line(format!("VERSION {VERSION}")),
        [b"verbosity", _] => "OK".into(),
        [b"stats"] => stats(shared),
        [b"quit"] => return Answer::Close,
        // A length that cannot be read; too few words are an unknown command.
        [b"set" | b"add" | b"replace", _, _, _, _]
        | [b"cas", _, _, _, _, _]
        | [b"delete", _, _] => BAD_LINE.into(),
        _ => return ERROR.into(),
    };
    if quiet { Answer::Nothing } else { answer }
}

fn with_key(key: &[u8], run: impl FnOnce() -> Answer) -> Answer {
    if is_key(key) { run() } else { BAD_LINE.into() }
}

fn delete(shared: &Shared, key: &[u8], now: Instant) -> Answer {
    match shared.store.lock().delete(key, None, now) {
        ChangeOutcome::Done => "DELETED".into(),
        ChangeOutcome::NotFound | ChangeOutcome::OtherCas => "NOT_FOUND".into(),
    }
}

fn touch(shared: &Shared, key: &[u8], exptime: &[u8], now: Instant) -> Answer {
    match number(exptime) {
        None => "CLIENT_ERROR invalid exptime argument".into(),
        Some(exptime) if shared.store.lock().touch(key, exptime, now) => "TOUCHED".into(),
        Some(_) => "NOT_FOUND".into(),
    }
}

fn count(shared: &Shared, key: &[u8], delta: &[u8], up: bool, now: Instant) -> Answer {
    let Some(delta) = number(delta) else {
        return "CLIENT_ERROR invalid numeric delta argument".into();
    };
    match shared.store.lock().count(key, delta, up, now) {
        Counted::Now(number) => Answer::Line(number.to_string()),
        Counted::NotFound => "NOT_FOUND".into(),
        Counted::NotANumber => {
            "CLIENT_ERROR cannot increment or decrement non-numeric value".into()
        }
    }
}

fn flush_all(shared: &Shared, delay: &[u8], now: Instant) -> Answer {
    match number(delay) {
        None => "CLIENT_ERROR invalid exptime argument".into(),
        Some(delay_seconds) => {
            shared.store.lock().flush_after(delay_seconds, now);
            "OK".into()
        }
    }
}

fn stats(shared: &Shared) -> Answer {
    let stats = shared.stats();
    let open = shared.config.max_connections - shared.permits.available_permits();
    let rows = [
        ("pid", std::process::id().to_string()),
        ("uptime", shared.started.elapsed().as_secs().to_string()),
        ("time", unix_seconds().to_string()),
        ("version", VERSION.to_owned()),
        ("max_connections", shared.config.max_connections.to_string()),
        ("curr_connections", open.to_string()),
        ("total_connections", stats.connections.to_string()),
        (
            "rejected_connections",
            stats.connections_refused.to_string(),
        ),
        ("cmd_get", stats.gets.to_string()),
        ("cmd_set", stats.sets.to_string()),
        ("get_hits", stats.hits.to_string()),
        ("get_misses", (stats.gets - stats.hits).to_string()),
        ("delete_hits", stats.deletes.to_string()),
        ("delete_misses", stats.delete_misses.to_string()),
        ("bytes", stats.bytes.to_string()),
        ("curr_items", stats.items.to_string()),
        ("evictions", stats.evictions.to_string()),
        ("limit_maxbytes", shared.config.max_bytes.to_string()),
        ("item_size_max", shared.config.max_value_bytes.to_string()),
    ];
    let mut text: String = rows
        .iter()
        .flat_map(|(name, value)| ["STAT ", name, " ", value, "\r\n"])
        .collect();
    text.push_str("END");
    Answer::Line(text)
}

/// Obeys `set`, `add`, `replace` or `cas`; a value of `None` was too large and is gone.
pub(super) fn run_store(shared: &Shared, line: &[u8], value: Option<Bytes>) -> Answer {
    let mut words: Vec<_> = words(line).collect();
    let quiet = words.last() == Some(&&b"noreply"[..]);
    if quiet {
        words.pop();
    }
    let answer = store(shared, &words, value);
    if quiet { Answer::Nothing } else { answer }
}

fn store(shared: &Shared, words: &[&[u8]], value: Option<Bytes>) -> Answer {
    let (command, key, flags, exptime, cas) = match *words {
        [command, key, flags, exptime, _] if command != b"cas" => {
            (command, key, flags, exptime, None)
        }
        [b"cas", key, flags, exptime, _, cas] => (&b"cas"[..], key, flags, exptime, Some(cas)),
        _ => return ERROR.into(),
    };
    let (Some(flags), Some(exptime), true) = (number(flags), number(exptime), is_key(key)) else {
        return BAD_LINE.into();
    };
    let condition = match (command, cas.map(number)) {
        (b"add", _) => Condition::Absent,
        (b"replace", _) => Condition::Present,
        (_, Some(Some(cas))) => Condition::Cas(cas),
        (_, Some(None)) => return BAD_LINE.into(),
        _ => Condition::Always,
    };
    let now = Instant::now();
    let mut store = shared.store.lock();
    let Some(value) = value else {
        store.forget_replaced(key, now);
        return TOO_LARGE.into();
    };
    let new = New {
        value,
        flags,
        exptime,
    };
    match store.set(key, new, condition, now) {
        SetOutcome::Done(_) => "STORED",
        SetOutcome::Declined => "NOT_STORED",
        SetOutcome::OtherCas => "EXISTS",
        SetOutcome::NotFound => "NOT_FOUND",
        SetOutcome::OutOfMemory => OUT_OF_MEMORY,
    }
    .into()
}

/// One key's part of the answer to `get`, or with the CAS number to `gets`.
pub(super) fn write_value(out: &mut Vec<u8>, key: &[u8], found: &Found, with_cas: bool) {
    let item = &found.item;
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.extend_from_slice(format!(" {} {}", item.flags, item.value.len()).as_bytes());
    if with_cas {
        out.extend_from_slice(format!(" {}", item.cas).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&item.value);
    out.extend_from_slice(b"\r\n");
}
