//! Whether a failed row may have had an effect at an API that it would have a second time, if it were uploaded again.
//!
//! A retry goes on with the receipts of finished steps and with the same idempotency keys. A new upload calls every step. A line
//! of a report whose values are as they were keeps its keys then, so that an effect under a key is not repeated. A row that may have
//! had one without a key is not offered for another upload.
//!
//! Steps that are harmless to repeat are left out of it: GET, HEAD, PUT, DELETE and `idempotent: true`. A finished step counts
//! when its definition shows that a second time is worse: it has an idempotency key, or `idempotent: false`. A step that failed
//! counts as soon as one of its tries may have been carried out: its result is waited for, or nobody knows. A worker that died while it held the row is such a try.

use crate::outcome::{Repetition, code};
use crate::pipeline::Step;

/// What is known of a failed row.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Its error's code.
    pub code: &'a str,
    /// The place of the step that failed; none when none did: no step was reached, or all of them were done.
    pub step: Option<usize>,
    /// The codes of its tries at that step that failed, the last one included.
    pub tries: &'a [&'a str],
    /// Whether that step's request was answered, and its result waited for: whatever became of that, it may have been carried out.
    pub answered: bool,
    /// Whether a worker died while it held the row, after the last try that is known. That is a try of which nobody knows what
    /// came of it, nor at which step it was.
    pub crashed: bool,
}

/// The effect that a row may have had, and that another upload of it would repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// None that a second time would matter for.
    None,
    /// One under an idempotency key: it is not repeated where the key is the same.
    Keyed,
    /// One without a key.
    Unkeyed,
}

impl Effect {
    /// As it is written.
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Keyed => 1,
            Self::Unkeyed => 2,
        }
    }

    /// Reads [`Effect::code`].
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Keyed),
            2 => Some(Self::Unkeyed),
            _ => None,
        }
    }

    /// That of calls of a step.
    fn of(step: &Step) -> Self {
        match (step.keyed, &step.bulk) {
            (true, None) => Self::Keyed,
            // A bulk call's key is that of its rows together: another upload has another one.
            (true, Some(_)) if step.item_repetition() == Repetition::Harmless => Self::None,
            _ => Self::Unkeyed,
        }
    }

    /// The worst that those of the steps may have had.
    fn of_any<'a>(steps: impl Iterator<Item = &'a Step>) -> Self {
        steps.map(Self::of).max().unwrap_or(Self::None)
    }
}

/// The effect that a row may have had of which nobody knows how far it came.
pub fn of_all(steps: &[Step]) -> Effect {
    Effect::of_any(steps.iter().filter(|step| creates(step) || !is_harmless(step)))
}

/// The effect that a failed row may have had and that another upload of it would repeat.
pub fn of_failed(steps: &[Step], failure: &Failure<'_>) -> Effect {
    // At the step that failed, or after it: of those before there are receipts.
    let from = failure.step.unwrap_or(0);
    let unharmful = steps.iter().skip(from).filter(|step| failure.crashed && !is_harmless(step));
    Effect::of_any(unharmful).max(of_tries(steps, failure))
}

/// The same of the tries that are known.
fn of_tries(steps: &[Step], failure: &Failure<'_>) -> Effect {
    let Some(at) = failure.step else {
        return match failure.code {
            // Nothing of it was carried out, or it cannot be uploaded again: its cells are gone.
            code::NOT_STORED | code::UNREADABLE | code::DUPLICATE => Effect::None,
            // The program failed, or its worker died, anywhere on the row's way.
            code::INTERNAL_ERROR | code::WORKER_CRASHED => of_all(steps),
            // Its time was over while it waited, for the result of a request perhaps.
            code::DEADLINE_EXCEEDED => Effect::of_any(
                steps.iter().filter(|step| creates(step) || (step.poll.is_some() && !is_harmless(step))),
            ),
            // All steps are done, and the result could not be made.
            _ => Effect::of_any(steps.iter().filter(|step| creates(step))),
        };
    };
    // Nobody knows which step it was.
    let Some(step) = steps.get(at) else { return Effect::Unkeyed };
    let mut tried = failure.tries.iter().chain(std::iter::once(&failure.code));
    let may_be = !is_harmless(step) && (failure.answered || tried.any(|code| may_be_done(code, step.keyed)));
    let done = Effect::of_any(steps.iter().take(at).filter(|step| creates(step)));
    done.max(if may_be { Effect::of(step) } else { Effect::None })
}

/// Whether the definition shows that a second call is worse than none.
fn creates(step: &Step) -> bool {
    step.keyed || step.repetition() == Repetition::Harmful
}

/// Whether a second call does no harm, whatever key it has.
fn is_harmless(step: &Step) -> bool {
    !step.keyed && step.repetition() == Repetition::Harmless
}

/// Whether a try that ended so may have been carried out.
fn may_be_done(code: &str, keyed: bool) -> bool {
    match code {
        code::OUTCOME_UNKNOWN
        | code::TIMEOUT
        | code::CONNECTION_LOST
        | code::BAD_RESPONSE
        | code::WORKER_CRASHED
        | code::INTERNAL_ERROR => true,
        // 503 says that nothing was done. Of other 5xx nobody knows; without a key the call is repeated after them anyway.
        _ => keyed && code != "http_503" && code.starts_with("http_5"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;

    /// A lookup, a POST of which nothing is said, a keyed one, one that must not be repeated, and one that may.
    fn steps() -> Vec<Step> {
        let text = "name: p\ncsv: { columns: [ { name: a } ] }\ndependencies: { d: { base_url: \"http://d.example\" } }\n\
            steps:\n\
            - { name: get, dependency: d, request: { method: GET, path: /a } }\n\
            - { name: post, dependency: d, request: { method: POST, path: /a } }\n\
            - { name: keyed, dependency: d, request: { method: POST, path: /a, idempotency_key: true } }\n\
            - { name: once, dependency: d, request: { method: POST, path: /a, idempotent: false } }\n\
            - { name: harmless, dependency: d, request: { method: POST, path: /a, idempotent: true } }\n";
        Pipeline::load("p.yaml", text, &|_| None).unwrap().steps
    }

    #[test]
    fn what_may_have_been_done_is_not_offered_again() {
        let steps = steps();
        let judged = |step: Option<usize>, tries: &[&str]| {
            let code = tries.last().copied().unwrap_or_default();
            of_failed(&steps, &Failure { code, step, tries, answered: false, crashed: false })
        };
        let looked = |step: usize, code: &str| {
            of_failed(
                &steps,
                &Failure { code, step: Some(step), tries: &[code], answered: true, crashed: false },
            )
        };
        assert_eq!(looked(0, "poll_timeout"), Effect::None);
        assert_eq!(looked(1, "http_404"), Effect::Unkeyed, "the POST was answered");
        assert_eq!(looked(2, "throttled"), Effect::Keyed);
        assert_eq!(looked(3, "http_401"), Effect::Unkeyed);
        assert_eq!(looked(4, "deadline_exceeded"), Effect::Unkeyed, "by the step before");
        for (step, tries, repeated) in [
            // A lookup changes nothing.
            (Some(0), &["timeout"][..], Effect::None),
            (Some(0), &["http_500"], Effect::None),
            // A POST of which nothing is said.
            (Some(1), &["http_422"], Effect::None),
            (Some(1), &["http_500"], Effect::None),
            (Some(1), &["connect_failed"], Effect::None),
            (Some(1), &["outcome_unknown"], Effect::Unkeyed),
            (Some(1), &["bad_response"], Effect::Unkeyed),
            // A keyed one: the next upload has another key.
            (Some(2), &["http_422"], Effect::None),
            (Some(2), &["http_503", "http_503"], Effect::None),
            (Some(2), &["template_error"], Effect::None),
            (Some(2), &["not_processed", "connect_failed"], Effect::None),
            (Some(2), &["timeout"], Effect::Keyed),
            (Some(2), &["connection_lost", "http_409"], Effect::Keyed),
            (Some(2), &["http_502", "deadline_exceeded"], Effect::Keyed),
            (Some(2), &["bad_response"], Effect::Keyed),
            // After it: it is done.
            (Some(3), &["http_422"], Effect::Keyed),
            (Some(4), &["http_422"], Effect::Unkeyed),
            (None, &["template_error"], Effect::Unkeyed),
            (None, &["internal_error"], Effect::Unkeyed),
            (None, &["not_stored"], Effect::None),
            (None, &["unreadable"], Effect::None),
            (None, &["duplicate"], Effect::None),
            (Some(9), &["http_422"], Effect::Unkeyed),
            // A death of the worker is a try of which nobody knows what came of it.
            (Some(0), &["worker_crashed", "http_422"], Effect::None),
            (Some(1), &["worker_crashed", "http_422"], Effect::Unkeyed),
            (Some(2), &["worker_crashed", "http_422"], Effect::Keyed),
            (None, &["worker_crashed"], Effect::Unkeyed),
        ] {
            assert_eq!(judged(step, tries), repeated, "{step:?} {tries:?}");
        }
        let polls = "name: p\ncsv: { columns: [ { name: a } ] }\ndependencies: { d: { base_url: \"http://d.example\" } }\n\
            steps: [ { name: s, dependency: d, request: { method: POST, path: /a }, poll: { until: \"{{ body.done }}\", path: /a } } ]\n";
        let polls = Pipeline::load("p.yaml", polls, &|_| None).unwrap().steps;
        let overdue = |steps: &[Step]| {
            let code = "deadline_exceeded";
            of_failed(steps, &Failure { code, step: None, tries: &[], answered: false, crashed: false })
        };
        assert_eq!(overdue(&polls), Effect::Unkeyed, "its time may have been over between two looks");
        assert_eq!(overdue(&steps[..2]), Effect::None);
        let twice = |steps: &[Step], step, code| {
            of_failed(steps, &Failure { code, step, tries: &[], answered: false, crashed: false })
                != Effect::None
        };
        assert!(!twice(&steps[..2], None, "template_error"), "nothing is said of the POST");
        assert!(twice(&steps[..2], None, "internal_error"));
        assert!(!twice(&steps[..1], None, "internal_error"));
        assert!(twice(&steps[3..], Some(0), "outcome_unknown"));
        assert!(twice(&steps[3..], Some(1), "http_422"));
        assert!(!twice(&steps[4..], Some(0), "timeout"));
        assert!(twice(&steps[..2], None, "worker_crashed"), "the POST may have been carried out");
        assert!(!twice(&steps[..1], None, "worker_crashed"));
        let crashed = |steps: &[Step], step, code| {
            of_failed(steps, &Failure { code, step, tries: &[], answered: false, crashed: true })
                != Effect::None
        };
        assert!(crashed(&steps[..2], Some(0), "deadline_exceeded"), "it may have been at the POST");
        assert!(crashed(&steps[..2], None, "deadline_exceeded"));
        assert!(!crashed(&steps[..1], Some(0), "deadline_exceeded"));
    }
}
