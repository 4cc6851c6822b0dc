//! The queue and the limiter, by `REDIS_URL`.

use std::sync::Arc;

use penstock_downstream::{Limiter, LocalLimiter};
use penstock_queue::{LocalQueue, Queue};

use crate::StartError;
use crate::settings::Settings;

/// The queue, the limiter, and whether both live in this process.
pub(super) type QueueAndLimiter = (Arc<dyn Queue>, Arc<dyn Limiter>, bool);

pub(super) async fn open(settings: &Settings, sqlite: bool) -> Result<QueueAndLimiter, StartError> {
    match &settings.redis_url {
        Some(url) => shared_queue(url).await,
        None if sqlite => Ok((Arc::new(LocalQueue::default()), Arc::new(LocalLimiter::new()), true)),
        None => Err(StartError::misuse(
            "REDIS_URL is not set: services that share a PostgreSQL need a queue and limits that they share too.",
        )),
    }
}

#[cfg(feature = "cluster")]
async fn shared_queue(url: &str) -> Result<QueueAndLimiter, StartError> {
    let queue = penstock_queue::SharedQueue::connect(url)
        .map_err(|error| StartError::misuse(format!("REDIS_URL: {error}")))?;
    let limiter = penstock_downstream::SharedLimiter::connect(url)
        .map_err(|error| StartError::misuse(format!("REDIS_URL: {error}")))?;
    Ok((Arc::new(queue), Arc::new(limiter), false))
}

#[cfg(not(feature = "cluster"))]
async fn shared_queue(_url: &str) -> Result<QueueAndLimiter, StartError> {
    Err(StartError::misuse("this build has no Redis: build with the feature `cluster`."))
}
