//! Which leaves an event concerns, and how.

use std::collections::{BTreeMap, BTreeSet};

use crate::criteria::Shape;
use crate::event::{Moment, RowImage};
use crate::names::ClassPath;

/// What an event means for the leaves of a class.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    /// Rows that are in it now, whoever they are.
    pub(super) added: Vec<&'a RowImage>,
    /// Rows that were in it, by version.
    pub(super) left: Vec<&'a RowImage>,
    /// Rows are in it of which too little is known.
    pub(super) lost: bool,
}

/// Which leaves, by class, images of rows concern, and how. Those that no image names are left out where they cannot be followed.
pub(super) fn changes<'a>(
    images: &'a [RowImage],
    shapes: impl Iterator<Item = &'a Shape>,
    leaves_below: impl Fn(&ClassPath, bool) -> Vec<ClassPath>,
) -> BTreeMap<ClassPath, Change<'a>> {
    let mut changes: BTreeMap<ClassPath, Change<'a>> = BTreeMap::new();
    // Classes above leaves: of rows of which it is not known in which of them they are, or were.
    let (mut lost, mut left) = (BTreeSet::new(), BTreeSet::new());
    for shape in shapes {
        for image in images {
            for class in shape.classes_of_write(&image.rows) {
                // With fewer values not all of them are known.
                let slashes = class.as_str().bytes().filter(|byte| *byte == b'/');
                let exact = slashes.count() == 1 + shape.equal.len();
                match (image.moment, exact) {
                    (Moment::Before, false) => drop(left.insert(class)),
                    (Moment::After | Moment::Any, false) => drop(lost.insert(class)),
                    (moment, true) => {
                        for leaf in leaves_below(&class, true) {
                            let change = changes.entry(leaf).or_default();
                            match moment {
                                Moment::After => change.added.push(image),
                                // A row that left takes nothing from who does not know it.
                                Moment::Before => change.left.push(image),
                                Moment::Any => change.lost = true,
                            }
                        }
                    }
                }
            }
        }
    }
    for class in left {
        for leaf in leaves_below(&class, false) {
            changes.entry(leaf).or_default();
        }
    }
    for (leaf, change) in &mut changes {
        change.lost |= lost.iter().any(|class| class.covers(leaf.as_str()));
    }
    changes
}
