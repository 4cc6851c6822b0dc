//! The data folder of one machine: database, files and a key of its own, made at the first start.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::StartError;
use crate::settings::Settings;

/// Fills what `penstock dev` and `demo` leave out with places under `folder`, and makes the folder and its key when
/// they are missing.
///
/// # Errors
/// When the folder cannot be written.
pub fn fill(settings: &mut Settings, folder: &Path) -> Result<(), StartError> {
    let folder = std::path::absolute(folder).map_err(|error| cannot("use", folder, &error))?;
    std::fs::create_dir_all(&folder).map_err(|error| cannot("make", &folder, &error))?;
    if settings.database_url.is_none() {
        settings.database_url = Some(format!("sqlite://{}", folder.join("penstock.db").display()));
    }
    if settings.object_store_url.is_none() {
        let files = folder.join("files");
        std::fs::create_dir_all(&files).map_err(|error| cannot("make", &files, &error))?;
        let url = url::Url::from_directory_path(&files)
            .map_err(|()| StartError(format!("{} is no folder that a URL can name", files.display())))?;
        settings.object_store_url = Some(url.to_string());
    }
    if settings.encryption_keys.is_none() {
        settings.encryption_keys = Some(key(&folder.join("encryption.keys"))?);
    }
    Ok(())
}

fn key(path: &PathBuf) -> Result<String, StartError> {
    match std::fs::read_to_string(path) {
        Ok(key) => return Ok(key.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot("read", path, &error)),
    }
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| StartError::new("this machine gives no random numbers"))?;
    let key = format!("local-1:{}", STANDARD.encode(secret));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| cannot("write", path, &error))?;
    file.write_all(key.as_bytes()).map_err(|error| cannot("write", path, &error))?;
    Ok(key)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> StartError {
    StartError(format!("cannot {what} {}: {error}", path.display()))
}
