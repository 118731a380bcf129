//! What several modules need.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_integration_tests::Api;
use grapevine_proto::v1;
use grapevine_proto::v1::{Freshness, ReceiptLevel};

/// What a healthy cluster does at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Tokens that may never be given again.
#[derive(Debug, Default)]
pub(crate) struct Superseded {
    by_class: BTreeMap<String, BTreeSet<u64>>,
}

impl Superseded {
    /// Bumps a class at a sidecar and keeps the token that this superseded.
    pub(crate) async fn bump(&mut self, api: &Api, class: &str) -> Result<()> {
        let (before, _) = api.token(class).await?;
        let answer = api.invalidate(class, ReceiptLevel::One).await?;
        ensure!(
            answer.receipt.is_some_and(|receipt| receipt.satisfied),
            "{class}: no receipt"
        );
        self.add(class, before);
        Ok(())
    }

    /// Keeps a token that an acknowledged bump superseded.
    pub(crate) fn add(&mut self, class: &str, token: u64) {
        let tokens = self.by_class.entry(class.to_owned()).or_default();
        tokens.insert(token);
    }

    /// Bumps each of the classes.
    pub(crate) async fn bump_all(&mut self, api: &Api, classes: &[String]) -> Result<()> {
        for class in classes {
            self.bump(api, class).await?;
        }
        Ok(())
    }

    /// Also what is current now is not to be given again: what comes is salted, or later.
    pub(crate) fn and_current(&self, classes: &[String], tokens: &[u64]) -> Self {
        let mut by_class = self.by_class.clone();
        for (class, token) in classes.iter().zip(tokens) {
            by_class.entry(class.clone()).or_default().insert(*token);
        }
        Self { by_class }
    }

    /// Fails if the sidecar gives one of them.
    pub(crate) async fn check(&self, who: &str, api: &Api) -> Result<()> {
        let classes: Vec<String> = self.by_class.keys().cloned().collect();
        let tokens = api.tokens(&classes).await?;
        for (class, token) in classes.iter().zip(tokens) {
            let back = self.by_class[class].contains(&token);
            ensure!(
                !back,
                "{who} gives a superseded token of {class}: {token:016x}"
            );
        }
        Ok(())
    }
}

pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect()
}

/// A sidecar that is catching up says so, and says to bypass.
pub(crate) async fn check_catching_up(api: &Api) -> Result<()> {
    let (resolution, freshness) = api.resolve_in("value", "class", None).await?;
    ensure!(freshness == Freshness::CatchingUp, "it says {freshness:?}");
    ensure!(
        resolution.bypass,
        "it catches up and does not say to bypass"
    );
    Ok(())
}

/// A number, as SQL has it.
pub(crate) fn integer(value: i64) -> v1::SqlValue {
    v1::SqlValue {
        value: Some(v1::sql_value::Value::Integer(value)),
    }
}

/// A column that has a number.
pub(crate) fn column(column: &str, value: i64) -> v1::ColumnValue {
    v1::ColumnValue {
        column: column.to_owned(),
        value: Some(integer(value)),
    }
}

/// A row's change, with its columns before and after it where it was there.
pub(crate) fn row_change(
    table: &str,
    (old, new): (Option<Vec<v1::ColumnValue>>, Option<Vec<v1::ColumnValue>>),
    (id, version): (i64, u64),
) -> v1::RowChange {
    let kind = match (&old, &new) {
        (_, None) => v1::RowChangeKind::Delete,
        (None, Some(_)) => v1::RowChangeKind::Insert,
        (Some(_), Some(_)) => v1::RowChangeKind::Update,
    };
    v1::RowChange {
        table: table.to_owned(),
        kind: kind.into(),
        old: old.unwrap_or_default(),
        new: new.unwrap_or_default(),
        id: id.to_string(),
        version,
        ..Default::default()
    }
}
