//! The data folder of one machine: database, files and a key of its own, made at the first start.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use penstock_crypto::Keyring;
use ring::rand::SystemRandom;

use crate::StartError;
use crate::settings::Settings;

/// Fills what `penstock dev` and `demo` leave out with places under `folder`, and makes the folder and its key when
/// they are missing.
///
/// # Errors
/// When the folder cannot be written.
pub fn fill(settings: &mut Settings, folder: &Path) -> Result<(), StartError> {
    let folder = std::path::absolute(folder).map_err(|error| cannot("use", folder, &error))?;
    make(&folder)?;
    if settings.database_url.is_none() {
        settings.database_url = Some(format!("sqlite://{}", folder.join("penstock.db").display()));
    }
    if settings.object_store_url.is_none() {
        let files = folder.join("files");
        std::fs::create_dir_all(&files).map_err(|error| cannot("make", &files, &error))?;
        let url = url::Url::from_directory_path(&files)
            .map_err(|()| StartError::new(format!("{} is no folder that a URL can name", files.display())))?;
        settings.object_store_url = Some(url.to_string());
    }
    if settings.encryption_keys.is_none() {
        settings.encryption_keys = Some(key(&folder.join("encryption.keys"))?);
    }
    Ok(())
}

/// Nobody else on the machine looks into it: what is sealed is sealed, but the key lies there too.
fn make(folder: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|error| cannot("make", folder, &error))
}

fn key(path: &PathBuf) -> Result<String, StartError> {
    match std::fs::read_to_string(path) {
        Ok(key) => return Ok(key.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot("read", path, &error)),
    }
    let key = Keyring::new_entry("local-1", &SystemRandom::new())
        .map_err(|error| StartError::new(error.to_string()))?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| cannot("write", path, &error))?;
    file.write_all(key.as_bytes()).map_err(|error| cannot("write", path, &error))?;
    Ok(key)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> StartError {
    StartError::new(format!("cannot {what} {}: {error}", path.display()))
}
