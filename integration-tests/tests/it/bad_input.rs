//! Bad input over gRPC: each has its code, names its field, and tells the limit.

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Setup};
use grapevine_proto::v1;
use grapevine_proto::v1::ReceiptLevel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const TEN_YEARS_MS: u64 = 10 * 8_766 * 3_600_000;

/// Checks that a call was refused for a field, saying what is in `tells`.
fn check<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, field: &str, tells: &[&str]) {
    let status = match answer {
        Ok(answer) => panic!("{what}: it was taken: {answer:?}"),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
    let violations = status
        .get_details_bad_request()
        .map(|bad| bad.field_violations);
    let violations = violations.unwrap_or_default();
    let named = violations.iter().find(|violation| violation.field == field);
    let told = named.unwrap_or_else(|| panic!("{what}: {field} is not among {violations:?}"));
    for part in tells {
        assert!(
            told.description.contains(part),
            "{what}: {part:?} is not in {:?}",
            told.description
        );
    }
    assert!(
        status.message().len() < 1_000,
        "{what}: {} bytes of message",
        status.message().len()
    );
}

pub(crate) fn resolve(address: &str, classes: &[&str]) -> v1::ResolveRequest {
    let item = v1::ResolveItem {
        address: address.to_owned(),
        classes: classes.iter().map(|class| (*class).to_owned()).collect(),
        page: None,
    };
    v1::ResolveRequest {
        items: vec![item],
        session: None,
        snapshot: None,
        local_table: 0,
    }
}

pub(crate) fn register(address: &str, classes: &[&str], ttl_ms: u64) -> v1::RegisterRequest {
    let registration = v1::Registration {
        address: address.to_owned(),
        classes: classes.iter().map(|class| (*class).to_owned()).collect(),
        ttl_ms,
        ..Default::default()
    };
    v1::RegisterRequest {
        registrations: vec![registration],
    }
}

pub(crate) fn invalidate(classes: &[&str]) -> v1::InvalidateRequest {
    v1::InvalidateRequest {
        classes: classes.iter().map(|class| (*class).to_owned()).collect(),
        ..Default::default()
    }
}

/// Malformed addresses, and what is told of each.
fn bad_addresses() -> Vec<(String, &'static str)> {
    vec![
        (String::new(), "empty"),
        ("a".repeat(251), "250"),
        ("é".repeat(126), "250"),
        ("a b".to_owned(), "0x20"),
        ("a\tb".to_owned(), "0x09"),
        ("a\r\nb".to_owned(), "0x0d"),
        ("a\0".to_owned(), "0x00"),
        ("a\u{7f}".to_owned(), "0x7f"),
    ]
}

/// Malformed classes, and what is told of each.
fn bad_classes() -> Vec<(String, &'static str)> {
    vec![
        (String::new(), "empty"),
        ("/a".to_owned(), "segment"),
        ("a/".to_owned(), "segment"),
        ("a//b".to_owned(), "segment"),
        ("/".to_owned(), "segment"),
        ("a b".to_owned(), "0x20"),
        ("a\nb".to_owned(), "0x0a"),
        ("a".repeat(201), "200"),
        (vec!["a"; 17].join("/"), "16"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_addresses_and_classes_are_refused_by_name() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    for (bad, tells) in bad_addresses() {
        let what = format!("address {bad:?}");
        check(
            &what,
            app.resolve(resolve(&bad, &["c"])).await,
            "items[0].address",
            &[tells],
        );
        check(
            &what,
            app.register(register(&bad, &["c"], 0)).await,
            "registrations[0].address",
            &[tells],
        );
        let fill = v1::Fill {
            address: bad,
            classes: vec!["c".to_owned()],
            ..Default::default()
        };
        let request = v1::CommitFillRequest { fills: vec![fill] };
        check(
            &what,
            app.commit_fill(request).await,
            "fills[0].address",
            &[tells],
        );
    }
    for (bad, tells) in bad_classes() {
        let what = format!("class {bad:?}");
        check(
            &what,
            app.resolve(resolve("a", &["c", &bad])).await,
            "items[0].classes[1]",
            &[tells],
        );
        check(
            &what,
            app.register(register("a", &[&bad], 0)).await,
            "registrations[0].classes[0]",
            &[tells],
        );
        check(
            &what,
            app.invalidate(invalidate(&["c", &bad])).await,
            "classes[1]",
            &[tells],
        );
        let fill = v1::Fill {
            address: "a".to_owned(),
            classes: vec!["c".to_owned()],
            added_classes: vec![bad.clone()],
            ..Default::default()
        };
        let request = v1::CommitFillRequest { fills: vec![fill] };
        check(
            &what,
            app.commit_fill(request).await,
            "fills[0].added_classes[0]",
            &[tells],
        );
        let request = v1::WatchRequest {
            classes: vec![bad.clone()],
        };
        check(
            &what,
            app.watch(request).await.map(|_| ()),
            "classes[0]",
            &[tells],
        );
        let request = v1::ListAddressesRequest {
            class: bad.clone(),
            ..Default::default()
        };
        check(
            &what,
            app.list_addresses(request).await.map(|_| ()),
            "class",
            &[tells],
        );
        if !bad.is_empty() {
            let request = v1::ListClassesRequest {
                below: bad,
                ..Default::default()
            };
            check(
                &what,
                app.list_classes(request).await.map(|_| ()),
                "below",
                &[tells],
            );
        }
    }
    // What names no class that addresses belong to would list nothing, without a word.
    for pattern in ["*", "a/*", "**"] {
        let request = v1::ListAddressesRequest {
            class: pattern.to_owned(),
            ..Default::default()
        };
        let answer = app.list_addresses(request).await.map(|_| ());
        check(pattern, answer, "class", &["\"*"]);
        let request = v1::ListClassesRequest {
            below: pattern.to_owned(),
            ..Default::default()
        };
        let answer = app.list_classes(request).await.map(|_| ());
        check(pattern, answer, "below", &["\"*"]);
    }
    let request = v1::DrainRequest {
        timeout_ms: 3_600_001,
    };
    let answer = cluster[0].api.admin.clone().drain(request).await;
    check("an endless drain", answer, "timeout_ms", &["3600000"]);
    unharmed(&cluster[0].api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_classes_in_one_call_are_refused_with_the_limit() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let many: Vec<String> = (0..100_000).map(|number| format!("c/{number}")).collect();
    let refs = |count: usize| many[..count].iter().map(String::as_str).collect::<Vec<_>>();

    check(
        "100,000 classes",
        app.invalidate(invalidate(&refs(100_000))).await,
        "classes",
        &["100000", "1000"],
    );
    check(
        "1,001 classes",
        app.invalidate(invalidate(&refs(1_001))).await,
        "classes",
        &["1001", "1000"],
    );
    check(
        "no classes",
        app.invalidate(invalidate(&[])).await,
        "classes",
        &["1 to 1000"],
    );
    let all = |count| v1::InvalidateRequest {
        r#match: v1::Match::All.into(),
        ..invalidate(&refs(count))
    };
    check(
        "all of nine",
        app.invalidate(all(9)).await,
        "classes",
        &["8"],
    );
    check(
        "all of one",
        app.invalidate(all(1)).await,
        "classes",
        &["2 to 8"],
    );
    check(
        "100,000 classes",
        app.resolve(resolve("a", &refs(100_000))).await,
        "items[0].classes",
        &["100000", "16"],
    );
    check(
        "17 classes",
        app.resolve(resolve("a", &refs(17))).await,
        "items[0].classes",
        &["17", "16"],
    );
    check(
        "no classes",
        app.resolve(resolve("a", &[])).await,
        "items[0].classes",
        &["1 to 16"],
    );
    check(
        "17 classes",
        app.register(register("a", &refs(17), 0)).await,
        "registrations[0].classes",
        &["16"],
    );
    let fill = v1::Fill {
        address: "a".to_owned(),
        classes: many[..10].to_vec(),
        added_classes: many[10..17].to_vec(),
        ..Default::default()
    };
    let fills = v1::CommitFillRequest { fills: vec![fill] };
    check(
        "17 with the added",
        app.commit_fill(fills).await,
        "fills[0].classes",
        &["17", "16"],
    );
    let watch = v1::WatchRequest {
        classes: many[..101].to_vec(),
    };
    check(
        "101 watched",
        app.watch(watch).await.map(|_| ()),
        "classes",
        &["101", "100"],
    );
    unharmed(&cluster[0].api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_items_in_one_call_are_refused_with_the_limit() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let items = |count| v1::ResolveRequest {
        items: vec![resolve("a", &["c"]).items[0].clone(); count],
        session: None,
        snapshot: None,
        local_table: 0,
    };
    check(
        "1,001 items",
        app.resolve(items(1_001)).await,
        "items",
        &["1001", "1000"],
    );
    check(
        "no items",
        app.resolve(items(0)).await,
        "items",
        &["1 to 1000"],
    );
    let fills = v1::CommitFillRequest {
        fills: vec![v1::Fill::default(); 1_001],
    };
    check(
        "1,001 fills",
        app.commit_fill(fills).await,
        "fills",
        &["1001", "1000"],
    );
    let registrations = v1::RegisterRequest {
        registrations: vec![register("a", &["c"], 0).registrations[0].clone(); 10_001],
    };
    check(
        "10,001 registrations",
        app.register(registrations).await,
        "registrations",
        &["10001", "10000"],
    );

    // A batch of bad ones is told in a bounded answer.
    let bad = v1::RegisterRequest {
        registrations: vec![register("", &["c"], 0).registrations[0].clone(); 10_000],
    };
    check(
        "10,000 bad ones",
        app.register(bad).await,
        "registrations[0].address",
        &["empty"],
    );
    unharmed(&cluster[0].api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_numbers_and_unknown_values_are_refused() {
    let cluster = Setup::of(1).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    for ttl_ms in [TEN_YEARS_MS + 1, u64::MAX] {
        let what = format!("ttl {ttl_ms}");
        check(
            &what,
            app.register(register("a", &["c"], ttl_ms)).await,
            "registrations[0].ttl_ms",
            &["10 years"],
        );
        let fill = v1::Fill {
            address: "a".to_owned(),
            classes: vec!["c".to_owned()],
            ttl_ms,
            ..Default::default()
        };
        let request = v1::CommitFillRequest { fills: vec![fill] };
        check(
            &what,
            app.commit_fill(request).await,
            "fills[0].ttl_ms",
            &["10 years"],
        );
    }
    // Zero is the policy's, and ten years are taken.
    app.register(register("a", &["ttl"], 0)).await.unwrap();
    app.register(register("b", &["ttl"], TEN_YEARS_MS))
        .await
        .unwrap();
    assert_eq!(cluster[0].api.addresses("ttl").await.unwrap().len(), 2);

    let with = |change: fn(&mut v1::InvalidateRequest)| {
        let mut request = invalidate(&["c"]);
        change(&mut request);
        request
    };
    for (field, tells, request) in [
        ("match", "77", with(|request| request.r#match = 77)),
        ("receipt", "-1", with(|request| request.receipt = -1)),
        ("purge", "9", with(|request| request.purge = 9)),
        (
            "timeout_ms",
            "60000",
            with(|request| request.timeout_ms = 60_001),
        ),
    ] {
        check(field, app.invalidate(request).await, field, &[tells]);
    }
    for (tokens, wait_ms, field) in [
        (vec![vec![]], 0, "session.tokens[0]"),
        (vec![vec![1; 24]], 0, "session.tokens[0]"),
        (vec![vec![9; 25]], 0, "session.tokens[0]"),
        (vec![vec![1; 4_000]], 0, "session.tokens[0]"),
        (vec![vec![1; 25]; 4], 0, "session.tokens"),
        (vec![], 60_001, "session.wait_ms"),
    ] {
        let session = v1::Session {
            tokens: tokens.into_iter().map(Into::into).collect(),
            wait_ms,
        };
        let look_up = v1::ResolveRequest {
            session: Some(session.clone()),
            ..resolve("a", &["c"])
        };
        check("session", app.resolve(look_up).await, field, &[]);
        let write = v1::InvalidateRequest {
            session: Some(session),
            ..invalidate(&["c"])
        };
        check("session", app.invalidate(write).await, field, &[]);
    }
    unharmed(&cluster[0].api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_and_page_tokens_are_checked() {
    let toml = "[[policy]]\npattern = \"paged/**\"\npaging = 10\n";
    let cluster = Setup::of(1).toml(toml).start().await.unwrap();
    let mut app = cluster[0].api.app.clone();
    let slice = |address: &str, offset, limit| {
        let mut request = resolve(address, &["paged/1"]);
        request.items[0].page = Some(v1::Page { offset, limit });
        request
    };
    check(
        "no items",
        app.resolve(slice("a", 0, 0)).await,
        "items[0].page",
        &["10000"],
    );
    check(
        "many items",
        app.resolve(slice("a", 0, 10_001)).await,
        "items[0].page",
        &["10001", "10000"],
    );
    check(
        "far off",
        app.resolve(slice("a", (1 << 40) + 1, 10)).await,
        "items[0].page",
        &["1099511627776"],
    );
    check(
        "far off",
        app.resolve(slice("a", u64::MAX, 10)).await,
        "items[0].page",
        &["1099511627776"],
    );
    app.resolve(slice("a", 1 << 40, 10)).await.unwrap();
    // What is legal as it stands and too long once decorated.
    let long = "a".repeat(250);
    check(
        "decorated",
        app.resolve(resolve(&long, &["c"])).await,
        "items[0].address",
        &["250"],
    );
    check(
        "decorated",
        app.resolve(slice(&long, 0, 10)).await,
        "items[0].address",
        &["250"],
    );

    // A thousand slices of a thousand pages each would hold the machine up for all others.
    let mut many = slice("a", 5, 1_000);
    many.items = vec![many.items[0].clone(); 1_000];
    check(
        "many pages",
        app.resolve(many).await,
        "items",
        &["101000 pages", "10000"],
    );

    for token in [&b"x"[..], &[0xff; 300], b"\0\0\0\0\0\0\0\0\0\0\0\0"] {
        let addresses = v1::ListAddressesRequest {
            class: "c".to_owned(),
            page_token: token.to_vec().into(),
            ..Default::default()
        };
        check(
            "page token",
            app.list_addresses(addresses).await.map(|_| ()),
            "page_token",
            &[],
        );
        let classes = v1::ListClassesRequest {
            page_token: token.to_vec().into(),
            ..Default::default()
        };
        check(
            "page token",
            app.list_classes(classes).await.map(|_| ()),
            "page_token",
            &[],
        );
    }
    unharmed(&cluster[0].api).await;
}

pub(crate) async fn unharmed(api: &Api) {
    unharmed_in(api, "well").await.unwrap();
}

/// It still does its work.
pub(crate) async fn unharmed_in(api: &Api, class: &str) -> Result<()> {
    let (before, _) = api.token(class).await?;
    api.register(class, ["value".to_owned()]).await?;
    ensure!(api.addresses(class).await?.len() == 1);
    api.invalidate(class, ReceiptLevel::One).await?;
    ensure!(api.token(class).await?.0 != before);
    ensure!(api.addresses(class).await?.is_empty());
    Ok(())
}
