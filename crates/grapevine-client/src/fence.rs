//! The fence (G3): whether a value from the cache may be served, and whether a computed one may be stored.
//!
//! A value from the cache is served only if it carries the look-up's token, in its address or in its envelope, and the
//! full address that was asked for. A value computed after the look-up is stored under the look-up's token: if a bump
//! overtook it, no later look-up will ask for that token again, so it does not matter how late the store lands. Where
//! policy wants a directory entry, and where the fill named dependencies, `CommitFill` comes before the store, and a fill
//! that was overtaken is refused there. The caller gets its value in any case: its read began before the bump.
//!
//! Dependencies are classes that the look-up did not name. A value that has some is stored with their names and the token
//! over the look-up's classes followed by them; a reader looks those classes up, together, and compares. A caller that
//! waited for another one's fill compares too, because the tokens on which the two agreed did not cover dependencies.
//! Where policy says `ttl` the token is always 0 and bumps concern nobody: dependencies are not kept there. What callers who
//! waited are given is bounded by the TTL alone, counted from the look-up of the one who filled, as in the cache.

mod elected;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tokio::time::Instant;

use crate::cached::CachedClient;
use crate::envelope::{Dependencies, Envelope, MAGIC, TooLong};
use crate::fill::Fill;
use crate::names::{CLASSES_MAX, check_class};
use crate::outcome::{BypassReason, GetOutcome, How};
use crate::page::decode_page;
use crate::single_flight::{Finished, Lead, Turn};
use crate::turn::FillHold;

/// What callers must agree on to share a fill.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    token: u64,
    /// The cache address.
    pub(crate) target: String,
    /// The application's address, with its page suffix: several may share a target.
    address: String,
    classes: Vec<String>,
    /// A whole value may bear the name of a page; what it holds need not be one.
    paged: bool,
}

type FlightLead<'a> = Lead<'a, Arc<FlightKey>, FlightResult>;

#[derive(Clone)]
pub(crate) enum FlightResult {
    Value(Value),
    /// The fill function's error, as the type that its caller uses.
    Failed(Arc<dyn Any + Send + Sync>),
}

/// A value and what it rests on beyond the look-up.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) bytes: Bytes,
    depends: Depends,
    /// The end of its TTL; `None` for what a cache has just given, which keeps TTLs itself.
    good_until: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Depends {
    Nothing,
    On(Dependencies),
    /// It has dependencies, and nobody vouches for them.
    Unsettled,
}

impl Value {
    /// What it rests on beyond the look-up.
    pub(crate) fn dependencies(&self) -> Option<&Dependencies> {
        match &self.depends {
            Depends::On(dependencies) => Some(dependencies),
            Depends::Nothing | Depends::Unsettled => None,
        }
    }
}

/// One value to get: a whole one, or one page.
pub(crate) struct Unit<'a> {
    pub(crate) key: Arc<FlightKey>,
    /// The application's address without a page suffix.
    pub(crate) base: &'a str,
    pub(crate) resolution: &'a v1::Resolution,
    pub(crate) ttl: Duration,
    /// Before anything is read from the source.
    looked_up: Instant,
}

impl<'a> Unit<'a> {
    pub(crate) fn new(
        base: &'a str,
        address: String,
        classes: &[String],
        resolution: &'a v1::Resolution,
        target: &v1::Target,
        ttl: Option<Duration>,
    ) -> Self {
        let policy_ttl = Duration::from_millis(resolution.ttl_ms);
        Self {
            key: Arc::new(FlightKey {
                token: resolution.token,
                target: target.address.clone(),
                address,
                classes: classes.to_vec(),
                paged: target.page_size > 0,
            }),
            base,
            resolution,
            ttl: ttl.map_or(policy_ttl, |ttl| ttl.min(policy_ttl)),
            looked_up: Instant::now(),
        }
    }
}

impl Unit<'_> {
    /// The application's address, with its page suffix.
    pub(crate) fn address(&self) -> &str {
        &self.key.address
    }

    /// The classes of the look-up.
    pub(crate) fn classes(&self) -> &[String] {
        &self.key.classes
    }

    pub(crate) fn is_page(&self) -> bool {
        self.key.paged
    }

    /// Whether the value is a page where a page was asked for.
    fn can_hold(&self, value: &Value) -> bool {
        !self.key.paged || decode_page(&value.bytes).is_ok()
    }
}

/// What a look at the cache came to.
enum Look {
    Hit(Value),
    Miss,
    Bypass(BypassReason),
}

/// What getting one value came to.
pub(crate) enum Settled {
    Done {
        value: Value,
        how: How,
        stored: bool,
    },
    /// Another caller's fill was not good enough: look up again.
    Again,
    Bypass(BypassReason),
}

/// By what right a caller fills.
enum Right {
    /// It has its turn.
    Elected(FillHold),
    /// Nobody is elected, or nobody can tell who is.
    Unelected,
    /// To compute the value for those who wait, and to commit and store nothing: what is read lags, or the sidecar has not
    /// answered when it was asked for the turn, would not answer a commit either, and they have waited long enough.
    None,
}

/// Whether and how a computed value may be stored.
enum Permission {
    Store(Depends),
    Refuse,
}

impl CachedClient {
    /// Serves `found` if it can be served; otherwise waits for who computes the value, or computes it.
    ///
    /// With `alone` it does not wait for others, and never answers `Again`.
    pub(crate) async fn settle<E, F, Fut>(
        &self,
        unit: &Unit<'_>,
        found: Option<Bytes>,
        before: Finished,
        alone: bool,
        fill: &mut Option<F>,
    ) -> Result<Settled, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        match self.judge(unit, found).await {
            Look::Hit(value) => {
                self.audit(unit, &value, fill).await;
                return Ok(self.hit(value));
            }
            Look::Bypass(reason) => return Ok(Settled::Bypass(reason)),
            Look::Miss => self.shared().counters.misses.increment(),
        }
        let forbidden = unit.resolution.fill_forbidden;
        if forbidden && self.in_a_snapshot() {
            // What this caller computes is for nobody else: neither for the cache nor for who waits.
            return Ok(Settled::Bypass(BypassReason::Snapshot));
        }
        let right = if forbidden {
            self.shared().counters.fills_of_lagging_source.increment();
            Right::None
        } else {
            Right::Unelected
        };
        if alone {
            return self.fill(unit, None, right, fill).await;
        }
        let seat = self.shared().flights.sit(Arc::clone(&unit.key));
        let lead = match seat.turn().await {
            Turn::Follow(result) => return self.follow(unit, result).await,
            Turn::Lead(lead) => lead,
        };
        if lead.after_another() {
            self.shared().counters.takeovers.increment();
        }
        if lead.others_finished_since(before) {
            let found = self.read_cache(&unit.key.target).await;
            match self.judge(unit, found).await {
                Look::Hit(value) => {
                    let mut lead = lead;
                    lead.publish(FlightResult::Value(value.clone()));
                    return Ok(self.hit(value));
                }
                Look::Bypass(reason) => return Ok(Settled::Bypass(reason)),
                Look::Miss => {}
            }
        }
        if forbidden || !unit.resolution.elect {
            return self.fill(unit, Some(lead), right, fill).await;
        }
        self.elected(unit, lead, fill).await
    }

    /// What of `found` may be served, for values that are read many at a time.
    pub(crate) async fn glance(&self, unit: &Unit<'_>, found: Option<Bytes>) -> Option<Bytes> {
        match self.judge(unit, found).await {
            Look::Hit(value) => Some(value.bytes),
            Look::Miss | Look::Bypass(_) => None,
        }
    }

    /// Stores a value that was read from the source after the look-up, with others, if that is allowed. Nobody waits for it, and
    /// nobody was asked for a turn: tokens fence it all the same.
    pub(crate) async fn keep(&self, unit: &Unit<'_>, bytes: Bytes) -> bool {
        self.shared().counters.fills.increment();
        if unit.resolution.fill_forbidden {
            self.shared().counters.fills_of_lagging_source.increment();
            return false;
        }
        let Permission::Store(depends) = self.commit(unit, Vec::new(), None).await else {
            return false;
        };
        let value = Value {
            bytes,
            depends,
            good_until: None,
        };
        self.store(unit, &value).await
    }

    /// What of `found` may be served, by a look-up that cannot be filled by. What may not is counted by the next one.
    pub(crate) async fn known<E, F, Fut>(
        &self,
        unit: &Unit<'_>,
        found: Option<Bytes>,
        fill: &mut Option<F>,
    ) -> Option<Bytes>
    where
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        inspect(unit, found.clone()?)?;
        let Look::Hit(value) = self.judge(unit, found).await else {
            return None;
        };
        self.audit(unit, &value, fill).await;
        self.shared().counters.hits.increment();
        Some(value.bytes)
    }

    /// A value that soft bumps alone have replaced, if the cache has one and nothing that is current. One with dependencies
    /// is none: nobody says of those whether they changed.
    pub(crate) async fn stale_outcome(
        &self,
        unit: &Unit<'_>,
        found: Option<Bytes>,
    ) -> Option<GetOutcome> {
        if found.is_some() && !matches!(self.judge(unit, found).await, Look::Miss) {
            return None;
        }
        let mut read: Option<(&str, Option<Bytes>)> = None;
        for stale in &unit.resolution.stale {
            let bytes = match &read {
                Some((address, bytes)) if *address == stale.address => bytes.clone(),
                _ => {
                    let hit = self.shared().cache.get_even_stale(&stale.address).await;
                    let bytes = hit.ok().flatten().map(|hit| hit.value);
                    read = Some((&stale.address, bytes.clone()));
                    bytes
                }
            };
            let value = bytes.and_then(|bytes| inspect_under(unit, stale.token, bytes));
            if let Some(value) = value
                && matches!(value.depends, Depends::Nothing)
            {
                self.shared().counters.stale_served.increment();
                return Some(GetOutcome {
                    value: value.bytes,
                    how: How::Stale,
                    stored: false,
                    token: Some(stale.token),
                });
            }
        }
        None
    }

    fn hit(&self, value: Value) -> Settled {
        self.shared().counters.hits.increment();
        Settled::Done {
            value,
            how: How::Hit,
            stored: false,
        }
    }

    /// Whether what the cache gave may be served.
    async fn judge(&self, unit: &Unit<'_>, found: Option<Bytes>) -> Look {
        let Some(stored) = found else {
            return Look::Miss;
        };
        let Some(value) = inspect(unit, stored) else {
            self.shared().counters.envelope_mismatch.increment();
            return Look::Miss;
        };
        let Depends::On(dependencies) = &value.depends else {
            return Look::Hit(value);
        };
        match self.still_hold(unit, dependencies).await {
            Ok(true) => Look::Hit(value),
            Ok(false) => {
                self.shared().counters.envelope_mismatch.increment();
                Look::Miss
            }
            Err(reason) => Look::Bypass(reason),
        }
    }

    /// Whether nothing that the value depends on has changed.
    async fn still_hold(
        &self,
        unit: &Unit<'_>,
        dependencies: &Dependencies,
    ) -> Result<bool, BypassReason> {
        let classes: Vec<String> = unit
            .key
            .classes
            .iter()
            .chain(&dependencies.classes)
            .cloned()
            .collect();
        if classes.len() > CLASSES_MAX {
            return Ok(false);
        }
        if let Some(token) = self.local_token(&classes) {
            return Ok(token == dependencies.token);
        }
        match self.look_up(unit.base, &classes, None).await {
            Ok(Ok(resolution)) => Ok(resolution.token == dependencies.token),
            Ok(Err(reason)) => Err(reason),
            // The names came from the cache: what is malformed there is not this caller's mistake.
            Err(_invalid) => Ok(false),
        }
    }

    /// Takes another caller's result, if it is good enough for this one.
    async fn follow<E: Send + Sync + 'static>(
        &self,
        unit: &Unit<'_>,
        result: FlightResult,
    ) -> Result<Settled, Arc<E>> {
        let value = match result {
            FlightResult::Value(value) => value,
            FlightResult::Failed(error) => {
                return match error.downcast::<E>() {
                    Ok(error) => {
                        self.shared().counters.single_flight_waits.increment();
                        Err(error)
                    }
                    // Its caller uses another type of error: nothing to hand on.
                    Err(_) => Ok(Settled::Again),
                };
            }
        };
        let too_old = value
            .good_until
            .is_some_and(|good_until| Instant::now() >= good_until);
        let good = match &value.depends {
            _ if too_old || !unit.can_hold(&value) => false,
            Depends::Nothing => true,
            Depends::Unsettled => false,
            Depends::On(dependencies) => match self.still_hold(unit, dependencies).await {
                Ok(good) => good,
                Err(reason) => return Ok(Settled::Bypass(reason)),
            },
        };
        if !good {
            return Ok(Settled::Again);
        }
        self.shared().counters.single_flight_waits.increment();
        Ok(Settled::Done {
            value,
            how: How::Waited,
            stored: false,
        })
    }

    /// Computes the value, tells the others, and stores it if that is allowed.
    async fn fill<E, F, Fut>(
        &self,
        unit: &Unit<'_>,
        mut lead: Option<FlightLead<'_>>,
        right: Right,
        fill: &mut Option<F>,
    ) -> Result<Settled, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        self.shared().counters.fills.increment();
        let handle = Fill::new(unit.resolution.read_primary);
        let function = fill.take().expect("invariant: a read fills once");
        let bytes = match function(handle.clone()).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.shared().counters.fill_errors.increment();
                let error = Arc::new(error);
                if let Some(lead) = &mut lead {
                    lead.publish(FlightResult::Failed(Arc::clone(&error) as _));
                }
                return Err(error);
            }
        };
        let found = match unit.resolution.strategy() {
            // Bumps do not concern it: it is served until its TTL, whatever it depends on.
            v1::Strategy::Ttl => Vec::new(),
            _ => handle.beyond(&unit.key.classes),
        };
        let unsettled = !found.is_empty();
        let permission = match &right {
            Right::Elected(hold) => self.commit(unit, found, Some(hold)).await,
            Right::Unelected => self.commit(unit, found, None).await,
            Right::None => Permission::Refuse,
        };
        let depends = match &permission {
            Permission::Store(depends) => depends.clone(),
            Permission::Refuse if unsettled => Depends::Unsettled,
            Permission::Refuse => Depends::Nothing,
        };
        let value = Value {
            bytes,
            depends,
            // A TTL beyond what a clock can tell is none.
            good_until: unit.looked_up.checked_add(unit.ttl),
        };
        if let Some(lead) = &mut lead {
            lead.publish(FlightResult::Value(value.clone()));
        }
        let stored = match permission {
            Permission::Store(_) => self.store(unit, &value).await,
            Permission::Refuse => false,
        };
        if let Right::Elected(hold) = right {
            self.finish_turn(hold, stored).await;
        }
        Ok(Settled::Done {
            value,
            how: How::Filled,
            stored,
        })
    }

    /// Asks the sidecar, where it must be asked, whether the value may be stored.
    async fn commit(
        &self,
        unit: &Unit<'_>,
        found: Vec<String>,
        hold: Option<&FillHold>,
    ) -> Permission {
        let counters = &self.shared().counters;
        if found.is_empty() && !unit.resolution.commit_required {
            return Permission::Store(Depends::Nothing);
        }
        let too_many = unit.key.classes.len() + found.len() > CLASSES_MAX;
        let malformed = found
            .iter()
            .find_map(|class| check_class("dependency", class).err());
        if too_many || malformed.is_some() {
            counters.bad_dependencies.increment();
            let found = found.len();
            tracing::warn!(
                address = unit.key.address,
                found,
                ?malformed,
                "a fill's dependencies cannot be kept: its value is not stored"
            );
            return Permission::Refuse;
        }
        let fill = v1::Fill {
            address: unit.key.target.clone(),
            classes: unit.key.classes.clone(),
            added_classes: found.clone(),
            lease: unit.resolution.lease.clone(),
            ttl_ms: u64::try_from(unit.ttl.as_millis()).unwrap_or(u64::MAX),
            fill: hold.map_or_else(Bytes::new, |hold| hold.fill().clone()),
        };
        match self.shared().client.commit_fill(fill).await {
            Ok(verdict) if verdict.accepted && found.is_empty() => {
                Permission::Store(Depends::Nothing)
            }
            Ok(verdict) if verdict.accepted => Permission::Store(Depends::On(Dependencies {
                classes: found,
                token: verdict.token,
            })),
            Ok(verdict) => {
                counters.condemned.increment();
                tracing::debug!(address = unit.key.address, reason = ?verdict.reason(), "a fill was condemned");
                Permission::Refuse
            }
            Err(error) => {
                counters.commit_failures.increment();
                tracing::debug!(address = unit.key.address, %error, "a fill's commit got no answer");
                Permission::Refuse
            }
        }
    }

    /// Says whether the value is in the cache now. It lives until its TTL after the look-up, not after the store: how old a
    /// value under `ttl` can be must not depend on how long it took to compute. A cache that counts in seconds would round
    /// what is left of one up: then it is not stored.
    async fn store(&self, unit: &Unit<'_>, value: &Value) -> bool {
        let cache = &self.shared().cache;
        let ttl = unit.ttl.saturating_sub(unit.looked_up.elapsed());
        if ttl.is_zero() || ttl < cache.ttl_grain() {
            self.shared().counters.too_short_to_store.increment();
            return false;
        }
        let bytes = match wrap(unit, value) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.shared().counters.cache_set_errors.increment();
                tracing::warn!(address = unit.key.address, %error, "a value cannot be wrapped");
                return false;
            }
        };
        match cache.set(&unit.key.target, bytes, ttl).await {
            Ok(()) => {
                self.shared().counters.stored.increment();
                true
            }
            Err(error) => {
                self.shared().counters.cache_set_errors.increment();
                tracing::debug!(cache = cache.target(), %error, "a cache write failed");
                false
            }
        }
    }
}

/// What was stored, if it is what the look-up asks for.
fn inspect(unit: &Unit<'_>, stored: Bytes) -> Option<Value> {
    inspect_under(unit, unit.key.token, stored)
}

/// The same of a value that carries another token.
fn inspect_under(unit: &Unit<'_>, token: u64, stored: Bytes) -> Option<Value> {
    let wrapped = unit.resolution.envelope || stored.first() == Some(&MAGIC);
    let value = if wrapped {
        let envelope = Envelope::parse(&stored).ok()?;
        if envelope.token != token || envelope.address != unit.key.address {
            return None;
        }
        Value {
            bytes: envelope.value,
            depends: envelope.dependencies.map_or(Depends::Nothing, Depends::On),
            good_until: None,
        }
    } else {
        Value {
            bytes: stored,
            depends: Depends::Nothing,
            good_until: None,
        }
    };
    unit.can_hold(&value).then_some(value)
}

/// What to store: the value as it is where its address tells everything, else in an envelope.
fn wrap(unit: &Unit<'_>, value: &Value) -> Result<Bytes, TooLong> {
    let dependencies = match &value.depends {
        Depends::On(dependencies) => Some(dependencies.clone()),
        Depends::Nothing | Depends::Unsettled => None,
    };
    let plain =
        !unit.resolution.envelope && dependencies.is_none() && value.bytes.first() != Some(&MAGIC);
    if plain {
        return Ok(value.bytes.clone());
    }
    let envelope = Envelope {
        token: unit.key.token,
        address: unit.key.address.clone(),
        dependencies,
        value: value.bytes.clone(),
    };
    envelope.encode()
}

#[cfg(test)]
mod tests;
