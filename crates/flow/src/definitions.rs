//! Pipelines: those loaded at the start, and the versions that older batches were uploaded under.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_crypto::OpenError;
use penstock_domain::pipeline::{Catalog, Pipeline, Unset};
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, StoredDefinition};
use uuid::Uuid;

use crate::earlier;
use crate::services::Services;
use crate::error::FlowError;

/// Looks a variable of the environment up.
pub type Vars = dyn Fn(&str) -> Option<String> + Send + Sync;

/// At most so many older versions are kept compiled.
const OLDER_KEPT: usize = 64;

/// What the keyring authenticates definitions for.
const PURPOSE: &str = "definition";

/// The loaded pipelines, and older versions on demand.
pub struct Definitions {
    current: Catalog,
    unset: Unset,
    vars: Box<Vars>,
    older: Mutex<HashMap<Uuid, Arc<Pipeline>>>,
}

impl Definitions {
    /// The pipelines of a catalog; `vars` fills `${VARS}` of older versions, and `unset` says what becomes of one without a
    /// value.
    pub fn new(current: Catalog, unset: Unset, vars: Box<Vars>) -> Self {
        Self { current, unset, vars, older: Mutex::default() }
    }

    /// The loaded pipeline of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Pipeline>> {
        self.current.get(name).cloned()
    }

    /// All loaded pipelines, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        self.current.iter()
    }

    /// The definition that a batch was uploaded under.
    ///
    /// # Errors
    /// When it is not stored, was not stored by Penstock, or does not load in this environment.
    pub async fn of(&self, services: &Services, batch: &Batch) -> Result<Arc<Pipeline>, FlowError> {
        if let Some(current) = self.get(&batch.pipeline).filter(|pipeline| pipeline.version == batch.version)
        {
            return Ok(current);
        }
        if let Some(older) = self.lookup(batch.version) {
            return Ok(older);
        }
        let fault = |reason: String| FlowError::Definition { pipeline: batch.pipeline.clone(), reason };
        let stored = services.store.definition(batch.version).await?;
        let stored = stored.ok_or_else(|| fault("its text is not in the database".into()))?;
        authenticate(services, batch, &stored).await?;
        let file = format!("{} (version {})", batch.pipeline, batch.version);
        let pipeline = Pipeline::load_accepted(&file, &stored.source, &*self.vars, self.unset)
            .map_err(|errors| fault(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let pipeline = Arc::new(pipeline);
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if older.len() >= OLDER_KEPT {
            older.clear();
        }
        older.insert(batch.version, pipeline.clone());
        Ok(pipeline)
    }

    fn lookup(&self, version: Uuid) -> Option<Arc<Pipeline>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner).get(&version).cloned()
    }
}

/// Keeps a loaded definition with the batches that are uploaded under it.
///
/// # Errors
/// When the database fails, or there is no keyring.
pub(crate) async fn save(services: &Services, pipeline: &Pipeline, now: Timestamp) -> Result<(), FlowError> {
    let mac = mac(services, pipeline.version, &pipeline.name, &pipeline.source)?;
    let stored =
        StoredDefinition { name: pipeline.name.clone(), source: pipeline.source.to_string(), mac: Some(mac) };
    Ok(services.store.save_definition(pipeline.version, &stored, now).await?)
}

/// A MAC of a definition under the keyring's first key.
pub(crate) fn mac(services: &Services, version: Uuid, name: &str, source: &str) -> Result<Vec<u8>, FlowError> {
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
        let taken = earlier::is_open(services).await?;
        return if taken { Ok(()) } else { Err(sealed(OpenError::EarlierForm)) };
    };
    let parts = [version.as_bytes().as_slice(), stored.name.as_bytes(), stored.source.as_bytes()];
    services.keyring.get().check_mac(PURPOSE, &parts, mac).map_err(sealed)
}

/// Whoever can write to the database must not choose what is called for the rows of a batch, and with which variables.
async fn authenticate(services: &Services, batch: &Batch, stored: &StoredDefinition) -> Result<(), FlowError> {
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
