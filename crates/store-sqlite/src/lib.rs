//! Penstock's database on one machine: SQLite with a write-ahead log, one writer and a few readers.
//!
//! `synchronous=NORMAL`: a killed process loses nothing; a power cut can lose the last commits, never the order
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>).

mod engine;
mod error;
mod fragments;
mod schema;
mod transaction;
mod wal;

use std::fs::{File, TryLockError};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_store::{Store, StoreError, StoreResult};
use penstock_store_sql::{Db, SqlStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::engine::Database;
use crate::error::store_error;

/// How long a statement waits for another process (an operator's command) that writes.
const BUSY: Duration = Duration::from_secs(10);

/// Reading connections.
const READERS: u32 = 4;

/// The database of one machine.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    store: SqlStore,
    database: Arc<Database>,
}

/// Held by the one service process that serves a database file.
#[derive(Debug)]
pub struct ServiceGuard(#[allow(dead_code, reason = "closing the file frees the lock")] File);

impl SqliteStore {
    /// Opens `sqlite://FILE`, and makes the file and its folder when they are missing.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn open(url: &str) -> StoreResult<Self> {
        let file = PathBuf::from(
            url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url),
        );
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(false)
            .busy_timeout(BUSY)
            .pragma("cache_size", "-1536")
            .pragma("journal_size_limit", "67108864")
            .pragma("temp_store", "FILE")
            // What is deleted is overwritten, in the pages that stay and in those that are freed.
            .pragma("secure_delete", "ON")
            .statement_cache_capacity(256);
        let pool = |size: u32| SqlitePoolOptions::new().max_connections(size).min_connections(1);
        let writer = pool(1).connect_with(options.clone()).await.map_err(store_error("open"))?;
        let readers = pool(READERS).connect_with(options.clone()).await.map_err(store_error("open"))?;
        let database = Arc::new(Database { writer, readers, file, options });
        Ok(Self { store: SqlStore::new(Db::new(database.clone())), database })
    }

    /// The store, for services.
    pub fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    /// Makes this process the one that serves the file; none when another one does.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn lock_service(&self) -> StoreResult<Option<ServiceGuard>> {
        Ok(lock_file(&self.database.file, "lock")?.map(ServiceGuard))
    }
}

impl Deref for SqliteStore {
    type Target = SqlStore;

    fn deref(&self) -> &SqlStore {
        &self.store
    }
}

fn lock_file(database: &Path, suffix: &str) -> StoreResult<Option<File>> {
    let mut path = database.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    let unavailable = |error: std::io::Error| StoreError::Unavailable(Box::new(error));
    // A lock needs no right to write, except to create its file.
    let create = || File::options().create(true).truncate(false).write(true).open(&path);
    let file = File::open(&path).or_else(|_| create()).map_err(|error| {
        unavailable(std::io::Error::new(error.kind(), format!("{}: {error}", Path::new(&path).display())))
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_lock_needs_no_right_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("penstock.db");
        drop(lock_file(&database, "lock").unwrap());
        let mut held = lock_file(&database, "lock").unwrap().expect("nobody holds it");
        held.write_all(b"x").expect_err("it is not open for writing, whoever runs this");
        assert!(lock_file(&database, "lock").unwrap().is_none(), "somebody holds it");
        let nowhere = lock_file(&folder.path().join("gone/penstock.db"), "lock").unwrap_err();
        assert!(nowhere.to_string().contains("penstock.db.lock"), "{nowhere}");
    }
}
