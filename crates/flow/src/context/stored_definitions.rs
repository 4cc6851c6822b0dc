//! Definitions in the database: each batch keeps the one that it was uploaded under, authenticated by the keyring.

use std::sync::Arc;

use penstock_crypto::OpenError;
use penstock_domain::pipeline::Pipeline;
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, StoredDefinition};
use uuid::Uuid;

use crate::context::earlier_releases;
use crate::context::error::FlowError;
use crate::context::services::Services;

/// What the keyring authenticates definitions for.
const PURPOSE: &str = "definition";

impl Services {
    /// The definition that a batch was uploaded under.
    ///
    /// # Errors
    /// When it is not stored, was not stored by Penstock, or does not load in this environment.
    pub async fn definition_of(&self, batch: &Batch) -> Result<Arc<Pipeline>, FlowError> {
        let loaded = self.pipelines.get(&batch.pipeline);
        if let Some(current) = loaded.filter(|pipeline| pipeline.version == batch.version) {
            return Ok(current);
        }
        if let Some(older) = self.pipelines.older(batch.version) {
            return Ok(older);
        }
        let fault = |reason: String| FlowError::Definition { pipeline: batch.pipeline.clone(), reason };
        let stored = self.store.definition(batch.version).await?;
        let stored = stored.ok_or_else(|| fault("its text is not in the database".into()))?;
        authenticate(self, batch, &stored).await?;
        self.pipelines.compile(&batch.pipeline, batch.version, &stored.source).map_err(fault)
    }
}

/// Keeps a loaded definition with the batches that are uploaded under it.
///
/// # Errors
/// When the database fails, or there is no keyring.
pub(crate) async fn save(services: &Services, pipeline: &Pipeline, now: Timestamp) -> Result<(), FlowError> {
    save_text(services, pipeline.version, &pipeline.name, &pipeline.source, now).await
}

/// The same of a definition whose text is known to be one that Penstock stored.
///
/// # Errors
/// As [`save`].
pub(crate) async fn save_text(
    services: &Services,
    version: Uuid,
    name: &str,
    source: &str,
    now: Timestamp,
) -> Result<(), FlowError> {
    let mac = Some(mac(services, version, name, source)?);
    let stored = StoredDefinition { name: name.to_owned(), source: source.to_owned(), mac };
    Ok(services.store.save_definition(version, &stored, now).await?)
}

/// A MAC of a definition under the keyring's first key.
pub(crate) fn mac(
    services: &Services,
    version: Uuid,
    name: &str,
    source: &str,
) -> Result<Vec<u8>, FlowError> {
    services
        .keyring
        .get()
        .mac(PURPOSE, &[version.as_bytes(), name.as_bytes(), source.as_bytes()])
        .map_err(|source| FlowError::Sealed { what: "a definition", source })
}

/// Whether a stored definition is one that Penstock stored.
///
/// # Errors
/// [`FlowError::Sealed`] when it is not, or the keyring lacks the key of its MAC.
pub(crate) async fn check(
    services: &Services,
    version: Uuid,
    stored: &StoredDefinition,
) -> Result<(), FlowError> {
    let sealed = |source| FlowError::Sealed { what: "a definition", source };
    let Some(mac) = &stored.mac else {
        let taken = earlier_releases::is_open(services).await?;
        return if taken { Ok(()) } else { Err(sealed(OpenError::EarlierForm)) };
    };
    let parts = [version.as_bytes().as_slice(), stored.name.as_bytes(), stored.source.as_bytes()];
    services.keyring.get().check_mac(PURPOSE, &parts, mac).map_err(sealed)
}

/// Whoever can write to the database must not choose what is called for the rows of a batch, and with which variables.
async fn authenticate(
    services: &Services,
    batch: &Batch,
    stored: &StoredDefinition,
) -> Result<(), FlowError> {
    let fault = |reason: String| FlowError::Definition { pipeline: batch.pipeline.clone(), reason };
    if stored.name != batch.pipeline {
        return Err(fault("the one in the database is another pipeline's".into()));
    }
    match check(services, batch.version, stored).await {
        Err(FlowError::Sealed { source: OpenError::UnknownKey(key), .. }) => {
            Err(fault(format!("the keyring has no key `{key}`, which authenticates it")))
        }
        Err(FlowError::Sealed { .. }) => {
            Err(fault("the one in the database was not stored by Penstock, or was changed since".into()))
        }
        checked => checked,
    }
}
