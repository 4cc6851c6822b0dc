//! The manifest beside a batch's file: all that makes the batch again where the database was restored to a time before its upload.
//!
//! It is written once the batch is in the database, and before its upload is answered. So a file that has one was accepted, whatever
//! the database knows, and a file without a batch and without a manifest is what an interrupted upload left. Where a worker replaces
//! a file by its sealed copy, the copy has a manifest before the database names it. An erasure deletes the manifest first: the data
//! key is in it.

use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use penstock_crypto::{DataKey, ManifestKey};
use penstock_store::batches::{Checkpoint, NewBatch, SealedKey};
use serde::{Deserialize, Serialize};

use crate::context::error::FlowError;
use crate::context::installation::installation_secret;
use crate::context::objects;
use crate::context::services::Services;

/// What a manifest's name has after its file's.
const SUFFIX: &str = ".manifest";

/// What is recorded of a batch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The owner's name: its number is another one in another database.
    pub owner: String,
    /// The text of the definition that it was uploaded under.
    pub definition: String,
    /// The batch, as it was made; its data key is beside this.
    pub batch: NewBatch,
}

/// Where the manifest of a file lies.
pub(crate) fn path_of(file: &Path) -> Path {
    Path::from(format!("{file}{SUFFIX}"))
}

/// The file that a manifest lies beside; none for what is no manifest.
pub(crate) fn file_of(key: &str) -> Option<&str> {
    key.strip_suffix(SUFFIX)
}

impl Manifest {
    pub fn new(owner: &str, definition: &str, batch: &NewBatch) -> Self {
        let mut batch = batch.clone();
        // Wrapped for an epoch that another database may not have.
        batch.key =
            SealedKey { context: batch.key.context, header: batch.key.header, ..SealedKey::default() };
        Self { owner: owner.to_owned(), definition: definition.to_owned(), batch }
    }

    /// Writes it beside its file.
    ///
    /// # Errors
    /// When the object store fails, or the installation's secret cannot be read.
    pub async fn write(&self, services: &Services, key: &DataKey) -> Result<(), FlowError> {
        let file = Path::from(self.batch.object_key.as_str());
        let details = serde_json::to_vec(self)
            .map_err(|error| FlowError::Inconsistent(format!("a manifest that JSON cannot hold: {error}")))?;
        let sealed = seals(services).await?.seal(file.as_ref(), key, &details, services.random.as_ref());
        let sealed = sealed.map_err(|source| FlowError::Sealed { what: "a manifest", source })?;
        services.objects.put(&path_of(&file), sealed.into()).await?;
        Ok(())
    }
}

/// Reads the manifest of a file, and the batch's data key; none when it has none.
///
/// # Errors
/// When the object store fails; [`FlowError::Sealed`] when this installation did not write it for this file.
pub(crate) async fn read(services: &Services, file: &Path) -> Result<Option<(Manifest, DataKey)>, FlowError> {
    let sealed = match services.objects.get(&path_of(file)).await {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (key, details) = seals(services)
        .await?
        .open(file.as_ref(), &sealed)
        .map_err(|source| FlowError::Sealed { what: "a manifest", source })?;
    let manifest: Manifest = serde_json::from_slice(&details)
        .map_err(|error| FlowError::Inconsistent(format!("the manifest of {file}: {error}")))?;
    if manifest.batch.object_key != file.as_ref() {
        return Err(FlowError::Inconsistent(format!("the manifest of {file} is another file's")));
    }
    Ok(Some((manifest, key)))
}

/// Whether a file has one.
///
/// # Errors
/// When the object store fails.
pub(crate) async fn exists(services: &Services, file: &Path) -> Result<bool, FlowError> {
    match services.objects.head(&path_of(file)).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a file, and its manifest before it; false when one of them may still be there.
pub(crate) async fn delete_with_file(services: &Services, file: &Path) -> bool {
    objects::delete(services, &path_of(file)).await && objects::delete(services, file).await
}

/// What replaced a file.
pub(crate) struct SealedCopy<'a> {
    pub path: &'a Path,
    pub plain_bytes: u64,
    pub header: &'a [u8],
    pub rows: u32,
    pub start: Checkpoint,
}

/// Writes the manifest of a file's sealed copy, where the file has one.
///
/// # Errors
/// As [`read`] and [`Manifest::write`].
pub(crate) async fn of_copy(
    services: &Services,
    file: &Path,
    copy: &SealedCopy<'_>,
) -> Result<(), FlowError> {
    let Some((mut manifest, key)) = read(services, file).await? else { return Ok(()) };
    let batch = &mut manifest.batch;
    batch.object_key = copy.path.to_string();
    batch.file_bytes = copy.plain_bytes;
    batch.unsealed = false;
    batch.rows = Some(copy.rows);
    batch.checkpoint = copy.start;
    batch.key.header = Some(copy.header.to_vec());
    manifest.write(services, &key).await
}

async fn seals(services: &Services) -> Result<ManifestKey, FlowError> {
    Ok(ManifestKey::new(&installation_secret(services).await?))
}
