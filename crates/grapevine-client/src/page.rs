//! Pages of lists: the value that a page address holds, and the slice that a reader asked for.
//!
//! ```text
//! count[4]  ( len[4] item[len] )*count
//! ```
//!
//! Integers are big-endian and nothing follows the last item. A page with fewer items than its size is the list's last
//! one. A reader that wants `limit` items from `offset` is given the pages that the slice touches, and of each how many
//! items to skip and to take; it stops at the first short page.

use bytes::{BufMut as _, Bytes, BytesMut};
use grapevine_proto::v1;
use thiserror::Error;

/// Why bytes are not a page. A reader counts it and treats the page as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PageError {
    /// They end too early.
    #[error("the page ends within item {0}")]
    Truncated(u32),
    /// Something follows the last item.
    #[error("{0} bytes follow the page's last item")]
    Trailing(usize),
}

/// An item or a page is too long for its length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{length} items, or bytes of one item, are more than a page can tell; the limit is {}",
    u32::MAX
)]
pub struct PageTooLong {
    /// The offending length.
    pub length: usize,
}

/// The bytes of a page.
pub fn encode_page(items: &[Bytes]) -> Result<Bytes, PageTooLong> {
    let length_of = |length: usize| u32::try_from(length).map_err(|_| PageTooLong { length });
    let total: usize = items.iter().map(|item| 4 + item.len()).sum();
    let mut out = BytesMut::with_capacity(4 + total);
    out.put_u32(length_of(items.len())?);
    for item in items {
        out.put_u32(length_of(item.len())?);
        out.put_slice(item);
    }
    Ok(out.freeze())
}

/// The items of a page; they share its memory.
pub fn decode_page(page: &Bytes) -> Result<Vec<Bytes>, PageError> {
    let mut at = 0;
    let count = take_u32(page, &mut at).ok_or(PageError::Truncated(0))?;
    // An item takes four bytes at least: a count that lies cannot make this allocate more than the page is long.
    let mut items = Vec::with_capacity((count as usize).min(page.len() / 4));
    for index in 0..count {
        let item = take_item(page, &mut at).ok_or(PageError::Truncated(index))?;
        items.push(item);
    }
    match page.len() - at {
        0 => Ok(items),
        left => Err(PageError::Trailing(left)),
    }
}

fn take_u32(page: &[u8], at: &mut usize) -> Option<u32> {
    let bytes = page.get(*at..at.checked_add(4)?)?;
    *at += 4;
    bytes.try_into().ok().map(u32::from_be_bytes)
}

fn take_item(page: &Bytes, at: &mut usize) -> Option<Bytes> {
    let length = take_u32(page, at)? as usize;
    let end = at.checked_add(length).filter(|end| *end <= page.len())?;
    let item = page.slice(*at..end);
    *at = end;
    Some(item)
}

/// The application's address of one page, as it stands in the page's envelope.
pub fn page_address(address: &str, page_size: u32, index: u64) -> String {
    format!("{address}~p{page_size}.{index}")
}

/// Adds what of a page belongs to the slice; says whether the list may go on after it.
pub(crate) fn cut(target: &v1::Target, page: &[Bytes], slice: &mut Vec<Bytes>) -> bool {
    let wanted = page
        .iter()
        .skip(target.skip as usize)
        .take(target.take as usize);
    slice.extend(wanted.cloned());
    page.len() >= target.page_size as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_vectors_hold() {
        assert_eq!(encode_page(&[]).unwrap().as_ref(), [0, 0, 0, 0]);
        let page = encode_page(&[
            Bytes::from_static(b"1111"),
            Bytes::new(),
            Bytes::from_static(b"3"),
        ])
        .unwrap();
        let expected = [
            0, 0, 0, 3, 0, 0, 0, 4, 0x31, 0x31, 0x31, 0x31, 0, 0, 0, 0, 0, 0, 0, 1, 0x33,
        ];
        assert_eq!(page.as_ref(), expected);
        assert_eq!(
            page_address("get_items_in_cart::13", 25, 3),
            "get_items_in_cart::13~p25.3"
        );
    }

    #[test]
    fn a_count_that_lies_is_refused_without_allocating_for_it() {
        assert_eq!(
            decode_page(&Bytes::from_static(&[0xff; 4])),
            Err(PageError::Truncated(0))
        );
        assert_eq!(
            decode_page(&Bytes::from_static(&[0, 0])),
            Err(PageError::Truncated(0))
        );
        assert_eq!(
            decode_page(&Bytes::from_static(&[0, 0, 0, 0, 9])),
            Err(PageError::Trailing(1))
        );
        assert_eq!(
            decode_page(&Bytes::from_static(&[
                0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1
            ])),
            Err(PageError::Truncated(0))
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..200)) {
            let bytes = Bytes::from(bytes);
            if let Ok(items) = decode_page(&bytes) {
                prop_assert_eq!(encode_page(&items).unwrap(), bytes);
            }
        }

        #[test]
        fn what_was_encoded_is_parsed(items in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..40)) {
            let items: Vec<Bytes> = items.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(decode_page(&encode_page(&items).unwrap()), Ok(items));
        }
    }
}
