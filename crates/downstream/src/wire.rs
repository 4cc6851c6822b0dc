//! The requests of the shared limiter to its script, and the answers.

use penstock_domain::cause::{Cause, Stage};
use penstock_domain::limit::{
    Ask, BreakerState, CalendarPolicy, Decision, Denied, Feedback, LimitPolicy, MeterPolicy, Past, Reason,
    Snapshot, duration, micros,
};
use serde::Serialize;

use crate::limiter::CallMeter;

/// Requests that the script decides one after another at one moment, as JSON.
#[derive(Default, Serialize)]
pub(crate) struct ScriptGroup {
    /// A test's own time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) now: Option<f64>,
    /// Each state once.
    pub(crate) states: Vec<GroupState>,
    pub(crate) requests: Vec<ScriptRequest>,
}

/// A state that requests of a group are about.
#[derive(Serialize)]
pub(crate) struct GroupState {
    /// The place of its first key among those of the group, from 1.
    pub(crate) keys: usize,
    pub(crate) policy: Policy,
}

/// A request to the script.
#[derive(Serialize)]
pub(crate) struct ScriptRequest {
    pub(crate) op: &'static str,
    #[serde(skip_serializing_if = "is_one")]
    pub(crate) cost: u32,
    /// Of the calls that ask for the same: a reply for each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tokens: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) lease_us: f64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) lead_us: f64,
    #[serde(skip_serializing_if = "is_clean")]
    pub(crate) past: &'static str,
    /// Calls of rows with a clean past that went well and were not reported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<SuccessfulCalls>,
    /// The places of its states in the group, from 1: the dependency's, then its owner's.
    pub(crate) states: Vec<usize>,
    /// Further limits of the call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) meters: Vec<MeterRequest>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) patience_us: f64,
    /// Only of `deposit`: how much of the period was reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) amount: Option<u32>,
    /// Only of `recall`: when the state was lost, as the script said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost_at: Option<String>,
    /// Only of `recall`: for how long it had not been used by now; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unused_us: Option<f64>,
    /// Only of `correct`: what the call has taken, for each meter.
    #[serde(skip)]
    pub(crate) actual: Vec<u32>,
    /// Only of `report`: for each policy, how the call ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reports: Vec<CallReport>,
    /// Only of `returned`: tokens of slots whose calls went well, or were not made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) returned: Vec<String>,
    /// Only of `hold`: slots of calls under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Vec<Slot>>,
    /// Only of `hold`: tokens of slots that were reported before and are free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) released: Option<Vec<String>>,
}

/// Calls that went well.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct SuccessfulCalls {
    pub(crate) calls: u32,
    /// How long ago the newest of them left, microseconds.
    pub(crate) elapsed: f64,
}

impl SuccessfulCalls {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        let calls = self.calls.saturating_add(other.calls);
        Self { calls, elapsed: self.elapsed.min(other.elapsed) }
    }
}

const fn past(past: Past) -> &'static str {
    match past {
        Past::Clean => "clean",
        Past::Failed => "failed",
        Past::Throttled => "throttled",
        Past::ThrottledAlone => "throttled_alone",
    }
}

/// A slot that a call under way holds.
#[derive(Serialize)]
pub(crate) struct Slot {
    pub(crate) token: String,
    /// How long it is held at most.
    pub(crate) left_us: f64,
}

impl ScriptRequest {
    pub(crate) fn for_call(op: &'static str, ask: &Ask) -> Self {
        Self {
            op,
            cost: ask.cost,
            tokens: vec![ask.token.to_string()],
            // Whole microseconds: the script reads and writes them quicker.
            lease_us: ask.lease_us.ceil(),
            lead_us: ask.lead_us.ceil(),
            past: past(ask.past),
            good: None,
            states: Vec::new(),
            meters: Vec::new(),
            patience_us: ask.patience_us,
            amount: None,
            lost_at: None,
            unused_us: None,
            actual: Vec::new(),
            reports: Vec::new(),
            returned: Vec::new(),
            held: None,
            released: None,
        }
    }

    /// A request that asks for no call.
    pub(crate) fn for_token(op: &'static str, token: u64) -> Self {
        let past = Past::Clean;
        Self::for_call(op, &Ask { cost: 1, token, lease_us: 0.0, lead_us: 0.0, past, patience_us: 0.0 })
    }

    /// Slots whose calls went well, or were not made: nothing else is reported of them.
    pub(crate) fn for_returned(token: u64, good: Option<SuccessfulCalls>) -> Self {
        let none = Self::for_token("returned", 0);
        Self { tokens: Vec::new(), returned: vec![token.to_string()], good, ..none }
    }

    /// Whether another request about the same states is decided as this one is, so that both can be one.
    fn asks_the_same(&self, other: &Self) -> bool {
        let plain = |one: &Self| one.meters.is_empty() && is_clean(&one.past) && is_zero(&one.patience_us);
        let same = |one: &Self| (one.op, one.cost, one.lease_us.to_bits());
        matches!(self.op, "acquire" | "returned") && same(self) == same(other) && plain(self) && plain(other)
    }

    /// Takes in another request about the same states, if both ask for the same. Their calls are decided in the order in which they
    /// were asked, with the longer lead of both.
    pub(crate) fn join(&mut self, other: &Self) -> bool {
        if !self.asks_the_same(other) {
            return false;
        }
        self.tokens.extend_from_slice(&other.tokens);
        self.returned.extend_from_slice(&other.returned);
        self.lead_us = self.lead_us.max(other.lead_us);
        self.good = match (self.good, other.good) {
            (Some(one), Some(two)) => Some(one.and(two)),
            (one, two) => one.or(two),
        };
        true
    }
}

/// A [`LimitPolicy`] as the script reads it.
#[derive(PartialEq, Serialize)]
pub(crate) struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<Breaker>,
    cold_wait_us: f64,
}

#[derive(PartialEq, Serialize)]
pub(crate) struct Rate {
    interval_us: f64,
    burst: u32,
}

#[derive(PartialEq, Serialize)]
pub(crate) struct Breaker {
    failure_bp: u16,
    min_calls: u32,
    window_us: f64,
    open_for_us: f64,
    probes: u32,
}

impl From<&LimitPolicy> for Policy {
    fn from(policy: &LimitPolicy) -> Self {
        Self {
            rate: policy.rate.map(|rate| Rate { interval_us: rate.interval_us, burst: rate.burst }),
            concurrency: policy.concurrency,
            breaker: policy.breaker.map(|breaker| Breaker {
                failure_bp: breaker.failure_bp,
                min_calls: breaker.min_calls,
                window_us: micros(breaker.window),
                open_for_us: micros(breaker.open_for),
                probes: breaker.probes,
            }),
            cold_wait_us: policy.cold_wait_us,
        }
    }
}

/// A further limit of a call as the script reads it.
#[derive(Serialize)]
pub(crate) struct MeterRequest {
    /// The place of its first key among those of the group, from 1.
    pub(crate) keys: usize,
    scope: &'static str,
    cost: u32,
    member: String,
    /// Names a call that is corrected when its answer is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<u64>,
    /// Only of `correct`: what it has taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actual: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calendar: Option<Calendar>,
}

#[derive(Serialize)]
struct Calendar {
    limit: u32,
    from: f64,
    until: f64,
    spread: bool,
}

impl From<&CallMeter> for MeterRequest {
    fn from(meter: &CallMeter) -> Self {
        let (rate, calendar) = match meter.policy {
            MeterPolicy::Bucket(rate) => {
                (Some(Rate { interval_us: rate.interval_us, burst: rate.burst }), None)
            }
            MeterPolicy::Calendar(CalendarPolicy { limit, from, until, spread, .. }) => {
                (None, Some(Calendar { limit, from, until, spread }))
            }
        };
        Self {
            keys: 0,
            scope: meter.scope.as_str(),
            cost: meter.cost,
            member: meter.member.clone(),
            corrected: meter.corrected,
            actual: None,
            rate,
            calendar,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

fn is_clean(past: &&str) -> bool {
    *past == self::past(Past::Clean)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// How a call ended.
#[derive(Serialize)]
pub(crate) struct CallReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    healthy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<f64>,
    throttled: bool,
    probe: bool,
    #[serde(skip_serializing_if = "is_clean")]
    past: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    elapsed: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<u8>,
    /// Whether no connection could be made.
    unreachable: bool,
}

impl From<Feedback> for CallReport {
    fn from(feedback: Feedback) -> Self {
        let Feedback { healthy, pause, throttled, probe, past, elapsed, cause } = feedback;
        Self {
            healthy,
            pause,
            throttled,
            probe,
            past: self::past(past),
            elapsed,
            cause: cause.map(Cause::code),
            unreachable: cause.is_some_and(|cause| cause.stage() < Stage::Answer),
        }
    }
}

/// The server's time and the rest of an answer: all answers but snapshots begin with it.
pub(crate) fn server_time(answer: &[String]) -> Option<(f64, &[String])> {
    let (now, answer) = answer.split_first()?;
    Some((now.parse().ok()?, answer))
}

/// `{"granted", wait, slack, probe, confirm}`, or what [`denied`] reads.
pub(crate) fn decision(answer: &[String]) -> Option<Decision> {
    match answer {
        [word, ..] if word == "denied" => return denied(answer).map(Decision::Denied),
        [word, meter] if word == "unreserved" => {
            return Some(Decision::Unreserved { meter: meter.parse().ok()? });
        }
        _ => {}
    }
    let [word, wait, slack, probe, confirm] = answer else { return None };
    (word == "granted").then_some(())?;
    Some(Decision::Granted {
        wait: wait.parse().ok()?,
        slack: slack.parse().ok()?,
        probe: probe == "1",
        confirm: confirm == "1",
    })
}

/// `{"denied", retry_after, reason, row_only, refused_for}`.
pub(crate) fn denied(answer: &[String]) -> Option<Denied> {
    let [_, retry_after, reason, row_only, refused_for] = answer else { return None };
    let reason = match reason.as_str() {
        "rate" => Reason::Rate,
        "owner_rate" => Reason::OwnerRate,
        "value_rate" => Reason::ValueRate,
        "concurrency" => Reason::Concurrency,
        "paused" => Reason::Paused,
        "breaker_open" => Reason::BreakerOpen,
        _ => return None,
    };
    Some(Denied {
        retry_after: retry_after.parse().ok()?,
        reason,
        row_only: row_only == "1",
        refused_for: refused_for.parse().ok()?,
    })
}

/// `{free_in, paused_for, refusals, factor, in_flight, breaker, cause, used_up_for}`. An unknown breaker state counts as closed.
pub(crate) fn snapshot(state: &[String]) -> Option<Snapshot> {
    let [free_in, paused_for, refusals, factor, in_flight, breaker, cause, used_up_for] = state else {
        return None;
    };
    Some(Snapshot {
        free_in: duration(free_in.parse().ok()?),
        paused_for: duration(paused_for.parse().ok()?),
        used_up_for: duration(used_up_for.parse().ok()?),
        refusals: refusals.parse().ok()?,
        factor: factor.parse().ok()?,
        in_flight: in_flight.parse().ok()?,
        breaker: match breaker.as_str() {
            "open" => BreakerState::Open,
            "half_open" => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        },
        cause: cause.parse().ok().and_then(Cause::from_code),
    })
}
