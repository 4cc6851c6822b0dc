//! Connections to PostgreSQL: their settings, their time limits, and the replacement of those that are of no use any more.
//!
//! A firewall that forgets a connection, or a host that loses power, leaves a connection on which nothing arrives and
//! nothing fails. sqlx sets neither keepalive nor TCP's user timeout, and neither helps where something in between still
//! acknowledges. So every statement has a limit on the server, and a slightly longer one here: while the connection works,
//! the server's refusal arrives first. What passes the longer limit proves that the connection is silent, and it is closed;
//! connections that have been idle since then are closed untested. The server frees what a silent client held when
//! `idle_in_transaction_session_timeout` is over.

mod address;
mod choice;
pub mod servers;
mod sessions;
pub mod settings;
mod transaction;

use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Postgres};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use self::choice::{Choice, Moves};
use self::servers::Servers;
pub use self::sessions::Sessions;
pub use self::transaction::{Isolation, ReadTx, Tx};
use crate::error::sqlstate;

/// How long an ordinary statement may take on the server. None waits longer: rows are moved in groups of some hundreds.
const STATEMENT: Duration = Duration::from_secs(7);

/// How long a statement of a [long](Limit::Long) transaction may take: it touches all rows of a batch.
const LONG_STATEMENT: Duration = Duration::from_secs(120);

/// How much longer is waited here: the server's refusal arrives first.
const MARGIN: Duration = Duration::from_secs(1);

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

/// Sets up a session that is this program's own.
async fn set_up(connection: &mut PgConnection, limit: Option<Duration>) -> Result<(), sqlx::Error> {
    connection.execute(AssertSqlSafe(settings::of_session(limit))).await.map(|_| ())
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
    sessions: Arc<OnceCell<Sessions>>,
    choice: Arc<Choice>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connections.fmt(f)
    }
}

impl Pool {
    /// A pool that connects when it is first used. Whose the server's sessions are is found out then, unless it is given.
    pub fn new(servers: Servers, max_connections: u32, sessions: Option<Sessions>) -> Self {
        let options = servers.first();
        let useless_since = UselessSince::default();
        let sessions = Arc::new(OnceCell::new_with(sessions));
        let useless = useless_since.clone();
        let connections = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE)
            // Asked here instead, within a time.
            .test_before_acquire(false)
            .after_connect(set_up_own(sessions.clone(), Some(STATEMENT)))
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
            .after_connect(set_up_own(sessions.clone(), Some(CANCEL)))
            .connect_lazy_with(options);
        Self { connections, cancels, useless_since, sessions, choice: Arc::new(Choice::new(servers)) }
    }

    /// A connection of its own, whose statements have no time limit: for migrations.
    pub async fn unlimited(&self) -> Result<(PgConnection, Sessions), sqlx::Error> {
        let sessions = self.sessions().await?;
        self.choose_before_first().await?;
        // Statements that are kept prepared would be left in a session that is somebody else's next.
        let options = (*self.connections.connect_options()).clone().statement_cache_capacity(0);
        let mut connection = options.connect().await?;
        if sessions == Sessions::PerConnection {
            set_up(&mut connection, None).await?;
        }
        Ok((connection, sessions))
    }

    /// Whose the server's sessions are.
    async fn sessions(&self) -> Result<Sessions, sqlx::Error> {
        if let Some(sessions) = self.sessions.get() {
            return Ok(*sessions);
        }
        let find = self.sessions.get_or_try_init(|| async {
            self.choose_before_first().await?;
            let found = sessions::found(&self.connections.connect_options()).await?;
            if found == Sessions::PerTransaction {
                tracing::info!(
                    "a pooler in transaction mode is before the database: every statement is in a transaction"
                );
            }
            Ok(found)
        });
        tokio::time::timeout(ACQUIRE, find).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).copied()
    }

    /// A connection for one statement after another. Where a session is a transaction's, only for [transactions](Self::begin).
    async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let sessions = self.sessions().await?;
        let (connection, moves) = self.pooled_and_moves().await?;
        Ok(Connection {
            connection,
            moves,
            sessions,
            limit: Limit::Ordinary,
            pool: self.clone(),
            is_useless: false,
            under_way: false,
        })
    }
}

/// Sets up the sessions that are this program's own.
fn set_up_own(
    sessions: Arc<OnceCell<Sessions>>,
    limit: Option<Duration>,
) -> impl for<'c> Fn(&'c mut PgConnection, PoolConnectionMetadata) -> BoxFuture<'c, Result<(), sqlx::Error>>
+ Send
+ Sync
+ 'static {
    move |connection, _| {
        let own = sessions.get() != Some(&Sessions::PerTransaction);
        async move { if own { set_up(connection, limit).await } else { Ok(()) } }.boxed()
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
        error => {
            matches!(sqlstate(error).as_deref(), Some("26000" | "0A000"))
                || is_read_only(error)
                || is_lost(error)
        }
    }
}

/// The server has become a standby, or was told to take no writes. A new connection may lead to the new primary.
fn is_read_only(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("25006")
}

/// A connection whose statements have a time limit. It is closed, and not returned to the pool, once it is of no use.
pub struct Connection {
    connection: PoolConnection<Postgres>,
    moves: Moves,
    sessions: Sessions,
    limit: Limit,
    pool: Pool,
    is_useless: bool,
    /// Whether a statement is under way: true when its caller was dropped in the middle of it.
    under_way: bool,
}

impl Connection {
    /// Whether the server may keep statements prepared for this connection.
    pub fn keeps_statements(&self) -> bool {
        self.sessions == Sessions::PerConnection
    }

    /// Waits for something that happens on this connection.
    pub async fn within_limit<'c, T>(
        &'c mut self,
        work: impl FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let Self { connection, moves, limit, pool, is_useless, under_way, .. } = self;
        *under_way = true;
        let asked = pool.unless_moved(moves, work(connection));
        let done = tokio::time::timeout(limit.here(), asked).await.unwrap_or_else(|_| Err(silent()));
        *under_way = false;
        if let Err(error) = &done {
            Self::note(error, pool, is_useless);
        }
        done
    }

    fn note(error: &sqlx::Error, pool: &Pool, is_useless: &mut bool) {
        if makes_useless(error) {
            *is_useless = true;
            pool.look();
        }
        if is_read_only(error) || is_silent(error) {
            pool.useless_since.now();
        }
    }
}

/// Whether the connection was lost, other than by silence: what had no effect yet may be asked on another one. A server that ends, or
/// a pooler whose server is gone, says so first.
fn is_lost(error: &sqlx::Error) -> bool {
    let ended = |state: &str| state.starts_with("08") || matches!(state, "57P01" | "57P02" | "57P03");
    match error {
        sqlx::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionRefused
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
        ),
        error => sqlstate(error).is_some_and(|state| ended(&state)),
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
