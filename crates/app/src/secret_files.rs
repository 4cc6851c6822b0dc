//! Secrets that lie in files are read again when their file changes: a keyring is rotated and a database's password
//! changed without a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use penstock_crypto::Keyring;
use penstock_flow::Services;
use penstock_flow::context::installation;
use tokio_util::sync::CancellationToken;

use crate::{Settings, StartError, variables};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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
    async fn changed(&mut self) -> Option<String> {
        let (name, file) = (self.name, self.file.clone());
        let read = tokio::task::spawn_blocking(move || variables::read_file(name, &file)).await;
        match read {
            Ok(Ok(text)) if text.trim() != self.last.trim() => {
                self.last.clone_from(&text);
                Some(text)
            }
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a secret's file cannot be read; the value from before is used");
                None
            }
            Err(error) => {
                tracing::error!(%error, "reading a secret's file failed; the value from before is used");
                None
            }
        }
    }
}

/// The secrets' files of a program.
pub struct SecretFiles {
    keyring: Option<Watched>,
    database: Option<Watched>,
    reconnect: Option<Reconnect>,
}

impl SecretFiles {
    /// Those that the settings name. `holds_keys`: whether the program has the keyring.
    pub fn of(settings: &Settings, holds_keys: bool, reconnect: Option<Reconnect>) -> Self {
        let keyring = Watched::new(
            "PENSTOCK_ENCRYPTION_KEYS",
            settings.encryption_keys_file.as_ref(),
            settings.encryption_keys.as_ref(),
        );
        let database =
            Watched::new("DATABASE_URL", settings.database_url_file.as_ref(), settings.database_url.as_ref());
        Self {
            keyring: keyring.filter(|_| holds_keys),
            database: database.filter(|_| reconnect.is_some()),
            reconnect,
        }
    }

    /// Looks at the files until `stop`.
    pub async fn watch(mut self, services: Services, stop: CancellationToken) {
        if self.keyring.is_none() && self.database.is_none() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.look(&services).await;
        }
    }

    async fn look(&mut self, services: &Services) {
        if let (Some(watched), Some(reconnect)) = (&mut self.database, &self.reconnect)
            && let Some(url) = watched.changed().await
        {
            match reconnect(&url) {
                Ok(()) => tracing::info!("DATABASE_URL_FILE changed: new connections use what it holds now"),
                Err(error) => tracing::error!(%error, "DATABASE_URL_FILE changed, and is not used"),
            }
        }
        if let Some(watched) = &mut self.keyring
            && let Some(keys) = watched.changed().await
            && let Err(why) = replace_keyring(services, &keys).await
        {
            tracing::error!(
                error = why,
                "the keyring's file changed, and the keyring from before stays in use"
            );
            // Looked at again: the database may have been away.
            watched.last.clear();
        }
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
