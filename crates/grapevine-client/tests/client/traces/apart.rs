//! What is told apart: the application's own code within a call, callers that share an RPC, and what is done in the background.

use grapevine_cache::Cache as _;

use super::*;

/// The RPCs of what the application did in its own code, in the span 9, and around it in the span 8.
fn apart(traced: &Traced, methods: &str) {
    let heard = traced.fake().state.heard();
    assert_eq!(methods_of(&heard), methods);
    let mut own = 0;
    for heard in &heard {
        let is_own = heard.method == "Invalidate";
        own += u64::from(is_own);
        let span = sampled(if is_own { 9 } else { 8 });
        assert!(carries(heard, &span), "{heard:?} instead of {span:?}");
    }
    assert_eq!(traced.asked.take(), 1 + own, "of {methods}");
}

#[tokio::test]
async fn what_the_application_calls_while_it_fills_is_part_of_its_own_span() {
    let traced = Traced::new();
    let (client, cached) = (traced.client(), traced.cached());
    let application = Elsewhere(client);
    let fill = async |fill| {
        application.call().await;
        apples(fill).await
    };
    let classes = ["registered/1"];
    let got = cached.get_or_fill("cart::1", &classes, None, fill);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "Resolve Invalidate CommitFill");

    let own = client.clone();
    let fill_anew = move |fill| async move {
        Elsewhere(&own).call().await;
        apples(fill).await
    };
    let got = cached.get_or_refresh("cart::2", &["registered/2"], None, fill_anew);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "Resolve Invalidate CommitFill");

    let sql = "SELECT * FROM registered";
    let got = cached.cached_query(sql, [1], None, fill);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "Explain Resolve Invalidate CommitFill");
    let got = cached.cached_query("SELECT volatile", [1], None, fill);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "Explain Invalidate");

    let page = async |_: PageFill| {
        application.call().await;
        Ok::<_, Infallible>(vec![Bytes::from_static(b"a"); 10])
    };
    let classes = ["paged_registered/1"];
    let got = cached.get_or_fill_page("carts", &classes, 0, 10, None, page);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "Resolve Invalidate CommitFill");

    let index = client.index("item", v1::SqlDialect::Postgresql);
    let index = index.by("category_id", 5);
    let got = index.ids(|want| application.ids(want));
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "IndexRead Invalidate IndexFill");
    traced.fake().state.leaves().lock().forget();
    let got = index.objects(cached, &application);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "IndexRead Invalidate IndexFill Resolve Invalidate");
    let got = index.objects(cached, &application);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "IndexRead Resolve Invalidate IndexPrune");

    traced.fake().state.bypass.store(true, Ordering::SeqCst);
    let got = cached.get_or_fill("cart::1", &["registered/1"], None, fill);
    SPAN.scope(sampled(8), got).await.unwrap();
    apart(&traced, "Resolve Invalidate");
}

/// Has five callers of these spans call while the first one's RPC is held, and gives the two RPCs.
async fn together<F: Future<Output = ()> + Send + 'static>(
    traced: &Traced,
    method: Method,
    spans: [Option<TraceContext>; 4],
    call: impl Fn(usize) -> F,
) -> Vec<Heard> {
    let held = Arc::new(Semaphore::new(0));
    traced
        .fake()
        .state
        .next(method, Reply::Hold(Arc::clone(&held)));
    let before = traced.fake().state.calls(method);
    let mut callers = vec![tokio::spawn(SPAN.scope(sampled(1), call(0)))];
    until("the first one is away", || {
        traced.fake().state.calls(method) > before
    })
    .await;
    for (number, span) in (1..).zip(spans) {
        let call = call(number);
        callers.push(match span {
            Some(span) => tokio::spawn(SPAN.scope(span, call)),
            None => tokio::spawn(call),
        });
    }
    until("all wait", || traced.asked.often() == 5).await;
    held.add_permits(1);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(traced.asked.take(), 5, "each is asked once");
    traced.fake().state.heard()
}

#[tokio::test]
async fn an_rpc_of_several_callers_is_part_of_the_first_sampled_trace_among_them() {
    let traced = Traced::with(|builder| builder.rpcs_in_flight_max(1));
    let batches = [
        (
            [None, Some(unsampled(2)), Some(sampled(3)), Some(sampled(4))],
            Some(sampled(3)),
        ),
        (
            [None, Some(unsampled(2)), None, Some(unsampled(3))],
            Some(unsampled(2)),
        ),
        ([None, None, None, None], None),
    ];
    for (spans, expected) in batches {
        let resolve = |number: usize| {
            let client = traced.client().clone();
            async move {
                let address = format!("cart::{number}");
                let found = client.resolve_one(&address, &["carts/1"], None).await;
                drop(found.unwrap());
            }
        };
        let resolves = together(&traced, Method::Resolve, spans.clone(), resolve).await;
        let commit = |number: usize| {
            let client = traced.client().clone();
            async move {
                let fill = v1::Fill {
                    address: format!("cart::{number}"),
                    classes: vec!["carts/1".to_owned()],
                    lease: Bytes::from_static(&[0; 8]),
                    ttl_ms: 1_000,
                    ..Default::default()
                };
                client.commit_fill(fill).await.unwrap();
            }
        };
        let commits = together(&traced, Method::Commit, spans, commit).await;
        for (heard, method) in [(resolves, "Resolve"), (commits, "CommitFill")] {
            assert_eq!(methods_of(&heard), format!("{method} {method}"));
            assert!(carries(&heard[0], &sampled(1)), "{heard:?}");
            match &expected {
                Some(span) => assert!(carries(&heard[1], span), "{heard:?}"),
                None => assert_eq!(
                    (&heard[1].traceparent, &heard[1].tracestate),
                    (&None, &None)
                ),
            }
        }
    }
}

#[tokio::test]
async fn what_is_done_in_the_background_for_a_read_is_part_of_its_trace() {
    let traced = Traced::with(|builder| builder.audit(1.0).audit_grace(Duration::from_millis(1)));
    let (cached, state) = (traced.cached(), &traced.fake().state);
    let classes = ["carts/1"];
    let of_trace = |span: u64, count: usize| {
        let heard = state.heard();
        assert_eq!(heard.len(), count, "{heard:?}");
        let all = heard.iter().all(|heard| carries(heard, &sampled(span)));
        assert!(all, "{heard:?}");
        assert_eq!(traced.asked.take(), 1);
    };
    let got = cached.get_or_fill("cart::1", &classes, None, apples);
    SPAN.scope(sampled(1), got).await.unwrap();
    of_trace(1, 1);

    // An audit that finds something.
    let found = traced.client().resolve_one("cart::1", &classes, None);
    let found = found.await.unwrap().resolution;
    let target = &found.targets[0].address;
    let pears = Bytes::from_static(b"pears");
    let minute = Duration::from_mins(1);
    traced.setup.cache.set(target, pears, minute).await.unwrap();
    state.heard();
    traced.asked.take();
    let got = cached.get_or_fill("cart::1", &classes, None, apples);
    SPAN.scope(sampled(2), got).await.unwrap();
    until("it is judged", || cached.stats().audit_mismatches == 1).await;
    of_trace(2, 4);

    // A value that is given stale, and computed anew.
    let (token, address) = (found.token, target.clone());
    state.bump("carts/1");
    state.stale.lock().push(v1::StaleTarget { token, address });
    let got = cached.get_or_refresh("cart::1", &classes, None, apples);
    let got = SPAN.scope(sampled(3), got).await.unwrap();
    assert_eq!(got.how, How::Stale);
    until("it is computed anew", || cached.stats().stored == 2).await;
    of_trace(3, 2);
}

#[tokio::test]
async fn reports_are_part_of_nobody_s_trace() {
    let asked = Asked::default();
    let setup = setup_with(|builder| {
        let builder = asked.tell(builder);
        builder.report_every(Some(Duration::from_millis(1)))
    });
    let state = &setup.fake.state;
    let mut reads = 0;
    while state.calls(Method::ReportReads) == 0 {
        let got = setup
            .cached
            .get_or_fill("cart::1", &["carts/1"], None, apples);
        SPAN.scope(sampled(1), got).await.unwrap();
        reads += 1;
    }
    for heard in state.heard() {
        let of_trace = carries(&heard, &sampled(1));
        assert_eq!(of_trace, heard.method != "ReportReads", "{heard:?}");
        assert!(of_trace || heard.traceparent.is_none(), "{heard:?}");
    }
    assert_eq!(asked.take(), reads);
}

#[tokio::test]
async fn without_a_trace_nothing_is_carried() {
    let asked = Asked::default();
    for told in [false, true] {
        let setup = setup_with(|builder| if told { asked.tell(builder) } else { builder });
        let got = setup
            .cached
            .get_or_fill("cart::1", &["registered/1"], None, apples);
        // A span that the client is not told of, or none.
        if told {
            got.await.unwrap();
        } else {
            SPAN.scope(sampled(1), got).await.unwrap();
        }
        let heard = setup.fake.state.heard();
        assert_eq!(methods_of(&heard), "Resolve CommitFill");
        let nothing = |heard: &Heard| heard.traceparent.is_none() && heard.tracestate.is_none();
        assert!(heard.iter().all(nothing), "{heard:?}");
    }
    assert_eq!(asked.take(), 1);
}

#[tokio::test]
async fn a_trace_without_a_state_carries_none() {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let setup = setup_with(|builder| {
        builder.trace_context(move || TraceContext::new(traceparent, "").ok())
    });
    setup.cached.client().status().await.unwrap();
    let heard = setup.fake.state.heard();
    assert_eq!(heard[0].traceparent.as_deref(), Some(traceparent));
    assert_eq!(heard[0].tracestate, None);
}
