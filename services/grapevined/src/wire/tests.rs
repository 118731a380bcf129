#![allow(clippy::unwrap_used, reason = "tests")]
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::policy::{Policy, PolicySet};
use grapevine_core::roster::Mark;
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
    let never = EventId {
        sequence: 0,
        ..event
    };
    assert_eq!(session_event(&session_token(never)), None);
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
    let request = v1::ResolveRequest {
        items,
        session: Some(v1::Session {
            tokens: vec![vec![1; 3].into()],
            wait_ms: 0,
        }),
    };
    let status = app::look_ups(request, &PolicySet::default()).err().unwrap();
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
            "session.tokens[0]",
            "items[1].address",
            "items[2].classes[0]",
            "items[3].address"
        ]
    );
}

#[test]
fn a_lease_longer_than_any_is_told_with_its_field_and_the_limit() {
    let policies = PolicySet::default();
    let expiry = app::Expiry {
        policies: &policies,
        now: grapevine_core::id::UnixSeconds(1_000_000),
        slack: std::time::Duration::ZERO,
    };
    let lengths = [0, 64, 65, 1_000_000];
    let registration = |bytes: &usize| v1::Registration {
        address: "a".to_owned(),
        classes: vec!["c".to_owned()],
        lease: vec![7; *bytes].into(),
        ..Default::default()
    };
    let fill = |bytes: &usize| v1::Fill {
        address: "a".to_owned(),
        classes: vec!["c".to_owned()],
        lease: vec![7; *bytes].into(),
        ..Default::default()
    };
    let registrations = lengths.iter().map(registration).collect();
    let fills = v1::CommitFillRequest {
        fills: lengths.iter().map(fill).collect(),
    };
    let refused = [
        app::registrations(registrations, expiry).err().unwrap(),
        app::fills(fills, expiry).err().unwrap(),
    ];
    for (status, list) in refused.iter().zip(["registrations", "fills"]) {
        let bad = status.get_details_bad_request().unwrap().field_violations;
        let told: Vec<_> = bad.into_iter().map(|v| (v.field, v.description)).collect();
        let of = |at: usize, bytes: usize| {
            let told = format!("{bytes} bytes; the limit is 64 bytes");
            (format!("{list}[{at}].lease"), told)
        };
        assert_eq!(told, [of(2, 65), of(3, 1_000_000)]);
    }
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
            first: 1,
            events: Vec::new(),
        })),
        Some(Kind::Directory(v1::DirectoryBatch {
            origin: vec![1; 16].into(),
            first: 1,
            batches: Vec::new(),
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
    let probe = peer::message(PeerMessage::Probe {
        nonce: 3,
        mark: Mark::default(),
    });
    assert_eq!(
        peer::read_message(probe).unwrap(),
        PeerMessage::Probe {
            nonce: 3,
            mark: Mark::default()
        }
    );
}

#[test]
fn a_peer_must_say_where_it_is_reached() {
    let hello = |address: &str| v1::Hello {
        node_id: "n1".to_owned(),
        incarnation: vec![1; 16].into(),
        peer_address: address.to_owned(),
        ..Default::default()
    };
    for good in ["10.0.0.1:7401", "[::1]:7401", "db-1.example:1"] {
        assert!(peer::read_hello(hello(good)).is_ok(), "{good}");
    }
    for bad in ["", "db-1", "db-1:0", "a b:1", "http://a:1", "a:1/x"] {
        assert!(peer::read_hello(hello(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn g10_slices_of_one_call_touch_a_bounded_number_of_pages() {
    let request = |items: usize, limit: u32| v1::ResolveRequest {
        items: vec![
            v1::ResolveItem {
                address: "a".to_owned(),
                classes: vec!["paged/1".to_owned()],
                page: Some(v1::Page { offset: 5, limit }),
            };
            items
        ],
        session: None,
    };
    let mut policy = Policy::fallback();
    policy.page_size = Some(10);
    let policies = PolicySet::new(Vec::new(), policy).unwrap();
    // Each touches 101 pages.
    assert!(app::look_ups(request(99, 1_000), &policies).is_ok());
    let status = app::look_ups(request(100, 1_000), &policies).err().unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "items");
    assert!(
        violations[0]
            .description
            .contains("10100 pages; the limit is 10000"),
        "{violations:?}"
    );
}
