//! What watchers ask for and hear.

use grapevine_core::event::{BumpEvent, Match};
use grapevine_core::id::EventId;
use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use tonic::Status;

use super::super::event_id;
use super::super::status::Violations;
use super::{bump_class, classes};

/// Prefixes of one watch.
const WATCH_CLASSES_MAX: usize = 100;

/// The classes of a watch; empty watches all.
pub(crate) fn watched(values: &[String]) -> Result<Vec<ClassPath>, Status> {
    let mut violations = Violations::default();
    if values.len() > WATCH_CLASSES_MAX {
        violations.add(
            "classes",
            format!("{} of them; the limit is {WATCH_CLASSES_MAX}", values.len()),
        );
    }
    let classes = classes(
        &mut violations,
        "classes",
        &values[..values.len().min(WATCH_CLASSES_MAX)],
        bump_class,
    );
    violations.finish()?;
    Ok(classes)
}

/// A bump as watchers see it; `None` if none of the watched classes is at, below or above one of its own.
pub(crate) fn watch_bump(
    event: EventId,
    what: &BumpEvent,
    watched: &[ClassPath],
) -> Option<v1::WatchResponse> {
    let shape;
    let (classes, matching) = match what {
        // A floor swallowed a bucket: which of the watched classes it touches is not worth telling apart.
        BumpEvent::Floor(_) => {
            let resync = v1::watch_response::Kind::Resync(v1::WatchResync { missed: 0 });
            return Some(v1::WatchResponse { kind: Some(resync) });
        }
        BumpEvent::Bump(bump) => (&bump.classes[..], bump.matching),
        BumpEvent::Shape(new) => {
            shape = new.shape.class();
            (std::slice::from_ref(&shape), Match::Any)
        }
        // What is applied is the bump that it means.
        BumpEvent::Rows(_) => return None,
    };
    let meets = |class: &ClassPath| {
        class.is_reserved()
            || watched
                .iter()
                .any(|watch| watch.covers(class.as_str()) || class.covers(watch.as_str()))
    };
    if !watched.is_empty() && !classes.iter().any(meets) {
        return None;
    }
    let kind = v1::watch_response::Kind::Bump(v1::WatchBump {
        event: Some(event_id(event)),
        classes: classes
            .iter()
            .map(|class| class.as_str().to_owned())
            .collect(),
        r#match: match matching {
            Match::Any => v1::Match::Any,
            Match::All => v1::Match::All,
        }
        .into(),
    });
    Some(v1::WatchResponse { kind: Some(kind) })
}
