//! A connection to Redis for many users at once, which is replaced when it is of no use any more.
//!
//! redis-rs' own manager replaces a connection that broke. A firewall that forgets a connection, or a host that loses power,
//! leaves one on which nothing arrives and nothing fails; and a failover leaves one to a server that takes no writes. Here a
//! connection is replaced when it breaks, when a question passes its time and none that was asked since was answered, and
//! when the server says that it is a replica. Keepalive and TCP's user timeout end what a network has silently dropped, too.

mod prefix;
mod servers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::Instant;

pub use crate::prefix::Prefix;
use crate::servers::{Servers, Way};

/// An idle connection is asked for a sign of life after this time, and as often again.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What was sent and is not acknowledged within this time ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// After an attempt to connect failed, the next one waits this long. Questions fail at once meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// The refusals of a replica, which takes no writes, and of a node of a cluster that does not have the keys.
const ANOTHER_SERVER: [&str; 2] = ["READONLY", "MOVED"];

/// How long a user waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For an answer. A new connection is waited for no longer either, but goes on being made.
    pub answer: Duration,
    /// For a connection.
    pub connect: Duration,
}

/// A connection. Connects when it is first used. Clones share it.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    servers: Arc<Servers>,
    prefix: Prefix,
    limits: Limits,
    began: Instant,
    current: Mutex<Option<Arc<Link>>>,
}

/// One TCP connection, or the attempt to make one.
struct Link {
    connection: Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>,
    asked_for: Instant,
    /// When the server last answered, in milliseconds since [`Inner::began`].
    heard_at: AtomicU64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection to a `redis://` or `rediss://` URL, for an installation whose keys have this prefix. `redis+sentinel://` names
    /// Sentinels, `redis+cluster://` nodes of a cluster.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn open(url: &str, prefix: Prefix, limits: Limits) -> RedisResult<Self> {
        let servers = Arc::new(Servers::parse(url)?);
        Ok(Self(Arc::new(Inner {
            servers,
            prefix,
            limits,
            began: Instant::now(),
            current: Mutex::default(),
        })))
    }

    /// What the names of all keys begin with.
    ///
    /// # Errors
    /// When it is not known yet, and cannot be found out.
    pub async fn prefix(&self) -> RedisResult<String> {
        in_one_slot(&self.0.prefix, &self.0.servers).await
    }

    /// Waits for an answer on the present connection.
    async fn answer<T: Answer, F>(&self, ask: impl FnOnce(MultiplexedConnection) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let link = self.link();
        let asked_at = self.millis();
        let answer = async {
            let connection = link.connection.clone().await?;
            ask(connection).await
        };
        match tokio::time::timeout(self.0.limits.answer, answer).await {
            Ok(answer) => {
                match &answer {
                    Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                        self.replace(&link, &error.to_string());
                    }
                    Ok(answer) if answer.is_of_another_server() => {
                        self.replace(&link, "it leads to a server that is not the one that takes these keys");
                    }
                    // An error of the server is a sign of life as well.
                    _ => link.heard_at.store(self.millis(), Ordering::Relaxed),
                }
                answer
            }
            Err(_) => {
                let silent =
                    RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
                // A new connection that is still being made is waited for by the next question.
                let made = link.connection.peek().is_some();
                let made_in_time = link.asked_for.elapsed() < self.0.limits.connect;
                // The same millisecond counts as before: an answer that came after the question in it only costs a new
                // connection, and a silent one would never be replaced.
                if link.heard_at.load(Ordering::Relaxed) <= asked_at && (made || !made_in_time) {
                    self.replace(&link, "it is silent");
                }
                Err(silent)
            }
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Link>>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present link; a new one when there is none, or when the last attempt failed a while ago.
    fn link(&self) -> Arc<Link> {
        let mut current = self.current();
        let usable = current.as_ref().filter(|link| {
            !matches!(link.connection.peek(), Some(Err(_))) || link.asked_for.elapsed() < PAUSE
        });
        if let Some(link) = usable {
            return link.clone();
        }
        current.insert(Arc::new(self.connect())).clone()
    }

    fn connect(&self) -> Link {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.0.limits.connect))
            .set_response_timeout(None);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(2);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let way = Way { tcp: tcp.set_user_timeout(USER_TIMEOUT), config };
        let (servers, prefix) = (self.0.servers.clone(), self.0.prefix.clone());
        let connecting = async move {
            // Only a cluster's nodes are asked for a key; a command like INFO needs none.
            let key =
                if servers.is_cluster() { in_one_slot(&prefix, &servers).await? } else { String::new() };
            servers.connect(&key, &way).await
        };
        let connecting = connecting.boxed();
        let connection = connecting.shared();
        // It goes on when nobody waits for it any more. Whoever asks sees how it ended.
        tokio::spawn(connection.clone().map(|_| ()));
        Link { connection, asked_for: Instant::now(), heard_at: AtomicU64::new(0) }
    }

    /// The next question is asked on another connection, unless somebody saw to that before.
    fn replace(&self, link: &Arc<Link>, why: &str) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|present| Arc::ptr_eq(present, link))
            // A failed attempt is followed by the next one after a pause.
            && !matches!(link.connection.peek(), Some(Err(_)))
        {
            *current = None;
            tracing::debug!(reason = why, "the connection to Redis is replaced");
        }
    }
}

/// The prefix; in a cluster with braces, so that all keys have one hash slot.
async fn in_one_slot(prefix: &Prefix, servers: &Servers) -> RedisResult<String> {
    let prefix = prefix.get().await?;
    let name = prefix.strip_suffix(':').unwrap_or(prefix);
    Ok(if servers.is_cluster() { format!("{{{name}}}:") } else { prefix.to_owned() })
}

/// What a server answers. Errors of the server are among the answers.
trait Answer {
    /// Whether a replica refused a write, or a node does not have the keys: directly or inside a script.
    fn is_of_another_server(&self) -> bool;
}

impl Answer for Value {
    fn is_of_another_server(&self) -> bool {
        let Value::ServerError(error) = self else { return false };
        let refused = |text: &str| ANOTHER_SERVER.iter().any(|refusal| text.contains(refusal));
        refused(error.code()) || error.details().is_some_and(refused)
    }
}

impl Answer for Vec<Value> {
    fn is_of_another_server(&self) -> bool {
        self.iter().any(Value::is_of_another_server)
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.answer(async move |mut connection| connection.send_packed_command(cmd).await).boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.answer(async move |mut connection| {
            connection.send_packed_commands(pipeline, offset, count).await
        })
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.0.servers.database()
    }
}
