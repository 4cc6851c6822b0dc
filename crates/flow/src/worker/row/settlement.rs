//! What is written of a row that ends or is requeued, sealed.

use std::time::Duration;

use penstock_domain::outcome::{self, code};
use penstock_domain::pipeline::{RowValues, Step};
use penstock_domain::retry::{self, Failed, Next};
use penstock_domain::row::{AttemptRecord, Receipt, RowError};
use penstock_domain::time::Timestamp;
use penstock_store::work::{BatchHold, Expiry, RowFailure, Settled};
use serde_json::Value;

use crate::context::error::FlowError;
use crate::context::secrets::SecretLocation;
use crate::worker::open;
use crate::worker::progress::Progress;
use crate::worker::row::problem::Problem;
use crate::worker::row::task::{RowTask, StepAt};

/// A row that cannot be opened here is tried again after this time, perhaps by another worker.
const ELSEWHERE: Duration = Duration::from_secs(30);

/// How a failure counts in the row's attempts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// As an attempt.
    Attempt,
    /// Not: the call was a probe of the breaker.
    Probe,
}

impl RowTask<'_> {
    /// All steps are done.
    pub(super) fn complete(&self, row: &RowValues, progress: &mut Progress) -> Settled {
        let context = self.context(row, progress);
        match self.work.pipeline.result(&context) {
            Ok(result) if result.is_empty() => Settled::Completed { result: None, key: progress.key.take() },
            Ok(result) => {
                let location = SecretLocation::Result(self.number());
                let sealed = self.work.secrets.seal_json(location, &Value::Object(result));
                Settled::Completed { result: Some(sealed), key: progress.key.take() }
            }
            Err(error) => {
                let problem = Problem::new(code::TEMPLATE_ERROR, error.to_string());
                let mut receipts = std::mem::take(&mut progress.receipts);
                receipts.extend(self.last_receipt(progress));
                let error = self.seal_failure(None, problem, Counts::Attempt, progress);
                Settled::Failed(RowFailure {
                    error: Some(error),
                    receipts,
                    ..failure_of(code::TEMPLATE_ERROR)
                })
            }
        }
    }

    /// The output of the last step, of a row that fails although all its steps are done: a retry calls none of them again.
    fn last_receipt(&self, progress: &Progress) -> Option<Receipt> {
        let index = self.work.pipeline.steps.len().checked_sub(1)?;
        let at = StepAt { index, step: &self.work.pipeline.steps[index], look: None };
        let output = progress.outputs.get(&at.step.name)?;
        Some(self.receipt(at.stored_index()?, output))
    }

    /// What is stored of the row cannot be opened.
    pub(super) fn not_opened(&self, error: &FlowError, progress: &mut Progress) -> Settled {
        let code = code::UNREADABLE;
        if open::is_the_rows_own(error) {
            tracing::error!(%error, batch = %self.work.id, row = self.number(), "what is stored of the row cannot be read");
            let problem = Problem::new(code, outcome::sentence(code));
            let error = self.seal_failure(None, problem, Counts::Attempt, progress);
            return Settled::Failed(RowFailure { error: Some(error), ..failure_of(code) });
        }
        tracing::error!(%error, "the row cannot be opened here");
        let not_before = self.services.clock.now() + ELSEWHERE;
        let expires = progress.expiry(&self.work.pipeline.retry, "");
        requeued(not_before, false, Some(failure_of(code)), Vec::new(), expires)
    }

    /// The step failed in a way that may pass: the row is requeued as long as its pipeline's policy allows.
    pub(super) fn retry_or_fail(
        &self,
        at: StepAt<'_>,
        problem: Problem,
        probe: bool,
        progress: &mut Progress,
    ) -> Settled {
        let now = self.services.clock.now();
        let failed = Failed {
            at: now,
            code: &problem.code,
            step: &at.step.name,
            probe,
            open_for: self.work.dependencies[at.step.dependency].breaker.open_for,
            attempts: progress.attempts.into(),
            earlier: progress.failures(),
        };
        let unit = self.services.id_generator.unit();
        let Next::Again { delay, attempt } = retry::after_failure(&self.work.pipeline.retry, &failed, unit)
        else {
            return self.failed(at, problem, progress);
        };
        let problem = Problem { sent: None, ..problem };
        let backoff_ends = now + delay;
        let not_before = problem.not_before.map_or(backoff_ends, |wanted| wanted.max(backoff_ends));
        let expires = progress.expiry(&self.work.pipeline.retry, &at.step.name);
        let receipts = std::mem::take(&mut progress.receipts);
        let counts = if attempt { Counts::Attempt } else { Counts::Probe };
        let failure = RowFailure {
            step: at.stored_index(),
            http_status: problem.http_status,
            code: problem.code.clone(),
            api_code: problem.api_code.as_deref().map(Into::into),
            error: Some(self.seal_failure(Some(at.step), problem, counts, progress)),
            receipts: Vec::new(),
        };
        requeued(not_before, attempt, Some(failure), receipts, expires)
    }

    /// The step is called too often: the row is requeued, or fails when that has lasted for too long.
    pub(super) fn throttled(&self, at: StepAt<'_>, problem: Problem, progress: &mut Progress) -> Settled {
        let now = self.services.clock.now();
        let expiry = progress.expiry(&self.work.pipeline.retry, &at.step.name);
        let not_before = problem.not_before.unwrap_or(now);
        if expiry.is_some_and(|expiry| expiry.code == problem.code && now >= expiry.at) {
            return self.failed(at, problem, progress);
        }
        let receipts = std::mem::take(&mut progress.receipts);
        let failure = self.uncounted(at, problem, progress);
        requeued(not_before, false, Some(failure), receipts, expiry)
    }

    /// A failure that costs the row no attempt. What was sent is kept with rows that fail, not with those that wait.
    pub(super) fn uncounted(&self, at: StepAt<'_>, problem: Problem, progress: &mut Progress) -> RowFailure {
        let problem = Problem { sent: None, ..problem };
        RowFailure {
            step: at.stored_index(),
            http_status: problem.http_status,
            code: problem.code.clone(),
            api_code: problem.api_code.as_deref().map(Into::into),
            error: Some(self.seal(Some(at.step), problem, progress)),
            receipts: Vec::new(),
        }
    }

    /// The answer holds the whole batch: the row is requeued as it was, and no other one of it makes a call.
    pub(super) fn held(&self, at: StepAt<'_>, problem: Problem, progress: &mut Progress) -> Settled {
        self.work.held.set();
        let expiry = progress.expiry(&self.work.pipeline.retry, &at.step.name);
        let receipts = std::mem::take(&mut progress.receipts);
        let words = self.work.secrets.seal_json(SecretLocation::Hold, &problem.message);
        let code = problem.api_code.clone().unwrap_or_else(|| problem.code.clone());
        let hold = BatchHold { code, step: Some(at.step.name.clone()), words };
        let failure = self.uncounted(at, problem, progress);
        Settled::Requeued {
            not_before: self.services.clock.now(),
            attempt: false,
            trouble: Some(failure),
            receipts,
            expires: expiry,
            hold: Some(Box::new(hold)),
            polling: false,
        }
    }

    /// The row fails at a step.
    pub(super) fn failed(&self, at: StepAt<'_>, problem: Problem, progress: &mut Progress) -> Settled {
        let mut receipts = std::mem::take(&mut progress.receipts);
        if let Some((answer, step)) = problem.answer.as_ref().zip(at.stored_index()) {
            receipts.push(self.receipt(step, &answer.to_json()));
        }
        Settled::Failed(RowFailure {
            step: at.stored_index(),
            http_status: problem.http_status,
            code: problem.code.clone(),
            api_code: problem.api_code.as_deref().map(Into::into),
            error: Some(self.seal_failure(Some(at.step), problem, Counts::Attempt, progress)),
            receipts,
        })
    }

    /// Seals why a row fails before its first step.
    pub(super) fn seal_failure_of_row(&self, problem: Problem, progress: &mut Progress) -> Vec<u8> {
        self.seal_failure(None, problem, Counts::Attempt, progress)
    }

    /// Adds a failure to the row's attempts, and seals them with what went wrong.
    fn seal_failure(
        &self,
        step: Option<&Step>,
        problem: Problem,
        counts: Counts,
        progress: &mut Progress,
    ) -> Vec<u8> {
        let took_ms = step.and_then(|step| progress.took(&step.name));
        progress.push(AttemptRecord {
            at: self.services.clock.now(),
            step: step.map(|step| step.name.clone()),
            code: problem.code.clone(),
            api_code: problem.api_code.clone(),
            http_status: problem.http_status,
            probe: counts == Counts::Probe,
            took_ms,
            look: is_look(step, &problem, progress),
        });
        self.seal(step, problem, progress)
    }

    pub(super) fn seal(&self, step: Option<&Step>, problem: Problem, progress: &mut Progress) -> Vec<u8> {
        let look = is_look(step, &problem, progress);
        let error = RowError {
            code: problem.api_code.unwrap_or(problem.code),
            step: step.map(|step| step.name.clone()),
            http_status: problem.http_status,
            message: problem.message,
            detail: problem.detail,
            sent: problem.sent,
            throttled: step.and_then(|step| progress.series(&step.name)),
            series_clock: step.and_then(|step| progress.series_clock(&step.name)),
            earlier_attempts: progress.earlier_attempts(),
            awaits_since: step.and_then(|step| progress.awaits_since(&step.name)),
            look,
            attempts: std::mem::take(&mut progress.history),
        };
        self.work.secrets.seal_json(SecretLocation::Error(self.number()), &error)
    }
}

/// Whether the step's request was answered before, so that it may have had its effect: its result is waited for. After an answer
/// that there will be none the request is made anew.
fn is_look(step: Option<&Step>, problem: &Problem, progress: &Progress) -> bool {
    let waits = step.is_some_and(|step| step.poll.is_some()) && progress.polling;
    waits && ![code::POLL_FAILED, code::ANSWER_AWAITED].contains(&problem.code.as_str())
}

/// A failure of which only the code is known.
pub(crate) fn failure_of(code: &str) -> RowFailure {
    RowFailure {
        code: code.to_owned(),
        api_code: None,
        step: None,
        http_status: None,
        error: None,
        receipts: Vec::new(),
    }
}

/// The row is queued again.
pub(super) fn requeued(
    not_before: Timestamp,
    attempt: bool,
    failure: Option<RowFailure>,
    receipts: Vec<Receipt>,
    expires: Option<Expiry>,
) -> Settled {
    Settled::Requeued { not_before, attempt, trouble: failure, receipts, expires, hold: None, polling: false }
}
