//! Files in the object store that the database does not know: what interrupted uploads left, and uploads that were accepted after the
//! time to which the database was restored. Their [manifests](crate::intake::manifest) tell them apart.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use penstock_domain::ids::BatchId;
use serde::Serialize;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::intake::manifest::{self, Manifest};

/// Objects asked about in one statement.
const OBJECTS_AT_ONCE: usize = 500;

/// An object younger than this may belong to an upload that is still under way.
const YOUNG_SECONDS: i64 = 3600;

/// What the database does not know.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredFiles {
    /// Nobody needs them.
    pub orphans: Vec<String>,
    /// They were accepted; the oldest batch is first.
    pub accepted: Vec<AcceptedFile>,
    /// They have a manifest that this installation cannot read.
    pub unreadable: Vec<String>,
}

/// A file whose batch is not in the database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct AcceptedFile {
    /// The batch that it had.
    pub batch: BatchId,
    /// Whose.
    pub owner: String,
    /// Of which pipeline.
    pub pipeline: String,
    /// Where the file lies.
    pub object: String,
}

/// What there is of a file.
#[derive(Clone, Copy, Default)]
struct Parts {
    /// Whether the file is there and the database does not know it; then whether it is too old for an upload under way.
    file: Option<bool>,
    /// Whether a manifest was listed; then whether it is that old.
    manifest: Option<bool>,
}

/// Looks, and writes nothing.
///
/// # Errors
/// When the object store or the database fails.
pub(crate) async fn look(services: &Services) -> Result<StoredFiles, FlowError> {
    let mut found = StoredFiles::default();
    for (file, parts) in unknown(services).await? {
        judge(services, file, parts, &mut found).await?;
    }
    found.accepted.sort();
    Ok(found)
}

async fn judge(
    services: &Services,
    file: String,
    parts: Parts,
    found: &mut StoredFiles,
) -> Result<(), FlowError> {
    let path = Path::from(file.as_str());
    let manifest = match manifest::read(services, &path).await {
        Ok(Some((manifest, _))) => manifest,
        Ok(None) => {
            found.orphans.extend(parts.file.filter(|old| *old).map(|_| file));
            return Ok(());
        }
        Err(FlowError::Sealed { .. } | FlowError::Inconsistent(_)) if parts.file.is_some() => {
            found.unreadable.push(file);
            return Ok(());
        }
        Err(FlowError::Sealed { .. } | FlowError::Inconsistent(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if services.store.batch(manifest.batch.id, None).await?.is_none() && is_there(services, &path).await? {
        found.accepted.push(AcceptedFile::of(&manifest));
        return Ok(());
    }
    // A copy that its batch does not name, or a manifest whose file is gone. One that the batch needs is known.
    let known = services.store.known_objects(std::slice::from_ref(&file)).await?;
    if known.is_empty() {
        found.orphans.extend(parts.manifest.filter(|old| *old).map(|_| manifest::path_of(&path).to_string()));
        found.orphans.extend(parts.file.filter(|old| *old).map(|_| file));
    }
    Ok(())
}

impl AcceptedFile {
    fn of(manifest: &Manifest) -> Self {
        Self {
            batch: manifest.batch.id,
            owner: manifest.owner.clone(),
            pipeline: manifest.batch.pipeline.clone(),
            object: manifest.batch.object_key.clone(),
        }
    }
}

async fn is_there(services: &Services, file: &Path) -> Result<bool, FlowError> {
    match services.objects.head(file).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Files that no batch names. Of a presigned upload's file with a manifest the database may still believe that nobody used it.
async fn unknown(services: &Services) -> Result<BTreeMap<String, Parts>, FlowError> {
    let now = services.clock.now().seconds();
    let mut listed = services.objects.list(Some(&Path::from("owners")));
    let mut group: BTreeMap<String, Parts> = BTreeMap::new();
    let mut unknown: BTreeMap<String, Parts> = BTreeMap::new();
    loop {
        let next = listed.try_next().await?;
        let ended = next.is_none();
        if let Some(meta) = next {
            let old = Some(now - meta.last_modified.timestamp() > YOUNG_SECONDS);
            let key = meta.location.to_string();
            match manifest::file_of(&key) {
                Some(file) => group.entry(file.to_owned()).or_default().manifest = old,
                None => group.entry(key).or_default().file = old,
            }
        }
        if group.len() == OBJECTS_AT_ONCE || (ended && !group.is_empty()) {
            let keys: Vec<String> = group.keys().cloned().collect();
            let known = services.store.known_objects(&keys).await?;
            for (file, parts) in std::mem::take(&mut group) {
                let is_upload = file.contains("/uploads/") && parts.manifest.is_some();
                if !known.contains(&file) || is_upload {
                    let all = unknown.entry(file).or_default();
                    all.file = all.file.or(parts.file);
                    all.manifest = all.manifest.or(parts.manifest);
                }
            }
        }
        if ended {
            return Ok(unknown);
        }
    }
}

/// Asked again right before: a batch may have been made meanwhile.
pub(crate) async fn delete_orphans(services: &Services, orphans: &[String]) -> Result<usize, FlowError> {
    let mut deleted = 0;
    for group in orphans.chunks(OBJECTS_AT_ONCE) {
        let file_of = |key: &str| manifest::file_of(key).unwrap_or(key).to_owned();
        let files: Vec<String> = group.iter().map(|key| file_of(key)).collect();
        let known = services.store.known_objects(&files).await?;
        for key in group.iter().filter(|key| !known.contains(&file_of(key))) {
            match services.objects.delete(&Path::from(key.as_str())).await {
                Ok(()) => deleted += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(deleted)
}
