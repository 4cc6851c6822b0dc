//! The call of a step: wait until the lease covers it, wait for its permit, send the request.

use std::time::Duration;

use penstock_domain::outcome::{Repetition, Verdict};
use penstock_domain::pipeline::definition::Method;
use penstock_domain::pipeline::{Dependency, RenderedRequest, RowValues, clean_code};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Called, Demand, Note, Rules, Spend};
use penstock_store::work::{RowFailure, Settled};
use tracing::field::Empty;
use tracing::{Instrument as _, Level, Span};

use crate::telemetry::traces::ROW_LINES;
use crate::worker::observe::StepSeen;
use crate::worker::progress::Progress;
use crate::worker::row::answer::{Answer, NotMade};
use crate::worker::row::problem::Problem;
use crate::worker::row::settlement::{failure_of, requeued};
use crate::worker::row::task::{RowTask, StepAt};

/// What came of waiting for a permit and calling.
pub(super) enum CallResult {
    /// The call was made, or can never be made.
    Answered(Box<Answer>),
    /// The call may not be made now.
    NotMade(Settled),
    /// Somebody else has the row by now.
    LeaseLost,
}

impl RowTask<'_> {
    /// The dependency that a step calls, with its present limits.
    pub(super) fn dependency(&self, at: StepAt<'_>) -> &Dependency {
        &self.work.dependencies[at.step.dependency]
    }

    /// How long its call may take: as the step says, else as the dependency does today.
    pub(super) fn timeout(&self, at: StepAt<'_>) -> Duration {
        at.step.timeout.unwrap_or(self.dependency(at).timeout)
    }

    /// Calls the step when the row's lease covers the call and its permit has come.
    pub(super) async fn call(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        request: RenderedRequest,
        spend: Spend,
        progress: &mut Progress,
    ) -> CallResult {
        let timeout = self.timeout(at);
        let span = self.call_span(at, &request);
        let intent = self.intent(at, progress);
        let demand = Demand {
            note: intent.as_ref().map(|intent| intent as &dyn Note),
            ..self.demand(at, row, spend, progress, &span)
        };
        self.lease.covered(timeout, self.draining).await;
        if self.lease.is_lost() {
            return CallResult::LeaseLost;
        }
        if at.step.keyed {
            self.lease.keyed_call();
        }
        let covered = || self.lease.covers(timeout) && !self.is_held(progress);
        let sent = (request.method, self.work.secret_values.masked(request.target.path()));
        let called =
            self.caller.call(&demand, request, &covered, self.limited).instrument(span.clone()).await;
        match self.observed(at, called, &sent, &span) {
            Ok(answer) => {
                progress.called = Some((at.step.name.clone(), answer.ended_at.since(answer.left_at)));
                CallResult::Answered(Box::new(answer))
            }
            Err(not_made) => CallResult::NotMade(self.not_made(at, not_made, progress)),
        }
    }

    /// The answer of a call that was made, as it is observed; or why it was not made.
    pub(super) fn observed(
        &self,
        at: StepAt<'_>,
        called: Called,
        (method, path): &(Method, String),
        span: &Span,
    ) -> Result<Answer, NotMade> {
        let now = self.services.clock.now();
        let (verdict, response, failure, not_before, elapsed, probe, alone) = match called {
            Called::Waits { until, reason, refused_for } => {
                return Err(NotMade::Waits { until, reason, refused_for });
            }
            Called::Refused(refusal) => return Err(NotMade::Refused(refusal)),
            Called::NotCovered => return Err(NotMade::NotNow),
            Called::Answered { verdict, response, failure, not_before, elapsed, probe, alone } => {
                (verdict, response, failure, not_before, elapsed, probe, alone)
            }
        };
        let status = response.as_ref().map(|response| response.status);
        record(span, status, &verdict);
        self.observer.step(&StepSeen {
            step: &at.step.name,
            method: method.as_str(),
            path_template: &at.step.path_template,
            path,
            status,
            failure: failure.as_ref(),
            verdict: &verdict,
            elapsed,
        });
        let (ended_at, left_at, item) = (now, now - elapsed, false);
        Ok(Answer { ended_at, left_at, verdict, response, failure, not_before, probe, alone, item })
    }

    /// The call of a step was not made: the row is requeued, fails, or holds its batch.
    pub(super) fn not_made(&self, at: StepAt<'_>, not_made: NotMade, progress: &mut Progress) -> Settled {
        let now = self.services.clock.now();
        match not_made {
            NotMade::Waits { until, reason, refused_for } => {
                let retry = &self.work.pipeline.retry;
                if progress.is_given_up(retry, refused_for, now) {
                    let problem = Problem::given_up(at.step, progress.last(&at.step.name), refused_for);
                    return self.failed(at, problem, progress);
                }
                let failure = RowFailure { step: at.stored_index(), ..failure_of(reason.code()) };
                self.not_called(at, until, Some(failure), progress)
            }
            NotMade::Refused(refusal) => {
                let problem = Problem {
                    api_code: clean_code(&refusal.code),
                    http_status: Some(refusal.status),
                    ..Problem::new(&format!("http_{}", refusal.status), refusal.reason)
                };
                self.held(at, problem.masked(&self.secret_values(at, &[])), progress)
            }
            // The heartbeat is late, the database did not record the intent, or the batch is held: the row is requeued, unless
            // somebody else has it by now.
            NotMade::NotNow => self.not_called(at, now, None, progress),
            NotMade::NotAlone(until) => self.not_called(at, until, None, progress),
        }
    }

    /// None where nobody sees it: without an exporter it is only for the log's lines about single calls.
    pub(super) fn call_span(&self, at: StepAt<'_>, request: &RenderedRequest) -> Span {
        if !self.services.traces.are_exported() && !tracing::enabled!(target: ROW_LINES, Level::DEBUG) {
            return Span::none();
        }
        tracing::info_span!(
            "call",
            otel.kind = "client",
            step = at.step.name,
            dependency = self.dependency(at).name,
            http.request.method = request.method.as_str(),
            http.response.status_code = Empty,
            error.type = Empty,
        )
    }

    /// What the step asks of its dependency.
    pub(super) fn demand<'a>(
        &'a self,
        at: StepAt<'a>,
        row: &'a RowValues,
        spend: Spend,
        progress: &'a Progress,
        span: &Span,
    ) -> Demand<'a> {
        let step = at.step;
        // A look is a GET of its own: it has no key, and repeating it is harmless.
        let keyed = step.keyed && at.look.is_none();
        let row = self.context(row, progress);
        // What the last answer says counts.
        let is_last = u32::from(progress.attempts) + 1 >= self.work.pipeline.retry.attempts;
        Demand {
            dependency: self.dependency(at),
            owner: &self.work.owner_name,
            spend,
            timeout: self.timeout(at),
            answer: step.answer,
            repetition: if at.look.is_some() { Repetition::Harmless } else { step.repetition() },
            reads_body: step.reads_body,
            rules: Some(Rules { step, row }),
            unanswered_before: keyed && !is_last && progress.had_no_answer(&step.name),
            traceparent: self.services.traces.traceparent(span, self.trace.id),
            past: progress.past(&step.name),
            note: None,
        }
    }

    /// The row is requeued without having called the step.
    pub(super) fn not_called(
        &self,
        at: StepAt<'_>,
        until: Timestamp,
        failure: Option<RowFailure>,
        progress: &mut Progress,
    ) -> Settled {
        let expiry = progress.expiry(&self.work.pipeline.retry, &at.step.name);
        requeued(until, false, failure, std::mem::take(&mut progress.receipts), expiry)
    }
}

fn record(span: &Span, status: Option<u16>, verdict: &Verdict) {
    if let Some(status) = status {
        span.record("http.response.status_code", i64::from(status));
    }
    if let Some(code) = verdict.code() {
        span.record("error.type", code);
    }
}
