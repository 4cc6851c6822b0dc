//! Retention: payloads are erased after one time, batches deleted after another, uploads after an hour.

use std::time::Duration;

use object_store::path::Path;
use serde::Serialize;

use crate::context::error::FlowError;
use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;
use crate::intake::error_file;
use crate::intake::manifest;
use crate::operate::control;
use crate::operate::duplicates;

/// Things handled in one step.
const STEP: u32 = 100;

/// How often a service removes what is past its time. Workers that started together do not do so together.
const EVERY: Duration = Duration::from_secs(600);
const JITTER: f64 = 0.1;

/// What was reserved of a limit's period of the calendar is known for this long after its end: clocks differ.
const PERIODS_KEPT: Duration = Duration::from_secs(3600);

/// Keys of sign-ins are kept for this long after their end: the audit log names them.
const SIGN_INS_KEPT: Duration = Duration::from_secs(90 * 86_400);

/// How long things are kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Payloads of finished batches; none: permanently.
    pub erase_after: Option<Duration>,
    /// Finished and erased batches; none: permanently.
    pub delete_after: Option<Duration>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Batches whose payloads were erased.
    pub erased: u32,
    /// Batches that were deleted.
    pub deleted: u32,
    /// Uploads that nobody used, or whose file was taken over, and lists of the errors of files that were refused.
    pub uploads: u32,
}

/// Removes what is past its time in the background.
pub struct RetentionTask {
    /// The services.
    pub services: Services,
    /// How long things are kept.
    pub retention: Retention,
}

impl Task for RetentionTask {
    const NAME: &'static str = "retention";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::after(EVERY).with_jitter(JITTER)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        prune(&self.services, &self.retention, "operator:retention").await.map(drop)
    }
}

/// Removes what is past its time.
///
/// # Errors
/// When the database fails; what was removed stays removed.
pub async fn prune(services: &Services, retention: &Retention, actor: &str) -> Result<Pruned, FlowError> {
    let now = services.clock.now();
    let mut pruned = Pruned::default();
    loop {
        let uploads = services.store.expire_uploads(now, STEP).await?;
        for upload in &uploads {
            let file = Path::from(upload.object_key.as_str());
            // Where the database was restored to before the batch was made, this is the only copy of what was accepted.
            if upload.batch.is_none() && manifest::exists(services, &file).await? {
                tracing::warn!(upload = %upload.id, "an upload's file belongs to a batch that the database does not know: see `penstock reconcile`");
                continue;
            }
            manifest::delete_with_file(services, &file).await;
            pruned.uploads += 1;
        }
        if uploads.is_empty() {
            break;
        }
    }
    match error_file::drop_expired(services, now).await {
        Ok(dropped) => pruned.uploads += dropped,
        // The object store does not list: what concerns the database goes on.
        Err(error) => {
            tracing::warn!(%error, "failed to look for lists of errors whose time is over; will retry")
        }
    }
    services.store.drop_periods(now - PERIODS_KEPT).await?;
    services.store.drop_tickets(now - PERIODS_KEPT).await?;
    services.store.delete_sign_ins(now - SIGN_INS_KEPT).await?;
    duplicates::drop_expired(services, now).await?;
    pruned.erased += control::resume_erasures(services, actor).await?;
    if let Some(after) = retention.erase_after {
        loop {
            let batches = services.store.to_erase(now - after, STEP).await?;
            let mut erased = 0;
            for batch in &batches {
                erased += u32::from(control::erase_ended(services, batch, now - after, actor).await?);
            }
            pruned.erased += erased;
            if erased == 0 {
                break;
            }
        }
    }
    if let Some(after) = retention.delete_after {
        loop {
            let deleted = services.store.delete_batches(now - after, STEP).await?;
            pruned.deleted += deleted;
            if deleted == 0 {
                break;
            }
        }
    }
    Ok(pruned)
}
