//! Cached reads, as the client makes them.

use std::collections::BTreeMap;
use std::ops::Range;

use grapevine_core::machine::effects::{
    Input, LeaseClaim, Purpose, Query, RegisterItem, Reply, Resolution, Verdict,
};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::token::Token;
use grapevine_sql::explain;
use rand::Rng as _;

use super::Round;
use crate::database::{Answer, answer};
use crate::sqlite;

/// Reads that are asked at a time; now and then a new one takes the place of the oldest.
const READS: usize = 30;

/// A read that is asked again and again.
#[derive(Debug)]
struct Asked {
    sql: String,
    shape: &'static str,
    query: Query,
    cacheable: bool,
    /// The database's answer at a version of it.
    truth: Option<(u64, Answer)>,
    /// What it answered when all writes were acknowledged last, where some are not.
    quiet: Option<Answer>,
    /// What the last fill found.
    filled: Option<Answer>,
}

/// A value in the cache.
#[derive(Clone, Debug)]
struct Cached {
    token: Token,
    /// Whose value it is: several may share an address.
    read: usize,
    answer: Answer,
    /// Of the database, when it was read.
    version: u64,
}

/// A value that was read and is not stored yet.
#[derive(Debug)]
struct Fill {
    at: usize,
    resolution: Resolution,
    value: Cached,
}

/// What is read, and what the cache has of it.
#[derive(Debug, Default)]
pub(super) struct Reads {
    all: Vec<Asked>,
    cache: BTreeMap<Address, Cached>,
    fills: Vec<Fill>,
}

impl Round {
    pub(super) fn think_of_reads(&mut self) {
        while self.reads.all.len() < READS {
            self.think_of_another();
        }
    }

    pub(super) fn think_of_another(&mut self) {
        loop {
            let read = self.generator.read();
            if answer(&self.database, &read.sql).is_err() {
                continue;
            }
            let explained = explain(&read.sql, &[], sqlite()).unwrap();
            let name = format!("sql::{}", self.reads.all.len());
            self.reads.all.push(Asked {
                sql: read.sql,
                shape: read.shape,
                query: Query {
                    address: Address::parse(&name).unwrap(),
                    classes: explained.class_paths,
                    slice: None,
                },
                cacheable: explained.cacheable,
                truth: None,
                quiet: None,
                filled: None,
            });
            return;
        }
    }

    /// Those that are asked now.
    fn current(&self) -> Range<usize> {
        self.reads.all.len() - READS..self.reads.all.len()
    }

    /// What the database answers now.
    fn truth(&mut self, read: usize) -> Answer {
        let asked = &mut self.reads.all[read];
        match &asked.truth {
            Some((version, truth)) if *version == self.version => truth.clone(),
            _ => {
                let truth = answer(&self.database, &asked.sql).unwrap();
                asked.truth = Some((self.version, truth.clone()));
                truth
            }
        }
    }

    /// Before a write that is told late: what reads may go on to answer.
    pub(super) fn note_answers(&mut self) {
        for read in self.current() {
            self.reads.all[read].quiet = Some(self.truth(read));
        }
    }

    /// One read at some sidecar with the session.
    pub(super) fn read(&mut self) {
        let (read, at) = (self.random.random_range(self.current()), self.node());
        self.catch_up(at);
        self.counts.pairs += 1;
        self.ask(read, at, true);
    }

    /// One read at some sidecar without the session: most often one whose shape may be new there, and then once more when it is known.
    pub(super) fn read_loosely(&mut self) {
        let (mut read, at) = (self.random.random_range(self.current()), self.node());
        if self.chance(0.7) {
            read = self.reads.all.len() - 1;
        }
        self.ask(read, at, false);
        if self.chance(0.5) {
            self.network.advance(2_000);
            self.ask(read, at, false);
        }
    }

    fn ask(&mut self, read: usize, at: usize, with_session: bool) {
        let asked = &self.reads.all[read];
        if !asked.cacheable {
            self.counts.not_cacheable += u64::from(with_session);
            return;
        }
        let resolution = self
            .network
            .core(at)
            .resolve(&asked.query, self.network.now, 0);
        let resolution = resolution.unwrap();
        if resolution.new_shape {
            let classes = asked.query.classes.clone();
            self.network.input(at, Input::MeetShapes(classes));
        }
        if resolution.bypass {
            self.counts.bypassed += u64::from(with_session);
            return;
        }
        let truth = self.truth(read);
        if with_session {
            let asked = &self.reads.all[read];
            let of_shape = self.by_shape.entry(asked.shape).or_default();
            of_shape.reads += 1;
            of_shape.oracle += u64::from(asked.filled.as_ref() == Some(&truth));
        }
        match self.look(&resolution, read) {
            Some(value) if with_session => self.judge(at, &value, &truth),
            Some(value) => {
                self.counts.loose_hits += 1;
                self.counts.stale += u64::from(value.answer != truth);
            }
            None => {
                self.counts.misses += u64::from(with_session);
                self.fill(at, resolution, read, truth);
            }
        }
    }

    /// What the cache has that may be served.
    fn look(&mut self, resolution: &Resolution, read: usize) -> Option<Cached> {
        for address in std::mem::take(&mut self.network.purged) {
            // Nothing rests on it that deletes arrive.
            if self.random.random_bool(0.5) {
                self.reads.cache.remove(&address);
            }
        }
        let value = self.reads.cache.get(&resolution.targets[0].address)?;
        let fits = value.read == read && value.token == resolution.token;
        assert!(
            fits || resolution.envelope(),
            "an address without an envelope tells all"
        );
        fits.then(|| value.clone())
    }

    fn judge(&mut self, at: usize, value: &Cached, truth: &Answer) {
        let of_shape = self.by_shape.entry(self.reads.all[value.read].shape);
        of_shape.or_default().hits += 1;
        self.counts.hits += 1;
        self.counts.old_hits += u64::from(value.version < self.version);
        let asked = &self.reads.all[value.read];
        let right = value.answer == *truth
            || !self.writes.are_told()
                && (value.version >= self.writes.quiet
                    || asked.quiet.as_ref() == Some(&value.answer));
        assert!(
            right,
            "seed {}: with the session, sidecar {at} has the cache answer\n{}\nas the database had it at {}, and not as it has it at {}, all being told up to {}:\n{:?}\n{truth:?}\nclasses: {:?}",
            self.seed,
            asked.sql,
            value.version,
            self.version,
            self.writes.quiet,
            value.answer,
            asked.query.classes,
        );
    }

    fn fill(&mut self, at: usize, resolution: Resolution, read: usize, truth: Answer) {
        self.reads.all[read].filled = Some(truth.clone());
        let fill = Fill {
            at,
            value: Cached {
                token: resolution.token,
                read,
                answer: truth,
                version: self.version,
            },
            resolution,
        };
        if self.chance(0.2) {
            self.reads.fills.push(fill);
        } else {
            self.store(fill);
        }
    }

    /// Stores some of what was read before.
    pub(super) fn go_on_storing(&mut self) {
        for fill in std::mem::take(&mut self.reads.fills) {
            if self.chance(0.4) {
                self.counts.stored_late += 1;
                self.store(fill);
            } else {
                self.reads.fills.push(fill);
            }
        }
    }

    fn store(&mut self, fill: Fill) {
        let address = fill.resolution.targets[0].address.clone();
        if fill.resolution.commit_required() && !self.is_accepted(&fill, &address) {
            self.counts.condemned += 1;
            return;
        }
        self.counts.stored += 1;
        self.reads.cache.insert(address, fill.value);
    }

    fn is_accepted(&mut self, fill: &Fill, address: &Address) -> bool {
        let mut classes: Vec<ClassPath> = self.reads.all[fill.value.read].query.classes.clone();
        classes.sort_unstable();
        classes.dedup();
        let item = RegisterItem {
            address: address.clone(),
            classes,
            expires: grapevine_core::id::UnixSeconds(u32::MAX),
            lease: LeaseClaim::Lease(fill.resolution.lease),
            purpose: Purpose::Directory,
        };
        let ticket = self.network.ticket();
        self.network
            .input(fill.at, Input::Register(ticket, vec![item]));
        match self.network.answer(fill.at, ticket) {
            Reply::Registered(verdicts) => matches!(verdicts[..], [Verdict::Accepted(_)]),
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }
}
