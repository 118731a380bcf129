//! The directory inside one commit: which addresses of which classes may be in the cache, and until when.
//!
//! A class's addresses lie in pages (see [`crate::page`]); the first page's bound is empty, and it exists while the
//! class has any page, so that one look-up tells a class without addresses, and a second one finds any other page.
//! Beside them stands the expiry index: for every address there is a key (slot, class), whose slot is the first of
//! 64 s in which the address has surely lapsed. Its value is where in the class's pages [`expire`] stopped, so that a
//! large class is gone through in bounded steps; a new registration in the slot sets it back to the beginning.

use std::collections::HashMap;

use grapevine_core::event::{Match, Registration};
use grapevine_core::id::UnixSeconds;
use grapevine_core::names::{Address, ClassPath};
use sled::IVec;

use crate::StoreError;
use crate::keys::{self, Range, Table};
use crate::page::{self, Entries, Header, Put};
use crate::txn::Txn;

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
        for built in merged.pages {
            txn.put(keys::page(sort_key, &built.bound), built.page);
        }
        for slot in merged.slots {
            txn.put(keys::expiry(slot, sort_key), IVec::default());
        }
    }
    Ok(added)
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
            let key = keys::page(sort_key, &located.bound);
            put_back(txn, sort_key, key, retained)?;
        }
    }
    Ok(removed)
}

/// Writes a page from which addresses were removed, or drops it when none is left.
fn put_back(
    txn: &mut Txn<'_>,
    sort_key: &[u8],
    key: Vec<u8>,
    retained: page::Retained,
) -> Result<(), StoreError> {
    let first_key = keys::page(sort_key, &[]);
    if retained.left > 0 {
        txn.put(key, retained.page);
        return Ok(());
    }
    if key == first_key {
        txn.put(key, retained.page);
    } else {
        txn.remove(key);
    }
    // The first page stays while there are others, though it be empty; after the last of them it goes too.
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
    registrations: u64,
}

impl Found {
    fn push(
        &mut self,
        own: bool,
        address: impl FnOnce() -> Result<Address, StoreError>,
    ) -> Result<(), StoreError> {
        self.registrations += 1;
        if own || !self.own_only {
            self.addresses.push(address()?);
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
                found.push(entry.own, || Ok(entries.address()?))?;
            }
            removed.push(key.to_vec());
        }
        for key in removed {
            txn.remove(key);
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
            let mut own = Vec::new();
            let retained = page::retain(&page, |name, entry| match position(&common, name) {
                None => true,
                Some(place) => {
                    own.push((place, entry.own));
                    false
                }
            })?;
            for (place, own) in own {
                found.push(own, || Ok(common[place].clone()))?;
            }
            if let Some(retained) = retained {
                changed.push((key, retained));
            }
        }
        for (key, retained) in changed {
            let sort_key = keys::split_class(&key)?.0.to_vec();
            put_back(txn, &sort_key, key.to_vec(), retained)?;
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

/// Removes what has lapsed: at most `limit` registrations, reading at most about `limit` pages. Tells how many went.
pub(crate) fn expire(txn: &mut Txn<'_>, now: UnixSeconds, limit: usize) -> Result<u64, StoreError> {
    let due = keys::slot_due(now.0);
    let mut budget = Budget {
        removals: limit as u64,
        pages: limit as u64,
        removed: 0,
    };
    // Keys removed on the way are skipped one by one, so the scan goes on from the last one.
    let mut start = Vec::new();
    while !budget.is_spent() {
        let Some((key, resume)) = txn.first(keys::expiries_due(due).from(start))? else {
            break;
        };
        start = key.to_vec();
        start.push(0);
        let sort_key = keys::parse_expiry(&key)?.1.to_vec();
        match expire_class(txn, &sort_key, &resume, due, &mut budget)? {
            Some(stopped) => txn.put(key.to_vec(), stopped),
            None => txn.remove(key.to_vec()),
        }
    }
    Ok(budget.removed)
}

struct Budget {
    removals: u64,
    pages: u64,
    removed: u64,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.removed >= self.removals || self.pages == 0
    }
}

/// Goes through a class's pages from a bound on. `Some`: the bound where the budget ended.
fn expire_class(
    txn: &mut Txn<'_>,
    sort_key: &[u8],
    resume: &[u8],
    due: u32,
    budget: &mut Budget,
) -> Result<Option<Vec<u8>>, StoreError> {
    // A class that has nothing left still costs the look-up.
    budget.pages -= 1;
    let mut start = keys::page(sort_key, resume);
    loop {
        let range = keys::own(Table::Directory, sort_key).from(start);
        let Some((key, page)) = txn.first(range)? else {
            return Ok(None);
        };
        if budget.is_spent() {
            return Ok(Some(keys::split_class(&key)?.1.to_vec()));
        }
        budget.pages -= 1;
        if keys::slot(Header::read(&page)?.earliest) <= due {
            let mut allowed = budget.removals - budget.removed;
            let mut cut = false;
            let retained = page::retain(&page, |_, entry| {
                let lapsed = keys::slot(entry.expires) <= due;
                if lapsed && allowed == 0 {
                    cut = true;
                    return true;
                }
                allowed -= u64::from(lapsed);
                !lapsed
            })?;
            if let Some(retained) = retained {
                budget.removed += retained.removed;
                put_back(txn, sort_key, key.to_vec(), retained)?;
            }
            if cut {
                return Ok(Some(keys::split_class(&key)?.1.to_vec()));
            }
        }
        start = key.to_vec();
        start.push(0);
    }
}
