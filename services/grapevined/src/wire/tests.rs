#![allow(clippy::unwrap_used, reason = "tests")]
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_proto::v1;
use tonic_types::StatusExt as _;

use super::*;

#[test]
fn a_session_token_is_25_bytes_and_comes_back() {
    let event = EventId {
        origin: Incarnation::new(77).unwrap(),
        sequence: 42,
    };
    let token = session_token(event);
    assert_eq!(token.len(), 25);
    assert_eq!(session_event(&token), Some(event));
    assert_eq!(session_event(&token[1..]), None);
    assert_eq!(session_event(b""), None);
}

#[test]
fn a_hundred_thousand_classes_are_refused_with_the_limit() {
    let request = v1::InvalidateRequest {
        classes: vec!["a".to_owned(); 100_000],
        ..Default::default()
    };
    let status = app::invalidation(&request).err().unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status.message().contains("100000") && status.message().contains("1000"),
        "{}",
        status.message()
    );
}

#[test]
fn every_bad_field_of_a_resolve_is_named() {
    let item = |address: &str, class: &str| v1::ResolveItem {
        address: address.to_owned(),
        classes: vec![class.to_owned()],
        page: None,
    };
    let items = vec![
        item("good", "a/b"),
        item("has space", "a"),
        item("good", "a//b"),
        item(&"x".repeat(251), "a"),
    ];
    let status = app::queries(items).err().unwrap();
    let fields: Vec<_> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|v| v.field)
        .collect();
    assert_eq!(
        fields,
        [
            "items[1].address",
            "items[2].classes[0]",
            "items[3].address"
        ]
    );
}

#[test]
fn a_malformed_peer_message_is_an_error_and_never_a_panic() {
    use v1::exchange_request::Kind;
    let bad = [
        None,
        Some(Kind::Bumps(v1::BumpBatch {
            origin: vec![1; 15].into(),
            first: 1,
            events: Vec::new(),
        })),
        Some(Kind::Bumps(v1::BumpBatch {
            origin: vec![1; 16].into(),
            first: u64::MAX,
            events: vec![v1::BumpEvent::default(); 2],
        })),
        Some(Kind::Pull(v1::Pull {
            origin: vec![1; 16].into(),
            lane: 9,
            first: 1,
            last: 2,
        })),
        Some(Kind::SnapshotDirectory(v1::SnapshotDirectory {
            id: 1,
            batch: None,
        })),
    ];
    for kind in bad {
        assert!(peer::read_message(v1::ExchangeRequest { kind }).is_err());
    }
    let probe = peer::message(PeerMessage::Probe { nonce: 3 });
    assert_eq!(
        peer::read_message(probe).unwrap(),
        PeerMessage::Probe { nonce: 3 }
    );
}
