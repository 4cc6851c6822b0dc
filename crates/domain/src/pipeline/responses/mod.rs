//! `responses`: what a definition says about the answers of an API, and in which words a failed row reports them.
//!
//! `written` is the YAML, `check` makes it ready, `lenient` runs its templates: a path that is not there is undefined, and false.
//! [`words`] finds the code and the message of an error, by the definition's `error` or in the usual shapes.

mod check;
pub(super) mod lenient;
mod words;
pub mod written;

use std::cell::OnceCell;
use std::time::Duration;

use minijinja::Value;

use super::template::Template;
use super::values::{ResponseView, RowContext, Scope};
use crate::ruling::Ruling;

pub(super) use check::{of_dependency, of_step};
use words::ErrorTemplate;
pub use words::{ApiError, MESSAGE_CHARS, clean_code};

/// No answer is waited for longer than this: 31 days.
const LONGEST_WAIT: Duration = Duration::from_secs(31 * 86_400);

/// What a step's `responses` say, those of its dependency included: the step's own keys take precedence one by one.
#[derive(Debug, Default)]
pub struct Responses {
    throttled: Option<When>,
    wait: Option<Template>,
    hold: Option<When>,
    retry: Option<When>,
    fail: Option<When>,
    success: Option<When>,
    error: Option<ErrorTemplate>,
    conditions_read_body: bool,
    error_reads_body: bool,
    reads_whole: bool,
}

/// Which answers a key is about.
#[derive(Debug)]
enum When {
    /// Those with one of these statuses, each a range with both ends included.
    Statuses(Vec<(u16, u16)>),
    /// Those for which this is true.
    Condition(Template),
}

/// What the templates of one answer read. It is made when the first of them runs.
pub(super) struct Answer<'a> {
    row: &'a RowContext<'a>,
    view: ResponseView<'a>,
    reads_body: bool,
    /// The idempotency key of a keyed step.
    key: &'a dyn Fn() -> Option<String>,
    values: OnceCell<Value>,
}

impl<'a> Answer<'a> {
    pub fn new(
        row: &'a RowContext<'a>,
        view: ResponseView<'a>,
        reads_body: bool,
        key: &'a dyn Fn() -> Option<String>,
    ) -> Self {
        Self { row, view, reads_body, key, values: OnceCell::new() }
    }

    fn values(&self) -> &Value {
        self.values.get_or_init(|| {
            let scope = Scope::of(self.row).with_key((self.key)().as_deref());
            scope.with_answer(self.view, self.reads_body).into_value()
        })
    }

    fn is(&self, when: Option<&When>) -> bool {
        match when {
            None => false,
            Some(When::Statuses(ranges)) => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&self.view.status))
            }
            Some(When::Condition(template)) => lenient::is_true(template, self.values()),
        }
    }
}

impl Responses {
    /// Whether a condition reads the answer's body, so that an answer whose body was cut cannot be judged by it.
    pub fn conditions_read_body(&self) -> bool {
        self.conditions_read_body
    }

    /// Whether anything of them reads the complete answer of a bulk call.
    pub(super) fn reads_whole(&self) -> bool {
        self.reads_whole
    }

    /// Whether `error` reads the answer's body.
    pub(super) fn error_reads_body(&self) -> bool {
        self.error_reads_body
    }

    /// See [`Step::ruling`](super::Step::ruling).
    pub(super) fn ruling(&self, answer: &Answer<'_>) -> Option<Ruling> {
        if answer.is(self.throttled.as_ref()) {
            let seconds = self.wait.as_ref().and_then(|wait| lenient::number(wait, answer.values()));
            let wait = seconds.filter(|seconds| *seconds > 0.0).map(|seconds| {
                Duration::try_from_secs_f64(seconds).map_or(LONGEST_WAIT, |wait| wait.min(LONGEST_WAIT))
            });
            return Some(Ruling::Throttled { wait });
        }
        [
            (&self.hold, Ruling::Hold),
            (&self.retry, Ruling::Retry),
            (&self.fail, Ruling::Fail),
            (&self.success, Ruling::Success),
        ]
        .into_iter()
        .find(|(when, _)| answer.is(when.as_ref()))
        .map(|(_, ruling)| ruling)
    }

    /// See [`Step::api_error`](super::Step::api_error).
    pub(super) fn error(&self, answer: &Answer<'_>) -> ApiError {
        let usual = words::usual(answer.view.headers, answer.view.body);
        let Some(error) = &self.error else { return usual };
        let ApiError { code, message } = error.of(answer.values());
        ApiError { code, message: message.or(usual.message) }
    }
}
