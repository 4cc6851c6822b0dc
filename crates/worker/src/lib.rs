//! A worker: the queue's messages in, rows settled and callbacks delivered out.

pub mod health;
pub mod janitor;

use std::sync::Arc;

use penstock_app::engines::process_name;
use penstock_app::{Chosen, Settings, StartError, boot};
use penstock_flow::alerts::Watch;
use penstock_flow::callbacks::Deliverer;
use penstock_flow::delays;
use penstock_flow::process::Worker;
use penstock_flow::process::observe::Log;
use tokio_util::sync::CancellationToken;

/// A worker with everything that runs beside it.
pub struct Running {
    /// The worker itself, for its figures.
    pub worker: Arc<Worker>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Starts a worker. It stops when `stop` is cancelled; then [`Running::wait`] ends.
///
/// # Errors
/// When no HTTP client can be made.
pub fn start(chosen: &Chosen, settings: &Settings, stop: &CancellationToken) -> Result<Running, StartError> {
    let engines = &chosen.engines;
    let policy = chosen.worker_policy(settings, process_name("worker"));
    let worker = Worker::new(engines.clone(), chosen.caller.clone(), policy, Arc::new(Log));
    let (quota, private) = (settings.rows_per_owner, settings.allow_private_callbacks);
    let deliverer = Deliverer::new(engines.clone(), quota, private, worker.figures().clone())
        .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?;
    let handler = worker.ears();
    let bell = engines.bell.clone();
    let mut tasks = vec![
        tokio::spawn(worker.clone().run(stop.clone())),
        tokio::spawn({
            let stop = stop.clone();
            async move { bell.listen(handler, stop).await }
        }),
        tokio::spawn(deliverer.run(stop.clone())),
        tokio::spawn(delays::run(engines.clone(), chosen.caller.clone(), stop.clone())),
        tokio::spawn(janitor::run(engines.clone(), janitor::Policy::of(settings), stop.clone())),
    ];
    if let Some(rules) = boot::alert_rules(settings)? {
        let watch = Watch::new(engines.clone(), chosen.caller.clone(), rules)
            .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?;
        tasks.push(tokio::spawn(watch.run(stop.clone())));
    }
    Ok(Running { worker, tasks })
}

impl Running {
    /// Waits until everything has ended after the stop.
    pub async fn wait(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the worker ended badly");
            }
        }
    }
}
