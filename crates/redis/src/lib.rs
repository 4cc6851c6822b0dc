//! A connection to Redis for many users at once, which is replaced when it is of no use any more.
//!
//! redis-rs' own manager replaces a connection that broke. A firewall that forgets a connection, or a host that loses power,
//! leaves one on which nothing arrives and nothing fails; and a failover leaves one to a server that takes no writes. Here a
//! connection is replaced when it breaks, when a question passes its time and none that was asked since was answered, and
//! when the server says that it is a replica. Keepalive and TCP's user timeout end what a network has silently dropped, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, RedisResult,
    Value,
};
use tokio::time::Instant;

/// An idle connection is asked for a sign of life after this time, and as often again.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What was sent and is not acknowledged within this time ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// After an attempt to connect failed, the next one waits this long. Questions fail at once meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// A replica's refusal of a write.
const READ_ONLY: &str = "READONLY";

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
    client: Client,
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
    /// A connection to a `redis://` or `rediss://` URL.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn open(url: &str, limits: Limits) -> RedisResult<Self> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(2);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let tcp = tcp.set_user_timeout(USER_TIMEOUT);
        let client = Client::open(url.into_connection_info()?.set_tcp_settings(tcp))?;
        Ok(Self(Arc::new(Inner { client, limits, began: Instant::now(), current: Mutex::default() })))
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
                    Ok(answer) if answer.is_of_a_replica() => {
                        self.replace(&link, "it leads to a replica, which takes no writes");
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
        let client = self.0.client.clone();
        let connecting =
            async move { client.get_multiplexed_async_connection_with_config(&config).await }.boxed();
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

/// What a server answers. Errors of the server are among the answers.
trait Answer {
    /// Whether a write was refused by a replica, directly or inside a script.
    fn is_of_a_replica(&self) -> bool;
}

impl Answer for Value {
    fn is_of_a_replica(&self) -> bool {
        let Value::ServerError(error) = self else { return false };
        error.code() == READ_ONLY || error.details().is_some_and(|details| details.contains(READ_ONLY))
    }
}

impl Answer for Vec<Value> {
    fn is_of_a_replica(&self) -> bool {
        self.iter().any(Value::is_of_a_replica)
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
        self.0.client.get_connection_info().redis_settings().db()
    }
}
