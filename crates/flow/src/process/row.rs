//! One row through its steps: prepare, call, judge, and say what became of it.

use std::time::Duration;

use penstock_domain::outcome::{self, Repetition, Verdict};
use penstock_domain::pipeline::{Dependency, ResponseView, RowContext, RowValues, Step};
use penstock_domain::row::{AttemptRecord, Receipt, RowError};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Called, Caller, Demand, Failure, Response};
use penstock_store::work::{ClaimedRow, Settled, Trouble};
use serde_json::{Map, Value};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::crash;
use crate::engines::Engines;
use crate::process::asked::Book;
use crate::process::batches::BatchWork;
use crate::process::leases::RowLease;
use crate::process::observe::{Observer, StepSeen};
use crate::process::open;
use crate::secrets::Place;
use crate::traces::RowTrace;

/// A row that cannot run here waits so long before it is tried again.
const ELSEWHERE: Duration = Duration::from_secs(30);

/// At most so many characters of an answer are kept as an error's detail.
const DETAIL_CHARS: usize = 2000;

/// So often a row may be a breaker's probe and lose no attempt by it. Further probes cost one, so that a row which itself is
/// what the dependency fails at comes to an end.
const FREE_PROBES: usize = 20;

/// What a row's task works with.
pub struct RowTask<'a> {
    /// The engines.
    pub engines: &'a Engines,
    /// Calls and their limits.
    pub caller: &'a Caller,
    /// The row's batch.
    pub work: &'a BatchWork,
    /// Its lease.
    pub lease: &'a RowLease,
    /// Its span.
    pub trace: &'a RowTrace,
    /// Where calls are noted that are made at most once.
    pub book: &'a Book,
    /// Hears of each step.
    pub observer: &'a dyn Observer,
    /// Whether the worker is about to stop: the row ends at the next step's border.
    pub draining: &'a (dyn Fn() -> bool + Sync),
    /// Makes a mark that lives as long as the row waits for a limit.
    pub limited: &'a (dyn Fn() -> Box<dyn Send> + Sync),
}

/// Where a row is in its way through the steps.
struct Progress {
    attempts: u16,
    story: Vec<AttemptRecord>,
    outputs: Map<String, Value>,
    receipts: Vec<Receipt>,
}

impl RowTask<'_> {
    /// Carries the row on from its first unfinished step. None: the lease was lost and nothing may be written.
    pub async fn run(&self, claimed: ClaimedRow) -> Option<Settled> {
        self.carry(claimed).instrument(self.trace.span.clone()).await
    }

    async fn carry(&self, claimed: ClaimedRow) -> Option<Settled> {
        let number = claimed.row.number;
        let mut progress = Progress {
            attempts: claimed.attempts,
            story: Vec::new(),
            outputs: Map::new(),
            receipts: Vec::new(),
        };
        let row = match open::open(self.work, &claimed) {
            Ok(opened) => {
                progress.outputs = opened.outputs;
                progress.story = opened.story;
                RowValues::new(&opened.values, self.work.secrets.context())
            }
            Err(error) if open::is_the_rows_own(&error) => {
                tracing::error!(%error, batch = %self.work.id, row = number, "what is stored of the row cannot be read");
                return Some(self.unreadable(number, progress));
            }
            Err(error) => {
                tracing::error!(%error, "the row cannot be opened here");
                let not_before = self.engines.clock.now() + ELSEWHERE;
                let trouble = Trouble { code: outcome::code::UNREADABLE.into(), ..quiet() };
                return Some(given_back(not_before, false, Some(trouble), Vec::new()));
            }
        };
        let done = progress.outputs.len();
        let pipeline = &self.work.pipeline;
        for (index, step) in pipeline.steps.iter().enumerate().skip(done) {
            if index > done {
                crash::point(crash::BETWEEN_STEPS);
            }
            let now = self.engines.clock.now();
            if (self.draining)() {
                return Some(given_back(now, false, None, progress.receipts));
            }
            if let Some(deadline) = pipeline.retry.deadline
                && claimed.first_claimed_at.is_some_and(|first| now.since(first) > deadline)
            {
                let problem =
                    Problem::new(outcome::code::DEADLINE_EXCEEDED, "the row was not done by its deadline");
                return Some(self.failed(number, index, step, problem, progress));
            }
            if let Some(settled) = self.step(number, index, step, &row, &mut progress).await? {
                return Some(settled);
            }
        }
        Some(self.complete(number, &row, progress))
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
        let demand = Demand {
            dependency,
            owner: &self.work.owner_name,
            cost: step.cost,
            idempotency_key: step.keyed.then(|| outcome::idempotency_key(self.work.id, number, &step.name)),
            repetition: step.repetition(),
            reads_body: step.reads_body,
            unanswered_before: step.keyed && had_no_answer(&progress.story, step),
            traceparent: self.engines.traces.traceparent(&span, self.trace.id),
        };
        let lease = self.lease;
        let clock = &self.engines.clock;
        // Before any limit is asked: the write may take longer than a granted call may be late.
        if step.repetition() == Repetition::Harmful
            && let Some(asked) = place(index)
            && !self.book.note(lease, asked, &progress.receipts).await
        {
            let receipts = std::mem::take(&mut progress.receipts);
            return Some(Some(given_back(clock.now(), false, None, receipts)));
        }
        let covered = || lease.covers(clock.now(), dependency.timeout);
        let method = request.method;
        let path = request.path.clone();
        let called =
            self.caller.call(&demand, request, &covered, self.limited).instrument(span.clone()).await;
        let now = clock.now();
        let (verdict, response, failure, not_before, probe) = match called {
            Called::Waits { until, reason } => {
                let trouble = Trouble { code: reason.code().into(), step: place(index), ..quiet() };
                let receipts = std::mem::take(&mut progress.receipts);
                return Some(Some(Settled::GivenBack {
                    not_before: until,
                    attempt: false,
                    trouble: Some(trouble),
                    receipts,
                }));
            }
            // Too little of the lease is left for a call: the row goes back, unless somebody else has it by now.
            Called::NotCovered => {
                let receipts = std::mem::take(&mut progress.receipts);
                return Some(Some(given_back(now, false, None, receipts)));
            }
            Called::Answered { verdict, response, failure, not_before, elapsed, probe } => {
                if let Some(response) = &response {
                    span.record("http.response.status_code", i64::from(response.status));
                }
                if let Some(code) = verdict.code() {
                    span.record("error.type", code);
                }
                self.observer.step(&StepSeen {
                    step: &step.name,
                    method: method.as_str(),
                    path: &path,
                    status: response.as_ref().map(|response| response.status),
                    verdict: &verdict,
                    elapsed,
                });
                (verdict, response, failure, not_before, probe)
            }
        };
        let status = response.as_ref().map(|response| response.status);
        let detail = response.as_ref().and_then(|response| shorten(&response.body));
        match verdict {
            Verdict::Success => {
                let response = response?;
                let view = ResponseView {
                    status: response.status,
                    headers: &response.headers,
                    body: &response.body,
                };
                match step.output(&context, view) {
                    Ok(output) => {
                        self.remember(number, index, step, output, progress);
                        Some(None)
                    }
                    Err(error) => {
                        let problem = Problem {
                            code: outcome::code::BAD_RESPONSE.into(),
                            message: unusable(step, &response, failure.as_ref(), &error.to_string()),
                            http_status: status,
                            detail,
                            not_before: None,
                        };
                        Some(Some(self.failed(number, index, step, problem, std::mem::take(progress))))
                    }
                }
            }
            Verdict::Throttled { until } => {
                let trouble = Trouble {
                    code: outcome::code::THROTTLED.into(),
                    step: place(index),
                    http_status: status,
                    ..quiet()
                };
                Some(Some(given_back(
                    until.unwrap_or(now),
                    false,
                    Some(trouble),
                    std::mem::take(&mut progress.receipts),
                )))
            }
            Verdict::Retry { code } => {
                let problem = Problem {
                    message: message(&code, step, dependency, status, failure.as_ref()),
                    code,
                    http_status: status,
                    detail,
                    not_before,
                };
                let progress = std::mem::take(progress);
                Some(Some(self.retry_or_fail(number, index, step, problem, progress, probe)))
            }
            Verdict::Unknown { code } | Verdict::Fail { code } => {
                let problem = Problem {
                    message: message(&code, step, dependency, status, failure.as_ref()),
                    code,
                    http_status: status,
                    detail,
                    not_before,
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
            let receipt = Receipt {
                step: place,
                sealed: self.work.secrets.seal_json(Place::Receipt(number, place), &output),
            };
            self.lease.finished_step(receipt.clone());
            progress.receipts.push(receipt);
        }
        progress.outputs.insert(step.name.clone(), output);
    }

    fn complete(&self, number: u32, row: &RowValues, progress: Progress) -> Settled {
        let context = RowContext { values: row, steps: &progress.outputs };
        match self.work.pipeline.result(&context) {
            Ok(result) if result.is_empty() => Settled::Completed { result: None },
            Ok(result) => Settled::Completed {
                result: Some(self.work.secrets.seal_json(Place::Result(number), &Value::Object(result))),
            },
            Err(error) => {
                let problem = Problem::new(outcome::code::TEMPLATE_ERROR, error.to_string());
                let receipts = progress.receipts.clone();
                let sealed = self.seal_error(number, None, problem.clone(), progress);
                Settled::Failed(Trouble {
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
        Settled::Failed(Trouble { code: code.into(), error, ..quiet() })
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
        let retry = &self.work.pipeline.retry;
        let probes = progress.story.iter().filter(|attempt| attempt.probe).count();
        let free = probe && probes < FREE_PROBES;
        let failed = if free { u32::try_from(probes).unwrap_or(u32::MAX) } else { progress.attempts.into() };
        let failed = failed.saturating_add(1);
        if !free && failed >= retry.attempts {
            return self.failed(number, index, step, problem, progress);
        }
        let mut delay = retry.delay(failed, self.engines.chance.unit());
        if free {
            // It found out for all others that the dependency is not well yet: it goes back as they did, and behind them.
            delay += self.work.dependencies[step.dependency].breaker.open_for;
        }
        let backoff_ends = self.engines.clock.now() + delay;
        let not_before = problem.not_before.map_or(backoff_ends, |asked| asked.max(backoff_ends));
        let receipts = progress.receipts.clone();
        let trouble = Trouble {
            code: problem.code.clone(),
            step: place(index),
            http_status: problem.http_status,
            error: Some(self.seal_story(number, Some(step), problem, progress, free)),
            receipts: Vec::new(),
        };
        given_back(not_before, !free, Some(trouble), receipts)
    }

    fn failed(
        &self,
        number: u32,
        index: usize,
        step: &Step,
        problem: Problem,
        progress: Progress,
    ) -> Settled {
        let receipts = progress.receipts.clone();
        Settled::Failed(Trouble {
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
        let mut attempts = progress.story;
        attempts.push(AttemptRecord {
            at: self.engines.clock.now(),
            step: step.map(|step| step.name.clone()),
            code: problem.code.clone(),
            http_status: problem.http_status,
            probe,
        });
        let error = RowError {
            code: problem.code,
            step: step.map(|step| step.name.clone()),
            http_status: problem.http_status,
            message: problem.message,
            detail: problem.detail,
            attempts,
        };
        self.work.secrets.seal_json(Place::Error(number), &error)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self { attempts: 0, story: Vec::new(), outputs: Map::new(), receipts: Vec::new() }
    }
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
}

impl Problem {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            http_status: None,
            detail: None,
            not_before: None,
        }
    }
}

/// What the row's owner is told: the step, the status if there was one, and the cause.
fn message(
    code: &str,
    step: &Step,
    dependency: &Dependency,
    status: Option<u16>,
    failure: Option<&Failure>,
) -> String {
    let Step { name, .. } = step;
    let cause = failure.map(|failure| failure.sentence.as_str());
    let unknown = code == outcome::code::OUTCOME_UNKNOWN;
    match (status, cause) {
        (Some(status), _) if unknown => {
            format!("step `{name}` was answered with HTTP status {status}, and may have had its effect")
        }
        (Some(status), Some(cause)) => {
            format!("step `{name}` was answered with HTTP status {status}, but {cause}")
        }
        (Some(status), None) => format!("step `{name}` was answered with HTTP status {status}"),
        (None, Some(cause)) if unknown => {
            format!("step `{name}`: {cause}; {}", outcome::sentence(code))
        }
        (None, Some(cause)) => format!("step `{name}`: the call to `{}` failed: {cause}", dependency.name),
        (None, None) => format!("step `{name}`: {}", outcome::sentence(code)),
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

/// Whether an earlier try of the step had no answer: with its key it may still be under way.
fn had_no_answer(story: &[AttemptRecord], step: &Step) -> bool {
    story.iter().any(|attempt| {
        attempt.step.as_ref() == Some(&step.name)
            && [outcome::code::TIMEOUT, outcome::code::CONNECTION_LOST].contains(&attempt.code.as_str())
    })
}

pub(super) fn quiet() -> Trouble {
    Trouble { code: String::new(), step: None, http_status: None, error: None, receipts: Vec::new() }
}

fn place(index: usize) -> Option<u16> {
    u16::try_from(index).ok()
}

fn given_back(
    not_before: Timestamp,
    attempt: bool,
    trouble: Option<Trouble>,
    receipts: Vec<Receipt>,
) -> Settled {
    Settled::GivenBack { not_before, attempt, trouble, receipts }
}

/// The answer's body, short enough to keep; none when there was none.
fn shorten(body: &Value) -> Option<Value> {
    if body.is_null() {
        return None;
    }
    let text = body.to_string();
    if text.len() <= DETAIL_CHARS {
        return Some(body.clone());
    }
    Some(Value::String(text.chars().take(DETAIL_CHARS).collect()))
}
