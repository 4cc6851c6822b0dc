//! Metrics in Prometheus' text format, and readiness. Labels are pipelines, states and dependencies: few and known.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use penstock_downstream::Caller;
use serde::Serialize;

use crate::engines::Engines;
use crate::process::WorkerFigures;

/// Whether a service is ready, engine by engine.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether all of them answer.
    pub ready: bool,
    /// What the database says.
    pub database: String,
    /// What the queue says.
    pub queue: String,
}

/// Asks the engines.
pub async fn readiness(engines: &Engines) -> Readiness {
    let (database, queue) = tokio::join!(engines.store.ping(), engines.bell.ready());
    let said = |result: Result<(), String>| result.map_or_else(|error| error, |()| "ok".to_owned());
    Readiness {
        ready: database.is_ok() && queue.is_ok(),
        database: said(database.map_err(|error| error.to_string())),
        queue: said(queue.map_err(|error| error.to_string())),
    }
}

/// Renders what is known: the database's figures, and a worker's own.
pub async fn render(engines: &Engines, worker: Option<&WorkerFigures>, caller: Option<&Caller>) -> String {
    let mut out = String::new();
    if let Ok(figures) = engines.store.figures(engines.clock.now()).await {
        head(&mut out, "penstock_rows", "gauge", "Rows of unfinished batches by pipeline and state.");
        for (pipeline, counts) in &figures.by_pipeline {
            for (state, rows) in [
                ("pending", counts.pending),
                ("queued", counts.queued),
                ("processing", counts.processing),
                ("completed", counts.completed),
                ("failed", counts.failed),
                ("cancelled", counts.cancelled),
            ] {
                line(&mut out, "penstock_rows", &[("pipeline", pipeline), ("state", state)], rows);
            }
        }
        head(&mut out, "penstock_batches", "gauge", "Unfinished batches by state.");
        for (state, batches) in [
            ("pending", figures.batches_pending),
            ("processing", figures.batches_processing),
            ("queued", figures.batches_queued),
        ] {
            line(&mut out, "penstock_batches", &[("state", state)], batches);
        }
        head(&mut out, "penstock_callbacks", "gauge", "Callbacks that wait, and that were given up.");
        line(&mut out, "penstock_callbacks", &[("state", "pending")], figures.callbacks_pending);
        line(&mut out, "penstock_callbacks", &[("state", "exhausted")], figures.callbacks_exhausted);
        let recent = figures.callbacks_exhausted_recently;
        let help = "Callbacks of the last five days that were given up.";
        head(&mut out, "penstock_callbacks_exhausted_recently", "gauge", help);
        line(&mut out, "penstock_callbacks_exhausted_recently", &[], recent);
        let help = "Rows whose lease, or whose time in the queue, ran out a while ago.";
        head(&mut out, "penstock_rows_overdue", "gauge", help);
        line(&mut out, "penstock_rows_overdue", &[("reason", "lease_expired")], figures.leases_expired);
        line(&mut out, "penstock_rows_overdue", &[("reason", "lost")], figures.rows_lost);
        let help = "Batches whose file could not be extracted, in the last hour.";
        head(&mut out, "penstock_batches_failed_recently", "gauge", help);
        line(&mut out, "penstock_batches_failed_recently", &[], figures.batches_failed_recently);
        let help = "The greatest share of failed rows of a batch that runs or ended in the last hour.";
        head(&mut out, "penstock_batch_failure_ratio", "gauge", help);
        for (pipeline, ratio) in &figures.failure_ratio {
            line(&mut out, "penstock_batch_failure_ratio", &[("pipeline", pipeline)], ratio);
        }
    }
    if let Ok(backlog) = engines.bell.backlog().await {
        head(&mut out, "penstock_queue_messages", "gauge", "Messages that wait in the queue.");
        line(&mut out, "penstock_queue_messages", &[], backlog);
    }
    if let Ok(runs) = engines.store.runs(1).await
        && let Some(run) = runs.first()
    {
        head(
            &mut out,
            "penstock_dispatcher_last_run_timestamp_seconds",
            "gauge",
            "When the last dispatcher run began.",
        );
        line(&mut out, "penstock_dispatcher_last_run_timestamp_seconds", &[], run.started_at.seconds());
        head(
            &mut out,
            "penstock_dispatcher_last_run_rows",
            "gauge",
            "Rows that the last dispatcher run released.",
        );
        line(&mut out, "penstock_dispatcher_last_run_rows", &[], run.rows);
    }
    if let Some(worker) = worker {
        worker_lines(&mut out, worker);
    }
    if let Some(caller) = caller {
        call_lines(&mut out, engines, caller).await;
    }
    out
}

fn worker_lines(out: &mut String, worker: &WorkerFigures) {
    head(
        out,
        "penstock_worker_rows",
        "gauge",
        "Rows in this worker: heard of, in flight, of these waiting for a limit.",
    );
    line(out, "penstock_worker_rows", &[("state", "heard")], worker.waiting.load(Relaxed));
    line(out, "penstock_worker_rows", &[("state", "in_flight")], worker.in_flight.load(Relaxed));
    line(out, "penstock_worker_rows", &[("state", "limited")], worker.limited.load(Relaxed));
    head(out, "penstock_extracted_rows_total", "counter", "Rows that this worker extracted from files.");
    line(out, "penstock_extracted_rows_total", &[], worker.extracted.load(Relaxed));
    head(out, "penstock_settled_rows_total", "counter", "Rows that this worker settled.");
    line(out, "penstock_settled_rows_total", &[], worker.settled.rows.load(Relaxed));
    head(out, "penstock_settlement_groups_total", "counter", "Groups in which they were written.");
    line(out, "penstock_settlement_groups_total", &[], worker.settled.groups.load(Relaxed));
    head(out, "penstock_lost_leases_total", "counter", "Rows whose lease was lost before they were settled.");
    line(out, "penstock_lost_leases_total", &[], worker.settled.lost.load(Relaxed));
}

async fn call_lines(out: &mut String, engines: &Engines, caller: &Caller) {
    let figures = caller.figures();
    let mut names: Vec<_> = figures.keys().cloned().collect();
    names.sort();
    head(out, "penstock_calls_total", "counter", "Calls by dependency and verdict.");
    for name in &names {
        let verdicts = ["success", "throttled", "retry", "unknown", "fail"];
        for (verdict, calls) in verdicts.iter().zip(figures[name].verdicts) {
            line(out, "penstock_calls_total", &[("dependency", name), ("verdict", verdict)], calls);
        }
    }
    head(out, "penstock_limiter_waits_total", "counter", "Rows that a dependency's limit sent away to wait.");
    for name in &names {
        line(out, "penstock_limiter_waits_total", &[("dependency", name)], figures[name].waits);
    }
    head(out, "penstock_call_seconds_total", "counter", "Time under way in calls.");
    for name in &names {
        #[allow(clippy::cast_precision_loss, reason = "a metric")]
        let seconds = figures[name].elapsed_us as f64 / 1e6;
        line(out, "penstock_call_seconds_total", &[("dependency", name)], seconds);
    }
    head(out, "penstock_breaker_open", "gauge", "1 while a dependency's circuit breaker is not closed.");
    let mut told: Vec<String> = Vec::new();
    for pipeline in engines.pipelines.iter() {
        for dependency in &pipeline.dependencies {
            if told.contains(&dependency.name) {
                continue;
            }
            told.push(dependency.name.clone());
            let open = caller
                .peek(dependency, "")
                .await
                .is_some_and(|gate| gate.breaker != penstock_domain::limit::BreakerState::Closed);
            line(out, "penstock_breaker_open", &[("dependency", &dependency.name)], u8::from(open));
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let labels: Vec<String> = labels
        .iter()
        .map(|(label, text)| format!("{label}=\"{}\"", text.replace(['"', '\\', '\n'], "_")))
        .collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{labels} {value}");
}
