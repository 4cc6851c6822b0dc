//! How fast a batch may go: what its owner's quota, its pipeline's limits and other batches leave it, and which of them is the
//! narrowest.

use std::cmp::Ordering;
use std::time::Duration;

use penstock_domain::ledger::Ledger;
use penstock_domain::pipeline::{Pipeline, Rate, Step};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::limits_view::Standstill;
use crate::context::pace::Quota;

/// A call takes so long, as long as nothing is known of it: where only so many are made at once, that is a rate.
const USUAL_CALL: Duration = Duration::from_millis(100);

/// What lets a batch's rows go, besides its pipeline's limits.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Rows that its owner may have in flight.
    pub quota: Quota,
    /// Rows of a whole run that fall to an owner, where runs have an end.
    pub run_share: Option<f64>,
    /// The time between two runs.
    pub run_every: Duration,
    /// What shares all that with it.
    pub beside: Beside,
    /// When the last of its rows that wait for a result is looked at next.
    pub last_look: Option<Timestamp>,
    /// What holds its calls up now.
    pub standstill: Standstill,
}

/// Rows of the owner's other batches that are done before the last of a batch's own: of those that share alike no more
/// than it has itself, of those that go first all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Of all pipelines.
    pub owner: u64,
    /// Of the batch's pipeline.
    pub pipeline: u64,
}

impl Beside {
    /// From the owner's running batches.
    pub fn of(batch: &Batch, running: &[Batch]) -> Self {
        let own = batch.ledger.counts.unfinished();
        let mut beside = Self::default();
        for other in running.iter().filter(|one| one.seq != batch.seq && one.runs() && !stands(&one.ledger)) {
            let left = other.ledger.counts.unfinished();
            let before = match other.priority.cmp(&batch.priority) {
                Ordering::Less => 0,
                Ordering::Equal => left.min(own),
                Ordering::Greater => left,
            };
            beside.owner += u64::from(before);
            if other.pipeline == batch.pipeline {
                beside.pipeline += u64::from(before);
            }
        }
        beside
    }
}

/// Whether nothing of it goes on by itself.
pub(super) fn stands(ledger: &Ledger) -> bool {
    ledger.paused || ledger.held || ledger.cancelled_at.is_some()
}

/// How long a batch will take that has just begun, and why that long.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EstimateView {
    /// Seconds that all of its rows take at the least.
    pub seconds: u64,
    /// The dependency whose limit is the narrowest; none where the owner's quota is.
    pub dependency: Option<String>,
    /// In a sentence: `about 3 h at 20 calls/s; the limit is `crm``.
    pub sentence: String,
}

/// What a batch waits for most.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Narrowest {
    /// Calls in a second that this dependency takes.
    Rate(String, f64),
    /// Calls of this dependency at once.
    Concurrency(String, u32),
    /// A limit of this dependency that begins anew with the calendar.
    Calendar(String),
    /// The rows that are released to the owner in a run.
    Quota(u32),
}

/// How long rows take, and why.
pub(super) struct Allowed {
    /// Seconds at the least.
    pub seconds: f64,
    narrowest: Narrowest,
}

/// Rows a second that a pipeline's dependencies take, and which of them takes the fewest; none without a limit.
fn dependencies_rate(pipeline: &Pipeline) -> Option<(f64, Narrowest)> {
    let mut narrowest: Option<(f64, Narrowest)> = None;
    for (index, dependency) in pipeline.dependencies.iter().enumerate() {
        let steps = pipeline.steps.iter().filter(|step| step.dependency == index);
        let (calls, cost) = steps.fold((0.0, 0.0), |(calls, cost), step| {
            // A result that is waited for takes at least one look; of a call that carries many rows each has its share.
            let of_row = f64::from(1 + u32::from(step.poll.is_some())) / rows_per_call(step);
            (calls + of_row, cost + of_row * f64::from(step.cost))
        });
        let paces = |rate: &&Rate| cost > 0.0 && rate.per.is_none() && rate.is_bucket();
        let name = || dependency.name.clone();
        let rates = dependency.unnamed_rates().filter(paces);
        let rates = rates.map(|rate| (rate.per_second() / cost, Narrowest::Rate(name(), rate.per_second())));
        let slots = dependency.concurrency.as_ref().filter(|_| calls > 0.0).map(|slots| {
            let at_once = f64::from(slots.limit) / USUAL_CALL.as_secs_f64() / calls;
            (at_once, Narrowest::Concurrency(name(), slots.limit))
        });
        for found in rates.chain(slots) {
            if narrowest.as_ref().is_none_or(|(rate, _)| found.0 < *rate) {
                narrowest = Some(found);
            }
        }
    }
    narrowest
}

#[allow(clippy::cast_precision_loss, reason = "at most 1000")]
fn rows_per_call(step: &Step) -> f64 {
    step.rows_per_call() as f64
}

/// How many seconds the periods of the calendar take at the least that `rows` need, besides the present one, and whose they are.
fn calendar_seconds(rows: u32, pipeline: &Pipeline) -> (f64, Option<&str>) {
    let mut longest = (0.0_f64, None);
    for (index, dependency) in pipeline.dependencies.iter().enumerate() {
        let calls = f64::from(rows) * pipeline.cost_of_row(index);
        for rate in dependency.unnamed_rates().filter(|rate| rate.per.is_none() && !rate.is_bucket()) {
            let further = (calls / f64::from(rate.limit.max(1))).ceil() - 2.0;
            let seconds = further * rate.period.as_secs_f64();
            if seconds > longest.0 {
                longest = (seconds, Some(dependency.name.as_str()));
            }
        }
    }
    longest
}

/// How long a row waits at the least for its results' first looks, in seconds.
fn first_looks(pipeline: &Pipeline) -> f64 {
    pipeline.steps.iter().filter_map(|step| step.poll.as_ref()).map(|poll| poll.pause(0).as_secs_f64()).sum()
}

/// How long `rows` of a batch take at the least.
pub(super) fn allowed(rows: u32, pipeline: Option<&Pipeline>, allowance: &Allowance) -> Allowed {
    let Allowance { quota, run_share, run_every, beside, .. } = allowance;
    let a_run = run_share.unwrap_or(f64::INFINITY);
    let of_owner = f64::from(quota.owner).min(a_run) / run_every.as_secs_f64();
    let limits = pipeline.and_then(dependencies_rate);
    let of_limits = limits.as_ref().map_or(f64::INFINITY, |(rate, _)| *rate);
    let of_quota = f64::from(quota.pipeline).min(a_run) / run_every.as_secs_f64();
    let takes = |others: u64, rate: f64| {
        #[allow(clippy::cast_precision_loss, reason = "rows are not that many")]
        let others = others as f64;
        (f64::from(rows) + others) / rate
    };
    let (of_calendar, calendar) = pipeline.map_or((0.0, None), |pipeline| calendar_seconds(rows, pipeline));
    let of_results = pipeline.map_or(0.0, first_looks);
    let owner = takes(beside.owner, of_owner);
    let own = takes(beside.pipeline, of_quota.min(of_limits));
    let seconds = owner.max(own).max(of_calendar);
    let narrowest = match (limits, calendar) {
        (_, Some(dependency)) if of_calendar >= owner.max(own) => Narrowest::Calendar(dependency.to_owned()),
        (Some((rate, narrowest)), _) if rate <= of_quota && own >= owner => narrowest,
        _ => Narrowest::Quota(quota.pipeline.min(quota.owner)),
    };
    Allowed { seconds: seconds + of_results, narrowest }
}

/// How long a batch will take by what is allowed, while nothing of it was measured; none once that is known better.
pub fn estimate(ledger: &Ledger, pipeline: Option<&Pipeline>, allowance: &Allowance) -> Option<EstimateView> {
    // Of a retry nobody knows how much of its rows' calls were made before.
    if ledger.run > 1 {
        return None;
    }
    let Allowed { seconds, narrowest } = allowed(ledger.counts.unfinished(), pipeline, allowance);
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    let (why, dependency) = match narrowest {
        Narrowest::Rate(name, rate) => (format!(" at {}; the limit is `{name}`", calls(rate)), Some(name)),
        Narrowest::Concurrency(name, limit) => {
            (format!("; the limit is `{name}`, which takes {limit} calls at once"), Some(name))
        }
        Narrowest::Calendar(name) => {
            (format!("; the limit is what `{name}` allows in a day or a month"), Some(name))
        }
        Narrowest::Quota(rows) => (format!("; the limit is the quota of {rows} rows a run"), None),
    };
    let sentence = format!("{}{why}", about(span));
    Some(EstimateView { seconds: span.as_secs(), dependency, sentence })
}

/// A rate in the unit in which it is a number that people read.
fn calls(per_second: f64) -> String {
    let shown = |rate: f64, unit: &str| format!("{} calls/{unit}", (rate * 10.0).round() / 10.0);
    match per_second {
        rate if rate >= 1.0 => shown(rate, "s"),
        rate if rate * 60.0 >= 1.0 => shown(rate * 60.0, "min"),
        rate => shown(rate * 3600.0, "h"),
    }
}

fn about(span: Duration) -> String {
    let whole = |seconds: u64, unit: u64| (seconds + unit / 2) / unit;
    match span.as_secs() {
        0..60 => "less than a minute".to_owned(),
        seconds @ 60..5400 => format!("about {} min", whole(seconds, 60)),
        seconds @ 5400..172_800 => format!("about {} h", whole(seconds, 3600)),
        seconds => format!("about {} days", whole(seconds, 86_400)),
    }
}

#[cfg(test)]
mod tests {
    use crate::context::limits_view::Standstill;
    use crate::context::pace::Quota;

    use super::*;

    fn told(rows: u32, limits: &str, step: &str, quota: u32) -> EstimateView {
        let text = format!(
            "name: p\ncsv: {{ columns: [ {{ name: id }} ] }}\ndependencies: {{ crm: {{ base_url: \"http://h\"{limits} }} }}\n\
             steps:\n  - {{ name: one, dependency: crm, request: {{ method: POST, path: /one{step} }} }}\n"
        );
        let pipeline = Pipeline::load("p.yaml", &text, &|_| None).unwrap();
        let allowance = Allowance {
            quota: Quota { owner: quota, pipeline: quota },
            run_share: None,
            run_every: Duration::from_secs(60),
            beside: Beside::default(),
            last_look: None,
            standstill: Standstill::None,
        };
        estimate(&Ledger::new(Some(rows), true, None), Some(&pipeline), &allowance).unwrap()
    }

    #[test]
    fn the_narrowest_limit_is_named() {
        let rate = told(216_000, ", rate: { limit: 20, period: 1s }", "", 1_000_000);
        assert_eq!((rate.seconds, rate.dependency.as_deref()), (10_800, Some("crm")));
        assert_eq!(rate.sentence, "about 3 h at 20 calls/s; the limit is `crm`");
        let slots = told(6000, ", concurrency: 1", "", 1_000_000);
        assert_eq!(slots.sentence, "about 10 min; the limit is `crm`, which takes 1 calls at once");
        let quota = told(1200, ", rate: { limit: 20, period: 1s }", "", 120);
        assert_eq!(quota.sentence, "about 10 min; the limit is the quota of 120 rows a run");
        assert_eq!(quota.dependency, None);
        assert_eq!(
            told(10, ", rate: { limit: 20, period: 1s }", "", 120).sentence.split(';').next(),
            Some("less than a minute")
        );
    }

    #[test]
    fn a_rate_is_a_number_that_people_read() {
        assert_eq!([20.0, 0.5, 0.01].map(calls), ["20 calls/s", "30 calls/min", "36 calls/h"]);
    }
}
