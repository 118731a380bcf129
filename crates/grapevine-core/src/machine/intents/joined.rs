//! What many intents owe, in few events.

use crate::event::{
    BUMP_CLASSES_MAX, CHANGED_ROWS_BYTES_MAX, CHANGED_ROWS_MAX, Match, PurgeMode, RowImage,
};
use crate::intent::{Intent, IntentId, Owed};
use crate::versions::sorted_classes;

/// Intents and what stands for what all of them owe: as few events as may be, for there may be thousands at a start.
pub(super) fn joined(intents: &[Intent]) -> Vec<(Vec<IntentId>, Owed)> {
    let mut groups: Vec<(Vec<IntentId>, Owed)> = Vec::new();
    for Intent { id, owed, .. } in intents {
        let taken = groups.last_mut().is_some_and(|(ids, group)| {
            let fits = take_in(group, owed);
            if fits {
                ids.push(*id);
            }
            fits
        });
        if !taken {
            groups.push((vec![*id], owed.clone()));
        }
    }
    for (_, owed) in &mut groups {
        if let Owed::Classes(bump) = owed {
            bump.classes = sorted_classes(&bump.classes);
        }
    }
    groups
}

/// Takes in what is owed, too, where there is room for it. Deleting is the stronger of the two ways to purge.
fn take_in(group: &mut Owed, more: &Owed) -> bool {
    let (fits, purges) = match (&mut *group, more) {
        (Owed::Classes(group), Owed::Classes(more)) => {
            let fits = group.matching == Match::Any
                && more.matching == Match::Any
                && group.classes.len() + more.classes.len() <= BUMP_CLASSES_MAX;
            if fits {
                group.classes.extend_from_slice(&more.classes);
            }
            (fits, [group.purge, more.purge])
        }
        (Owed::Rows(group), Owed::Rows(more)) => {
            let images = || group.rows.iter().chain(&more.rows);
            let bytes: usize = images().map(RowImage::bytes).sum();
            let fits = images().count() <= CHANGED_ROWS_MAX && bytes <= CHANGED_ROWS_BYTES_MAX;
            if fits {
                group.rows.extend_from_slice(&more.rows);
            }
            (fits, [group.purge, more.purge])
        }
        _ => return false,
    };
    if fits && purges.contains(&PurgeMode::Hard) {
        match group {
            Owed::Classes(bump) => bump.purge = PurgeMode::Hard,
            Owed::Rows(changed) => changed.purge = PurgeMode::Hard,
        }
    }
    fits
}
