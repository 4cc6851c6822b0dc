//! The queue and the limiter, by `REDIS_URL`.

use std::sync::Arc;

use penstock_downstream::{Limiter, LocalLimiter};
use penstock_queue::{LocalQueue, Queue};
use penstock_store::Store;

use crate::StartError;
use crate::settings::Settings;

/// The queue, the limiter, and whether both live in this process.
pub(super) type QueueAndLimiter = (Arc<dyn Queue>, Arc<dyn Limiter>, bool);

pub(super) fn open(
    settings: &Settings,
    sqlite: bool,
    store: &Arc<dyn Store>,
) -> Result<QueueAndLimiter, StartError> {
    match &settings.redis_url {
        Some(url) => shared_queue(url, settings.redis_prefix.as_deref(), store.clone()),
        None if sqlite => Ok((Arc::new(LocalQueue::default()), Arc::new(LocalLimiter::new()), true)),
        None => Err(StartError::misuse(
            "REDIS_URL is not set: services that share a PostgreSQL need a queue and limits that they share too.",
        )),
    }
}

#[cfg(feature = "cluster")]
fn shared_queue(
    url: &str,
    prefix: Option<&str>,
    store: Arc<dyn Store>,
) -> Result<QueueAndLimiter, StartError> {
    use penstock_redis::Prefix;

    let prefix = match prefix.filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => Prefix::new(prefix)
            .map_err(|error| StartError::misuse(format!("PENSTOCK_REDIS_PREFIX: {error}.")))?,
        None => Prefix::of_installation(move || {
            let store = store.clone();
            Box::pin(async move { store.installation().await.map_err(|error| error.to_string()) })
        }),
    };
    let queue = penstock_queue::SharedQueue::connect(url, prefix.clone())
        .map_err(|error| StartError::misuse(format!("REDIS_URL: {error}")))?;
    let limiter = penstock_downstream::SharedLimiter::connect(url, prefix)
        .map_err(|error| StartError::misuse(format!("REDIS_URL: {error}")))?;
    Ok((Arc::new(queue), Arc::new(limiter), false))
}

#[cfg(not(feature = "cluster"))]
fn shared_queue(_: &str, _: Option<&str>, _: Arc<dyn Store>) -> Result<QueueAndLimiter, StartError> {
    Err(StartError::misuse("this build has no Redis: build with the feature `cluster`."))
}
