//! Whose a session of the server is: this program's, or whoever's transaction a pooler gives it to.
//!
//! PgBouncer in transaction mode gives each transaction any of its sessions. What one transaction leaves behind in a session
//! (a setting, a prepared statement, a lock) is found by somebody else's. So there every statement is in a transaction, which
//! brings its own settings, and no statement is kept prepared.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _};

/// How often it is looked. A pooler that others use at the same moment may show one session twice by chance.
const LOOKS: usize = 5;

/// A pooler that has no session left lets a connection wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at a connection whose session others may have meanwhile.
const BETWEEN: Duration = Duration::from_millis(200);

const PID: &str = "SELECT pg_backend_pid()";

/// Whose a session of the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// This program's connection's, for as long as it is open.
    PerConnection,
    /// A transaction's.
    PerTransaction,
}

impl FromStr for Sessions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "session" => Ok(Self::PerConnection),
            "transaction" => Ok(Self::PerTransaction),
            other => Err(format!("unknown pooling `{other}`: use session or transaction")),
        }
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerConnection => "session",
            Self::PerTransaction => "transaction",
        })
    }
}

/// Finds out, with two connections: they share a session, or one of them changes its session while the other one is in a
/// transaction, only where a session is a transaction's.
///
/// # Errors
/// When nothing could be found out, because a connection or a session did not come in time: that is no sign of either.
pub async fn found(options: &PgConnectOptions) -> Result<Sessions, sqlx::Error> {
    let mut one = options.connect().await?;
    let before = backend(&mut one, PID).await?;
    let mut other = in_time(options.connect()).await?;
    for _ in 0..LOOKS {
        match in_time(backend(&mut other, "BEGIN; SELECT pg_backend_pid()")).await {
            Ok(began) if began == before => return Ok(Sessions::PerTransaction),
            Ok(_) => {}
            Err(sqlx::Error::PoolTimedOut) => return while_other_waits(&mut one, before).await,
            Err(error) => return Err(error),
        }
        if in_time(backend(&mut one, PID)).await? != before {
            return Ok(Sessions::PerTransaction);
        }
        other.execute("ROLLBACK").await?;
    }
    Ok(Sessions::PerConnection)
}

/// The other connection gets no session. In session mode the pooler has only this one's; in transaction mode all are busy, and this
/// one's next statement goes to any of them, or waits too.
async fn while_other_waits(one: &mut PgConnection, before: i32) -> Result<Sessions, sqlx::Error> {
    for _ in 0..LOOKS {
        if in_time(backend(one, PID)).await? != before {
            return Ok(Sessions::PerTransaction);
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(Sessions::PerConnection)
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// The server's process. A text without parameters is one message: a pooler never divides it.
async fn backend(connection: &mut PgConnection, text: &'static str) -> Result<i32, sqlx::Error> {
    connection.fetch_optional(text).await?.ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}
