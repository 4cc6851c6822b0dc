//! What is counted and gauged. Labels are pipelines, states and dependencies: few and known.
//!
//! Names are OpenTelemetry's; Prometheus' come from them by the rules of
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>: `penstock.calls`, a counter of
//! `{call}`, is `penstock_calls_total` there.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use penstock_domain::limit::BreakerState;
use penstock_domain::pipeline::Dependency;
use penstock_downstream::{CallFigures, Caller};

use crate::engines::Engines;
use crate::process::WorkerFigures;
use crate::settle::OUTCOMES;

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It grows while its process lives.
    Counter,
    /// It is what it is now.
    Gauge,
}

/// Values of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// OpenTelemetry's name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Unit after UCUM: `s`, `1`, or `{what is counted}`.
    pub unit: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Values by labels.
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Family {
    fn new(name: &'static str, kind: Kind, unit: &'static str, help: &'static str) -> Self {
        Self { name, kind, unit, help, samples: Vec::new() }
    }

    fn with<'a>(mut self, labels: impl IntoIterator<Item = (&'static str, &'a str)>, value: f64) -> Self {
        let labels = labels.into_iter().map(|(label, text)| (label, text.to_owned())).collect();
        self.samples.push(Sample { labels, value });
        self
    }

    fn alone(self, value: f64) -> Self {
        self.with([], value)
    }

    /// Prometheus' name.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "1" if self.kind == Kind::Gauge => name.push_str("_ratio"),
            _ => {}
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// Prometheus' text format, version 0.0.4.
#[must_use]
pub fn render(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        let name = family.prometheus_name();
        let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
        for sample in &family.samples {
            let labels: Vec<String> = sample
                .labels
                .iter()
                .map(|(label, text)| format!("{label}=\"{}\"", text.replace(['"', '\\', '\n'], "_")))
                .collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(out, "{name}{labels} {}", sample.value);
        }
    }
    out
}

/// Collects what is known: the database's figures, the queue's, and a worker's own.
pub async fn collect(
    engines: &Engines,
    worker: Option<&WorkerFigures>,
    caller: Option<&Caller>,
) -> Vec<Family> {
    let mut families = Vec::new();
    stored(engines, &mut families).await;
    if let Ok(backlog) = engines.bell.backlog().await {
        let help = "Messages that wait in the queue, by pipeline.";
        let mut waiting = Family::new("penstock.queue.messages", Kind::Gauge, "{message}", help);
        for pipeline in engines.pipelines.iter() {
            let messages = backlog.get(&pipeline.name).copied().unwrap_or(0);
            waiting = waiting.with([("pipeline", pipeline.name.as_str())], float(messages));
        }
        families.push(waiting);
    }
    runs(engines, &mut families).await;
    if let Some(worker) = worker {
        working(worker, &mut families);
    }
    if let Some(caller) = caller {
        calling(caller, &mut families);
        limiting(engines, caller, &mut families).await;
    }
    families
}

async fn stored(engines: &Engines, families: &mut Vec<Family>) {
    let Ok(figures) = engines.store.figures(engines.clock.now()).await else { return };
    let help = "Rows of unfinished batches by pipeline and state.";
    let mut rows = Family::new("penstock.rows", Kind::Gauge, "{row}", help);
    for (pipeline, counts) in &figures.by_pipeline {
        for (state, count) in [
            ("pending", counts.pending),
            ("queued", counts.queued),
            ("processing", counts.processing),
            ("completed", counts.completed),
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
        ] {
            rows = rows.with([("pipeline", pipeline.as_str()), ("state", state)], f64::from(count));
        }
    }
    families.push(rows);
    let help = "Unfinished batches by state.";
    families.push(
        Family::new("penstock.batches", Kind::Gauge, "{batch}", help)
            .with([("state", "pending")], float(figures.batches_pending))
            .with([("state", "processing")], float(figures.batches_processing))
            .with([("state", "queued")], float(figures.batches_queued)),
    );
    let help = "Callbacks that wait, and that were given up.";
    families.push(
        Family::new("penstock.callbacks", Kind::Gauge, "{callback}", help)
            .with([("state", "pending")], float(figures.callbacks_pending))
            .with([("state", "exhausted")], float(figures.callbacks_exhausted)),
    );
    let help = "Callbacks of the last five days that were given up.";
    families.push(
        Family::new("penstock.callbacks.exhausted_recently", Kind::Gauge, "{callback}", help)
            .alone(float(figures.callbacks_exhausted_recently)),
    );
    let help = "Rows whose lease, or whose time in the queue, ran out a while ago.";
    families.push(
        Family::new("penstock.rows.overdue", Kind::Gauge, "{row}", help)
            .with([("reason", "lease_expired")], float(figures.leases_expired))
            .with([("reason", "lost")], float(figures.rows_lost)),
    );
    let help = "Batches whose file could not be extracted, in the last hour.";
    families.push(
        Family::new("penstock.batches.failed_recently", Kind::Gauge, "{batch}", help)
            .alone(float(figures.batches_failed_recently)),
    );
    let help = "The greatest share of failed rows of a batch that runs or ended in the last hour.";
    let mut ratio = Family::new("penstock.batch.failure", Kind::Gauge, "1", help);
    for (pipeline, share) in &figures.failure_ratio {
        ratio = ratio.with([("pipeline", pipeline.as_str())], *share);
    }
    families.push(ratio);
}

async fn runs(engines: &Engines, families: &mut Vec<Family>) {
    let Ok(runs) = engines.store.runs(2).await else { return };
    let Some(last) = runs.first() else { return };
    let name = "penstock.dispatcher.last_run_timestamp";
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let started = last.started_at.seconds() as f64;
    families.push(Family::new(name, Kind::Gauge, "s", "When the last dispatcher run began.").alone(started));
    let name = "penstock.dispatcher.last_run_rows";
    let help = "Rows that the last dispatcher run released.";
    families.push(Family::new(name, Kind::Gauge, "{row}", help).alone(float(last.rows)));
    let name = "penstock.dispatcher.last_run_duration";
    let took = last.finished_at.since(last.started_at).as_secs_f64();
    families.push(Family::new(name, Kind::Gauge, "s", "How long the last dispatcher run took.").alone(took));
    if let Some(before) = runs.get(1) {
        let name = "penstock.dispatcher.run_interval";
        let gap = last.started_at.since(before.started_at).as_secs_f64();
        let help = "Time between the last two dispatcher runs' beginnings.";
        families.push(Family::new(name, Kind::Gauge, "s", help).alone(gap));
    }
}

fn working(worker: &WorkerFigures, families: &mut Vec<Family>) {
    let load = |counter: &AtomicU64| float(counter.load(Relaxed));
    let seconds = |counter: &AtomicU64| load(counter) / 1e3;
    let help = "Rows in this worker: heard of, in flight, of these waiting for a limit.";
    families.push(
        Family::new("penstock.worker.rows", Kind::Gauge, "{row}", help)
            .with([("state", "heard")], float(worker.waiting.load(Relaxed) as u64))
            .with([("state", "in_flight")], float(worker.in_flight.load(Relaxed) as u64))
            .with([("state", "limited")], float(worker.limited.load(Relaxed) as u64)),
    );
    let counter = |name, unit, help| Family::new(name, Kind::Counter, unit, help);
    families.push(
        counter("penstock.row.state_exits", "{row}", "Rows that left a state in this worker.")
            .with([("state", "queued")], load(&worker.claimed))
            .with([("state", "processing")], load(&worker.processed)),
    );
    let help = "Time that those rows had spent in it; queued: after their planned start.";
    families.push(
        counter("penstock.row.state_time", "s", help)
            .with([("state", "queued")], seconds(&worker.queued_ms))
            .with([("state", "processing")], seconds(&worker.processing_ms)),
    );
    let help = "Rows that this worker extracted from files.";
    families.push(counter("penstock.extracted_rows", "{row}", help).alone(load(&worker.extracted)));
    let help = "Attempts that this worker settled, by what they came to.";
    let mut settled = counter("penstock.settled_rows", "{row}", help);
    for (outcome, rows) in OUTCOMES.iter().zip(&worker.settled.rows) {
        settled = settled.with([("outcome", *outcome)], load(rows));
    }
    families.push(settled);
    let help = "Groups in which they were written.";
    families.push(counter("penstock.settlement_groups", "{group}", help).alone(load(&worker.settled.groups)));
    let help = "Rows whose lease was lost before they were settled.";
    families.push(counter("penstock.lost_leases", "{row}", help).alone(load(&worker.settled.lost)));
}

fn calling(caller: &Caller, families: &mut Vec<Family>) {
    let figures = caller.figures();
    let mut names: Vec<_> = figures.keys().cloned().collect();
    names.sort();
    let mut calls =
        Family::new("penstock.calls", Kind::Counter, "{call}", "Calls by dependency and verdict.");
    for name in &names {
        let verdicts = ["success", "throttled", "retry", "unknown", "fail"];
        for (verdict, count) in verdicts.into_iter().zip(figures[name].verdicts) {
            calls = calls.with([("dependency", name.as_str()), ("verdict", verdict)], float(count));
        }
    }
    families.push(calls);
    let each = |name, unit, help, value: &dyn Fn(&CallFigures) -> f64| {
        names.iter().fold(Family::new(name, Kind::Counter, unit, help), |family, name| {
            family.with([("dependency", name.as_str())], value(&figures[name]))
        })
    };
    let help = "Rows that a dependency's limit sent away to wait.";
    families.push(each("penstock.limiter.waits", "{row}", help, &|of| float(of.waits)));
    let help = "Time that granted calls had waited for their moment.";
    families.push(each("penstock.limiter.wait", "s", help, &|of| float(of.waited_us) / 1e6));
    families.push(each("penstock.call", "s", "Time under way in calls.", &|of| float(of.elapsed_us) / 1e6));
}

async fn limiting(engines: &Engines, caller: &Caller, families: &mut Vec<Family>) {
    let gauge = |name, unit, help| Family::new(name, Kind::Gauge, unit, help);
    let help = "1 while a dependency's circuit breaker is not closed.";
    let mut breaker = gauge("penstock.breaker.open", "{breaker}", help);
    let help = "Calls that a dependency's rate allows in a second, slow-downs included.";
    let mut allowed = gauge("penstock.limiter.allowed_rate", "{call}", help);
    let help =
        "Share of the configured rate that is used since the dependency slowed us down; 1 is all of it.";
    let mut factor = gauge("penstock.limiter.slow_down", "1", help);
    let help = "How long a dependency is still paused at its own word.";
    let mut paused = gauge("penstock.limiter.paused", "s", help);
    let mut told: Vec<&str> = Vec::new();
    for dependency in engines.pipelines.iter().flat_map(|pipeline| &pipeline.dependencies) {
        if told.contains(&dependency.name.as_str()) {
            continue;
        }
        told.push(&dependency.name);
        let label = [("dependency", dependency.name.as_str())];
        let seen = caller.peek(dependency, "").await;
        let open = seen.is_some_and(|seen| seen.breaker != BreakerState::Closed);
        breaker = breaker.with(label, f64::from(u8::from(open)));
        if let Some(seen) = seen {
            paused = paused.with(label, seen.paused_for.as_secs_f64());
            if let Some(rate) = rate_of(dependency) {
                allowed = allowed.with(label, rate * seen.factor);
                factor = factor.with(label, seen.factor);
            }
        }
    }
    families.extend([breaker, allowed, factor, paused]);
}

fn rate_of(dependency: &Dependency) -> Option<f64> {
    let rate = dependency.rate.as_ref().filter(|rate| !rate.per_owner)?;
    Some(f64::from(rate.limit) / rate.period.as_secs_f64())
}

#[allow(clippy::cast_precision_loss, reason = "figures, not keys")]
fn float(value: impl Into<u64>) -> f64 {
    value.into() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_both_worlds() {
        let name = |name, kind, unit| Family::new(name, kind, unit, "").prometheus_name();
        assert_eq!(name("penstock.calls", Kind::Counter, "{call}"), "penstock_calls_total");
        assert_eq!(name("penstock.call", Kind::Counter, "s"), "penstock_call_seconds_total");
        assert_eq!(name("penstock.batch.failure", Kind::Gauge, "1"), "penstock_batch_failure_ratio");
        assert_eq!(name("penstock.rows", Kind::Gauge, "{row}"), "penstock_rows");
    }

    #[test]
    fn labels_cannot_break_the_format() {
        let family = Family::new("a", Kind::Gauge, "", "what").with([("b", "x\"y\n")], 1.5);
        assert_eq!(render(&[family]), "# HELP a what\n# TYPE a gauge\na{b=\"x_y_\"} 1.5\n");
    }
}
