//! The object store, by `OBJECT_STORE_URL`.

use std::sync::Arc;
#[cfg(feature = "cluster")]
use std::time::Duration;

use object_store::ObjectStore;
#[cfg(feature = "cluster")]
use object_store::aws::AmazonS3ConfigKey;
use object_store::local::LocalFileSystem;
#[cfg(feature = "cluster")]
use object_store::prefix::PrefixStore;
use penstock_flow::context::object_writer::FILE_PART_BYTES;
#[cfg(feature = "cluster")]
use penstock_flow::context::object_writer::S3_PART_BYTES;
use url::Url;

use super::Role;
use crate::StartError;
use crate::permissions::{Writers, refuse_if_written};
use crate::settings::Settings;

/// The object store, and what belongs to it.
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) part_bytes: usize,
    #[cfg(feature = "cluster")]
    pub(super) signer: Option<Arc<object_store::aws::AmazonS3>>,
    pub(super) prefix: String,
}

impl Objects {
    /// For a program that reads and writes no files: what it would write goes nowhere.
    pub(super) fn none() -> Self {
        Self {
            store: Arc::new(object_store::memory::InMemory::new()),
            part_bytes: FILE_PART_BYTES,
            #[cfg(feature = "cluster")]
            signer: None,
            prefix: String::new(),
        }
    }
}

pub(super) fn open(settings: &Settings, role: Role) -> Result<Objects, StartError> {
    let text = settings.object_store_url.as_deref().ok_or_else(|| {
        StartError::misuse("OBJECT_STORE_URL is not set: give file:///FOLDER or s3://BUCKET/PREFIX.")
    })?;
    let url = Url::parse(text).map_err(|error| StartError::misuse(format!("OBJECT_STORE_URL: {error}")))?;
    match url.scheme() {
        "file" => {
            let folder = url.to_file_path().map_err(|()| {
                StartError::misuse("OBJECT_STORE_URL: a file URL names an absolute folder, file:///…")
            })?;
            std::fs::create_dir_all(&folder)
                .map_err(|error| StartError::new(format!("cannot make {}: {error}", folder.display())))?;
            refuse_if_written(&folder, Writers::GroupAndOthers)?;
            if role == Role::Everything {
                clear_staged(&folder);
            }
            let files = LocalFileSystem::new_with_prefix(&folder)
                .map_err(|error| StartError::misuse(format!("OBJECT_STORE_URL: {error}")))?
                .with_automatic_cleanup(true);
            Ok(Objects {
                store: Arc::new(files),
                part_bytes: FILE_PART_BYTES,
                #[cfg(feature = "cluster")]
                signer: None,
                prefix: String::new(),
            })
        }
        "s3" | "s3a" => open_s3(&url),
        other => {
            Err(StartError::misuse(format!("OBJECT_STORE_URL begins with file:// or s3://, not {other}://.")))
        }
    }
}

#[cfg(feature = "cluster")]
fn open_s3(url: &Url) -> Result<Objects, StartError> {
    let mut builder = object_store::aws::AmazonS3Builder::from_env();
    for (name, key) in [
        ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
        ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
        ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ] {
        if let Some(value) = crate::variables::value(name)? {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_url(url.as_str())
        .with_retry(object_store::RetryConfig {
            max_retries: 8,
            retry_timeout: Duration::from_secs(45),
            ..object_store::RetryConfig::default()
        })
        .build()
        .map_err(|error| StartError::misuse(format!("OBJECT_STORE_URL: {error}")))?;
    let store = Arc::new(store);
    let prefix = url.path().trim_matches('/').to_owned();
    let ported: Arc<dyn ObjectStore> = if prefix.is_empty() {
        store.clone()
    } else {
        Arc::new(PrefixStore::new(store.clone(), prefix.clone()))
    };
    Ok(Objects { store: ported, part_bytes: S3_PART_BYTES, signer: Some(store), prefix })
}

#[cfg(not(feature = "cluster"))]
fn open_s3(_url: &Url) -> Result<Objects, StartError> {
    Err(StartError::misuse("this build has no S3: build with the feature `cluster`."))
}

/// Parts of uploads that a killed process left: object_store writes them as `NAME#NUMBER` beside their place.
fn clear_staged(folder: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            clear_staged(&path);
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains('#'))
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "what an upload left could not be removed");
        }
    }
}
