//! What applications name: addresses, classes, and what operators name: nodes.
//!
//! Every name is checked once, where it enters; inside, the types say that it holds.

use thiserror::Error;

/// The longest address, in bytes: memcached's limit for a key.
pub const ADDRESS_BYTES_MAX: usize = 250;
/// The longest class path, in bytes.
pub const CLASS_BYTES_MAX: usize = 200;
/// The most segments a class path may have.
pub const CLASS_SEGMENTS_MAX: usize = 16;
/// The longest node id, in bytes.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// Why a name was refused. Long values are shown shortened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// There was nothing.
    #[error("{what} is empty")]
    Empty {
        /// The kind of name.
        what: &'static str,
    },
    /// Too many bytes.
    #[error("{what} {value:?} has {bytes} bytes; the limit is {limit}")]
    TooLong {
        /// The kind of name.
        what: &'static str,
        /// Its beginning.
        value: String,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A byte that caches or paths do not allow.
    #[error(
        "{what} {value:?} has the byte 0x{byte:02x} at position {position}; whitespace and control bytes are not allowed"
    )]
    BadByte {
        /// The kind of name.
        what: &'static str,
        /// Its beginning.
        value: String,
        /// The offending byte.
        byte: u8,
        /// Where it stands.
        position: usize,
    },
    /// A byte that node ids do not allow: they stand in logs, labels and host names.
    #[error(
        "node id {value:?} has the byte 0x{byte:02x} at position {position}; letters, digits, '.', '_' and '-' are allowed"
    )]
    NotOfNodes {
        /// Its beginning.
        value: String,
        /// The offending byte.
        byte: u8,
        /// Where it stands.
        position: usize,
    },
    /// A slash at an end, or two in a row.
    #[error(
        "class {value:?} has an empty segment at position {position}; write segments separated by single slashes"
    )]
    EmptySegment {
        /// Its beginning.
        value: String,
        /// Where the segment would start.
        position: usize,
    },
    /// Too deep.
    #[error("class {value:?} has {segments} segments; the limit is {limit}")]
    TooDeep {
        /// Its beginning.
        value: String,
        /// How many it has.
        segments: usize,
        /// How many it may have.
        limit: usize,
    },
}

/// The name of the class that stands for every class.
pub const EVERYTHING: &str = "*";

fn shorten(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}...", &value[..end]),
    }
}

/// Whether there is something, and not too much.
pub(crate) fn check_length(what: &'static str, value: &str, limit: usize) -> Result<(), NameError> {
    if value.is_empty() {
        return Err(NameError::Empty { what });
    }
    if value.len() > limit {
        return Err(NameError::TooLong {
            what,
            value: shorten(value),
            bytes: value.len(),
            limit,
        });
    }
    Ok(())
}

fn check(what: &'static str, value: &str, limit: usize) -> Result<(), NameError> {
    check_length(what, value, limit)?;
    let is_bad = |byte: u8| byte <= b' ' || byte == 0x7f;
    // All of it in any case: without an early end the compiler looks at many bytes at a time.
    if !value.bytes().fold(false, |bad, byte| bad | is_bad(byte)) {
        return Ok(());
    }
    match value.bytes().enumerate().find(|(_, byte)| is_bad(*byte)) {
        None => Ok(()),
        Some((position, byte)) => Err(NameError::BadByte {
            what,
            value: shorten(value),
            byte,
            position,
        }),
    }
}

/// A type for names: text that was checked, cheap to clone, ordered by its bytes. How it is checked, each says for itself.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(crate) use name;

name! {
    /// The key that the cache knows: 1 to 250 bytes, no whitespace or control bytes.
    Address
}

impl Address {
    /// Checks and takes an address.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        check("address", value, ADDRESS_BYTES_MAX)?;
        Ok(Self(value.into()))
    }

    /// Takes what is made of addresses and classes, which were checked, and is known not to be too long.
    pub(crate) fn made(value: &str) -> Self {
        debug_assert!(Self::parse(value).is_ok(), "{value:?}");
        Self(value.into())
    }
}

name! {
    /// A `/`-separated path that names a family of addresses: 1 to 200 bytes, 1 to 16 non-empty segments.
    ClassPath
}

impl ClassPath {
    /// Checks and takes a class path.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        check("class", value, CLASS_BYTES_MAX)?;
        let mut start = 0;
        let mut segments = 0;
        for end in segment_ends(value) {
            if end == start {
                return Err(NameError::EmptySegment {
                    value: shorten(value),
                    position: start,
                });
            }
            start = end + 1;
            segments += 1;
        }
        if segments > CLASS_SEGMENTS_MAX {
            return Err(NameError::TooDeep {
                value: shorten(value),
                segments,
                limit: CLASS_SEGMENTS_MAX,
            });
        }
        Ok(Self(value.into()))
    }

    /// The class that stands for every class, written `*`: a bump of it changes every token. No address belongs to it,
    /// and nothing lies below it.
    pub fn everything() -> Self {
        Self(EVERYTHING.into())
    }

    /// Whether it is, or lies below, the class that stands for every class.
    pub fn is_reserved(&self) -> bool {
        self.top() == EVERYTHING
    }

    /// Its first segment: the top-level class.
    pub fn top(&self) -> &str {
        top_of(self.as_str())
    }

    /// Whether it has one segment only.
    pub fn is_top(&self) -> bool {
        !self.as_str().contains('/')
    }

    /// The paths from the top-level class down to this one.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        let path = self.as_str();
        segment_ends(path).map(move |end| &path[..end])
    }

    /// Whether `other` is this class or lies below it.
    pub fn covers(&self, other: &str) -> bool {
        covers(self.as_str(), other)
    }

    /// The bytes that sort classes so that a class is followed by all that lies below it: each `/` becomes 0x01,
    /// which sorts before every byte that a segment may hold.
    pub fn sort_key(&self) -> Vec<u8> {
        self.as_str()
            .bytes()
            .map(|byte| if byte == b'/' { 1 } else { byte })
            .collect()
    }

    /// The inverse of [`ClassPath::sort_key`].
    pub fn from_sort_key(key: &[u8]) -> Option<Self> {
        let bytes = key
            .iter()
            .map(|&byte| if byte == 1 { b'/' } else { byte })
            .collect();
        Self::parse(&String::from_utf8(bytes).ok()?).ok()
    }
}

/// Where the segments of a path end. Paths are short: byte by byte is faster than what is made for long texts.
fn segment_ends(path: &str) -> impl Iterator<Item = usize> {
    let slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
    slashes.map(|(end, _)| end).chain([path.len()])
}

/// The first segment of a path.
pub(crate) fn top_of(path: &str) -> &str {
    segment_ends(path).next().map_or(path, |end| &path[..end])
}

/// Whether `below` is `class` or lies below it.
pub(crate) fn covers(class: &str, below: &str) -> bool {
    below
        .strip_prefix(class)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

name! {
    /// A sidecar's configured name: 1 to 64 letters, digits, `.`, `_` or `-`. Kept over restarts.
    NodeId
}

impl NodeId {
    /// Checks and takes a node id.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        check_length("node id", value, NODE_ID_BYTES_MAX)?;
        let bad = |byte: u8| !(byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        match value.bytes().enumerate().find(|(_, byte)| bad(*byte)) {
            None => Ok(Self(value.into())),
            Some((position, byte)) => Err(NameError::NotOfNodes {
                value: shorten(value),
                byte,
                position,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_are_checked_with_their_limit() {
        assert!(Address::parse("get_items_in_cart::13:10:30").is_ok());
        assert!(Address::parse(&"a".repeat(250)).is_ok());
        let error = Address::parse(&"a".repeat(251)).unwrap_err().to_string();
        assert!(
            error.contains("251 bytes") && error.contains("250"),
            "{error}"
        );
        for (bad, position) in [("a b", 1), ("a\tb", 1), ("\u{7f}", 0), ("x\n", 1)] {
            match Address::parse(bad).unwrap_err() {
                NameError::BadByte {
                    position: found, ..
                } => assert_eq!(found, position),
                other => panic!("{other}"),
            }
        }
        assert_eq!(
            Address::parse(""),
            Err(NameError::Empty { what: "address" })
        );
    }

    #[test]
    fn class_paths_are_checked_with_their_limit() {
        for good in ["a", "a/b", "get_items_in_cart/13", &["s"; 16].join("/")] {
            assert!(ClassPath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "a b",
            "a/\u{1}",
            &["s"; 17].join("/"),
            &"c".repeat(201),
        ] {
            assert!(ClassPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn node_ids_are_what_logs_labels_and_host_names_can_show() {
        for good in ["node-1", "a", "pod_7.shop", &"n".repeat(64)] {
            assert!(NodeId::parse(good).is_ok(), "{good}");
        }
        for (bad, position) in [
            ("a b", 1),
            ("<b>", 0),
            ("n\"", 1),
            ("n{}", 1),
            ("\u{e9}", 0),
        ] {
            match NodeId::parse(bad).unwrap_err() {
                NameError::NotOfNodes {
                    position: found, ..
                } => assert_eq!(found, position, "{bad}"),
                other => panic!("{other}"),
            }
        }
        let error = NodeId::parse(&"n".repeat(65)).unwrap_err().to_string();
        assert!(
            error.contains("65 bytes") && error.contains("64"),
            "{error}"
        );
    }

    #[test]
    fn prefixes_go_from_the_top_down() {
        let class = ClassPath::parse("a/b/c").unwrap();
        assert_eq!(class.prefixes().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert!(ClassPath::parse("a/b").unwrap().covers("a/b/c"));
        assert!(!ClassPath::parse("a/b").unwrap().covers("a/bc"));
        assert_eq!(ClassPath::from_sort_key(&class.sort_key()), Some(class));
    }

    #[test]
    fn a_class_sorts_before_what_is_below_it_and_that_before_its_neighbours() {
        let mut classes: Vec<_> = ["a!", "a/b", "a", "a/b/c", "b"]
            .iter()
            .map(|c| ClassPath::parse(c).unwrap())
            .collect();
        classes.sort_by_key(ClassPath::sort_key);
        let sorted: Vec<_> = classes.iter().map(ClassPath::as_str).collect();
        assert_eq!(sorted, ["a", "a/b", "a/b/c", "a!", "b"]);
    }
}
