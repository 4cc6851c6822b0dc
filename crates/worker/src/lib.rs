//! A worker: the queue's messages in, rows settled and callbacks delivered out.

pub mod health;

use std::sync::Arc;

use penstock_app::services::process_name;
use penstock_app::{Chosen, Settings, StartError, boot};
use penstock_flow::callbacks::deliver::Deliverer;
use penstock_flow::context::tasks::spawn_part;
use penstock_flow::dispatch::dead_workers::Recovery;
use penstock_flow::operate::alerts::Watch;
use penstock_flow::operate::delays::Delays;
use penstock_flow::operate::limit_use::LimitUseTask;
use penstock_flow::operate::live_limits::LiveLimitsTask;
use penstock_flow::operate::retention::RetentionTask;
use penstock_flow::operate::rotation::RotationTask;
use penstock_flow::operate::samples::Sampling;
use penstock_flow::worker::Worker;
use penstock_flow::worker::observe::Log;
use tokio_util::sync::CancellationToken;

/// A worker with everything that runs beside it.
pub struct Running {
    /// The worker itself, for its metrics.
    pub worker: Arc<Worker>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Starts a worker. It stops when `stop` is cancelled; then [`Running::wait`] ends.
///
/// # Errors
/// When no HTTP client can be made.
pub fn start(chosen: &Chosen, settings: &Settings, stop: &CancellationToken) -> Result<Running, StartError> {
    let services = &chosen.services;
    let policy = chosen.worker_policy(settings, process_name("worker"));
    let recovery = Recovery::new(services.clone(), policy.name.clone(), policy.lost_after);
    let worker = Worker::new(services.clone(), chosen.caller.clone(), policy, Arc::new(Log));
    let (quota, private) = (settings.rows_per_owner, settings.allow_private_callbacks);
    let deliverer = Deliverer::new(services.clone(), quota, private, worker.metrics().clone())
        .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?;
    let handler = worker.queue_handler();
    let queue = services.queue.clone();
    let until = stop.clone();
    let periodic = &services.periodic;
    let mut tasks = vec![
        spawn_part("worker", worker.clone().run(stop.clone()), stop),
        spawn_part("queue", async move { queue.listen(handler, until).await }, stop),
        periodic.start(recovery, stop),
        periodic.start(deliverer, stop),
        periodic.start(LiveLimitsTask::new(services.clone(), chosen.caller.clone()), stop),
        periodic.start(LimitUseTask::new(services.clone(), chosen.caller.clone()), stop),
        periodic.start(Delays::new(services.clone(), chosen.caller.clone()), stop),
        periodic.start(RetentionTask { services: services.clone(), retention: settings.retention() }, stop),
        periodic.start(Sampling { services: services.clone() }, stop),
        periodic.start(RotationTask { services: services.clone(), epoch: settings.epoch() }, stop),
    ];
    if let Some(rules) = boot::alert_rules(settings)? {
        let watch = Watch::new(services.clone(), chosen.caller.clone(), rules)
            .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?;
        tasks.push(periodic.start(watch, stop));
    }
    Ok(Running { worker, tasks })
}

impl Running {
    /// Waits until everything has ended after the stop.
    pub async fn wait(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the worker failed");
            }
        }
    }
}
