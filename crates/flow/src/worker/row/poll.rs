//! A step that waits for its result: between two looks the row is in SQL again, with a receipt that says where it stands.
//!
//! The receipt is written as soon as the request was answered, so that nothing repeats the request. A look costs its rate and no
//! attempt, also when it fails in a way that may pass.

use penstock_domain::exchange::Exchange;
use penstock_domain::outcome::{self, code};
use penstock_domain::pipeline::poll::PollStatus;
use penstock_domain::pipeline::{RowValues, Target};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Response, aside, asked_pause};
use penstock_store::work::{RowFailure, Settled};

use crate::telemetry::worker_counters;
use crate::worker::kept_answers::KeptAnswer;
use crate::worker::kept_polls::{Kept, KeptPoll};
use crate::worker::progress::Progress;
use crate::worker::row::answer::Answer;
use crate::worker::row::detail::shorten;
use crate::worker::row::judge::{StepResult, as_seen, view};
use crate::worker::row::problem::Problem;
use crate::worker::row::render::forbidden;
use crate::worker::row::task::{RowTask, StepAt};

impl RowTask<'_> {
    /// Looks for the result of a step whose request was answered before.
    pub(super) async fn look(
        &self,
        at: StepAt<'_>,
        kept: KeptPoll,
        row: &RowValues,
        progress: &mut Progress,
    ) -> StepResult {
        progress.polling = true;
        let now = self.services.clock.now();
        let kept = match kept.since {
            Some(_) => kept,
            None => KeptPoll { since: Some(now), clock: Some(progress.first_claimed_at), ..kept },
        };
        let at = StepAt { look: Some(&kept), ..at };
        if let Some(end) = poll_ends(at, progress).filter(|end| now >= *end)
            && kept.next.is_some_and(|next| next >= end)
        {
            return StepResult::Settled(self.poll_timed_out(at, row, progress));
        }
        if kept.next.is_some_and(|next| next > now) {
            return StepResult::Settled(self.wait_for_look(at, row, kept.clone(), None, progress));
        }
        let context = self.context(row, progress);
        match at.step.look(&context, kept.target.as_deref().map(Target::from_kept)) {
            Ok(request) => self.call_and_judge(at, row, request, progress).await,
            Err(error) => {
                let problem = Problem::new(code::TEMPLATE_ERROR, error.to_string());
                StepResult::Settled(self.failed(at, problem, progress))
            }
        }
    }

    /// What a successful answer means for a step that waits for its result; none: it is there.
    pub(super) async fn poll_answered(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        response: &Response,
        answer: &Answer,
        progress: &mut Progress,
    ) -> Option<Settled> {
        at.step.poll.as_ref()?;
        let context = self.context(row, progress);
        let status = aside(response.bytes, || at.step.poll_status(&context, view(response))).await;
        let kept = KeptAnswer::of(response, answer.failure.as_ref());
        // A success with `Retry-After` says when its result may be there (RFC 9110, 10.2.3).
        let asked = asked_pause(&response.headers, answer.ended_at);
        let not_before = asked.map(|wait| answer.ended_at + wait).max(answer.not_before);
        self.poll_is(at, row, status, (&kept, answer.ended_at, not_before), progress)
    }

    /// What a status of the result means for the row; none: it is there. `seen` is the answer, when it came, and when the next
    /// look may be made where it asks for that.
    pub(super) fn poll_is(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        status: PollStatus,
        seen: (&KeptAnswer, Timestamp, Option<Timestamp>),
        progress: &mut Progress,
    ) -> Option<Settled> {
        let (answer, ended_at, not_before) = seen;
        progress.not_throttled();
        self.count_look(at, status, ended_at);
        match status {
            PollStatus::Ready => None,
            PollStatus::Failed => Some(self.poll_failed(at, row, answer, progress)),
            PollStatus::Waiting => Some(match at.look {
                Some(kept) => {
                    let answer = as_seen(answer.view(), &self.secret_values(at, &answer.signature));
                    let kept = KeptPoll { answer: Some(Box::new(answer)), ..kept.clone() };
                    self.look_again(at, row, kept, (ended_at, not_before), None, progress)
                }
                None => self.begin_poll(at, row, answer, (ended_at, not_before), progress),
            }),
        }
    }

    fn count_look(&self, at: StepAt<'_>, status: PollStatus, ended_at: Timestamp) {
        let (Some(kept), Some(metrics)) = (at.look, self.metrics) else { return };
        metrics.of(&self.work.pipeline.name, |counts| {
            counts.looks[worker_counters::look(status)] += 1;
            if let Some(since) = kept.since.filter(|_| status == PollStatus::Ready) {
                counts.results.took(ended_at.since(since));
            }
        });
    }

    /// A look failed in a way that may pass: it is made again after the pause, and no attempt is counted.
    pub(super) fn look_failed(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        kept: &KeptPoll,
        problem: Problem,
        progress: &mut Progress,
    ) -> Settled {
        if let Some(metrics) = self.metrics {
            let name = &self.work.pipeline.name;
            metrics.of(name, |counts| counts.looks[worker_counters::LOOK_ERROR] += 1);
        }
        let times = (self.services.clock.now(), problem.not_before);
        let answer = problem.sent.as_ref().and_then(|sent| sent.answer.clone()).map(Box::new);
        let kept = KeptPoll { answer, ..kept.clone() };
        let failure = self.uncounted(at, problem, progress);
        self.look_again(at, row, kept, times, Some(failure), progress)
    }

    fn look_again(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        kept: KeptPoll,
        (now, not_before): (Timestamp, Option<Timestamp>),
        failure: Option<RowFailure>,
        progress: &mut Progress,
    ) -> Settled {
        let looks = kept.looks.saturating_add(1);
        let next = self.next_look(at, looks, now, not_before);
        self.wait_for_look(at, row, KeptPoll { looks, next, ..kept }, failure, progress)
    }

    /// The request was answered, and its result is not there yet.
    fn begin_poll(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        answer: &KeptAnswer,
        (now, not_before): (Timestamp, Option<Timestamp>),
        progress: &mut Progress,
    ) -> Settled {
        let context = self.context(row, progress);
        let target = at.step.look_target(&context, answer.view());
        let fault = match &target {
            Ok(target) => target.as_ref().and_then(|target| forbidden(at.step, target, self.dependency(at))),
            Err(error) => Some((code::BAD_RESPONSE, error.to_string())),
        };
        if let Some((code, message)) = fault {
            let secrets = self.secret_values(at, &answer.signature);
            let problem = Problem {
                http_status: Some(answer.status),
                detail: shorten(&answer.body, &secrets),
                sent: self.exchange(at, row, Some(answer.view()), progress, &secrets),
                answer: Some(answer.clone()),
                ..Problem::new(code, message)
            };
            return self.failed(at, problem, progress);
        }
        let target = target.ok().flatten().as_ref().map(Target::to_kept);
        let next = self.next_look(at, 0, now, not_before);
        let clock = Some(progress.first_claimed_at);
        let answer = Some(Box::new(as_seen(answer.view(), &self.secret_values(at, &answer.signature))));
        let kept = KeptPoll { target, since: Some(now), looks: 0, next, answer, clock };
        self.wait_for_look(at, row, kept, None, progress)
    }

    fn next_look(
        &self,
        at: StepAt<'_>,
        looks: u32,
        now: Timestamp,
        not_before: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let next = now + at.step.poll.as_ref()?.pause(looks);
        Some(not_before.map_or(next, |wanted| wanted.max(next)))
    }

    /// The row is in SQL until its next look, or fails when there is no time for one.
    pub(super) fn wait_for_look(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        kept: KeptPoll,
        failure: Option<RowFailure>,
        progress: &mut Progress,
    ) -> Settled {
        let now = self.services.clock.now();
        let at = StepAt { look: Some(&kept), ..at };
        let end = poll_ends(at, progress);
        if end.is_some_and(|end| now >= end) {
            return self.poll_timed_out(at, row, progress);
        }
        progress.polling = true;
        let next = kept.next.unwrap_or(now);
        let mut receipts = std::mem::take(&mut progress.receipts);
        receipts.extend(at.stored_index().map(|step| self.receipt(step, &kept.to_json())));
        Settled::Requeued {
            not_before: end.map_or(next, |end| next.min(end)),
            attempt: false,
            trouble: failure,
            receipts,
            expires: progress.expiry(&self.work.pipeline.retry, &at.step.name),
            hold: None,
            polling: true,
        }
    }

    /// The last look and its answer are kept with the row; of a row without a look, the request.
    pub(super) fn poll_timed_out(&self, at: StepAt<'_>, row: &RowValues, progress: &mut Progress) -> Settled {
        let looks = at.look.map_or(0, |kept| kept.looks);
        let times = if looks == 1 { "1 look".to_owned() } else { format!("{looks} looks") };
        let sentence = outcome::sentence(code::POLL_TIMEOUT);
        let last = progress.last(&at.step.name);
        let sent_at = StepAt { look: at.look.filter(|kept| kept.looks > 0), ..at };
        let sent = self.exchange(sent_at, row, None, progress, &self.secret_values(at, &[]));
        let answer = at.look.and_then(|kept| kept.answer.as_deref().cloned());
        let words = last.map_or(String::new(), |last| format!("; the last that failed: {}", last.message));
        let problem = Problem {
            http_status: last.and_then(|last| last.http_status),
            detail: last.and_then(|last| last.detail.clone()),
            sent: sent.map(|sent| Box::new(Exchange { answer, ..*sent })),
            ..Problem::new(
                code::POLL_TIMEOUT,
                format!("step `{}`: {sentence}, after {times}{words}", at.step.name),
            )
        };
        self.failed(at, problem, progress)
    }

    /// There will be no result: a retry calls the step anew.
    fn poll_failed(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        answer: &KeptAnswer,
        progress: &mut Progress,
    ) -> Settled {
        let own_error = at.step.api_error(&self.context(row, progress), answer.view());
        let secrets = self.secret_values(at, &answer.signature);
        let sentence = || format!("step `{}`: {}", at.step.name, outcome::sentence(code::POLL_FAILED));
        let problem = Problem {
            api_code: own_error.code,
            http_status: Some(answer.status),
            detail: shorten(&answer.body, &secrets),
            sent: self.exchange(at, row, Some(answer.view()), progress, &secrets),
            ..Problem::new(code::POLL_FAILED, own_error.message.unwrap_or_else(sentence))
        };
        let mut settled = self.failed(at, problem.masked(&secrets), progress);
        if let (Settled::Failed(failure), Some(step)) = (&mut settled, at.stored_index()) {
            failure.receipts.push(self.receipt(step, &Kept::nothing()));
        }
        settled
    }
}

/// When the result is given up.
pub(super) fn poll_ends(at: StepAt<'_>, progress: &Progress) -> Option<Timestamp> {
    at.look?.ends_at(at.step.poll.as_ref()?.timeout, progress.first_claimed_at)
}
