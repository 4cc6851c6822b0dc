//! Penstock's database on one machine: SQLite with a write-ahead log, one writer and a few readers.
//!
//! `synchronous=NORMAL`: a killed process loses nothing; a power cut can lose the last commits, never the order
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>).

mod alerts;
mod batches;
mod callbacks;
mod control;
mod convert;
mod dispatch;
mod error;
mod extraction;
mod ledgers;
mod operations;
mod owners;
mod reading;
mod schema;
mod sealing;
mod transaction;
mod waiting;
mod wal;
mod work;
mod workers;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_store::{StoreError, StoreResult};
use sqlx::SqliteConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::error::store_error;
use crate::transaction::{ReadTx, Tx};

/// How long a statement waits for another process (an operator's command) that writes.
const BUSY: Duration = Duration::from_secs(10);

/// With less free disk, in bytes, nothing can be relied on to be written: a chunk of rows and its pages in the log.
const LEAST_ROOM: u64 = 1024 * 1024;

/// Reading connections.
const READERS: u32 = 4;

/// The database of one machine.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    file: PathBuf,
    options: SqliteConnectOptions,
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
            .statement_cache_capacity(128);
        let pool = |size: u32| SqlitePoolOptions::new().max_connections(size).min_connections(1);
        let writer = pool(1).connect_with(options.clone()).await.map_err(store_error("open"))?;
        let readers = pool(READERS).connect_with(options.clone()).await.map_err(store_error("open"))?;
        Ok(Self { writer, readers, file, options })
    }

    /// Makes this process the one that serves the file; none when another one does.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn lock_service(&self) -> StoreResult<Option<ServiceGuard>> {
        Ok(lock_file(&self.file, "lock")?.map(ServiceGuard))
    }

    /// Whether the disk has room. A small write may still succeed on a full disk, where the write-ahead log has pages to use
    /// again, and the next larger one fails.
    fn has_room(&self) -> StoreResult<()> {
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let unavailable = |error: std::io::Error| StoreError::Unavailable(Box::new(error));
        let free = fs4::available_space(folder.unwrap_or(Path::new("."))).map_err(unavailable)?;
        if free < LEAST_ROOM {
            let text = format!("the disk is full: {} KiB are free at {}", free / 1024, self.file.display());
            return Err(unavailable(std::io::Error::new(std::io::ErrorKind::StorageFull, text)));
        }
        Ok(())
    }

    /// A transaction that writes: it waits for the writer before it reads, so that what it read stays true.
    async fn write(&self, name: &'static str) -> StoreResult<Tx> {
        Tx::begin(&self.writer, "BEGIN IMMEDIATE").await.map_err(store_error(name))
    }

    /// A transaction that reads for an operator, however long that takes: it sees the database as it stands at its first statement.
    async fn snapshot(&self, name: &'static str) -> StoreResult<Tx> {
        Tx::begin(&self.readers, "BEGIN").await.map_err(store_error(name))
    }

    /// A transaction that reads for a client, and ends with it: it sees the database as it stands at its first statement.
    async fn read(&self, name: &'static str) -> StoreResult<ReadTx> {
        ReadTx::begin(&self.readers).await.map_err(store_error(name))
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

/// Commits a named transaction.
async fn commit(tx: Tx, name: &'static str) -> StoreResult<()> {
    tx.commit().await.map_err(store_error(name))
}

type Connection = SqliteConnection;

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
