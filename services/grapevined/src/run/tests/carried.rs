//! Sessions in the metadata of calls.

use std::fmt::Write as _;

use grapevine_core::id::EventId;
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_server::ApplicationService as _;
use tonic::{Code, Request};

use super::{Rig, new_incarnation, registrations};

/// A request that carries a session token in its metadata.
fn carrying<T>(token: &[u8], message: T) -> Request<T> {
    let text = token.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    let mut request = Request::new(message);
    let entries = request.metadata_mut();
    entries.insert("grapevine-session", text.parse().unwrap());
    entries.insert("grapevine-session-wait-ms", "1".parse().unwrap());
    request
}

fn look_up() -> v1::ResolveRequest {
    v1::ResolveRequest {
        items: vec![v1::ResolveItem {
            address: "value::1".to_owned(),
            classes: vec!["class".to_owned()],
            page: None,
        }],
        session: None,
        snapshot: None,
        local_table: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_every_call_waits_for_the_session_in_its_metadata_or_does_nothing() {
    let rig = Rig::start(|_| {}).await;
    let never = EventId {
        origin: new_incarnation().unwrap(),
        sequence: 77,
    };
    let never = crate::wire::session_token(never);
    let done = rig.invalidate("class", 0).await.unwrap();
    let bump = v1::InvalidateRequest {
        classes: vec!["class".to_owned()],
        ..Default::default()
    };
    let begin = v1::BeginWriteRequest {
        classes: vec!["class".to_owned()],
        ..Default::default()
    };
    let look_up = look_up();
    let list = v1::ListAddressesRequest {
        class: "class".to_owned(),
        ..Default::default()
    };
    let fill = v1::CommitFillRequest {
        fills: vec![v1::Fill {
            address: "value::1".to_owned(),
            classes: vec!["class".to_owned()],
            ..v1::Fill::default()
        }],
    };
    let classes = v1::ListClassesRequest::default();
    let registration = registrations(1).into_inner();
    let app = &rig.app;
    let commit = v1::CommitWriteRequest {
        rows: None,
        intent: vec![1; 25].into(),
        invalidation: Some(bump.clone()),
    };
    for (token, seen) in [(&never, false), (&done.session_token, true)] {
        let answers = [
            (
                "begin_write",
                app.begin_write(carrying(token, begin.clone())).await.err(),
            ),
            (
                "resolve",
                app.resolve(carrying(token, look_up.clone())).await.err(),
            ),
            (
                "open_snapshot",
                app.open_snapshot(carrying(token, v1::OpenSnapshotRequest::default()))
                    .await
                    .err(),
            ),
            (
                "register",
                app.register(carrying(token, registration.clone()))
                    .await
                    .err(),
            ),
            (
                "commit_fill",
                app.commit_fill(carrying(token, fill.clone())).await.err(),
            ),
            (
                "invalidate",
                app.invalidate(carrying(token, bump.clone())).await.err(),
            ),
            (
                "list_addresses",
                app.list_addresses(carrying(token, list.clone()))
                    .await
                    .err(),
            ),
            (
                "list_classes",
                app.list_classes(carrying(token, classes.clone()))
                    .await
                    .err(),
            ),
            (
                "commit_write",
                app.commit_write(carrying(token, commit.clone()))
                    .await
                    .err(),
            ),
        ];
        for (call, refused) in answers {
            // Some of these are wrong in other ways once they are let in, which is after the wait.
            let late = refused.filter(|status| status.code() == Code::DeadlineExceeded);
            assert_eq!(late.is_none(), seen, "{call}: {late:?}");
            if let Some(late) = late {
                assert!(late.message().contains("event 77 of"), "{late}");
            }
        }
        if !seen {
            assert_eq!(
                rig.sidecar.engine.store.registrations(),
                0,
                "nothing was done"
            );
        }
    }
}
