//! Traces that follow an event: from the call that made it to its purge at every sidecar.
//!
//! A call that is sampled has a span. The event that it makes remembers it here, and so do the peers that hear of the event: each
//! message with events of which the speaker knows a trace carries that beside them, be it a push or the answer to a pull, so that a
//! repair belongs to the trace as well. Nothing of it is kept on disk or enters the machine: it says nothing about what is
//! true, and losing it costs a part of a picture.
//!
//! The spans of an event at one sidecar are `grapevine.receive` (at peers, from the socket until it is applied), `grapevine.apply`,
//! `grapevine.persist`, `grapevine.push` or `grapevine.repair` to each peer, and `grapevine.purge`. Only events of sampled traces
//! are remembered, so many at most, the oldest giving way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use grapevine_core::id::EventId;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use parking_lot::Mutex;
use tonic::codegen::http::{HeaderMap, HeaderName};

use super::{Counter, Counters};
use crate::purge::Submission;

/// The events whose traces are remembered: some 2 MB of them.
const EVENTS_MAX: usize = 4_096;
/// For how long at most.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
/// Whoever gives way to newer ones before that may have been needed still.
const NEEDED_FOR: Duration = Duration::from_mins(1);

tokio::task_local! {
    /// The span of the call that a task serves.
    static CALL: SpanContext;
}

/// Runs a call's handler, so that what it asks of the engine belongs to the call's span.
pub(crate) async fn within<T>(call: SpanContext, handler: impl Future<Output = T>) -> T {
    CALL.scope(call, handler).await
}

/// The span of the call that this task serves, if that is recorded.
pub(crate) fn of_call() -> Option<SpanContext> {
    CALL.try_with(Clone::clone).ok()
}

/// Where the trace of an event goes on at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) trace: [u8; 16],
    /// The span that it is a part of.
    pub(crate) parent: [u8; 8],
    /// The span that sent it because it was missed.
    pub(crate) repair: Option<[u8; 8]>,
}

/// The traces of a sidecar. Without a collector nothing is made or kept.
#[derive(Clone, Default)]
pub(crate) struct Traces(Option<Arc<Inner>>);

struct Inner {
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    events: Mutex<Events>,
    /// How many events are remembered: who finds none need not look.
    known: AtomicUsize,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Events {
    known: HashMap<EventId, Known>,
    order: VecDeque<EventId>,
}

/// An event of which a trace is recorded.
struct Known {
    /// What happens to it here is a part of this span.
    span: SpanContext,
    /// That, while it is open: of a peer's event that is not applied yet.
    receive: Option<Span>,
    since: Instant,
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Traces {
    pub(crate) fn new(provider: Option<&SdkTracerProvider>, counters: &Arc<Counters>) -> Self {
        Self(provider.map(|provider| {
            Arc::new(Inner {
                tracer: provider.tracer("grapevine"),
                propagator: TraceContextPropagator::new(),
                events: Mutex::default(),
                known: AtomicUsize::new(0),
                counters: counters.clone(),
            })
        }))
    }

    /// Whether spans are made at all.
    pub(crate) fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a call, a part of its caller's if that says so; `None` if it is not sampled.
    pub(crate) fn call(
        &self,
        method: &'static str,
        headers: &HeaderMap,
        attributes: Vec<KeyValue>,
    ) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let parent = inner
            .propagator
            .extract_with_context(&Context::new(), &Headers(headers));
        let builder = SpanBuilder::from_name(method)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let span = inner.tracer.build_with_context(builder, &parent);
        span.is_recording().then_some(span)
    }

    /// Whether the trace of any event is remembered.
    pub(crate) fn know_any(&self) -> bool {
        let inner = self.0.as_ref();
        inner.is_some_and(|inner| inner.known.load(Ordering::Relaxed) > 0)
    }

    /// Forgets what is old. To be called about every second.
    pub(crate) fn review(&self) {
        if !self.know_any() {
            return;
        }
        if let Some(inner) = &self.0 {
            let mut events = inner.events.lock();
            let old = events.take_while(|known| known.since.elapsed() > REMEMBERED_FOR);
            inner.known.store(events.known.len(), Ordering::Relaxed);
            // Spans end where they are dropped: not under the lock.
            drop(events);
            drop(old);
        }
    }

    /// A call has made an event.
    pub(crate) fn made(&self, event: EventId, call: &SpanContext) {
        if let Some(inner) = &self.0 {
            // Without its trace state, which may be of any size, and which peers are not told either.
            let (trace, span, flags) = (call.trace_id(), call.span_id(), call.trace_flags());
            let call = SpanContext::new(trace, span, flags, false, TraceState::NONE);
            inner.remember(event, call, None);
        }
    }

    /// A peer has told of an event, and of its trace.
    pub(crate) fn heard(&self, event: EventId, carried: &Carried, peer: &str) {
        let Some(inner) = &self.0 else { return };
        if inner.context(event).is_some() {
            return;
        }
        let context = |span: [u8; 8]| {
            let trace = TraceId::from_bytes(carried.trace);
            let span = SpanId::from_bytes(span);
            SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
        };
        let repair = carried.repair.map(context);
        let attributes = vec![
            KeyValue::new("grapevine.event", name_of(event)),
            KeyValue::new("grapevine.peer", peer.to_owned()),
            KeyValue::new("grapevine.repaired", repair.is_some()),
        ];
        let links = repair.map(|repair| Link::new(repair, Vec::new(), 0));
        let builder = SpanBuilder::from_name("grapevine.receive")
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes)
            .with_links(links.into_iter().collect());
        let span = inner.start(builder, context(carried.parent));
        let context = span.span_context().clone();
        if context.is_sampled() {
            inner.remember(event, context, Some(span));
        }
    }

    /// An event was applied here, by what began then.
    pub(crate) fn applied(&self, event: EventId, began: SystemTime) {
        let Some(inner) = &self.0 else { return };
        let mut events = inner.events.lock();
        let Some(known) = events.known.get_mut(&event) else {
            return;
        };
        let (context, receive) = (known.span.clone(), known.receive.take());
        drop(events);
        drop(inner.part("grapevine.apply", event, context, began));
        // It ends with what it is about, so after its part.
        drop(receive);
    }

    /// Whether an event's trace is remembered.
    pub(crate) fn knows(&self, event: EventId) -> bool {
        let inner = self.0.as_ref();
        inner.is_some_and(|inner| inner.context(event).is_some())
    }

    /// An event is on this sidecar's disk, by a flush that it has waited for since then.
    pub(crate) fn persisted(&self, event: EventId, since: SystemTime) {
        if let Some(inner) = &self.0
            && let Some(context) = inner.context(event)
        {
            drop(inner.part("grapevine.persist", event, context, since));
        }
    }

    /// The addresses of an event are being purged.
    pub(crate) fn purging(&self, event: EventId, addresses: usize, attempt: &Submission) {
        let Some(inner) = &self.0 else { return };
        let Some(context) = inner.context(event) else {
            return;
        };
        let mut span = inner.part("grapevine.purge", event, context, SystemTime::now());
        let addresses = i64::try_from(addresses).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("grapevine.addresses", addresses));
        let attempt = attempt.clone();
        tokio::spawn(async move {
            let attempt = attempt.first_attempt().await;
            for (name, count) in [
                ("grapevine.purged", attempt.purged),
                ("grapevine.pending", attempt.pending),
                ("grapevine.dropped", attempt.dropped),
            ] {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                span.set_attribute(KeyValue::new(name, count));
            }
        });
    }

    /// An event is being sent to a peer, as news or because that has missed it: the span of that, and what the message carries.
    pub(crate) fn sending(
        &self,
        event: EventId,
        peer: &str,
        repairs: bool,
    ) -> Option<(Span, Carried)> {
        let inner = self.0.as_ref()?;
        let context = inner.context(event)?;
        let name = if repairs {
            "grapevine.repair"
        } else {
            "grapevine.push"
        };
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Producer)
            .with_attributes(vec![
                KeyValue::new("grapevine.event", name_of(event)),
                KeyValue::new("grapevine.peer", peer.to_owned()),
            ]);
        let span = inner.start(builder, context.clone());
        let own = span.span_context().span_id().to_bytes();
        let carried = Carried {
            trace: context.trace_id().to_bytes(),
            parent: if repairs {
                context.span_id().to_bytes()
            } else {
                own
            },
            repair: repairs.then_some(own),
        };
        Some((span, carried))
    }
}

impl Events {
    /// Takes out the oldest ones, for as long as that is wanted.
    fn take_while(&mut self, wanted: impl Fn(&Known) -> bool) -> Vec<Known> {
        let mut taken = Vec::new();
        while let Some(oldest) = self.order.front()
            && self.known.get(oldest).is_none_or(&wanted)
        {
            taken.extend(self.known.remove(oldest));
            self.order.pop_front();
        }
        taken
    }
}

impl Inner {
    fn start(&self, builder: SpanBuilder, parent: SpanContext) -> Span {
        let parent = Context::new().with_remote_span_context(parent);
        self.tracer.build_with_context(builder, &parent)
    }

    /// A part of what happens to an event here, since then; it ends when it is dropped.
    fn part(
        &self,
        name: &'static str,
        event: EventId,
        parent: SpanContext,
        since: SystemTime,
    ) -> Span {
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(since)
            .with_attributes(vec![KeyValue::new("grapevine.event", name_of(event))]);
        self.start(builder, parent)
    }

    fn context(&self, event: EventId) -> Option<SpanContext> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let events = self.events.lock();
        events.known.get(&event).map(|known| known.span.clone())
    }

    fn remember(&self, event: EventId, span: SpanContext, receive: Option<Span>) {
        let known = Known {
            span,
            receive,
            since: Instant::now(),
        };
        let mut events = self.events.lock();
        if events.known.insert(event, known).is_none() {
            events.order.push_back(event);
        }
        let mut crowded_out = Vec::new();
        while events.order.len() > EVENTS_MAX
            && let Some(oldest) = events.order.pop_front()
        {
            crowded_out.extend(events.known.remove(&oldest));
        }
        self.known.store(events.known.len(), Ordering::Relaxed);
        drop(events);
        let needed = crowded_out.iter();
        let needed = needed.filter(|known| known.since.elapsed() < NEEDED_FOR);
        self.counters
            .add_len(Counter::TracedEventsForgotten, needed.count());
    }
}

fn name_of(event: EventId) -> String {
    format!("{}/{}", event.origin, event.sequence)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use grapevine_core::id::Incarnation;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler};

    use super::*;

    const MORE: usize = 1_000;

    fn event(sequence: usize) -> EventId {
        EventId {
            origin: Incarnation::new(7).unwrap(),
            sequence: u64::try_from(sequence).unwrap(),
        }
    }

    /// The traces of a sidecar, their counters, and what of them was sent.
    fn sampled() -> (Traces, Arc<Counters>, InMemorySpanExporter) {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_simple_exporter(exporter.clone())
            .build();
        let counters = Arc::new(Counters::new());
        let traces = Traces::new(Some(&provider), &counters);
        (traces, counters, exporter)
    }

    fn call(state: &str) -> SpanContext {
        SpanContext::new(
            TraceId::from(1),
            SpanId::from(2),
            TraceFlags::SAMPLED,
            false,
            TraceState::from_key_value([("caller", state)]).unwrap(),
        )
    }

    /// That there is room for so many, and for no more.
    fn check_bounded(traces: &Traces, count: usize) {
        let inner = traces.0.as_ref().unwrap();
        assert_eq!(inner.known.load(Ordering::Relaxed), count);
        let events = inner.events.lock();
        assert_eq!((events.known.len(), events.order.len()), (count, count));
        // Tables grow by doubling, and are never filled.
        for capacity in [events.known.capacity(), events.order.capacity()] {
            assert!(capacity <= 4 * EVENTS_MAX, "room for {capacity}");
        }
        let spans = events.known.values().map(|known| &known.span);
        let mut states = spans.map(|span| span.trace_state().header());
        assert!(states.all(|state| state.is_empty()));
    }

    #[test]
    fn of_a_burst_of_calls_the_last_4096_events_are_remembered_and_the_rest_are_counted() {
        let (traces, counters, _) = sampled();
        // What callers say beside their trace may be long, and is not kept.
        let call = call(&"x".repeat(200));
        for sequence in 1..=EVENTS_MAX {
            traces.made(event(sequence), &call);
        }
        check_bounded(&traces, EVENTS_MAX);
        assert!(traces.knows(event(1)));
        assert_eq!(counters.get(Counter::TracedEventsForgotten), 0);
        for sequence in EVENTS_MAX + 1..=EVENTS_MAX + MORE {
            traces.made(event(sequence), &call);
        }
        check_bounded(&traces, EVENTS_MAX);
        let forgotten = counters.get(Counter::TracedEventsForgotten);
        assert_eq!(forgotten, u64::try_from(MORE).unwrap());
        assert!(!traces.knows(event(MORE)));
        assert!(traces.knows(event(MORE + 1)));
        assert!(traces.knows(event(EVENTS_MAX + MORE)));
        // Nothing is sent to a peer of a trace that is forgotten.
        assert!(traces.sending(event(MORE), "n2", false).is_none());
        assert!(traces.sending(event(MORE + 1), "n2", false).is_some());
    }

    #[test]
    fn of_a_burst_of_peers_news_no_more_than_4096_spans_are_open() {
        let (traces, counters, exporter) = sampled();
        let carried = Carried {
            trace: [1; 16],
            parent: [2; 8],
            repair: None,
        };
        for sequence in 1..=EVENTS_MAX + MORE {
            traces.heard(event(sequence), &carried, "n2");
            // Told of it again, it is no other event.
            traces.heard(event(sequence), &carried, "n2");
        }
        check_bounded(&traces, EVENTS_MAX);
        let forgotten = counters.get(Counter::TracedEventsForgotten);
        assert_eq!(forgotten, u64::try_from(MORE).unwrap());
        // Those that gave way have ended, though they were never applied.
        assert_eq!(exporter.get_finished_spans().unwrap().len(), MORE);
    }

    #[test]
    fn what_is_old_gives_way_uncounted_and_is_forgotten_in_time() {
        let (traces, counters, _) = sampled();
        let inner = traces.0.as_ref().unwrap();
        let age = |sequence: usize, by: Duration| {
            let mut events = inner.events.lock();
            let known = events.known.get_mut(&event(sequence)).unwrap();
            known.since = known.since.checked_sub(by).unwrap();
        };
        for sequence in 1..=EVENTS_MAX {
            traces.made(event(sequence), &call("x"));
        }
        age(1, NEEDED_FOR);
        traces.made(event(EVENTS_MAX + 1), &call("x"));
        assert!(!traces.knows(event(1)));
        assert_eq!(counters.get(Counter::TracedEventsForgotten), 0);
        age(2, REMEMBERED_FOR);
        traces.review();
        check_bounded(&traces, EVENTS_MAX - 1);
        assert!(!traces.knows(event(2)));
        assert!(traces.knows(event(3)));
        assert_eq!(counters.get(Counter::TracedEventsForgotten), 0);
    }
}
