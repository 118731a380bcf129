#![allow(clippy::unwrap_used, reason = "tests")]
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::policy::{Policy, PolicySet};
use grapevine_core::roster::Mark;
use grapevine_proto::v1;
use prost::Message as _;
use tonic::{Code, Status};
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
    assert_eq!(session_event(&token), Ok(event));
    let wrong = |token: &[u8]| session_event(token).unwrap_err();
    assert_eq!(wrong(&token[1..]), "a session token of 24 bytes; it has 25");
    assert_eq!(wrong(b""), "a session token of 0 bytes; it has 25");
    let foreign = [&[9], &token[1..]].concat();
    assert_eq!(
        wrong(&foreign),
        "a session token of version 9; it must be 1"
    );
    let of_no_run = [&[1][..], &[0; 16], &[7; 8]].concat();
    assert!(wrong(&of_no_run).contains("a run whose number is 0"));
    let never = EventId {
        sequence: 0,
        ..event
    };
    assert!(wrong(&session_token(never)).contains("event 0: the first of a run is 1"));
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
        snapshot: None,
        local_table: 0,
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
    // Also where no lease is given, or too long a one.
    let fill = |bytes: usize, lease: usize| v1::Fill {
        lease: vec![7; lease].into(),
        fill: vec![7; bytes].into(),
        ..fill(&0)
    };
    let fills = v1::CommitFillRequest {
        fills: vec![fill(64, 0), fill(65, 0), fill(66, 65)],
    };
    let status = app::fills(fills, expiry).err().unwrap();
    let bad = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = bad.iter().map(|v| &*v.field).collect();
    assert_eq!(fields, ["fills[1].fill", "fills[2].lease", "fills[2].fill"]);
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
            ..Default::default()
        })),
        Some(Kind::Bumps(v1::BumpBatch {
            origin: vec![1; 16].into(),
            first: 1,
            events: Vec::new(),
            ..Default::default()
        })),
        Some(Kind::Directory(v1::DirectoryBatch {
            origin: vec![1; 16].into(),
            first: 1,
            batches: Vec::new(),
            relay: None,
        })),
        Some(Kind::Bumps(v1::BumpBatch {
            origin: vec![1; 16].into(),
            first: u64::MAX,
            events: vec![v1::BumpEvent::default(); 2],
            ..Default::default()
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
    let relayed = |to: Vec<Vec<u8>>| {
        Some(Kind::Bumps(v1::BumpBatch {
            origin: vec![1; 16].into(),
            first: 1,
            events: vec![v1::BumpEvent {
                kind: Some(v1::bump_event::Kind::Bump(v1::Bump {
                    classes: vec!["a".to_owned()],
                    ..Default::default()
                })),
            }],
            relay: Some(v1::Relay {
                to: to.into_iter().map(Into::into).collect(),
                acknowledge: false,
            }),
            ..Default::default()
        }))
    };
    let kind = relayed(vec![vec![7; 16]; 1_024]);
    assert!(peer::read_message(v1::ExchangeRequest { kind }).is_ok());
    let bad = bad.into_iter().chain([
        relayed(vec![vec![7; 16]; 1_025]),
        relayed(vec![vec![7; 15]]),
        relayed(vec![vec![0; 16]]),
    ]);
    for kind in bad {
        assert!(peer::read_message(v1::ExchangeRequest { kind }).is_err());
    }
    let probe = peer::message(PeerMessage::Probe {
        nonce: 3,
        mark: Mark::default(),
        since: 0,
        applied: Some(77),
    });
    assert_eq!(
        peer::read_message(probe).unwrap(),
        PeerMessage::Probe {
            nonce: 3,
            mark: Mark::default(),
            since: 0,
            applied: Some(77),
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
        snapshot: None,
        local_table: 0,
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

#[test]
fn every_bad_field_of_a_write_is_named_with_value_and_limit() {
    let fields = |status: tonic::Status| -> Vec<(String, String)> {
        let violations = status.get_details_bad_request().unwrap().field_violations;
        violations
            .into_iter()
            .map(|it| (it.field, it.description))
            .collect()
    };
    let lease = std::time::Duration::from_secs(10);
    let request = v1::BeginWriteRequest {
        classes: vec!["a//b".to_owned()],
        r#match: 9,
        purge: 9,
        lease_ms: 99,
        timeout_ms: 60_001,
        ..Default::default()
    };
    let told = fields(app::beginning(&request, lease).err().unwrap());
    let names: Vec<_> = told.iter().map(|(field, _)| field.as_str()).collect();
    let expected = ["match", "classes[0]", "purge", "lease_ms", "timeout_ms"];
    assert_eq!(names, expected);
    assert_eq!(told[3].1, "99 ms; the limits are 100 to 600000 ms");
    let request = v1::BeginWriteRequest {
        classes: vec!["a".to_owned()],
        ..Default::default()
    };
    assert_eq!(app::beginning(&request, lease).unwrap().lease, lease);

    let request = v1::CommitWriteRequest {
        intent: vec![1; 24].into(),
        invalidation: Some(v1::InvalidateRequest {
            classes: vec!["a".to_owned(), "b b".to_owned()],
            ..Default::default()
        }),
        rows: None,
    };
    let told = fields(app::committing(&request).err().unwrap());
    let names: Vec<_> = told.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(names, ["intent", "invalidation.classes[1]"]);
    assert!(told[0].1.contains("24 bytes"), "{told:?}");
    let request = v1::CommitWriteRequest::default();
    let told = fields(app::committing(&request).err().unwrap());
    assert_eq!(told.len(), 2, "{told:?}");
    // Classes or rows, and not both.
    let request = v1::BeginWriteRequest {
        classes: vec!["a".to_owned()],
        changes: vec![v1::RowChange::default()],
        dialect: 77,
        ..Default::default()
    };
    let told = fields(app::beginning(&request, lease).err().unwrap());
    let names: Vec<_> = told.iter().map(|(field, _)| field.as_str()).collect();
    // As it is, and as it will be.
    let table = "changes[0].table";
    assert_eq!(names, ["changes", "dialect", table, table]);
    let request = v1::CommitWriteRequest {
        intent: vec![1; 25].into(),
        invalidation: Some(v1::InvalidateRequest::default()),
        rows: Some(v1::RowChangedRequest::default()),
    };
    let told = fields(app::committing(&request).err().unwrap());
    assert!(told.iter().any(|(field, _)| field == "rows"), "{told:?}");
    let request = v1::CommitWriteRequest {
        invalidation: None,
        ..request
    };
    let told = fields(app::committing(&request).err().unwrap());
    assert!(
        told.iter().any(|(field, _)| field == "rows.changes"),
        "{told:?}"
    );
    let request = v1::AbortWriteRequest::default();
    assert_eq!(
        fields(app::aborting(&request).err().unwrap())[0].0,
        "intent"
    );
}

#[test]
fn what_peers_say_of_intents_comes_back_and_nothing_malformed_does() {
    use grapevine_core::event::{Bump, Match, PurgeMode};
    use grapevine_core::intent::{Intent, IntentId, Owed};
    use grapevine_core::names::ClassPath;
    use v1::exchange_request::Kind;
    let origin = Incarnation::new(77).unwrap();
    let id = IntentId { origin, number: 3 };
    let event = EventId {
        origin,
        sequence: 9,
    };
    let owed = Owed::Classes(Bump {
        classes: ["a", "b/c"].map(|it| ClassPath::parse(it).unwrap()).into(),
        matching: Match::All,
        purge: PurgeMode::Soft,
    });
    let lease = std::time::Duration::from_micros(1_500_001);
    let said = |message| peer::read_message(peer::message(message)).unwrap();
    let PeerMessage::Intent(read) = said(PeerMessage::Intent(Intent {
        id,
        owed: owed.clone(),
        lease,
    })) else {
        panic!("another message");
    };
    assert_eq!((read.id, read.owed), (id, owed));
    assert!(read.lease >= lease, "a holder must not bump too early");
    for message in [
        PeerMessage::IntentHeld(vec![id; 3]),
        PeerMessage::IntentSettled {
            intent: id,
            event: Some(event),
        },
        PeerMessage::IntentSettled {
            intent: id,
            event: None,
        },
    ] {
        assert_eq!(said(message.clone()), message);
    }
    let good = v1::IntentId {
        incarnation: vec![1; 16].into(),
        number: 1,
    };
    let wrong = v1::WriteIntent {
        id: Some(good.clone()),
        bump: Some(v1::Bump {
            classes: vec!["a".to_owned()],
            ..Default::default()
        }),
        lease_ms: 700_000,
        rows: None,
    };
    for kind in [
        Kind::Intent(v1::WriteIntent::default()),
        Kind::Intent(wrong),
        Kind::IntentsHeld(v1::IntentsHeld::default()),
        Kind::IntentsHeld(v1::IntentsHeld {
            intents: vec![good.clone(); 1_001],
        }),
        Kind::IntentSettled(v1::IntentSettled::default()),
        Kind::IntentSettled(v1::IntentSettled {
            intent: Some(good.clone()),
            event: Some(v1::Dot::default()),
        }),
    ] {
        let kind = Some(kind);
        assert!(peer::read_message(v1::ExchangeRequest { kind }).is_err());
    }
    // Every sidecar has event 0 of every run: a holder would believe at once that the bump is here.
    let kind = Some(Kind::IntentSettled(v1::IntentSettled {
        intent: Some(good),
        event: Some(v1::Dot {
            incarnation: vec![1; 16].into(),
            sequence: 0,
        }),
    }));
    let told = peer::read_message(v1::ExchangeRequest { kind }).unwrap_err();
    assert_eq!(told.to_string(), "event.sequence: 0; the least is 1");
}

#[test]
fn words_about_fills_survive_the_wire_and_malformed_ones_are_refused() {
    use grapevine_core::fill::{FillKey, FillWord};
    use grapevine_core::names::Address;
    use grapevine_core::token::Token;
    use v1::exchange_request::Kind;

    let address = Address::parse("items::1").unwrap();
    let key = FillKey::new(&address, Token(7));
    let left = std::time::Duration::from_millis(1_500);
    for word in [
        FillWord::Ask,
        FillWord::Done { stored: true },
        FillWord::Done { stored: false },
        FillWord::Won,
        FillWord::Wait { left },
        FillWord::Filled,
        FillWord::Superseded,
    ] {
        let message = PeerMessage::Fill { key, word };
        let read = peer::read_message(peer::message(message.clone())).unwrap();
        assert_eq!(read, message);
    }
    let good = v1::FillElection {
        key: vec![1; 16].into(),
        word: v1::FillWord::Ask.into(),
        left_ms: 0,
    };
    for wrong in [
        v1::FillElection {
            key: vec![1; 15].into(),
            ..good.clone()
        },
        v1::FillElection {
            word: v1::FillWord::Unspecified.into(),
            ..good.clone()
        },
        v1::FillElection {
            word: 99,
            ..good.clone()
        },
        v1::FillElection {
            left_ms: 86_400_001,
            ..good
        },
    ] {
        let kind = Some(Kind::Fill(wrong));
        assert!(peer::read_message(v1::ExchangeRequest { kind }).is_err());
    }
}

#[test]
fn what_cannot_be_decoded_is_the_callers_mistake() {
    for bytes in [&[0xff; 11][..], &[0x0a, 5, 1], &[0x0a, 3, 0x0a, 1, 0xff]] {
        let error = v1::ResolveRequest::decode(bytes).unwrap_err();
        let blamed = status::blame(Status::internal(error.to_string()));
        assert_eq!(blamed.code(), Code::InvalidArgument, "{error}");
        let details = blamed.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, "message");
    }
    for ours in [
        Status::internal("the disk is on fire"),
        Status::out_of_range("of something else"),
    ] {
        let (code, message) = (ours.code(), ours.message().to_owned());
        let blamed = status::blame(ours);
        assert_eq!((blamed.code(), blamed.message()), (code, &*message));
    }
}
