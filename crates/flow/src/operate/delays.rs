//! Says `batch.delayed` to those whose batches wait for a dependency that fails.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::limit::BreakerState;
use penstock_downstream::Caller;
use tokio_util::sync::CancellationToken;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// How often breakers are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Batches of which it is said at a look, at most.
const AT_ONCE: u32 = 100;

/// Looks at every breaker until `stop`.
pub async fn run(services: Services, caller: Arc<Caller>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = round(&services, &caller).await {
            tracing::warn!(%error, "that batches are delayed could not be said; it is tried again");
        }
    }
}

/// One look.
///
/// # Errors
/// When the database fails.
pub async fn round(services: &Services, caller: &Caller) -> Result<(), FlowError> {
    let mut delayed = Vec::new();
    for pipeline in services.pipelines.iter() {
        for dependency in &pipeline.dependencies {
            let gate = caller.peek(dependency, "").await;
            // Half open counts: one that opened and tries again between two looks has held rows up as well.
            if gate.is_some_and(|gate| gate.breaker != BreakerState::Closed) {
                tracing::debug!(
                    pipeline = pipeline.name,
                    dependency = dependency.name,
                    "its breaker is not closed"
                );
                delayed.push(pipeline.name.clone());
                break;
            }
        }
    }
    if !delayed.is_empty() {
        services.store.say_delayed(&delayed, AT_ONCE, services.clock.now()).await?;
    }
    Ok(())
}
