//! What was said: messages and bytes by kind, and the most bytes of any node.

use super::wire::Kind;

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages - other.messages,
            bytes: self.bytes - other.bytes,
        }
    }
}

/// All that was said since the begin.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    kinds: [Sum; Kind::ALL.len()],
    /// By node, what of it is new events and their acknowledgements: those that bumps cost.
    for_bumps: Vec<Sum>,
}

impl Traffic {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            kinds: Default::default(),
            for_bumps: vec![Sum::default(); nodes],
        }
    }

    pub(super) fn said(&mut self, at: usize, kind: Kind, bytes: u64) {
        let one = Sum { messages: 1, bytes };
        self.kinds[kind as usize].add(one);
        if matches!(kind, Kind::Push | Kind::Ack | Kind::Repair) {
            self.for_bumps[at].add(one);
        }
    }

    /// What was said since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (sum, before) in since.kinds.iter_mut().zip(&before.kinds) {
            *sum = sum.minus(*before);
        }
        for (sum, before) in since.for_bumps.iter_mut().zip(&before.for_bumps) {
            *sum = sum.minus(*before);
        }
        since
    }

    pub(super) fn of(&self, kind: Kind) -> Sum {
        self.kinds[kind as usize]
    }

    pub(super) fn total(&self) -> Sum {
        let mut total = Sum::default();
        for sum in self.kinds {
            total.add(sum);
        }
        total
    }

    /// The most messages for bumps that one node said.
    pub(super) fn most_for_bumps(&self) -> u64 {
        self.for_bumps
            .iter()
            .map(|sum| sum.messages)
            .max()
            .unwrap_or(0)
    }
}
