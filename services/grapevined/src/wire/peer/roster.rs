//! What members say to agree on views, both ways.

use std::collections::BTreeMap;

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::names::NodeId;
use grapevine_core::roster::{
    Ballot, CLOSED_MAX, Mark, Memory, RETIRED_MAX, Retired, SEATS_MAX, Say, View,
};
use grapevine_proto::v1;
use grapevine_proto::v1::roster::Say as Kind;

use super::{Checked, bytes, count, field, origin};

/// How far the numbers of views and rounds go: a million a second for more than a month. Whoever tells of more is broken
/// or hostile, and nothing could follow it.
const NUMBER_MAX: u64 = 1 << 42;

fn history(history: Option<Incarnation>) -> bytes::Bytes {
    history.map(bytes).unwrap_or_default()
}

fn read_history(value: &[u8]) -> Checked<Option<Incarnation>> {
    if value.is_empty() {
        return Ok(None);
    }
    origin("history", value).map(Some)
}

fn plausible(name: &'static str, value: u64) -> Checked<u64> {
    if value > NUMBER_MAX {
        return Err(field(name, format!("{value}; the limit is {NUMBER_MAX}")));
    }
    Ok(value)
}

pub(super) fn mark(mark: Mark) -> v1::ViewMark {
    v1::ViewMark {
        history: history(mark.history),
        number: mark.number,
    }
}

pub(super) fn read_mark(mark: Option<&v1::ViewMark>) -> Checked<Mark> {
    let Some(mark) = mark else {
        return Ok(Mark::default());
    };
    let history = read_history(&mark.history)?;
    if history.is_some() != (mark.number > 0) {
        return Err(field("view", "a history and a number come together"));
    }
    let number = plausible("view.number", mark.number)?;
    Ok(Mark { history, number })
}

fn ballot(ballot: Ballot) -> v1::Ballot {
    v1::Ballot {
        round: ballot.round,
        by: bytes(ballot.by),
    }
}

fn read_ballot(ballot: Option<&v1::Ballot>) -> Checked<Ballot> {
    let ballot = ballot.ok_or_else(|| field("ballot", "none"))?;
    Ok(Ballot {
        round: plausible("ballot.round", ballot.round)?,
        by: origin("ballot.by", &ballot.by)?,
    })
}

fn seats(seats: &BTreeMap<NodeId, Incarnation>) -> Vec<v1::Seat> {
    let seat = |(node, run): (&NodeId, &Incarnation)| v1::Seat {
        node_id: node.as_str().to_owned(),
        incarnation: bytes(*run),
    };
    seats.iter().map(seat).collect()
}

/// Seats, of a field and with the names of what is in it.
fn read_seats(
    [name, node_id, incarnation]: [&'static str; 3],
    told: &[v1::Seat],
) -> Checked<BTreeMap<NodeId, Incarnation>> {
    count(name, told.len(), SEATS_MAX)?;
    let mut seats = BTreeMap::new();
    for seat in told {
        let node = NodeId::parse(&seat.node_id);
        let node = node.map_err(|error| field(node_id, error.to_string()))?;
        let run = origin(incarnation, &seat.incarnation)?;
        if seats.insert(node, run).is_some() {
            return Err(field(node_id, "one of them twice"));
        }
    }
    Ok(seats)
}

fn view(view: &View) -> v1::View {
    let closed = view.closed.iter().map(|(run, last)| v1::Dot {
        incarnation: bytes(*run),
        sequence: *last,
    });
    let retired = view.retired.iter();
    let retired = retired.map(|(run, head, number)| v1::RetiredRun {
        incarnation: bytes(run),
        head,
        view: number,
    });
    v1::View {
        mark: Some(mark(view.mark())),
        everything: view.everything,
        spared: view.spared,
        closed: closed.collect(),
        seats: seats(&view.seats),
        retired: retired.collect(),
        retired_forgotten: view.retired.forgotten(),
    }
}

fn read_view(view: Option<&v1::View>) -> Checked<View> {
    let view = view.ok_or_else(|| field("view", "none"))?;
    let mark = read_mark(view.mark.as_ref())?;
    if mark.number == 0 {
        return Err(field("view.mark", "a view has a number above 0"));
    }
    if view.everything == 0 || view.everything > mark.number {
        let (value, most) = (view.everything, mark.number);
        let reason = format!("{value}; the limits are 1 to the view's number, {most}");
        return Err(field("view.everything", reason));
    }
    count("view.closed", view.closed.len(), CLOSED_MAX)?;
    if view.seats.is_empty() {
        return Err(field("view.seats", "none"));
    }
    let names = ["view.seats", "view.seats.node_id", "view.seats.incarnation"];
    let seats = read_seats(names, &view.seats)?;
    let closed = view.closed.iter();
    let closed = closed.map(|dot| Ok((origin("view.closed", &dot.incarnation)?, dot.sequence)));
    let retired = read_retired(view, mark.number)?;
    let both = |run: &&Incarnation| retired.head(**run).is_some();
    if let Some(run) = seats.values().find(both) {
        // It would end because of that, and its next run has no seat.
        let reason = format!("{run}, which the view seats");
        return Err(field("view.retired.incarnation", reason));
    }
    Ok(View {
        number: mark.number,
        history: mark.history,
        everything: view.everything,
        spared: view.spared,
        closed: closed.collect::<Checked<_>>()?,
        retired,
        seats,
    })
}

fn read_retired(view: &v1::View, most: u64) -> Checked<Retired> {
    count("view.retired", view.retired.len(), RETIRED_MAX)?;
    let number = |name, value| {
        if value > most {
            let reason = format!("{value}; the limit is the view's number, {most}");
            return Err(field(name, reason));
        }
        Ok(value)
    };
    let runs = view.retired.iter().map(|retired| {
        let run = origin("view.retired.incarnation", &retired.incarnation)?;
        let number = number("view.retired.view", retired.view)?;
        if number == 0 {
            return Err(field(
                "view.retired.view",
                "0; views count from 1".to_owned(),
            ));
        }
        Ok((run, retired.head, number))
    });
    let runs: Vec<_> = runs.collect::<Checked<_>>()?;
    let forgotten = number("view.retired_forgotten", view.retired_forgotten)?;
    Ok(Retired::new(runs, forgotten))
}

pub(super) fn say(told: Option<Incarnation>, say: Say) -> v1::Roster {
    let say = match say {
        Say::Prepare {
            number,
            ballot: at,
            recovers,
        } => Kind::Prepare(v1::RosterPrepare {
            number,
            ballot: Some(ballot(at)),
            recovers,
        }),
        Say::Promise {
            number,
            ballot: at,
            accepted,
            memory,
            above,
            by,
            recovering,
        } => Kind::Promise(v1::RosterPromise {
            number,
            ballot: Some(ballot(at)),
            accepted_ballot: accepted.as_ref().map(|(at, _)| ballot(*at)),
            accepted: accepted.as_ref().map(|(_, next)| view(next)),
            memory: match memory {
                Memory::None => v1::RosterMemory::None,
                Memory::Disk => v1::RosterMemory::Disk,
                Memory::Sure => v1::RosterMemory::Sure,
            }
            .into(),
            above: above.map(ballot),
            incarnation: by.map(bytes).unwrap_or_default(),
            recovering: seats(&recovering),
        }),
        Say::Accept { ballot: at, next } => Kind::Accept(v1::RosterAccept {
            ballot: Some(ballot(at)),
            next: Some(view(&next)),
        }),
        Say::Accepted { number, ballot: at } => Kind::Accepted(v1::RosterAccepted {
            number,
            ballot: Some(ballot(at)),
        }),
        Say::Refuse { number, promised } => Kind::Refuse(v1::RosterRefuse {
            number,
            promised: Some(ballot(promised)),
        }),
        Say::Decided(decided) => Kind::Decided(view(&decided)),
    };
    v1::Roster {
        history: history(told),
        say: Some(say),
    }
}

pub(super) fn read(roster: &v1::Roster) -> Checked<PeerMessage> {
    let history = read_history(&roster.history)?;
    let kind = roster.say.as_ref();
    let say = match kind.ok_or_else(|| field("roster.say", "none is set"))? {
        Kind::Prepare(prepare) => Say::Prepare {
            number: prepare.number,
            ballot: read_ballot(prepare.ballot.as_ref())?,
            recovers: prepare.recovers,
        },
        Kind::Promise(promise) => read_promise(promise)?,
        Kind::Accept(accept) => Say::Accept {
            ballot: read_ballot(accept.ballot.as_ref())?,
            next: read_view(accept.next.as_ref())?,
        },
        Kind::Accepted(accepted) => Say::Accepted {
            number: accepted.number,
            ballot: read_ballot(accepted.ballot.as_ref())?,
        },
        Kind::Refuse(refuse) => Say::Refuse {
            number: refuse.number,
            promised: read_ballot(refuse.promised.as_ref())?,
        },
        Kind::Decided(decided) => Say::Decided(read_view(Some(decided))?),
    };
    Ok(PeerMessage::Roster { history, say })
}

fn read_promise(promise: &v1::RosterPromise) -> Checked<Say> {
    let accepted = match &promise.accepted {
        None => None,
        Some(view) => {
            let at = read_ballot(promise.accepted_ballot.as_ref())?;
            Some((at, read_view(Some(view))?))
        }
    };
    let memory = match promise.memory() {
        v1::RosterMemory::Unspecified => return Err(field("promise.memory", "not told")),
        v1::RosterMemory::None => Memory::None,
        v1::RosterMemory::Disk => Memory::Disk,
        v1::RosterMemory::Sure => Memory::Sure,
    };
    let by = match &promise.incarnation[..] {
        [] => None,
        by => Some(origin("promise.incarnation", by)?),
    };
    let names = [
        "promise.recovering",
        "promise.recovering.node_id",
        "promise.recovering.incarnation",
    ];
    Ok(Say::Promise {
        number: promise.number,
        ballot: read_ballot(promise.ballot.as_ref())?,
        accepted,
        memory,
        above: match &promise.above {
            None => None,
            above => Some(read_ballot(above.as_ref())?),
        },
        by,
        recovering: read_seats(names, &promise.recovering)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use prost::Message as _;

    use super::super::message_bytes;
    use super::*;

    fn run(number: u128) -> Incarnation {
        Incarnation::new(number).unwrap()
    }

    fn seats_of(numbers: std::ops::RangeInclusive<u128>) -> BTreeMap<NodeId, Incarnation> {
        let seat = |number| {
            (
                NodeId::parse(&format!("node-{number}")).unwrap(),
                run(number),
            )
        };
        numbers.map(seat).collect()
    }

    #[test]
    fn g7_words_about_the_roster_survive_the_wire() {
        let view = View {
            number: 5,
            history: Some(run(9).as_history()),
            everything: 1,
            seats: seats_of(1..=3),
            ..View::default()
        };
        let by = Incarnation::from_bytes(&[0xff; 16]).unwrap();
        let ballot = Ballot {
            round: NUMBER_MAX,
            by,
        };
        let number = 4;
        let promise = |accepted, above, by, recovering| Say::Promise {
            number,
            ballot,
            accepted,
            memory: Memory::Disk,
            above,
            by,
            recovering,
        };
        let accepted = Some((ballot, view.clone()));
        let prepare = |recovers| Say::Prepare {
            number,
            ballot,
            recovers,
        };
        let next = view.clone();
        let words = [
            prepare(false),
            prepare(true),
            promise(None, None, None, BTreeMap::new()),
            promise(accepted, Some(ballot), Some(by), seats_of(1..=200)),
            Say::Accept { ballot, next },
            Say::Accepted { number, ballot },
            Say::Refuse {
                number,
                promised: ballot,
            },
            Say::Decided(view.clone()),
        ];
        for word in words {
            let message = say(view.history, word.clone());
            let encoded = message.encode_to_vec();
            let decoded = v1::Roster::decode(&encoded[..]).unwrap();
            let history = view.history;
            let told = PeerMessage::Roster { history, say: word };
            assert!(encoded.len() <= message_bytes(&told), "{told:?}");
            assert_eq!(read(&decoded).unwrap(), told);
        }
    }

    #[test]
    fn g10_promises_that_tell_of_too_many_or_of_nobody_are_refused_by_field() {
        type Change = fn(&mut v1::RosterPromise);
        let told = |change: Change| {
            let at = Ballot {
                round: 1,
                by: run(7),
            };
            let mut promise = v1::RosterPromise {
                number: 4,
                ballot: Some(ballot(at)),
                memory: v1::RosterMemory::Sure.into(),
                ..v1::RosterPromise::default()
            };
            change(&mut promise);
            read_promise(&promise).map_err(|error| format!("{error:?}"))
        };
        assert!(told(|_| ()).is_ok());
        let most = SEATS_MAX as u128;
        assert!(most == 1_024 && told(|it| it.recovering = seats(&seats_of(1..=1_024))).is_ok());
        let refused: [(&str, Change); 5] = [
            ("promise.recovering", |it| {
                it.recovering = seats(&seats_of(1..=1_025));
            }),
            ("promise.recovering.node_id", |it| {
                it.recovering = [seats(&seats_of(1..=1)), seats(&seats_of(1..=1))].concat();
            }),
            ("promise.recovering.incarnation", |it| {
                it.recovering = seats(&seats_of(1..=1));
                it.recovering[0].incarnation = vec![7; 15].into();
            }),
            ("promise.incarnation", |it| {
                it.incarnation = vec![0; 16].into();
            }),
            ("ballot", |it| it.above = Some(v1::Ballot::default())),
        ];
        for (field, change) in refused {
            let error = told(change).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    /// A run ends when a view retires it: a member would, whenever somebody made such a view up.
    #[test]
    fn g1_a_view_that_retires_a_run_which_it_seats_is_not_read() {
        let run = |number| Incarnation::new(number).expect("not zero");
        let told = |retired| {
            view(&View {
                number: 5,
                history: Some(run(9).as_history()),
                everything: 1,
                seats: [(NodeId::parse("a").expect("a name"), run(7))].into(),
                retired: Retired::new([(run(retired), 3, 4)], 0),
                ..View::default()
            })
        };
        assert!(read_view(Some(&told(8))).is_ok());
        let error = read_view(Some(&told(7))).expect_err("it is seated");
        let (field, reason) = ("view.retired.incarnation", run(7).to_string());
        let error = format!("{error:?}");
        assert!(error.contains(field) && error.contains(&reason), "{error}");
    }

    /// No number is taken that leaves no room for those that follow it.
    #[test]
    fn g10_absurd_rounds_and_views_are_not_read() {
        let run = bytes(Incarnation::new(7).expect("not zero"));
        for (number, taken) in [
            (NUMBER_MAX, true),
            (NUMBER_MAX + 1, false),
            (u64::MAX, false),
        ] {
            let mark = v1::ViewMark {
                history: run.clone(),
                number,
            };
            assert_eq!(read_mark(Some(&mark)).is_ok(), taken, "{number}");
            let round = v1::Ballot {
                round: number,
                by: run.clone(),
            };
            assert_eq!(read_ballot(Some(&round)).is_ok(), taken, "{number}");
        }
    }
}
