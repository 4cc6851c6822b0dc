//! Secrets that lie in files are read again when their file changes: a keyring is rotated and a database's password
//! changed without a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use penstock_crypto::Keyring;
use penstock_flow::Services;
use penstock_flow::context::installation;
use penstock_flow::context::periodic::{Schedule, Task};

use crate::{Settings, StartError, variables};

/// How often the files are read.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Gives the database's pool another address for the connections that it opens from now on.
pub type Reconnect = Box<dyn Fn(&str) -> Result<(), StartError> + Send + Sync>;

/// A file, and what it held when it was read last.
struct Watched {
    name: &'static str,
    file: PathBuf,
    last: String,
}

impl Watched {
    fn new(name: &'static str, file: Option<&PathBuf>, value: Option<&String>) -> Option<Self> {
        let file = file.filter(|file| !file.as_os_str().is_empty())?.clone();
        Some(Self { name, file, last: value.cloned().unwrap_or_default() })
    }

    /// What it holds now, if that is something new. A file that is being replaced may be missing for a moment.
    async fn changed(&mut self) -> Result<Option<String>, StartError> {
        let (name, file) = (self.name, self.file.clone());
        let read = tokio::task::spawn_blocking(move || variables::read_file(name, &file)).await;
        let read = read.map_err(|error| StartError::new(format!("{name}: {error}"))).flatten();
        let text =
            read.map_err(|error| StartError::new(format!("{error}; the value from before is used")))?;
        let changed = text.trim() != self.last.trim();
        if changed {
            self.last.clone_from(&text);
        }
        Ok(changed.then_some(text))
    }
}

/// The secrets' files of a program.
pub struct SecretFiles {
    keyring: Option<Watched>,
    database: Option<Watched>,
    reconnect: Option<Reconnect>,
}

impl SecretFiles {
    /// Those that the settings name; none when they name none. `holds_keys`: whether the program has the keyring.
    pub fn of(settings: &Settings, holds_keys: bool, reconnect: Option<Reconnect>) -> Option<Self> {
        let keyring = Watched::new(
            "PENSTOCK_ENCRYPTION_KEYS",
            settings.encryption_keys_file.as_ref(),
            settings.encryption_keys.as_ref(),
        );
        let database =
            Watched::new("DATABASE_URL", settings.database_url_file.as_ref(), settings.database_url.as_ref());
        let (keyring, database) = (keyring.filter(|_| holds_keys), database.filter(|_| reconnect.is_some()));
        (keyring.is_some() || database.is_some()).then_some(Self { keyring, database, reconnect })
    }

    async fn read_database(&mut self) -> Result<(), StartError> {
        let (Some(watched), Some(reconnect)) = (&mut self.database, &self.reconnect) else { return Ok(()) };
        let Some(url) = watched.changed().await? else { return Ok(()) };
        match reconnect(&url) {
            Ok(()) => tracing::info!("DATABASE_URL_FILE changed: new connections use what it holds now"),
            // The same content is refused again: logged once, and not a failure that is tried again.
            Err(error) => tracing::error!(%error, "DATABASE_URL_FILE changed, and is not used"),
        }
        Ok(())
    }

    async fn read_keyring(&mut self, services: &Services) -> Result<(), StartError> {
        let Some(watched) = &mut self.keyring else { return Ok(()) };
        let Some(keys) = watched.changed().await? else { return Ok(()) };
        replace_keyring(services, &keys).await.map_err(|why| {
            // It is read again: the database may have been unavailable.
            watched.last.clear();
            StartError::new(format!(
                "the keyring's file changed, and the keyring from before stays in use: {why}"
            ))
        })
    }
}

/// Reads the files in the background.
pub struct SecretFilesTask {
    /// The files.
    pub files: SecretFiles,
    /// Whose keyring is replaced.
    pub services: Services,
}

impl Task for SecretFilesTask {
    const NAME: &'static str = "secret files";
    type Error = StartError;

    fn schedule(&self) -> Schedule {
        Schedule::after(READ_EVERY)
    }

    async fn run(&mut self) -> Result<(), StartError> {
        let database = self.files.read_database().await;
        self.files.read_keyring(&self.services).await.and(database)
    }
}

/// Uses another keyring from now on, provided that it opens what is in the database.
async fn replace_keyring(services: &Services, keys: &str) -> Result<(), String> {
    let keyring = Keyring::parse(keys).map_err(|error| error.to_string())?;
    installation::check_keyring(services, &keyring).await.map_err(|error| error.to_string())?;
    let ids = keyring.ids().collect::<Vec<_>>().join(", ");
    services.keyring.replace(Arc::new(keyring));
    tracing::info!(keys = ids, "the keyring's file changed: its keys are used from now on");
    Ok(())
}
