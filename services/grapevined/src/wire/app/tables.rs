//! What local tables are told, and what their clients say.

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::TableWord;
use grapevine_core::table::{Letter, TableId};
use grapevine_proto::v1;
use tonic::Status;

use super::super::{incarnation, status};

/// The first message of a table's stream.
pub(crate) fn table_opened(
    id: TableId,
    run: Incarnation,
    position: u64,
) -> v1::LocalTableStreamResponse {
    v1::LocalTableStreamResponse {
        opened: Some(v1::LocalTableOpened {
            local_table: id.0,
            incarnation: incarnation(run),
            position,
        }),
        ..Default::default()
    }
}

/// A later one.
pub(crate) fn table_letter(letter: &Letter) -> v1::LocalTableStreamResponse {
    let classes = letter.classes.iter();
    v1::LocalTableStreamResponse {
        opened: None,
        position: letter.position,
        classes: classes.map(|class| class.as_str().to_owned()).collect(),
        everything: letter.everything,
        lease: letter.lease.map(|lease| v1::LocalTableLease {
            request: lease.request,
            duration_us: u64::try_from(lease.duration.as_micros()).unwrap_or(u64::MAX),
        }),
        closing: false,
    }
}

/// What a client says, in the order in which it counts: `told` is the last position that it was sent, `asked` the last number by which
/// it has asked for a lease.
pub(crate) fn table_words(
    message: &v1::LocalTableStreamRequest,
    told: u64,
    asked: u64,
) -> Result<Vec<TableWord>, Status> {
    let v1::LocalTableStreamRequest {
        acknowledged,
        lease_request,
        released,
    } = *message;
    if acknowledged > told {
        let what = format!("{acknowledged} was not told; the last position told is {told}");
        return Err(status::invalid("acknowledged", what));
    }
    if lease_request != 0 && lease_request <= asked {
        let what = format!("{lease_request} is not above that of the last request, {asked}");
        return Err(status::invalid("lease_request", what));
    }
    let words = [
        (acknowledged > 0).then_some(TableWord::Acknowledges(acknowledged)),
        (lease_request > 0 && !released).then_some(TableWord::Asks(lease_request)),
        released.then_some(TableWord::Released),
    ];
    Ok(words.into_iter().flatten().collect())
}
