//! Connections to PostgreSQL: their settings, their time limits, and the replacement of those that are of no use any more.
//!
//! A firewall that forgets a connection, or a host that loses power, leaves a connection on which nothing arrives and
//! nothing fails. sqlx sets neither keepalive nor TCP's user timeout, and neither helps where something in between still
//! acknowledges. So every statement has a limit on the server, and a slightly longer one here: while the connection works,
//! the server's refusal arrives first. What passes the longer limit proves that the connection is silent, and it is closed;
//! connections that have been idle since then are closed untested. The server frees what a silent client held when
//! [`IDLE_IN_TRANSACTION`] is over.

mod transaction;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, Postgres};
use tokio::time::Instant;

pub use self::transaction::{ReadTx, Tx};
use crate::error::sqlstate;

/// How long an ordinary statement may take on the server. None waits longer: rows are moved in groups of some hundreds.
const STATEMENT: Duration = Duration::from_secs(7);

/// How long a statement of a [long](Limit::Long) transaction may take: it touches all rows of a batch.
const LONG_STATEMENT: Duration = Duration::from_secs(120);

/// How much longer is waited here: the server's refusal arrives first.
const MARGIN: Duration = Duration::from_secs(1);

/// The server ends a transaction whose client says nothing for longer, and frees its locks.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(7);

/// How long a caller waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);

/// An idle connection that does not answer within this time is replaced.
const PING: Duration = Duration::from_secs(2);

/// How long ending another connection's statement may take.
const CANCEL: Duration = Duration::from_secs(2);

/// The connection for that is closed when nobody hung up for so long.
const CANCELS_IDLE: Duration = Duration::from_secs(60);

/// A connection that answered so recently is not asked again before it is used.
const ANSWERED_RECENTLY: Duration = Duration::from_millis(500);

/// How long a statement of a transaction may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As one of a group of rows does.
    Ordinary,
    /// It touches all rows of a batch.
    Long,
}

impl Limit {
    fn on_the_server(self) -> Duration {
        match self {
            Self::Ordinary => STATEMENT,
            Self::Long => LONG_STATEMENT,
        }
    }

    fn here(self) -> Duration {
        self.on_the_server() + MARGIN
    }
}

/// What every connection sets for itself, whatever the database's or the role's defaults are: the isolation that the
/// transactions here rely on, time limits, where the tables are, and that a commit is on disk when it is answered (a note
/// that a crash forgets would have a call made twice). How long the server waits for a client that is gone, too.
///
/// The schema is the one of the search path that has the tables; before there are any, the first of the search path.
const SETTINGS: &str = "SELECT set_config('search_path', quote_ident(coalesce( \
     (SELECT n.nspname FROM unnest(current_schemas(false) || 'public'::name) WITH ORDINALITY AS path(name, place) \
      JOIN pg_catalog.pg_namespace n ON n.nspname = path.name \
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'batch_keys' ORDER BY path.place LIMIT 1), \
     current_schema(), 'public')), false), \
     set_config('default_transaction_isolation', 'read committed', false), \
     set_config('default_transaction_deferrable', 'off', false), \
     set_config('statement_timeout', $1, false), set_config('lock_timeout', '0', false), \
     set_config('idle_in_transaction_session_timeout', $2, false), set_config('idle_session_timeout', '0', false), \
     CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', false) END, \
     CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END, \
     set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false), \
     set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '25000', false)";

/// Applies the [`SETTINGS`] with a limit for statements; none: no limit.
async fn apply_settings(
    connection: &mut PgConnection,
    statement: Option<Duration>,
) -> Result<(), sqlx::Error> {
    let millis = |limit: Duration| limit.as_millis().to_string();
    sqlx::query(SETTINGS)
        .bind(statement.map_or_else(|| "0".to_owned(), millis))
        .bind(statement.map_or_else(|| "0".to_owned(), |_| millis(IDLE_IN_TRANSACTION)))
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}

/// Since when connections that have been idle are of no use: one was found silent, or to lead to a server that has become
/// read-only.
#[derive(Clone, Default)]
struct UselessSince(Arc<Mutex<Option<Instant>>>);

impl UselessSince {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that has been idle for that time was idle then.
    fn concerns(&self, idle_for: Duration) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < idle_for)
    }
}

/// A pool whose connections have settings and time limits.
#[derive(Clone)]
pub struct Pool {
    connections: PgPool,
    /// A connection of its own for ending what others run: when all are busy, it is needed most.
    cancels: PgPool,
    useless_since: UselessSince,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connections.fmt(f)
    }
}

impl Pool {
    /// A pool that connects when it is first used.
    pub fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        let useless_since = UselessSince::default();
        let useless = useless_since.clone();
        let connections = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE)
            // Asked here instead, within a time.
            .test_before_acquire(false)
            .after_connect(|connection, _| apply_settings(connection, Some(STATEMENT)).boxed())
            .before_acquire(move |connection, idle| {
                let useless = useless.clone();
                async move {
                    if useless.concerns(idle.idle_for) {
                        return Ok(false);
                    }
                    if idle.idle_for < ANSWERED_RECENTLY {
                        return Ok(true);
                    }
                    let answered = ping(connection).await;
                    if answered.is_err() {
                        useless.now();
                    }
                    answered.map(|()| true)
                }
                .boxed()
            })
            // sqlx asks again after this, without a limit: what is silent does not get that far.
            .after_release(|connection, _| ping(connection).map_ok(|()| true).boxed())
            .connect_lazy_with(options.clone());
        let cancels = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CANCEL)
            .idle_timeout(CANCELS_IDLE)
            .after_connect(|connection, _| apply_settings(connection, Some(CANCEL)).boxed())
            .connect_lazy_with(options);
        Self { connections, cancels, useless_since }
    }

    /// Opens connections with other options from now on. Those that are open go on.
    pub fn set_connect_options(&self, options: PgConnectOptions) {
        self.connections.set_connect_options(options.clone());
        self.cancels.set_connect_options(options);
    }

    /// A pool of one connection whose statements have no time limit: for migrations.
    pub async fn unlimited(&self) -> Result<PgPool, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE)
            .after_connect(|connection, _| apply_settings(connection, None).boxed());
        pool.connect_with((*self.connections.connect_options()).clone()).await
    }

    /// A connection for one statement after another.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let connection = self.connections.acquire().await?;
        let useless_since = self.useless_since.clone();
        Ok(Connection {
            connection,
            limit: Limit::Ordinary,
            useless_since,
            is_useless: false,
            under_way: false,
        })
    }
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    tokio::time::timeout(PING, connection.ping()).await.map_err(|_| silent())?
}

fn silent() -> sqlx::Error {
    let text = "the connection is silent; it is replaced";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

/// Whether a connection is of no use after an error: it is broken, or what it is connected to is not what it was.
fn makes_useless(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            true
        }
        // Its statements are unknown to the server, or were planned for other columns.
        error => matches!(sqlstate(error).as_deref(), Some("26000" | "0A000")) || is_read_only(error),
    }
}

/// The server has become a standby, or was told to take no writes. A new connection may lead to the new primary.
fn is_read_only(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("25006")
}

/// A connection whose statements have a time limit. It is closed, and not returned to the pool, once it is of no use.
pub struct Connection {
    connection: PoolConnection<Postgres>,
    limit: Limit,
    useless_since: UselessSince,
    is_useless: bool,
    /// Whether a statement is under way: true when its caller was dropped in the middle of it.
    under_way: bool,
}

impl Connection {
    /// Waits for something that happens on this connection.
    pub async fn within_limit<'c, T>(
        &'c mut self,
        work: impl FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let Self { connection, limit, useless_since, is_useless, under_way } = self;
        *under_way = true;
        let done =
            tokio::time::timeout(limit.here(), work(connection)).await.unwrap_or_else(|_| Err(silent()));
        *under_way = false;
        if let Err(error) = &done {
            Self::note(error, useless_since, is_useless);
        }
        done
    }

    fn note(error: &sqlx::Error, useless_since: &UselessSince, is_useless: &mut bool) {
        if makes_useless(error) {
            *is_useless = true;
        }
        if is_read_only(error) || is_silent(error) {
            useless_since.now();
        }
    }
}

fn is_silent(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_useless {
            self.connection.close_on_drop();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.fmt(f)
    }
}
