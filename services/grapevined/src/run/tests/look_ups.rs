//! Look-ups, one call of several and streams of calls.

use grapevine_core::lease::Lease;
use grapevine_core::policy::{Pattern, Policy, PolicySet};
use grapevine_proto::v1::application_service_server::ApplicationService as _;
use http_body_util::Full;
use prost::Message as _;
use prost::bytes::{Buf, BufMut as _, Bytes, BytesMut};
use tokio_stream::StreamExt as _;
use tonic::codec::{DecodeBuf, Decoder};
use tonic::{Code, Request, Status, Streaming};

use super::*;

fn look_up(addresses: &[(&str, &str)]) -> v1::ResolveRequest {
    let item = |(address, class): &(&str, &str)| v1::ResolveItem {
        address: (*address).to_owned(),
        classes: vec![(*class).to_owned()],
        page: None,
    };
    v1::ResolveRequest {
        items: addresses.iter().map(item).collect(),
        ..v1::ResolveRequest::default()
    }
}

/// Of two addresses that are looked up together one has a source that lags: its fill speaks for less than the other's, and a lease with
/// the other's stamp would let it store what a bump has made stale.
#[tokio::test(flavor = "multi_thread")]
async fn g3_leases_of_different_stamps_are_not_shared_within_a_call() {
    let rig = Rig::start(|config| {
        let lagging = Policy {
            pattern: Pattern::parse("lagging/**").unwrap(),
            source_lag: Duration::from_mins(10),
            ..Policy::fallback()
        };
        config.policies = PolicySet::new(vec![lagging], Policy::fallback()).unwrap();
    })
    .await;
    rig.invalidate("lagging/a", 0).await.unwrap();
    let stamps = async |addresses: &[(&str, &str)]| {
        let answer = rig.app.resolve(Request::new(look_up(addresses))).await;
        let results = answer.unwrap().into_inner().results;
        let stamp = |result: v1::Resolution| Lease::from_bytes(&result.lease).unwrap().stamp;
        results.into_iter().map(stamp).collect::<Vec<_>>()
    };
    let lagging = ("a", "lagging/a");
    let other = ("b", "other/b");
    let (lags, applied) = (stamps(&[lagging]).await[0], stamps(&[other]).await[0]);
    assert!(lags < applied, "{lags:?} {applied:?}");
    for (addresses, expected) in [
        (&[lagging, other][..], &[lags, applied][..]),
        (&[other, lagging], &[applied, lags]),
        (
            &[other, other, lagging, lagging, other],
            &[applied, applied, lags, lags, applied],
        ),
    ] {
        assert_eq!(stamps(addresses).await, expected, "{addresses:?}");
    }
}

/// Reads messages as the server does.
struct Reading;

impl Decoder for Reading {
    type Item = v1::ResolveStreamRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        let message = v1::ResolveStreamRequest::decode(bytes);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// A caller who has asked so often before anybody answers: there is a message whenever one is looked for.
fn busy(look_up: v1::ResolveRequest, times: usize) -> Request<Streaming<v1::ResolveStreamRequest>> {
    let message = v1::ResolveStreamRequest {
        request: Some(look_up),
    }
    .encode_to_vec();
    let mut bytes = BytesMut::new();
    for _ in 0..times {
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(message.len()).unwrap());
        bytes.put_slice(&message);
    }
    let body: Full<Bytes> = Full::from(bytes.freeze());
    Request::new(Streaming::new_request(Reading, body, None, None))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_look_ups_that_is_never_idle_hears_of_a_drain() {
    let rig = Rig::start(|_| {}).await;
    let requests = busy(look_up(&[("a", "class")]), 1_000);
    let answers = rig.app.resolve_stream(requests).await.unwrap();
    let mut answers = answers.into_inner();
    for _ in 0..3 {
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!(answer.response.unwrap().results.len(), 1);
    }
    rig.stop.send_replace(true);
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(answers.next().await.is_none(), "{status} was not its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_answers_of_a_stream_of_look_ups_are_charged_until_they_are_written() {
    const TIMES: usize = 10_000;
    let address = "a".repeat(200);
    let many = [(address.as_str(), "class"); 20];
    let rig = Rig::start(|_| {}).await;
    // As much as it may be at least; an eighth of that is for answers as small as these.
    let mut app = rig.app.clone();
    app.unread = crate::service::unread::Unread::new(16 << 20, rig.sidecar.engine.counters.clone());
    let requests = busy(look_up(&many), TIMES);
    let answers = app.resolve_stream(requests).await.unwrap();
    let mut answers = answers.into_inner();
    // Nobody takes them to write them.
    let mut bytes = 0;
    let refused = loop {
        match answers.next().await.expect("all were answered") {
            Ok(answer) => bytes += answer.encoded_len(),
            Err(status) => break status,
        }
    };
    check_retry(&refused, "limits.answers_bytes_max");
    assert!(
        bytes <= 2 << 20 && bytes > (2 << 20) - (64 << 10),
        "{bytes}"
    );
    assert!(app.unread.charge(64 << 10).is_err());
    drop(answers);
    drop(app.unread.charge(64 << 10).unwrap());
}
