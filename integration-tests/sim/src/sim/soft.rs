//! Readers that take what a soft write replaced, for the moment in which they compute the value anew (decision 0013).
//!
//! Only who asks for it is served a stale value, only on a miss of the present one, and none with a session. Having served
//! it the reader goes on as after any miss: it asks for its turn where policy says so, reads, commits, stores.

use std::collections::BTreeMap;

use grapevine_core::address::plan;
use grapevine_core::machine::effects::{Resolution, Stale};
use grapevine_core::token::Token;

use super::Sim;
use crate::arms::Arm;
use crate::clock::Micros;
use crate::schedule::ReadOp;
use crate::shop::Shop;
use crate::soft::Fresher;

/// By slot and address: the present token, and the one before it with the moment at which it was replaced.
pub(super) type Before = BTreeMap<(usize, usize), (Token, Option<(Token, Micros)>)>;

impl Sim<'_> {
    /// What a stale value would have to have, if a reader takes one and was offered one.
    pub(super) fn stale_promise(
        &mut self,
        read: &ReadOp,
        (at, address): (usize, usize),
        resolution: &Resolution,
        session: u64,
    ) -> Option<Fresher> {
        let alone = !read.session || self.is(Arm::StaleToSessions);
        if !read.stale || !alone || resolution.stale.is_empty() {
            return None;
        }
        self.tally.stale.0 += 1;
        let mut fresher = self.checker.fading.fresher(self.now, at, address);
        fresher.session = session;
        Some(fresher)
    }

    /// A reader that missed is served what soft writes replaced, if it is there.
    pub(super) fn serve_stale(&mut self, op: usize) {
        let Some(reading) = self.reads[op].as_mut() else {
            return;
        };
        let Some(fresher) = reading.stale.take() else {
            return;
        };
        let envelope = reading.resolution.envelope();
        let offered = reading.resolution.stale.iter();
        let mut found = offered.filter_map(|stale| {
            let value = self.cache.get_even_stale(self.now, &stale.address)?;
            let fits =
                value.address == reading.address && (!envelope || value.token == stale.token);
            fits.then_some(value)
        });
        let Some(value) = found.next() else {
            return;
        };
        let (at, address) = (reading.at, reading.address);
        self.tally.stale.1 += 1;
        let (letter, index) = (self.nodes[at].letter, value.index);
        self.transcript.fold(&[33, op as u64, index]);
        let name = &self.shop.items[address].query.address;
        self.transcript.say(self.now, || {
            format!("reader {op} at {letter} is served {name} stale, as of write {index}")
        });
        if let Some((guarantee, write, why)) = fresher.lacks(index) {
            let what = format!(
                "a reader at {letter} is served {name} stale, as of write {index}, stored at step {}; write {write} came before its look-up, and {why}",
                value.stored
            );
            self.violated(guarantee, what);
        }
    }

    /// What the arm offers as stale: the token before the present one, whatever replaced it.
    pub(super) fn keep_before(
        before: &mut Before,
        (at, address): (usize, usize),
        now: Micros,
        shop: &Shop,
        resolution: &mut Resolution,
    ) {
        let token = resolution.token;
        let kept = before.entry((at, address)).or_insert((token, None));
        if kept.0 != token {
            *kept = (token, Some((kept.0, now)));
        }
        let query = &shop.items[address].query;
        let policy = shop.policies.of(&query.classes[0]);
        if let Some((token, replaced)) = kept.1
            && now < replaced + shop.window(address)
            && !resolution.bypass
            && let Ok(targets) = plan(&query.address, &query.classes[0], None, policy, token)
        {
            let address = targets[0].address.clone();
            resolution.stale = vec![Stale { token, address }];
        }
    }
}
