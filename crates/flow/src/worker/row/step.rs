//! One step: render its request, wait for a permit, call, and judge the answer.

use penstock_domain::outcome::code;
use penstock_domain::pipeline::{RenderedRequest, RowValues};

use crate::worker::kept_answers;
use crate::worker::kept_answers::KeptAnswer;
use crate::worker::kept_polls::Kept;
use crate::worker::progress::Progress;
use crate::worker::row::call::CallResult;
use crate::worker::row::detail::shorten;
use crate::worker::row::judge::StepResult;
use crate::worker::row::problem::Problem;
use crate::worker::row::task::{RowTask, StepAt};

impl RowTask<'_> {
    /// Carries out a step: as the definition says, by the answer to another row's call.
    pub(super) async fn step(
        &self,
        at: StepAt<'_>,
        kept: Option<Kept>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> StepResult {
        if at.step.may_call_nothing() {
            self.uses.came(at.step.dependency, &mut progress.uses);
        }
        match &at.step.cache {
            Some(cache) => self.shared_step(at, cache, kept, row, progress).await,
            None => self.called_step(at, kept, row, progress).await,
        }
    }

    /// Carries out a step by a call. A `kept` answer of an earlier call of it is read again first.
    pub(super) async fn called_step(
        &self,
        at: StepAt<'_>,
        kept: Option<Kept>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> StepResult {
        match kept {
            Some(Kept::Poll(poll)) => {
                self.uses.called(at.step.dependency, &mut progress.uses);
                return match at.step.bulk {
                    Some(_) => self.bulk_look(at, poll, row, progress).await,
                    None => self.look(at, poll, row, progress).await,
                };
            }
            Some(Kept::Answer(answer)) => {
                if let Some(result) = self.read_kept(at, &answer, row, progress) {
                    return result;
                }
            }
            Some(Kept::Nothing) | None => {}
        }
        match self.skipped(at, row, progress) {
            Ok(false) => {}
            Ok(true) => return StepResult::Done,
            Err(settled) => return StepResult::Settled(*settled),
        }
        self.uses.called(at.step.dependency, &mut progress.uses);
        if at.step.bulk.is_some() {
            return self.bulk_step(at, row, progress).await;
        }
        let request = match self.render(at, row, progress) {
            Ok(request) => request,
            Err(settled) => return StepResult::Settled(*settled),
        };
        self.call_and_judge(at, row, request, progress).await
    }

    /// Waits for the permit of a request, sends it, and judges the answer.
    pub(super) async fn call_and_judge(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        request: RenderedRequest,
        progress: &mut Progress,
    ) -> StepResult {
        let spend = match self.spend(at, row, progress).await {
            Ok(spend) => spend,
            Err(settled) => return StepResult::Settled(settled),
        };
        match self.call(at, row, request, spend.clone(), progress).await {
            CallResult::Answered(answer) => {
                self.correct(at, row, &spend, &answer, progress).await;
                self.judge(at, row, *answer, progress).await
            }
            CallResult::NotMade(settled) => StepResult::Settled(settled),
            CallResult::LeaseLost => StepResult::LeaseLost,
        }
    }

    /// Reads the kept answer of a step again. None: it still cannot be read, and the step is harmless to repeat.
    fn read_kept(
        &self,
        at: StepAt<'_>,
        answer: &KeptAnswer,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Option<StepResult> {
        // Of a bulk call a row's own result is kept, which was there by then.
        if at.step.poll.is_some() && at.step.bulk.is_none() {
            let status = at.step.poll_status(&self.context(row, progress), answer.view());
            let seen = (answer, self.services.clock.now(), None);
            if let Some(settled) = self.poll_is(at, row, status, seen, progress) {
                return Some(StepResult::Settled(settled));
            }
        }
        let context = self.context(row, progress);
        match answer.output(at.step, &context) {
            Ok(output) => {
                self.finish_step(at, output, progress);
                Some(StepResult::Done)
            }
            Err(_) if kept_answers::is_called_again(at.step) => None,
            Err(message) => {
                let secrets = self.secret_values(at, &answer.signature);
                let problem = Problem {
                    http_status: Some(answer.status),
                    detail: shorten(&answer.body, &secrets),
                    sent: self.exchange(at, row, Some(answer.view()), progress, &secrets),
                    ..Problem::new(code::BAD_RESPONSE, message)
                };
                Some(StepResult::Settled(self.failed(at, problem.masked(&secrets), progress)))
            }
        }
    }
}
