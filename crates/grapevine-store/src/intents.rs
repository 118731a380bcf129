//! Write intents: a record each, from `BeginWrite` to its end.
//!
//! ```text
//! varint length, then that many bytes, the whole cut into parts of 4,096 as a logged event is:
//! 8  lease in nanoseconds
//! the bump, or the change of rows, as a logged event's bytes
//! ```
//!
//! Most have one part. An intent may name 1,000 classes of 200 bytes, and the engine takes no such values well (see `log`).

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{BumpEvent, Event};
use grapevine_core::intent::{Intent, IntentId, Owed};

use crate::codec::{Reader, put_count};
use crate::keys::{self, Table};
use crate::log::{PART_BYTES_MAX, framed_len};
use crate::txn::Txn;
use crate::{StoreError, event};

pub(crate) fn put(txn: &mut Txn<'_>, intent: &Intent) -> Result<(), StoreError> {
    // Another one of its name may have had more parts.
    remove(txn, intent.id)?;
    let framed = encode(intent);
    for (part, bytes) in (0..).zip(framed.chunks(PART_BYTES_MAX)) {
        txn.put(keys::intent(intent.id, part), bytes);
    }
    Ok(())
}

pub(crate) fn remove(txn: &mut Txn<'_>, id: IntentId) -> Result<(), StoreError> {
    let Some(first) = txn.get(&keys::intent(id, 0))? else {
        return Ok(());
    };
    let parts = framed_len(&first)?.div_ceil(PART_BYTES_MAX);
    for part in (0..=u16::MAX).take(parts) {
        txn.remove(keys::intent(id, part));
    }
    Ok(())
}

/// All of them, by name.
pub(crate) fn read(txn: &Txn<'_>) -> Result<Vec<Intent>, StoreError> {
    let mut intents = Vec::new();
    let mut framed: Vec<u8> = Vec::new();
    let mut whole = 0;
    let mut next = None;
    for entry in txn.scan(Table::Intents.range()) {
        let (key, value) = entry?;
        let (id, part) = keys::parse_intent(&key)?;
        if next.is_some_and(|next| next != (id, part)) || next.is_none() && part != 0 {
            return Err(StoreError::Corrupt(format!("{id:?} lacks a part")));
        }
        if part == 0 {
            framed.clear();
            whole = framed_len(&value)?;
        }
        framed.extend_from_slice(&value);
        next = if framed.len() < whole {
            Some((id, part.saturating_add(1)))
        } else {
            intents.push(decode(id, &framed)?);
            None
        };
    }
    match next {
        None => Ok(intents),
        Some((id, _)) => Err(StoreError::Corrupt(format!("{id:?} lacks its end"))),
    }
}

fn encode(intent: &Intent) -> Vec<u8> {
    let owed = Arc::new(BumpEvent::from(intent.owed.clone()));
    let owed = event::encode(&Event::Bump(owed));
    let mut framed = Vec::with_capacity(owed.len() + 12);
    put_count(&mut framed, 8 + owed.len());
    let lease = u64::try_from(intent.lease.as_nanos()).unwrap_or(u64::MAX);
    framed.extend_from_slice(&lease.to_be_bytes());
    framed.extend_from_slice(&owed);
    framed
}

fn decode(id: IntentId, framed: &[u8]) -> Result<Intent, StoreError> {
    let mut reader = Reader::new(framed);
    reader.varint()?;
    let lease = Duration::from_nanos(reader.u64()?);
    let owed = match event::decode(reader.rest())? {
        Event::Bump(event) => match Arc::unwrap_or_clone(event) {
            BumpEvent::Bump(bump) => Some(Owed::Classes(bump)),
            BumpEvent::Rows(changed) => Some(Owed::Rows(changed)),
            BumpEvent::Floor(_) | BumpEvent::Shape(_) => None,
        },
        Event::Directory(_) => None,
    };
    let wrong = || StoreError::Corrupt(format!("{id:?} owes something else than a bump"));
    let owed = owed.ok_or_else(wrong)?;
    Ok(Intent { id, owed, lease })
}

#[cfg(test)]
mod tests {
    use grapevine_core::event::{Bump, Match, PurgeMode};
    use grapevine_core::id::Incarnation;
    use grapevine_core::names::ClassPath;

    use super::*;

    /// The bytes that docs/formats-store.md shows.
    #[test]
    fn an_intent_has_the_documented_bytes_and_comes_back() {
        let classes = ["cart/13", "cart/7"];
        let intent = Intent {
            id: IntentId {
                origin: Incarnation::new(7).unwrap(),
                number: 2,
            },
            owed: Owed::Classes(Bump {
                classes: classes.map(|text| ClassPath::parse(text).unwrap()).into(),
                matching: Match::Any,
                purge: PurgeMode::Hard,
            }),
            lease: Duration::from_secs(10),
        };
        let framed = encode(&intent);
        assert_eq!(
            framed,
            b"\x18\x00\x00\x00\x02\x54\x0b\xe4\x00\x01\x01\x00\x02\x00\x07cart/13\x05\x017"
        );
        assert_eq!(decode(intent.id, &framed).unwrap(), intent);
        assert!(decode(intent.id, &framed[..framed.len() - 1]).is_err());
    }
}
