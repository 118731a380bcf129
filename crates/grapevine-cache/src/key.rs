//! The rules for keys and times to live that every cache shares, so that an address which suits one suits all.

use std::time::Duration;

use crate::{CacheError, KeyProblem};

/// The longest key: memcached's limit.
pub const KEY_BYTES_MAX: usize = 250;

/// The longest time to live; longer ones are shortened to it, which only ever costs a miss. One year.
pub const TTL_MAX: Duration = Duration::from_hours(365 * 24);

/// Checks a key: 1 to 250 bytes, none of them white space or a control byte. Bytes above ASCII are allowed.
pub fn check_key(key: &str) -> Result<(), CacheError> {
    match problem_of(key) {
        None => Ok(()),
        Some(problem) => {
            let mut shown = key.len().min(KEY_BYTES_MAX);
            while !key.is_char_boundary(shown) {
                shown -= 1;
            }
            Err(CacheError::BadKey {
                key: key[..shown].to_owned(),
                problem,
            })
        }
    }
}

/// Checks a time to live, and shortens it to [`TTL_MAX`].
pub fn check_ttl(ttl: Duration) -> Result<Duration, CacheError> {
    if ttl.is_zero() {
        return Err(CacheError::BadTtl { ttl });
    }
    Ok(ttl.min(TTL_MAX))
}

pub(crate) fn check_size(
    key: &str,
    size_bytes: usize,
    limit_bytes: usize,
) -> Result<(), CacheError> {
    if size_bytes > limit_bytes {
        return Err(CacheError::TooLarge {
            key: key.to_owned(),
            size_bytes,
            limit_bytes,
        });
    }
    Ok(())
}

fn problem_of(key: &str) -> Option<KeyProblem> {
    if key.is_empty() {
        return Some(KeyProblem::Empty);
    }
    if key.len() > KEY_BYTES_MAX {
        return Some(KeyProblem::TooLong {
            length_bytes: key.len(),
        });
    }
    key.bytes()
        .enumerate()
        .find(|(_, byte)| *byte <= b' ' || *byte == 0x7f)
        .map(|(offset, byte)| KeyProblem::BadByte { byte, offset })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn keys_at_the_limit_pass_and_one_byte_more_is_named() {
        check_key(&"k".repeat(250)).unwrap();
        check_key("Käse::13:10:30").unwrap();
        let error = check_key(&"k".repeat(251)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("it has 251 bytes, the limit is 250"),
            "{error}"
        );
    }

    #[test]
    fn white_space_and_control_bytes_are_named_with_their_place() {
        for (key, byte, offset) in [
            ("a b", 0x20, 1),
            ("\r\nflush_all", 0x0d, 0),
            ("ab\u{7f}", 0x7f, 2),
            ("\0", 0, 0),
        ] {
            let expected = KeyProblem::BadByte { byte, offset };
            assert!(
                matches!(check_key(key), Err(CacheError::BadKey { problem, .. }) if problem == expected),
                "{key:?}"
            );
        }
        assert!(matches!(
            check_key(""),
            Err(CacheError::BadKey {
                problem: KeyProblem::Empty,
                ..
            })
        ));
    }

    #[test]
    fn a_long_key_is_shown_cut_at_a_character() {
        let error = check_key(&"ä".repeat(10_000)).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
        check_key(&format!("k{}", "ä".repeat(125))).unwrap_err();
    }

    #[test]
    fn a_zero_ttl_is_refused_and_an_absurd_one_shortened() {
        assert!(matches!(
            check_ttl(Duration::ZERO),
            Err(CacheError::BadTtl { .. })
        ));
        assert_eq!(check_ttl(Duration::MAX).unwrap(), TTL_MAX);
        assert_eq!(
            check_ttl(Duration::from_millis(1)).unwrap(),
            Duration::from_millis(1)
        );
    }
}
