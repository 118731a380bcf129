//! From an application's address to the cache addresses to use now: paging, strategy, token, length.
//!
//! docs/formats.md draws every form, with test vectors. A decoration begins with `~` and a letter or digit:
//! `~p{size}.{index}` a page, `~1{token}` a version, `~b{n}.{bucket}` a bucket, `~h{hash}` a hashed long address.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::names::{ADDRESS_BYTES_MAX, Address, ClassPath};
use crate::policy::{LongAddress, Policy, Strategy};
use crate::token::{TOKEN_TEXT_BYTES, Token};

/// The highest offset of a slice.
pub const OFFSET_MAX: u64 = 1 << 40;
/// The largest limit of a slice.
pub const LIMIT_MAX: u32 = 10_000;
/// The most pages that one slice may touch.
pub const PAGES_MAX: u64 = 1_000;

/// A slice of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Items to skip.
    pub offset: u64,
    /// Items wanted.
    pub limit: u32,
}

/// One address in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The cache address.
    pub address: Address,
    /// For a slice: which page this is and what of it belongs to the slice.
    pub page: Option<PagePart>,
}

/// What of a page belongs to a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePart {
    /// The page's index, from 0.
    pub index: u64,
    /// Items on a full page.
    pub size: u32,
    /// Items at its start that lie before the slice.
    pub skip: u32,
    /// Items after those that belong to it.
    pub take: u32,
}

/// Why an address cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Decorated, it would pass the cache's limit.
    #[error(
        "address {address:?} has {bytes} bytes once decorated; the limit is {ADDRESS_BYTES_MAX}: shorten it, or set the policy's long_address to \"hash\""
    )]
    TooLong {
        /// As given.
        address: Address,
        /// How long it would be.
        bytes: usize,
    },
    /// A slice of an address whose policy has no paging.
    #[error(
        "policy {pattern:?} has no paging, and a slice was asked for: set `paging`, or leave limit and offset out"
    )]
    NoPaging {
        /// The policy.
        pattern: String,
    },
    /// The offset is too high.
    #[error("offset {value} is above {OFFSET_MAX}")]
    Offset {
        /// As given.
        value: u64,
    },
    /// The limit is out of range.
    #[error("limit {value} is outside 1 to {LIMIT_MAX}")]
    Limit {
        /// As given.
        value: u32,
    },
    /// Too many pages.
    #[error("limit {limit} touches {pages} pages of {size} items; the limit is {PAGES_MAX} pages")]
    TooManyPages {
        /// As given.
        limit: u32,
        /// How many it touches.
        pages: u64,
        /// Items on a page.
        size: u32,
    },
}

/// Plans an address, or the pages of a slice of it, onto cache addresses.
pub fn plan(
    address: &Address,
    class: &ClassPath,
    slice: Option<Slice>,
    policy: &Policy,
    token: Token,
) -> Result<Vec<Target>, AddressError> {
    let Some(slice) = slice else {
        let address = decorate(address, address.as_str(), class, policy, token)?;
        return Ok(vec![Target {
            address,
            page: None,
        }]);
    };
    let size = policy.page_size.ok_or_else(|| AddressError::NoPaging {
        pattern: policy.pattern.to_string(),
    })?;
    pages(slice, size)?
        .into_iter()
        .map(|part| {
            let paged = format!("{address}~p{size}.{}", part.index);
            Ok(Target {
                address: decorate(address, &paged, class, policy, token)?,
                page: Some(part),
            })
        })
        .collect()
}

/// The pages that a slice touches, in order.
pub fn pages(slice: Slice, size: u32) -> Result<Vec<PagePart>, AddressError> {
    if slice.offset > OFFSET_MAX {
        return Err(AddressError::Offset {
            value: slice.offset,
        });
    }
    if slice.limit == 0 || slice.limit > LIMIT_MAX {
        return Err(AddressError::Limit { value: slice.limit });
    }
    let wide = u64::from(size);
    let end = slice.offset + u64::from(slice.limit);
    let (first, last) = (slice.offset / wide, (end - 1) / wide);
    if last - first >= PAGES_MAX {
        return Err(AddressError::TooManyPages {
            limit: slice.limit,
            pages: last - first + 1,
            size,
        });
    }
    let within = |value: u64| u32::try_from(value).expect("invariant: at most a page");
    Ok((first..=last)
        .map(|index| {
            let start = index * wide;
            let skip = slice.offset.saturating_sub(start);
            let take = (end - start).min(wide) - skip;
            PagePart {
                index,
                size,
                skip: within(skip),
                take: within(take),
            }
        })
        .collect())
}

fn decorate(
    given: &Address,
    paged: &str,
    class: &ClassPath,
    policy: &Policy,
    token: Token,
) -> Result<Address, AddressError> {
    let compose = |name: &str| match policy.strategy {
        Strategy::Versioned => versioned(name, token),
        Strategy::Registered | Strategy::Ttl => name.to_owned(),
        Strategy::Bucketed(n) => bucket_address(class, bucket_index(paged, n), n),
    };
    let plain = compose(paged);
    if plain.len() <= ADDRESS_BYTES_MAX {
        return Ok(Address::made(&plain));
    }
    match policy.long_address {
        LongAddress::Refuse => Err(AddressError::TooLong {
            address: given.clone(),
            bytes: plain.len(),
        }),
        LongAddress::Hash => Ok(Address::made(&compose(&hashed(paged)))),
    }
}

fn versioned(name: &str, token: Token) -> String {
    let mut text = String::with_capacity(name.len() + "~1".len() + TOKEN_TEXT_BYTES);
    text.push_str(name);
    text.push_str("~1");
    token.push_text(&mut text);
    text
}

/// What stands for an address that is too long: `~h` and 22 characters.
fn hashed(address: &str) -> String {
    format!(
        "~h{}",
        URL_SAFE_NO_PAD.encode(xxh3_128(address.as_bytes()).to_be_bytes())
    )
}

/// The bucket of an address in a class of `n` buckets.
pub fn bucket_index(address: &str, n: u16) -> u16 {
    u16::try_from(xxh3_64(address.as_bytes()) % u64::from(n)).expect("invariant: below n")
}

/// The cache address of a bucket. A class path has at most 200 bytes, so it always fits.
fn bucket_address(class: &ClassPath, bucket: u16, n: u16) -> String {
    format!("{class}~b{n}.{bucket}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::{prop_assert_eq, prop_assume, proptest};

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn class() -> ClassPath {
        ClassPath::parse("cart/13").unwrap()
    }

    #[test]
    fn decorations_have_their_documented_form() {
        let mut policy = Policy::fallback();
        let one = |policy: &Policy, slice| {
            plan(&address("items::13"), &class(), slice, policy, Token(1)).unwrap()
        };
        assert_eq!(
            one(&policy, None)[0].address.as_str(),
            "items::13~1AAAAAAAAAAE"
        );
        policy.page_size = Some(20);
        let pages = one(
            &policy,
            Some(Slice {
                offset: 30,
                limit: 20,
            }),
        );
        let names: Vec<_> = pages.iter().map(|target| target.address.as_str()).collect();
        assert_eq!(
            names,
            [
                "items::13~p20.1~1AAAAAAAAAAE",
                "items::13~p20.2~1AAAAAAAAAAE"
            ]
        );
        policy.strategy = Strategy::Registered;
        assert_eq!(one(&policy, None)[0].address.as_str(), "items::13");
        policy.strategy = Strategy::Bucketed(8);
        let bucket = bucket_index("items::13", 8);
        assert_eq!(
            one(&policy, None)[0].address.as_str(),
            format!("cart/13~b8.{bucket}")
        );
    }

    #[test]
    fn an_address_too_long_once_decorated_is_refused_or_hashed() {
        let long = address(&"x".repeat(238));
        let mut policy = Policy::fallback();
        let error = plan(&long, &class(), None, &policy, Token(1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("251 bytes") && error.contains("250"),
            "{error}"
        );
        assert!(
            plan(
                &address(&"x".repeat(237)),
                &class(),
                None,
                &policy,
                Token(1)
            )
            .is_ok()
        );
        policy.long_address = LongAddress::Hash;
        let target = plan(&long, &class(), None, &policy, Token(1))
            .unwrap()
            .remove(0);
        assert!(
            target.address.as_str().starts_with("~h"),
            "{}",
            target.address
        );
        assert_eq!(target.address.as_str().len(), 24 + 13);
    }

    #[test]
    fn slices_are_checked_with_their_limits() {
        let policy = Policy::fallback();
        let slice = Slice {
            offset: 0,
            limit: 1,
        };
        assert!(matches!(
            plan(&address("a"), &class(), Some(slice), &policy, Token(1)),
            Err(AddressError::NoPaging { .. })
        ));
        assert!(matches!(
            pages(
                Slice {
                    offset: 0,
                    limit: 0
                },
                10
            ),
            Err(AddressError::Limit { value: 0 })
        ));
        assert!(matches!(
            pages(
                Slice {
                    offset: u64::MAX,
                    limit: 1
                },
                10
            ),
            Err(AddressError::Offset { .. })
        ));
        assert!(matches!(
            pages(
                Slice {
                    offset: 0,
                    limit: 10_000
                },
                1
            ),
            Err(AddressError::TooManyPages { .. })
        ));
    }

    proptest! {
        #[test]
        fn a_slice_planned_on_pages_is_the_slice(offset in 0_u64..10_000, limit in 1_u32..500, size in 1_u32..300) {
            prop_assume!(u64::from(limit) / u64::from(size) < PAGES_MAX - 1);
            let parts = pages(Slice { offset, limit }, size).unwrap();
            let items: Vec<u64> = parts
                .iter()
                .flat_map(|part| {
                    let start = part.index * u64::from(part.size) + u64::from(part.skip);
                    prop_assert_ok(part.skip + part.take <= part.size);
                    start..start + u64::from(part.take)
                })
                .collect();
            prop_assert_eq!(items, (offset..offset + u64::from(limit)).collect::<Vec<_>>());
        }
    }

    fn prop_assert_ok(holds: bool) {
        assert!(holds, "a part reaches beyond its page");
    }
}
