//! The deadlines that callers give their calls, in `grpc-timeout`.
//!
//! tonic's server ends a call whose deadline passed with `CANCELLED`, which says that the caller gave up; gRPC has
//! `DEADLINE_EXCEEDED` for this, and so has the contract. tonic looks at what it serves before it looks at its own timer, which
//! it starts later: so whoever looks at the clock here comes first.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::codegen::http::HeaderMap;

/// Digits of a number in `grpc-timeout` at most; what has more is no deadline, to tonic neither.
const DIGITS_MAX: usize = 8;

/// A call's deadline, if it has one.
pub(super) fn given(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > DIGITS_MAX {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Waits for an answer until the deadline.
pub(super) async fn within<T>(
    deadline: Option<Duration>,
    answer: impl Future<Output = T>,
) -> Result<T, Status> {
    let Some(wait) = deadline else {
        return Ok(answer.await);
    };
    let mut answer = pin!(answer);
    let mut timer = pin!(sleep(wait));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        // The timer alone might be told after tonic's, for both end within a millisecond.
        let over = timer.as_mut().poll(cx).is_ready() || Instant::now() >= timer.deadline();
        if over {
            return Poll::Ready(Err(Status::deadline_exceeded(format!(
                "no answer within the {wait:?} that the caller gave: if the call changes anything, whether it did is not known; repeat it"
            ))));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            given(&headers)
        };
        for (text, deadline) in [
            ("2H", Some(Duration::from_hours(2))),
            ("3M", Some(Duration::from_mins(3))),
            ("4S", Some(Duration::from_secs(4))),
            ("50m", Some(Duration::from_millis(50))),
            ("60u", Some(Duration::from_micros(60))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0m", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("100000000n", None),
            ("5", None),
            ("m", None),
            ("-1m", None),
            ("1x", None),
            ("1 m", None),
            ("", None),
        ] {
            assert_eq!(read(text), deadline, "{text:?}");
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }
}
