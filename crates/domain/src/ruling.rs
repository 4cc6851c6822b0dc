//! The verdict on an answer that a definition's `responses` speak about. Whatever they do not speak about is judged by the table
//! of [`crate::outcome`].
//!
//! | `responses` | verdict |
//! |---|---|
//! | `throttled` | wait, no attempt |
//! | `hold` | the batch is held; the row waits, no attempt |
//! | `retry` | retry, also a call that is made at most once: the definition says that nothing was done |
//! | `fail` | fail |
//! | `success` | as a 2xx |
//!
//! The first of them that is about the answer counts.

use std::time::Duration;

use crate::outcome::{self, Happened, Repetition, Verdict};
use crate::time::Timestamp;

/// What `responses` say about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is called too often.
    Throttled {
        /// For how long nothing is called; none: the answer's headers say so, or nobody does.
        wait: Option<Duration>,
    },
    /// Nothing of the batch is called until somebody looks at it.
    Hold,
    /// Nothing was done; the call is repeated.
    Retry,
    /// Repeating the call will not help.
    Fail,
    /// The call had its effect.
    Success,
}

/// Judges an answer that was ruled upon. Of a throttled one `happened` has the wait that its headers ask for.
pub fn judge(ruling: Ruling, happened: Happened, repetition: Repetition, now: Timestamp) -> Verdict {
    let Happened::Answer { status, wait_until, json } = happened else {
        return outcome::judge(happened, repetition);
    };
    let code = format!("http_{status}");
    match ruling {
        Ruling::Throttled { wait } => {
            Verdict::Throttled { until: wait.map(|wait| now + wait).or(wait_until) }
        }
        Ruling::Hold => Verdict::Hold { code },
        Ruling::Retry => Verdict::Retry { code },
        Ruling::Fail => Verdict::Fail { code },
        Ruling::Success => {
            outcome::judge(Happened::Answer { status: 200, json, wait_until: None }, repetition)
        }
    }
}

/// Whether such an answer speaks for the dependency's health; none: neither way. One that the definition knows how to read
/// comes from an API that works, unless it says that something failed there and will pass.
pub fn healthy(ruling: Ruling, happened: Happened) -> Option<bool> {
    match (ruling, happened) {
        (Ruling::Throttled { .. }, _) => None,
        (Ruling::Retry, Happened::Answer { status: 400..=499, .. }) => Some(true),
        (Ruling::Retry, _) => Some(false),
        (Ruling::Success, Happened::Answer { json: false, .. }) => Some(false),
        (Ruling::Hold | Ruling::Fail | Ruling::Success, _) => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::code;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn answer(status: u16) -> Happened {
        Happened::Answer { status, json: true, wait_until: Some(Timestamp::from_millis(9_000)) }
    }

    #[test]
    fn a_ruling_comes_before_the_table() {
        let soon = Some(Duration::from_secs(2));
        let code_of = |status: u16| format!("http_{status}");
        for (ruling, status, verdict, health) in [
            (
                Ruling::Throttled { wait: soon },
                200,
                Verdict::Throttled { until: Some(Timestamp::from_millis(3_000)) },
                None,
            ),
            (
                Ruling::Throttled { wait: None },
                403,
                Verdict::Throttled { until: Some(Timestamp::from_millis(9_000)) },
                None,
            ),
            (Ruling::Hold, 401, Verdict::Hold { code: code_of(401) }, Some(true)),
            (Ruling::Retry, 200, Verdict::Retry { code: code_of(200) }, Some(false)),
            (Ruling::Retry, 404, Verdict::Retry { code: code_of(404) }, Some(true)),
            (Ruling::Retry, 500, Verdict::Retry { code: code_of(500) }, Some(false)),
            (Ruling::Fail, 200, Verdict::Fail { code: code_of(200) }, Some(true)),
            (Ruling::Fail, 500, Verdict::Fail { code: code_of(500) }, Some(true)),
            (Ruling::Success, 404, Verdict::Success, Some(true)),
            (Ruling::Success, 500, Verdict::Success, Some(true)),
        ] {
            for repetition in [Repetition::Harmless, Repetition::Unsaid, Repetition::Harmful] {
                let happened = answer(status);
                assert_eq!(judge(ruling, happened, repetition, NOW), verdict, "{ruling:?} {repetition:?}");
                assert_eq!(healthy(ruling, happened), health, "{ruling:?}");
            }
        }
    }

    #[test]
    fn a_success_that_cannot_be_read_is_none() {
        let unread = Happened::Answer { status: 404, json: false, wait_until: None };
        let fail = Verdict::Fail { code: code::BAD_RESPONSE.into() };
        assert_eq!(judge(Ruling::Success, unread, Repetition::Unsaid, NOW), fail);
        let retry = Verdict::Retry { code: code::BAD_RESPONSE.into() };
        assert_eq!(judge(Ruling::Success, unread, Repetition::Harmless, NOW), retry);
        assert_eq!(healthy(Ruling::Success, unread), Some(false));
    }
}
