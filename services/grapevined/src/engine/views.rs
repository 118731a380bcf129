//! What an operator is told when another view is taken over: who got a seat, who lost one, and what was bumped for it.
//!
//! A view does not carry the reasons of who proposed it, so they are told as far as the view shows them.

use grapevine_core::names::NodeId;
use grapevine_core::roster::View;
use tracing::info;

/// Writes a line about a view that was taken over in place of another one.
pub(super) fn log(before: &View, after: &View) {
    let changes = Changes::between(before, after);
    info!(
        view = after.number,
        history = %after.history.map(|history| history.to_string()).unwrap_or_default(),
        seats = %names(after.seats.keys()),
        added = %names(&changes.added),
        removed = %names(&changes.removed),
        restarted = %names(&changes.restarted),
        bumped_everything = changes.bumped,
        "another view of the roster: {}",
        changes.why
    );
}

/// What is different.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    added: Vec<NodeId>,
    removed: Vec<NodeId>,
    /// Whose seat another run holds now.
    restarted: Vec<NodeId>,
    /// Whether everything was bumped since.
    bumped: bool,
    why: &'static str,
}

impl Changes {
    fn between(before: &View, after: &View) -> Self {
        let other_history = before.history != after.history;
        let of = |view: &View, keep: &dyn Fn(&NodeId) -> bool| {
            let nodes = view.seats.keys().filter(|node| keep(node));
            nodes.cloned().collect::<Vec<_>>()
        };
        let added = of(after, &|node| !before.seats.contains_key(node));
        let removed = of(before, &|node| !after.seats.contains_key(node));
        let restarted = of(after, &|node| {
            let seat = before.seats.get(node);
            seat.is_some() && seat != after.seats.get(node)
        });
        let bumped = other_history || after.everything > before.everything;
        let why = if before.number == 0 {
            "the first one that this run has"
        } else if other_history {
            "this sidecar left the history that it was in"
        } else if after.closed != before.closed && bumped {
            "events that nobody has are written off"
        } else if bumped && !removed.is_empty() {
            "a member lost its seat without leaving in order"
        } else if bumped {
            "a member's last events may be unknown"
        } else if !removed.is_empty() {
            "a member left"
        } else if !added.is_empty() {
            "a member joined"
        } else if restarted.is_empty() && after.retired != before.retired {
            "runs that are over are retired"
        } else {
            "a member started again"
        };
        Self {
            added,
            removed,
            restarted,
            bumped,
            why,
        }
    }
}

/// Names told in one line; the rest is a number.
const NAMES_MAX: usize = 20;

fn names<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let mut nodes = nodes.into_iter();
    let told: Vec<_> = nodes.by_ref().take(NAMES_MAX).map(NodeId::as_str).collect();
    match nodes.count() {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use grapevine_core::id::Incarnation;

    use super::*;

    fn view(number: u64, everything: u64, seats: &[(&str, u128)]) -> View {
        let seat = |(name, run): &(&str, u128)| {
            let run = Incarnation::new(*run).unwrap();
            (NodeId::parse(name).unwrap(), run)
        };
        View {
            number,
            history: Incarnation::new(9),
            everything,
            seats: seats.iter().map(seat).collect(),
            ..View::default()
        }
    }

    fn told(before: &View, after: &View) -> String {
        let changes = Changes::between(before, after);
        let [added, removed, restarted] =
            [&changes.added, &changes.removed, &changes.restarted].map(names);
        let bumped = if changes.bumped { "!" } else { "" };
        format!("+{added} -{removed} ~{restarted}{bumped} {}", changes.why)
    }

    #[test]
    fn what_is_different_between_two_views_is_told() {
        let first = view(1, 1, &[("a", 1), ("b", 2), ("c", 3)]);
        let later = view(2, 1, &[("a", 1), ("b", 4), ("c", 3)]);
        let fewer = view(3, 3, &[("a", 1), ("b", 4)]);
        let other = View {
            history: Incarnation::new(8),
            ..view(1, 1, &[("a", 1)])
        };
        let cases = [
            (
                &View::default(),
                &first,
                "+a, b, c - ~! the first one that this run has",
            ),
            (&first, &later, "+ - ~b a member started again"),
            (
                &later,
                &fewer,
                "+ -c ~! a member lost its seat without leaving in order",
            ),
            (
                &fewer,
                &other,
                "+ -b ~! this sidecar left the history that it was in",
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(told(before, after), expected);
        }
        let many: Vec<_> = (0..50)
            .map(|n| NodeId::parse(&format!("n{n}")).unwrap())
            .collect();
        assert!(
            names(&many).ends_with("n19 and 30 more"),
            "{}",
            names(&many)
        );
    }
}
