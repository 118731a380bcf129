//! Reports of how reads fared.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grapevine_client::{CachedClient, Fill};
use tonic::Code;

use crate::fake::{Method, Reply};
use crate::support::{PATIENT, setup, setup_with};

async fn get(cached: &CachedClient, address: &str) {
    let fill = |_: Fill| async { Ok::<_, Infallible>(Bytes::from_static(b"value")) };
    let class = ["versioned/13"];
    cached
        .get_or_fill(address, &class, None, fill)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_report_tells_what_is_new_and_what_an_earlier_one_could_not_tell() {
    let setup = setup();
    setup.cached.report().await.unwrap();
    assert!(
        setup.fake.state.reports.lock().is_empty(),
        "nothing was read"
    );
    for _ in 0..3 {
        get(&setup.cached, "a").await;
    }
    setup.cached.report().await.unwrap();
    setup.cached.report().await.unwrap();
    setup
        .fake
        .state
        .next(Method::ReportReads, Reply::Status(Code::ResourceExhausted));
    get(&setup.cached, "a").await;
    setup.cached.report().await.unwrap_err();
    get(&setup.cached, "b").await;
    setup.cached.report().await.unwrap();
    let reports = setup.fake.state.reports.lock().clone();
    let told: Vec<_> = reports.iter().map(|it| (it.hits, it.misses)).collect();
    assert_eq!(told, [(2, 1), (1, 1)]);
}

#[tokio::test]
async fn reads_send_reports_by_themselves_unless_they_are_told_not_to() {
    let every = Duration::from_millis(1);
    let reporting = setup_with(|builder| builder.report_every(Some(every)));
    let silent = setup_with(|builder| builder.report_every(None));
    let deadline = Instant::now() + PATIENT;
    while reporting.fake.state.reports.lock().is_empty() {
        assert!(Instant::now() < deadline, "no read sends a report");
        get(&reporting.cached, "a").await;
        get(&silent.cached, "a").await;
    }
    assert!(silent.fake.state.reports.lock().is_empty());
    assert_eq!(silent.fake.state.calls(Method::ReportReads), 0);
}
