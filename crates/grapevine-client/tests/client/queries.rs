//! Reads cached by their statement.

use bytes::Bytes;
use grapevine_client::{BypassReason, GetOutcome, How, SqlScalar, v1};
use tonic::Code;

use crate::fake::{Method, Reply};
use crate::support::{Setup, setup};

const SUM: &str = "SELECT sum(price) FROM item WHERE category_id = $1";

async fn query(setup: &Setup, sql: &str, parameter: impl Into<SqlScalar>) -> GetOutcome {
    let fill = async |_| Ok::<_, String>(Bytes::from_static(b"sum"));
    let query = setup.cached.cached_query(sql, [parameter], None, fill);
    query.await.unwrap()
}

#[tokio::test]
async fn an_answer_is_cached_under_the_classes_that_its_statement_tells() {
    let setup = setup();
    assert_eq!(query(&setup, SUM, 5).await.how, How::Filled);
    assert_eq!(query(&setup, SUM, 5).await.how, How::Hit);
    // Another value, another read, and another type.
    assert_eq!(query(&setup, SUM, 6).await.how, How::Filled);
    assert_eq!(query(&setup, SUM, "5").await.how, How::Filled);
    // The class that the fake tells is the table.
    setup.fake.state.bump("item");
    assert_eq!(query(&setup, SUM, 5).await.how, How::Filled);
    // What a statement means does not change.
    assert_eq!(setup.fake.state.calls(Method::Explain), 3);
    let mysql = setup.cached.dialect(v1::SqlDialect::Mysql);
    let fill = async |_| Ok::<_, String>(Bytes::new());
    let other = mysql.cached_query(SUM, [5], None, fill).await.unwrap();
    assert_eq!(other.how, How::Filled);
}

#[tokio::test]
async fn what_cannot_be_cached_is_read_each_time() {
    let setup = setup();
    let refused = How::Bypassed(BypassReason::NotCacheable);
    for sql in ["SELECT volatile FROM item", "SELECT nonsense FROM item"] {
        for _ in 0..2 {
            assert_eq!(query(&setup, sql, 1).await.how, refused, "{sql}");
        }
    }
    // That is remembered, too.
    assert_eq!(setup.fake.state.calls(Method::Explain), 2);
    assert_eq!(setup.cache.len(), 0);
    assert_eq!(setup.cached.stats().bypass_not_cacheable, 4);
}

#[tokio::test]
async fn without_an_explanation_the_database_is_read_and_nothing_is_remembered() {
    let setup = setup();
    setup
        .fake
        .state
        .next(Method::Explain, Reply::Status(Code::Internal));
    let outcome = query(&setup, SUM, 5).await;
    assert_eq!(outcome.how, How::Bypassed(BypassReason::Unreachable));
    assert_eq!((setup.cache.len(), &*outcome.value), (0, &b"sum"[..]));
    assert_eq!(query(&setup, SUM, 5).await.how, How::Filled);
}
