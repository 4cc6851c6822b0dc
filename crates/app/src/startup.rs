//! Waiting for engines that start later, without a crash loop.

use std::time::Duration;

use penstock_flow::Engines;
use tokio_util::sync::CancellationToken;

use crate::StartError;

const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Waits until the database answers, and sees that its schema is this program's. A database that has no schema yet may
/// be about to get one: that is waited for as well.
///
/// # Errors
/// When the schema is a newer one; when it was asked to stop meanwhile.
pub async fn await_schema(engines: &Engines, stop: &CancellationToken) -> Result<(), StartError> {
    let mut said = false;
    loop {
        let error = match engines.store.check_schema().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match &error {
            penstock_store::StoreError::Schema { found: 0, .. } => {}
            error if error.is_transient() => {}
            error => return Err(StartError::new(error.to_string())),
        }
        if !said {
            tracing::warn!(%error, "waiting for the database");
            said = true;
        }
        tokio::select! {
            () = stop.cancelled() => return Err(StartError::new("stopped while waiting for the database")),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}
