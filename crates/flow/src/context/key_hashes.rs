//! Keyed hashes of what rows are compared by, under the installation's own secret: nothing of a key can be read in the database.

use penstock_crypto::KeyHasher;
use penstock_store::duplicates::KeyHash;

use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::services::Services;

/// The hash of a row's key by which it may be a duplicate, for its owner and pipeline.
///
/// # Errors
/// When the database fails, or the keyring lacks the secret's key.
pub async fn completed_key(
    services: &Services,
    owner: &str,
    pipeline: &str,
    key: &str,
) -> Result<KeyHash, FlowError> {
    let secret = installation::installation_secret(services).await?;
    let hasher = KeyHasher::new(&secret, "completed-key");
    Ok(hasher.hash(&[owner.as_bytes(), pipeline.as_bytes(), key.as_bytes()]))
}

/// Hashes the keys of answers that rows have in common.
///
/// # Errors
/// As [`completed_key`].
pub(crate) async fn of_answers(services: &Services) -> Result<KeyHasher, FlowError> {
    let secret = installation::installation_secret(services).await?;
    Ok(KeyHasher::new(&secret, "cached-answer"))
}
