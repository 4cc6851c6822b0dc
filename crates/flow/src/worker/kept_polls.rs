//! Where a step stands that waits for its result: kept sealed in place of the step's receipt, so that its request is not repeated.

use std::time::Duration;

use penstock_domain::exchange::AnswerSeen;
use penstock_domain::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::worker::kept_answers::KeptAnswer;

/// The first item of what is sealed.
const MARK: &str = "poll";

/// What is kept of a step whose request was answered, in place of its receipt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kept {
    /// An answer that `output` could not read.
    Answer(KeptAnswer),
    /// The result is waited for.
    Poll(KeptPoll),
    /// There was to be no result: the step is called anew.
    Nothing,
}

/// A result that is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptPoll {
    /// Where looks go, unless they go where the request went.
    pub target: Option<String>,
    /// When the request was answered; none: the time begins with the next look, after a retry by a person.
    pub since: Option<Timestamp>,
    /// Looks so far.
    pub looks: u32,
    /// When the next look is due; none: at once.
    pub next: Option<Timestamp>,
    /// What was answered last; none: a look that failed, or nothing since a retry by a person.
    pub answer: Option<Box<AnswerSeen>>,
    /// When the row's run began, as it was known when the request was answered: it moves by the time for which an answer holds the
    /// batch.
    pub clock: Option<Timestamp>,
}

impl KeptPoll {
    /// As it is sealed: a list, which no step's output is, and of another length than a kept answer.
    pub fn to_json(&self) -> Value {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::millis);
        let (since, next, clock) = (millis(self.since), millis(self.next), millis(self.clock));
        json!([MARK, self.target, since, self.looks, next, clock, self.answer])
    }

    /// When the result is given up; `began` is when the row's run began, as it is known now. The time for which the batch was held
    /// does not count.
    pub fn ends_at(&self, timeout: Duration, began: Timestamp) -> Option<Timestamp> {
        let held_for = self.clock.map_or(Duration::ZERO, |clock| began.since(clock));
        Some(self.since? + timeout + held_for)
    }

    /// The same place, for a row that fails: a retry by a person looks at once, and has the whole time again.
    pub fn for_retry(&self) -> Self {
        Self { target: self.target.clone(), ..Self::default() }
    }
}

impl Kept {
    /// What is sealed of a step whose result will never be there.
    pub fn nothing() -> Value {
        json!([MARK])
    }

    /// Reads what was sealed; none when it is something else.
    pub fn from_json(sealed: Value) -> Option<Self> {
        let Value::Array(parts) = &sealed else { return None };
        if parts.first().and_then(Value::as_str) != Some(MARK) {
            return KeptAnswer::from_json(sealed).map(Self::Answer);
        }
        let (target, since, looks, next, clock, answer) = match parts.as_slice() {
            [_] => return Some(Self::Nothing),
            // Before the last answer was kept.
            [_, target, since, looks, next, clock] => (target, since, looks, next, clock, &Value::Null),
            [_, target, since, looks, next, clock, answer] => (target, since, looks, next, clock, answer),
            _ => return None,
        };
        let time = |at: &Value| at.as_i64().map(Timestamp::from_millis);
        Some(Self::Poll(KeptPoll {
            target: target.as_str().map(str::to_owned),
            since: time(since),
            looks: looks.as_u64().and_then(|looks| u32::try_from(looks).ok())?,
            next: time(next),
            clock: time(clock),
            answer: Deserialize::deserialize(answer).ok()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let at = Timestamp::from_millis(1_790_000_000_123);
        let polls = [
            KeptPoll {
                target: Some("/jobs/a%20b".into()),
                since: Some(at),
                looks: 7,
                next: Some(at),
                clock: Some(at),
                answer: Some(Box::new(AnswerSeen {
                    status: 202,
                    headers: [("etag".to_owned(), "7".to_owned())].into(),
                    body: Some("{\"state\":\"new\"}".into()),
                })),
            },
            KeptPoll::default(),
        ];
        for poll in polls {
            let sealed = poll.to_json().to_string();
            assert_eq!(Kept::from_json(serde_json::from_str(&sealed).unwrap()), Some(Kept::Poll(poll)));
        }
        let waits = KeptPoll { since: Some(at), clock: Some(at), ..KeptPoll::default() };
        let (day, hour) = (Duration::from_secs(86_400), Duration::from_secs(3600));
        assert_eq!(waits.ends_at(day, at), Some(at + day));
        assert_eq!(waits.ends_at(day, at + hour), Some(at + day + hour), "the batch was held for an hour");
        assert_eq!(Kept::from_json(Kept::nothing()), Some(Kept::Nothing));
        let earlier = Kept::from_json(json!(["poll", "/jobs", 1, 2, 3, 4]));
        assert!(matches!(earlier, Some(Kept::Poll(KeptPoll { looks: 2, answer: None, .. }))), "{earlier:?}");
        assert!(matches!(Kept::from_json(json!([200, {}, null, null])), Some(Kept::Answer(_))));
        for other in [json!({}), json!([]), json!(["poll", 1]), json!(["poll", null, 1, "x", 2, 3])] {
            assert_eq!(Kept::from_json(other), None);
        }
    }
}
