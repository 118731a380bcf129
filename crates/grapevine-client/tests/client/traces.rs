//! Whose trace RPCs are part of: that of the call which they follow from, and of no other.

mod apart;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use grapevine_client::{
    Ask, CachedClient, Client, ClientBuilder, Fill, FillTurn, How, IndexObjects, IndexRow,
    LeafExtent, Objects, PageFill, SLICE_LIMIT_MAX, Session, TraceContext, Want, v1,
};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::fake::{Fake, Heard, Method, PAGE_SIZE, Reply, TARGETS_MAX};
use crate::support::{Setup, patient, setup_with, until};

tokio::task_local! {
    /// The span that is current, as a tracing library has it.
    static SPAN: TraceContext;
}

fn span_of(number: u64, flags: u8) -> TraceContext {
    let traceparent = format!(
        "00-{:032x}-{number:016x}-{flags:02x}",
        u128::from(number) << 64 | 1
    );
    TraceContext::new(&traceparent, &format!("test={number}")).unwrap()
}

fn sampled(number: u64) -> TraceContext {
    span_of(number, 1)
}

fn unsampled(number: u64) -> TraceContext {
    span_of(number, 0)
}

/// How often clients have asked for the current span.
#[derive(Clone, Default)]
struct Asked(Arc<AtomicU64>);

impl Asked {
    fn tell(&self, builder: ClientBuilder) -> ClientBuilder {
        let this = self.clone();
        builder.report_every(None).trace_context(move || {
            this.0.fetch_add(1, Ordering::SeqCst);
            SPAN.try_with(Clone::clone).ok()
        })
    }

    fn often(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Since the last time.
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn carries(heard: &Heard, span: &TraceContext) -> bool {
    heard.traceparent.as_deref() == Some(span.traceparent())
        && heard.tracestate.as_deref() == Some(span.tracestate())
}

/// A sidecar, clients of it that are told of spans, and how often they asked.
struct Traced {
    setup: Setup,
    asked: Asked,
    calls: AtomicU64,
}

impl Traced {
    fn with(change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        let asked = Asked::default();
        Self {
            setup: setup_with(|builder| asked.tell(change(builder))),
            asked,
            calls: AtomicU64::new(0),
        }
    }

    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn fake(&self) -> &Fake {
        &self.setup.fake
    }

    fn client(&self) -> &Client {
        self.setup.cached.client()
    }

    fn cached(&self) -> &CachedClient {
        &self.setup.cached
    }

    /// Awaits one call in a span of its own: it is asked for once, and these RPCs carry it.
    async fn one<T>(&self, methods: &str, call: impl Future<Output = T>) -> T {
        let span = sampled(1_000 + self.calls.fetch_add(1, Ordering::SeqCst));
        let done = SPAN.scope(span.clone(), call).await;
        let heard = self.fake().state.heard();
        assert_eq!(methods_of(&heard), methods);
        for heard in &heard {
            assert!(carries(heard, &span), "{heard:?} instead of {span:?}");
        }
        assert_eq!(self.asked.take(), 1, "of {methods}");
        done
    }
}

fn methods_of(heard: &[Heard]) -> String {
    let methods: Vec<_> = heard.iter().map(|heard| &*heard.method).collect();
    methods.join(" ")
}

fn item(number: usize, page: Option<v1::Page>) -> v1::ResolveItem {
    v1::ResolveItem {
        address: format!("cart::{number}"),
        classes: vec!["paged/1".to_owned()],
        page,
    }
}

fn registration(number: usize) -> v1::Registration {
    v1::Registration {
        address: format!("cart::{number}"),
        classes: vec!["carts/1".to_owned()],
        ttl_ms: 1_000,
        lease: Bytes::new(),
    }
}

async fn apples(_: Fill) -> Result<Bytes, Infallible> {
    Ok(Bytes::from_static(b"apples"))
}

fn rows(count: usize) -> Vec<IndexRow> {
    (1..=count).map(IndexRow::new).collect()
}

#[tokio::test]
async fn look_ups_and_registrations_ask_once_and_all_their_rpcs_carry_what_was_said() {
    let traced = Traced::new();
    let (client, state) = (traced.client(), &traced.fake().state);
    let classes = ["registered/1"];
    let found = client.resolve_one("cart::1", &classes, None);
    let found = traced.one("Resolve", found).await.unwrap().resolution;
    // Pages of which there are too many for one answer: it is asked for halves.
    let page = Some(v1::Page {
        offset: u64::from(PAGE_SIZE) / 2,
        limit: SLICE_LIMIT_MAX,
    });
    let pages = SLICE_LIMIT_MAX / PAGE_SIZE + 1;
    let slices = TARGETS_MAX / pages as usize + 1;
    let slices = (0..slices).map(|number| item(number, page));
    let looked_up = client.resolve(slices.collect());
    let looked_up = traced.one("Resolve Resolve Resolve", looked_up);
    looked_up.await.unwrap();

    let snapshot = traced.one("OpenSnapshot", client.open_snapshot());
    let snapshot = snapshot.await.unwrap();
    let none = Session::new();
    let looked_up = client.resolve_in_snapshot(&snapshot, &none, vec![item(1, None)]);
    traced.one("Resolve", looked_up).await.unwrap();

    let target = found.targets[0].address.clone();
    let turn = client.acquire_fill(&target, found.token, Duration::from_secs(1));
    let turn = traced.one("AcquireFill", turn).await.unwrap();
    let FillTurn::Won(hold) = turn else {
        panic!("{turn:?}");
    };
    let fill = v1::Fill {
        address: target,
        classes: vec!["registered/1".to_owned()],
        lease: found.lease,
        ttl_ms: 1_000,
        ..Default::default()
    };
    // The connection breaks on the way: it is sent again.
    state.next(Method::Commit, Reply::Status(Code::Unknown));
    let committed = traced.one("CommitFill CommitFill", client.commit_fill(fill));
    assert!(committed.await.unwrap().accepted);
    let _ = traced.one("FinishFill", hold.finish(true)).await;

    state.next(Method::Register, Reply::NoRoom(Duration::from_millis(1)));
    let registered = client.register(vec![registration(1)]);
    traced.one("Register Register", registered).await.unwrap();
    let batches = tokio_stream::iter([vec![registration(2)]]);
    let registered = client.register_stream(batches);
    traced.one("RegisterStream", registered).await.unwrap();
    let listed = client.list_addresses("carts", 0, Bytes::new());
    traced.one("ListAddresses", listed).await.unwrap();
    let listed = client.list_classes("", 0, Bytes::new());
    traced.one("ListClasses", listed).await.unwrap();
}

#[tokio::test]
async fn invalidations_and_writes_ask_once_and_all_their_rpcs_carry_what_was_said() {
    let traced = Traced::new();
    let (client, state) = (traced.client(), &traced.fake().state);
    let broken = || Reply::Status(Code::Unknown);
    state.next(Method::Invalidate, broken());
    let invalidated = client.invalidate(["carts/1"]);
    let invalidated = traced.one("Invalidate Invalidate", async { invalidated.await });
    invalidated.await.unwrap();
    let postgresql = v1::SqlDialect::Postgresql;
    let change = v1::RowChange {
        table: "item".to_owned(),
        ..Default::default()
    };
    let changed = client.row_changed(postgresql, [change.clone()]).send();
    traced.one("RowChanged", changed).await.unwrap();
    let changed = client.invalidate_by_sql(postgresql, "DELETE FROM item", []);
    traced.one("InvalidateWhere", changed.send()).await.unwrap();

    for method in [Method::Begin, Method::CommitWrite, Method::Abort] {
        state.next(method, broken());
    }
    let begun = client.begin_write(["carts/1"]).send();
    let begun = traced.one("BeginWrite BeginWrite", begun).await.unwrap();
    let committed = traced.one("CommitWrite CommitWrite", begun.commit().send());
    committed.await.unwrap();
    let begun = client.begin_row_write(postgresql, [change.clone()]).send();
    let begun = traced.one("BeginWrite", begun).await.unwrap();
    let committed = begun.commit_rows(postgresql, [change]).send();
    traced.one("CommitWrite", committed).await.unwrap();
    let begun = client.begin_write(["carts/1"]).send();
    let begun = traced.one("BeginWrite", begun).await.unwrap();
    let intent = begun.intent().clone();
    let aborted = traced.one("AbortWrite AbortWrite", begun.abort());
    aborted.await.unwrap();
    state.next(Method::Abort, broken());
    let aborted = traced.one("AbortWrite AbortWrite", client.abort_write(intent));
    aborted.await.unwrap();
}

#[tokio::test]
async fn everything_else_that_is_asked_carries_it_too() {
    let traced = Traced::new();
    let client = traced.client();
    let explained = client.explain(v1::ExplainRequest::default());
    traced.one("Explain", explained).await.unwrap();
    let reported = client.report_reads(v1::ReportReadsRequest::default());
    traced.one("ReportReads", reported).await.unwrap();
    traced.one("Status", client.status()).await.unwrap();
    traced.one("Members", client.members()).await.unwrap();
    let _ = traced.one("Forget", client.forget("n1", false)).await;
    traced.one("Drain", client.drain(None)).await.unwrap();
    // Where it connects, that is; and there it is asked at each connecting.
    let mut watch = client.watch(["carts"]).unwrap();
    traced.one("Watch", watch.next()).await.unwrap();
}

#[tokio::test]
async fn a_watch_is_part_of_the_trace_that_is_current_where_it_connects() {
    let asked = Asked::default();
    let mut fake = Fake::unix();
    let client = asked.tell(patient(&fake.endpoint)).build().unwrap();
    let mut watch = client.watch(["carts"]).unwrap();
    SPAN.scope(sampled(1), watch.next()).await.unwrap();
    fake.state.bump("carts/1");
    SPAN.scope(sampled(2), watch.next()).await.unwrap();
    fake.stop();
    // It says that it lost its stream.
    SPAN.scope(sampled(3), watch.next()).await.unwrap();
    fake.start();
    SPAN.scope(sampled(4), watch.next()).await.unwrap();
    let heard = fake.state.heard();
    assert_eq!(methods_of(&heard), "Watch Watch");
    assert!(carries(&heard[0], &sampled(1)), "{heard:?}");
    assert!(carries(&heard[1], &sampled(4)), "{heard:?}");
}

#[tokio::test]
async fn another_sidecar_that_is_asked_instead_hears_the_same() {
    let asked = Asked::default();
    let (own, other) = (Fake::unix(), Fake::tcp());
    let gone = || Reply::Status(Code::Unavailable);
    for method in [Method::Invalidate, Method::Begin, Method::IndexRead] {
        own.state.next(method, gone());
        // One that knows nothing of how the own sidecar fared.
        let builder = patient(&own.endpoint).fail_over_to(&other.endpoint);
        let client = asked.tell(builder).build().unwrap();
        let call = async {
            match method {
                Method::Invalidate => drop(client.invalidate(["carts/1"]).await.unwrap()),
                Method::Begin => drop(client.begin_write(["carts/1"]).await.unwrap()),
                _ => {
                    let index = client.index("item", v1::SqlDialect::Postgresql);
                    drop(index.by("category_id", 5).read().await.unwrap());
                }
            }
        };
        SPAN.scope(sampled(7), call).await;
        for fake in [&own, &other] {
            let heard = fake.state.heard();
            assert_eq!(heard.len(), 1, "{heard:?}");
            assert!(carries(&heard[0], &sampled(7)), "{heard:?}");
        }
        assert_eq!(asked.take(), 1);
    }
}

#[tokio::test]
async fn reads_through_a_cache_ask_once_and_all_their_rpcs_carry_what_was_said() {
    let traced = Traced::new();
    let (cached, state) = (traced.cached(), &traced.fake().state);
    state.elect.store(true, Ordering::SeqCst);
    let fill = |fill: Fill| async move {
        fill.depends_on("prices");
        apples(fill).await
    };
    let classes = ["registered/1"];
    let got = cached.get_or_fill("cart::1", &classes, None, fill);
    let methods = "Resolve AcquireFill CommitFill FinishFill";
    assert_eq!(traced.one(methods, got).await.unwrap().how, How::Filled);
    // Its dependencies are looked up beside its classes.
    let got = cached.get_or_fill("cart::1", &classes, None, fill);
    let got = traced.one("Resolve Resolve", got).await.unwrap();
    assert_eq!(got.how, How::Hit);
    state.elect.store(false, Ordering::SeqCst);

    let page = |_: PageFill| async { Ok::<_, Infallible>(vec![Bytes::from_static(b"a"); 10]) };
    let classes = ["paged_registered/1"];
    let got = cached.get_or_fill_page("carts", &classes, 5, 10, None, page);
    traced
        .one("Resolve CommitFill CommitFill", got)
        .await
        .unwrap();

    let sql = "SELECT * FROM registered WHERE id = 1";
    let got = cached.cached_query(sql, [1], None, apples);
    traced.one("Explain Resolve CommitFill", got).await.unwrap();

    let mut session = Session::new();
    let outcome = traced.client().invalidate(["x"]).await.unwrap();
    session.add(&outcome.session_token).unwrap();
    state.heard();
    traced.asked.take();
    let cached = cached.session(&session);
    let got = cached.get_or_refresh("cart::2", &["registered/2"], None, apples);
    traced.one("Resolve CommitFill", got).await.unwrap();
}

/// Rows of which none meets the criterion any more.
struct Elsewhere<'a>(&'a Client);

impl Elsewhere<'_> {
    /// What an application may do in its own code.
    async fn call(&self) {
        SPAN.scope(sampled(9), async { self.0.invalidate(["x"]).await })
            .await
            .unwrap();
    }
}

impl IndexObjects for Elsewhere<'_> {
    type Error = Infallible;

    fn address(&self, id: &str) -> String {
        format!("item::{id}")
    }

    fn classes(&self, id: &str) -> Vec<String> {
        vec![format!("items/{id}")]
    }

    fn meets(&self, _: &str, _: &Bytes) -> bool {
        false
    }

    async fn ids(&self, _: Want) -> Result<Vec<IndexRow>, Infallible> {
        self.call().await;
        Ok(rows(1))
    }

    async fn objects(&self, _: Ask) -> Result<Objects, Infallible> {
        self.call().await;
        Ok(Objects::in_primary([]))
    }
}

#[tokio::test]
async fn reads_of_an_index_ask_once_and_all_their_rpcs_carry_what_was_said() {
    let traced = Traced::new();
    let (client, state) = (traced.client(), &traced.fake().state);
    let index = client.index("item", v1::SqlDialect::Postgresql);
    let index = index.by("category_id", 5).limit(10_000);
    let mut page = traced.one("IndexRead", index.read()).await.unwrap();
    let right = page.loads.pop().unwrap();
    // More than one call takes.
    let filled = right.fill(rows(10_001), LeafExtent::Whole);
    traced.one("IndexFill IndexFill", filled).await.unwrap();
    let page = traced.one("IndexRead", index.read()).await.unwrap();
    let places = page.members.into_iter().map(|member| member.place);
    let places: Vec<_> = places.take(1_001).collect();
    let evidence = page.evidence.unwrap();
    let pruned = traced.one("IndexPrune IndexPrune", evidence.prune(&places));
    assert_eq!(pruned.await.unwrap(), 1_001);

    state.leaves().lock().forget();
    let load = |_: Want| async { Ok::<_, Infallible>(rows(3)) };
    traced
        .one("IndexRead IndexFill", index.ids(load))
        .await
        .unwrap();
}
