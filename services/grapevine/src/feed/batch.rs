//! Lines that may share a call: those that follow each other, mean any of their classes, and say nothing different about
//! receipt and purge. A line that means all of its classes has a call of its own: together with others it would mean more.

use std::collections::BTreeSet;

use super::line::Line;
use super::position::Mark;
use crate::invalidation::{How, Matching};

/// Lines for one call; without any, it only moves the position.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) lines: Vec<Line>,
    /// Behind the last line, or behind what could be passed over after it.
    pub(super) mark: Mark,
    /// Lines up to there, those passed over included.
    pub(super) taken: u64,
    classes: usize,
}

/// Puts lines into batches, in order.
#[derive(Debug)]
pub(super) struct Batcher {
    classes_max: usize,
    full: Vec<Batch>,
    open: Batch,
}

impl Batch {
    /// How all of its lines are to be invalidated; nothing if there are none.
    pub(super) fn how(&self) -> Option<How> {
        self.lines.first().map(|line| line.how)
    }

    /// The classes of all lines, each once.
    pub(super) fn classes(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.lines.iter().flat_map(|line| &line.classes).collect();
        all.into_iter().cloned().collect()
    }

    fn may_take(&self, line: &Line, classes_max: usize) -> bool {
        self.how().is_none_or(|how| {
            how == line.how
                && how.matching == Matching::Any
                && self.classes + line.classes.len() <= classes_max
        })
    }
}

impl Batcher {
    pub(super) fn new(classes_max: usize) -> Self {
        Self {
            classes_max,
            full: Vec::new(),
            open: Batch::default(),
        }
    }

    /// The next line.
    pub(super) fn add(&mut self, line: Line) {
        if !self.open.may_take(&line, self.classes_max) {
            self.full.push(std::mem::take(&mut self.open));
        }
        self.open.classes += line.classes.len();
        self.open.mark = line.mark.clone();
        self.open.taken += 1;
        self.open.lines.push(line);
    }

    /// The next line has nothing to send.
    pub(super) fn pass(&mut self, mark: Mark) {
        self.open.mark = mark;
        self.open.taken += 1;
    }

    /// All batches, the last one as full as it is.
    pub(super) fn take(&mut self) -> Vec<Batch> {
        let mut all = std::mem::take(&mut self.full);
        let open = std::mem::take(&mut self.open);
        all.extend((open.taken > 0).then_some(open));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::HOW;
    use super::*;
    use crate::invalidation::Receipt;

    fn mark(number: u64) -> Mark {
        Mark {
            lines_read: number,
            ..Mark::default()
        }
    }

    fn line(number: u64, classes: &[&str], how: How) -> Line {
        Line {
            classes: classes.iter().map(ToString::to_string).collect(),
            how,
            mark: mark(number),
        }
    }

    fn numbers(batches: &[Batch]) -> Vec<Vec<u64>> {
        let of = |batch: &Batch| {
            batch
                .lines
                .iter()
                .map(|line| line.mark.lines_read)
                .collect()
        };
        batches.iter().map(of).collect()
    }

    #[test]
    fn lines_share_a_call_up_to_its_limit() {
        let mut batcher = Batcher::new(3);
        for (number, classes) in [
            (1, &["a", "b"][..]),
            (2, &["a"]),
            (3, &["c"]),
            (4, &["d", "e", "f", "g"]),
        ] {
            batcher.add(line(number, classes, HOW));
        }
        let batches = batcher.take();
        // A line that is over the limit by itself goes alone.
        assert_eq!(numbers(&batches), [vec![1, 2], vec![3], vec![4]]);
        assert_eq!(batches[0].classes(), ["a", "b"], "each once");
        assert_eq!(batcher.take(), []);
    }

    #[test]
    fn a_line_that_means_all_of_its_classes_goes_alone() {
        let all = How {
            matching: Matching::All,
            ..HOW
        };
        let strict = How {
            receipt: Receipt::All,
            ..HOW
        };
        let mut batcher = Batcher::new(1_000);
        for (number, how) in [(1, all), (2, all), (3, HOW), (4, HOW), (5, strict)] {
            batcher.add(line(number, &["a", "b"], how));
        }
        assert_eq!(
            numbers(&batcher.take()),
            [vec![1], vec![2], vec![3, 4], vec![5]]
        );
    }

    #[test]
    fn lines_without_anything_to_send_move_the_position() {
        let mut batcher = Batcher::new(1_000);
        batcher.pass(mark(1));
        batcher.add(line(2, &["a"], HOW));
        batcher.pass(mark(3));
        let batches = batcher.take();
        assert_eq!((batches[0].taken, &batches[0].mark), (3, &mark(3)));
        batcher.pass(mark(4));
        let batches = batcher.take();
        assert_eq!((batches.len(), batches[0].how()), (1, None));
    }
}
