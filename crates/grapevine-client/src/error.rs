//! What can go wrong, per operation, and what to do about it.
//!
//! [`CallError`] says how one RPC to one sidecar failed; whether the call *may have had an effect* is part of the answer
//! ([`CallError::may_have_had_effect`]). Operations that mean more to the caller than one RPC have their own enums:
//! [`ResolveError`], [`InvalidateError`]. [`GetError`](crate::GetError) of a cached read has only two cases, because a
//! sidecar or a cache in trouble is never the reader's problem. [`ClientError`] holds any of them, for `?`.
//!
//! gRPC statuses are read in one place, [`CallError::from_status`]: field violations and retry delays come from the
//! `google.rpc` details. A status that the transport made carries its cause as a source, one that the sidecar sent does
//! not: that is how "the sidecar refused" and "the connection broke" are told apart.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt as _;

/// What [`ClientBuilder::build`](crate::ClientBuilder::build) refuses.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nobody to talk to. Name the own sidecar first.
    #[error(
        "no endpoint is configured: name the own sidecar first, then those that `invalidate` may fail over to"
    )]
    NoEndpoint,
    /// An endpoint cannot be read. Write `unix:/path`, `http://host:port` or `host:port`.
    #[error("endpoint {value:?}: {problem}; write unix:/path, http://host:port or host:port")]
    BadEndpoint {
        /// As given.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting is out of range.
    #[error("{field} is {value}; it must be {range}")]
    BadSetting {
        /// The builder method.
        field: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// Connections need a Tokio runtime: call `build` inside one.
    #[error("a client must be built inside a Tokio runtime: its connections run there")]
    NoRuntime,
}

/// One field that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path in the request, e.g. `items[3].address`.
    pub field: String,
    /// What is wrong, with the value and the limit.
    pub description: String,
}

/// A request that no sidecar will take, whoever is asked and how often: correct the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRequest {
    /// The sidecar's summary; empty when the client itself refused.
    pub message: String,
    /// The fields, where they are known.
    pub violations: Vec<Violation>,
}

impl InvalidRequest {
    pub(crate) fn one(field: &str, description: String) -> Self {
        let violation = Violation {
            field: field.to_owned(),
            description,
        };
        Self {
            message: String::new(),
            violations: vec![violation],
        }
    }
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid request")?;
        // A summary that only repeats a field's text is left out.
        let repeats = |violation: &Violation| self.message.contains(&violation.description);
        if !self.message.is_empty() && !self.violations.iter().any(repeats) {
            write!(f, ": {}", self.message)?;
        }
        for (index, violation) in self.violations.iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            write!(
                f,
                "{separator}{}: {}",
                violation.field, violation.description
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidRequest {}

/// Why one RPC to one sidecar gave no answer. Endpoints are named as they were configured.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// It could not be reached, or said that it did nothing. No effect; ask again after `retry_after`, or elsewhere.
    #[error("sidecar {endpoint} is unreachable: {reason}")]
    Unreachable {
        /// Which one.
        endpoint: Arc<str>,
        /// Why.
        reason: String,
        /// When this client will try it again, where that is known.
        retry_after: Option<Duration>,
    },
    /// No answer in time. It may have had its effect. Ask again if repeating does no harm.
    #[error("sidecar {endpoint} did not answer within {} ms", .deadline.as_millis())]
    Deadline {
        /// Which one.
        endpoint: Arc<str>,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The connection broke before the answer, or the sidecar stopped with the call in hand. It may have had its effect. Ask
    /// again if repeating does no harm.
    #[error("sidecar {endpoint} broke off before it answered ({code:?}): {message}")]
    Broken {
        /// Which one.
        endpoint: Arc<str>,
        /// What the transport, or the sidecar, made of it.
        code: Code,
        /// The same for people.
        message: String,
    },
    /// It has no room. No effect; ask again after `retry_after`.
    #[error("sidecar {endpoint} has no room: {message}")]
    Overloaded {
        /// Which one.
        endpoint: Arc<str>,
        /// Which limit.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It has not applied what the session's tokens name. No effect.
    #[error("sidecar {endpoint} is behind the session: {}", without_field(message))]
    SessionBehind {
        /// Which one.
        endpoint: Arc<str>,
        /// For what it waited.
        message: String,
    },
    /// It gave up waiting, for its disk say. It may have had its effect. Ask again if repeating does no harm.
    #[error("sidecar {endpoint} gave up waiting: {message}")]
    GaveUp {
        /// Which one.
        endpoint: Arc<str>,
        /// For what.
        message: String,
    },
    /// The request is malformed. No effect; correct the caller.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// It refused for another reason.
    #[error("sidecar {endpoint} refused ({code:?}): {message}")]
    Refused {
        /// Which one.
        endpoint: Arc<str>,
        /// The gRPC code.
        code: Code,
        /// Its reason.
        message: String,
    },
    /// It answered against the contract: client and sidecar are of different makes. Update the older one.
    #[error("sidecar {endpoint} answered against the contract: {what}")]
    BadAnswer {
        /// Which one.
        endpoint: Arc<str>,
        /// What was wrong.
        what: String,
    },
}

impl CallError {
    /// Reads a status, of the sidecar or of the transport.
    pub(crate) fn from_status(endpoint: &Arc<str>, status: &Status) -> Self {
        let endpoint = Arc::clone(endpoint);
        let message = status.message().to_owned();
        let by_transport = status.source().is_some();
        if by_transport && !is_connect_error(status) {
            return Self::Broken {
                endpoint,
                code: status.code(),
                message: with_causes(status),
            };
        }
        if too_large_metadata(status) {
            return Self::Refused {
                endpoint,
                code: Code::OutOfRange,
                message: format!(
                    "the call's metadata (`grapevine-session` and what else the caller adds) are larger than it takes: the limit is {METADATA_BYTES_MAX} bytes, names and 32 bytes an entry included (HTTP status 431)"
                ),
            };
        }
        match status.code() {
            Code::Unavailable => Self::Unreachable {
                endpoint,
                reason: if by_transport {
                    with_causes(status)
                } else {
                    message
                },
                retry_after: retry_delay(status),
            },
            Code::ResourceExhausted => Self::Overloaded {
                endpoint,
                message,
                retry_after: retry_delay(status),
            },
            Code::DeadlineExceeded if is_behind(status) => {
                Self::SessionBehind { endpoint, message }
            }
            Code::DeadlineExceeded => Self::GaveUp { endpoint, message },
            Code::InvalidArgument => Self::Invalid(InvalidRequest {
                message,
                violations: violations(status),
            }),
            // A handler that panicked or was cut off has no status of its own, and a sidecar that stopped with the command
            // in hand says so: nobody knows what it had done.
            code @ (Code::Unknown
            | Code::Aborted
            | Code::Cancelled
            | Code::Internal
            | Code::DataLoss) => Self::Broken {
                endpoint,
                code,
                message,
            },
            // What a gRPC server says of a service that it does not have, as a sidecar's port for peers does.
            code @ Code::Unimplemented if message.is_empty() => Self::Refused {
                endpoint,
                code,
                message: "it does not offer this call; is this its address for applications?"
                    .to_owned(),
            },
            code => Self::Refused {
                endpoint,
                code,
                message,
            },
        }
    }

    /// Whether the call may have done what it asked for although it failed.
    pub fn may_have_had_effect(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. }
                | Self::Broken { .. }
                | Self::GaveUp { .. }
                | Self::BadAnswer { .. }
        )
    }

    /// How long to wait before asking again, where the sidecar said so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } | Self::Unreachable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Whether another sidecar could answer otherwise.
    pub(crate) fn may_differ_elsewhere(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Deadline { .. }
            | Self::Broken { .. }
            | Self::Overloaded { .. }
            | Self::SessionBehind { .. }
            | Self::GaveUp { .. }
            | Self::BadAnswer { .. } => true,
            Self::Invalid(_) => false,
            Self::Refused { code, .. } => !matches!(
                code,
                Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::Unimplemented
                    | Code::OutOfRange
            ),
        }
    }
}

/// Whether a session is what the sidecar waited for: then the call had no effect.
fn is_behind(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| info.reason == SESSION_BEHIND)
}

/// The contract's reason for a call that came to nothing because of its session.
const SESSION_BEHIND: &str = "SESSION_BEHIND";
/// What a sidecar takes of a call's metadata.
const METADATA_BYTES_MAX: usize = 16 << 10;

/// Whether HTTP refused the call for its metadata, before a sidecar saw it: then there is no status but HTTP's.
fn too_large_metadata(status: &Status) -> bool {
    status.code() == Code::Unknown && status.message().ends_with("HTTP status code 431")
}

fn is_connect_error(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The message with its causes: the outermost alone often says only "transport error".
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay)
}

fn violations(status: &Status) -> Vec<Violation> {
    let Some(details) = status.get_details_bad_request() else {
        return Vec::new();
    };
    let convert = |violation: tonic_types::FieldViolation| Violation {
        field: violation.field,
        description: violation.description,
    };
    details.field_violations.into_iter().map(convert).collect()
}

/// What a sidecar says of a session, without the name of the field: the error has said already what it is about.
pub(crate) fn without_field(message: &str) -> &str {
    message.strip_prefix("session: ").unwrap_or(message)
}

/// Why an address could not be resolved. For all but `Invalid`: read the source, store nothing.
#[derive(Debug, Clone, Error)]
pub enum ResolveError {
    /// The address, a class or the slice is malformed or too long for its policy. Correct the caller.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// Too many look-ups wait for the sidecar already. Read the source; raise `resolve_queue_max` if it lasts.
    #[error("{limit} look-ups wait for the sidecar already, which is the limit")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// The sidecar has not applied what the session has seen. Read the source: it has.
    #[error("behind the session: {}", without_field(message))]
    SessionBehind {
        /// For what it waited.
        message: String,
    },
    /// The sidecar gave no answer. Read the source.
    #[error(transparent)]
    Call(CallError),
}

impl From<CallError> for ResolveError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Invalid(invalid) => Self::Invalid(invalid),
            CallError::SessionBehind { message, .. } => Self::SessionBehind { message },
            other => Self::Call(other),
        }
    }
}

/// Why an invalidation was not acknowledged.
#[derive(Debug, Clone, Error)]
pub enum InvalidateError {
    /// The classes or a setting are malformed. Nothing was invalidated; correct the caller.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// No sidecar that could be asked has applied what the session has seen, and all answered. Nothing was invalidated; ask
    /// again.
    #[error(
        "no sidecar has caught up with the session: {}",
        without_field(message)
    )]
    SessionBehind {
        /// For what the last one waited.
        message: String,
    },
    /// A sidecar refused for a reason that every other one would have too.
    #[error(transparent)]
    Refused(CallError),
    /// No sidecar acknowledged it. Refuse the commit, or keep the classes and ask again: an invalidation may be
    /// repeated without harm.
    #[error("no sidecar acknowledged the invalidation: {}", list(.attempts))]
    NoSidecar {
        /// One entry per attempt, in order.
        attempts: Vec<CallError>,
    },
}

impl InvalidateError {
    /// Whether the invalidation may have happened although nobody acknowledged it.
    pub fn may_have_had_effect(&self) -> bool {
        match self {
            Self::NoSidecar { attempts } => attempts.iter().any(CallError::may_have_had_effect),
            Self::Refused(error) => error.may_have_had_effect(),
            Self::Invalid(_) | Self::SessionBehind { .. } => false,
        }
    }

    /// How long to wait before asking again, where a sidecar said so.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::NoSidecar { attempts } = self else {
            return None;
        };
        attempts.iter().filter_map(CallError::retry_after).min()
    }
}

pub(crate) fn list(attempts: &[CallError]) -> String {
    let lines: Vec<String> = attempts.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// Any error of a client, for callers that do not tell operations apart.
#[derive(Debug, Clone, Error)]
pub enum ClientError {
    /// Building the client.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Resolving.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Invalidating.
    #[error(transparent)]
    Invalidate(#[from] InvalidateError),
    /// Beginning a write.
    #[error(transparent)]
    BeginWrite(#[from] crate::write::BeginWriteError),
    /// Any other call.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Collecting session tokens.
    #[error(transparent)]
    Session(#[from] crate::session::SessionError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn read(status: &Status) -> CallError {
        CallError::from_status(&Arc::from("unix:/run/g.sock"), status)
    }

    #[test]
    fn field_violations_and_retry_delays_are_read_from_the_details() {
        let details = ErrorDetails::with_bad_request(vec![FieldViolation::new(
            "items[3].address",
            "it is empty",
        )]);
        let status = Status::with_error_details(Code::InvalidArgument, "1 item", details);
        let CallError::Invalid(invalid) = read(&status) else {
            panic!("{status:?}");
        };
        assert_eq!(invalid.violations[0].field, "items[3].address");
        assert_eq!(
            invalid.to_string(),
            "invalid request: 1 item: items[3].address: it is empty"
        );

        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::ResourceExhausted, "queue", details);
        let error = InvalidateError::NoSidecar {
            attempts: vec![read(&status)],
        };
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn only_failures_without_a_clear_answer_may_have_had_effect() {
        for (code, expected) in [
            (Code::Unavailable, false),
            (Code::ResourceExhausted, false),
            (Code::InvalidArgument, false),
            (Code::FailedPrecondition, false),
            (Code::Unknown, true),
            (Code::Aborted, true),
            (Code::Internal, true),
            (Code::Cancelled, true),
        ] {
            assert_eq!(
                read(&Status::new(code, "")).may_have_had_effect(),
                expected,
                "{code:?}"
            );
        }
    }

    #[test]
    fn metadata_that_http_refuses_are_named_with_their_limit() {
        let status =
            Status::unknown("grpc-status header missing, mapped from HTTP status code 431");
        let error = read(&status);
        assert!(!error.may_have_had_effect() && !error.may_differ_elsewhere());
        let text = error.to_string();
        assert!(
            text.contains("grapevine-session") && text.contains("16384"),
            "{text}"
        );
        let other = read(&Status::unknown("mapped from HTTP status code 500"));
        assert!(matches!(other, CallError::Broken { .. }), "{other}");
    }

    #[test]
    fn a_status_made_by_the_transport_is_a_broken_connection() {
        let status = Status::from_error(Box::new(std::io::Error::other("reset by peer")));
        let error = read(&status);
        assert!(matches!(error, CallError::Broken { .. }), "{error:?}");
        assert!(error.may_differ_elsewhere());
        let status = Status::from_error(Box::new(ConnectError(Box::new(std::io::Error::other(
            "refused",
        )))));
        let error = read(&status);
        assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
