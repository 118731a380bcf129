//! What clients report of their reads, checked.

use grapevine_proto::v1;
use tonic::Status;

use crate::telemetry::Counter;
use crate::wire::status::invalid;

/// The most that one number may say: more reads than a client makes in a year, and sums of so many do not overflow.
const REPORTED_MAX: u64 = 1_000_000_000_000;

/// What is to be counted.
pub(crate) fn reported(request: &v1::ReportReadsRequest) -> Result<[(Counter, u64); 6], Status> {
    let told = [
        ("hits", request.hits, Counter::ClientHits),
        ("misses", request.misses, Counter::ClientMisses),
        (
            "stale_served",
            request.stale_served,
            Counter::ClientStaleServed,
        ),
        ("bypasses", request.bypasses, Counter::ClientBypasses),
        ("audits", request.audits, Counter::ClientAudits),
        (
            "audit_mismatches",
            request.audit_mismatches,
            Counter::AuditMismatches,
        ),
    ];
    if let Some((name, value, _)) = told.iter().find(|(_, value, _)| *value > REPORTED_MAX) {
        return Err(invalid(
            name,
            format!("{value}; the limit is {REPORTED_MAX}"),
        ));
    }
    Ok(told.map(|(_, value, counter)| (counter, value)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_too_much_is_refused_by_its_name_and_counts_for_nothing() {
        let request = v1::ReportReadsRequest {
            hits: 3,
            audit_mismatches: REPORTED_MAX,
            ..Default::default()
        };
        let counted = reported(&request).unwrap();
        assert_eq!(counted[0], (Counter::ClientHits, 3));
        assert_eq!(counted[5], (Counter::AuditMismatches, REPORTED_MAX));
        let request = v1::ReportReadsRequest {
            bypasses: REPORTED_MAX + 1,
            ..request
        };
        let message = reported(&request).unwrap_err().message().to_owned();
        assert!(
            message.contains("bypasses: 1000000000001; the limit is 1000000000000"),
            "{message}"
        );
    }
}
