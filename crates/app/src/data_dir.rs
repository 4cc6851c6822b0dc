//! The data folder of one machine: database, files and a key of its own, made at the first start.

use std::io::Write as _;
use std::path::Path;

use penstock_crypto::Keyring;
use ring::rand::SystemRandom;

use crate::StartError;
use crate::permissions::{Writers, refuse_if_written};
use crate::settings::Settings;
use crate::variables::read_file;

/// Fills what `penstock dev` and `demo` leave out with places under `folder`, and makes the folder and its key when
/// they are missing.
///
/// # Errors
/// When the folder cannot be written, or others can write it.
pub fn fill(settings: &mut Settings, folder: &Path) -> Result<(), StartError> {
    let folder = std::path::absolute(folder).map_err(|error| cannot("use", folder, &error))?;
    make(&folder)?;
    refuse_if_others_write(&folder)?;
    if settings.database_url.is_none() {
        settings.database_url = Some(format!("sqlite://{}", folder.join("penstock.db").display()));
    }
    if settings.object_store_url.is_none() {
        let files = folder.join("files");
        std::fs::create_dir_all(&files).map_err(|error| cannot("make", &files, &error))?;
        let url = url::Url::from_directory_path(&files).map_err(|()| {
            StartError::new(format!("{} is not a folder that a URL can name", files.display()))
        })?;
        settings.object_store_url = Some(url.to_string());
    }
    if settings.encryption_keys.is_none() {
        let file = folder.join("encryption.keys");
        settings.encryption_keys = Some(key(&file)?);
        settings.encryption_keys_file = Some(file);
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

/// Whoever can write the folder can replace the database, the files or the key. What lies directly in it is looked at too.
fn refuse_if_others_write(folder: &Path) -> Result<(), StartError> {
    refuse_if_written(folder, Writers::GroupAndOthers)?;
    let inside = std::fs::read_dir(folder).map_err(|error| cannot("use", folder, &error))?;
    for path in inside.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        // What vanished meanwhile, as a write-ahead log does, is nobody's to change.
        if path.exists() {
            refuse_if_written(&path, Writers::GroupAndOthers)?;
        }
    }
    Ok(())
}

fn key(path: &Path) -> Result<String, StartError> {
    match std::fs::metadata(path) {
        Ok(found) => {
            refuse_if_others_read(path, &found)?;
            return read_file("PENSTOCK_ENCRYPTION_KEYS", path).map(|key| key.trim().to_owned());
        }
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

#[cfg(unix)]
fn refuse_if_others_read(path: &Path, found: &std::fs::Metadata) -> Result<(), StartError> {
    use std::os::unix::fs::PermissionsExt as _;
    if found.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(StartError::new(format!(
        "others can read the key in {}: whoever has it opens everything; run `chmod 600 {0}`",
        path.display()
    )))
}

#[cfg(not(unix))]
fn refuse_if_others_read(_path: &Path, _found: &std::fs::Metadata) -> Result<(), StartError> {
    Ok(())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> StartError {
    StartError::new(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn filled(folder: &Path) -> Result<Settings, String> {
        let mut settings = Program::parse_from(["program"]).settings;
        fill(&mut settings, folder).map(|()| settings).map_err(|error| error.to_string())
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_folder_is_its_users_own() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("data");
        let first = filled(&folder).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("encryption.keys"))), (0o700, 0o600));
        assert_eq!(filled(&folder).unwrap().encryption_keys, first.encryption_keys);
        set_mode(&folder, 0o755);
        assert!(filled(&folder).is_ok(), "others may look at names");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("data");
        filled(&folder).unwrap();
        for mode in [0o777, 0o770, 0o707, 0o720, 0o702, 0o1777] {
            set_mode(&folder, mode);
            let said = filled(&folder).map(|_| ()).unwrap_err();
            assert!(said.contains("others can write") && said.contains("chmod go-w"), "{mode:o}: {said}");
        }
        set_mode(&folder, 0o700);
        let database = folder.join("penstock.db");
        std::fs::write(&database, "").unwrap();
        set_mode(&database, 0o666);
        assert!(filled(&folder).map(|_| ()).unwrap_err().contains("penstock.db"));
        set_mode(&database, 0o644);
        set_mode(&folder.join("files"), 0o777);
        assert!(filled(&folder).map(|_| ()).unwrap_err().contains("files"));
        set_mode(&folder.join("files"), 0o755);
        set_mode(&folder.join("encryption.keys"), 0o640);
        assert!(filled(&folder).map(|_| ()).unwrap_err().contains("chmod 600"));
        set_mode(&folder.join("encryption.keys"), 0o400);
        assert!(filled(&folder).is_ok());
    }
}
