//! What grows is cut back: the queue's finished entries, unused uploads, payloads and batches past their time.

use std::time::Duration;

use penstock_app::Settings;
use penstock_flow::Engines;
use penstock_flow::retention::{self, Retention};
use tokio_util::sync::CancellationToken;

/// The queue is tidied this often.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// Retention is looked at once in so many tidyings.
const RETENTION_EVERY: u32 = 60;

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    retention: Retention,
}

impl Policy {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Self {
        let days = |days: Option<u32>| days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
        Self {
            retention: Retention {
                erase_after: days(settings.erase_after_days),
                delete_after: days(settings.delete_after_days),
            },
        }
    }
}

/// Runs until `stop`.
pub async fn run(engines: Engines, policy: Policy, stop: CancellationToken) {
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TIDY_EVERY) => {}
        }
        if let Err(error) = engines.bell.tidy().await {
            tracing::debug!(%error, "the queue was not tidied");
        }
        if round.is_multiple_of(RETENTION_EVERY)
            && let Err(error) = retention::prune(&engines, &policy.retention, "operator:retention").await
        {
            tracing::warn!(%error, "what is past its time was not removed");
        }
        round = round.wrapping_add(1);
    }
}
