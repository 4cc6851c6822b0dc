//! What grows is cut back: unused uploads, payloads and batches past their time; and what is still under an older key of
//! the keyring is put under the active one.

use std::time::Duration;

use penstock_app::Settings;
use penstock_flow::Services;
use penstock_flow::operate::retention;
use penstock_flow::operate::retention::Retention;
use penstock_flow::operate::rotation;
use tokio_util::sync::CancellationToken;

/// Retention is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    retention: Retention,
    /// An epoch in which a batch was erased ends after this time.
    epoch: Duration,
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
            epoch: Duration::from_secs(u64::from(settings.epoch_hours) * 3600),
        }
    }
}

/// Runs until `stop`.
pub async fn run(services: Services, policy: Policy, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Err(error) = retention::prune(&services, &policy.retention, "operator:retention").await {
            tracing::warn!(%error, "what is past its time was not removed");
        }
        // Not at the start: while services are restarted one after another, some do not have the new key yet.
        match rotation::rewrap(&services, policy.epoch, "operator:rotation").await {
            Ok(done) if done.is_something() => {
                tracing::info!(
                    data_keys = done.data_keys,
                    secrets = done.secrets,
                    definitions = done.definitions,
                    epochs = done.epochs,
                    "put under the active key; epochs that wrap nothing any more were dropped"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "what is under an older key was not put under the active one")
            }
        }
    }
}
