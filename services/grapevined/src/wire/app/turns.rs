//! Turns to fill: who asks for one, and what they are told.

use std::time::Duration;

use grapevine_core::fill::{FillId, FillKey};
use grapevine_core::machine::effects::FillTurn;
use grapevine_core::names::Address;
use grapevine_core::token::Token;
use grapevine_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::super::status::Violations;
use super::WAIT_MAX;
use super::register::LEASE_BYTES_MAX;

/// Reads what a caller would fill, and how long it waits for its turn.
pub(crate) fn acquiring(request: &v1::AcquireFillRequest) -> Result<(FillKey, Duration), Status> {
    let mut violations = Violations::default();
    let address = violations.check(|| "address".to_owned(), Address::parse(&request.address));
    let wait = Duration::from_millis(request.wait_ms.into());
    if wait > WAIT_MAX {
        let (value, limit) = (request.wait_ms, WAIT_MAX.as_millis());
        violations.add("wait_ms", format!("{value} ms; the limit is {limit} ms"));
    }
    violations.finish()?;
    let address = address.expect("invariant: what is wrong with it was told");
    Ok((FillKey::new(&address, Token(request.token)), wait))
}

/// The answer; `fill` is the turn, if there is one.
pub(crate) fn turn(
    turn: FillTurn,
    fill: Option<FillId>,
    lease: Duration,
) -> v1::AcquireFillResponse {
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    let mut response = v1::AcquireFillResponse::default();
    match turn {
        FillTurn::Won { .. } => {
            response.set_turn(v1::FillTurn::Won);
            response.lease_ms = millis(lease);
            response.fill =
                fill.map_or_else(Bytes::new, |fill| Bytes::copy_from_slice(&fill.to_bytes()));
        }
        FillTurn::Filled => response.set_turn(v1::FillTurn::Filled),
        FillTurn::Retry { after } => {
            response.set_turn(v1::FillTurn::Retry);
            response.retry_after_ms = millis(after).max(1);
        }
    }
    response
}

/// Reads the end of a turn. One that is none may be of another release: nobody knows it.
pub(crate) fn finishing(request: &v1::FinishFillRequest) -> Result<Option<FillId>, Status> {
    let mut violations = Violations::default();
    let given = request.fill.len();
    if given > LEASE_BYTES_MAX {
        violations.add(
            "fill",
            format!("{given} bytes; the limit is {LEASE_BYTES_MAX} bytes"),
        );
    }
    violations.finish()?;
    Ok(FillId::from_bytes(&request.fill))
}
