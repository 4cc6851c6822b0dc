//! The doorbell for a cluster: a list in Redis for each lane, and a set of the lanes' names.
//!
//! A message is pushed at one end and popped at the other, and that is its whole life: nothing is left of it, so
//! Redis' memory returns to where it was. A worker that dies with a message in its hands loses it, which is harmless:
//! the row stays queued in SQL until its deadline, and the sweep brings it back (promise 1).
//!
//! Not apalis-redis: what it adds to this (locks, acknowledgements, retries, results, heartbeats) is SQL's here, and
//! costs a stop for good at 8,000 waiting tasks, a worker that ends at any error of the connection, and entries of
//! finished tasks that are never removed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::AsyncCommands as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{Bell, BellError, Handler, MAX_BACKLOG, Message, Rung};

/// The names of lanes that were rung in.
const LANES: &str = "penstock:lanes";
const EXTRACTIONS: &str = "penstock:extract";

/// Messages of a push: small enough that it never holds Redis up.
const PUSH_AT_ONCE: usize = 200;

/// How long a worker waits for a message before it looks at its stop signal, and for new lanes.
const LISTEN: Duration = Duration::from_secs(1);

/// How long it waits while it has no room for some lanes' rows: there may be room by then.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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

/// The list of a lane.
fn list(lane: &str) -> String {
    format!("penstock:rows:{lane}")
}

#[async_trait]
impl Bell for SharedBell {
    async fn ring(&self, messages: Vec<Message>) -> Result<Rung, BellError> {
        let mut connection = self.connection().await?;
        let mut queues: BTreeMap<String, Vec<Message>> = BTreeMap::new();
        let mut lanes: Vec<String> = Vec::new();
        for message in messages {
            let queue = match &message {
                Message::Extract { .. } => EXTRACTIONS.to_owned(),
                Message::Rows(packet) => {
                    if !lanes.iter().any(|lane| lane == packet.lane()) {
                        lanes.push(packet.lane().to_owned());
                    }
                    list(packet.lane())
                }
            };
            queues.entry(queue).or_default().push(message);
        }
        if !lanes.is_empty() {
            let _: u64 = connection.sadd(LANES, lanes).await.map_err(BellError::new)?;
        }
        let mut rung = Rung::default();
        for (queue, messages) in queues {
            let waiting: u64 = connection.llen(&queue).await.map_err(BellError::new)?;
            let room = usize::try_from(u64::from(MAX_BACKLOG).saturating_sub(waiting)).unwrap_or(0);
            let (taken, left) = messages.split_at(room.min(messages.len()));
            for group in taken.chunks(PUSH_AT_ONCE) {
                let texts = group
                    .iter()
                    .map(serde_json::to_string)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(BellError::new)?;
                let _: u64 = connection.rpush(&queue, texts).await.map_err(BellError::new)?;
                rung.rung += group.len();
            }
            rung.held_back += left.len();
        }
        Ok(rung)
    }

    async fn backlog(&self) -> Result<HashMap<String, u64>, BellError> {
        let mut connection = self.connection().await?;
        let lanes: Vec<String> = connection.smembers(LANES).await.map_err(BellError::new)?;
        if lanes.is_empty() {
            return Ok(HashMap::new());
        }
        let mut lengths = redis::pipe();
        for lane in &lanes {
            lengths.llen(list(lane));
        }
        let lengths: Vec<u64> = lengths.query_async(&mut connection).await.map_err(BellError::new)?;
        Ok(lanes.into_iter().zip(lengths).collect())
    }

    async fn ready(&self) -> Result<(), BellError> {
        let mut connection = self.connection().await?;
        let _: String = redis::cmd("PING").query_async(&mut connection).await.map_err(BellError::new)?;
        Ok(())
    }

    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        tokio::join!(
            self.listen_to(true, handler.as_ref(), &stop),
            self.listen_to(false, handler.as_ref(), &stop)
        );
    }
}

impl SharedBell {
    /// Waiting blocks a connection, so rows and extractions have one each of their own.
    async fn listen_to(&self, rows: bool, handler: &dyn Handler, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let lost = match self.open().await {
                Ok(connection) if rows => self.drain_rows(connection, handler, stop).await,
                Ok(connection) => self.drain_extractions(connection, handler, stop).await,
                Err(error) => Err(error),
            };
            if let Err(error) = lost {
                tracing::warn!(%error, "the queue is away; it is asked again");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AWAY) => {}
                }
            }
        }
    }

    async fn drain_extractions(
        &self,
        mut connection: ConnectionManager,
        handler: &dyn Handler,
        stop: &CancellationToken,
    ) -> Result<(), BellError> {
        while !stop.is_cancelled() {
            take(&mut connection, &[EXTRACTIONS.to_owned()], LISTEN, handler).await?;
        }
        Ok(())
    }

    async fn drain_rows(
        &self,
        mut connection: ConnectionManager,
        handler: &dyn Handler,
        stop: &CancellationToken,
    ) -> Result<(), BellError> {
        // In the order of their turns.
        let mut lanes: VecDeque<String> = VecDeque::new();
        let mut looked = None;
        while !stop.is_cancelled() {
            if looked.is_none_or(|looked: Instant| looked.elapsed() >= LISTEN) {
                looked = Some(Instant::now());
                let rung: Vec<String> = connection.smembers(LANES).await.map_err(BellError::new)?;
                for lane in handler.lanes().into_iter().chain(rung) {
                    if !lanes.contains(&lane) {
                        lanes.push_back(lane);
                    }
                }
            }
            let open: Vec<String> =
                lanes.iter().filter(|lane| handler.has_room(lane)).map(|lane| list(lane)).collect();
            if open.is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            let wait = if open.len() < lanes.len() { LOOK_AGAIN } else { LISTEN };
            // BLPOP takes from the first list that has something: whose turn it was is last the next time.
            if let Some(queue) = take(&mut connection, &open, wait, handler).await?
                && let Some(turn) = lanes.iter().position(|lane| list(lane) == queue)
                && let Some(lane) = lanes.remove(turn)
            {
                lanes.push_back(lane);
            }
        }
        Ok(())
    }
}

/// Takes a message from the first of these lists that has one, and tells which; none within `wait`.
async fn take(
    connection: &mut ConnectionManager,
    queues: &[String],
    wait: Duration,
    handler: &dyn Handler,
) -> Result<Option<String>, BellError> {
    let popped: Option<(String, String)> =
        connection.blpop(queues, wait.as_secs_f64()).await.map_err(BellError::new)?;
    let Some((queue, text)) = popped else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(message) => handler.handle(message).await,
        // Another version's message: its rows come back by the sweep.
        Err(error) => tracing::warn!(%error, queue, "a message cannot be read and is dropped"),
    }
    Ok(Some(queue))
}
