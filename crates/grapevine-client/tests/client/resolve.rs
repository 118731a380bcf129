//! Look-ups: batching, errors, reconnects, deadlines, sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use grapevine_client::{CallError, Client, ResolveError, Session, v1};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::fake::{Fake, Method, PAGE_SIZE, Reply};
use crate::support::{patient, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_look_ups_share_rpcs_and_everybody_gets_its_own_answer() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let client = patient(&fake.endpoint).build().unwrap();
        let began = Instant::now();
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let client = client.clone();
                tokio::spawn(async move {
                    for round in 0..500 {
                        let address = format!("cart::{task}:{round}");
                        let resolved = client
                            .resolve_one(&address, &["carts"], None)
                            .await
                            .unwrap();
                        let target = &resolved.resolution.targets[0].address;
                        assert!(target.starts_with(&format!("{address}~1")), "{target}");
                        assert_eq!(resolved.freshness, v1::Freshness::Fresh);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let stats = client.stats();
        eprintln!(
            "{stats:?}, {:.0} look-ups/s",
            32_000.0 / began.elapsed().as_secs_f64()
        );
        assert_eq!(stats.resolve_items, 32_000);
        assert_eq!(fake.state.calls(Method::Resolve), stats.resolve_rpcs);
        assert!(stats.resolve_rpcs < 16_000, "{stats:?}");
    }
}

#[tokio::test]
async fn a_lone_look_up_is_one_rpc_with_one_item() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    for _ in 0..10 {
        client
            .resolve_one("cart::1", &["carts/1"], None)
            .await
            .unwrap();
    }
    assert_eq!(
        (client.stats().resolve_rpcs, client.stats().resolve_items),
        (10, 10)
    );
}

#[tokio::test]
async fn an_address_that_the_sidecar_refuses_fails_alone() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint)
        .rpcs_in_flight_max(1)
        .build()
        .unwrap();
    let hold = Arc::new(Semaphore::new(0));
    fake.state
        .next(Method::Resolve, Reply::Hold(Arc::clone(&hold)));
    let look_up = |address: String| {
        let client = client.clone();
        tokio::spawn(async move { client.resolve_one(&address, &["carts"], None).await })
    };
    let first = look_up("first".to_owned());
    until("the first is away", || {
        fake.state.calls(Method::Resolve) == 1
    })
    .await;
    let good: Vec<_> = (0..50)
        .map(|number| look_up(format!("good{number}")))
        .collect();
    let bad: Vec<_> = (0..3).map(|_| look_up("b".repeat(240))).collect();
    tokio::task::yield_now().await;
    hold.add_permits(1);
    first.await.unwrap().unwrap();
    for task in good {
        task.await.unwrap().unwrap();
    }
    for task in bad {
        let error = task.await.unwrap().unwrap_err();
        let ResolveError::Invalid(invalid) = error else {
            panic!("{error}");
        };
        assert_eq!(invalid.violations[0].field, "items[0].address");
        assert!(
            invalid.to_string().contains("too long once decorated"),
            "{invalid}"
        );
    }
}

/// The longest look-up that there is: 3.4 KB.
fn longest(number: usize) -> (String, Vec<String>) {
    let classes = (0..16).map(|class| format!("carts/{number:05}/{class:02}/{:x>185}", ""));
    (format!("{number:0>220}"), classes.collect())
}

#[tokio::test]
async fn g10_look_ups_too_long_for_one_message_travel_in_several() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint)
        .rpcs_in_flight_max(1)
        .build()
        .unwrap();
    let (address, classes) = longest(1);
    assert!(address.len() + classes.iter().map(String::len).sum::<usize>() > 3_400);
    // Gathered while the first one is away, they would be 3.4 MB.
    let hold = Arc::new(Semaphore::new(0));
    fake.state
        .next(Method::Resolve, Reply::Hold(Arc::clone(&hold)));
    let look_ups: Vec<_> = (0..1_000)
        .map(|number| {
            let (client, (address, classes)) = (client.clone(), longest(number));
            tokio::spawn(async move { client.resolve_one(&address, &classes, None).await })
        })
        .collect();
    until("the first is away", || {
        fake.state.calls(Method::Resolve) == 1
    })
    .await;
    tokio::task::yield_now().await;
    hold.add_permits(1);
    for (number, look_up) in look_ups.into_iter().enumerate() {
        let resolved = look_up.await.unwrap().unwrap();
        let target = &resolved.resolution.targets[0].address;
        assert!(target.starts_with(&longest(number).0), "{target}");
    }
    let rpcs = fake.state.calls(Method::Resolve);
    assert!((7..=12).contains(&rpcs), "{rpcs}");

    // The same in one call.
    let items = (0..1_000).map(|number| {
        let (address, classes) = longest(number);
        v1::ResolveItem {
            address,
            classes,
            page: None,
        }
    });
    let mut items: Vec<_> = items.collect();
    let answers = client.resolve(items.clone()).await.unwrap();
    for (number, resolved) in answers.iter().enumerate() {
        let target = &resolved.resolution.targets[0].address;
        assert!(target.starts_with(&longest(number).0), "{target}");
    }
    assert_eq!(answers.len(), 1_000);
    assert!(fake.state.calls(Method::Resolve) - rpcs <= 8);

    // What is wrong is named by its position in the whole call, whichever part it was in.
    items[700].address = "b".repeat(240);
    let error = client.resolve(items).await.unwrap_err();
    let ResolveError::Invalid(invalid) = error else {
        panic!("{error}");
    };
    assert_eq!(invalid.violations[0].field, "items[700].address");
}

#[tokio::test]
async fn g10_fills_too_long_for_one_message_travel_in_several() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint)
        .rpcs_in_flight_max(1)
        .build()
        .unwrap();
    let fills: Vec<_> = (0..1_000)
        .map(|number| {
            let (address, mut classes) = longest(number);
            let fill = v1::Fill {
                address,
                added_classes: classes.split_off(1),
                classes,
                lease: vec![0; 8].into(),
                ttl_ms: u64::from(u32::MAX),
                ..v1::Fill::default()
            };
            let client = client.clone();
            tokio::spawn(async move { client.commit_fill(fill).await })
        })
        .collect();
    for fill in fills {
        assert!(fill.await.unwrap().unwrap().accepted);
    }
    let rpcs = client.stats().commit_rpcs;
    assert!((7..=12).contains(&rpcs), "{rpcs}");
}

#[tokio::test]
async fn g10_more_pages_than_one_answer_takes_are_asked_for_in_several() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint)
        .rpcs_in_flight_max(1)
        .build()
        .unwrap();
    let page = |pages: u32| {
        Some(v1::Page {
            offset: 0,
            limit: pages * PAGE_SIZE,
        })
    };
    // 40,000 pages in all.
    let look_ups: Vec<_> = (0..40)
        .map(|number| {
            let client = client.clone();
            let address = format!("list::{number}");
            tokio::spawn(async move { client.resolve_one(&address, &["paged"], page(1_000)).await })
        })
        .collect();
    for look_up in look_ups {
        let resolved = look_up.await.unwrap().unwrap();
        assert_eq!(resolved.resolution.targets.len(), 1_000);
    }
    let rpcs = fake.state.calls(Method::Resolve);
    assert!(rpcs <= 20, "{rpcs}");

    let item = |number: usize, pages| v1::ResolveItem {
        address: format!("list::{number}"),
        classes: vec!["paged".to_owned()],
        page: page(pages),
    };
    let items = (0..40).map(|number| item(number, 1_000)).collect();
    let answers = client.resolve(items).await.unwrap();
    for (number, resolved) in answers.iter().enumerate() {
        let target = &resolved.resolution.targets[0].address;
        assert!(target.starts_with(&format!("list::{number}~p")), "{target}");
    }
    assert_eq!(answers.len(), 40);
    assert!(fake.state.calls(Method::Resolve) - rpcs <= 20);
}

#[tokio::test]
async fn malformed_look_ups_are_refused_without_asking() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let page = |offset, limit| Some(v1::Page { offset, limit });
    let long = "a".repeat(251);
    let many = vec!["c"; 17];
    for (address, classes, page, field) in [
        ("", vec!["c"], None, "address"),
        ("a b", vec!["c"], None, "address"),
        (&*long, vec!["c"], None, "address"),
        ("a", vec![], None, "classes"),
        ("a", many, None, "classes"),
        ("a", vec!["c", "c//d"], None, "classes[1]"),
        ("a", vec!["c"], page(0, 0), "page.limit"),
        ("a", vec!["c"], page(u64::MAX, 1), "page.offset"),
    ] {
        let error = client
            .resolve_one(address, &classes, page)
            .await
            .unwrap_err();
        let ResolveError::Invalid(invalid) = error else {
            panic!("{error}");
        };
        assert_eq!(invalid.violations[0].field, field);
    }
    let items = vec![v1::ResolveItem::default(); 1_001];
    assert!(matches!(
        client.resolve(items).await,
        Err(ResolveError::Invalid(_))
    ));
    assert!(matches!(
        client.resolve(Vec::new()).await,
        Err(ResolveError::Invalid(_))
    ));
    assert_eq!(fake.state.calls(Method::Resolve), 0);
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_is_left_alone_and_found_again() {
    for mut fake in [Fake::unix(), Fake::tcp()] {
        fake.stop();
        let client = patient(&fake.endpoint)
            .backoff(Duration::from_mins(2), Duration::from_mins(2))
            .build()
            .unwrap();
        let first = client.resolve_one("a", &["c"], None).await.unwrap_err();
        assert!(
            matches!(
                &first,
                ResolveError::Call(CallError::Unreachable {
                    retry_after: None,
                    ..
                })
            ),
            "{first}"
        );
        let second = client.resolve_one("a", &["c"], None).await.unwrap_err();
        let ResolveError::Call(CallError::Unreachable { retry_after, .. }) = second else {
            panic!("{second}");
        };
        assert!(retry_after.unwrap() > Duration::from_secs(30));
        assert_eq!(client.stats().resolve_rpcs, 1);

        let client = patient(&fake.endpoint).build().unwrap();
        client.resolve_one("a", &["c"], None).await.unwrap_err();
        fake.start();
        let deadline = Instant::now() + crate::support::PATIENT;
        while client.resolve_one("a", &["c"], None).await.is_err() {
            assert!(Instant::now() < deadline, "never found again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fake.stop();
        fake.start();
        // Its connection broke: at most some look-ups notice, and then it is there again.
        while client.resolve_one("a", &["c"], None).await.is_err() {
            assert!(Instant::now() < deadline, "never found again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_sidecar_that_hangs_costs_its_deadline_and_soon_nothing() {
    let fake = Fake::unix();
    let deadline = Duration::from_millis(50);
    let client = Client::builder(&fake.endpoint)
        .resolve_deadline(deadline)
        .backoff(Duration::from_mins(2), Duration::from_mins(2))
        .build()
        .unwrap();
    for _ in 0..10 {
        fake.state.next(Method::Resolve, Reply::Hang);
    }
    let began = Instant::now();
    let error = client.resolve_one("a", &["c"], None).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Call(CallError::Deadline { .. })),
        "{error}"
    );
    assert!(began.elapsed() >= deadline, "{:?}", began.elapsed());
    // Some more in a row, and it is not asked again for a while.
    let patience = Instant::now() + crate::support::PATIENT;
    while !matches!(
        client.resolve_one("a", &["c"], None).await.unwrap_err(),
        ResolveError::Call(CallError::Unreachable { .. })
    ) {
        assert!(Instant::now() < patience, "it is asked for ever");
    }
    assert!(fake.state.calls(Method::Resolve) <= 5);
}

#[tokio::test]
async fn statuses_become_typed_errors() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let ask = async |code| {
        fake.state.next(Method::Resolve, Reply::Status(code));
        client.resolve_one("a", &["c"], None).await.unwrap_err()
    };
    assert!(matches!(
        ask(Code::ResourceExhausted).await,
        ResolveError::Call(CallError::Overloaded { .. })
    ));
    assert!(matches!(
        ask(Code::FailedPrecondition).await,
        ResolveError::Call(CallError::Refused { .. })
    ));
    assert!(matches!(
        ask(Code::DeadlineExceeded).await,
        ResolveError::Call(CallError::GaveUp { .. })
    ));
    // A connection that broke is tried once more, by itself.
    fake.state
        .next(Method::Resolve, Reply::Status(Code::Unknown));
    client.resolve_one("a", &["c"], None).await.unwrap();
    assert!(matches!(
        ask(Code::Unavailable).await,
        ResolveError::Call(CallError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn g5_a_look_up_carries_its_session() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let outcome = client.invalidate(["carts/1"]).await.unwrap();
    let mut session = Session::new();
    session.add(&outcome.session_token).unwrap();
    client
        .resolve_one_in(&session, "a", &["carts/1"], None)
        .await
        .unwrap();

    let mut ahead = Session::new().wait(Duration::from_millis(5));
    let mut token = outcome.session_token.to_vec();
    *token.last_mut().unwrap() = 200;
    ahead.add(&token.into()).unwrap();
    let error = client
        .resolve_one_in(&ahead, "a", &["carts/1"], None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ResolveError::SessionBehind { .. }),
        "{error}"
    );
}

#[ignore = "a measurement: run it with --release --ignored --nocapture"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure_look_ups() {
    for in_flight in [1, 2, 4, 8] {
        let fake = Fake::unix();
        let client = patient(&fake.endpoint)
            .rpcs_in_flight_max(in_flight)
            .build()
            .unwrap();
        let began = Instant::now();
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let client = client.clone();
                tokio::spawn(async move {
                    for round in 0..10_000 {
                        let address = format!("get_items_in_cart::{task}:{round}");
                        client
                            .resolve_one(&address, &["get_items_in_cart/13"], None)
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        let stats = client.stats();
        let rate = 640_000.0 / took;
        eprintln!(
            "{in_flight} in flight: {rate:.0} look-ups/s in {} RPCs",
            stats.resolve_rpcs
        );
    }
}
