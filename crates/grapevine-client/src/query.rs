//! Reads cached by their statement: the sidecar tells which classes an answer depends on, and nobody has to name any.
//!
//! The cache address is `sql::` and the SHA-256, in 64 hexadecimal digits, of: the dialect's number in the contract (one byte), then
//! parts, each behind its length in bytes (8 bytes): the statement, and for each parameter its name (empty: by place) and its value
//! behind a byte for its kind (0 NULL, 1 boolean, 2 integer, 3 unsigned, 4 float, 5 text, 6 bytes): a boolean as one byte, numbers
//! as 8, floats as their bits. Numbers are big-endian. Values come from users, so the hash must be one that nobody finds
//! collisions of. Databases that share a cache keep their reads apart by a comment in the text.
//!
//! What a statement depends on follows from its text and parameters alone; so explanations are kept, by address, in two
//! generations of limited size: at the limit the older one is let go.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use grapevine_proto::v1::sql_parameter::Value;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::cached::{CachedClient, check_ttl};
use crate::channel::Gated;
use crate::error::ResolveError;
use crate::fill::Fill;
use crate::index::SqlScalar;
use crate::outcome::{BypassReason, GetError, GetOutcome, How};
use crate::trace_context::of_the_application;

/// Explanations in one generation. They have 16 classes at most, of 200 bytes each.
const GENERATION_MAX: usize = 4_096;

/// What is known of statements.
#[derive(Debug, Default)]
pub(crate) struct Explained(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Arc<Explanation>>,
    old: HashMap<String, Arc<Explanation>>,
}

/// Under which classes a statement's answer may be cached.
#[derive(Debug)]
struct Explanation {
    /// None if it may not.
    classes: Vec<String>,
}

impl Explained {
    fn get(&self, address: &str) -> Option<Arc<Explanation>> {
        let mut generations = self.0.lock();
        if let Some(found) = generations.young.get(address) {
            return Some(Arc::clone(found));
        }
        let (address, found) = generations.old.remove_entry(address)?;
        generations.put(address, Arc::clone(&found));
        Some(found)
    }

    fn put(&self, address: &str, explanation: Arc<Explanation>) {
        self.0.lock().put(address.to_owned(), explanation);
    }
}

impl Generations {
    fn put(&mut self, address: String, explanation: Arc<Explanation>) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(address, explanation);
    }
}

impl CachedClient {
    /// The answer of a statement of SQL (in this client's [dialect](Self::dialect)) to these parameters by place, from the cache or
    /// else from `fill`, which asks the database and encodes what it says. It is cached under the classes that
    /// [`Client::explain`](crate::Client::explain) tells, for the policy's TTL or `ttl`, whichever is shorter: what changes rows that the
    /// statement reads, told by [`Client::row_changed`](crate::Client::row_changed) and its like, makes it stale.
    ///
    /// A statement whose answer cannot be cached, or that is not understood, is bypassed ([`BypassReason::NotCacheable`]): `fill` runs,
    /// and nothing is stored. The rules of [`get_or_fill`](Self::get_or_fill) hold.
    pub async fn cached_query<P, E, F, Fut>(
        &self,
        sql: &str,
        parameters: impl IntoIterator<Item = P>,
        ttl: Option<Duration>,
        fill: F,
    ) -> Result<GetOutcome, GetError<E>>
    where
        P: Into<SqlScalar>,
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        check_ttl(ttl)?;
        let fill = |handle| of_the_application(fill(handle));
        let parameters = parameters.into_iter().map(|value| parameter(value.into()));
        let request = v1::ExplainRequest {
            sql: sql.to_owned(),
            dialect: self.dialect_of().into(),
            parameters: parameters.collect(),
            ..Default::default()
        };
        self.client().traced(self.query(request, ttl, fill)).await
    }

    async fn query<E, F, Fut>(
        &self,
        request: v1::ExplainRequest,
        ttl: Option<Duration>,
        fill: F,
    ) -> Result<GetOutcome, GetError<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        let address = address(&request);
        let reason = match self.classes_of(&address, request).await {
            Ok(explanation) if explanation.classes.is_empty() => BypassReason::NotCacheable,
            Ok(explanation) => {
                let classes = &explanation.classes;
                return self.get_or_fill(&address, classes, ttl, fill).await;
            }
            Err(reason) => reason,
        };
        self.count_bypass(reason);
        let value = fill(Fill::default()).await;
        Ok(GetOutcome {
            value: value.map_err(|error| GetError::Fill(Arc::new(error)))?,
            how: How::Bypassed(reason),
            stored: false,
            token: None,
        })
    }

    /// Under which classes a statement's answer may be cached; `Err` if nobody tells.
    async fn classes_of(
        &self,
        address: &str,
        request: v1::ExplainRequest,
    ) -> Result<Arc<Explanation>, BypassReason> {
        let explained = &self.shared().explained;
        if let Some(known) = explained.get(address) {
            return Ok(known);
        }
        let client = self.client();
        let (link, deadline) = (client.own(), client.settings().resolve_deadline);
        let sql = request.sql.clone();
        let mut application = link.application();
        let call = application.explain(request);
        let answer = link.call(Gated::AsWork, deadline, call).await;
        let classes = match answer.map_err(ResolveError::from) {
            Ok(answer) if answer.cacheable => answer.classes,
            Ok(answer) => {
                tracing::debug!(sql, why = ?answer.not_cacheable, "a statement's answer cannot be cached");
                Vec::new()
            }
            Err(error) => match BypassReason::of(error) {
                Ok(reason) => return Err(reason),
                // The database may understand it all the same.
                Err(invalid) => {
                    tracing::warn!(sql, %invalid, "a statement is not understood: its answer is not cached");
                    Vec::new()
                }
            },
        };
        let explanation = Arc::new(Explanation { classes });
        explained.put(address, Arc::clone(&explanation));
        Ok(explanation)
    }
}

fn parameter(value: SqlScalar) -> v1::SqlParameter {
    use v1::sql_value::Value as Scalar;
    let value = v1::SqlValue::from(value).value.map(|value| match value {
        Scalar::Boolean(value) => Value::Boolean(value),
        Scalar::Integer(value) => Value::Integer(value),
        Scalar::Unsigned(value) => Value::Unsigned(value),
        Scalar::Float(value) => Value::Float(value),
        Scalar::Text(value) => Value::Text(value),
        Scalar::Bytes(value) => Value::Bytes(value),
    });
    v1::SqlParameter {
        name: String::new(),
        value,
    }
}

/// The cache address of a statement's answer.
fn address(request: &v1::ExplainRequest) -> String {
    let mut hash = Sha256::new();
    // Unspecified means PostgreSQL.
    let dialect = request.dialect.max(1);
    hash.update([u8::try_from(dialect).unwrap_or(u8::MAX)]);
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(request.sql.as_bytes());
    for parameter in &request.parameters {
        part(parameter.name.as_bytes());
        let kind_and = |kind: u8, value: &[u8]| [&[kind], value].concat();
        let tagged = match &parameter.value {
            None => kind_and(0, &[]),
            Some(Value::Boolean(value)) => kind_and(1, &[u8::from(*value)]),
            Some(Value::Integer(value)) => kind_and(2, &value.to_be_bytes()),
            Some(Value::Unsigned(value)) => kind_and(3, &value.to_be_bytes()),
            Some(Value::Float(value)) => kind_and(4, &value.to_bits().to_be_bytes()),
            Some(Value::Text(value)) => kind_and(5, value.as_bytes()),
            Some(Value::Bytes(value)) => kind_and(6, value),
        };
        part(&tagged);
    }
    let mut address = "sql::".to_owned();
    for byte in hash.finalize() {
        let _ = write!(address, "{byte:02x}");
    }
    address
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn asked(sql: &str, parameters: Vec<SqlScalar>) -> v1::ExplainRequest {
        v1::ExplainRequest {
            sql: sql.to_owned(),
            parameters: parameters.into_iter().map(parameter).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn reads_that_differ_in_anything_have_different_addresses() {
        let mut dialect = asked("a", vec![]);
        dialect.set_dialect(v1::SqlDialect::Mysql);
        let reads = [
            dialect,
            asked("a", vec![]),
            asked("b", vec![]),
            asked("a", vec![SqlScalar::NULL]),
            asked("a", vec!["".into()]),
            asked("a", vec!["".into(), "".into()]),
            asked("a", vec!["1".into()]),
            asked("a", vec![1.into()]),
            asked("a", vec![1.0.into()]),
            asked("a", vec![true.into()]),
            asked("a", vec!["1".into(), "2".into()]),
            asked("a", vec!["12".into()]),
        ];
        let addresses: std::collections::HashSet<_> = reads.iter().map(address).collect();
        assert_eq!(addresses.len(), reads.len());
    }

    #[test]
    fn an_address_is_the_same_in_every_process() {
        // As another implementation of what the module says has it.
        let address = address(&asked("SELECT 1", vec![5.into(), "x".into()]));
        assert_eq!(
            address,
            "sql::1b4f35ff09fd0c10d16069f251736130cde3c09abc6b6349f3de122ad34a3db1"
        );
    }

    #[test]
    fn what_is_known_of_statements_is_bounded_and_what_is_asked_for_stays() {
        let explained = Explained::default();
        let none = Arc::new(Explanation { classes: vec![] });
        explained.put("often", Arc::clone(&none));
        for number in 0..3 * GENERATION_MAX {
            explained.put(&number.to_string(), Arc::clone(&none));
            assert!(explained.get("often").is_some());
        }
        let generations = explained.0.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
        drop(generations);
        assert!(explained.get("0").is_none());
    }
}
