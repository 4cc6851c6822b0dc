//! Transactions on a pooled connection.

use std::ops::{Deref, DerefMut};

use futures::FutureExt as _;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqlSafeStr};

use crate::connection::{Connection, Limit, Pool, Sessions, settings};

/// What a transaction sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement what was committed before it, because the ledger of a batch is read again under its lock.
    ReadCommitted,
    /// One moment. It writes nothing.
    Snapshot,
}

impl Pool {
    /// Begins a transaction that writes.
    pub async fn begin(&self, limit: Limit) -> Result<Tx, sqlx::Error> {
        self.begin_as(Isolation::ReadCommitted, limit).await
    }

    /// Begins a transaction.
    pub async fn begin_as(&self, isolation: Isolation, limit: Limit) -> Result<Tx, sqlx::Error> {
        let mut beginning = self.beginning();
        loop {
            match self.begin_once(isolation, limit).await {
                Err(error) if beginning.again(&error, self).await => {}
                began => return began,
            }
        }
    }

    async fn begin_once(&self, isolation: Isolation, limit: Limit) -> Result<Tx, sqlx::Error> {
        let mut connection = self.acquire().await?;
        connection.limit = limit;
        let text = begin_text(isolation, limit, connection.sessions);
        // Before the statement runs, so that a caller that is dropped meanwhile leaves no open transaction in the pool.
        let mut tx = Tx { connection: Some(connection), open: true };
        tx.run(AssertSqlSafe(text)).await?;
        Ok(tx)
    }

    /// A transaction for one statement of its own. Where the session is this program's own, the statement is a transaction
    /// by itself.
    pub async fn single(&self) -> Result<Tx, sqlx::Error> {
        let connection = self.acquire().await?;
        if connection.sessions == Sessions::PerTransaction {
            drop(connection);
            return self.begin(Limit::Ordinary).await;
        }
        Ok(Tx { connection: Some(connection), open: false })
    }

    /// A connection for a statement that cannot be in a transaction.
    pub async fn outside(&self) -> Result<Connection, sqlx::Error> {
        self.acquire().await
    }

    /// Begins a transaction that reads for a client: it sees one moment, and what it asks ends with its caller.
    pub async fn begin_reading(&self) -> Result<ReadTx, sqlx::Error> {
        let mut beginning = self.beginning();
        loop {
            match self.begin_reading_once().await {
                Err(error) if beginning.again(&error, self).await => {}
                began => return began,
            }
        }
    }

    async fn begin_reading_once(&self) -> Result<ReadTx, sqlx::Error> {
        let mut connection = self.acquire().await?;
        connection.limit = Limit::Ordinary;
        let text = begin_text(Isolation::Snapshot, Limit::Ordinary, connection.sessions);
        let text = AssertSqlSafe(text.replacen(';', "; SELECT pg_backend_pid();", 1));
        let mut tx = Tx { connection: Some(connection), open: true };
        let began = tx.within_limit(|connection| connection.fetch_optional(text).boxed()).await;
        if began.is_err()
            && let Some(mut connection) = tx.connection.take()
        {
            connection.connection.close_on_drop();
        }
        let backend = began?.ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        Ok(ReadTx { tx: Some(tx), backend, cancels: self.cancels.clone() })
    }
}

/// One message, which a pooler never divides: BEGIN, and what the session does not have by itself.
fn begin_text(isolation: Isolation, limit: Limit, sessions: Sessions) -> String {
    let isolation = match isolation {
        Isolation::ReadCommitted => "READ COMMITTED",
        Isolation::Snapshot => "REPEATABLE READ READ ONLY",
    };
    let settings = match (sessions, limit) {
        (Sessions::PerTransaction, _) => settings::of_transaction(Some(limit.on_the_server())),
        (Sessions::PerConnection, Limit::Ordinary) => String::new(),
        (Sessions::PerConnection, Limit::Long) => {
            format!("SET LOCAL statement_timeout = '{}ms'", limit.on_the_server().as_millis())
        }
    };
    format!("BEGIN ISOLATION LEVEL {isolation};{settings}")
}

/// An open transaction. Dropping it rolls it back. A connection on which BEGIN, COMMIT or ROLLBACK failed is not used
/// again: the state of its transaction is unknown.
pub struct Tx {
    connection: Option<Connection>,
    /// False: its one statement is a transaction by itself.
    open: bool,
}

impl Tx {
    /// Commits it.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        if self.open {
            self.run("COMMIT").await?;
        }
        self.connection = None;
        Ok(())
    }

    async fn run(&mut self, statement: impl SqlSafeStr + Send) -> Result<(), sqlx::Error> {
        let statement = statement.into_sql_str();
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
        let connection = self.connection.take().filter(|connection| self.open && !connection.is_useless);
        let Some(mut connection) = connection else { return };
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
            let end = format!("/* penstock:cancel */ SELECT pg_cancel_backend({backend})");
            if let Err(error) = cancels.execute(AssertSqlSafe(end)).await {
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
