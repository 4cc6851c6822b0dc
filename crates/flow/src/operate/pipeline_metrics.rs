//! Metrics by pipeline, of what a worker has done.

use std::collections::BTreeMap;

use crate::context::services::Services;
use crate::telemetry::metrics::{Family, Value};
use crate::telemetry::worker_counters::{CACHE_LOOKUPS, EXTRACTION_ENDS, LOOKS, OUTCOMES, PipelineMetrics};
use crate::worker::WorkerMetrics;

type ByPipeline = BTreeMap<String, PipelineMetrics>;

/// One family for each metric. Each has samples of every pipeline that is loaded, though nothing of it was counted yet, and of
/// older ones.
pub(super) fn families(services: &Services, worker: &WorkerMetrics) -> Vec<Family> {
    let mut pipelines: ByPipeline = worker.pipelines();
    for pipeline in services.pipelines.iter() {
        pipelines.entry(pipeline.name.clone()).or_default();
    }
    let mut families = Vec::new();
    families.extend(rows(&pipelines));
    families.extend(steps(&pipelines));
    families.extend(extractions(&pipelines));
    families
}

fn rows(pipelines: &ByPipeline) -> [Family; 5] {
    let help = "Time from a batch's upload to the first start of each of its rows.";
    let pending = Family::histogram("penstock.row.pending.duration", "s", help);
    let help = "Time from a row's planned start to its claim by a worker.";
    let queued = Family::histogram("penstock.row.queue.duration", "s", help);
    let help = "Time from a row's claim to the end of its run, waits for limits included.";
    let processing = Family::histogram("penstock.row.process.duration", "s", help);
    let help = "Attempts that this worker settled, by what they came to: `retried` cost an attempt, `returned` did not.";
    let settled = Family::counter("penstock.settled_rows", "{row}", help);
    let help = "Attempts that rows had taken when they ended.";
    let attempts = Family::histogram("penstock.row.attempts", "{attempt}", help);
    [
        alone(pending, pipelines, |metrics| metrics.pending.clone().into()),
        alone(queued, pipelines, |metrics| metrics.queued.clone().into()),
        alone(processing, pipelines, |metrics| metrics.processing.clone().into()),
        labelled(settled, "outcome", &OUTCOMES, pipelines, |metrics| metrics.settled.to_vec()),
        labelled(attempts, "outcome", &OUTCOMES, pipelines, |metrics| metrics.attempts.to_vec()),
    ]
}

fn steps(pipelines: &ByPipeline) -> [Family; 3] {
    let help = "Rows at steps whose answers are kept: `hit` and `waited` made no call, `asked` did, `shared_failure` failed as the row waited for.";
    let lookups = Family::counter("penstock.cache.lookups", "{row}", help);
    let help = "Looks at results that rows wait for, by what they found.";
    let looks = Family::counter("penstock.poll.looks", "{look}", help);
    let help = "Time from a request's answer to the look that found its result.";
    let results = Family::histogram("penstock.poll.duration", "s", help);
    [
        labelled(lookups, "outcome", &CACHE_LOOKUPS, pipelines, |metrics| metrics.lookups.to_vec()),
        labelled(looks, "found", &LOOKS, pipelines, |metrics| metrics.looks.to_vec()),
        alone(results, pipelines, |metrics| metrics.results.clone().into()),
    ]
}

fn extractions(pipelines: &ByPipeline) -> [Family; 3] {
    let help = "Rows that this worker extracted from files.";
    let rows = Family::counter("penstock.extraction.rows", "{row}", help);
    let help = "Bytes of files that this worker extracted.";
    let read = Family::counter("penstock.extraction.read", "By", help);
    let help = "How long extractions took; `interrupted` ones go on from their checkpoint.";
    let took = Family::histogram("penstock.extraction.duration", "s", help);
    [
        alone(rows, pipelines, |metrics| metrics.extracted_rows.into()),
        alone(read, pipelines, |metrics| metrics.extracted_bytes.into()),
        labelled(took, "outcome", &EXTRACTION_ENDS, pipelines, |metrics| metrics.extractions.to_vec()),
    ]
}

/// One sample for each pipeline.
fn alone(mut family: Family, pipelines: &ByPipeline, value: impl Fn(&PipelineMetrics) -> Value) -> Family {
    for (name, metrics) in pipelines {
        family.push([("pipeline", name.as_str())], value(metrics));
    }
    family
}

/// One sample for each pipeline and text of a label; the first values belong to the first texts.
fn labelled<V: Into<Value>>(
    mut family: Family,
    label: &'static str,
    texts: &[&str],
    pipelines: &ByPipeline,
    values: impl Fn(&PipelineMetrics) -> Vec<V>,
) -> Family {
    for (name, metrics) in pipelines {
        for (text, value) in texts.iter().copied().zip(values(metrics)) {
            family.push([("pipeline", name.as_str()), (label, text)], value);
        }
    }
    family
}
