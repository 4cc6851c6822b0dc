//! The doorbell for a cluster: two lists in Redis.
//!
//! A message is pushed at one end and popped at the other, and that is its whole life: nothing is left of it, so
//! Redis' memory returns to where it was. A worker that dies with a message in its hands loses it, which is harmless:
//! the row stays queued in SQL until its deadline, and the sweep brings it back (promise 1).
//!
//! Not apalis-redis: what it adds to this (locks, acknowledgements, retries, results, heartbeats) is SQL's here, and
//! costs a stop for good at 8,000 waiting tasks, a worker that ends at any error of the connection, and entries of
//! finished tasks that are never removed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::AsyncCommands as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{Bell, BellError, Handler, MAX_BACKLOG, Message, Rung};

const ROWS: &str = "penstock:rows";
const EXTRACTIONS: &str = "penstock:extract";

/// Messages of a push: small enough that it never holds Redis up.
const PUSH_AT_ONCE: usize = 200;

/// How long a worker waits for a message before it looks at its stop signal.
const LISTEN: Duration = Duration::from_secs(1);

/// Longer than [`LISTEN`], so that waiting is no error; short enough to notice a server that hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// A Redis that is away is asked again after so long.
const AWAY: Duration = Duration::from_millis(500);

/// Lists in Redis. Connects when it is first used, so that a service can start before Redis does.
pub struct SharedBell {
    client: redis::Client,
    connection: OnceCell<ConnectionManager>,
}

impl SharedBell {
    /// A doorbell at a `redis://` URL.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn connect(url: &str) -> Result<Self, BellError> {
        let client = redis::Client::open(url).map_err(BellError::new)?;
        Ok(Self { client, connection: OnceCell::new() })
    }

    async fn open(&self) -> Result<ConnectionManager, BellError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(ANSWER))
            .set_connection_timeout(Some(ANSWER))
            .set_number_of_retries(1);
        ConnectionManager::new_with_config(self.client.clone(), config).await.map_err(BellError::new)
    }

    async fn connection(&self) -> Result<ConnectionManager, BellError> {
        self.connection.get_or_try_init(|| self.open()).await.cloned()
    }
}

#[async_trait]
impl Bell for SharedBell {
    async fn ring(&self, messages: Vec<Message>) -> Result<Rung, BellError> {
        let mut connection = self.connection().await?;
        let (rows, extractions): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| matches!(message, Message::Rows(_)));
        let mut rung = Rung::default();
        for (queue, messages) in [(EXTRACTIONS, extractions), (ROWS, rows)] {
            if messages.is_empty() {
                continue;
            }
            let waiting: u64 = connection.llen(queue).await.map_err(BellError::new)?;
            let room = usize::try_from(u64::from(MAX_BACKLOG).saturating_sub(waiting)).unwrap_or(0);
            let (taken, left) = messages.split_at(room.min(messages.len()));
            for group in taken.chunks(PUSH_AT_ONCE) {
                let texts = group
                    .iter()
                    .map(serde_json::to_string)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(BellError::new)?;
                let _: u64 = connection.rpush(queue, texts).await.map_err(BellError::new)?;
                rung.rung += group.len();
            }
            rung.held_back += left.len();
        }
        Ok(rung)
    }

    async fn backlog(&self) -> Result<u64, BellError> {
        self.connection().await?.llen(ROWS).await.map_err(BellError::new)
    }

    async fn ready(&self) -> Result<(), BellError> {
        let mut connection = self.connection().await?;
        let _: String = redis::cmd("PING").query_async(&mut connection).await.map_err(BellError::new)?;
        Ok(())
    }

    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        tokio::join!(
            self.listen_to(ROWS, handler.as_ref(), &stop),
            self.listen_to(EXTRACTIONS, handler.as_ref(), &stop)
        );
    }
}

impl SharedBell {
    /// Waiting blocks a connection, so each queue has one of its own.
    async fn listen_to(&self, queue: &str, handler: &dyn Handler, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let lost = match self.open().await {
                Ok(connection) => self.drain(queue, connection, handler, stop).await,
                Err(error) => Err(error),
            };
            if let Err(error) = lost {
                tracing::warn!(%error, queue, "the queue is away; it is asked again");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AWAY) => {}
                }
            }
        }
    }

    async fn drain(
        &self,
        queue: &str,
        mut connection: ConnectionManager,
        handler: &dyn Handler,
        stop: &CancellationToken,
    ) -> Result<(), BellError> {
        while !stop.is_cancelled() {
            let popped: Option<(String, String)> =
                connection.blpop(queue, LISTEN.as_secs_f64()).await.map_err(BellError::new)?;
            let Some((_, text)) = popped else { continue };
            match serde_json::from_str(&text) {
                Ok(message) => handler.handle(message).await,
                // Another version's message: its rows come back by the sweep.
                Err(error) => tracing::warn!(%error, queue, "a message cannot be read and is dropped"),
            }
        }
        Ok(())
    }
}
