//! The write-ahead log, which keeps what pages held before an erasure until it is cut.

use std::time::{Duration, Instant};

use penstock_store::StoreResult;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use crate::engine::Database;
use crate::error::store_error;

/// How long readers and writers are waited for: each holds on for one statement.
const PATIENCE: Duration = Duration::from_secs(2);

impl Database {
    /// Moves what the log holds into the database's file, and cuts the log to nothing. False when somebody was in its way all
    /// the while: what was erased is still in the log.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) async fn truncate_log(&self) -> StoreResult<bool> {
        const NAME: &str = "truncate_log";
        // A connection of its own that waits for nobody inside SQLite: there it would hold up every writer.
        let options = self.options.clone().busy_timeout(Duration::ZERO);
        let mut connection = options.connect().await.map_err(store_error(NAME))?;
        let began = Instant::now();
        let cut = loop {
            if truncate(&mut connection).await.map_err(store_error(NAME))? {
                break true;
            }
            if began.elapsed() > PATIENCE {
                break false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        connection.close().await.map_err(store_error(NAME))?;
        Ok(cut)
    }
}

/// One try; false when it was in somebody's way.
async fn truncate(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    match sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await {
        Ok(row) => Ok(row.try_get::<i64, _>(0)? == 0),
        // SQLITE_BUSY and SQLITE_LOCKED.
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "5" || code == "6") => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
