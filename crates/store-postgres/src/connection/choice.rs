//! Has the pool connect to the server that takes writes, with the password as it is now.

use std::fmt;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::servers::{Servers, is_same};
use super::{ACQUIRE, Pool, is_lost};
use crate::error::sqlstate;

/// A connection that takes longer may be waiting for a server that is gone: it is looked for another one.
const SLOW: Duration = Duration::from_millis(250);

/// After a look that found nothing, the next one waits this long.
const AGAIN: Duration = Duration::from_millis(100);

/// A statement that takes longer may be waiting for a server that is gone: a pooler keeps it waiting.
const HANGS: Duration = Duration::from_secs(1);

/// Looks are at least so far apart: signs of a change come from every statement.
const APART: Duration = Duration::from_secs(1);

/// The servers, and what is known of them.
pub(super) struct Choice {
    servers: RwLock<Servers>,
    /// How often another server was chosen; 0: none was chosen yet.
    chosen: watch::Sender<u64>,
    /// How often another server took the place of a chosen one; the first choice does not count.
    moves: watch::Sender<u64>,
    look: Mutex<Look>,
    /// One chooses before the first connection, for all that wait.
    first: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Look {
    is_under_way: bool,
    ended_at: Option<Instant>,
}

impl Choice {
    pub(super) fn new(servers: Servers) -> Self {
        Self {
            servers: RwLock::new(servers),
            chosen: watch::Sender::new(0),
            moves: watch::Sender::new(0),
            look: Mutex::default(),
            first: tokio::sync::Mutex::default(),
        }
    }

    fn servers(&self) -> Servers {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn are_several(&self) -> bool {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).are_several()
    }

    fn begin_look(&self) -> bool {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = !look.is_under_way && look.ended_at.is_none_or(|at| at.elapsed() >= APART);
        look.is_under_way |= begins;
        begins
    }

    fn end_look(&self) {
        let ended_at = Some(Instant::now());
        *self.look.lock().unwrap_or_else(PoisonError::into_inner) = Look { is_under_way: false, ended_at };
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").finish_non_exhaustive()
    }
}

/// Tells a connection that another server has taken the place of its own.
#[derive(Debug)]
pub(super) struct Moves(watch::Receiver<u64>);

/// The attempts to begin a transaction. Where there are several servers, they go on for as long as a connection is waited for: nothing
/// was done on connections that were lost. A pooler opens connections also while its server is down.
pub(super) struct Beginning {
    until: Instant,
    moves: watch::Receiver<u64>,
}

impl Beginning {
    /// Whether to begin again after an error; waits a little, or for another server.
    pub(super) async fn again(&mut self, error: &sqlx::Error, pool: &Pool) -> bool {
        if !pool.choice.are_several() || !is_lost(error) || Instant::now() >= self.until {
            return false;
        }
        pool.look();
        let _ = tokio::time::timeout(AGAIN, self.moves.changed()).await;
        true
    }
}

impl Pool {
    /// Opens connections to other servers, or with another password, from now on. Those that are open go on.
    pub fn set_servers(&self, servers: Servers) {
        let first = servers.first();
        let is_known = !servers.are_several() && !servers.has_password_file();
        *self.choice.servers.write().unwrap_or_else(PoisonError::into_inner) = servers;
        if is_known {
            self.connections.set_connect_options(first.clone());
            self.cancels.set_connect_options(first);
        } else {
            self.choice.chosen.send_replace(0);
        }
    }

    /// Sees to it that connections are opened to the server that takes writes.
    pub(super) async fn choose_before_first(&self) -> Result<(), sqlx::Error> {
        let servers = self.choice.servers();
        let is_known = !servers.are_several() && !servers.has_password_file();
        if is_known || *self.choice.chosen.borrow() > 0 {
            return Ok(());
        }
        let _alone = self.choice.first.lock().await;
        if *self.choice.chosen.borrow() > 0 { Ok(()) } else { self.choose().await }
    }

    async fn choose(&self) -> Result<(), sqlx::Error> {
        let before = self.connections.connect_options();
        let is_first = *self.choice.chosen.borrow() == 0;
        let options = self.choice.servers().primary((!is_first).then_some(&before)).await?;
        let moved = !is_same(&before, &options);
        if moved && !is_first {
            tracing::info!(
                host = options.get_host(),
                port = options.get_port(),
                "another server of DATABASE_URL takes writes now"
            );
            self.useless_since.now();
        }
        self.connections.set_connect_options(options.clone());
        self.cancels.set_connect_options(options);
        if moved || is_first {
            self.choice.chosen.send_modify(|chosen| *chosen += 1);
        }
        if moved && !is_first {
            self.choice.moves.send_modify(|moves| *moves += 1);
        }
        Ok(())
    }

    /// Looks in the background which server takes writes: there are signs that it is another one.
    pub(super) fn look(&self) {
        if !self.choice.are_several() || !self.choice.begin_look() {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            let until = Instant::now() + ACQUIRE;
            while pool.choose().await.is_err() && Instant::now() < until {
                tokio::time::sleep(AGAIN).await;
            }
            pool.choice.end_look();
        });
    }

    /// Before the first attempt to begin a transaction.
    pub(super) fn beginning(&self) -> Beginning {
        Beginning { until: Instant::now() + ACQUIRE, moves: self.choice.moves.subscribe() }
    }

    /// The answer to a statement, or an error once another server has taken the place of the one that was asked. A pooler in transaction
    /// mode does not answer while its server is down.
    pub(super) async fn unless_moved<T>(
        &self,
        moves: &mut Moves,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        if !self.choice.are_several() {
            return asked.await;
        }
        let mut asked = std::pin::pin!(asked);
        loop {
            tokio::select! {
                biased;
                answer = &mut asked => return answer,
                _ = moves.0.changed() => {
                    let text = "another server of DATABASE_URL takes writes now";
                    return Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, text)));
                }
                () = tokio::time::sleep(HANGS) => self.look(),
            }
        }
    }

    /// A connection, and the moves since then. One that was opened while another server was chosen may lead to either.
    pub(super) async fn pooled_and_moves(&self) -> Result<(PoolConnection<Postgres>, Moves), sqlx::Error> {
        loop {
            let moves = self.choice.moves.subscribe();
            let mut connection = self.pooled().await?;
            if !moves.has_changed().unwrap_or(false) {
                return Ok((connection, Moves(moves)));
            }
            connection.close_on_drop();
        }
    }

    /// A connection of the pool. One that the server refuses with the password of before is opened with the password of now: all
    /// that were idle may be gone.
    pub(super) async fn pooled(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let acquired = self.acquired().await;
        let refused = |error: &sqlx::Error| sqlstate(error).is_some_and(|state| state.starts_with("28"));
        if acquired.as_ref().is_err_and(refused) && self.choice.servers().has_password_file() {
            self.choose().await?;
            return self.connections.acquire().await;
        }
        acquired
    }

    async fn acquired(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.choose_before_first().await?;
        let servers = self.choice.servers();
        let may_open = self.connections.num_idle() == 0
            && self.connections.size() < self.connections.options().get_max_connections();
        if servers.has_password_file() && may_open {
            self.choose().await?;
        }
        if !servers.are_several() {
            return self.connections.acquire().await;
        }
        let mut chosen = self.choice.chosen.subscribe();
        loop {
            let mut acquire = std::pin::pin!(self.connections.acquire());
            let slow = tokio::select! {
                acquired = &mut acquire => Some(acquired),
                () = tokio::time::sleep(SLOW) => None,
            };
            let acquired = match slow {
                Some(acquired) => acquired,
                None => {
                    self.look();
                    tokio::select! {
                        acquired = acquire => acquired,
                        // What waits for the server from before need not.
                        _ = chosen.changed() => continue,
                    }
                }
            };
            if acquired.is_err() {
                self.look();
            }
            return acquired;
        }
    }
}
