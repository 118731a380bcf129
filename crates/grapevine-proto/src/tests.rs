//! What callers rely on from the generator, so that a change of its settings is noticed here first.

#![allow(clippy::unwrap_used, reason = "tests")]

use prost::Message as _;
use prost::bytes::Bytes;
use prost_types::FileDescriptorSet;

use crate::v1;

#[test]
fn descriptor_set_names_the_three_services_and_carries_no_comments() {
    let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let mut services: Vec<&str> = set
        .file
        .iter()
        .flat_map(|file| {
            file.service
                .iter()
                .map(prost_types::ServiceDescriptorProto::name)
        })
        .collect();
    services.sort_unstable();
    assert_eq!(
        services,
        ["AdminService", "ApplicationService", "PeerService"]
    );
    assert!(set.file.iter().all(|file| file.source_code_info.is_none()));
}

#[test]
fn messages_survive_the_wire() {
    let sent = v1::InvalidateResponse {
        event: Some(v1::EventId {
            incarnation: Bytes::from_static(&[7; 16]),
            sequence: 42,
        }),
        session_token: Bytes::from_static(b"\x01token"),
        receipt: Some(v1::Receipt {
            level: v1::ReceiptLevel::All.into(),
            satisfied: true,
            holders: vec![v1::Holder {
                node_id: "a".to_owned(),
                incarnation: Bytes::from_static(&[7; 16]),
                state: v1::HolderState::Has.into(),
            }],
        }),
        addresses_dropped: 0,
        addresses_purged: 3,
        addresses_pending: 0,
        local_table_position: 0,
    };
    let received = v1::InvalidateResponse::decode(sent.encode_to_vec().as_slice()).unwrap();
    assert_eq!(received, sent);
}

#[test]
fn counters_keep_their_order() {
    let mut status = v1::StatusResponse::default();
    for name in ["resolves", "bumps", "purges"] {
        status.counters.insert(name.to_owned(), 1);
    }
    let names: Vec<&String> = status.counters.keys().collect();
    assert_eq!(names, ["bumps", "purges", "resolves"]);
}
