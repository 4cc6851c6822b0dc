//! Whether a failed row may have had an effect at an API that it would have a second time, if it were uploaded again.
//!
//! A retry goes on with the receipts of finished steps and with the same idempotency keys. A new upload has neither: it calls
//! every step, under new keys. So a failed row that created something, or may have, is not offered for another upload.
//!
//! Steps that are harmless to repeat are left out of it: GET, HEAD, PUT, DELETE and `idempotent: true`. A finished step counts
//! when its definition shows that a second time is worse: it has an idempotency key, or `idempotent: false`. A step that failed
//! counts as soon as one of its tries may have been carried out. A worker that died while it held the row is such a try.

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
    /// Whether a worker died while it held the row, after the last try that is known. That is a try of which nobody knows what
    /// came of it, nor at which step it was.
    pub crashed: bool,
}

/// Whether the row may have had an effect that another upload of it would repeat.
pub fn may_be_repeated(steps: &[Step], failure: &Failure<'_>) -> bool {
    // At the step that failed, or after it: of those before there are receipts.
    let from = failure.step.unwrap_or(0);
    if failure.crashed && steps.iter().skip(from).any(|step| !is_harmless(step)) {
        return true;
    }
    let Some(at) = failure.step else {
        return match failure.code {
            // Nothing of it was carried out, or it cannot be uploaded again: its cells are gone.
            code::NOT_STORED | code::UNREADABLE => false,
            // The program failed, or its worker died, anywhere on the row's way.
            code::INTERNAL_ERROR | code::WORKER_CRASHED => {
                steps.iter().any(|step| creates(step) || !is_harmless(step))
            }
            // All steps are done, and the result could not be made.
            _ => steps.iter().any(creates),
        };
    };
    let Some(step) = steps.get(at) else { return true };
    let tried = failure.tries.iter().chain(std::iter::once(&failure.code));
    steps.iter().take(at).any(creates)
        || (!is_harmless(step) && tried.into_iter().any(|code| may_be_done(code, step.keyed)))
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
            may_be_repeated(&steps, &Failure { code, step, tries, crashed: false })
        };
        for (step, tries, repeated) in [
            // A lookup changes nothing.
            (Some(0), &["timeout"][..], false),
            (Some(0), &["http_500"], false),
            // A POST of which nothing is said.
            (Some(1), &["http_422"], false),
            (Some(1), &["http_500"], false),
            (Some(1), &["connect_failed"], false),
            (Some(1), &["outcome_unknown"], true),
            (Some(1), &["bad_response"], true),
            // A keyed one: the next upload has another key.
            (Some(2), &["http_422"], false),
            (Some(2), &["http_503", "http_503"], false),
            (Some(2), &["template_error"], false),
            (Some(2), &["not_processed", "connect_failed"], false),
            (Some(2), &["timeout"], true),
            (Some(2), &["connection_lost", "http_409"], true),
            (Some(2), &["http_502", "deadline_exceeded"], true),
            (Some(2), &["bad_response"], true),
            // After it: it is done.
            (Some(3), &["http_422"], true),
            (Some(4), &["http_422"], true),
            (None, &["template_error"], true),
            (None, &["internal_error"], true),
            (None, &["not_stored"], false),
            (None, &["unreadable"], false),
            (Some(9), &["http_422"], true),
            // A death of the worker is a try of which nobody knows what came of it.
            (Some(0), &["worker_crashed", "http_422"], false),
            (Some(1), &["worker_crashed", "http_422"], true),
            (Some(2), &["worker_crashed", "http_422"], true),
            (None, &["worker_crashed"], true),
        ] {
            assert_eq!(judged(step, tries), repeated, "{step:?} {tries:?}");
        }
        let twice = |steps: &[Step], step, code| {
            may_be_repeated(steps, &Failure { code, step, tries: &[], crashed: false })
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
            may_be_repeated(steps, &Failure { code, step, tries: &[], crashed: true })
        };
        assert!(crashed(&steps[..2], Some(0), "deadline_exceeded"), "it may have been at the POST");
        assert!(crashed(&steps[..2], None, "deadline_exceeded"));
        assert!(!crashed(&steps[..1], Some(0), "deadline_exceeded"));
    }
}
