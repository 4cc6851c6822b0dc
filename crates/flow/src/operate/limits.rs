//! The limits of dependencies as they stand, and what an operator changes of them while services run.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::cause::Cause;
use penstock_domain::limit::BreakerState;
use penstock_domain::pipeline::{Dependency, Pipeline, Rate, Window};
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::limits::{LimitChange, LimitSetting, LimitUse};
use penstock_store::operations::AuditEntry;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::operate::dependencies;
use crate::operate::limit_use::minute_of;
use crate::read::pipelines::rate;

/// How far back the use of limits is shown: an hour, with the minute that has begun.
const HOUR: Duration = Duration::from_secs(59 * 60);

/// What an operator has set, for the document: the store knows of none.
#[allow(dead_code, reason = "it describes `LimitSetting`")]
#[derive(ToSchema)]
#[schema(as = LimitSetting)]
pub struct SettingView {
    /// The dependency's name.
    dependency: String,
    /// Calls in a period; none: as the definition says.
    limit: Option<u32>,
    /// Calls at once; none: as the definition says.
    concurrency: Option<u32>,
    /// Whether nobody calls it.
    paused: bool,
    /// When it was changed.
    #[schema(value_type = String, format = DateTime)]
    changed_at: Timestamp,
}

/// How a dependency's limits stand now, as far as the limiter answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitState {
    /// `closed` (it is called), `half open` (a few calls try it) or `open` (it is not called).
    pub breaker: &'static str,
    /// Until when it asked not to be called.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub paused_until: Option<Timestamp>,
    /// When the next call may leave; none: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub free_at: Option<Timestamp>,
    /// The share of its rate that is used now, above 0 and up to 1: less after answers that it is called too often.
    pub share: f64,
    /// Calls under way; counted only where they are limited.
    pub in_flight: usize,
    /// Why the last call failed, unless one has succeeded since.
    pub cause: Option<String>,
}

/// Calls in a minute of the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsedMinute {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub minute: Timestamp,
    /// Calls that were made.
    pub calls: u64,
    /// Those of them that were refused for being too many.
    pub throttled: u64,
}

/// A dependency's limits.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitView {
    /// Its name.
    pub dependency: String,
    /// A pipeline that calls it.
    pub pipeline: String,
    /// Its limits as the definition has them, in words.
    pub limits: Vec<String>,
    /// Calls under way at most, as the definition has it; none: any number.
    pub concurrency: Option<u32>,
    /// What an operator has set; none: the definition counts.
    #[schema(value_type = Option<SettingView>)]
    pub set: Option<LimitSetting>,
    /// Calls that its rates allow in a minute, as they are set now: of a rate with a longer period all that may be made at once
    /// there. None: any number, or rates that are each owner's or each value's own.
    pub allowed_per_minute: Option<f64>,
    /// Calls in the minutes of the last hour, as workers wrote them down; minutes without any are left out.
    pub last_hour: Vec<UsedMinute>,
    /// How they stand; none when the limiter does not answer.
    pub state: Option<LimitState>,
}

/// The limits of every dependency that is not each owner's own, by name.
///
/// # Errors
/// When the database fails.
pub async fn all(services: &Services, caller: Option<&Caller>) -> Result<Vec<LimitView>, FlowError> {
    let set = services.store.limit_settings().await?;
    let now = services.clock.now();
    let used = services.store.limit_use(minute_of(now) - HOUR).await?;
    let mut views = Vec::new();
    let pipelines: Vec<_> = services.pipelines.iter().collect();
    for (pipeline, dependency) in dependencies::all(pipelines.iter()).into_values() {
        let seen = match caller {
            Some(caller) => caller.peek(dependency, "").await,
            None => None,
        };
        let later = |span: Duration| (!span.is_zero()).then(|| services.clock.now() + span);
        let state = seen.map(|seen| LimitState {
            breaker: match seen.breaker {
                BreakerState::Closed => "closed",
                BreakerState::HalfOpen => "half open",
                BreakerState::Open => "open",
            },
            paused_until: later(seen.paused_for.max(seen.used_up_for)),
            free_at: later(seen.free_in),
            share: seen.factor,
            in_flight: seen.in_flight,
            cause: seen.cause.map(Cause::sentence).map(str::to_owned),
        });
        views.push(LimitView {
            dependency: dependency.name.clone(),
            pipeline: pipeline.name.clone(),
            limits: dependency.rate.iter().chain(&dependency.more).map(rate).collect(),
            concurrency: dependency.concurrency.map(|concurrency| concurrency.limit),
            allowed_per_minute: allowed(dependency, set.iter().find(|set| set.dependency == dependency.name)),
            last_hour: last_hour(&used, &dependency.name),
            set: set.iter().find(|setting| setting.dependency == dependency.name).cloned(),
            state,
        });
    }
    views.sort_by(|one, another| one.dependency.cmp(&another.dependency));
    Ok(views)
}

/// Calls that the tightest of its rates allows in a minute.
fn allowed(dependency: &Dependency, set: Option<&LimitSetting>) -> Option<f64> {
    let shared = |rate: &&Rate| rate.name.is_none() && !rate.per_owner && rate.per.is_none();
    // What an operator sets is the limit of the first one.
    let first = dependency.rate.as_ref();
    let limits = first.into_iter().chain(&dependency.more).filter(shared).map(|rate| {
        let set = set.and_then(|set| set.limit).filter(|_| first.is_some_and(|first| first.id == rate.id));
        in_a_minute(rate, set.unwrap_or(rate.limit))
    });
    limits.reduce(f64::min)
}

/// Calls that a rate with that limit lets through in a minute.
fn in_a_minute(rate: &Rate, limit: u32) -> f64 {
    let (limit, periods) = (f64::from(limit), 60.0 / rate.period.as_secs_f64().max(f64::EPSILON));
    let burst = f64::from(rate.burst).min(limit);
    match rate.window {
        _ if periods >= 1.0 => limit * periods,
        Window::Calendar { spread: false, .. } => limit,
        Window::Calendar { spread: true, .. } => limit * periods,
        Window::Sliding => burst + (limit - burst) * periods,
        Window::Bucket => burst + limit * periods,
    }
}

fn last_hour(used: &[LimitUse], dependency: &str) -> Vec<UsedMinute> {
    let of_it = used.iter().filter(|used| used.dependency == dependency);
    of_it
        .map(|used| UsedMinute { minute: used.minute, calls: used.calls, throttled: used.throttled })
        .collect()
}

/// Changes what is set of a dependency; none when no pipeline has one of that name. Who did it is written down.
///
/// # Errors
/// When the database fails.
pub async fn change(
    services: &Services,
    dependency: &str,
    change: LimitChange,
    actor: &str,
) -> Result<Option<LimitSetting>, FlowError> {
    let has = |pipeline: Arc<Pipeline>| pipeline.dependencies.iter().any(|known| known.name == dependency);
    if !services.pipelines.iter().any(has) {
        return Ok(None);
    }
    let setting = services.store.change_limits(dependency, &change, services.clock.now()).await?;
    let action = match change.paused {
        Some(true) => "limits.pause",
        Some(false) if change.limit.is_none() && change.concurrency.is_none() => "limits.resume",
        _ => "limits.set",
    };
    let words = serde_json::json!({
        "limit": setting.limit, "concurrency": setting.concurrency, "paused": setting.paused
    });
    record(services, action, format!("{dependency}: {words}"), actor).await?;
    Ok(Some(setting))
}

/// Removes what is set of a dependency: whether anything was.
///
/// # Errors
/// When the database fails.
pub async fn reset(services: &Services, dependency: &str, actor: &str) -> Result<bool, FlowError> {
    let was_set = services.store.reset_limits(dependency).await?;
    if was_set {
        record(services, "limits.reset", dependency.to_owned(), actor).await?;
    }
    Ok(was_set)
}

async fn record(services: &Services, action: &str, detail: String, actor: &str) -> Result<(), FlowError> {
    let entry = AuditEntry {
        id: 0,
        at: services.clock.now(),
        actor: actor.to_owned(),
        action: action.to_owned(),
        batch: None,
        detail: Some(detail),
    };
    Ok(services.store.audit(&entry).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_a_longer_period_has_what_may_be_made_at_once() {
        let allowed = |rate: &str| {
            let text = format!(
                "name: p\ncsv: {{ columns: [ {{ name: id }} ] }}\ndependencies: {{ api: {{ base_url: \"http://h\", rate: {rate} }} }}\nsteps: []\n"
            );
            let pipeline = Pipeline::load("p.yaml", &text, &|_| None).expect("a definition");
            super::allowed(&pipeline.dependencies[0], None)
        };
        for (rate, calls) in [
            ("{ limit: 5, period: 1s, burst: 10 }", 300.0),
            ("{ limit: 100, period: 10s, burst: 10, window: sliding }", 600.0),
            ("{ limit: 600, period: 1h, burst: 80 }", 90.0),
            ("{ limit: 680, period: 1h, burst: 80, window: sliding }", 90.0),
            ("{ limit: 1440, period: 1d, window: calendar }", 1440.0),
            ("{ limit: 1440, period: 1d, window: calendar, spread: true }", 1.0),
            ("[{ limit: 40000, period: 1d, window: calendar }, { limit: 20, period: 1s }]", 1200.0),
        ] {
            assert!((allowed(rate).expect("a limit") - calls).abs() < 1e-6, "{rate}: {:?}", allowed(rate));
        }
        assert_eq!(allowed("{ limit: 5, period: 1s, per_owner: true }"), None);
    }
}
