//! Errors as gRPC statuses with `google.rpc` details: the one place that knows the codes.

use std::time::Duration;

use grapevine_core::machine::effects::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// What the library says of a call's message, in the words of the contract: one that cannot be decoded is its caller's mistake, which the
/// library calls internal, and of one that is too large it does not know which limit that is.
pub(crate) fn blame(status: Status) -> Status {
    match status.code() {
        Code::Internal if status.message().starts_with(UNDECODABLE) => {
            invalid("message", status.message())
        }
        Code::OutOfRange => too_large(status.message()).unwrap_or(status),
        _ => status,
    }
}

/// Whether the library may have said it, and not a handler.
pub(crate) fn may_be_blamed(code: Code) -> bool {
    matches!(code, Code::Internal | Code::OutOfRange)
}

/// How the library's word for it begins.
const UNDECODABLE: &str = "failed to decode Protobuf message";

/// Of a message that is larger than may be, from what the library says of it; nothing if that is about something else.
fn too_large(text: &str) -> Option<Status> {
    let sizes = text.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = sizes.split_once(" bytes, the limit is: ")?;
    let limit = limit.strip_suffix(" bytes")?;
    // The library's code: clients know by it that several smaller ones may do.
    Some(Status::out_of_range(format!(
        "a message of {found} bytes is larger than the limit of {limit} bytes (limits.message_bytes_max)"
    )))
}

/// What is wrong with a request, field by field.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    /// The first ones.
    told: Vec<FieldViolation>,
    /// How many there are in all.
    count: usize,
    /// The bytes of those that are told.
    bytes: usize,
    /// Where the fields are that are told, with a dot at its end; empty for the request itself.
    within: &'static str,
}

/// Violations told at most; a call with 10,000 bad items need not list them all.
const VIOLATIONS_MAX: usize = 20;
/// Bytes of violations told at most, but for the first: clients drop an answer whose trailers have more than 8 KB.
const VIOLATIONS_BYTES_MAX: usize = 2_000;
/// Bytes of one violation's text.
const DESCRIPTION_BYTES_MAX: usize = 800;

impl Violations {
    /// Whatever is noted from now on is about the fields of this one.
    pub(crate) fn descend(&mut self, within: &'static str) {
        self.within = within;
    }

    /// Notes a violation.
    pub(crate) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.count += 1;
        let field = format!("{}{}", self.within, field.into());
        let mut description = description.into();
        if description.len() > DESCRIPTION_BYTES_MAX {
            let end = description.floor_char_boundary(DESCRIPTION_BYTES_MAX);
            description.truncate(end);
            description.push_str("...");
        }
        let bytes = field.len() + description.len();
        let room = self.told.is_empty() || self.bytes + bytes <= VIOLATIONS_BYTES_MAX;
        if self.told.len() < VIOLATIONS_MAX && room {
            self.bytes += bytes;
            self.told.push(FieldViolation::new(field, description));
        }
    }

    /// Notes a violation if there is one, and passes the value on.
    pub(crate) fn check<T, E: ToString>(
        &mut self,
        field: impl FnOnce() -> String,
        result: Result<T, E>,
    ) -> Option<T> {
        result
            .map_err(|error| self.add(field(), error.to_string()))
            .ok()
    }

    /// `INVALID_ARGUMENT` with every violation, unless there is none.
    pub(crate) fn finish(self) -> Result<(), Status> {
        let Some(first) = self.told.first() else {
            return Ok(());
        };
        let more = match self.count - 1 {
            0 => String::new(),
            more if self.count > self.told.len() => {
                let told = self.told.len();
                format!(" (and {more} more; the details have {told})")
            }
            more => format!(" (and {more} more, see the details)"),
        };
        let message = format!("{}: {}{more}", first.field, first.description);
        let mut details = ErrorDetails::new();
        details.set_bad_request(self.told);
        Err(Status::with_error_details(
            Code::InvalidArgument,
            message,
            details,
        ))
    }
}

/// One violation as a status.
pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Status {
    let mut violations = Violations::default();
    violations.add(field, description);
    match violations.finish() {
        Err(status) => status,
        Ok(()) => unreachable!("invariant: a violation was added"),
    }
}

/// Something is full: try again after a moment.
pub(crate) fn exhausted(message: impl Into<String>, after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A session's past has not come in time: the call had no effect, other than after other deadlines.
pub(crate) fn behind(message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(SESSION_BEHIND, ERROR_DOMAIN, []);
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

/// The contract's reason for [`behind`].
const SESSION_BEHIND: &str = "SESSION_BEHIND";
/// Whose reasons they are.
const ERROR_DOMAIN: &str = "grapevine.v1";

/// A refusal because of a field, which its text may name already.
fn invalid_refusal(field: &str, refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    let named = text.strip_prefix(field);
    let rest = named.and_then(|text| text.strip_prefix(": "));
    invalid(field, rest.unwrap_or(&text))
}

/// A call that had no effect.
pub(crate) fn refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::ClassCount { .. } => invalid_refusal("classes", refusal),
        Refusal::TopLevelClasses { limit, .. } => {
            let mut details = ErrorDetails::new();
            details.add_quota_failure_violation(
                format!("top_level_classes_max={limit}"),
                refusal.to_string(),
            );
            Status::with_error_details(Code::ResourceExhausted, refusal.to_string(), details)
        }
        Refusal::Receipts { after, .. } | Refusal::Tables { after, .. } => {
            exhausted(refusal.to_string(), *after)
        }
        Refusal::Intents { .. } => exhausted(refusal.to_string(), Duration::from_secs(1)),
        Refusal::LeafTooLarge { .. } | Refusal::LeafOutOfOrder => invalid_refusal("rows", refusal),
        Refusal::Draining => Status::unavailable(refusal.to_string()),
        Refusal::NoSeat { .. } | Refusal::ForgetOneself { .. } => {
            invalid_refusal("node_id", refusal)
        }
        Refusal::IntentNotHeld | Refusal::Connected { .. } | Refusal::NoMajority { .. } => {
            Status::failed_precondition(refusal.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_field_once() {
        let node_id = grapevine_core::names::NodeId::parse("n9").expect("a node id");
        let status = super::refusal(&Refusal::NoSeat { node_id, view: 3 });
        let message = status.message();
        assert!(message.starts_with("node_id: n9 has no seat"), "{message}");
    }

    #[test]
    fn g10_violations_are_bounded_in_bytes_and_the_first_is_always_told() {
        let mut violations = Violations::default();
        for _ in 0..VIOLATIONS_MAX {
            violations.add("f".repeat(100), "x".repeat(10_000));
        }
        let status = violations.finish().expect_err("violations were added");
        let bad = status.get_details_bad_request().expect("details");
        let bytes = |one: &FieldViolation| one.field.len() + one.description.len();
        let sum: usize = bad.field_violations.iter().map(bytes).sum();
        assert_eq!(bad.field_violations.len(), 2, "900 bytes each, about");
        assert!(sum <= VIOLATIONS_BYTES_MAX, "{sum}");
        let mut violations = Violations::default();
        violations.add("f".repeat(3_000), "too long");
        violations.add("field", "not told");
        let status = violations.finish().expect_err("violations were added");
        let bad = status.get_details_bad_request().expect("details");
        assert_eq!(bad.field_violations.len(), 1);
    }

    #[test]
    fn violations_are_told_together_and_bounded() {
        let mut violations = Violations::default();
        for item in 0..100 {
            violations.add(format!("items[{item}].address"), "address is empty");
        }
        let status = violations.finish().expect_err("violations were added");
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status
            .get_details_bad_request()
            .map_or(0, |bad| bad.field_violations.len());
        assert_eq!(details, VIOLATIONS_MAX);
        assert!(
            status
                .message()
                .starts_with("items[0].address: address is empty"),
            "{}",
            status.message()
        );
        assert!(
            status.message().contains("and 99 more"),
            "{}",
            status.message()
        );
    }
}
