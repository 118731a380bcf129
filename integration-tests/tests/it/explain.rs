//! Statements of SQL, explained by a sidecar.

use std::collections::BTreeSet;

use anyhow::ensure;
use grapevine_integration_tests::{Setup, eventually};
use grapevine_proto::v1;
use tonic_types::StatusExt as _;

use crate::bad_input::{invalidate, resolve};
use crate::support::SOON;

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
