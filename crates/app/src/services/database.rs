//! The database, by `DATABASE_URL`.

use std::path::PathBuf;
use std::sync::Arc;

use penstock_store::Store;
use penstock_store_sqlite::{ServiceGuard, SqliteStore};

use super::Role;
#[cfg(feature = "cluster")]
use super::process_name;
use crate::StartError;
use crate::permissions::{Writers, refuse_if_written};
use crate::secret_files::Reconnect;
use crate::settings::Settings;
#[cfg(feature = "cluster")]
use crate::variables;

/// The URL that the settings name.
pub(super) fn url(settings: &Settings) -> Result<&str, StartError> {
    settings.database_url.as_deref().ok_or_else(|| {
        StartError::misuse(
            "DATABASE_URL is not set: give sqlite://FILE (one machine) or postgres://… (a cluster).",
        )
    })
}

/// The database, and what belongs to it.
pub(super) struct Database {
    pub(super) store: Arc<dyn Store>,
    pub(super) guard: Option<ServiceGuard>,
    /// None for a file.
    pub(super) reconnect: Option<Reconnect>,
}

pub(super) async fn open(url: &str, settings: &Settings, role: Role) -> Result<Database, StartError> {
    if url.starts_with("sqlite:") {
        if role.is_one_of_several() {
            return Err(StartError::misuse(
                "DATABASE_URL names SQLite, which serves one process: start `penstock dev`, or give postgres://….",
            ));
        }
        if let Some(file) = sqlite_file(url) {
            refuse_if_written(&file, Writers::GroupAndOthers)?;
        }
        let store =
            SqliteStore::open(url).await.map_err(|error| StartError::new(format!("{url}: {error}")))?;
        let guard = match role {
            Role::Everything => {
                Some(store.lock_service().map_err(|error| StartError::new(error.to_string()))?.ok_or_else(
                    || {
                        StartError::new(format!(
                            "{url} is served by another process; stop it, or use another data folder."
                        ))
                    },
                )?)
            }
            _ => None,
        };
        return Ok(Database { store: store.shared(), guard, reconnect: None });
    }
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        return open_postgres(url, settings).await;
    }
    Err(StartError::misuse("DATABASE_URL begins with sqlite:// or postgres://."))
}

/// The file that a URL of SQLite names; none for a database in memory.
fn sqlite_file(url: &str) -> Option<PathBuf> {
    let name = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let name = name.split('?').next().unwrap_or_default();
    let in_memory = name.is_empty() || name == ":memory:";
    (!in_memory).then(|| PathBuf::from(name))
}

#[cfg(feature = "cluster")]
async fn open_postgres(url: &str, settings: &Settings) -> Result<Database, StartError> {
    let pooling = settings.database_pooling.as_deref().map(str::parse);
    let options = penstock_store_postgres::Options {
        max_connections: settings.database_connections,
        application_name: process_name("penstock"),
        sessions: pooling
            .transpose()
            .map_err(|error| StartError::misuse(format!("PENSTOCK_DATABASE_POOLING: {error}.")))?,
        password: settings.database_password_file.clone().map(password_file),
    };
    let wrong = |error| StartError::misuse(format!("DATABASE_URL: {error}."));
    let store = penstock_store_postgres::PostgresStore::connect(url, options).map_err(wrong)?;
    let again = store.clone();
    let reconnect: Reconnect = Box::new(move |url| again.connect_anew(url).map_err(wrong));
    Ok(Database { store: store.shared(), guard: None, reconnect: Some(reconnect) })
}

/// A password that is read again for each new connection: a token that expires is replaced in its file.
#[cfg(feature = "cluster")]
fn password_file(path: PathBuf) -> penstock_store_postgres::PasswordFile {
    let file = path.clone();
    let read =
        move || variables::read_file("PENSTOCK_DATABASE_PASSWORD", &file).map_err(|error| error.to_string());
    penstock_store_postgres::PasswordFile { path, read: Arc::new(read) }
}

#[cfg(not(feature = "cluster"))]
async fn open_postgres(_url: &str, _settings: &Settings) -> Result<Database, StartError> {
    Err(StartError::misuse("this build has no PostgreSQL: build with the feature `cluster`."))
}
