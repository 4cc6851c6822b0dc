//! A transaction on a pooled connection. A connection on which BEGIN, COMMIT or ROLLBACK failed is not used again: the
//! state of its transaction is unknown, and on a full disk SQLite may have rolled back by itself.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;
use sqlx::{Executor as _, Sqlite, SqliteConnection};

/// A rollback takes no longer, or the connection is closed.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(30);

/// An open transaction. Dropping it rolls it back.
pub struct Tx {
    connection: Option<PoolConnection<Sqlite>>,
}

impl Tx {
    /// Begins a transaction with `statement`.
    pub async fn begin(pool: &SqlitePool, statement: &'static str) -> Result<Self, sqlx::Error> {
        // Before the statement runs, so that a caller that is dropped meanwhile leaves no open transaction in the pool.
        let mut tx = Self { connection: Some(pool.acquire().await?) };
        tx.run(statement).await?;
        Ok(tx)
    }

    /// Commits it.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.run("COMMIT").await?;
        self.connection = None;
        Ok(())
    }

    async fn run(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let done = (&mut **self).execute(statement).await;
        if done.is_err()
            && let Some(mut connection) = self.connection.take()
        {
            connection.close_on_drop();
        }
        done.map(|_| ())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let (Some(mut connection), Ok(runtime)) =
            (self.connection.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            let rolled_back = tokio::time::timeout(ROLLBACK_WITHIN, connection.execute("ROLLBACK")).await;
            if !matches!(rolled_back, Ok(Ok(_))) {
                connection.close_on_drop();
            }
        });
    }
}

impl Deref for Tx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_deref().expect("it is open until it is committed or dropped")
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_deref_mut().expect("it is open until it is committed or dropped")
    }
}

/// Steps of SQLite's machine between two looks at whether somebody still waits.
const STEPS: i32 = 10_000;

/// How long a read for a client may take.
const READ: Duration = Duration::from_secs(7);

/// An open transaction that reads for a client. What it asks ends with its caller, and after [`READ`]: otherwise it would run on,
/// and hold its connection, for nobody.
pub struct ReadTx {
    tx: Option<Tx>,
    /// Set when nobody waits any more.
    abandoned: Arc<AtomicBool>,
}

impl ReadTx {
    /// Begins it.
    pub async fn begin(pool: &SqlitePool) -> Result<Self, sqlx::Error> {
        let mut read =
            Self { tx: Some(Tx { connection: Some(pool.acquire().await?) }), abandoned: Arc::default() };
        let (abandoned, began) = (read.abandoned.clone(), Instant::now());
        read.lock_handle().await?.set_progress_handler(STEPS, move || {
            !abandoned.load(Ordering::Relaxed) && began.elapsed() < READ
        });
        if let Some(tx) = &mut read.tx {
            tx.run("BEGIN").await?;
        }
        Ok(read)
    }
}

impl Drop for ReadTx {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        let (Some(mut tx), Ok(runtime)) = (self.tx.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            // It waits until the statement that is under way has ended.
            let handle = async { tx.lock_handle().await.map(|mut handle| handle.remove_progress_handler()) };
            if !matches!(tokio::time::timeout(ROLLBACK_WITHIN, handle).await, Ok(Ok(())))
                && let Some(connection) = &mut tx.connection
            {
                connection.close_on_drop();
            }
            drop(tx);
        });
    }
}

impl Deref for ReadTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.tx.as_ref().expect("it is open until it is dropped")
    }
}

impl DerefMut for ReadTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.tx.as_mut().expect("it is open until it is dropped")
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::time::Timestamp;
    use penstock_store::operations::{AuditEntry, Operations as _};
    use sqlx::Executor as _;

    use super::{ReadTx, Tx};
    use crate::SqliteStore;

    fn entry(bytes: usize) -> AuditEntry {
        AuditEntry {
            id: 0,
            at: Timestamp::from_millis(1),
            actor: "operator:suite".into(),
            action: "suite".into(),
            batch: None,
            detail: Some("x".repeat(bytes)),
        }
    }

    /// A database that is full for the present writing connection, as a full disk makes it: SQLite rolls back by itself.
    async fn full(store: &SqliteStore) {
        let pages = sqlx::query_scalar::<_, i64>("PRAGMA page_count")
            .fetch_one(&store.database.writer)
            .await
            .unwrap();
        let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        store.database.writer.execute(limit).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_whose_transaction_failed_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("full.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        store.migrate().await.unwrap();
        full(&store).await;
        let mut tx = Tx::begin(&store.database.writer, "BEGIN IMMEDIATE").await.unwrap();
        let text = "x".repeat(100_000);
        let insert = format!("INSERT INTO audit (at, actor, action, detail) VALUES (1, 'a', 'a', '{text}')");
        let error = tx.execute(sqlx::AssertSqlSafe(insert)).await.unwrap_err();
        let error = crate::error::store_error("suite")(error);
        assert!(error.is_transient(), "{error}");
        drop(tx);
        // On the connection as it was, even this begin failed.
        store.audit(&entry(100_000)).await.expect("the next connection is a new one, which knows no limit");
        let tx = Tx::begin(&store.database.writer, "BEGIN IMMEDIATE").await.expect("it begins");
        tx.commit().await.expect("it ends");
    }

    #[tokio::test]
    async fn a_failed_begin_and_a_cancelled_caller_leave_no_open_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("begin.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        store.migrate().await.unwrap();
        assert!(Tx::begin(&store.database.writer, "BEGIN NONSENSE").await.is_err());
        // A caller that goes away in the middle of BEGIN, at any point of it.
        for polls in 0..4 {
            let mut begin = Box::pin(Tx::begin(&store.database.writer, "BEGIN IMMEDIATE"));
            for _ in 0..polls {
                if poll_once(&mut begin).await {
                    break;
                }
            }
        }
        let tx = Tx::begin(&store.database.writer, "BEGIN IMMEDIATE").await.expect("it begins");
        tx.commit().await.expect("it ends");
    }

    /// A read whose client hung up, and one that takes too long, end in the middle of their statement and leave their connection to
    /// others.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_read_ends_with_its_client() {
        const ENDLESS: &str =
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("read.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        store.migrate().await.unwrap();
        // Twice as many as there are connections.
        for _ in 0..8 {
            let mut tx = ReadTx::begin(&store.database.readers).await.unwrap();
            let counting = sqlx::query_scalar::<_, i64>(ENDLESS).fetch_one(&mut *tx);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(50), counting).await.is_err());
        }
        let began = std::time::Instant::now();
        for _ in 0..8 {
            let mut tx = ReadTx::begin(&store.database.readers).await.unwrap();
            let one: i64 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *tx).await.unwrap();
            assert_eq!(one, 1);
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
        let mut tx = ReadTx::begin(&store.database.readers).await.unwrap();
        let ended = sqlx::query_scalar::<_, i64>(ENDLESS).fetch_one(&mut *tx).await.unwrap_err();
        let error = crate::error::store_error("suite")(ended);
        assert!(error.is_transient(), "{error}");
    }

    /// Polls once, and lets others work; whether it is done.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())
        });
        let done = polled.await;
        tokio::task::yield_now().await;
        done
    }
}
