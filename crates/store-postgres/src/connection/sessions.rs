//! Whose a session of the server is: this program's, or whoever's transaction a pooler gives it to.
//!
//! PgBouncer in transaction mode gives each transaction any of its sessions. What one transaction leaves behind in a session
//! (a setting, a prepared statement, a lock) is found by somebody else's. So there every statement is in a transaction, which
//! brings its own settings, and no statement is kept prepared.

use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

/// How often it is looked. A pooler that others use at the same moment may show a session twice by chance.
const LOOKS: usize = 10;

/// A pooler that has no session left lets a connection wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// For an answer that was sent before another one that has come.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

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
/// transaction or has left one, only where a session is a transaction's.
///
/// A look ends with the session that the other one's transaction has left: most poolers hand out next what came back last, and
/// would go on to give each connection the session that it had before, however often it is asked.
///
/// # Errors
/// When nothing could be found out, because a connection or a session did not come in time: that is no sign of either.
pub async fn found(options: &PgConnectOptions) -> Result<Sessions, sqlx::Error> {
    let mut one = options.connect().await?;
    let before = one.session().await?;
    let mut other = in_time(options.connect()).await?;
    look(&mut one, before, &mut other).await
}

/// A connection, as far as it is looked at.
trait Looked: Send {
    /// The session that a statement of its own gets, by the server's process.
    async fn session(&mut self) -> Result<i32, sqlx::Error>;
    /// The session of a transaction that it begins.
    async fn begin(&mut self) -> Result<i32, sqlx::Error>;
    async fn roll_back(&mut self) -> Result<(), sqlx::Error>;
}

/// Texts without parameters are one message each: a pooler never divides it.
impl Looked for PgConnection {
    async fn session(&mut self) -> Result<i32, sqlx::Error> {
        self.fetch_optional("SELECT pg_backend_pid()").await?.ok_or(sqlx::Error::RowNotFound)?.try_get(0)
    }

    async fn begin(&mut self) -> Result<i32, sqlx::Error> {
        let began = self.fetch_optional("BEGIN; SELECT pg_backend_pid()").await?;
        began.ok_or(sqlx::Error::RowNotFound)?.try_get(0)
    }

    async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.execute("ROLLBACK").await.map(|_| ())
    }
}

async fn look(one: &mut impl Looked, before: i32, other: &mut impl Looked) -> Result<Sessions, sqlx::Error> {
    for _ in 0..LOOKS {
        let Some(began) = begin(other, one).await? else { return Ok(Sessions::PerConnection) };
        let during = in_time(one.session()).await?;
        in_time(other.roll_back()).await?;
        let after = in_time(one.session()).await?;
        if began == before || during != before || after != before {
            return Ok(Sessions::PerTransaction);
        }
    }
    Ok(Sessions::PerConnection)
}

/// Begins a transaction; its session. None: there is no session left for the connection, which would have been served before
/// the one that was asked later. A pooler serves those who wait in their order, and in transaction mode the one that has no
/// session waits with all others.
async fn begin(other: &mut impl Looked, one: &mut impl Looked) -> Result<Option<i32>, sqlx::Error> {
    let mut beginning = pin!(other.begin());
    if let Ok(began) = timeout(PATIENCE, &mut beginning).await {
        return began.map(Some);
    }
    in_time(one.session()).await?;
    timeout(ON_ITS_WAY, beginning).await.ok().transpose()
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(PATIENCE, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A pooler in transaction mode that hands out next what came back last. Somebody else takes a session before one step and
    /// gives it back before a later one.
    struct Pooler {
        free: Vec<i32>,
        steps: usize,
        takes_at: usize,
        gives_at: usize,
        taken: Option<i32>,
    }

    impl Pooler {
        fn step(&mut self) {
            if self.steps == self.takes_at {
                self.taken = self.free.pop();
            }
            if self.steps == self.gives_at {
                self.free.extend(self.taken.take());
            }
            self.steps += 1;
        }
    }

    struct Pooled {
        pooler: Arc<Mutex<Pooler>>,
        held: Option<i32>,
    }

    impl Looked for Pooled {
        async fn session(&mut self) -> Result<i32, sqlx::Error> {
            let mut pooler = self.pooler.lock().unwrap();
            pooler.step();
            Ok(*pooler.free.last().unwrap())
        }

        async fn begin(&mut self) -> Result<i32, sqlx::Error> {
            let mut pooler = self.pooler.lock().unwrap();
            pooler.step();
            self.held = pooler.free.pop();
            Ok(self.held.unwrap())
        }

        async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
            let mut pooler = self.pooler.lock().unwrap();
            pooler.step();
            pooler.free.extend(self.held.take());
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_pooler_that_others_use_meanwhile_is_found() {
        for takes_at in 0..20 {
            for gives_at in takes_at + 1..21 {
                let pooler = Pooler { free: vec![1, 2, 3], steps: 0, takes_at, gives_at, taken: None };
                let pooler = Arc::new(Mutex::new(pooler));
                let connection = || Pooled { pooler: pooler.clone(), held: None };
                let (mut one, mut other) = (connection(), connection());
                let before = one.session().await.unwrap();
                let found = look(&mut one, before, &mut other).await.unwrap();
                assert_eq!(found, Sessions::PerTransaction, "taken at {takes_at}, given at {gives_at}");
            }
        }
    }

    /// A connection with a session of its own; none: it waits for one.
    struct Own(Option<i32>);

    impl Looked for Own {
        async fn session(&mut self) -> Result<i32, sqlx::Error> {
            match self.0 {
                Some(session) => Ok(session),
                None => std::future::pending().await,
            }
        }

        async fn begin(&mut self) -> Result<i32, sqlx::Error> {
            self.session().await
        }

        async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_their_own_are_found_also_where_only_one_is_left() {
        for mut other in [Own(Some(2)), Own(None)] {
            let found = look(&mut Own(Some(1)), 1, &mut other).await.unwrap();
            assert_eq!(found, Sessions::PerConnection);
        }
        let nothing = look(&mut Own(None), 1, &mut Own(None)).await;
        assert!(matches!(nothing, Err(sqlx::Error::PoolTimedOut)), "{nothing:?}");
    }
}
