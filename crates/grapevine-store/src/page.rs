//! A page of the directory: up to about 4 KB of one class's addresses, sorted and front-coded.
//!
//! ```text
//! 1  flags: 0x80 is the format, bit 0 says "the class has no page after this one"
//! 2  count of addresses
//! 4  earliest: no address of the page lapses before it (Unix seconds)
//! then per address, in byte order:
//! 1  how many bytes it shares with the one before
//! 1  how many follow
//! n  those bytes
//! v  varint: (expires - earliest) * 2, plus 1 if registered at this sidecar
//! ```
//!
//! A class's pages split the space of addresses between them: a page holds the addresses from its key's bound up to
//! the next page's. The first page's bound is empty, so that every address has a page. The earliest expiry is exact
//! when a page was made or rewritten, and a bound from below after a repeated registration moved an expiry up. Merging streams the old page
//! and the new addresses through a [`Builder`], which starts another page when one is full.

use grapevine_core::id::UnixSeconds;
use grapevine_core::names::Address;

use crate::codec::{DecodeError, Reader, put_name, put_varint, shared_prefix};
use crate::keys;

/// The largest page, in bytes. A leaf of the tree below takes 16 values and is rewritten as a whole: larger pages
/// make larger leaves, smaller ones make more of them.
pub(crate) const PAGE_BYTES_MAX: usize = 4096;
/// How full pages are made when a page is split. One more address (257 bytes at most) still fits.
const SPLIT_BYTES: usize = PAGE_BYTES_MAX * 3 / 4;

const HEADER_BYTES: usize = 7;
const FORMAT: u8 = 0x80;
const LAST: u8 = 0x01;

/// One address to put into the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) address: Address,
    pub(crate) expires: UnixSeconds,
    pub(crate) own: bool,
}

/// One address as a page holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) expires: u32,
    pub(crate) own: bool,
}

/// What the front of a page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// No page of the class comes after this one. Not set does not mean that one does.
    pub(crate) last: bool,
    pub(crate) count: u16,
    pub(crate) earliest: u32,
}

impl Header {
    /// The slot of the expiry index that the page stands in; `None` without addresses.
    pub(crate) fn slot(self) -> Option<u32> {
        (self.count > 0).then(|| keys::slot(self.earliest))
    }

    pub(crate) fn read(page: &[u8]) -> Result<Self, DecodeError> {
        Self::take(&mut Reader::new(page))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        if flags & !LAST != FORMAT {
            return Err(reader.error("a directory page of an unknown format"));
        }
        Ok(Self {
            last: flags & LAST != 0,
            count: reader.u16()?,
            earliest: reader.u32()?,
        })
    }
}

/// Walks a page's addresses.
pub(crate) struct Entries<'a> {
    reader: Reader<'a>,
    left: u16,
    earliest: u32,
    name: Vec<u8>,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(page: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(page);
        let header = Header::take(&mut reader)?;
        Ok(Self {
            reader,
            left: header.count,
            earliest: header.earliest,
            name: Vec::with_capacity(64),
        })
    }

    /// Goes to the next address, whose bytes [`Entries::name`] then gives.
    pub(crate) fn advance(&mut self) -> Result<Option<Entry>, DecodeError> {
        if self.left == 0 {
            self.reader.finish()?;
            return Ok(None);
        }
        self.left -= 1;
        self.reader.name(&mut self.name)?;
        let packed = self.reader.varint()?;
        let expires = u32::try_from(packed >> 1)
            .ok()
            .and_then(|after| self.earliest.checked_add(after))
            .ok_or_else(|| self.reader.error("an expiry beyond 32 bits"))?;
        Ok(Some(Entry {
            expires,
            own: packed & 1 != 0,
        }))
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(crate) fn address(&self) -> Result<Address, DecodeError> {
        self.reader.address(&self.name)
    }
}

/// A page to write, and the bound that its key carries.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) bound: Vec<u8>,
    pub(crate) page: Vec<u8>,
}

/// Packs sorted addresses into pages.
struct Builder {
    earliest: u32,
    /// A page that has reached this size is followed by another one.
    full: usize,
    done: Vec<Built>,
    bound: Vec<u8>,
    page: Vec<u8>,
    count: u16,
    before: Vec<u8>,
}

impl Builder {
    fn new(bound: Vec<u8>, earliest: u32, full: usize) -> Self {
        Self {
            earliest,
            full,
            done: Vec::new(),
            bound,
            page: vec![0; HEADER_BYTES],
            count: 0,
            before: Vec::with_capacity(64),
        }
    }

    fn push(&mut self, name: &[u8], entry: Entry) {
        if self.page.len() >= self.full {
            // The shortest bound that parts the two addresses.
            let shared = shared_prefix(&self.before, name);
            let bound = name[..=shared.min(name.len() - 1)].to_vec();
            self.seal(false);
            self.bound = bound;
            self.before.clear();
        }
        put_name(&mut self.page, &self.before, name);
        let after = u64::from(entry.expires - self.earliest);
        put_varint(&mut self.page, after << 1 | u64::from(entry.own));
        self.count += 1;
        self.before.clear();
        self.before.extend_from_slice(name);
    }

    fn seal(&mut self, last: bool) {
        let mut page = std::mem::replace(&mut self.page, vec![0; HEADER_BYTES]);
        page[0] = FORMAT | if last { LAST } else { 0 };
        page[1..3].copy_from_slice(&self.count.to_be_bytes());
        page[3..HEADER_BYTES].copy_from_slice(&self.earliest.to_be_bytes());
        self.count = 0;
        self.done.push(Built {
            bound: std::mem::take(&mut self.bound),
            page,
        });
    }
}

/// What a merge made.
pub(crate) struct Merged {
    /// The pages, the first of them with the old page's bound.
    pub(crate) pages: Vec<Built>,
    /// How many addresses are new.
    pub(crate) added: u64,
}

/// Merges sorted, distinct addresses into a page (`None`: there is none yet). A repeated address keeps its later
/// expiry, and stays this sidecar's own once it was. `last`: the class has no page after this one.
pub(crate) fn merge(
    bound: Vec<u8>,
    old: Option<&[u8]>,
    puts: &[Put],
    last: bool,
) -> Result<Merged, DecodeError> {
    let earliest_put = puts.iter().map(|put| put.expires.0).min();
    let mut earliest = earliest_put.unwrap_or(u32::MAX);
    let mut size = old.map_or(HEADER_BYTES, <[u8]>::len);
    if let Some(old) = old {
        let header = Header::read(old)?;
        if header.count > 0 {
            earliest = earliest.min(header.earliest);
            // A lower earliest can make every expiry in the page longer to write.
            if earliest < header.earliest {
                size += usize::from(header.count) * 4;
            }
        }
    }
    size += puts
        .iter()
        .map(|put| put.address.as_str().len() + 7)
        .sum::<usize>();
    // The estimate is an upper bound: front coding saves more than it knows.
    let full = if size <= PAGE_BYTES_MAX {
        usize::MAX
    } else {
        size / size.div_ceil(SPLIT_BYTES)
    };
    let mut builder = Builder::new(bound, earliest, full);
    let mut added = 0;
    let empty = empty_page();
    let mut entries = Entries::of(old.unwrap_or(&empty))?;
    let mut entry = entries.advance()?;
    for put in puts {
        let name = put.address.as_str().as_bytes();
        while let Some(present) = entry
            && entries.name() < name
        {
            builder.push(entries.name(), present);
            entry = entries.advance()?;
        }
        let mut merged = Entry {
            expires: put.expires.0,
            own: put.own,
        };
        if let Some(present) = entry
            && entries.name() == name
        {
            merged.expires = merged.expires.max(present.expires);
            merged.own |= present.own;
            entry = entries.advance()?;
        } else {
            added += 1;
        }
        builder.push(name, merged);
    }
    while let Some(present) = entry {
        builder.push(entries.name(), present);
        entry = entries.advance()?;
    }
    builder.seal(last);
    Ok(Merged {
        pages: builder.done,
        added,
    })
}

/// Keeps the addresses of a page that `keep` wants. `None` if it wants all of them: nothing is to be written.
pub(crate) fn retain(
    page: &[u8],
    keep: impl FnMut(&[u8], Entry) -> bool,
) -> Result<Option<Retained>, DecodeError> {
    let retained = rewrite(page, keep)?;
    Ok((retained.removed > 0).then_some(retained))
}

/// Keeps the addresses of a page that `keep` wants, and makes its earliest expiry exact whether or not that is all.
pub(crate) fn rewrite(
    page: &[u8],
    mut keep: impl FnMut(&[u8], Entry) -> bool,
) -> Result<Retained, DecodeError> {
    let header = Header::read(page)?;
    let mut kept: Vec<(Vec<u8>, Entry)> = Vec::with_capacity(header.count.into());
    let mut entries = Entries::of(page)?;
    while let Some(entry) = entries.advance()? {
        if keep(entries.name(), entry) {
            kept.push((entries.name().to_vec(), entry));
        }
    }
    let earliest = kept.iter().map(|(_, entry)| entry.expires).min();
    let mut builder = Builder::new(Vec::new(), earliest.unwrap_or(0), usize::MAX);
    for (name, entry) in &kept {
        builder.push(name, *entry);
    }
    builder.seal(header.last);
    let built = builder
        .done
        .pop()
        .expect("invariant: sealing makes a page, and one without a limit makes no other");
    Ok(Retained {
        removed: u64::from(header.count) - kept.len() as u64,
        left: kept.len() as u64,
        page: built.page,
    })
}

/// What [`retain`] or [`rewrite`] left.
pub(crate) struct Retained {
    pub(crate) removed: u64,
    pub(crate) left: u64,
    pub(crate) page: Vec<u8>,
}

/// A page without addresses: the first page of a class whose later pages have some.
fn empty_page() -> [u8; HEADER_BYTES] {
    [FORMAT, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<String, (u32, bool)>;

    fn puts(from: &Model) -> Vec<Put> {
        from.iter()
            .map(|(address, &(expires, own))| Put {
                address: Address::parse(address).unwrap(),
                expires: UnixSeconds(expires),
                own,
            })
            .collect()
    }

    fn read(page: &[u8]) -> Model {
        let mut model = Model::new();
        let mut entries = Entries::of(page).unwrap();
        while let Some(entry) = entries.advance().unwrap() {
            let address = entries.address().unwrap();
            model.insert(address.as_str().to_owned(), (entry.expires, entry.own));
        }
        assert_eq!(
            model.len(),
            usize::from(Header::read(page).unwrap().count),
            "distinct addresses in byte order"
        );
        model
    }

    fn entries() -> impl Strategy<Value = Model> {
        let address = prop_oneof!["[a-c]{1,4}", "get_items::[0-9]{1,3}:[0-9]{1,3}", "x{249}y?"];
        let expires = prop_oneof![0_u32..300, any::<u32>()];
        prop::collection::btree_map(address, (expires, any::<bool>()), 1..150)
    }

    proptest! {
        #[test]
        fn merging_keeps_the_later_expiry_and_splits_within_the_limit(
            first in entries(),
            second in entries(),
        ) {
            let mut pages = BTreeMap::new();
            let merged = merge(Vec::new(), None, &puts(&first), true).unwrap();
            prop_assert_eq!(merged.added, first.len() as u64);
            for built in merged.pages {
                pages.insert(built.bound, built.page);
            }
            let mut expected = first.clone();
            for (address, &(expires, own)) in &second {
                let slot = expected.entry(address.clone()).or_insert((expires, own));
                *slot = (slot.0.max(expires), slot.1 || own);
            }
            let bounds: Vec<_> = pages.keys().cloned().collect();
            let mut added = 0;
            for (index, bound) in bounds.iter().enumerate() {
                let after = bounds.get(index + 1);
                let part: Model = second
                    .iter()
                    .filter(|(address, _)| address.as_bytes() >= bound.as_slice())
                    .filter(|(address, _)| after.is_none_or(|a| address.as_bytes() < a.as_slice()))
                    .map(|(address, entry)| (address.clone(), *entry))
                    .collect();
                let old = pages.remove(bound).unwrap();
                let merged = merge(bound.clone(), Some(&old), &puts(&part), after.is_none()).unwrap();
                prop_assert_eq!(&merged.pages[0].bound, bound);
                added += merged.added;
                for built in merged.pages {
                    pages.insert(built.bound, built.page);
                }
            }
            prop_assert_eq!(added, (expected.len() - first.len()) as u64);
            let mut found = Model::new();
            let mut upper: Option<Vec<u8>> = None;
            for (bound, page) in pages.iter().rev() {
                prop_assert!(page.len() <= PAGE_BYTES_MAX, "{} bytes", page.len());
                let header = Header::read(page).unwrap();
                prop_assert_eq!(header.last, upper.is_none());
                for (address, (expires, own)) in read(page) {
                    prop_assert!(address.as_bytes() >= bound.as_slice());
                    prop_assert!(upper.as_ref().is_none_or(|u| address.as_bytes() < u.as_slice()));
                    prop_assert!(expires >= header.earliest);
                    found.insert(address, (expires, own));
                }
                upper = Some(bound.clone());
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn retaining_removes_what_is_not_wanted(model in entries(), bar in 0_u32..300) {
            let merged = merge(Vec::new(), None, &puts(&model), true).unwrap();
            for built in merged.pages {
                let before = read(&built.page);
                let after = retain(&built.page, |_, entry| entry.expires >= bar).unwrap();
                let expected: Model = before
                    .clone()
                    .into_iter()
                    .filter(|(_, entry)| entry.0 >= bar)
                    .collect();
                match after {
                    None => prop_assert_eq!(before, expected),
                    Some(retained) => {
                        prop_assert_eq!(retained.left, expected.len() as u64);
                        prop_assert_eq!(retained.removed, (before.len() - expected.len()) as u64);
                        prop_assert!(retained.page.len() <= PAGE_BYTES_MAX);
                        prop_assert_eq!(read(&retained.page), expected);
                    }
                }
            }
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes: Vec<u8>, address in "[a-c]{1,3}") {
            let put = puts(&Model::from([(address, (7, true))]));
            let _ = merge(Vec::new(), Some(&bytes), &put, true);
            let _ = retain(&bytes, |_, _| false);
        }
    }

    /// The bytes that docs/formats-store.md shows.
    #[test]
    fn a_page_has_the_documented_bytes() {
        let model = Model::from([
            ("a1".to_owned(), (100, true)),
            ("a2".to_owned(), (101, false)),
        ]);
        let merged = merge(Vec::new(), None, &puts(&model), true).unwrap();
        let page = b"\x81\x00\x02\x00\x00\x00\x64\x00\x02a1\x01\x01\x012\x02";
        assert_eq!(merged.pages[0].page, page);
    }

    #[test]
    fn a_rewritten_page_knows_its_earliest_expiry_exactly() {
        let model = Model::from([
            ("a".to_owned(), (10, false)),
            ("b".to_owned(), (100, false)),
        ]);
        let merged = merge(Vec::new(), None, &puts(&model), true).unwrap();
        let renewed = Model::from([("a".to_owned(), (300, false))]);
        let merged = merge(
            Vec::new(),
            Some(&merged.pages[0].page),
            &puts(&renewed),
            true,
        )
        .unwrap();
        let page = &merged.pages[0].page;
        assert_eq!(
            Header::read(page).unwrap().earliest,
            10,
            "a bound from below"
        );
        let rewritten = rewrite(page, |_, _| true).unwrap();
        assert_eq!(rewritten.removed, 0);
        assert_eq!(Header::read(&rewritten.page).unwrap().earliest, 100);
        assert_eq!(read(&rewritten.page), read(page));
    }

    #[test]
    fn addresses_of_one_family_take_few_bytes() {
        let model: Model = (0..200)
            .map(|index| {
                (
                    format!("get_items_in_cart::13:10:{}", index * 10),
                    (1_700_000_000 + index, true),
                )
            })
            .collect();
        let merged = merge(Vec::new(), None, &puts(&model), true).unwrap();
        let bytes: usize = merged.pages.iter().map(|built| built.page.len()).sum();
        assert!(bytes < 200 * 9, "{bytes}");
    }
}
