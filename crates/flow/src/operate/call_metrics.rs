//! The families about calls and their limits.

use std::collections::BTreeMap;

use penstock_domain::limit::{BreakerState, Reason};
use penstock_domain::pipeline::{Catalog, Dependency};
use penstock_downstream::metrics::{STATUS_CLASSES, VERDICTS};
use penstock_downstream::{CallMetrics, Caller};

use crate::context::services::Services;
use crate::telemetry::metrics::Family;

/// Every dependency that a loaded pipeline has; pipelines that share one by name share its metrics.
fn dependencies(catalog: &Catalog) -> BTreeMap<&str, &Dependency> {
    let all = catalog.iter().flat_map(|pipeline| &pipeline.dependencies);
    all.map(|dependency| (dependency.name.as_str(), dependency)).collect()
}

/// Calls, and what their limits decided.
pub(super) fn calling(services: &Services, caller: &Caller, families: &mut Vec<Family>) {
    let mut metrics: BTreeMap<String, CallMetrics> = caller.metrics().into_iter().collect();
    let catalog = services.pipelines.catalog();
    for name in dependencies(&catalog).into_keys() {
        metrics.entry(name.to_owned()).or_default();
    }
    let mut calls = Family::counter("penstock.calls", "{call}", "Calls by dependency and verdict.");
    let mut durations = Family::histogram(
        "http.client.request.duration",
        "s",
        "How long calls took, from sending to the end of the answer, by its status' class; `none`: no answer came.",
    );
    let mut decisions = Family::counter(
        "penstock.limiter.decisions",
        "{decision}",
        "Calls that a limit let through, and rows that it sent away to wait, by reason.",
    );
    let mut waits = Family::histogram(
        "penstock.limiter.wait.duration",
        "s",
        "How long calls that were let through had waited for their moment.",
    );
    for (name, metrics) in metrics {
        let dependency = ("dependency", name.as_str());
        for (verdict, count) in VERDICTS.into_iter().zip(metrics.verdicts) {
            calls.push([dependency, ("verdict", verdict)], count);
        }
        for (class, took) in STATUS_CLASSES.into_iter().zip(metrics.durations) {
            durations.push([dependency, ("status_class", class)], took);
        }
        decisions.push([dependency, ("outcome", "granted")], metrics.waited.count());
        for (reason, count) in Reason::ALL.iter().zip(metrics.denied) {
            decisions.push([dependency, ("outcome", "denied"), ("reason", reason.code())], count);
        }
        waits.push([dependency], metrics.waited);
    }
    families.extend([calls, durations, decisions, waits]);
}

/// Limits as they stand.
pub(super) async fn limiting(services: &Services, caller: &Caller, families: &mut Vec<Family>) {
    let help = "1 for the state that a dependency's circuit breaker is in.";
    let mut breaker = Family::gauge("penstock.breaker.state", "{breaker}", help);
    let help = "Calls that a dependency's rate allows in a second, as adapted after refusals.";
    let mut allowed = Family::gauge("penstock.limiter.allowed_rate", "{call}", help);
    let help =
        "Share of the configured rate that is used since the dependency slowed us down; 1 is all of it.";
    let mut factor = Family::gauge("penstock.limiter.slow_down", "1", help);
    let help = "How long a dependency is still paused at its own word.";
    let mut paused = Family::gauge("penstock.limiter.paused", "s", help);
    let help =
        "Calls that a dependency's `concurrency` allows at once, and those of them that are under way.";
    let mut slots = Family::gauge("penstock.limiter.slots", "{call}", help);
    let catalog = services.pipelines.catalog();
    for (name, dependency) in dependencies(&catalog) {
        let label = ("dependency", name);
        let seen = caller.peek(dependency, "").await;
        let state = seen.map_or(BreakerState::Closed, |seen| seen.breaker);
        for (one, word) in BreakerState::ALL {
            breaker.push([label, ("state", word)], u32::from(one == state));
        }
        let Some(seen) = seen else { continue };
        paused.push([label], seen.paused_for.as_secs_f64());
        if let Some(rate) = rate_of(dependency) {
            allowed.push([label], rate * seen.factor);
            factor.push([label], seen.factor);
        }
        if let Some(limit) = dependency.concurrency.as_ref().filter(|limit| !limit.per_owner) {
            slots.push([label, ("state", "allowed")], limit.limit);
            slots.push([label, ("state", "used")], seen.in_flight);
        }
    }
    families.extend([breaker, allowed, factor, paused, slots]);
}

fn rate_of(dependency: &Dependency) -> Option<f64> {
    let rate = dependency.rate.as_ref().filter(|rate| !rate.per_owner)?;
    Some(rate.per_second())
}
