//! Sends a batch: as one call, tried again while nobody can take it, and line by line when somebody refuses it.

use std::time::{Duration, Instant};

use grapevine_client::{CallError, Client, InvalidateError, InvalidateOutcome};

use super::OnBadLine;
use super::batch::Batch;
use super::line::Line;
use super::position::Mark;
use crate::exit::Failure;
use crate::format;
use crate::invalidation::How;

/// The pauses between tries grow from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Who sends, and how patiently.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) retry_for: Duration,
    pub(super) on_bad_line: OnBadLine,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Up to where all is acknowledged, or skipped; nothing when not even the first line is.
    pub(super) mark: Option<Mark>,
    /// Lines up to there.
    pub(super) taken: u64,
    /// Of them invalidated.
    pub(super) invalidated: u64,
    pub(super) calls: u64,
    pub(super) outcomes: Vec<InvalidateOutcome>,
    /// Lines that were refused and skipped.
    pub(super) bad: Vec<String>,
    /// Why it ended before its end.
    pub(super) failure: Option<Failure>,
}

impl Sender {
    /// Sends it all, or up to the first line that fails.
    pub(super) async fn send(self, batch: Batch) -> Sent {
        let mut sent = Sent::default();
        let Some(how) = batch.how() else {
            sent.reached(&batch);
            return sent;
        };
        match self.call(how, batch.classes(), &mut sent.calls).await {
            Ok(outcome) => {
                sent.outcomes.push(outcome);
                sent.invalidated = batch.lines.len() as u64;
                sent.reached(&batch);
            }
            Err(error) if is_refusal(&error) => self.one_by_one(batch, error, &mut sent).await,
            Err(error) => sent.failure = Some(error.into()),
        }
        sent
    }

    /// Finds the line that is refused; those before it are sent, and with [`OnBadLine::Skip`] those after it.
    async fn one_by_one(&self, batch: Batch, refused: InvalidateError, sent: &mut Sent) {
        let alone = batch.lines.len() == 1;
        let mut refused = Some(refused);
        for line in &batch.lines {
            let result = match refused.take().filter(|_| alone) {
                Some(error) => Err(error),
                None => {
                    self.call(line.how, line.classes.clone(), &mut sent.calls)
                        .await
                }
            };
            match result {
                Ok(outcome) => {
                    sent.outcomes.push(outcome);
                    sent.invalidated += 1;
                }
                Err(error) => {
                    // Only what is malformed is the line's own fault; a limit that was met is an operator's matter.
                    let malformed = matches!(error, InvalidateError::Invalid(_));
                    let failure = named(line, error);
                    if !malformed || self.on_bad_line == OnBadLine::Stop {
                        sent.failure = Some(failure);
                        return;
                    }
                    sent.bad.push(failure.text());
                }
            }
            sent.mark = Some(line.mark.clone());
            sent.taken += 1;
        }
        sent.reached(&batch);
    }

    /// One call, tried again while nobody can take it.
    async fn call(
        &self,
        how: How,
        classes: Vec<String>,
        calls: &mut u64,
    ) -> Result<InvalidateOutcome, InvalidateError> {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            *calls += 1;
            let error = match how.call(&self.client, classes.clone()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let left = self.retry_for.saturating_sub(started.elapsed());
            if is_refusal(&error) || left.is_zero() {
                return Err(error);
            }
            if pause == PAUSE_MIN {
                tracing::warn!(%error, "trying again for {}", format::duration(left));
            }
            tokio::time::sleep(pause.max(error.retry_after().unwrap_or_default()).min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Sent {
    fn reached(&mut self, batch: &Batch) {
        self.mark = Some(batch.mark.clone());
        self.taken = batch.taken;
    }
}

/// Whether asking again would be answered the same: it is malformed, or a limit was met that does not pass by itself.
fn is_refusal(error: &InvalidateError) -> bool {
    let for_good = |attempt: &CallError| {
        matches!(
            attempt,
            CallError::Overloaded {
                retry_after: None,
                ..
            }
        )
    };
    match error {
        InvalidateError::Invalid(_) | InvalidateError::Refused(_) => true,
        InvalidateError::SessionBehind { .. } => false,
        InvalidateError::NoSidecar { attempts } => attempts.iter().all(for_good),
    }
}

/// The failure of a line, with its number.
fn named(line: &Line, error: InvalidateError) -> Failure {
    let number = line.mark.lines_read;
    match Failure::from(error) {
        Failure::Invalid(mut invalid) => {
            for violation in &mut invalid.violations {
                violation.field = format!("line {number}: {}", violation.field);
            }
            Failure::Invalid(invalid)
        }
        Failure::Later {
            message,
            retry_after,
        } => Failure::Later {
            message: format!("line {number}: {message}"),
            retry_after,
        },
        Failure::Failed(message) => Failure::Failed(format!("line {number}: {message}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overloaded(retry_after: Option<Duration>) -> CallError {
        CallError::Overloaded {
            endpoint: "x".into(),
            message: "full".to_owned(),
            retry_after,
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let soon = overloaded(Some(Duration::from_millis(50)));
        let never = overloaded(None);
        let of = |attempts: &[&CallError]| InvalidateError::NoSidecar {
            attempts: attempts.iter().map(|attempt| (*attempt).clone()).collect(),
        };
        assert!(is_refusal(&of(&[&never])));
        assert!(!is_refusal(&of(&[&soon])));
        assert!(
            !is_refusal(&of(&[&never, &soon])),
            "another sidecar may take it"
        );
    }
}
