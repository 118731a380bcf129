//! The envelope: what stands in front of a value so that a reader can tell whose it is and whether it is still true.
//!
//! ```text
//! 0xC7  01  flags  token[8]  len[2] address[len]  ( count[1] (len[2] class[len])*count  token[8] )?  value...
//! ```
//!
//! All integers are big-endian. Bit 0 of `flags` says that the bracketed part is there: the classes found during the
//! fill, and the token over the resolved classes followed by them. The other bits are 0; a reader refuses what it does
//! not know. `address` is the application's address, undecorated, with its page suffix: at a fixed or hashed address it
//! reveals a collision. The value runs to the end.
//!
//! Values at `versioned` addresses need no envelope, since the token is part of the address. They are stored as they
//! are, with two exceptions: a value with dependencies, and a value whose own first byte is `0xC7`, are wrapped. So the
//! first byte tells. docs/formats.md holds test vectors.

use bytes::{BufMut as _, Bytes, BytesMut};
use thiserror::Error;

/// The first byte of every envelope.
pub const MAGIC: u8 = 0xC7;
/// The only version there is.
pub const VERSION: u8 = 1;
/// The flag that says that dependencies follow the address.
const FLAG_DEPENDENCIES: u8 = 1;

/// A value with what is needed to judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The token of the resolved classes when the value's fill began.
    pub token: u64,
    /// The application's address, with its page suffix and without other decoration.
    pub address: String,
    /// What was found to matter during the fill.
    pub dependencies: Option<Dependencies>,
    /// The value.
    pub value: Bytes,
}

/// Classes that were found to matter during a fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependencies {
    /// The classes, in the order in which they follow the resolved ones.
    pub classes: Vec<String>,
    /// The token over the resolved classes followed by these.
    pub token: u64,
}

/// Why bytes are not an envelope. A reader counts it and treats the value as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// They do not begin with the magic byte.
    #[error("the value does not begin with 0x{MAGIC:02X}")]
    NoMagic,
    /// A later format.
    #[error("envelope version {0} is not known; this client knows {VERSION}")]
    Version(u8),
    /// A later format.
    #[error("envelope flags 0x{0:02x} are not known")]
    Flags(u8),
    /// They end too early.
    #[error("the envelope ends within its {0}")]
    Truncated(&'static str),
    /// A name is not text.
    #[error("the envelope's {0} is not UTF-8")]
    NotText(&'static str),
    /// The flag is set and nothing follows.
    #[error("the envelope announces dependencies and lists none")]
    NoDependencies,
}

/// A part of an envelope is too long for its length field. The client's limits keep clear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the envelope's {part} is {length} long; the limit is {limit}")]
pub struct TooLong {
    /// Which part.
    pub part: &'static str,
    /// Its length in bytes or entries.
    pub length: usize,
    /// What the length field can tell.
    pub limit: usize,
}

impl Envelope {
    /// The bytes to store.
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let listed: usize = self
            .dependencies
            .iter()
            .flat_map(|found| &found.classes)
            .map(|class| 2 + class.len())
            .sum();
        let mut out = BytesMut::with_capacity(32 + self.address.len() + listed + self.value.len());
        out.put_u8(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(if self.dependencies.is_some() {
            FLAG_DEPENDENCIES
        } else {
            0
        });
        out.put_u64(self.token);
        put_text(&mut out, "address", &self.address)?;
        if let Some(found) = &self.dependencies {
            let count = found.classes.len();
            let too_long = |_| TooLong {
                part: "dependency list",
                length: count,
                limit: u8::MAX.into(),
            };
            out.put_u8(u8::try_from(count).map_err(too_long)?);
            for class in &found.classes {
                put_text(&mut out, "dependency", class)?;
            }
            out.put_u64(found.token);
        }
        out.put_slice(&self.value);
        Ok(out.freeze())
    }

    /// Reads stored bytes; the value shares their memory.
    pub fn parse(stored: &Bytes) -> Result<Self, EnvelopeError> {
        let mut reader = Reader { stored, at: 0 };
        if reader.stored.first() != Some(&MAGIC) {
            return Err(EnvelopeError::NoMagic);
        }
        let [_, version, flags] = reader.array("header")?;
        if version != VERSION {
            return Err(EnvelopeError::Version(version));
        }
        if flags & !FLAG_DEPENDENCIES != 0 {
            return Err(EnvelopeError::Flags(flags));
        }
        let token = u64::from_be_bytes(reader.array("token")?);
        let address = reader.text("address")?;
        let dependencies = if flags & FLAG_DEPENDENCIES == 0 {
            None
        } else {
            Some(reader.dependencies()?)
        };
        Ok(Self {
            token,
            address,
            dependencies,
            value: stored.slice(reader.at..),
        })
    }
}

fn put_text(out: &mut BytesMut, part: &'static str, text: &str) -> Result<(), TooLong> {
    let too_long = |_| TooLong {
        part,
        length: text.len(),
        limit: u16::MAX.into(),
    };
    out.put_u16(u16::try_from(text.len()).map_err(too_long)?);
    out.put_slice(text.as_bytes());
    Ok(())
}

struct Reader<'a> {
    stored: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, part: &'static str) -> Result<&'a [u8], EnvelopeError> {
        let end = self
            .at
            .checked_add(length)
            .ok_or(EnvelopeError::Truncated(part))?;
        let taken = self
            .stored
            .get(self.at..end)
            .ok_or(EnvelopeError::Truncated(part))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], EnvelopeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, part)?);
        Ok(array)
    }

    fn text(&mut self, part: &'static str) -> Result<String, EnvelopeError> {
        let length = u16::from_be_bytes(self.array(part)?);
        let bytes = self.take(length.into(), part)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| EnvelopeError::NotText(part))
    }

    fn dependencies(&mut self) -> Result<Dependencies, EnvelopeError> {
        let [count] = self.array("dependency list")?;
        if count == 0 {
            return Err(EnvelopeError::NoDependencies);
        }
        let classes = (0..count)
            .map(|_| self.text("dependency"))
            .collect::<Result<_, _>>()?;
        let token = u64::from_be_bytes(self.array("dependency token")?);
        Ok(Dependencies { classes, token })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn plain() -> Envelope {
        Envelope {
            token: 0x0123_4567_89ab_cdef,
            address: "get_items_in_cart::13".to_owned(),
            dependencies: None,
            value: Bytes::from_static(b"two apples"),
        }
    }

    #[test]
    fn the_documented_vectors_hold() {
        let mut envelope = plain();
        let vectors = [
            concat!(
                "c7",
                "01",
                "00",
                "0123456789abcdef",
                "0015",
                "6765745f6974656d735f696e5f636172743a3a3133",
                "74776f206170706c6573"
            ),
            concat!(
                "c7",
                "01",
                "01",
                "0123456789abcdef",
                "0015",
                "6765745f6974656d735f696e5f636172743a3a3133",
                "02",
                "0006",
                "6974656d2f37",
                "0008",
                "7072696365732f39",
                "fedcba9876543210",
                "74776f206170706c6573"
            ),
        ];
        assert_eq!(hex(&envelope.encode().unwrap()), vectors[0]);
        envelope.dependencies = Some(Dependencies {
            classes: vec!["item/7".to_owned(), "prices/9".to_owned()],
            token: 0xfedc_ba98_7654_3210,
        });
        assert_eq!(hex(&envelope.encode().unwrap()), vectors[1]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let mut bytes = plain().encode().unwrap().to_vec();
        bytes[1] = 2;
        assert_eq!(
            Envelope::parse(&bytes.clone().into()),
            Err(EnvelopeError::Version(2))
        );
        (bytes[1], bytes[2]) = (1, 2);
        assert_eq!(
            Envelope::parse(&bytes.clone().into()),
            Err(EnvelopeError::Flags(2))
        );
        assert_eq!(
            Envelope::parse(&Bytes::from_static(b"raw")),
            Err(EnvelopeError::NoMagic)
        );
        assert_eq!(Envelope::parse(&Bytes::new()), Err(EnvelopeError::NoMagic));
        (bytes[0], bytes[2]) = (MAGIC, 0);
        bytes[13] = 0xff;
        assert_eq!(
            Envelope::parse(&bytes.into()),
            Err(EnvelopeError::NotText("address"))
        );
    }

    #[test]
    fn every_cut_before_the_value_is_noticed() {
        let mut envelope = plain();
        envelope.dependencies = Some(Dependencies {
            classes: vec!["item/7".to_owned()],
            token: 9,
        });
        let bytes = envelope.encode().unwrap();
        for end in 1..bytes.len() - envelope.value.len() {
            assert!(
                matches!(
                    Envelope::parse(&bytes.slice(..end)),
                    Err(EnvelopeError::Truncated(_))
                ),
                "{end}"
            );
        }
    }

    #[test]
    fn parts_longer_than_their_length_fields_are_refused() {
        let mut envelope = plain();
        envelope.address = "a".repeat(65_536);
        assert_eq!(envelope.encode().unwrap_err().length, 65_536);
        envelope.address = "a".repeat(65_535);
        envelope.encode().unwrap();
        envelope.dependencies = Some(Dependencies {
            classes: vec!["c".to_owned(); 256],
            token: 0,
        });
        assert_eq!(envelope.encode().unwrap_err().part, "dependency list");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Envelope::parse(&Bytes::from(bytes));
        }

        #[test]
        fn parsing_what_begins_well_never_panics(
            flags in 0_u8..2,
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(2), any::<u8>()], 0..400),
        ) {
            let mut begun = vec![MAGIC, VERSION, flags];
            begun.extend(bytes);
            if let Ok(envelope) = Envelope::parse(&Bytes::from(begun.clone())) {
                prop_assert_eq!(envelope.encode().unwrap(), begun);
            }
        }

        #[test]
        fn what_was_encoded_is_parsed(
            token in any::<u64>(),
            address in "[!-~]{1,250}",
            classes in proptest::collection::vec("[!-~]{1,200}", 0..16),
            dependency_token in any::<u64>(),
            value in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let dependencies = (!classes.is_empty()).then_some(Dependencies { classes, token: dependency_token });
            let envelope = Envelope { token, address, dependencies, value: value.into() };
            prop_assert_eq!(Envelope::parse(&envelope.encode().unwrap()), Ok(envelope));
        }
    }
}
