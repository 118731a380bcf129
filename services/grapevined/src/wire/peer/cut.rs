//! Messages for peers, cut by the bytes that they take on the wire.
//!
//! What core sends and what the store reads is counted in events, classes or bytes on disk, where common beginnings of
//! names are left out: 1 MiB of a log may be 40 MiB on the wire. A peer refuses a message beyond its limit, and then the
//! same message would break the link again each time that it is asked for. So everything passes [`cut`] on its way to a
//! link. Sizes are upper bounds computed from the parts, without encoding anything. What has one identity (an event, the
//! heads of a grant or of a cut) stays whole: an event has at most 1,000 classes of 200 bytes, or a dot per run.
//! Versions and floors are joined where they arrive, so a vector too large for one message goes in several parts.

use std::sync::Arc;

use grapevine_core::criteria::Shape;
use grapevine_core::event::{BumpEvent, Event, Floor, Registration, RegistrationBatch};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::store::RecoveredClass;
use grapevine_core::vector::VersionVector;

use super::{BATCHES_MAX, EVENTS_MAX};

/// The bytes of a message, unless a single event has more: small enough that an urgent message does not wait long
/// behind it.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;

/// A message's own fields: an origin or an id, a sequence, and the lengths around them.
pub(super) const HEAD_BYTES: usize = 64;
/// The field number and length of what is nested.
pub(super) const NESTED_BYTES: usize = 6;
/// A dot, with its field number and length.
pub(super) const DOT_BYTES: usize = 31;
/// Dots in one part of a vector: half a message.
const DOTS_MAX: usize = FRAME_BYTES_MAX / 2 / DOT_BYTES;

/// Cuts a message into such as fit, in order; usually it is one.
pub(crate) fn cut(message: PeerMessage) -> Vec<PeerMessage> {
    match message {
        PeerMessage::Bumps {
            origin,
            first,
            events,
        } => numbered(first, runs(events, EVENTS_MAX, |event| bump_bytes(event)))
            .map(|(first, events)| PeerMessage::Bumps {
                origin,
                first,
                events,
            })
            .collect(),
        PeerMessage::Directory {
            origin,
            first,
            batches,
        } => numbered(first, runs(batches, BATCHES_MAX, batch_bytes))
            .map(|(first, batches)| PeerMessage::Directory {
                origin,
                first,
                batches,
            })
            .collect(),
        PeerMessage::Relayed {
            to,
            acknowledge,
            message,
        } => {
            let wrapped = |message| PeerMessage::Relayed {
                to: to.clone(),
                acknowledge,
                message: Box::new(message),
            };
            cut(*message).into_iter().map(wrapped).collect()
        }
        PeerMessage::SnapshotVersions {
            id,
            classes,
            floors,
            shapes,
        } => {
            let shapes = runs(shapes, EVENTS_MAX, shape_bytes).into_iter();
            let classes = classes.into_iter().flat_map(class_parts).collect();
            let floors = floors.into_iter().flat_map(floor_parts).collect();
            let classes = runs(classes, EVENTS_MAX, class_bytes).into_iter();
            let floors = runs(floors, EVENTS_MAX, floor_bytes).into_iter();
            let of_shapes = shapes.map(|shapes| (shapes, Vec::new(), Vec::new()));
            let of_classes = classes.map(|classes| (Vec::new(), classes, Vec::new()));
            let of_floors = floors.map(|floors| (Vec::new(), Vec::new(), floors));
            of_shapes
                .chain(of_classes)
                .chain(of_floors)
                .map(|(shapes, classes, floors)| PeerMessage::SnapshotVersions {
                    id,
                    classes,
                    floors,
                    shapes,
                })
                .collect()
        }
        PeerMessage::SnapshotDirectory { id, registrations } => {
            runs(registrations, usize::MAX, registration_bytes)
                .into_iter()
                .map(|registrations| PeerMessage::SnapshotDirectory { id, registrations })
                .collect()
        }
        other => vec![other],
    }
}

/// How many bytes an event takes in a message at most.
pub(crate) fn event_bytes(event: &Event) -> usize {
    match event {
        Event::Bump(event) => bump_bytes(event),
        Event::Directory(batch) => batch_bytes(batch),
    }
}

/// Runs of so many elements at most, and of so many bytes unless a single one has more.
fn runs<T>(items: Vec<T>, most: usize, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut runs: Vec<Vec<T>> = Vec::new();
    let mut held = 0;
    for item in items {
        let more = bytes(&item);
        match runs.last_mut() {
            Some(run) if run.len() < most && held + more <= FRAME_BYTES_MAX => {
                held += more;
                run.push(item);
            }
            _ => {
                held = HEAD_BYTES + more;
                runs.push(vec![item]);
            }
        }
    }
    runs
}

/// Each run with the sequence of its first element.
fn numbered<T>(first: u64, runs: Vec<Vec<T>>) -> impl Iterator<Item = (u64, Vec<T>)> {
    let mut next = first;
    runs.into_iter().map(move |run| {
        let first = next;
        next = next.saturating_add(run.len() as u64);
        (first, run)
    })
}

/// A class with its vectors in parts that fit.
fn class_parts(class: RecoveredClass) -> Vec<RecoveredClass> {
    if class_bytes(&class) <= FRAME_BYTES_MAX {
        return vec![class];
    }
    let path = class.class;
    let part = |entries, conjunctions| RecoveredClass {
        class: path.clone(),
        entries,
        conjunctions,
    };
    let own = vector_parts(&class.entries).map(|entries| part(entries, Vec::new()));
    let joint = class.conjunctions.iter().flat_map(|(others, entries)| {
        vector_parts(entries)
            .map(|entries| part(VersionVector::new(), vec![(others.clone(), entries)]))
    });
    own.chain(joint).collect()
}

fn floor_parts(floor: Floor) -> Vec<Floor> {
    if floor_bytes(&floor) <= FRAME_BYTES_MAX {
        return vec![floor];
    }
    vector_parts(&floor.vector)
        .map(|vector| Floor {
            top: floor.top.clone(),
            bucket: floor.bucket,
            vector,
        })
        .collect()
}

fn vector_parts(vector: &VersionVector) -> impl Iterator<Item = VersionVector> {
    let dots: Vec<_> = vector.iter().collect();
    let parts: Vec<VersionVector> = dots
        .chunks(DOTS_MAX)
        .map(|part| part.iter().copied().collect())
        .collect();
    parts.into_iter()
}

/// Names have at most 250 bytes, so their lengths take two.
pub(super) fn text_bytes(text: &str) -> usize {
    text.len() + 3
}

fn vector_bytes(vector: &VersionVector) -> usize {
    vector.len() * DOT_BYTES
}

/// What is said of rows beside their names and values: the table's length, the moment, the id's length and the version.
const KNOWN_ROWS_BYTES: usize = 3 + 2 + 20 + 3 + 11;

pub(super) fn bump_bytes(event: &BumpEvent) -> usize {
    let kind = match event {
        BumpEvent::Bump(bump) => {
            let classes = bump.classes.iter().map(|class| text_bytes(class.as_str()));
            4 + classes.sum::<usize>()
        }
        BumpEvent::Floor(floor) => floor_bytes(floor),
        // Beside its names and values, a column takes a kind, an order and their lengths.
        BumpEvent::Rows(changed) => {
            let rows = changed.rows.iter();
            let rows = rows.map(|image| {
                let columns = image.rows.cells.len() * (2 * NESTED_BYTES + 12);
                NESTED_BYTES + KNOWN_ROWS_BYTES + image.bytes() + columns
            });
            2 + rows.sum::<usize>()
        }
        BumpEvent::Shape(new) => shape_bytes(&new.shape) + vector_bytes(&new.vector),
    };
    2 * NESTED_BYTES + kind
}

pub(super) fn shape_bytes(shape: &Shape) -> usize {
    text_bytes(shape.class().as_str())
}

pub(super) fn floor_bytes(floor: &Floor) -> usize {
    NESTED_BYTES + text_bytes(floor.top.as_str()) + 3 + vector_bytes(&floor.vector)
}

pub(super) fn class_bytes(class: &RecoveredClass) -> usize {
    let joint = class.conjunctions.iter().map(|(others, entries)| {
        let others = others.iter().map(|other| text_bytes(other.as_str()));
        NESTED_BYTES + others.sum::<usize>() + vector_bytes(entries)
    });
    NESTED_BYTES
        + text_bytes(class.class.as_str())
        + vector_bytes(&class.entries)
        + joint.sum::<usize>()
}

pub(super) fn batch_bytes(batch: &Arc<RegistrationBatch>) -> usize {
    let registrations = batch.registrations.iter().map(registration_bytes);
    2 * NESTED_BYTES + vector_bytes(&batch.stamp) + registrations.sum::<usize>()
}

/// With its classes, which a batch names once however many of its registrations share them.
pub(super) fn registration_bytes(registration: &Registration) -> usize {
    // Behind each name, its position in the batch: up to three bytes.
    let classes = registration
        .classes
        .iter()
        .map(|class| text_bytes(class.as_str()) + 3);
    2 * NESTED_BYTES + text_bytes(registration.address.as_str()) + 6 + classes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use grapevine_core::event::{Bump, Match, PurgeMode};
    use grapevine_core::id::{Incarnation, UnixSeconds};
    use grapevine_core::names::{Address, ClassPath};
    use grapevine_core::roster::Mark;
    use prost::Message as _;

    use super::super::{MESSAGE_BYTES_MAX, message, read_message};
    use super::*;

    fn incarnation(number: usize) -> Incarnation {
        Incarnation::new(u128::MAX - number as u128).unwrap()
    }

    fn class(text: &str) -> ClassPath {
        ClassPath::parse(text).unwrap()
    }

    /// As long as a class may be.
    fn long_class(number: usize) -> ClassPath {
        class(&format!("top/{number:0>196}"))
    }

    fn vector(dots: usize) -> VersionVector {
        (0..dots)
            .map(|number| (incarnation(number), u64::MAX - number as u64))
            .collect()
    }

    fn bump(classes: usize) -> Arc<BumpEvent> {
        Arc::new(BumpEvent::Bump(Bump {
            classes: (0..classes).map(long_class).collect(),
            matching: Match::Any,
            purge: PurgeMode::Soft,
        }))
    }

    fn registration(number: usize, classes: usize) -> Registration {
        Registration {
            address: Address::parse(&format!("{number:0>250}")).unwrap(),
            classes: (0..classes)
                .map(|class| long_class(number * 16 + class))
                .collect(),
            expires: UnixSeconds(u32::MAX),
        }
    }

    /// Cuts, and checks that every piece is small and read back by a peer as what it was.
    fn checked(whole: PeerMessage) -> Vec<PeerMessage> {
        let pieces = cut(whole);
        for piece in &pieces {
            let sent = message(piece.clone());
            let bytes = sent.encoded_len();
            assert!(bytes <= FRAME_BYTES_MAX, "{bytes} bytes in one message");
            assert_eq!(read_message(sent).unwrap(), *piece);
        }
        pieces
    }

    #[test]
    fn bumps_are_cut_by_bytes_and_keep_their_numbers() {
        let events: Vec<_> = (0..40).map(|_| bump(1_000)).collect();
        let pieces = checked(PeerMessage::Bumps {
            origin: incarnation(0),
            first: u64::MAX - 50,
            events: events.clone(),
        });
        assert!(pieces.len() >= 8, "{} pieces of 8 MB", pieces.len());
        let mut all = Vec::new();
        for piece in pieces {
            let PeerMessage::Bumps { first, events, .. } = piece else {
                panic!("{piece:?}");
            };
            assert_eq!(first, u64::MAX - 50 + all.len() as u64);
            all.extend(events);
        }
        assert_eq!(all, events);
    }

    #[test]
    fn each_piece_of_relayed_events_is_for_the_same_others() {
        let to = vec![incarnation(1), incarnation(2)];
        let pieces = checked(PeerMessage::Relayed {
            to: to.clone(),
            acknowledge: true,
            message: Box::new(PeerMessage::Bumps {
                origin: incarnation(0),
                first: 5,
                events: vec![bump(1_000); 40],
            }),
        });
        assert!(pieces.len() >= 8, "{} pieces of 8 MB", pieces.len());
        let mut next = 5;
        for piece in pieces {
            let PeerMessage::Relayed {
                to: given,
                acknowledge: true,
                message,
            } = piece
            else {
                panic!("{piece:?}");
            };
            let PeerMessage::Bumps { first, events, .. } = *message else {
                panic!("{message:?}");
            };
            assert_eq!((&given, first), (&to, next));
            next += events.len() as u64;
        }
        assert_eq!(next, 45);
    }

    #[test]
    fn what_is_small_stays_one_message() {
        let one = PeerMessage::Bumps {
            origin: incarnation(0),
            first: 1,
            events: vec![bump(3); 900],
        };
        assert_eq!(cut(one.clone()), [one]);
        let probe = PeerMessage::Probe {
            nonce: 1,
            mark: Mark::default(),
            since: 0,
            applied: None,
        };
        assert_eq!(cut(probe.clone()), [probe]);
    }

    #[test]
    fn batches_are_cut_and_one_that_no_peer_takes_is_called_compacted() {
        let batch = |registrations: usize| {
            Arc::new(RegistrationBatch {
                stamp: vector(100),
                registrations: (0..registrations).map(|at| registration(at, 16)).collect(),
            })
        };
        let pieces = checked(PeerMessage::Directory {
            origin: incarnation(0),
            first: 7,
            batches: vec![batch(200); 5],
        });
        assert_eq!(pieces.len(), 5, "of 700 KB each");
        let whole = PeerMessage::Directory {
            origin: incarnation(0),
            first: 7,
            batches: vec![batch(10), batch(6_000), batch(10)],
        };
        let pieces: Vec<_> = cut(whole).into_iter().map(message).collect();
        assert!(
            pieces
                .iter()
                .all(|piece| piece.encoded_len() < MESSAGE_BYTES_MAX)
        );
        let refused = read_message(pieces[1].clone()).unwrap();
        assert!(
            matches!(refused, PeerMessage::Compacted { first: 8, .. }),
            "{refused:?}"
        );
    }

    #[test]
    fn vectors_too_large_for_one_message_go_in_parts_that_join_to_the_whole() {
        let class = RecoveredClass {
            class: class("top/a"),
            entries: vector(65_536),
            conjunctions: vec![(vec![class("top/b"), class("top/c")], vector(50_000))],
        };
        let floor = Floor {
            top: ClassPath::parse("top").unwrap(),
            bucket: 255,
            vector: vector(65_536),
        };
        let (mut entries, mut joint, mut floors) =
            <(VersionVector, VersionVector, VersionVector)>::default();
        let pieces = checked(PeerMessage::SnapshotVersions {
            id: u64::MAX,
            classes: vec![class.clone()],
            floors: vec![floor.clone()],
            shapes: Vec::new(),
        });
        for piece in pieces {
            let PeerMessage::SnapshotVersions {
                classes,
                floors: more,
                ..
            } = piece
            else {
                panic!("{piece:?}");
            };
            for part in classes {
                entries.join(&part.entries);
                for (others, vector) in part.conjunctions {
                    assert_eq!(others, class.conjunctions[0].0);
                    joint.join(&vector);
                }
            }
            for part in more {
                assert_eq!((&part.top, part.bucket), (&floor.top, floor.bucket));
                floors.join(&part.vector);
            }
        }
        assert_eq!(entries, class.entries);
        assert_eq!(joint, class.conjunctions[0].1);
        assert_eq!(floors, floor.vector);
    }

    #[test]
    fn many_classes_with_a_dot_per_run_are_cut_and_so_are_registrations() {
        let classes: Vec<_> = (0..500)
            .map(|number| RecoveredClass {
                class: long_class(number),
                entries: vector(1_000),
                conjunctions: Vec::new(),
            })
            .collect();
        let pieces = checked(PeerMessage::SnapshotVersions {
            id: 1,
            classes: classes.clone(),
            floors: Vec::new(),
            shapes: Vec::new(),
        });
        let sent: Vec<_> = pieces
            .into_iter()
            .flat_map(|piece| match piece {
                PeerMessage::SnapshotVersions { classes, .. } => classes,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sent, classes);
        let registrations: Vec<_> = (0..10_000).map(|at| registration(at, 1)).collect();
        let pieces = checked(PeerMessage::SnapshotDirectory {
            id: 1,
            registrations: registrations.clone(),
        });
        let sent: Vec<_> = pieces
            .into_iter()
            .flat_map(|piece| match piece {
                PeerMessage::SnapshotDirectory { registrations, .. } => registrations,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sent, registrations);
    }
}
