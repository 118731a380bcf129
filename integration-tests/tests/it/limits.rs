//! Limits on what is open at once and on single messages: at each, the caller is told which one it is and when to try
//! again (G10).

use std::time::Duration;

use anyhow::ensure;
use grapevine_integration_tests::{Api, Setup, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::ReceiptLevel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::bad_input::{invalidate, register, resolve, unharmed, unharmed_in};
use crate::support::SOON;

/// HTTP refuses it, before gRPC; the text is what the Rust client knows it by.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_over_the_limit_are_refused_by_http_and_harm_nobody() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let mut carrying = async |bytes: usize| {
        let mut request = tonic::Request::new(resolve("value", &["class"]));
        let value = "m".repeat(bytes).parse().unwrap();
        request.metadata_mut().insert("baggage", value);
        app.resolve(request).await
    };
    carrying(15 << 10).await.unwrap();
    let status = carrying(17 << 10).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    let known_by = "HTTP status code 431";
    assert!(status.message().ends_with(known_by), "{status}");
    carrying(15 << 10).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_harms_nobody() {
    let cluster = Setup::of(1)
        .flag("limits-message-bytes-max", "1MiB")
        .start()
        .await
        .unwrap();
    let mut app = cluster[0].api.app.clone();
    let large = "c".repeat(2 << 20);
    let too_large = |status: Status| {
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        let message = status.message();
        let rest = message.strip_prefix("a message of ").unwrap();
        let (size, rest) = rest.split_once(' ').unwrap();
        let beside = size.parse::<usize>().unwrap() - large.len();
        assert!((1..100).contains(&beside), "{status}");
        let limit = "bytes is larger than the limit of 1048576 bytes (limits.message_bytes_max)";
        assert_eq!(rest, limit);
    };
    too_large(app.invalidate(invalidate(&[&large])).await.unwrap_err());
    too_large(app.resolve(resolve(&large, &["c"])).await.unwrap_err());
    let forget = v1::ForgetRequest {
        node_id: large.clone(),
        ..Default::default()
    };
    let mut admin = cluster[0].api.admin.clone();
    too_large(admin.forget(forget).await.unwrap_err());
    let batch = v1::RegisterStreamRequest {
        batch: Some(register(&large, &["c"], 0)),
    };
    too_large(
        app.register_stream(tokio_stream::iter([batch]))
            .await
            .unwrap_err(),
    );
    let look_up = v1::ResolveStreamRequest {
        request: Some(resolve(&large, &["c"])),
    };
    let mut answers = app
        .resolve_stream(tokio_stream::iter([look_up]))
        .await
        .unwrap()
        .into_inner();
    too_large(answers.message().await.unwrap_err());
    unharmed(&cluster[0].api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_listings_beyond_their_limit_are_refused() {
    let setup = Setup::of(1).flag("limits-streams-max", "3");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    let mut app = api.app.clone();
    let mut open = Vec::new();
    for _ in 0..3 {
        // It ends when its caller says so.
        let (says, said) = tokio::sync::mpsc::channel(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(said);
        open.push((says, app.resolve_stream(requests).await.unwrap()));
    }
    let listing = v1::ListClassesRequest::default();
    let refused = [
        app.resolve_stream(tokio_stream::pending())
            .await
            .map(drop)
            .unwrap_err(),
        app.list_classes(listing).await.map(drop).unwrap_err(),
        app.register_stream(tokio_stream::empty())
            .await
            .map(drop)
            .unwrap_err(),
        api.addresses("c").await.map(drop).unwrap_err(),
    ];
    for refused in refused {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        let told = "3 streams and listings are open already (limits.streams_max)";
        assert_eq!(refused.message(), told);
        let retry = refused.get_details_retry_info();
        assert!(retry.is_some_and(|retry| retry.retry_delay.is_some()));
    }
    open.pop();
    eventually("a place is free again", SOON, async || {
        api.addresses("c").await.map(drop)?;
        Ok(())
    })
    .await
    .unwrap();
    unharmed(api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_and_top_level_classes_beyond_their_limits_are_refused() {
    let setup = Setup::of(1)
        .flag("limits-watchers-max", "3")
        .flag("limits-top-level-classes-max", "5");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(api.watch(&["c"]).await.unwrap());
    }
    let refused = api
        .app
        .clone()
        .watch(v1::WatchRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let told = "3 watchers are there already (limits.watchers_max)";
    assert_eq!(refused.message(), told);
    let retry = refused
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| delay <= Duration::from_mins(1)));
    watches.pop();
    eventually("a place is free again", SOON, async || {
        api.watch(&["c"]).await.map(drop)
    })
    .await
    .unwrap();

    for number in 0..5 {
        api.invalidate(&format!("top{number}/x"), ReceiptLevel::One)
            .await
            .unwrap();
    }
    let refused = api
        .invalidate("one_more/x", ReceiptLevel::One)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("number 6; the limit is 5")
            && refused.message().contains("one_more"),
        "{refused}"
    );
    // Every refusal for want of room is counted.
    let rejected = api.counter("intake_rejected").await.unwrap();
    assert!(rejected >= 2, "{rejected}");
    let quota = refused.get_details_quota_failure();
    assert!(quota.is_some_and(|quota| !quota.violations.is_empty()));
    unharmed_in(api, "top0").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_calls_that_wait_are_bounded_in_bytes() {
    let setup = Setup::of(1).flag("limits-calls-bytes-max", "16MiB");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    // Of a session that nobody can show, so that they wait: 14 MiB hold four of them.
    let unheard_of = [&[1][..], &[7; 16], &1_u64.to_be_bytes()].concat();
    let class = "c".repeat(200);
    let mut large = resolve("a", &[class.as_str(); 16]);
    large.items = vec![large.items[0].clone(); 1_000];
    large.session = Some(v1::Session {
        tokens: vec![unheard_of.into()],
        wait_ms: 60_000,
    });
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (mut app, call) = (api.app.clone(), large.clone());
        waiting.spawn(async move { app.resolve(call).await.map(drop) });
    }
    let refused = tokio::time::timeout(SOON, waiting.join_next()).await;
    let refused = refused.unwrap().unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let message = refused.message();
    assert!(message.contains("limits.calls_bytes_max"), "{message}");
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(waiting.len(), 4);
    unharmed(api).await;
    // Whoever leaves takes its call along.
    waiting.shutdown().await;
    large.session = None;
    eventually("there is room again", SOON, async || {
        api.app.clone().resolve(large.clone()).await?;
        Ok(())
    })
    .await
    .unwrap();
}

/// A family that outgrows its share gives way many times. The log tells of it once, by name; the counter has each time, and
/// a neighbour within its share is told of nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn g10_a_family_that_gives_way_is_logged_once_a_burst() {
    let cluster = Setup::of(1)
        .flag("limits-classes-per-top-max", "256")
        .start()
        .await
        .unwrap();
    let mut app = cluster[0].api.app.clone();
    for hundred in 0..50 {
        let classes = (0..100).map(|n| format!("carts/{}", hundred * 100 + n));
        let classes: Vec<_> = classes.collect();
        let classes: Vec<_> = classes.iter().map(String::as_str).collect();
        app.invalidate(invalidate(&classes)).await.unwrap();
    }
    app.invalidate(invalidate(&["users/1"])).await.unwrap();
    assert!(cluster[0].api.counter("floors_own").await.unwrap() > 10);
    // A thread of its own writes the log: once the last word is there, so is all that was said before.
    cluster[0].terminate().await.unwrap();
    eventually("it says its last word", SOON, async || {
        ensure!(cluster[0].log().contains("drained"));
        Ok(())
    })
    .await
    .unwrap();
    let log = cluster[0].log();
    let lines = log
        .lines()
        .filter(|line| line.contains("a limit is reached"));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("classes_per_top_max") && lines[0].contains("carts"),
        "{lines:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_one_connection_does_not_keep_others_from_streams() {
    let setup = Setup::of(1).flag("limits-streams-max", "20");
    let cluster = setup.start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(app.resolve_stream(tokio_stream::pending()).await.unwrap());
    }
    let refused = app.resolve_stream(tokio_stream::pending()).await;
    let refused = refused.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let told = "16 streams and listings are open already (limits.streams_max) on this connection";
    assert!(refused.message().starts_with(told), "{refused}");
    let other = Api::new(cluster[0].app_tcp);
    other.addresses("c").await.unwrap();
    unharmed(&other).await;
}

/// Nobody keeps a message here, decoded, that is refused anyway.
#[tokio::test(flavor = "multi_thread")]
async fn g10_what_is_wrong_with_a_call_is_told_before_it_waits_for_its_session() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let unheard_of = format!("01{}{:016x}", "07".repeat(16), 1);
    let mut wrong = tonic::Request::new(v1::CommitFillRequest {
        fills: vec![v1::Fill::default(); 1_001],
    });
    let mut register = tonic::Request::new(register("", &[], 0));
    for metadata in [wrong.metadata_mut(), register.metadata_mut()] {
        metadata.insert("grapevine-session", unheard_of.parse().unwrap());
        metadata.insert("grapevine-session-wait-ms", "1".parse().unwrap());
    }
    let refused = app.commit_fill(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("1001 of them"), "{refused}");
    let refused = app.register(register).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}
