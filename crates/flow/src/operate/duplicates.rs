//! What operators do about keys that rows are compared by.

use penstock_domain::time::Timestamp;

use crate::context::error::FlowError;
use crate::context::key_hashes;
use crate::context::services::Services;

/// Keys removed in one step.
const STEP: u32 = 5000;

/// Forgets a key of an owner's rows in a pipeline: the next row that has it is called for. Whether it was known.
///
/// # Errors
/// When the database fails.
pub async fn forget(services: &Services, owner: &str, pipeline: &str, key: &str) -> Result<bool, FlowError> {
    let key = key_hashes::completed_key(services, owner, pipeline, key).await?;
    Ok(services.store.forget_key(&key).await?)
}

/// Removes keys and answers whose time is over.
pub(crate) async fn drop_expired(services: &Services, now: Timestamp) -> Result<(), FlowError> {
    while services.store.drop_expired_keys(now, STEP).await? >= u64::from(STEP) {}
    while services.store.drop_expired_answers(now, STEP).await? >= u64::from(STEP) {}
    Ok(())
}
