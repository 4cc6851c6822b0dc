//! The object store, by `OBJECT_STORE_URL`.

#[cfg(feature = "cluster")]
mod listing;
#[cfg(feature = "cluster")]
mod remote;

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use penstock_flow::context::object_writer::FILE_PART_BYTES;
use penstock_flow::context::unfinished_uploads::UnfinishedUploads;
use url::Url;

#[cfg(feature = "cluster")]
use self::remote::open as open_remote;
use super::Role;
use crate::StartError;
use crate::permissions::{Writers, refuse_if_written};
use crate::settings::Settings;

/// The object store, and what belongs to it.
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) part_bytes: usize,
    #[cfg(feature = "cluster")]
    pub(super) signer: Option<Arc<dyn object_store::signer::Signer>>,
    pub(super) unfinished: Option<Arc<dyn UnfinishedUploads>>,
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
            unfinished: None,
            prefix: String::new(),
        }
    }
}

pub(super) fn open(settings: &Settings, role: Role) -> Result<Objects, StartError> {
    let text = settings.object_store_url.as_deref().ok_or_else(|| {
        StartError::misuse("OBJECT_STORE_URL is not set: give file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.")
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
                unfinished: None,
                prefix: String::new(),
            })
        }
        "s3" | "s3a" | "gs" | "az" => open_remote(&url),
        other => Err(StartError::misuse(format!(
            "OBJECT_STORE_URL begins with file://, s3://, gs:// or az://, not {other}://."
        ))),
    }
}

#[cfg(not(feature = "cluster"))]
fn open_remote(_url: &Url) -> Result<Objects, StartError> {
    Err(StartError::misuse("this build has folders only: build with the feature `cluster`."))
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
