//! The families, collected from where the metrics are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_queue::Lane;
use penstock_store::dispatch::RunRecord;
use penstock_store::operations::Metrics;

use crate::context::pace::usual_interval;
use crate::context::services::Services;
use crate::operate::call_metrics::{calling, limiting};
use crate::operate::pipeline_metrics;
use crate::telemetry::metrics::{Family, RequestMetrics};
use crate::telemetry::worker_counters::DELIVERIES;
use crate::worker::WorkerMetrics;

/// The last runs from which their interval is estimated.
const RUNS: u32 = 11;

/// Everything that a process measures. Cheap to clone.
#[derive(Clone)]
pub struct Sources {
    /// The services.
    pub services: Services,
    /// When the process began.
    pub started_at: Timestamp,
    /// Knows the dependencies' limits as they stand.
    pub caller: Arc<Caller>,
    /// The worker's metrics, where one runs.
    pub worker: Option<Arc<WorkerMetrics>>,
    /// The API's metrics, where it is served.
    pub requests: Option<Arc<RequestMetrics>>,
    /// How many log lines the process has dropped.
    pub dropped_log_lines: fn() -> u64,
}

impl Sources {
    /// What is known now: the database's metrics, the queue's, the limits', and the process' own. What does not answer is
    /// left out.
    pub async fn collect(&self) -> Vec<Family> {
        let services = &self.services;
        let mut families = Vec::new();
        stored(services, &mut families).await;
        queue(services, &mut families).await;
        if let Ok(last) = services.store.runs(RUNS).await {
            runs(&last, services.clock.now(), &mut families);
        }
        if let Some(worker) = &self.worker {
            working(worker, &mut families);
            families.extend(pipeline_metrics::families(services, worker));
            calling(services, &self.caller, &mut families);
        }
        limiting(services, &self.caller, &mut families).await;
        families.extend(self.requests.as_ref().map(|requests| requests.family()));
        self.process(&mut families);
        families
    }

    fn process(&self, families: &mut Vec<Family>) {
        if let Some(bytes) = resident() {
            let help = "Memory of this process that is in use (resident).";
            families.push(Family::gauge("process.memory.usage", "By", help).alone(bytes));
        }
        let help = "1 while what the folder of the definitions holds cannot be used, so that those from before stay in use.";
        let faulty = u64::from(self.services.pipelines.fault().is_some());
        families.push(Family::gauge("penstock.definitions.faulty", "{folder}", help).alone(faulty));
        let uptime = self.services.clock.now().since(self.started_at).as_secs_f64();
        families.push(Family::gauge("process.uptime", "s", "How long this process runs.").alone(uptime));
        let help = "Log lines that were dropped because nobody read standard error.";
        let dropped = (self.dropped_log_lines)();
        families.push(Family::counter("penstock.log.dropped", "{line}", help).alone(dropped));
    }
}

/// Bytes of memory in use, where the system reports it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

async fn stored(services: &Services, families: &mut Vec<Family>) {
    let Ok(metrics) = services.store.metrics(services.clock.now()).await else { return };
    let mut rows =
        Family::gauge("penstock.rows", "{row}", "Rows of unfinished batches by pipeline and state.");
    for (pipeline, counts) in &metrics.by_pipeline {
        for (state, count) in [
            ("pending", counts.pending),
            ("queued", counts.queued),
            ("processing", counts.processing),
            ("completed", counts.completed),
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
        ] {
            rows.push([("pipeline", pipeline.as_str()), ("state", state)], count);
        }
    }
    families.push(rows);
    families.push(
        Family::gauge("penstock.batches", "{batch}", "Unfinished batches by state.")
            .with([("state", "pending")], metrics.batches_pending)
            .with([("state", "processing")], metrics.batches_processing)
            .with([("state", "queued")], metrics.batches_queued),
    );
    let help = "Running batches that stand still: held, or none of whose rows gets through.";
    families.push(
        Family::gauge("penstock.batches.standing", "{batch}", help)
            .with([("reason", "held")], metrics.batches_held)
            .with([("reason", "stalled")], metrics.batches_stalled),
    );
    polling(services, &metrics.polling, families);
    troubled(&metrics, families);
}

/// What somebody may have to look after.
fn troubled(metrics: &Metrics, families: &mut Vec<Family>) {
    families.push(
        Family::gauge("penstock.callbacks", "{callback}", "Callbacks that wait, and that were given up.")
            .with([("state", "pending")], metrics.callbacks_pending)
            .with([("state", "exhausted")], metrics.callbacks_exhausted),
    );
    let help = "Callbacks of the last five days that were given up.";
    families.push(
        Family::gauge("penstock.callbacks.exhausted_recently", "{callback}", help)
            .alone(metrics.callbacks_exhausted_recently),
    );
    let help = "Callbacks that are due since a while, and nobody delivers them.";
    families.push(
        Family::gauge("penstock.callbacks.overdue", "{callback}", help).alone(metrics.callbacks_overdue),
    );
    let help = "Rows whose lease, or whose time in the queue, ran out a while ago.";
    families.push(
        Family::gauge("penstock.rows.overdue", "{row}", help)
            .with([("reason", "lease_expired")], metrics.leases_expired)
            .with([("reason", "lost")], metrics.rows_lost),
    );
    let help = "Batches whose file could not be extracted, in the last hour.";
    families.push(
        Family::gauge("penstock.batches.failed_recently", "{batch}", help)
            .alone(metrics.batches_failed_recently),
    );
    let help = "The greatest share of failed rows of a batch that runs or ended in the last hour.";
    let mut ratio = Family::gauge("penstock.batch.failure", "1", help);
    for (pipeline, share) in &metrics.failure_ratio {
        ratio.push([("pipeline", pipeline.as_str())], *share);
    }
    families.push(ratio);
}

/// Of pipelines that are loaded, though none of their rows waits for a result, and of older ones.
fn polling(services: &Services, counted: &[(String, u32)], families: &mut Vec<Family>) {
    let mut counts: BTreeMap<&str, u32> =
        counted.iter().map(|(pipeline, rows)| (pipeline.as_str(), *rows)).collect();
    let loaded: Vec<String> = services.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
    for pipeline in &loaded {
        counts.entry(pipeline).or_default();
    }
    let help = "Rows of unfinished batches that wait for a result, those that are looked at now included.";
    let mut waiting = Family::gauge("penstock.rows.polling", "{row}", help);
    for (pipeline, rows) in counts {
        waiting.push([("pipeline", pipeline)], rows);
    }
    families.push(waiting);
}

async fn queue(services: &Services, families: &mut Vec<Family>) {
    let Ok(backlog) = services.queue.backlog().await else { return };
    let help =
        "Messages that wait in the queue, by lane: packets of a pipeline's rows, and files to extract.";
    let mut waiting = Family::gauge("penstock.queue.messages", "{message}", help);
    let messages = |lane: &Lane| backlog.get(lane).copied().unwrap_or(0);
    waiting.push([("lane", "extractions")], messages(&Lane::Extractions));
    for pipeline in services.pipelines.iter() {
        let lane = Lane::Rows(pipeline.name.clone());
        waiting.push([("lane", "rows"), ("pipeline", pipeline.name.as_str())], messages(&lane));
    }
    families.push(waiting);
}

/// Of the dispatcher's runs, the last one first.
fn runs(runs: &[RunRecord], now: Timestamp, families: &mut Vec<Family>) {
    let Some(last) = runs.first() else { return };
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let started = last.started_at.seconds() as f64;
    let gauge = |name, unit, help, value: f64| Family::gauge(name, unit, help).alone(value);
    families.extend([
        gauge(
            "penstock.dispatcher.last_run_timestamp",
            "s",
            "When the last dispatcher run began, in seconds since 1970.",
            started,
        ),
        gauge(
            "penstock.dispatcher.last_run_duration",
            "s",
            "How long the last dispatcher run took.",
            last.finished_at.since(last.started_at).as_secs_f64(),
        ),
        gauge(
            "penstock.dispatcher.last_run_rows",
            "{row}",
            "Rows that the last dispatcher run released.",
            f64::from(last.rows),
        ),
        gauge(
            "penstock.dispatcher.last_run_failed",
            "{run}",
            "1 when the last dispatcher run broke off with an error.",
            f64::from(u8::from(last.error.is_some())),
        ),
    ]);
    let Some(usual) = usual_interval(runs) else { return };
    let gap = last.started_at.since(runs[1].started_at).as_secs_f64();
    let late = now.since(last.started_at).saturating_sub(usual).as_secs_f64();
    families.extend([
        gauge(
            "penstock.dispatcher.run_interval",
            "s",
            "Time between the beginnings of the last two dispatcher runs.",
            gap,
        ),
        gauge(
            "penstock.dispatcher.lateness",
            "s",
            "How long the next dispatcher run is overdue, by the median of the last ten intervals.",
            late,
        ),
    ]);
}

fn working(worker: &WorkerMetrics, families: &mut Vec<Family>) {
    let help = "Rows in this worker: heard of, in flight, of these waiting for a limit.";
    families.push(
        Family::gauge("penstock.worker.rows", "{row}", help)
            .with([("state", "heard")], worker.waiting.load(Relaxed))
            .with([("state", "in_flight")], worker.in_flight.load(Relaxed))
            .with([("state", "limited")], worker.limited.load(Relaxed)),
    );
    let groups = worker.groups();
    let help = "Rows that were settled in one transaction.";
    families.push(Family::histogram("penstock.settlement.group.size", "{row}", help).alone(groups.size));
    let help = "How long it took to write a group of settlements.";
    families.push(Family::histogram("penstock.settlement.duration", "s", help).alone(groups.took));
    let help = "Rows whose lease was lost before they were settled.";
    families.push(Family::counter("penstock.lost_leases", "{row}", help).alone(worker.lost.load(Relaxed)));
    let help = "Tries to deliver a callback, by what became of them.";
    let mut deliveries = Family::counter("penstock.callback.deliveries", "{delivery}", help);
    for (outcome, count) in DELIVERIES.into_iter().zip(&worker.deliveries) {
        deliveries.push([("outcome", outcome)], count.load(Relaxed));
    }
    families.push(deliveries);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Value;

    fn run(second: i64) -> RunRecord {
        let at = Timestamp::from_millis(second * 1000);
        RunRecord { started_at: at, finished_at: at, ..RunRecord::default() }
    }

    fn late(seconds: &[i64], now: i64) -> Option<f64> {
        let mut families = Vec::new();
        let records: Vec<RunRecord> = seconds.iter().rev().map(|second| run(*second)).collect();
        runs(&records, Timestamp::from_millis(now * 1000), &mut families);
        let family = families.into_iter().find(|family| family.name == "penstock.dispatcher.lateness")?;
        match family.samples[0].value {
            Value::Number(number) => Some(number),
            Value::Histogram(_) => None,
        }
    }

    #[test]
    fn a_run_is_late_by_the_usual_interval_whatever_the_last_one_was() {
        assert_eq!(late(&[0, 60, 120], 150), Some(0.0));
        assert_eq!(late(&[0, 60, 120], 200), Some(20.0));
        // One that came late, and at once another one behind it.
        assert_eq!(late(&[0, 60, 120, 299, 300], 350), Some(0.0));
        assert_eq!(late(&[0], 1000), None, "nobody knows how often they come");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_in_use_is_reported() {
        assert!(resident().is_some_and(|bytes| bytes > 100 * 1024));
    }
}
