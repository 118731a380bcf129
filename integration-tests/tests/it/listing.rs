//! Listings: their order, and pages that go on where one left off, also at a sidecar that was killed meanwhile; health
//! and reflection.

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Setup, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::ReceiptLevel;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::SOON;

const CLASSES: [&str; 7] = [
    "list", "list/a", "list/a/b", "list/a!b", "list/a-b", "list/b", "listed",
];
const PER_CLASS: usize = 400;

/// By segments: a class, then what lies below it, then its neighbours.
fn by_segments(class: &str, address: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
    let segments = class.split('/').map(|segment| segment.as_bytes().to_vec());
    (segments.collect(), address.as_bytes().to_vec())
}

/// Up to `limit` rows (0: all) behind a page token, and the token behind them.
async fn page(
    api: &Api,
    limit: u64,
    token: &[u8],
) -> Result<(Vec<(String, String)>, Vec<u8>), Status> {
    let request = v1::ListAddressesRequest {
        class: "list".to_owned(),
        limit,
        page_token: token.to_vec().into(),
    };
    let mut chunks = api.app.clone().list_addresses(request).await?.into_inner();
    let (mut rows, mut next) = (Vec::new(), Vec::new());
    while let Some(chunk) = chunks.message().await? {
        assert!(chunk.entries.len() <= 1_000);
        next = chunk.next_page_token.to_vec();
        rows.extend(
            chunk
                .entries
                .into_iter()
                .map(|entry| (entry.class, entry.address)),
        );
    }
    Ok((rows, next))
}

async fn fill(api: &Api) {
    for class in CLASSES {
        let addresses = (0..PER_CLASS).map(|number| format!("{class}::{number}"));
        api.register(class, addresses).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_listed_in_order_and_pages_go_on_after_a_kill() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    fill(&cluster[0].api).await;
    let (all, end) = page(&cluster[0].api, 0, b"").await.unwrap();
    assert_eq!(
        all.len(),
        6 * PER_CLASS,
        "all that lies below, and nothing beside"
    );
    assert!(end.is_empty());
    assert!(
        all.is_sorted_by_key(|(class, address)| by_segments(class, address)),
        "not in order"
    );

    let (mut rows, mut token) = page(&cluster[0].api, 700, b"").await.unwrap();
    assert_eq!(rows.len(), 700);
    while !token.is_empty() {
        cluster[0].kill().await.unwrap();
        cluster[0].start().unwrap();
        cluster[0].wait_serving().await.unwrap();
        // What comes meanwhile before the place does not shift what follows.
        cluster[0]
            .api
            .register("list", [format!("list::0{}", rows.len())])
            .await
            .unwrap();
        let (more, next) = page(&cluster[0].api, 700, &token).await.unwrap();
        assert!(!more.is_empty() && more.len() <= 700);
        rows.extend(more);
        token = next;
    }
    assert_eq!(rows, all);
    // The other one lists the same, and goes on where this one left off.
    let other = cluster[1].api.clone();
    let (whole, _) = page(&cluster[0].api, 0, b"").await.unwrap();
    eventually("the other one lists the same", SOON, async || {
        let rows = page(&other, 0, b"").await?.0;
        let lacks: Vec<_> = whole
            .iter()
            .filter(|row| !rows.contains(row))
            .take(5)
            .collect();
        ensure!(
            rows == whole,
            "{} of {} rows; it lacks {lacks:?}",
            rows.len(),
            whole.len()
        );
        Ok(())
    })
    .await
    .unwrap();
    let (here, token) = page(&cluster[0].api, 1_000, b"").await.unwrap();
    let (there, _) = page(&other, 0, &token).await.unwrap();
    assert_eq!([here, there].concat(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_listed_in_order_with_what_they_hold() {
    let cluster = Setup::of(1).start().await.unwrap();
    let api = &cluster[0].api;
    fill(api).await;
    for class in ["list/a/b", "bumped/only"] {
        api.invalidate(class, ReceiptLevel::One).await.unwrap();
    }
    let list = async |below: &str, limit, token: Vec<u8>| {
        let request = v1::ListClassesRequest {
            below: below.to_owned(),
            limit,
            page_token: token.into(),
        };
        let mut chunks = api
            .app
            .clone()
            .list_classes(request)
            .await
            .unwrap()
            .into_inner();
        let (mut rows, mut next) = (Vec::new(), Vec::new());
        while let Some(chunk) = chunks.message().await.unwrap() {
            next = chunk.next_page_token.to_vec();
            rows.extend(chunk.entries);
        }
        (rows, next)
    };
    let (all, _) = list("", 0, Vec::new()).await;
    let row = |class: &str| all.iter().find(|row| row.class == class);
    assert!(
        all.is_sorted_by_key(|row| by_segments(&row.class, "")),
        "{all:?}"
    );
    assert_eq!(
        row("list/a").map(|row| (row.addresses, row.bumped)),
        Some((400, false))
    );
    assert_eq!(
        row("list/a/b").map(|row| (row.addresses, row.bumped)),
        Some((0, true))
    );
    assert_eq!(
        row("bumped/only").map(|row| (row.addresses, row.bumped)),
        Some((0, true))
    );
    let (below, _) = list("list/a", 0, Vec::new()).await;
    assert_eq!(
        below.iter().map(|row| &*row.class).collect::<Vec<_>>(),
        ["list/a", "list/a/b"]
    );
    // Also beside the row that stands for every class, which nobody sees and which does not count.
    api.invalidate("*", ReceiptLevel::One).await.unwrap();
    let (all, _) = list("", 0, Vec::new()).await;
    for limit in [1, 3] {
        let (mut rows, mut token) = (Vec::new(), Vec::new());
        loop {
            let (more, next) = list("", limit, token).await;
            assert!(more.len() as u64 == limit || next.is_empty(), "{more:?}");
            rows.extend(more);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(rows, all);
    }
}

async fn health(api: &Api, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(api.channel.clone())
        .check(request)
        .await?;
    Ok(answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_when_the_application_service_is_ready() {
    let service = "grapevine.v1.ApplicationService";
    let mut cluster = Setup::of(2).prepare().await.unwrap();
    cluster[0].start().unwrap();
    cluster[0].wait_serving().await.unwrap();
    let api = cluster[0].api.clone();
    assert_eq!(
        health(&api, "").await.unwrap(),
        ServingStatus::Serving,
        "it is alive"
    );
    assert_eq!(
        health(&api, service).await.unwrap(),
        ServingStatus::NotServing,
        "it catches up"
    );
    cluster[1].start().unwrap();
    eventually("it is ready", SOON, async || {
        ensure!(health(&api, service).await? == ServingStatus::Serving);
        Ok(())
    })
    .await
    .unwrap();
    let unknown = health(&api, "no.such.Service").await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

/// Both versions of reflection have the same messages under different paths.
macro_rules! reflect {
    ($version:ident, $channel:expr, $request:expr) => {{
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version::{ServerReflectionRequest, ServiceResponse};
        let ask = async |request: MessageRequest| {
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(request),
            };
            let mut client = ServerReflectionClient::new($channel.clone());
            let answers = client.server_reflection_info(tokio_stream::iter([request]));
            let mut answers = answers.await.unwrap().into_inner();
            answers
                .message()
                .await
                .unwrap()
                .unwrap()
                .message_response
                .unwrap()
        };
        let MessageResponse::ListServicesResponse(listed) =
            ask(MessageRequest::ListServices(String::new())).await
        else {
            panic!("no list of services");
        };
        let names: Vec<String> = listed
            .service
            .into_iter()
            .map(|ServiceResponse { name }| name)
            .collect();
        let MessageResponse::FileDescriptorResponse(files) =
            ask(MessageRequest::FileContainingSymbol($request)).await
        else {
            panic!("no file of {}", $request);
        };
        (names, files.file_descriptor_proto.len())
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_answers_in_both_versions() {
    let cluster = Setup::of(1).start().await.unwrap();
    let channel = &cluster[0].api.channel;
    let symbol = || "grapevine.v1.ApplicationService".to_owned();
    let answers = [
        reflect!(v1, channel, symbol()),
        reflect!(v1alpha, channel, symbol()),
    ];
    for (names, files) in answers {
        for service in [
            "grapevine.v1.ApplicationService",
            "grapevine.v1.AdminService",
            "grpc.health.v1.Health",
        ] {
            assert!(
                names.iter().any(|name| name == service),
                "{service} is not among {names:?}"
            );
        }
        assert!(files >= 1);
    }
}
