//! Statements of SQL, explained by a sidecar.

use std::collections::BTreeSet;

use anyhow::ensure;
use grapevine_integration_tests::{Setup, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::bad_input::{invalidate, resolve};
use crate::support::{SOON, column, integer};

fn statement(sql: &str, parameters: &[i64]) -> v1::ExplainRequest {
    let parameters = parameters.iter().map(|value| v1::SqlParameter {
        name: String::new(),
        value: Some(v1::sql_parameter::Value::Integer(*value)),
    });
    v1::ExplainRequest {
        sql: sql.to_owned(),
        dialect: v1::SqlDialect::Sqlite.into(),
        parameters: parameters.collect(),
        ..Default::default()
    }
}

/// Whoever writes names what changed in SQL, and so does whoever reads, at another sidecar and in another language perhaps.
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_write_that_is_explained_makes_a_read_stale_that_is_explained_elsewhere() {
    let cluster = Setup::of(2).start().await.unwrap();
    let [mut reader, mut writer] = [0, 1].map(|node| cluster[node].api.app.clone());
    let read = "SELECT id FROM items WHERE category = ? AND price > ? ORDER BY price LIMIT 10";
    let read = reader.explain(statement(read, &[5, 0])).await.unwrap();
    let read = read.into_inner();
    assert!(read.cacheable, "{read:?}");
    assert_eq!(read.limit, Some(10));
    let classes: Vec<&str> = read.classes.iter().map(String::as_str).collect();
    let token = async || {
        let answer = reader.clone().resolve(resolve("list", &classes)).await;
        let results = answer.unwrap().into_inner().results;
        results[0].token
    };
    let before = token().await;
    let write = "UPDATE items SET category = 6 WHERE id = ?";
    let write = writer.explain(statement(write, &[3333])).await.unwrap();
    let write = write.into_inner();
    assert_eq!(write.kind(), v1::SqlStatementKind::Write);
    assert!(!write.cacheable);
    let changed: Vec<&str> = write.classes.iter().map(String::as_str).collect();
    writer.invalidate(invalidate(&changed)).await.unwrap();
    eventually("the read is stale", SOON, async || {
        ensure!(token().await != before, "it has the token from before");
        Ok(())
    })
    .await
    .unwrap();
}

type App = ApplicationServiceClient<Channel>;

/// What a sidecar answers to a look-up: the token, and whether the cache is to be bypassed.
type Shown = (u64, bool);

/// What each read shows at a sidecar.
async fn shown(app: &App, reads: &[Vec<String>]) -> Vec<Shown> {
    let mut found = Vec::new();
    for classes in reads {
        let classes: Vec<_> = classes.iter().map(String::as_str).collect();
        let answer = app.clone().resolve(resolve("list", &classes)).await;
        let result = answer.unwrap().into_inner().results.remove(0);
        found.push((result.token, result.bypass));
    }
    found
}

/// What all sidecars show once they know the shapes of the reads.
async fn shown_by_all(apps: &[App], reads: &[Vec<String>]) -> Vec<Shown> {
    eventually("all show the same, from the cache", SOON, async || {
        let told = shown(&apps[0], reads).await;
        ensure!(told.iter().all(|(_, bypass)| !bypass), "{told:?}");
        for app in &apps[1..] {
            ensure!(shown(app, reads).await == told, "another one tells others");
        }
        Ok(told)
    })
    .await
    .unwrap()
}

fn went_stale(before: &[Shown], after: &[Shown]) -> Vec<bool> {
    let pairs = before.iter().zip(after);
    pairs.map(|(before, after)| before != after).collect()
}

/// Changes of rows find reads by what both say of them, though neither knows of the other; what they do not concern stays.
#[tokio::test(flavor = "multi_thread")]
async fn g3_changes_of_rows_make_stale_what_they_may_concern_at_every_sidecar() {
    let cluster = Setup::of(3).start().await.unwrap();
    let apps = [0, 1, 2].map(|node| cluster[node].api.app.clone());
    let [mut first, mut second, mut third] = apps.clone();
    let mut reads = Vec::new();
    for (sql, parameters) in [
        ("SELECT id FROM items WHERE category = ?", &[5][..]),
        ("SELECT id FROM items WHERE category = ?", &[6]),
        ("SELECT id FROM items WHERE category = ?", &[7]),
        (
            "SELECT id FROM items WHERE price BETWEEN ? AND ?",
            &[10, 20],
        ),
        ("SELECT count(*) FROM items", &[]),
        ("SELECT id FROM bids WHERE item = ?", &[5]),
    ] {
        let told = first.explain(statement(sql, parameters)).await;
        reads.push(told.unwrap().into_inner().classes);
    }
    let start = shown_by_all(&apps, &reads).await;
    let moved = v1::RowChange {
        table: "Items".to_owned(),
        unchanged: vec![column("id", 3333), column("price", 3_000)],
        old: vec![column("category", 5)],
        new: vec![column("category", 6)],
        ..Default::default()
    };
    let answer = second.row_changed(v1::RowChangedRequest {
        changes: vec![moved],
        dialect: v1::SqlDialect::Sqlite.into(),
        receipt: v1::ReceiptLevel::All.into(),
        ..Default::default()
    });
    let outcome = answer.await.unwrap().into_inner().outcome.unwrap();
    assert!(outcome.receipt.unwrap().satisfied);
    let row = shown_by_all(&apps, &reads).await;
    assert_eq!(
        went_stale(&start, &row),
        [true, true, false, false, true, false],
        "both categories and what counts all, but no price, nor another table"
    );
    let sql = "UPDATE items SET stock = 0 WHERE category = ? AND price < 12";
    let sql = statement(sql, &[7]);
    let answer = third.invalidate_where(v1::InvalidateWhereRequest {
        sql: sql.sql,
        parameters: sql.parameters,
        dialect: sql.dialect,
        receipt: v1::ReceiptLevel::All.into(),
        ..Default::default()
    });
    answer.await.unwrap();
    let by_sql = shown_by_all(&apps, &reads).await;
    assert_eq!(
        went_stale(&row, &by_sql),
        [false, false, true, true, true, false]
    );
    let condition = v1::ColumnCondition {
        column: "item".to_owned(),
        any_of: vec![integer(4), integer(5)],
        ..Default::default()
    };
    let answer = first.invalidate_where(v1::InvalidateWhereRequest {
        rows: vec![v1::RowsWhere {
            table: "bids".to_owned(),
            r#where: vec![condition],
        }],
        receipt: v1::ReceiptLevel::All.into(),
        ..Default::default()
    });
    answer.await.unwrap();
    let by_conditions = shown_by_all(&apps, &reads).await;
    assert_eq!(
        went_stale(&by_sql, &by_conditions),
        [false, false, false, false, false, true]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_only_reads_invalidates_nothing() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let refused = app.invalidate_where(v1::InvalidateWhereRequest {
        sql: "SELECT 1".to_owned(),
        ..Default::default()
    });
    let refused = refused.await.unwrap_err();
    assert!(
        refused.message().starts_with("sql: it only reads"),
        "{refused}"
    );
}

/// The largest statements that there can be, many at a time: each is answered or refused at once, and everybody else is answered.
#[tokio::test(flavor = "multi_thread")]
async fn g10_many_large_statements_wait_for_their_turn_or_are_refused() {
    let cluster = Setup::of(1).start().await.unwrap();
    let app = cluster[0].api.app.clone();
    let list: Vec<_> = (0..64).map(|number| number.to_string()).collect();
    let list = list.join(",");
    let lists: Vec<_> = (0..250)
        .map(|column| format!("c{column} IN ({list})"))
        .collect();
    let large = format!("SELECT id FROM t WHERE {}", lists.join(" AND "));
    let calls = (0..200).map(|_| {
        let (mut app, large) = (app.clone(), large.clone());
        tokio::spawn(async move { app.explain(statement(&large, &[])).await })
    });
    let calls: Vec<_> = calls.collect();
    let mut look_ups = app.clone();
    for _ in 0..40 {
        look_ups.resolve(resolve("a", &["c/1"])).await.unwrap();
    }
    let (mut told, mut refused) = (BTreeSet::new(), 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(answer) => {
                told.insert(answer.into_inner().classes);
            }
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                assert!(status.get_details_retry_info().is_some());
                refused += 1;
            }
        }
    }
    assert!(refused >= 1, "there is room for 66");
    // Room again.
    let again = app.clone().explain(statement(&large, &[])).await;
    told.insert(again.unwrap().into_inner().classes);
    assert_eq!(told.len(), 1);
}
