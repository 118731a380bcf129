//! The meta commands `mg`, `ms`, `md` and `mn`.
//!
//! Flags are letters, some with a value right behind. `k` and `O<token>` come back in every answer; `q` hides the answer
//! that is to be expected (absent for `mg`, stored for `ms`, deleted or absent for `md`).
//!
//! * `mg`: `v` value, `f` client flags, `s` size, `t` seconds left (-1: no end), `c` CAS number, `T<exptime>` new end.
//!   A stale item's answer carries `X`, and `W` for the one who is to replace it or `Z` for the others.
//! * `ms <key> <length>`: `F<flags>`, `T<exptime>`, `C<cas>` only over that CAS number, `c` the new CAS number,
//!   `M<mode>` with mode E or e (add), R or r (replace), S or s (set).
//! * `md`: `C<cas>`, `I` mark stale in place of deleting, `T<exptime>` with it a new end.

use bytes::Bytes;
use tokio::time::Instant;

use super::Shared;
use super::classic::{BAD_LINE, ERROR, OUT_OF_MEMORY, TOO_LARGE, is_key};
use super::frame::{number, words};
use super::store::{ChangeOutcome, Condition, Found, New, SetOutcome};

/// memcached's limit.
const OPAQUE_BYTES_MAX: usize = 32;

const BAD_FLAG: &str = "CLIENT_ERROR invalid flag";
const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";

/// A parsed request: its key and flags.
struct Request<'a> {
    key: &'a [u8],
    flags: Vec<(u8, &'a [u8])>,
}

impl<'a> Request<'a> {
    /// `flags_at`: how many words stand in front of the flags.
    fn parse(line: &'a [u8], flags_at: usize, known: &[u8]) -> Result<Self, &'static str> {
        let key = words(line).nth(1).ok_or(ERROR)?;
        if !is_key(key) {
            return Err(BAD_LINE);
        }
        let mut flags = Vec::new();
        for word in words(line).skip(flags_at) {
            let (letter, value) = (word[0], &word[1..]);
            if !known.contains(&letter) {
                return Err(BAD_FLAG);
            }
            if letter == b'O' && value.len() > OPAQUE_BYTES_MAX {
                return Err("CLIENT_ERROR opaque token too long");
            }
            flags.push((letter, value));
        }
        Ok(Self { key, flags })
    }

    fn has(&self, letter: u8) -> bool {
        self.flags.iter().any(|(flag, _)| *flag == letter)
    }

    /// The number behind a flag, when the flag is there.
    fn number<N: std::str::FromStr>(&self, letter: u8) -> Result<Option<N>, &'static str> {
        match self.flags.iter().find(|(flag, _)| *flag == letter) {
            None => Ok(None),
            Some((_, value)) => number(value).map(Some).ok_or(BAD_TOKEN),
        }
    }

    /// Writes ` k<key>` and ` O<token>` where asked for.
    fn echo(&self, out: &mut Vec<u8>, letter: u8, value: &[u8]) {
        match letter {
            b'k' => out.extend([b" k", self.key].concat()),
            b'O' => out.extend([b" O", value].concat()),
            _ => {}
        }
    }

    fn answer(&self, out: &mut Vec<u8>, code: &str, cas: Option<u64>) {
        out.extend_from_slice(code.as_bytes());
        for (letter, value) in &self.flags {
            match (letter, cas) {
                (b'c', Some(cas)) => out.extend_from_slice(format!(" c{cas}").as_bytes()),
                _ => self.echo(out, *letter, value),
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Obeys a line without a value, and writes its answer.
pub(super) fn run_line(shared: &Shared, line: &[u8], out: &mut Vec<u8>) {
    let result = match words(line).next() {
        Some(b"mg") => get(shared, line, out),
        Some(b"md") => delete(shared, line, out),
        Some(b"mn") => {
            out.extend_from_slice(b"MN\r\n");
            Ok(())
        }
        // `ms` without a length that can be read.
        _ => Err(BAD_LINE),
    };
    if let Err(error) = result {
        out.extend_from_slice(error.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn get(shared: &Shared, line: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let request = Request::parse(line, 2, b"vfstckOqT")?;
    let exptime = request.number(b'T')?;
    let now = Instant::now();
    let found = {
        let mut store = shared.store.lock();
        let found = store.get(request.key, true, now);
        if let (Some(exptime), Some(_)) = (exptime, &found) {
            store.touch(request.key, exptime, now);
        }
        found
    };
    match found {
        Some(found) => write_found(&request, &found, out),
        None if request.has(b'q') => {}
        None => request.answer(out, "EN", None),
    }
    Ok(())
}

fn write_found(request: &Request<'_>, found: &Found, out: &mut Vec<u8>) {
    let item = &found.item;
    let with_value = request.has(b'v');
    if with_value {
        out.extend_from_slice(format!("VA {}", item.value.len()).as_bytes());
    } else {
        out.extend_from_slice(b"HD");
    }
    for (letter, value) in &request.flags {
        let shown = match letter {
            b'f' => format!(" f{}", item.flags),
            b's' => format!(" s{}", item.value.len()),
            b'c' => format!(" c{}", item.cas),
            b't' => found
                .seconds_left
                .map_or(" t-1".to_owned(), |seconds| format!(" t{seconds}")),
            _ => {
                request.echo(out, *letter, value);
                continue;
            }
        };
        out.extend_from_slice(shown.as_bytes());
    }
    if found.stale {
        out.extend_from_slice(if found.won { b" X W" } else { b" Z X" });
    }
    out.extend_from_slice(b"\r\n");
    if with_value {
        out.extend_from_slice(&item.value);
        out.extend_from_slice(b"\r\n");
    }
}

fn delete(shared: &Shared, line: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let request = Request::parse(line, 2, b"CITqkO")?;
    let (cas, exptime) = (request.number(b'C')?, request.number(b'T')?);
    let now = Instant::now();
    let changed = {
        let mut store = shared.store.lock();
        if request.has(b'I') {
            store.mark_stale(request.key, cas, exptime, now)
        } else {
            store.delete(request.key, cas, now)
        }
    };
    match changed {
        ChangeOutcome::OtherCas => request.answer(out, "EX", None),
        ChangeOutcome::Done | ChangeOutcome::NotFound if request.has(b'q') => {}
        ChangeOutcome::Done => request.answer(out, "HD", None),
        ChangeOutcome::NotFound => request.answer(out, "NF", None),
    }
    Ok(())
}

/// Obeys `ms`; a value of `None` was too large and is gone.
pub(super) fn run_store(shared: &Shared, line: &[u8], value: Option<Bytes>, out: &mut Vec<u8>) {
    if let Err(error) = store(shared, line, value, out) {
        out.extend_from_slice(error.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn store(
    shared: &Shared,
    line: &[u8],
    value: Option<Bytes>,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let request = Request::parse(line, 3, b"FTCcMqkO")?;
    let mode = request
        .flags
        .iter()
        .find(|(flag, _)| *flag == b'M')
        .map(|(_, mode)| *mode);
    let condition = match (request.number(b'C')?, mode) {
        (Some(cas), _) => Condition::Cas(cas),
        (None, None | Some(b"S" | b"s")) => Condition::Always,
        (None, Some(b"E" | b"e")) => Condition::Absent,
        (None, Some(b"R" | b"r")) => Condition::Present,
        (None, Some(_)) => return Err("CLIENT_ERROR invalid mode for ms M token"),
    };
    let (flags, exptime) = (
        request.number(b'F')?.unwrap_or(0),
        request.number(b'T')?.unwrap_or(0),
    );
    let now = Instant::now();
    let mut store = shared.store.lock();
    let Some(value) = value else {
        store.forget_replaced(request.key, now);
        return Err(TOO_LARGE);
    };
    let new = New {
        value,
        flags,
        exptime,
    };
    let stored = store.set(request.key, new, condition, now);
    drop(store);
    match stored {
        SetOutcome::Done(_) if request.has(b'q') => {}
        SetOutcome::Done(cas) => request.answer(out, "HD", Some(cas)),
        SetOutcome::Declined => request.answer(out, "NS", None),
        SetOutcome::OtherCas => request.answer(out, "EX", None),
        SetOutcome::NotFound => request.answer(out, "NF", None),
        SetOutcome::OutOfMemory => return Err(OUT_OF_MEMORY),
    }
    Ok(())
}
