//! The traces of events, carried beside them.

use grapevine_core::id::EventId;
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;

use super::{EVENTS_MAX, origin};
use crate::telemetry::traces::Carried;

/// The events that a message has, of the bump lane.
pub(crate) fn events(message: &v1::ExchangeRequest) -> impl Iterator<Item = EventId> + use<> {
    let batch = match &message.kind {
        Some(Kind::Bumps(bumps)) => origin("origin", &bumps.origin)
            .ok()
            .map(|origin| (origin, bumps.first, bumps.events.len())),
        _ => None,
    };
    batch.into_iter().flat_map(|(origin, first, events)| {
        let sequences = (first..).take(events);
        sequences.map(move |sequence| EventId { origin, sequence })
    })
}

/// Has a message carry the traces of those of its events of which one is recorded, by place.
pub(crate) fn carry(message: &mut v1::ExchangeRequest, traces: Vec<(usize, Carried)>) {
    if let Some(Kind::Bumps(bumps)) = &mut message.kind {
        let traces = traces.into_iter().map(|(place, carried)| v1::EventTrace {
            position: u32::try_from(place).unwrap_or(u32::MAX),
            trace_id: carried.trace.to_vec().into(),
            parent_span_id: carried.parent.to_vec().into(),
            repair_span_id: carried
                .repair
                .map_or_else(Vec::new, |span| span.to_vec())
                .into(),
        });
        bumps.traces = traces.collect();
    }
}

/// What a message carries of traces, and how much of that is malformed. Events count for more than their traces: these are left out, and the
/// message is taken all the same.
pub(crate) fn carried(message: &v1::ExchangeRequest) -> (Vec<(EventId, Carried)>, usize) {
    let Some(Kind::Bumps(bumps)) = &message.kind else {
        return (Vec::new(), 0);
    };
    let Ok(origin) = origin("origin", &bumps.origin) else {
        return (Vec::new(), bumps.traces.len());
    };
    let read = bumps.traces.iter().take(EVENTS_MAX).filter_map(|trace| {
        let place = trace.position as usize;
        let there = place < bumps.events.len();
        let event = EventId {
            origin,
            sequence: bumps.first.saturating_add(place as u64),
        };
        let repair = match &trace.repair_span_id[..] {
            [] => None,
            bytes => Some(bytes.try_into().ok()?),
        };
        let carried = Carried {
            trace: trace.trace_id[..].try_into().ok()?,
            parent: trace.parent_span_id[..].try_into().ok()?,
            repair,
        };
        there.then_some((event, carried))
    });
    let read: Vec<_> = read.collect();
    let malformed = bumps.traces.len() - read.len();
    (read, malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn batch(traces: Vec<v1::EventTrace>) -> v1::ExchangeRequest {
        v1::ExchangeRequest {
            kind: Some(Kind::Bumps(v1::BumpBatch {
                origin: vec![7; 16].into(),
                first: 41,
                events: vec![v1::BumpEvent::default(); 2],
                traces,
                relay: None,
            })),
        }
    }

    #[test]
    fn what_is_carried_comes_back_with_its_events() {
        let mut message = batch(Vec::new());
        let ids: Vec<_> = events(&message).collect();
        assert_eq!(
            ids.iter().map(|id| id.sequence).collect::<Vec<_>>(),
            [41, 42]
        );
        let pushed = Carried {
            trace: [1; 16],
            parent: [2; 8],
            repair: None,
        };
        let repaired = Carried {
            repair: Some([3; 8]),
            ..pushed.clone()
        };
        let traces = vec![(0, pushed.clone()), (1, repaired.clone())];
        carry(&mut message, traces);
        let (back, malformed) = carried(&message);
        assert_eq!(malformed, 0);
        assert_eq!(back, [(ids[0], pushed), (ids[1], repaired)]);
    }

    #[test]
    fn what_is_malformed_is_left_out_and_counted() {
        let good = v1::EventTrace {
            position: 1,
            trace_id: vec![1; 16].into(),
            parent_span_id: vec![2; 8].into(),
            repair_span_id: Vec::new().into(),
        };
        let changes: [fn(&mut v1::EventTrace); 5] = [
            |it| it.position = 2,
            |it| it.trace_id.truncate(15),
            |it| it.parent_span_id.clear(),
            |it| it.repair_span_id = vec![0].into(),
            |it| it.repair_span_id = vec![0; 9].into(),
        ];
        for change in changes {
            let mut bad = good.clone();
            change(&mut bad);
            let (read, malformed) = carried(&batch(vec![bad, good.clone()]));
            assert_eq!((read.len(), malformed), (1, 1));
        }
        let (read, malformed) = carried(&batch(vec![good; EVENTS_MAX + 3]));
        assert_eq!((read.len(), malformed), (EVENTS_MAX, 3));
    }
}
