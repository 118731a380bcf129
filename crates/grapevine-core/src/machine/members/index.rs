//! Members by what they are looked for, beside the table by node.
//!
//! A sidecar hears from each of its peers every second at least, and what follows from a message is looked at for each of them: if
//! that took a look at all members, the work of a cluster would grow with the cube of its size. So the runs have a table, and
//! so has what the next wake-up and freshness rest on. All of them follow from the members: what
//! changes a member goes through [`Members::change`], or has them made anew.

use std::collections::BTreeMap;

use super::seats::Counted;
use super::{Member, Members};
use crate::id::{Incarnation, Time};
use crate::machine::derived::Derived;
use crate::machine::grants::Told;
use crate::machine::probing::Pace;
use crate::names::NodeId;
use crate::progress::Progress;
use crate::roster::Mark;

/// Moments, some of them more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moments(BTreeMap<Time, usize>);

impl Moments {
    pub(super) fn first(&self) -> Option<Time> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    fn add(&mut self, at: Time) {
        *self.0.entry(at).or_default() += 1;
    }

    fn take(&mut self, at: Time) {
        if let Some(count) = self.0.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&at);
            }
        }
    }

    pub(super) fn replace(&mut self, before: Option<Time>, after: Option<Time>) {
        if before != after {
            if let Some(at) = before {
                self.take(at);
            }
            if let Some(at) = after {
                self.add(at);
            }
        }
    }
}

/// What tables hold of a member.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Keys {
    probe: Option<Time>,
    suspected: bool,
    waits: bool,
    counted: Option<Counted>,
}

impl Member {
    fn keys(&self) -> Keys {
        Keys {
            probe: self.outbound.then(|| self.probing.next()),
            suspected: self.suspected,
            waits: self.asked.waits(),
            counted: self.counted(),
        }
    }
}

impl Members {
    /// Changes a member, but for its run and node.
    pub(in crate::machine) fn change<T>(
        &mut self,
        node: &NodeId,
        change: impl FnOnce(&mut Member) -> T,
    ) -> Option<T> {
        let member = self.by_node.get_mut(node)?;
        let before = member.keys();
        let changed = change(member);
        let after = member.keys();
        if before != after {
            self.rekey(node, Some(before), Some(after));
        }
        Some(changed)
    }

    fn rekey(&mut self, node: &NodeId, before: Option<Keys>, after: Option<Keys>) {
        let probe = |keys: &Keys| keys.probe;
        let (was, is) = (before.as_ref(), after.as_ref());
        self.probes.replace(was.and_then(probe), is.and_then(probe));
        if let Some(seats) = &mut self.seats.0 {
            let counted = |keys: &Keys| keys.counted;
            seats.replace(was.and_then(counted), is.and_then(counted));
        }
        if is.is_some_and(|keys| keys.suspected) {
            self.suspects.insert(node.clone());
        } else {
            self.suspects.remove(node);
        }
        if is.is_some_and(|keys| keys.waits) {
            self.waiting.insert(node.clone());
        } else {
            self.waiting.remove(node);
        }
    }

    /// Puts a member in, in the place of another run of its node if there is one, which is given back.
    pub(super) fn put(&mut self, mut member: Member) -> Option<Member> {
        let (node, run) = member.seat();
        match self.by_node.get(&node) {
            Some(older) => member.seat = older.seat,
            None => self.seats = Derived(None),
        }
        let keys = member.keys();
        let older = self.by_node.insert(node.clone(), member);
        if let Some(older) = &older {
            self.forget_run(older.hello.incarnation, &node);
        }
        if self.by_run.get(&run).is_none_or(|first| *first > node) {
            self.by_run.insert(run, node.clone());
        }
        self.rekey(&node, older.as_ref().map(Member::keys), Some(keys));
        older
    }

    /// Takes a member out.
    pub(super) fn take(&mut self, node: &NodeId) -> Option<Member> {
        let gone = self.by_node.remove(node)?;
        self.forget_run(gone.hello.incarnation, node);
        self.rekey(node, Some(gone.keys()), None);
        Some(gone)
    }

    /// A node has this run no more.
    fn forget_run(&mut self, run: Incarnation, node: &NodeId) {
        if self.by_run.get(&run) != Some(node) {
            return;
        }
        // A store that was written wrongly may have the run twice.
        let other = self.of_run_linear(run).map(|member| member.seat().0);
        match other {
            Some(other) => self.by_run.insert(run, other),
            None => self.by_run.remove(&run),
        };
    }

    /// Makes all tables anew.
    pub(super) fn index_all(&mut self) {
        self.by_run.clear();
        for member in self.by_node.values() {
            let (node, run) = member.seat();
            self.by_run.entry(run).or_insert(node);
        }
        self.probes = Derived(Moments::default());
        for keys in self.by_node.values().map(Member::keys) {
            if let Some(at) = keys.probe {
                self.probes.add(at);
            }
        }
        self.waiting = Derived(self.nodes_with(|member| member.asked.waits()));
        self.seats = Derived(None);
        self.index_suspects();
    }

    /// Makes the table of suspects anew.
    pub(super) fn index_suspects(&mut self) {
        self.suspects = Derived(self.nodes_with(|member| member.suspected));
    }

    fn nodes_with<T: FromIterator<NodeId>>(&self, is: impl Fn(&Member) -> bool) -> T {
        let found = self.by_node.iter().filter(|(_, member)| is(member));
        found.map(|(node, _)| node.clone()).collect()
    }

    /// Notes that a member is asked, with a question whose answer counts if one is given, and with a digest or without.
    pub(in crate::machine) fn ask(
        &mut self,
        node: &NodeId,
        (counts, digest): (Option<u64>, bool),
        now: Time,
        pace: Pace,
    ) {
        let missed = self.change(node, |member| {
            if let Some(nonce) = counts {
                member.asked.ask(nonce, now, digest);
            }
            member.probing.ask(now, pace)
        });
        if missed == Some(true) {
            self.calm.note(false);
        }
    }

    /// Notes that a member was asked together with being answered.
    pub(in crate::machine) fn asked_back(&mut self, node: &NodeId) {
        self.change(node, |member| member.probing.asked_back());
    }

    /// Notes a grant of a run, if it answers a question that counts.
    pub(in crate::machine) fn granted(
        &mut self,
        (from, nonce): (Incarnation, u64),
        (told, settled): (Told, Option<Mark>),
        ends: impl FnOnce(Time) -> Time,
        progress: &Progress,
        now: Time,
        pace: Pace,
    ) {
        let Some(node) = self.of_run(from).map(|member| member.seat().0) else {
            return;
        };
        let prompt = self.change(&node, |member| {
            let (sent, digest) = member.asked.answered(nonce)?;
            let ends = ends(sent);
            // That it told what was applied here it can only know by a digest.
            (ends > now && (digest || !told.span.same)).then(|| {
                member.asked.note(ends, told);
                member.asked.review(progress, now);
                member.settled = settled.or(member.settled);
                let counts = settled.is_some() && !member.asked.waits();
                member.probing.answered(sent, counts, now, pace)
            })
        });
        if let Some(prompt) = prompt.flatten() {
            self.calm.note(prompt);
        }
        let member = self.by_node.get(&node);
        let ends = member.and_then(|member| member.asked.waits_until());
        if let (Some((_, until)), Some(ends)) = (&mut self.reviewed.0, ends) {
            *until = (*until).min(ends);
        }
    }

    /// Takes grants into account whose heads are applied by now.
    pub(in crate::machine) fn review_asked(&mut self, progress: &Progress, now: Time) {
        if self.waiting.is_empty() {
            return;
        }
        let known = self.reviewed.as_ref();
        if known.is_some_and(|(of, until)| progress.revision().is_of(*of) && now < *until) {
            debug_assert!(
                self.waiting
                    .iter()
                    .all(|node| self.waits_still(node, progress, now)),
                "invariant: without a change of progress nothing else is applied"
            );
            return;
        }
        let waiting: Vec<_> = self.waiting.iter().cloned().collect();
        let mut until = Time::from_start(std::time::Duration::MAX);
        for node in waiting {
            let ends = self.change(&node, |member| {
                member.asked.review(progress, now);
                member.asked.waits_until()
            });
            until = until.min(ends.flatten().unwrap_or(until));
        }
        self.reviewed = Derived(Some((progress.revision(), until)));
    }

    /// Whether reviewing what is asked of a member would change nothing.
    fn waits_still(&self, node: &NodeId, progress: &Progress, now: Time) -> bool {
        self.by_node.get(node).is_some_and(|member| {
            let mut asked = member.asked.clone();
            asked.review(progress, now);
            asked.waits_until() == member.asked.waits_until()
        })
    }

    /// Another view was taken over: what members of the last one vouched for says nothing in this one. Somebody may be missing
    /// who is asked now.
    pub(in crate::machine) fn renew(&mut self) {
        for member in self.by_node.values_mut() {
            member.asked = member.asked.renewed();
        }
        self.waiting.clear();
        self.seats = Derived(None);
    }

    /// Whether each table is what looking at all members makes.
    pub(super) fn tables_agree(&self) -> bool {
        let mut probes = Moments::default();
        let outbound = self
            .by_node
            .values()
            .filter_map(|member| member.keys().probe);
        outbound.for_each(|at| probes.add(at));
        let first = |run: &Incarnation| self.of_run_linear(*run).map(|member| member.seat().0);
        let mut runs = self.by_run.iter();
        probes == *self.probes
            && *self.suspects == self.nodes_with(|member| member.suspected)
            && *self.waiting == self.nodes_with(|member| member.asked.waits())
            && runs.all(|(run, node)| first(run).as_ref() == Some(node))
            && self
                .by_node
                .values()
                .all(|member| self.by_run.contains_key(&member.hello.incarnation))
    }

    /// What [`Self::of_run`] finds, by looking at all.
    pub(super) fn of_run_linear(&self, run: Incarnation) -> Option<&Member> {
        self.iter().find(|member| member.hello.incarnation == run)
    }
}

#[cfg(test)]
mod tests;
