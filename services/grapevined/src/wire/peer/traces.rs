//! The traces of events, carried beside them.

use grapevine_core::id::EventId;
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;

use super::{Checked, EVENTS_MAX, count, field, origin};
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

/// What a message carries of traces, checked.
pub(crate) fn carried(message: &v1::ExchangeRequest) -> Checked<Vec<(EventId, Carried)>> {
    let Some(Kind::Bumps(bumps)) = &message.kind else {
        return Ok(Vec::new());
    };
    if bumps.traces.is_empty() {
        return Ok(Vec::new());
    }
    count("traces", bumps.traces.len(), EVENTS_MAX)?;
    let origin = origin("origin", &bumps.origin)?;
    let traces = bumps.traces.iter().map(|trace| {
        let place = trace.position as usize;
        if place >= bumps.events.len() {
            let events = bumps.events.len();
            return Err(field(
                "traces.position",
                format!("{place} of {events} events"),
            ));
        }
        let event = EventId {
            origin,
            sequence: bumps.first.saturating_add(place as u64),
        };
        let repair = &trace.repair_span_id;
        let carried = Carried {
            trace: exactly("traces.trace_id", &trace.trace_id)?,
            parent: exactly("traces.parent_span_id", &trace.parent_span_id)?,
            repair: (!repair.is_empty())
                .then(|| exactly("traces.repair_span_id", repair))
                .transpose()?,
        };
        Ok((event, carried))
    });
    traces.collect()
}

fn exactly<const N: usize>(name: &'static str, bytes: &[u8]) -> Checked<[u8; N]> {
    let wrong = || field(name, format!("{} bytes; it has {N}", bytes.len()));
    bytes.try_into().map_err(|_| wrong())
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
        let back = carried(&message).unwrap();
        assert_eq!(back, [(ids[0], pushed), (ids[1], repaired)]);
    }

    #[test]
    fn what_is_malformed_is_refused_by_its_field() {
        let good = v1::EventTrace {
            position: 1,
            trace_id: vec![1; 16].into(),
            parent_span_id: vec![2; 8].into(),
            repair_span_id: Vec::new().into(),
        };
        let refused = |change: fn(&mut v1::EventTrace)| {
            let mut trace = good.clone();
            change(&mut trace);
            carried(&batch(vec![trace])).unwrap_err().to_string()
        };
        assert_eq!(
            refused(|it| it.position = 2),
            "traces.position: 2 of 2 events"
        );
        assert_eq!(
            refused(|it| it.trace_id.truncate(15)),
            "traces.trace_id: 15 bytes; it has 16"
        );
        assert_eq!(
            refused(|it| it.parent_span_id.clear()),
            "traces.parent_span_id: 0 bytes; it has 8"
        );
        assert_eq!(
            refused(|it| it.repair_span_id = vec![0].into()),
            "traces.repair_span_id: 1 bytes; it has 8"
        );
        let many = carried(&batch(vec![good; EVENTS_MAX + 1])).unwrap_err();
        assert_eq!(many.to_string(), "traces: 1001 of them; the limit is 1000");
    }
}
