//! The directory inside one commit: which addresses of which classes may be in the cache, and until when.
//!
//! A class's addresses lie in pages (see [`crate::page`]); the first page's bound is empty, and it exists while the
//! class has any page, so that one look-up tells a class without addresses, and a second one finds any other page.
//!
//! Beside them stands the expiry index: every page with addresses has one key (slot, class, bound), whose slot is the
//! first of 64 s in which the page's earliest expiry has surely passed. Whoever writes a page moves its key along
//! ([`put_page`]), so the index has as many keys as there are pages, and [`expire`] visits only pages in which
//! something has lapsed, or was about to before it was registered anew.

use std::collections::HashMap;

use grapevine_core::event::{Match, Registration};
use grapevine_core::id::UnixSeconds;
use grapevine_core::names::{Address, ClassPath};
use sled::IVec;

use crate::StoreError;
use crate::keys::{self, Range, Table};
use crate::page::{self, Entries, Entry, Header, Put, Retained};
use crate::txn::Txn;

/// What one [`expire`] may read and write, in bytes, whatever its limit: a bump that arrives meanwhile waits for it.
/// It is some 2,000 full pages, or 30,000 of one address.
const EXPIRE_BYTES_MAX: usize = 8 << 20;
/// What a visit costs beside the page's own bytes.
const VISIT_BYTES: usize = 256;

/// Registrations gathered over several writes of a commit, by class.
#[derive(Default)]
pub(crate) struct Gathered {
    classes: HashMap<ClassPath, Vec<Put>>,
}

impl Gathered {
    pub(crate) fn gather(&mut self, registrations: &[Registration], own: bool) {
        for registration in registrations {
            for class in &registration.classes {
                let put = Put {
                    address: registration.address.clone(),
                    expires: registration.expires,
                    own,
                };
                match self.classes.get_mut(class) {
                    Some(puts) => puts.push(put),
                    None => {
                        self.classes.insert(class.clone(), vec![put]);
                    }
                }
            }
        }
    }

    /// Puts them into the directory. Tells how many were new.
    pub(crate) fn register(&mut self, txn: &mut Txn<'_>) -> Result<u64, StoreError> {
        let mut added = 0;
        for (class, mut puts) in self.classes.drain() {
            unify(&mut puts);
            added += register(txn, &class.sort_key(), &puts)?;
        }
        Ok(added)
    }
}

/// Sorts, and makes one of an address's repetitions.
fn unify(puts: &mut Vec<Put>) {
    puts.sort_unstable_by(|left, right| left.address.cmp(&right.address));
    puts.dedup_by(|later, kept| {
        if later.address != kept.address {
            return false;
        }
        kept.expires = kept.expires.max(later.expires);
        kept.own |= later.own;
        true
    });
}

/// A page, and where its addresses end.
struct Located {
    bound: Vec<u8>,
    page: Option<IVec>,
    /// The next page's bound; `None` if there is no next page.
    upper: Option<Vec<u8>>,
}

/// Finds the page that an address belongs to.
fn locate(txn: &Txn<'_>, sort_key: &[u8], address: &Address) -> Result<Located, StoreError> {
    let first_key = keys::page(sort_key, &[]);
    let Some(first) = txn.get(&first_key)? else {
        return Ok(Located {
            bound: Vec::new(),
            page: None,
            upper: None,
        });
    };
    if Header::read(&first)?.last {
        return Ok(Located {
            bound: Vec::new(),
            page: Some(first),
            upper: None,
        });
    }
    let wanted = keys::page_for(sort_key, address);
    let (key, page) = txn
        .last_up_to(&first_key, &wanted)?
        .unwrap_or((IVec::from(first_key), first));
    let upper = if Header::read(&page)?.last {
        None
    } else {
        page_after(txn, sort_key, &key)?
    };
    Ok(Located {
        bound: keys::split_class(&key)?.1.to_vec(),
        page: Some(page),
        upper,
    })
}

/// The bound of the page after the one with this key.
fn page_after(txn: &Txn<'_>, sort_key: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let mut start = key.to_vec();
    start.push(0);
    match txn.first(keys::own(Table::Directory, sort_key).from(start))? {
        None => Ok(None),
        Some((key, _)) => Ok(Some(keys::split_class(&key)?.1.to_vec())),
    }
}

/// How many of the sorted names come before a bound.
fn before<T>(items: &[T], upper: Option<&[u8]>, name: impl Fn(&T) -> &Address) -> usize {
    upper.map_or(items.len(), |upper| {
        items.partition_point(|item| name(item).as_str().as_bytes() < upper)
    })
}

fn register(txn: &mut Txn<'_>, sort_key: &[u8], puts: &[Put]) -> Result<u64, StoreError> {
    let mut added = 0;
    let mut rest = puts;
    while let Some(put) = rest.first() {
        let located = locate(txn, sort_key, &put.address)?;
        let count = before(rest, located.upper.as_deref(), |put| &put.address);
        let (here, later) = rest.split_at(count);
        rest = later;
        let merged = page::merge(
            located.bound,
            located.page.as_deref(),
            here,
            located.upper.is_none(),
        )?;
        added += merged.added;
        let mut before = located.page.as_deref().map(Header::read).transpose()?;
        for built in merged.pages {
            put_page(txn, sort_key, &built.bound, before.take(), built.page)?;
        }
    }
    Ok(added)
}

/// Writes a page over the one whose header is given, if there was one, and moves its key in the expiry index along.
fn put_page(
    txn: &mut Txn<'_>,
    sort_key: &[u8],
    bound: &[u8],
    before: Option<Header>,
    page: Vec<u8>,
) -> Result<(), StoreError> {
    let slot = Header::read(&page)?.slot();
    move_expiry(txn, sort_key, bound, before.and_then(Header::slot), slot);
    txn.put(keys::page(sort_key, bound), page);
    Ok(())
}

/// Drops the page whose header is given, and its key in the expiry index.
fn drop_page(txn: &mut Txn<'_>, sort_key: &[u8], bound: &[u8], before: Header) {
    move_expiry(txn, sort_key, bound, before.slot(), None);
    txn.remove(keys::page(sort_key, bound));
}

fn move_expiry(
    txn: &mut Txn<'_>,
    sort_key: &[u8],
    bound: &[u8],
    from: Option<u32>,
    to: Option<u32>,
) {
    if from == to {
        return;
    }
    if let Some(slot) = from {
        txn.remove(keys::expiry(slot, sort_key, bound));
    }
    if let Some(slot) = to {
        txn.put(keys::expiry(slot, sort_key, bound), IVec::default());
    }
}

/// Takes registrations out of each of their classes. Tells how many were there.
pub(crate) fn unregister(
    txn: &mut Txn<'_>,
    registrations: &[Registration],
) -> Result<u64, StoreError> {
    let mut classes: HashMap<&ClassPath, Vec<Address>> = HashMap::new();
    for registration in registrations {
        for class in &registration.classes {
            let addresses = classes.entry(class).or_default();
            addresses.push(registration.address.clone());
        }
    }
    let mut removed = 0;
    for (class, mut addresses) in classes {
        addresses.sort_unstable();
        addresses.dedup();
        removed += remove(txn, &class.sort_key(), &addresses)?;
    }
    Ok(removed)
}

/// Removes sorted, distinct addresses from a class.
fn remove(txn: &mut Txn<'_>, sort_key: &[u8], addresses: &[Address]) -> Result<u64, StoreError> {
    let mut removed = 0;
    let mut rest = addresses;
    while let Some(address) = rest.first() {
        let located = locate(txn, sort_key, address)?;
        let Some(page) = located.page else { break };
        let count = before(rest, located.upper.as_deref(), |address| address);
        let (here, later) = rest.split_at(count);
        rest = later;
        let retained = page::retain(&page, |name, _| {
            here.binary_search_by(|address| address.as_str().as_bytes().cmp(name))
                .is_err()
        })?;
        if let Some(retained) = retained {
            removed += retained.removed;
            put_back(
                txn,
                sort_key,
                &located.bound,
                Header::read(&page)?,
                retained,
            )?;
        }
    }
    Ok(removed)
}

/// Writes a page from which addresses were removed, or drops it when none is left.
fn put_back(
    txn: &mut Txn<'_>,
    sort_key: &[u8],
    bound: &[u8],
    before: Header,
    retained: Retained,
) -> Result<(), StoreError> {
    if retained.left > 0 {
        return put_page(txn, sort_key, bound, Some(before), retained.page);
    }
    if bound.is_empty() {
        put_page(txn, sort_key, bound, Some(before), retained.page)?;
    } else {
        drop_page(txn, sort_key, bound, before);
    }
    // The first page stays while there are others, though it be empty; after the last of them it goes too.
    let first_key = keys::page(sort_key, &[]);
    if let Some(first) = txn.get(&first_key)?
        && Header::read(&first)?.count == 0
        && page_after(txn, sort_key, &first_key)?.is_none()
    {
        txn.remove(first_key);
    }
    Ok(())
}

/// What a take removed.
pub(crate) struct Removed {
    /// In byte order, without repetitions.
    pub(crate) addresses: Vec<Address>,
    /// When the last of their values has ended.
    pub(crate) expires: UnixSeconds,
    /// Counted once per class.
    pub(crate) registrations: u64,
}

/// Takes out what is registered at and below the classes; with [`Match::All`], what is registered at or below every
/// one of them. The addresses are held in memory, some 100 bytes each: they are what the caller asked for.
pub(crate) fn take(
    txn: &mut Txn<'_>,
    classes: &[ClassPath],
    matching: Match,
    own_only: bool,
) -> Result<Removed, StoreError> {
    let mut found = Found {
        own_only,
        ..Found::default()
    };
    match (matching, subtrees(classes, matching).as_slice()) {
        // In each of one is in any of one: no address has to be looked for.
        (Match::Any, subtrees) | (Match::All, subtrees @ [_]) => {
            take_any(txn, subtrees, &mut found)?;
        }
        (Match::All, subtrees) => take_all(txn, subtrees, &mut found)?,
    }
    found.addresses.sort_unstable();
    found.addresses.dedup();
    Ok(Removed {
        addresses: found.addresses,
        expires: UnixSeconds(found.expires),
        registrations: found.registrations,
    })
}

/// Where the pages at and below the classes are. The class that stands for every class is the whole directory, beside
/// which no other class says anything in a match of any, and which says nothing beside others in a match of all.
fn subtrees(classes: &[ClassPath], matching: Match) -> Vec<Range> {
    let named: Vec<_> = classes
        .iter()
        .filter(|class| !class.is_reserved())
        .map(|class| keys::at_and_below(Table::Directory, &class.sort_key()))
        .collect();
    let everything = match matching {
        Match::Any => named.len() < classes.len(),
        Match::All => named.is_empty() && !classes.is_empty(),
    };
    if everything {
        vec![Table::Directory.range()]
    } else {
        named
    }
}

#[derive(Default)]
struct Found {
    /// Only this sidecar's own are wanted.
    own_only: bool,
    addresses: Vec<Address>,
    expires: u32,
    registrations: u64,
}

impl Found {
    fn push(
        &mut self,
        entry: Entry,
        address: impl FnOnce() -> Result<Address, StoreError>,
    ) -> Result<(), StoreError> {
        self.registrations += 1;
        if entry.own || !self.own_only {
            self.addresses.push(address()?);
            self.expires = self.expires.max(entry.expires);
        }
        Ok(())
    }
}

fn take_any(txn: &mut Txn<'_>, subtrees: &[Range], found: &mut Found) -> Result<(), StoreError> {
    for subtree in subtrees {
        let mut removed = Vec::new();
        for entry in txn.scan(subtree.clone()) {
            let (key, page) = entry?;
            let mut entries = Entries::of(&page)?;
            while let Some(entry) = entries.advance()? {
                found.push(entry, || Ok(entries.address()?))?;
            }
            removed.push((key, Header::read(&page)?));
        }
        for (key, header) in removed {
            let (sort_key, bound) = keys::split_class(&key)?;
            drop_page(txn, sort_key, bound, header);
        }
    }
    Ok(())
}

fn take_all(txn: &mut Txn<'_>, subtrees: &[Range], found: &mut Found) -> Result<(), StoreError> {
    let Some((first, others)) = subtrees.split_first() else {
        return Ok(());
    };
    let mut common = addresses_below(txn, first, |_| true)?;
    for subtree in others {
        let here = addresses_below(txn, subtree, |name| contains(&common, name))?;
        common = here;
    }
    if common.is_empty() {
        return Ok(());
    }
    for subtree in subtrees {
        let mut changed = Vec::new();
        for entry in txn.scan(subtree.clone()) {
            let (key, page) = entry?;
            let mut taken = Vec::new();
            let retained = page::retain(&page, |name, entry| match position(&common, name) {
                None => true,
                Some(place) => {
                    taken.push((place, entry));
                    false
                }
            })?;
            for (place, entry) in taken {
                found.push(entry, || Ok(common[place].clone()))?;
            }
            if let Some(retained) = retained {
                changed.push((key, Header::read(&page)?, retained));
            }
        }
        for (key, header, retained) in changed {
            let (sort_key, bound) = keys::split_class(&key)?;
            put_back(txn, sort_key, bound, header, retained)?;
        }
    }
    Ok(())
}

fn position(sorted: &[Address], name: &[u8]) -> Option<usize> {
    sorted
        .binary_search_by(|address| address.as_str().as_bytes().cmp(name))
        .ok()
}

fn contains(sorted: &[Address], name: &[u8]) -> bool {
    position(sorted, name).is_some()
}

/// The wanted addresses of a subtree, sorted and distinct.
fn addresses_below(
    txn: &Txn<'_>,
    subtree: &Range,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Address>, StoreError> {
    let mut found = Vec::new();
    for entry in txn.scan(subtree.clone()) {
        let (_, page) = entry?;
        let mut entries = Entries::of(&page)?;
        while entries.advance()?.is_some() {
            if wanted(entries.name()) {
                found.push(entries.address()?);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What an [`expire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    /// Registrations that are gone.
    pub(crate) removed: u64,
    /// Pages that were looked into.
    pub(crate) pages: u64,
    /// Whether it stopped at a limit, with more due.
    pub(crate) backlog: bool,
}

/// Removes what has lapsed: at most `limit` registrations, and at most [`EXPIRE_BYTES_MAX`] of pages and keys.
pub(crate) fn expire(
    txn: &mut Txn<'_>,
    now: UnixSeconds,
    limit: usize,
) -> Result<Expired, StoreError> {
    let due = keys::slot_due(now.0);
    let limit = limit as u64;
    let mut expired = Expired::default();
    let mut bytes_left = EXPIRE_BYTES_MAX;
    // Keys removed on the way would be skipped one by one, so each look goes on from the last one.
    let mut start = Vec::new();
    while expired.removed < limit && bytes_left > 0 {
        let Some((key, _)) = txn.first(keys::expiries_due(due).from(start))? else {
            return Ok(expired);
        };
        bytes_left = bytes_left.saturating_sub(VISIT_BYTES + key.len());
        let (_, sort_key, bound) = keys::parse_expiry(&key)?;
        let Some(page) = txn.get(&keys::page(sort_key, bound))? else {
            let what = "the expiry index names a page that is not there";
            return Err(StoreError::Corrupt(what.to_owned()));
        };
        bytes_left = bytes_left.saturating_sub(page.len());
        expired.pages += 1;
        let mut allowed = limit - expired.removed;
        let retained = page::rewrite(&page, |_, entry| {
            let goes = allowed > 0 && keys::slot(entry.expires) <= due;
            allowed -= u64::from(goes);
            !goes
        })?;
        expired.removed += retained.removed;
        // The page's key moves to a later slot, or, when the limit cut the page, stays.
        put_back(txn, sort_key, bound, Header::read(&page)?, retained)?;
        start = key.to_vec();
        start.push(0);
    }
    expired.backlog = txn.first(keys::expiries_due(due))?.is_some();
    Ok(expired)
}

#[cfg(test)]
mod tests;
