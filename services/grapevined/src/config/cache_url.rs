//! A cache's URL as a knob's value: checked when it is read, shown without its password.

use std::fmt;
use std::sync::Arc;

use grapevine_cache::{Cache, CacheConfig, ConfigError};

use super::value::{Element, Value};

/// The URL of a cache; the forms are those of [`grapevine_cache::CacheConfig`].
#[derive(Clone, PartialEq, Eq)]
pub struct CacheUrl {
    shown: String,
    config: CacheConfig,
}

impl CacheUrl {
    /// Opens the cache. Must be called inside a Tokio runtime; does not wait for servers.
    pub fn open(&self) -> Result<Arc<dyn Cache>, ConfigError> {
        self.config.open()
    }
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Value for CacheUrl {
    const KIND: &'static str = "URL";

    fn parse(text: &str) -> Result<Self, String> {
        let config = text
            .parse()
            .map_err(|error: ConfigError| format!("is not a cache URL: {error}"))?;
        if matches!(config, CacheConfig::Memory(_)) {
            let reason = "is a cache inside this process, which no application fills: there would be nothing to delete. \
                          Name the cache that applications use, or none";
            return Err(reason.to_owned());
        }
        Ok(Self {
            shown: without_passwords(text),
            config,
        })
    }

    fn text(&self) -> String {
        self.shown.clone()
    }
}

/// Commas stand inside URLs, between the servers of one cache.
impl Element for CacheUrl {
    const SEPARATORS: &'static [char] = &[' ', '\t', '\n'];
}

/// A text that may hold URLs, or what is left of one in a reason, with `***` for every password in them.
pub(super) fn without_passwords(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(hide_in_url)
        .collect()
}

fn hide_in_url(url: &str) -> String {
    // A URL that is not one, or a part of it in a reason, may hold the password all the same.
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let rest = match rest.rsplit_once('@') {
        None => rest.to_owned(),
        Some((login, place)) => match login.split_once(':') {
            None => rest.to_owned(),
            Some((user, _)) => format!("{user}:***@{place}"),
        },
    };
    let shown = match rest.split_once("pass=") {
        None => rest,
        Some((before, after)) => {
            let end = after.find(['&', ' ', '"', '\n']).unwrap_or(after.len());
            format!("{before}pass=***{}", &after[end..])
        }
    };
    format!("{scheme}{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (written, shown) in [
            ("memcached://a:1,b:2?pool=2", "memcached://a:1,b:2?pool=2"),
            ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
            (
                "redis://me:p@w@h:1 redis://x",
                "redis://me:***@h:1 redis://x",
            ),
            ("redis://me@h:1", "redis://me@h:1"),
            ("redis:/u:topsecret@h", "redis:***@h"),
            (
                "bad cache server \"user:secret@h:1\": no",
                "bad cache server \"user:***@h:1\": no",
            ),
            ("127.0.0.1:7400 and [::1]:1", "127.0.0.1:7400 and [::1]:1"),
            (
                "redis+unix:///s?db=1&pass=pw&user=u",
                "redis+unix:///s?db=1&pass=***&user=u",
            ),
        ] {
            assert_eq!(without_passwords(written), shown);
        }
    }
}
