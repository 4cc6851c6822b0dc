//! What an answer means for the row.

use penstock_domain::exchange::{AnswerSeen, Exchange};
use penstock_domain::outcome::{Verdict, code};
use penstock_domain::pipeline::{ApiError, ResponseView, RowValues, SecretValues, Target};
use penstock_domain::retry;
use penstock_domain::time::Timestamp;
use penstock_downstream::{Response, aside};
use penstock_store::work::Settled;

use crate::worker::kept_answers;
use crate::worker::kept_answers::KeptAnswer;
use crate::worker::progress::Progress;
use crate::worker::row::answer::Answer;
use crate::worker::row::detail::shorten;
use crate::worker::row::problem::{Problem, failed_message, throttled_message, unusable_message};
use crate::worker::row::task::{RowTask, StepAt};

/// What came of a step.
pub(super) enum StepResult {
    /// Its output is known; the next step follows.
    Done,
    /// The row ends here, or is requeued.
    Settled(Settled),
    /// Somebody else may have the row: nothing may be written.
    LeaseLost,
}

impl RowTask<'_> {
    /// Finishes the step, or ends the row's run.
    pub(super) async fn judge(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        mut answer: Answer,
        progress: &mut Progress,
    ) -> StepResult {
        if answer.verdict == Verdict::Success {
            let Some(response) = answer.response.take() else { return StepResult::LeaseLost };
            // The result of a bulk call is there by the time that its rows have their parts.
            if !answer.item
                && let Some(settled) = self.poll_answered(at, row, &response, &answer, progress).await
            {
                return StepResult::Settled(settled);
            }
            return self.read_output(at, row, response, &answer, progress).await;
        }
        let own_error = self.api_error(at, row, &answer, progress).await;
        let signature = answer.response.as_ref().map_or(&[][..], |response| &response.signature);
        let secrets = self.secret_values(at, signature);
        let sent = self.exchange(at, row, answer.response.as_ref().map(view), progress, &secrets);
        let settled = match &answer.verdict {
            Verdict::Success => return StepResult::LeaseLost,
            Verdict::Throttled { until } => {
                self.throttled_by(at, *until, &answer, &own_error, progress, &secrets)
            }
            Verdict::Hold { code } => {
                progress.not_throttled();
                let problem = self.problem(at, code, &answer, own_error, &secrets);
                self.held(at, Problem { sent, ..problem }, progress)
            }
            Verdict::Retry { code } => {
                progress.not_throttled();
                let problem = Problem { sent, ..self.problem(at, code, &answer, own_error, &secrets) };
                if let Some(kept) = at.look {
                    return StepResult::Settled(self.look_failed(at, row, kept, problem, progress));
                }
                self.retry_or_fail(at, problem, answer.probe, progress)
            }
            Verdict::Unknown { code } | Verdict::Fail { code } => {
                let problem = self.problem(at, code, &answer, own_error, &secrets);
                self.failed(at, Problem { sent, ..problem }, progress)
            }
        };
        StepResult::Settled(settled)
    }

    /// What was sent and answered, for a row that fails. The request is made again of the same values: to keep each one in case that
    /// it fails would cost every call.
    pub(super) fn exchange(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        answer: Option<ResponseView<'_>>,
        progress: &Progress,
        secrets: &SecretValues,
    ) -> Option<Box<Exchange>> {
        let context = self.context(row, progress);
        let request = match at.look {
            Some(kept) => at.step.look(&context, kept.target.as_deref().map(Target::from_kept)),
            None => at.step.request(&context),
        };
        let request = request.ok()?;
        let own = self.dependency(at).headers.iter().map(|(name, _)| name.as_str());
        let answer = answer.map(|answer| as_seen(answer, secrets));
        Some(Box::new(Exchange { answer, ..Exchange::of(&request, own, secrets) }))
    }

    /// The API's own code and words, where its answer has them.
    async fn api_error(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        answer: &Answer,
        progress: &Progress,
    ) -> ApiError {
        let Some(response) = &answer.response else { return ApiError::default() };
        let context = self.context(row, progress);
        aside(response.bytes, || at.step.api_error(&context, view(response))).await
    }

    /// The output of a call that succeeded. A response that cannot be read had its effect all the same, and is kept.
    async fn read_output(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        response: Response,
        answer: &Answer,
        progress: &mut Progress,
    ) -> StepResult {
        let context = self.context(row, progress);
        let error = match aside(response.bytes, || at.step.output(&context, view(&response))).await {
            Ok(output) => {
                self.finish_step(at, output, progress);
                return StepResult::Done;
            }
            Err(error) => error.to_string(),
        };
        let failure = answer.failure.as_ref();
        let secrets = self.secret_values(at, &response.signature);
        let problem = Problem {
            http_status: Some(response.status),
            detail: shorten(&response.body, &secrets),
            sent: self.exchange(at, row, Some(view(&response)), progress, &secrets),
            answer: Some(KeptAnswer::of(&response, failure)),
            ..Problem::new(code::BAD_RESPONSE, unusable_message(at.step, &response, failure, &error))
        };
        StepResult::Settled(self.failed(at, problem.masked(&secrets), progress))
    }

    fn throttled_by(
        &self,
        at: StepAt<'_>,
        until: Option<Timestamp>,
        answer: &Answer,
        own_error: &ApiError,
        progress: &mut Progress,
        secrets: &SecretValues,
    ) -> Settled {
        let now = answer.ended_at;
        let response = answer.response.as_ref();
        let series = progress.throttled(&at.step.name, now, answer.alone);
        let problem = Problem {
            http_status: response.map(|response| response.status),
            detail: response.and_then(|response| shorten(&response.body, secrets)),
            not_before: Some(retry::throttled_until(&series, now, until)),
            ..Problem::new(
                code::THROTTLED,
                throttled_message(at.step, response, own_error.message.as_deref(), &series),
            )
        };
        self.throttled(at, problem.masked(secrets), progress)
    }

    /// What went wrong with a call, in the API's own words where its answer can be read and has some. A success that cannot be read
    /// is kept, unless the step is harmless to repeat.
    fn problem(
        &self,
        at: StepAt<'_>,
        code: &str,
        answer: &Answer,
        own_error: ApiError,
        secrets: &SecretValues,
    ) -> Problem {
        let (response, failure) = (answer.response.as_ref(), answer.failure.as_ref());
        let is_kept = code == code::BAD_RESPONSE && !kept_answers::is_called_again(at.step);
        let kept = response.filter(|_| is_kept);
        // Of these the code says what to do, and the message why.
        let is_own = matches!(code, code::BAD_RESPONSE | code::OUTCOME_UNKNOWN);
        let ApiError { code: api_code, message } = if is_own { ApiError::default() } else { own_error };
        let message =
            message.unwrap_or_else(|| failed_message(code, at.step, self.dependency(at), response, failure));
        let problem = Problem {
            api_code,
            http_status: response.map(|response| response.status),
            detail: response.and_then(|response| shorten(&response.body, secrets)),
            not_before: answer.not_before,
            answer: kept.map(|response| KeptAnswer::of(response, failure)),
            ..Problem::new(code, message)
        };
        problem.masked(secrets)
    }
}

/// An answer as it is kept with a failed row.
pub(super) fn as_seen(answer: ResponseView<'_>, secrets: &SecretValues) -> AnswerSeen {
    let body = shorten(answer.body, secrets);
    AnswerSeen::of(answer.status, answer.headers, body.as_ref(), secrets)
}

/// An answer as templates read it.
pub(super) fn view(response: &Response) -> ResponseView<'_> {
    ResponseView { status: response.status, headers: &response.headers, body: &response.body }
}
