//! The dispatcher's runs: one, or one after another for machines without cron.

use std::time::Duration;

use penstock_flow::context::periodic::{Schedule, Task};
use penstock_flow::dispatch::{DispatchPolicy, RunReport, dead_workers, run};
use penstock_flow::telemetry::traces::dispatcher_run;
use penstock_flow::{FlowError, Services};
use tracing::Instrument as _;

/// A run in a line, for people.
pub fn sentence(report: &RunReport) -> String {
    if report.locked_out {
        return "another dispatcher run holds the lock; nothing to do".to_owned();
    }
    let record = &report.record;
    let swept = &record.swept;
    let verb = if report.dry_run { "would release" } else { "released" };
    let mut line =
        format!("{verb} {} rows of {} owners in {} messages", record.rows, record.owners, record.messages);
    if record.held_back > 0 {
        line.push_str(&format!(" ({} held back)", record.held_back));
    }
    let fixed = swept.lost_rows + swept.expired_rows + swept.finished;
    if fixed > 0 || !swept.extractions.is_empty() {
        line.push_str(&format!(
            "; swept {} lost and {} expired rows, {} finishes, {} extractions",
            swept.lost_rows,
            swept.expired_rows,
            swept.finished,
            swept.extractions.len()
        ));
    }
    if swept.crashed_rows > 0 {
        line.push_str(&format!("; {} expired rows failed as worker_crashed", swept.crashed_rows));
    }
    if swept.unknown_rows > 0 {
        line.push_str(&format!("; {} expired rows failed as outcome_unknown", swept.unknown_rows));
    }
    if swept.overdue_rows > 0 {
        line.push_str(&format!("; {} waiting rows failed: their deadline passed", swept.overdue_rows));
    }
    line
}

/// Runs, one after another.
pub struct Runs {
    /// The services.
    pub services: Services,
    /// How rows are measured out.
    pub policy: DispatchPolicy,
    /// From the start of a run to the start of the next one.
    pub every: Duration,
}

impl Task for Runs {
    const NAME: &'static str = "dispatcher";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::from_start(self.every)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        let Self { services, policy, .. } = self;
        let span = dispatcher_run(services.traces.as_ref());
        let run = async {
            let report = run::run(services, policy, false).await?;
            if report.record.rows > 0 {
                tracing::info!("{}", sentence(&report));
            } else {
                tracing::debug!("{}", sentence(&report));
            }
            Ok(())
        };
        run.instrument(span).await
    }
}

/// One run.
///
/// # Errors
/// When an engine fails.
pub async fn once(
    services: &Services,
    policy: &DispatchPolicy,
    dry_run: bool,
) -> Result<RunReport, FlowError> {
    let run = async {
        let report = run::run(services, policy, dry_run).await?;
        // Where no worker lives that would look for dead ones, nobody else does until the next run.
        if policy.looks_for_dead && !dry_run && !report.locked_out {
            dead_workers::linger(services).await?;
            dead_workers::reclaim(services, policy.lost_after).await?;
        }
        Ok(report)
    };
    run.instrument(dispatcher_run(services.traces.as_ref())).await
}
