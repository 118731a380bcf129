//! Listings: they walk the tree by key, from what was last given out.

use std::collections::BTreeMap;

use grapevine_core::id::UnixSeconds;
use grapevine_core::names::ClassPath;
use grapevine_core::store::RecoveredClass;

use crate::keys::{self, Range, Table};
use crate::page::{Entries, Header};
use crate::txn::{Scan, Txn};
use crate::versions::Classes;
use crate::{AddressRow, ClassRow, Cursor, Page, StoreError};

/// Registrations at and below a class, or all.
pub(crate) fn addresses(
    txn: &Txn<'_>,
    below: Option<&ClassPath>,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Page<AddressRow>, StoreError> {
    let limit = limit.max(1);
    let mut range = range(Table::Directory, below);
    let mut done: Option<(Vec<u8>, Vec<u8>)> = None;
    if let Some(cursor) = after {
        let (sort_key, address) = cursor.parse_addresses()?;
        let first = keys::page(&sort_key, &[]);
        let wanted = keys::page_for(&sort_key, &address);
        // The page that the address is in, or would be.
        let start = txn.last_up_to(&first, &wanted)?;
        range = range.from(start.map_or(first, |(key, _)| key.to_vec()));
        done = Some((sort_key, address.as_str().as_bytes().to_vec()));
    }
    let mut rows: Vec<AddressRow> = Vec::new();
    for entry in txn.scan(range) {
        let (key, page) = entry?;
        let sort_key = keys::split_class(&key)?.0;
        let class = keys::class_of(sort_key)?;
        let mut entries = Entries::of(&page)?;
        while let Some(entry) = entries.advance()? {
            // A page that was split since the scan passed it shows what was already given out.
            if done.as_ref().is_some_and(|(done_class, done_address)| {
                (sort_key, entries.name()) <= (done_class.as_slice(), done_address.as_slice())
            }) {
                continue;
            }
            if rows.len() == limit {
                let next = rows
                    .last()
                    .map(|row| Cursor::addresses(&row.class.sort_key(), &row.address));
                return Ok(Page { rows, next });
            }
            rows.push(AddressRow {
                class: class.clone(),
                address: entries.address()?,
                expires: UnixSeconds(entry.expires),
            });
        }
        if let Some(row) = rows.last() {
            done = Some((
                row.class.sort_key(),
                row.address.as_str().as_bytes().to_vec(),
            ));
        }
    }
    Ok(Page { rows, next: None })
}

fn range(table: Table, below: Option<&ClassPath>) -> Range {
    match below {
        Some(class) => keys::at_and_below(table, &class.sort_key()),
        None => table.range(),
    }
}

/// The range of a table from after what a cursor of classes says.
fn classes_from(
    table: Table,
    below: Option<&ClassPath>,
    after: Option<&Cursor>,
) -> Result<Range, StoreError> {
    let range = range(table, below);
    Ok(match after {
        Some(cursor) => range.from(keys::after_own(table, &cursor.parse_classes()?)),
        None => range,
    })
}

/// Sort keys of classes with entries or conjunctions, for [`classes`]: one more than asked for tells whether there is a
/// next page.
pub(crate) fn bumped(
    txn: &Txn<'_>,
    below: Option<&ClassPath>,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    let mut classes = Classes::of(txn, classes_from(Table::Classes, below, after)?);
    while found.len() <= limit.max(1) {
        let Some((sort_key, _)) = classes.advance()? else {
            break;
        };
        found.push(sort_key);
    }
    Ok(found)
}

/// Classes that were found [`bumped`], and those with registrations.
pub(crate) fn classes(
    txn: &Txn<'_>,
    bumped: Vec<Vec<u8>>,
    below: Option<&ClassPath>,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Page<ClassRow>, StoreError> {
    let limit = limit.max(1);
    let mut merged: BTreeMap<Vec<u8>, (u64, bool)> = bumped
        .into_iter()
        .map(|sort_key| (sort_key, (0, true)))
        .collect();
    let mut registered = Counts::of(txn, classes_from(Table::Directory, below, after)?);
    for _ in 0..=limit {
        let Some((sort_key, count)) = registered.advance()? else {
            break;
        };
        merged.entry(sort_key).or_default().0 = count;
    }
    let more = merged.len() > limit;
    let mut rows = Vec::with_capacity(limit.min(merged.len()));
    for (sort_key, (addresses, bumped)) in merged.into_iter().take(limit) {
        rows.push(ClassRow {
            class: keys::class_of(&sort_key)?,
            addresses,
            bumped,
        });
    }
    let next = rows
        .last()
        .filter(|_| more)
        .map(|row| Cursor::classes(&row.class.sort_key()));
    Ok(Page { rows, next })
}

/// Counts the addresses of one class after the other.
struct Counts<'a> {
    scan: Scan<'a>,
    ahead: Option<(Vec<u8>, u64)>,
}

impl<'a> Counts<'a> {
    fn of(txn: &'a Txn<'_>, range: Range) -> Self {
        Self {
            scan: txn.scan(range),
            ahead: None,
        }
    }

    fn advance(&mut self) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        let mut current = self.ahead.take();
        for entry in self.scan.by_ref() {
            let (key, page) = entry?;
            let sort_key = keys::split_class(&key)?.0;
            let count = u64::from(Header::read(&page)?.count);
            match &mut current {
                Some((class, counted)) if class == sort_key => *counted += count,
                Some(_) => {
                    self.ahead = Some((sort_key.to_vec(), count));
                    return Ok(current);
                }
                None => current = Some((sort_key.to_vec(), count)),
            }
        }
        Ok(current)
    }
}

/// Classes' entries and conjunctions.
pub(crate) fn versions(
    txn: &Txn<'_>,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Page<RecoveredClass>, StoreError> {
    let limit = limit.max(1);
    let mut range = Table::Classes.range();
    if let Some(cursor) = after {
        range = range.from(keys::after_own(Table::Classes, &cursor.parse_versions()?));
    }
    let mut rows: Vec<RecoveredClass> = Vec::new();
    let mut classes = Classes::of(txn, range);
    while let Some((_, class)) = classes.advance()? {
        if rows.len() == limit {
            let next = rows
                .last()
                .map(|row| Cursor::versions(&row.class.sort_key()));
            return Ok(Page { rows, next });
        }
        rows.push(class);
    }
    Ok(Page { rows, next: None })
}
