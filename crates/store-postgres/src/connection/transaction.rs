//! Transactions on a pooled connection.

use std::ops::{Deref, DerefMut};

use futures::FutureExt as _;
use sqlx::postgres::PgPool;
use sqlx::{Executor as _, Row as _};

use crate::connection::{Connection, Limit, Pool};

impl Pool {
    /// Begins a transaction: READ COMMITTED, because the ledger of a batch is read again under its lock.
    pub async fn begin(&self, limit: Limit) -> Result<Tx, sqlx::Error> {
        let statement = match limit {
            Limit::Ordinary => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Limit::Long => "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '120s'",
        };
        self.begin_with(statement, limit).await
    }

    /// Begins a transaction that reads for a client: it sees one moment, and what it asks ends with its caller.
    pub async fn begin_reading(&self) -> Result<ReadTx, sqlx::Error> {
        let mut connection = self.acquire().await?;
        connection.limit = Limit::Ordinary;
        let mut tx = Tx { connection: Some(connection) };
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_backend_pid()";
        let began = tx.within_limit(|connection| connection.fetch_optional(begin).boxed()).await;
        if began.is_err()
            && let Some(mut connection) = tx.connection.take()
        {
            connection.connection.close_on_drop();
        }
        let backend = began?.ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        Ok(ReadTx { tx: Some(tx), backend, cancels: self.cancels.clone() })
    }

    /// Begins a transaction with a statement of the caller's.
    pub async fn begin_with(&self, statement: &'static str, limit: Limit) -> Result<Tx, sqlx::Error> {
        let mut connection = self.acquire().await?;
        connection.limit = limit;
        // Before the statement runs, so that a caller that is dropped meanwhile leaves no open transaction in the pool.
        let mut tx = Tx { connection: Some(connection) };
        tx.run(statement).await?;
        Ok(tx)
    }
}

/// An open transaction. Dropping it rolls it back. A connection on which BEGIN, COMMIT or ROLLBACK failed is not used
/// again: the state of its transaction is unknown.
pub struct Tx {
    connection: Option<Connection>,
}

impl Tx {
    /// Commits it.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.run("COMMIT").await?;
        self.connection = None;
        Ok(())
    }

    async fn run(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let done = self.within_limit(|connection| connection.execute(statement).boxed()).await;
        if done.is_err()
            && let Some(mut connection) = self.connection.take()
        {
            connection.connection.close_on_drop();
        }
        done.map(|_| ())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take().filter(|connection| !connection.is_useless) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            connection.limit = Limit::Ordinary;
            if connection.within_limit(|connection| connection.execute("ROLLBACK").boxed()).await.is_err() {
                connection.connection.close_on_drop();
            }
        });
    }
}

impl Deref for Tx {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is open until it is committed or dropped")
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is open until it is committed or dropped")
    }
}

/// An open transaction that reads for a client. When its caller is dropped in the middle of a statement (the client hung up), the
/// server is told to end it: otherwise it would run on, and hold its connection, for nobody.
pub struct ReadTx {
    tx: Option<Tx>,
    /// The server's process.
    backend: i32,
    cancels: PgPool,
}

impl Drop for ReadTx {
    fn drop(&mut self) {
        let Some(tx) = self.tx.take().filter(|tx| tx.connection.as_ref().is_some_and(|held| held.under_way))
        else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (backend, cancels) = (self.backend, self.cancels.clone());
        runtime.spawn(async move {
            // The connection is still this transaction's, so the statement that is ended is no other one.
            let ended = sqlx::query("/* penstock:cancel */ SELECT pg_cancel_backend($1)").bind(backend);
            if let Err(error) = ended.execute(&cancels).await {
                tracing::debug!(%error, "a read whose client hung up runs on to its limit");
            }
            drop(tx);
        });
    }
}

impl Deref for ReadTx {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.tx.as_ref().expect("it is open until it is dropped")
    }
}

impl DerefMut for ReadTx {
    fn deref_mut(&mut self) -> &mut Connection {
        self.tx.as_mut().expect("it is open until it is dropped")
    }
}
