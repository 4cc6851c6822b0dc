//! One row through its steps: prepare, call, judge, and say what became of it.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::cause::Cause;
use penstock_domain::outcome::{self, Repetition, Verdict};
use penstock_domain::pipeline::{Dependency, ResponseView, RowContext, RowValues, Step};
use penstock_domain::retry::{self, Failed, Next};
use penstock_domain::row::{AttemptRecord, Receipt, RowError, Throttled};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Called, Caller, Demand, Failure, Note, Response, aside};
use penstock_store::work::{ClaimedRow, Expiry, RowFailure, Settled};
use serde_json::{Map, Value};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::context::secrets::SecretLocation;
use crate::context::services::Services;
use crate::crash;
use crate::telemetry::traces::RowTrace;
use crate::worker::batches::BatchWork;
use crate::worker::intent_log::IntentLog;
use crate::worker::kept_answers;
use crate::worker::kept_answers::KeptAnswer;
use crate::worker::leases::RowLease;
use crate::worker::observe::{Observer, StepSeen};
use crate::worker::open;
use crate::worker::progress::Progress;

/// A row that cannot run here waits so long before it is tried again.
const ELSEWHERE: Duration = Duration::from_secs(30);

/// At most so many characters of an answer are kept as an error's detail.
const DETAIL_CHARS: usize = 2000;

/// At most so many characters of a text that an answer consists of stand in an error's sentence.
const WORDS_CHARS: usize = 300;

/// What a row's task works with.
pub struct RowTask<'a> {
    /// The services.
    pub services: &'a Services,
    /// Calls and their limits.
    pub caller: &'a Caller,
    /// The row's batch.
    pub work: &'a BatchWork,
    /// Its lease.
    pub lease: &'a RowLease,
    /// Its span.
    pub trace: &'a RowTrace,
    /// Where calls are noted that are made at most once.
    pub intent_log: &'a IntentLog,
    /// Hears of each step.
    pub observer: &'a dyn Observer,
    /// Whether the worker is about to stop: the row ends at the next step's border.
    pub draining: &'a (dyn Fn() -> bool + Sync),
    /// Makes a mark that lives as long as the row waits for a limit.
    pub limited: &'a (dyn Fn() -> Box<dyn Send> + Sync),
}

impl RowTask<'_> {
    /// Carries the row on from its first unfinished step. None: the lease was lost and nothing may be written.
    pub async fn run(&self, claimed: ClaimedRow) -> Option<Settled> {
        self.carry(claimed).instrument(self.trace.span.clone()).await
    }

    async fn carry(&self, claimed: ClaimedRow) -> Option<Settled> {
        let number = claimed.row.number;
        let mut progress = Progress::new(&claimed, self.services.clock.now());
        let (row, mut kept) = match open::open(self.work, &claimed) {
            Ok(opened) => {
                progress.opened(&claimed, opened.outputs, opened.error);
                (RowValues::new(&opened.values, self.work.secrets.context()), opened.answer)
            }
            Err(error) if open::is_the_rows_own(&error) => {
                tracing::error!(%error, batch = %self.work.id, row = number, "what is stored of the row cannot be read");
                return Some(self.unreadable(number, progress));
            }
            Err(error) => {
                tracing::error!(%error, "the row cannot be opened here");
                let not_before = self.services.clock.now() + ELSEWHERE;
                let trouble = RowFailure { code: outcome::code::UNREADABLE.into(), ..quiet() };
                let expires = progress.expiry(&self.work.pipeline.retry, "");
                return Some(requeued(not_before, false, Some(trouble), Vec::new(), expires));
            }
        };
        let done = progress.outputs.len();
        let pipeline = &self.work.pipeline;
        if claimed.crashes > 0
            && let Some(next) = pipeline.steps.get(done)
        {
            progress.crashed_at(&next.name, self.services.clock.now());
        }
        for (index, step) in pipeline.steps.iter().enumerate().skip(done) {
            if index > done {
                crash::point(crash::BETWEEN_STEPS);
            }
            let now = self.services.clock.now();
            let expiry = progress.expiry(&pipeline.retry, &step.name);
            if (self.draining)() {
                return Some(requeued(now, false, None, progress.receipts, expiry));
            }
            if let Some(expiry) = expiry.filter(|expiry| now >= expiry.at) {
                let problem = Problem::run_out(expiry.code, progress.last(&step.name));
                return Some(self.failed(number, index, step, problem, progress));
            }
            if let Some(answer) = kept.take() {
                match self.kept(number, index, step, answer, &row, &mut progress) {
                    ReadAgain::Done => continue,
                    ReadAgain::Failed(settled) => return Some(settled),
                    ReadAgain::Call => {}
                }
            }
            if let Some(settled) = self.step(number, index, step, &row, &mut progress).await? {
                return Some(settled);
            }
        }
        Some(self.complete(number, &row, progress))
    }

    /// Reads the kept answer of a step again.
    fn kept(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        answer: KeptAnswer,
        row: &RowValues,
        progress: &mut Progress,
    ) -> ReadAgain {
        let context = RowContext { values: row, steps: &progress.outputs };
        match answer.output(step, &context) {
            Ok(output) => {
                self.remember(number, index, step, output, progress);
                ReadAgain::Done
            }
            Err(_) if kept_answers::is_called_again(step) => ReadAgain::Call,
            Err(message) => {
                let problem = Problem {
                    http_status: Some(answer.status),
                    detail: shorten(&answer.body),
                    ..Problem::new(outcome::code::BAD_RESPONSE, message)
                };
                ReadAgain::Failed(self.failed(number, index, step, problem, std::mem::take(progress)))
            }
        }
    }

    /// One step. `None` inside: it is done, go on.
    async fn step(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Option<Option<Settled>> {
        let dependency = &self.work.dependencies[step.dependency];
        let context = RowContext { values: row, steps: &progress.outputs };
        let request = match step.request(&context) {
            Ok(request) => request,
            Err(error) => {
                let problem = Problem::new(outcome::code::TEMPLATE_ERROR, error.to_string());
                return Some(Some(self.failed(number, index, step, problem, std::mem::take(progress))));
            }
        };
        let span = tracing::info_span!(
            "call",
            otel.kind = "client",
            step = step.name,
            dependency = dependency.name,
            http.request.method = request.method.as_str(),
            http.response.status_code = Empty,
            error.type = Empty,
        );
        let lease = self.lease;
        let note = place(index).filter(|_| step.repetition() == Repetition::Harmful).map(|step| CallNote {
            intent_log: self.intent_log,
            lease,
            step,
            receipts: progress.receipts.clone(),
        });
        let demand = Demand {
            dependency,
            owner: &self.work.owner_name,
            cost: step.cost,
            idempotency_key: step.keyed.then(|| outcome::idempotency_key(self.work.id, number, &step.name)),
            repetition: step.repetition(),
            reads_body: step.reads_body,
            unanswered_before: step.keyed && progress.had_no_answer(&step.name),
            traceparent: self.services.traces.traceparent(&span, self.trace.id),
            past: progress.past(&step.name),
            note: note.as_ref().map(|note| note as &dyn Note),
        };
        let clock = &self.services.clock;
        let expiry = progress.expiry(&self.work.pipeline.retry, &step.name);
        lease.covered(dependency.timeout, self.draining).await;
        if lease.is_lost() {
            return None;
        }
        let covered = || lease.covers(dependency.timeout);
        let method = request.method;
        let path = request.path.clone();
        let called =
            self.caller.call(&demand, request, &covered, self.limited).instrument(span.clone()).await;
        let now = clock.now();
        let (verdict, response, failure, not_before, probe, alone) = match called {
            Called::Waits { refused_for, .. }
                if progress.is_given_up(&self.work.pipeline.retry, refused_for, now) =>
            {
                let problem = given_up(step, progress.last(&step.name), refused_for);
                return Some(Some(self.failed(number, index, step, problem, std::mem::take(progress))));
            }
            Called::Waits { until, reason, .. } => {
                let trouble = RowFailure { code: reason.code().into(), step: place(index), ..quiet() };
                let receipts = std::mem::take(&mut progress.receipts);
                return Some(Some(requeued(until, false, Some(trouble), receipts, expiry)));
            }
            // No heartbeat was taken for a while, or the database took no note of the call: the row goes back, unless somebody else has it by now.
            Called::NotCovered => {
                let receipts = std::mem::take(&mut progress.receipts);
                return Some(Some(requeued(now, false, None, receipts, expiry)));
            }
            Called::Answered { verdict, response, failure, not_before, elapsed, probe, alone } => {
                if let Some(response) = &response {
                    span.record("http.response.status_code", i64::from(response.status));
                }
                if let Some(code) = verdict.code() {
                    span.record("error.type", code);
                }
                self.observer.step(&StepSeen {
                    step: &step.name,
                    method: method.as_str(),
                    path_template: &step.path_template,
                    path: &path,
                    status: response.as_ref().map(|response| response.status),
                    failure: failure.as_ref(),
                    verdict: &verdict,
                    elapsed,
                });
                (verdict, response, failure, not_before, probe, alone)
            }
        };
        let status = response.as_ref().map(|response| response.status);
        let detail = |response: &Response| shorten(&response.body);
        // A success that cannot be read had its effect all the same.
        let read = verdict.code() == Some(outcome::code::BAD_RESPONSE);
        let answer = response.as_ref().filter(|_| read && !kept_answers::is_called_again(step));
        let answer = answer.map(|response| KeptAnswer::of(response, failure.as_ref()));
        match verdict {
            Verdict::Success => {
                let response = response?;
                let view = ResponseView {
                    status: response.status,
                    headers: &response.headers,
                    body: &response.body,
                };
                match aside(response.bytes, || step.output(&context, view)).await {
                    Ok(output) => {
                        self.remember(number, index, step, output, progress);
                        Some(None)
                    }
                    Err(error) => {
                        let problem = Problem {
                            code: outcome::code::BAD_RESPONSE.into(),
                            message: unusable(step, &response, failure.as_ref(), &error.to_string()),
                            http_status: status,
                            detail: detail(&response),
                            not_before: None,
                            answer: Some(KeptAnswer::of(&response, failure.as_ref())),
                        };
                        Some(Some(self.failed(number, index, step, problem, std::mem::take(progress))))
                    }
                }
            }
            Verdict::Throttled { until } => {
                let series = progress.throttled(&step.name, now, alone);
                let code = outcome::code::THROTTLED;
                let problem = Problem {
                    message: throttled_message(step, response.as_ref(), &series),
                    http_status: status,
                    detail: response.as_ref().and_then(detail),
                    not_before: Some(retry::throttled_until(&series, now, until)),
                    ..Problem::new(code, "")
                };
                Some(Some(self.throttled(number, index, step, problem, std::mem::take(progress))))
            }
            Verdict::Retry { code } => {
                progress.not_throttled();
                let problem = Problem {
                    message: message(&code, step, dependency, response.as_ref(), failure.as_ref()),
                    code,
                    http_status: status,
                    detail: response.as_ref().and_then(detail),
                    not_before,
                    answer,
                };
                let progress = std::mem::take(progress);
                Some(Some(self.retry_or_fail(number, index, step, problem, progress, probe)))
            }
            Verdict::Unknown { code } | Verdict::Fail { code } => {
                let problem = Problem {
                    message: message(&code, step, dependency, response.as_ref(), failure.as_ref()),
                    code,
                    http_status: status,
                    detail: response.as_ref().and_then(detail),
                    not_before,
                    answer,
                };
                Some(Some(self.failed(number, index, step, problem, std::mem::take(progress))))
            }
        }
    }

    fn remember(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        output: Map<String, Value>,
        progress: &mut Progress,
    ) {
        let output = Value::Object(output);
        let last = index + 1 == self.work.pipeline.steps.len();
        // The last step's output goes straight into the result.
        if !last && let Some(place) = place(index) {
            let receipt = self.receipt(number, place, &output);
            self.lease.finished_step(receipt.clone());
            progress.receipts.push(receipt);
        }
        progress.not_throttled();
        progress.outputs.insert(step.name.clone(), output);
    }

    fn receipt(&self, number: u32, step: u16, output: &Value) -> Receipt {
        Receipt { step, sealed: self.work.secrets.seal_json(SecretLocation::Receipt(number, step), output) }
    }

    /// What the last step gave, of a row that ends although all its steps are done: a retry calls none of them again.
    fn last_receipt(&self, number: u32, outputs: &Map<String, Value>) -> Option<Receipt> {
        let last = self.work.pipeline.steps.len().checked_sub(1)?;
        let output = outputs.get(&self.work.pipeline.steps[last].name)?;
        Some(self.receipt(number, place(last)?, output))
    }

    fn complete(&self, number: u32, row: &RowValues, progress: Progress) -> Settled {
        let context = RowContext { values: row, steps: &progress.outputs };
        match self.work.pipeline.result(&context) {
            Ok(result) if result.is_empty() => Settled::Completed { result: None },
            Ok(result) => Settled::Completed {
                result: Some(
                    self.work.secrets.seal_json(SecretLocation::Result(number), &Value::Object(result)),
                ),
            },
            Err(error) => {
                let problem = Problem::new(outcome::code::TEMPLATE_ERROR, error.to_string());
                let mut receipts = progress.receipts.clone();
                receipts.extend(self.last_receipt(number, &progress.outputs));
                let sealed = self.seal_error(number, None, problem.clone(), progress);
                Settled::Failed(RowFailure {
                    code: problem.code,
                    step: None,
                    http_status: None,
                    error: Some(sealed),
                    receipts,
                })
            }
        }
    }

    fn unreadable(&self, number: u32, progress: Progress) -> Settled {
        let code = outcome::code::UNREADABLE;
        let problem = Problem::new(code, outcome::sentence(code));
        let error = Some(self.seal_error(number, None, problem, progress));
        Settled::Failed(RowFailure { code: code.into(), error, ..quiet() })
    }

    fn retry_or_fail(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        problem: Problem,
        progress: Progress,
        probe: bool,
    ) -> Settled {
        let now = self.services.clock.now();
        let failed = Failed {
            at: now,
            code: &problem.code,
            step: &step.name,
            probe,
            open_for: self.work.dependencies[step.dependency].breaker.open_for,
            attempts: progress.attempts.into(),
            earlier: progress.failures(),
        };
        let next =
            retry::after_failure(&self.work.pipeline.retry, &failed, self.services.id_generator.unit());
        let Next::Again { delay, attempt } = next else {
            return self.failed(number, index, step, problem, progress);
        };
        let backoff_ends = now + delay;
        let not_before = problem.not_before.map_or(backoff_ends, |asked| asked.max(backoff_ends));
        let expires = progress.expiry(&self.work.pipeline.retry, &step.name);
        let receipts = progress.receipts.clone();
        let trouble = RowFailure {
            code: problem.code.clone(),
            step: place(index),
            http_status: problem.http_status,
            error: Some(self.seal_story(number, Some(step), problem, progress, !attempt)),
            receipts: Vec::new(),
        };
        requeued(not_before, attempt, Some(trouble), receipts, expires)
    }

    /// The step is called too often: the row goes back, or fails when that has lasted for too long.
    fn throttled(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        problem: Problem,
        progress: Progress,
    ) -> Settled {
        let now = self.services.clock.now();
        let expiry = progress.expiry(&self.work.pipeline.retry, &step.name);
        let not_before = problem.not_before.unwrap_or(now);
        if expiry.is_some_and(|expiry| expiry.code == problem.code && now >= expiry.at) {
            return self.failed(number, index, step, problem, progress);
        }
        let receipts = progress.receipts.clone();
        let trouble = RowFailure {
            code: problem.code.clone(),
            step: place(index),
            http_status: problem.http_status,
            error: Some(self.seal(number, Some(step), problem, progress)),
            receipts: Vec::new(),
        };
        requeued(not_before, false, Some(trouble), receipts, expiry)
    }

    fn failed(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        problem: Problem,
        progress: Progress,
    ) -> Settled {
        let mut receipts = progress.receipts.clone();
        if let Some((answer, step)) = problem.answer.as_ref().zip(place(index)) {
            receipts.push(self.receipt(number, step, &answer.to_json()));
        }
        Settled::Failed(RowFailure {
            code: problem.code.clone(),
            step: place(index),
            http_status: problem.http_status,
            error: Some(self.seal_error(number, Some(step), problem, progress)),
            receipts,
        })
    }

    fn seal_error(&self, number: u32, step: Option<&Step>, problem: Problem, progress: Progress) -> Vec<u8> {
        self.seal_story(number, step, problem, progress, false)
    }

    fn seal_story(
        &self,
        number: u32,
        step: Option<&Step>,
        problem: Problem,
        progress: Progress,
        probe: bool,
    ) -> Vec<u8> {
        let mut progress = progress;
        progress.push(AttemptRecord {
            at: self.services.clock.now(),
            step: step.map(|step| step.name.clone()),
            code: problem.code.clone(),
            http_status: problem.http_status,
            probe,
        });
        self.seal(number, step, problem, progress)
    }

    fn seal(&self, number: u32, step: Option<&Step>, problem: Problem, progress: Progress) -> Vec<u8> {
        let throttled = step.and_then(|step| progress.series(&step.name));
        let error = RowError {
            code: problem.code,
            step: step.map(|step| step.name.clone()),
            http_status: problem.http_status,
            message: problem.message,
            detail: problem.detail,
            attempts: progress.story,
            throttled,
        };
        self.work.secrets.seal_json(SecretLocation::Error(number), &error)
    }
}

/// Notes in SQL that a row asks for a step, with what the steps before it gave.
struct CallNote<'a> {
    intent_log: &'a IntentLog,
    lease: &'a RowLease,
    step: u16,
    receipts: Vec<Receipt>,
}

#[async_trait]
impl Note for CallNote<'_> {
    async fn write(&self) -> bool {
        self.intent_log.note(self.lease, self.step, &self.receipts).await
    }
}

/// What came of reading a kept answer again.
enum ReadAgain {
    /// The step is done.
    Done,
    /// It still cannot be read, and the step is harmless to repeat.
    Call,
    /// It still cannot be read.
    Failed(Settled),
}

/// What went wrong, before it is sealed.
#[derive(Clone)]
struct Problem {
    code: String,
    message: String,
    http_status: Option<u16>,
    detail: Option<Value>,
    /// Until when the answer asks to wait.
    not_before: Option<Timestamp>,
    /// The answer of a success that could not be read: kept when the row fails.
    answer: Option<KeptAnswer>,
}

impl Problem {
    /// A row's time is over; what its last call of the step came to is part of it.
    fn run_out(code: &str, last: Option<&RowError>) -> Self {
        let Some(last) = last else { return Self::new(code, outcome::sentence(code)) };
        Self {
            http_status: last.http_status,
            detail: last.detail.clone(),
            ..Self::new(code, outcome::run_out(code, &last.message))
        }
    }

    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            http_status: None,
            detail: None,
            not_before: None,
            answer: None,
        }
    }
}

/// What the row's owner is told: the step, the status if there was one, the cause, and what the API says as a text.
fn message(
    code: &str,
    step: &Step,
    dependency: &Dependency,
    response: Option<&Response>,
    failure: Option<&Failure>,
) -> String {
    let Step { name, .. } = step;
    let unknown = code == outcome::code::OUTCOME_UNKNOWN;
    let Some(response) = response else {
        return match failure.map(|failure| failure.sentence.as_str()) {
            Some(cause) if unknown => format!("step `{name}`: {cause}; {}", outcome::sentence(code)),
            Some(cause) => format!("step `{name}`: the call to `{}` failed: {cause}", dependency.name),
            None => format!("step `{name}`: {}", outcome::sentence(code)),
        };
    };
    let status = response.status;
    let words = words(response);
    // An error is an error whatever form its body has.
    let cause = failure.filter(|failure| words.is_empty() || failure.cause != Cause::NotJson);
    let cause = match cause {
        _ if unknown => ", and may have had its effect".to_owned(),
        Some(failure) => format!(", but {}", failure.sentence),
        None => String::new(),
    };
    format!("step `{name}` was answered with HTTP status {status}{cause}{words}")
}

/// What an answer that is no success says as a text, on one line and cut; empty when it is none.
fn words(response: &Response) -> String {
    let Value::String(text) = &response.body else { return String::new() };
    if matches!(response.status, 200..=299) {
        return String::new();
    }
    // As much as can be needed: a text may be as long as a body.
    let start: String = text.chars().take(WORDS_CHARS * 4).collect();
    let words: Vec<&str> =
        start.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(WORDS_CHARS) {
        _ if line.is_empty() => line,
        Some((end, _)) => format!(": {}…", &line[..end]),
        None => format!(": {line}"),
    }
}

/// What the row's owner is told of a success that lacks what the step reads from it.
fn unusable(step: &Step, response: &Response, failure: Option<&Failure>, missing: &str) -> String {
    let Response { status, bytes, .. } = response;
    let cause = failure.map_or(String::new(), |failure| format!("{}: ", failure.sentence));
    format!(
        "step `{}` was answered with HTTP status {status} ({bytes} bytes), but {cause}{missing}",
        step.name
    )
}

/// What the row's owner is told while the step is called too often.
fn throttled_message(step: &Step, response: Option<&Response>, series: &Throttled) -> String {
    let status = response.map_or(String::new(), |answer| format!(" with HTTP status {}", answer.status));
    let words = response.map(words).unwrap_or_default();
    let alone = if series.alone { ", while calls for other rows went through" } else { "" };
    match series.times {
        0 | 1 => format!("step `{}` was answered{status}: it is called too often{words}", step.name),
        times => format!(
            "step `{}` was answered{status}, {times} times in a row since {}{alone}{words}",
            step.name, series.since
        ),
    }
}

/// A row's turn has not come, for the API refuses everything. The last answer that the row had itself is part of it.
fn given_up(step: &Step, last: Option<&RowError>, refused_for: Duration) -> Problem {
    let code = outcome::code::THROTTLED;
    let last = last.filter(|last| last.code == code);
    if last.is_some() {
        return Problem::run_out(code, last);
    }
    let Step { name, .. } = step;
    let seconds = refused_for.as_secs();
    Problem::new(
        code,
        format!(
            "step `{name}` was not called: for {seconds} seconds the API answered each call, of any row, that it is called \
             too often"
        ),
    )
}

pub(crate) fn quiet() -> RowFailure {
    RowFailure { code: String::new(), step: None, http_status: None, error: None, receipts: Vec::new() }
}

fn place(index: usize) -> Option<u16> {
    u16::try_from(index).ok()
}

fn requeued(
    not_before: Timestamp,
    attempt: bool,
    trouble: Option<RowFailure>,
    receipts: Vec<Receipt>,
    expires: Option<Expiry>,
) -> Settled {
    Settled::Requeued { not_before, attempt, trouble, receipts, expires }
}

/// The answer's body, short enough to keep; none when there was none.
fn shorten(body: &Value) -> Option<Value> {
    if body.is_null() {
        return None;
    }
    let mut start = Start(Vec::new());
    if serde_json::to_writer(&mut start, body).is_ok() && start.0.len() <= DETAIL_CHARS {
        return Some(body.clone());
    }
    Some(Value::String(String::from_utf8_lossy(&start.0).chars().take(DETAIL_CHARS).collect()))
}

/// As much of a text as is kept, in bytes: the rest is never written.
struct Start(Vec<u8>);

impl std::io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() > DETAIL_CHARS * 4 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_that_is_a_text_speaks_for_itself() {
        let said = |status, body| {
            let (headers, memory) = Default::default();
            words(&Response { status, headers, body, bytes: 0, memory })
        };
        assert_eq!(said(503, json!(" Down for\r\n\u{7}maintenance ")), ": Down for maintenance");
        for body in [json!(null), json!(" \n"), json!({ "error": "no" })] {
            assert_eq!(said(503, body), "");
        }
        assert_eq!(said(200, json!("<html>")), "", "it was to be JSON");
        let long = said(400, json!("ö".repeat(1_000_000)));
        assert_eq!(long, format!(": {}…", "ö".repeat(WORDS_CHARS)));
    }

    #[test]
    fn a_long_answer_is_cut_without_being_written_out() {
        assert_eq!(shorten(&Value::Null), None);
        assert_eq!(shorten(&json!({ "a": [1, 2] })), Some(json!({ "a": [1, 2] })));
        let long = json!(vec!["ö".repeat(10); 100_000]);
        let kept = shorten(&long).unwrap();
        let expected: String = long.to_string().chars().take(DETAIL_CHARS).collect();
        assert_eq!(kept, Value::String(expected));
    }
}
