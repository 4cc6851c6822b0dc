//! Opening what is sealed of a batch.

use std::sync::Arc;

use penstock_store::batches::{Batch, StoredKey};
use serde_json::Value;

use crate::context::epochs;
use crate::context::error::FlowError;
use crate::context::secrets::{SecretLocation, SecretsOf, unreadable_header};
use crate::context::services::Services;
use penstock_domain::json_size;

impl Services {
    /// The batch's secrets.
    ///
    /// # Errors
    /// [`FlowError::Erased`] when the data key is gone.
    pub async fn secrets_of(&self, batch: &Batch) -> Result<SecretsOf, FlowError> {
        self.try_secrets_of(batch).await?.ok_or(FlowError::Erased)
    }

    /// The batch's secrets; none once it was erased.
    ///
    /// # Errors
    /// When the database fails or the keyring cannot open the data key.
    pub async fn try_secrets_of(&self, batch: &Batch) -> Result<Option<SecretsOf>, FlowError> {
        if batch.erased_at.is_some() {
            return Ok(None);
        }
        if let Some(secrets) = self.secrets.kept_of(batch) {
            return Ok(Some(secrets));
        }
        let Some(sealed) = self.store.sealed_key(batch.seq).await? else { return Ok(None) };
        let secrets = open_secrets(self, batch, &sealed).await?;
        // Without a header it is about to change.
        if secrets.header().is_some() {
            self.secrets.keep(batch, &secrets);
        }
        Ok(Some(secrets))
    }
}

async fn open_secrets(
    services: &Services,
    batch: &Batch,
    stored: &StoredKey,
) -> Result<SecretsOf, FlowError> {
    let key = epochs::open(services, batch, stored).await?;
    let mut secrets = SecretsOf::new(batch.id, Arc::new(key), Value::Object(serde_json::Map::new()));
    if let Some(context) = &stored.key.context {
        let plain = secrets.open(SecretLocation::Context, context)?;
        secrets.bytes += json_size::of_json(&plain);
        secrets.context = Arc::new(secrets.read_json(SecretLocation::Context, &plain)?);
    }
    // Names of columns, and an index of them.
    secrets.bytes += stored.key.header.as_ref().map_or(0, Vec::len).saturating_mul(8);
    let header = match (&stored.key.header, stored.key.epoch, &batch.header) {
        (Some(sealed), _, _) => Some(secrets.open_json(SecretLocation::Header, sealed)?),
        // Only of batches from before headers were sealed.
        (None, None, Some(clear)) => Some(serde_json::from_str(clear).map_err(|_| unreadable_header(batch))?),
        _ => None,
    };
    secrets.header = header.map(Arc::new);
    Ok(secrets)
}
