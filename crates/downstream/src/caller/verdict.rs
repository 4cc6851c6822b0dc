//! The verdict on an answer: by the definition's `responses`, or by the table.

use penstock_domain::cause::Cause;
use penstock_domain::limit::{self, Feedback};
use penstock_domain::outcome::{self, Happened, Verdict};
use penstock_domain::pipeline::ResponseView;
use penstock_domain::ruling::{self, Ruling};
use penstock_domain::time::Timestamp;

use super::demand::Demand;
use crate::aside::aside;
use crate::client::Sent;
use crate::retry_after;

/// What is made of an answer.
pub(super) struct Judged {
    pub verdict: Verdict,
    /// When the call may be repeated at the earliest, where the answer asks for it.
    pub not_before: Option<Timestamp>,
    /// What the limits learn of it.
    pub feedback: Feedback,
}

/// Judges what came of a call.
pub(super) async fn judge(demand: &Demand<'_>, sent: &Sent, now: Timestamp) -> Judged {
    let ruling = ruling_of(demand, sent).await;
    let unread = match sent.failure.as_ref().map(|failure| failure.cause) {
        // A text that is not JSON can be judged as what it is; one that was cut cannot.
        Some(cause) if cause != Cause::NotJson => {
            !demand.rules.is_some_and(|rules| rules.step.responses.conditions_read_body())
        }
        _ => true,
    };
    let mut happened = sent.happened;
    if !demand.reads_body && unread {
        happened = happened.with_unread_body();
    }
    let Some(ruling) = ruling else {
        let judge = if demand.unanswered_before { outcome::judge_repeat } else { outcome::judge };
        let verdict = judge(happened, demand.repetition);
        let feedback = feedback(happened, &verdict, now);
        return Judged { verdict, not_before: happened.wait_until(), feedback };
    };
    if let (Ruling::Throttled { .. }, Happened::Answer { status, json, .. }, Some(response)) =
        (ruling, happened, &sent.response)
    {
        // Whatever its status is: it says what a 429 says.
        let wait_until = retry_after::wait_until(429, &response.headers, now);
        happened = Happened::Answer { status, json, wait_until };
    }
    // The earlier try may still be under way, whatever the definition makes of a conflict with it.
    let repeats = demand.unanswered_before && matches!(ruling, Ruling::Fail | Ruling::Success);
    let verdict = match outcome::judge_repeat(happened, demand.repetition) {
        retry @ Verdict::Retry { .. } if repeats && matches!(status_of(happened), Some(409 | 425)) => retry,
        _ => ruling::judge(ruling, happened, demand.repetition, now),
    };
    let feedback = ruled_feedback(ruling, happened, &verdict, now);
    Judged { verdict, not_before: happened.wait_until(), feedback }
}

async fn ruling_of(demand: &Demand<'_>, sent: &Sent) -> Option<Ruling> {
    let (rules, response) = (demand.rules?, sent.response.as_ref()?);
    let view = ResponseView { status: response.status, headers: &response.headers, body: &response.body };
    aside(response.bytes, || rules.step.ruling(&rules.row, view)).await
}

fn status_of(happened: Happened) -> Option<u16> {
    match happened {
        Happened::Answer { status, .. } => Some(status),
        _ => None,
    }
}

fn feedback(happened: Happened, verdict: &Verdict, now: Timestamp) -> Feedback {
    // A 408, 409 or 425 is about this one call.
    let about_all = matches!(happened, Happened::Answer { status: 429 | 500..=599, .. });
    let pause = happened.wait_until().filter(|_| about_all).map(|until| limit::micros(until.since(now)));
    let is_throttled = matches!(verdict, Verdict::Throttled { .. });
    let throttled = is_throttled || matches!(happened, Happened::Answer { status: 503, .. });
    // A refusal speaks neither for the dependency's health nor against it.
    let healthy = outcome::healthy(happened).filter(|_| !is_throttled);
    Feedback { healthy, pause, throttled, ..Feedback::default() }
}

/// The same of an answer that the definition ruled upon: it pauses the dependency when it is throttled, or when it is tried again
/// and asks for a pause as the table's answers do.
fn ruled_feedback(ruling: Ruling, happened: Happened, verdict: &Verdict, now: Timestamp) -> Feedback {
    let healthy = ruling::healthy(ruling, happened);
    let micros = |until: Timestamp| limit::micros(until.since(now));
    match (ruling, verdict) {
        (Ruling::Throttled { .. }, Verdict::Throttled { until }) => {
            Feedback { healthy, pause: until.map(micros), throttled: true, ..Feedback::default() }
        }
        (Ruling::Retry, _) => Feedback { healthy, ..feedback(happened, verdict, now) },
        _ => Feedback { healthy, ..Feedback::default() },
    }
}
