//! A worker: the queue's messages in, rows settled and callbacks delivered out.

pub mod health;
pub mod janitor;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
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
        part(worker.clone().run(stop.clone()), stop),
        part(
            {
                let stop = stop.clone();
                async move { bell.listen(handler, stop).await }
            },
            stop,
        ),
        part(deliverer.run(stop.clone()), stop),
        part(delays::run(engines.clone(), chosen.caller.clone(), stop.clone()), stop),
        part(janitor::run(engines.clone(), janitor::Policy::of(settings), stop.clone()), stop),
    ];
    if let Some(rules) = boot::alert_rules(settings)? {
        let watch = Watch::new(engines.clone(), chosen.caller.clone(), rules)
            .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?;
        tasks.push(part(watch.run(stop.clone()), stop));
    }
    Ok(Running { worker, tasks })
}

/// Runs a part of the worker. One that fails by a defect stops the others, in order: somebody starts the process again,
/// while a worker without one of its parts would go on holding what it cannot carry.
fn part(
    work: impl Future<Output = ()> + Send + 'static,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!("a part of the worker failed: a defect, please report it; the worker stops");
            stop.cancel();
        }
    })
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
