//! What comes of a call, judged once and in one place.
//!
//! | what happened | safe to repeat | not said | at most once |
//! |---|---|---|---|
//! | 2xx with JSON, with nothing, or with what the step does not read | success | success | success |
//! | 2xx whose header or body cannot be read: cut, late, too long, encoded, not JSON | retry `bad_response` | fail `bad_response` | fail `bad_response` |
//! | 429; 503 or 529 with Retry-After, or with rate-limit headers by which nothing is left | wait, no attempt | wait, no attempt | wait, no attempt |
//! | 408, 425, 503: nothing was done (RFC 9110, 15.5.9 and 15.6.4; RFC 8470, 5.2) | retry `http_<status>` | retry `http_<status>` | retry `http_<status>` |
//! | other 5xx | retry `http_<status>` | retry `http_<status>` | unknown `outcome_unknown` |
//! | 409, where an earlier try with the same `idempotency_key` had no answer | retry `http_409` | | |
//! | other 4xx, 3xx | fail `http_<status>` | fail `http_<status>` | fail `http_<status>` |
//! | no connection: nothing was sent | retry `connect_failed` | retry `connect_failed` | retry `connect_failed` |
//! | refused by HTTP/2 before anything was done (RFC 9113, 8.7) | retry `not_processed` | retry `not_processed` | retry `not_processed` |
//! | no answer in time | retry `timeout` | unknown `outcome_unknown` | unknown `outcome_unknown` |
//! | connection lost under way | retry `connection_lost` | unknown `outcome_unknown` | unknown `outcome_unknown` |
//!
//! Before this table the definition's own `responses` are asked ([`crate::ruling`]).
//!
//! Whatever is tried again waits as long as the answer's Retry-After asks, if that is longer than its backoff.
//!
//! A worker that dies leaves its row without a verdict. The row runs again, alone; a call that is made at most once and may
//! have been under way ends it as `outcome_unknown`, and the third death (`MOST_CRASHES`) ends it as `worker_crashed`.
//!
//! Safe to repeat: GET, HEAD, PUT, DELETE (RFC 9110, 9.2.2), steps with `idempotency_key: true` or
//! `idempotent: true`. At most once: steps with `idempotent: false` and no key. An unknown outcome ends the row; it is
//! retried only when a person says so.

use uuid::Uuid;

use crate::time::Timestamp;

/// Codes of errors, besides `http_<status>`.
pub mod code {
    /// No answer in time.
    pub const TIMEOUT: &str = "timeout";
    /// Nothing could be sent.
    pub const CONNECT_FAILED: &str = "connect_failed";
    /// The connection broke before the answer.
    pub const CONNECTION_LOST: &str = "connection_lost";
    /// The request was sent and may have had its effect.
    pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";
    /// The request was refused before anything was done.
    pub const NOT_PROCESSED: &str = "not_processed";
    /// The answer cannot be read, or lacks what the step reads from it.
    pub const BAD_RESPONSE: &str = "bad_response";
    /// A template reads something that the row, the context or an earlier step does not have.
    pub const TEMPLATE_ERROR: &str = "template_error";
    /// A step's `url` leads neither to its dependency nor to one of the dependency's hosts.
    pub const FORBIDDEN_URL: &str = "forbidden_url";
    /// The row was not done by its deadline.
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
    /// The dependency said to wait.
    pub const THROTTLED: &str = "throttled";
    /// What is stored of the row cannot be read; while the row waits: it cannot be opened where it was to run.
    pub const UNREADABLE: &str = "unreadable";
    /// The database did not take the row when its file was extracted.
    pub const NOT_STORED: &str = "not_stored";
    /// The program failed at the row: a defect of Penstock's.
    pub const INTERNAL_ERROR: &str = "internal_error";
    /// The result that a step waits for was not there in time.
    pub const POLL_TIMEOUT: &str = "poll_timeout";
    /// The API says that the result which a step waits for will never be there.
    pub const POLL_FAILED: &str = "poll_failed";
    /// Another row has made the same call, and its answer is waited for.
    pub const ANSWER_AWAITED: &str = "answer_awaited";
    /// Another batch has completed the row's key.
    pub const DUPLICATE: &str = "duplicate";
    /// Workers died while they held the row, again and again.
    pub const WORKER_CRASHED: &str = "worker_crashed";
    /// The dependency's rate is used up.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// The owner's own rate at the dependency is used up.
    pub const OWNER_RATE_LIMITED: &str = "owner_rate_limited";
    /// The rate of the row's value is used up.
    pub const VALUE_RATE_LIMITED: &str = "value_rate_limited";
    /// It is not one of the hours in which the dependency may be called.
    pub const OUTSIDE_HOURS: &str = "outside_hours";
    /// An operator has paused the dependency.
    pub const LIMIT_PAUSED: &str = "limit_paused";
    /// As many calls as are allowed are under way.
    pub const CONCURRENCY_LIMITED: &str = "concurrency_limited";
    /// The dependency's circuit breaker is open.
    pub const BREAKER_OPEN: &str = "breaker_open";
    /// The shared limiter does not answer.
    pub const LIMITER_UNAVAILABLE: &str = "limiter_unavailable";
    /// A permit was given, but came too late to be used.
    pub const LIMITER_LATE: &str = "limiter_late";
    /// The dependency's credentials cannot be had now.
    pub const CREDENTIALS_UNAVAILABLE: &str = "credentials_unavailable";
}

/// A sentence for a code that no HTTP status explains.
pub fn sentence(code: &str) -> &'static str {
    match code {
        code::ANSWER_AWAITED => "another row makes the same call, and its answer is waited for",
        code::DUPLICATE => "another batch has completed the row's key",
        code::TIMEOUT => "there was no answer in time",
        code::CONNECT_FAILED => "no connection could be made",
        code::CONNECTION_LOST => "the connection broke before the answer",
        code::OUTCOME_UNKNOWN => {
            "the request was sent, so it may have had its effect; retry it only when you know that it had not"
        }
        code::DEADLINE_EXCEEDED => "the row was not done by its deadline",
        code::THROTTLED => "the API answered each time that it is called too often",
        code::POLL_TIMEOUT => "the result was not there in time",
        code::POLL_FAILED => "the API says that there will be no result",
        code::NOT_PROCESSED => "the server refused the request before it did anything",
        code::BAD_RESPONSE => "the answer cannot be read",
        code::UNREADABLE => "what is stored of the row cannot be read: it was damaged or changed",
        code::INTERNAL_ERROR => "the program failed at the row; the operator's log says where",
        code::WORKER_CRASHED => {
            "its worker died each time it processed the row, in the end with no other row beside it; a call may have had its effect"
        }
        code::FORBIDDEN_URL => {
            "the URL to call leads neither to the dependency's own address nor to one of its hosts"
        }
        code::TEMPLATE_ERROR => "no request can be made of the row's values",
        _ => "the call failed",
    }
}

/// A sentence for a row whose time is over, with what its last call came to.
pub fn run_out(code: &str, last: &str) -> String {
    format!("{}; the last: {last}", sentence(code))
}

/// What happened to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// An answer came.
    Answer {
        /// Its status.
        status: u16,
        /// Whether its body is JSON, or there is none; false also when its header cannot be read.
        json: bool,
        /// Until when it says to wait.
        wait_until: Option<Timestamp>,
    },
    /// Nothing was sent.
    ConnectFailed,
    /// It was sent, and refused before anything was done.
    NotProcessed,
    /// It was sent, and no answer came in time.
    TimedOut,
    /// It was sent, and the connection broke.
    ConnectionLost,
}

impl Happened {
    /// Until when the answer asks to wait.
    #[must_use]
    pub fn wait_until(self) -> Option<Timestamp> {
        match self {
            Self::Answer { wait_until, .. } => wait_until,
            Self::ConnectFailed | Self::NotProcessed | Self::TimedOut | Self::ConnectionLost => None,
        }
    }

    /// The same of a call whose answer's body nobody reads.
    #[must_use]
    pub fn with_unread_body(self) -> Self {
        match self {
            Self::Answer { status, wait_until, .. } => Self::Answer { status, json: true, wait_until },
            other => other,
        }
    }
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Success,
    /// Wait; costs no attempt.
    Throttled {
        /// Until when; none: it was not said.
        until: Option<Timestamp>,
    },
    /// The whole batch waits until a person has looked at it; costs no attempt.
    Hold {
        /// Why.
        code: String,
    },
    /// Try again later; costs an attempt.
    Retry {
        /// Why.
        code: String,
    },
    /// Nobody knows whether it had its effect.
    Unknown {
        /// Why.
        code: String,
    },
    /// Trying again will not help.
    Fail {
        /// Why.
        code: String,
    },
}

impl Verdict {
    /// The error's code, where it is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Success => None,
            Self::Throttled { .. } => Some(code::THROTTLED),
            Self::Hold { code } | Self::Retry { code } | Self::Unknown { code } | Self::Fail { code } => {
                Some(code)
            }
        }
    }
}

/// What it is to make a call again of which nobody knows whether it had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// Harmless: the method, the definition or a key says so.
    Harmless,
    /// Nobody has said.
    Unsaid,
    /// Worse than not to make it: the definition says so.
    Harmful,
}

/// Judges a call: the table above.
pub fn judge(happened: Happened, repetition: Repetition) -> Verdict {
    let safe_to_repeat = repetition == Repetition::Harmless;
    let retry = |code: &str| Verdict::Retry { code: code.to_owned() };
    let unknown = || Verdict::Unknown { code: code::OUTCOME_UNKNOWN.to_owned() };
    let lost = |code: &str| if safe_to_repeat { retry(code) } else { unknown() };
    match happened {
        Happened::Answer { status: 200..=299, json: true, .. } => Verdict::Success,
        Happened::Answer { status: 200..=299, json: false, .. } if safe_to_repeat => {
            retry(code::BAD_RESPONSE)
        }
        Happened::Answer { status: 200..=299, .. } => Verdict::Fail { code: code::BAD_RESPONSE.to_owned() },
        Happened::Answer { status: 429, wait_until, .. } => Verdict::Throttled { until: wait_until },
        Happened::Answer { status: 503 | 529, wait_until: Some(until), .. } => {
            Verdict::Throttled { until: Some(until) }
        }
        Happened::Answer { status: 500..=502 | 504..=599, .. } if repetition == Repetition::Harmful => {
            unknown()
        }
        Happened::Answer { status: status @ (408 | 425 | 500..=599), .. } => retry(&format!("http_{status}")),
        Happened::Answer { status, .. } => Verdict::Fail { code: format!("http_{status}") },
        Happened::ConnectFailed => retry(code::CONNECT_FAILED),
        Happened::NotProcessed => retry(code::NOT_PROCESSED),
        Happened::TimedOut => lost(code::TIMEOUT),
        Happened::ConnectionLost => lost(code::CONNECTION_LOST),
    }
}

/// The verdict on a call with a key of which an earlier try had no answer: a 409 may only say that the earlier try is still under way
/// (draft-ietf-httpapi-idempotency-key-header, 2.6), as a 425 does in any case. It is tried again, and the last answer counts.
pub fn judge_repeat(happened: Happened, repetition: Repetition) -> Verdict {
    match happened {
        Happened::Answer { status: 409, .. } => Verdict::Retry { code: "http_409".to_owned() },
        _ => judge(happened, repetition),
    }
}

/// Whether a call speaks for the dependency's health, for its breaker; none: neither way.
pub fn healthy(happened: Happened) -> Option<bool> {
    match happened {
        Happened::Answer { status: 429, .. } => None,
        Happened::Answer { status: 503 | 529, wait_until: Some(_), .. } => None,
        Happened::Answer { status: 500..=599, .. } => Some(false),
        Happened::Answer { status: 200..=299, json: false, .. } => Some(false),
        Happened::Answer { .. } => Some(true),
        Happened::ConnectFailed | Happened::NotProcessed | Happened::TimedOut | Happened::ConnectionLost => {
            Some(false)
        }
    }
}

/// The `Idempotency-Key` of a row's step: the same for every attempt, and for no other row or step
/// (draft-ietf-httpapi-idempotency-key-header).
pub fn idempotency_key(batch: Uuid, number: u32, step: &str) -> String {
    Uuid::new_v5(&batch, format!("{number}/{step}").as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Happened {
        Happened::Answer { status, json: true, wait_until: None }
    }

    #[test]
    fn the_table() {
        let soon = Some(Timestamp::from_millis(5));
        let retry = |code: &str| Verdict::Retry { code: code.into() };
        let fail = |code: &str| Verdict::Fail { code: code.into() };
        let unknown = || Verdict::Unknown { code: "outcome_unknown".into() };
        let garbage = Happened::Answer { status: 200, json: false, wait_until: None };
        let cases = [
            (answer(200), Verdict::Success, Verdict::Success),
            (answer(204), Verdict::Success, Verdict::Success),
            (garbage, retry("bad_response"), fail("bad_response")),
            (answer(429), Verdict::Throttled { until: None }, Verdict::Throttled { until: None }),
            (
                Happened::Answer { status: 503, json: true, wait_until: soon },
                Verdict::Throttled { until: soon },
                Verdict::Throttled { until: soon },
            ),
            (
                Happened::Answer { status: 529, json: true, wait_until: soon },
                Verdict::Throttled { until: soon },
                Verdict::Throttled { until: soon },
            ),
            (
                Happened::Answer { status: 500, json: true, wait_until: soon },
                retry("http_500"),
                retry("http_500"),
            ),
            (answer(503), retry("http_503"), retry("http_503")),
            (answer(500), retry("http_500"), retry("http_500")),
            (answer(408), retry("http_408"), retry("http_408")),
            (answer(409), fail("http_409"), fail("http_409")),
            (answer(422), fail("http_422"), fail("http_422")),
            (answer(302), fail("http_302"), fail("http_302")),
            (Happened::ConnectFailed, retry("connect_failed"), retry("connect_failed")),
            (Happened::NotProcessed, retry("not_processed"), retry("not_processed")),
            (Happened::TimedOut, retry("timeout"), unknown()),
            (Happened::ConnectionLost, retry("connection_lost"), unknown()),
        ];
        for (happened, safe, unsaid) in cases {
            assert_eq!(judge(happened, Repetition::Harmless), safe, "{happened:?}");
            assert_eq!(judge(happened, Repetition::Unsaid), unsaid, "{happened:?}");
            let internal = matches!(happened, Happened::Answer { status: 500, .. });
            let once = if internal { unknown() } else { unsaid };
            assert_eq!(judge(happened, Repetition::Harmful), once, "{happened:?}");
        }
        assert_eq!(
            judge(answer(504), Repetition::Harmful),
            unknown(),
            "a gateway gave up; what is behind it may not have"
        );
    }

    #[test]
    fn a_conflict_with_a_try_that_had_no_answer_is_tried_again() {
        let conflict = answer(409);
        assert_eq!(judge_repeat(conflict, Repetition::Harmless), Verdict::Retry { code: "http_409".into() });
        assert_eq!(judge(conflict, Repetition::Harmless), Verdict::Fail { code: "http_409".into() });
        for other in [answer(200), answer(422), answer(429), answer(503), Happened::TimedOut] {
            assert_eq!(judge_repeat(other, Repetition::Harmless), judge(other, Repetition::Harmless));
        }
    }

    #[test]
    fn an_idempotency_key_is_its_row_and_steps_own() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(idempotency_key(a, 1, "x"), idempotency_key(a, 1, "x"));
        for other in [idempotency_key(b, 1, "x"), idempotency_key(a, 2, "x"), idempotency_key(a, 1, "y")] {
            assert_ne!(idempotency_key(a, 1, "x"), other);
        }
    }
}
