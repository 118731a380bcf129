//! Effects in words, one line each, for transcripts.

use grapevine_core::event::{Bump, BumpEvent, Event, Match};
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::intent::IntentId;
use grapevine_core::machine::effects::{
    Action, CondemnReason, Effects, HolderState, PeerMessage, Receipt, Reply, Verdict,
};
use grapevine_core::progress::OriginHead;
use grapevine_core::roster::{Ballot, Record, Say, View};
use grapevine_core::store::{Taken, Write};
use grapevine_core::vector::VersionVector;

/// A run's short name: its node's letter and the number of the run.
fn run(incarnation: Incarnation) -> String {
    format!("{:x}", incarnation.get())
}

fn list<T>(items: impl IntoIterator<Item = T>, show: impl Fn(T) -> String) -> String {
    items.into_iter().map(show).collect::<Vec<_>>().join(" ")
}

pub(crate) fn vector(vector: &VersionVector) -> String {
    format!(
        "{{{}}}",
        list(vector.iter(), |(origin, sequence)| format!(
            "{}:{sequence}",
            run(origin)
        ))
    )
}

fn heads(heads: &[OriginHead]) -> String {
    let one =
        |head: &OriginHead| format!("{}:{}+{}", run(head.incarnation), head.bump, head.directory);
    format!("{{{}}}", list(heads, one))
}

fn bump(bump: &Bump) -> String {
    let joint = if bump.matching == Match::All {
        " & "
    } else {
        " "
    };
    let classes: Vec<_> = bump.classes.iter().map(ToString::to_string).collect();
    classes.join(joint)
}

pub(crate) fn event(event: &BumpEvent) -> String {
    match event {
        BumpEvent::Bump(it) => bump(it),
        BumpEvent::Floor(floor) => {
            format!(
                "floor {}#{} {}",
                floor.top,
                floor.bucket,
                vector(&floor.vector)
            )
        }
        BumpEvent::Rows(changed) => {
            let tables = changed
                .rows
                .iter()
                .map(|image| image.rows.table.to_string());
            format!("rows of {}", tables.collect::<Vec<_>>().join(" "))
        }
        BumpEvent::Shape(new) => format!("shape {} {}", new.shape.class(), vector(&new.vector)),
    }
}

fn name(intent: IntentId) -> String {
    format!("{}!{}", run(intent.origin), intent.number)
}

fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Bump => "bump",
        Lane::Directory => "directory",
    }
}

fn write(write: &Write) -> Option<String> {
    Some(match write {
        Write::Log {
            origin,
            sequence,
            event: Event::Bump(it),
        } => format!("{}:{sequence} = {}", run(*origin), event(it)),
        Write::Log {
            origin,
            sequence,
            event: Event::Directory(batch),
        } => format!(
            "{}+{sequence} = register {} at {}",
            run(*origin),
            list(&batch.registrations, |item| item.address.to_string()),
            vector(&batch.stamp)
        ),
        Write::Unregister { registrations } => format!(
            "unregister {}",
            list(registrations, |item| item.address.to_string())
        ),
        Write::PutMember(record) => {
            format!("member {} is {}", record.node_id, run(record.incarnation))
        }
        Write::RemoveMember(node) => format!("member {node} is gone"),
        Write::Roster(record) => format!("roster: {}", roster(record)),
        Write::PutIntent(intent) => format!(
            "intent {} of {}",
            name(intent.id),
            list(&*intent.owed.classes(), ToString::to_string)
        ),
        Write::RemoveIntent(id) => format!("intent {} is gone", name(*id)),
        Write::PutShape(shape) => format!("knows {}", shape.class()),
        Write::OwnIncarnation(incarnation) => format!("runs as {}", run(*incarnation)),
        Write::ForgetRun(it) => format!("{} is forgotten", run(*it)),
        Write::Dropped { run: it, whole } => format!("{} was dropped up to {whole}", run(*it)),
        // What follows from the log record, or happens all the time.
        Write::JoinClass { .. }
        | Write::JoinFloor { .. }
        | Write::Progress { .. }
        | Write::Register { .. }
        | Write::Take { .. }
        | Write::Retire(_)
        | Write::Expire { .. } => return None,
    })
}

pub(crate) fn message(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Pruned { leaf, places, .. } => {
            format!("pruned {} {places:?}", leaf.class)
        }
        PeerMessage::Bumps {
            origin,
            first,
            events,
        } => {
            let events: Vec<_> = events.iter().map(|it| event(it)).collect();
            format!("bumps {}:{first} [{}]", run(*origin), events.join(", "))
        }
        PeerMessage::Directory {
            origin,
            first,
            batches,
        } => {
            let addresses = |batch: &std::sync::Arc<grapevine_core::event::RegistrationBatch>| {
                list(&batch.registrations, |item| item.address.to_string())
            };
            format!(
                "directory {}+{first} [{}]",
                run(*origin),
                list(batches, addresses)
            )
        }
        PeerMessage::Relayed {
            to, message: it, ..
        } => {
            let told = self::message(it);
            format!("{told}, for {} too", list(to, |it| run(*it)))
        }
        PeerMessage::Ack {
            watermark,
            above,
            flushed,
        } => {
            let flushed = flushed.as_ref();
            let more = flushed.map_or(String::new(), |(up_to, above)| {
                format!(", flushed {up_to} {above:?}")
            });
            format!("ack {watermark} {above:?}{more}")
        }
        PeerMessage::Probe { nonce, mark, .. } => format!("probe {nonce} in view {}", mark.number),
        PeerMessage::Roster { say, .. } => said(say),
        PeerMessage::Grant {
            nonce, heads: it, ..
        } => format!("grant {nonce} {}", heads(it)),
        PeerMessage::Pull {
            origin,
            lane: it,
            first,
            last,
        } => format!("pull {} {} {first}..={last}", run(*origin), lane(*it)),
        PeerMessage::Compacted {
            origin,
            lane: it,
            first,
        } => format!("compacted {} {} {first}", run(*origin), lane(*it)),
        PeerMessage::SnapshotRequest { id } => format!("snapshot {id} please"),
        PeerMessage::SnapshotBegin { id, cut } => format!("snapshot {id} begins at {}", heads(cut)),
        PeerMessage::SnapshotVersions {
            id,
            classes,
            floors,
            ..
        } => format!(
            "snapshot {id}: {} floors, classes {}",
            floors.len(),
            list(classes, |class| class.class.to_string())
        ),
        PeerMessage::SnapshotDirectory { id, registrations } => format!(
            "snapshot {id}: addresses {}",
            list(registrations, |item| item.address.to_string())
        ),
        PeerMessage::SnapshotEnd { id } => format!("snapshot {id} ends"),
        PeerMessage::Intent(intent) => format!(
            "hold {} of {}",
            name(intent.id),
            list(&*intent.owed.classes(), ToString::to_string)
        ),
        PeerMessage::RowsCome(intent) => format!("rows of {} come", name(intent.id)),
        PeerMessage::IntentHeld(ids) => format!("holds {}", list(ids, |id| name(*id))),
        PeerMessage::IntentSettled { intent, event } => {
            let event = event.map(|it| format!("{}:{}", run(it.origin), it.sequence));
            format!(
                "{} ended in {}",
                name(*intent),
                event.unwrap_or("nothing".to_owned())
            )
        }
        PeerMessage::Fill { key, word } => format!("fill {key:?}: {word:?}"),
        PeerMessage::Leave {
            bump_head,
            directory_head,
        } => format!("leave at {bump_head}+{directory_head}"),
    }
}

fn receipt(receipt: &Receipt) -> String {
    let word = if receipt.satisfied {
        "reached"
    } else {
        "NOT reached"
    };
    let rows = list(&receipt.holders, |row| {
        let state = match row.state {
            HolderState::Has => "has",
            HolderState::Flushed => "flushed",
            HolderState::HasNot => "has-not",
            HolderState::CannotServe => "cannot-serve",
        };
        format!("{}={state}", run(row.incarnation))
    });
    format!("{:?} {word}: {rows}", receipt.level).to_lowercase()
}

pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Forgotten { alone } => format!("forgotten, alone: {alone}"),
        Reply::TableOpened { position } => format!("table opened at {position}"),
        Reply::Invalidated {
            event, receipt: it, ..
        } => {
            format!(
                "{}:{} invalidated, {}",
                run(event.origin),
                event.sequence,
                receipt(it)
            )
        }
        Reply::Refused(refusal) => format!("refused: {refusal}"),
        Reply::Begun { intent, lease } => format!("begun {} for {lease:?}", name(*intent)),
        Reply::Fill(turn) => format!("fill: {turn:?}"),
        Reply::LeafTurn(turn) => format!("leaf: {turn:?}"),
        Reply::LeafFilled(outcome) => format!("leaf: {outcome:?}"),
        Reply::Pruned(count) => format!("pruned: {count}"),
        Reply::Aborted(outcome) => format!("aborted: {outcome:?}"),
        Reply::Registered(verdicts) => list(verdicts, |verdict| {
            match verdict {
                Verdict::Accepted(_) => "accepted",
                Verdict::Condemned(CondemnReason::Bumped) => "condemned: bumped",
                Verdict::Condemned(CondemnReason::LeaseUnknown) => "condemned: lease unknown",
                Verdict::Condemned(CondemnReason::Superseded) => "condemned: superseded",
                Verdict::Condemned(CondemnReason::ShapeUnknown) => "condemned: shape unknown",
            }
            .to_owned()
        }),
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Send { to, message: it } => format!("-> {}: {}", run(*to), message(it)),
        Action::Broadcast(it) => format!("-> all: {}", message(it)),
        Action::Reply(ticket, it) => format!("answers {}: {}", ticket.0, reply(it)),
        Action::Applied(id, it) => {
            format!("applies {}:{} = {}", run(id.origin), id.sequence, event(it))
        }
        Action::Notice {
            position, notice, ..
        } => format!("tells tables {position}: {notice:?}"),
        Action::Lease(table, lease) => format!("leases {table:?}: {lease:?}"),
        Action::EndTable(table) => format!("ends {table:?}"),
        Action::Resync => "resync".to_owned(),
        Action::Purge { addresses, .. } => {
            format!("purges {}", list(addresses, ToString::to_string))
        }
        Action::ServeLog {
            to,
            origin,
            lane: it,
            first,
            last,
        } => format!(
            "serves {} {} {} {first}..={last}",
            run(*to),
            run(*origin),
            lane(*it)
        ),
        Action::ServeSnapshot { to, id, cut } => {
            format!("serves {} snapshot {id} at {}", run(*to), heads(cut))
        }
        Action::Stop(reason) => format!("STOPS: {reason}"),
    }
}

/// What a node writes and does.
pub(crate) fn effects(name: char, effects: &Effects) -> Vec<String> {
    let writes = effects
        .writes
        .iter()
        .filter_map(write)
        .map(|text| format!("{name} writes {text}"));
    let actions = effects
        .actions
        .iter()
        .map(|it| format!("{name} {}", action(it)));
    writes.chain(actions).collect()
}

/// What a flush found to purge.
pub(crate) fn taken(name: char, taken: &Taken) -> Option<String> {
    let addresses = list(&taken.addresses, ToString::to_string);
    let (origin, sequence) = (taken.event.origin, taken.event.sequence);
    (!addresses.is_empty())
        .then(|| format!("{name} purges {addresses} for {}:{sequence}", run(origin)))
}

/// What a node reads from its disk for a peer.
pub(crate) fn served(name: char, to: Incarnation, it: &PeerMessage) -> String {
    format!("{name} reads for {}: {}", run(to), message(it))
}

fn view(view: &View) -> String {
    let seats = view.seats.iter();
    let seats = seats.map(|(node, held_by)| format!("{node} is {}", run(*held_by)));
    let seats = seats.collect::<Vec<_>>().join(", ");
    let all = if view.everything == view.number {
        ", everything bumped"
    } else {
        ""
    };
    format!("view {} ({seats}{all})", view.number)
}

fn ballot(ballot: Ballot) -> String {
    format!("{}.{}", ballot.round, run(ballot.by))
}

fn roster(record: &Record) -> String {
    let mut text = view(&record.view);
    if let Some(promised) = record.promised {
        text.push_str(", promised ");
        text.push_str(&ballot(promised));
    }
    if let Some((_, next)) = &record.accepted {
        text.push_str(", accepted ");
        text.push_str(&view(next));
    }
    text
}

fn said(say: &Say) -> String {
    match say {
        Say::Prepare {
            number,
            ballot: at,
            recovers,
        } => {
            let asks = if *recovers { "recover by" } else { "prepare" };
            format!("{asks} {} after view {number}", ballot(*at))
        }
        Say::Promise {
            ballot: at, above, ..
        } => {
            let above = above.map_or_else(String::new, |it| format!(", above it {}", ballot(it)));
            format!("promise {}{above}", ballot(*at))
        }
        Say::Accept { ballot: at, next } => format!("accept {} at {}", view(next), ballot(*at)),
        Say::Accepted { ballot: at, .. } => format!("accepted {}", ballot(*at)),
        Say::Refuse { promised, .. } => format!("refuse, promised {}", ballot(*promised)),
        Say::Decided(decided) => format!("decided: {}", view(decided)),
    }
}
