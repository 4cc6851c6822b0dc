//! The queue for a cluster: apalis on Redis, a queue for each lane.
//!
//! What apalis-redis 1.0 does by itself, and what is done about it here:
//!
//! | it | so |
//! |---|---|
//! | stops for good when about 8,000 messages are due at once | the backlog is checked before anything is enqueued, [`MAX_BACKLOG`] wait at most |
//! | keeps every message that was done, and acknowledges only where results are kept | [`Acknowledge`] takes a message out of Redis, whole, when it may leave ([`Taken`]); no results, no events |
//! | locks each message with a scan of all that wait | `lock_tasks(false)`: the claim in SQL decides |
//! | ends a worker at any error of its connection | [`SharedQueue::listen`] starts another one, under a new name: the old one is refused while it looks alive; what the old one had taken is enqueued again |
//! | looks for work every 30 s when it is idle, and can stop looking for good | [`storage`] |
//! | sends no heartbeat while messages wait in its own buffer, and gives them to others then | `batch_size(1)`: it has no buffer |
//! | has redis-rs give up after half a second | [`ANSWER`] |
//! | keeps a list of all queues under a name that all installations share | [`storage`] |
//! | has a message wait until the reader's clock shows what the writer's showed | [`all_due`] |
//! | hands what cannot be decoded to nobody, ever | a message is any JSON to apalis, and is read here |
//!
//! Retries, schedules and deadlines are SQL's. A message in the hands of a worker that dies comes again when somebody finds it
//! dead ([`SharedQueue::put_back`]), or when its name has been silent for [`HEARTBEAT`] × [`MISSED`]; one that is lost comes with
//! the sweep.

mod acknowledge;
mod keys;
mod listener;
mod outage;
mod rights;
mod storage;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apalis::prelude::TaskBuilder;
use apalis_redis::queries;
use async_trait::async_trait;
use penstock_redis::{Connection, Limits, Prefix};
use redis::AsyncCommands as _;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use self::keys::{Heartbeats, Keys};
use self::listener::Listener;
use self::outage::Outage;
#[cfg(doc)]
use crate::Taken;
use crate::listen::LaneHandler;
use crate::{EnqueueResult, Handler, Lane, MAX_BACKLOG, Message, Queue, QueueError, QueueServer, by_lane};

/// How long it is kept that writes are taken.
const READY_KEPT: Duration = Duration::from_secs(60);

/// Messages of a push: small enough that it never holds Redis up.
const PUSH_AT_ONCE: usize = 200;

/// How often a worker says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// After this many missed heartbeats, what a worker had taken is given to others.
const MISSED: usize = 12;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(4);

/// A Redis that is unavailable is asked again after this time.
const AWAY: Duration = Duration::from_millis(500);

/// How often new lanes are looked for.
const LOOK_FOR_LANES: Duration = Duration::from_secs(1);

/// Puts what the listeners of a process had in their hands before all that waits, and forgets them.
/// `KEYS`: the listeners, the messages that wait, the signal that there are some. `ARGV`: how the listeners' names begin, and the
/// keys of what they have in their hands.
const PUT_BACK: &str = "
local messages = 0
for _, listener in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(listener, 1, #ARGV[1]) == ARGV[1] then
    local inflight = ARGV[2] .. ':' .. listener
    for _, id in ipairs(redis.call('SMEMBERS', inflight)) do
      redis.call('LPUSH', KEYS[2], id)
      messages = messages + 1
    end
    redis.call('DEL', inflight)
    redis.call('ZREM', KEYS[1], listener)
  end
end
if messages > 0 then
  redis.call('DEL', KEYS[3])
  redis.call('LPUSH', KEYS[3], 1)
end
return messages";

/// Queues in Redis. Connects when it is first used, so that a service can start before Redis does.
pub struct SharedQueue {
    connection: Connection,
    starts: AtomicU64,
    heartbeats: Heartbeats,
}

impl SharedQueue {
    /// A queue at a `redis://` or `rediss://` URL, under names that begin with `prefix`.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn connect(url: &str, prefix: Prefix) -> Result<Self, QueueError> {
        let limits = Limits { answer: ANSWER, connect: ANSWER };
        let connection = Connection::open(url, prefix, limits).map_err(QueueError::new)?;
        let heartbeats = Heartbeats { every: HEARTBEAT, missed: MISSED };
        Ok(Self { connection, starts: AtomicU64::new(0), heartbeats })
    }

    /// How often listeners send a heartbeat (5 s), and after how many missed ones (12) they count as gone.
    #[must_use]
    pub fn with_heartbeats(self, every: Duration, missed: usize) -> Self {
        Self { heartbeats: Heartbeats { every, missed }, ..self }
    }
}

/// How many messages wait in each of these lanes: due ones, and those that the next fetch makes due.
async fn waiting(connection: &mut Connection, keys: &Keys, lanes: &[Lane]) -> Result<Vec<u64>, QueueError> {
    let mut lengths = redis::pipe();
    for lane in lanes {
        let queue = keys.queue(lane);
        lengths.llen(queue.active_jobs_list()).zcard(queue.scheduled_jobs_set());
    }
    let lengths: Vec<u64> = lengths.query_async(connection).await.map_err(QueueError::new)?;
    Ok(lengths.as_chunks::<2>().0.iter().map(|[active, scheduled]| active + scheduled).collect())
}

/// Every message is due at once: schedules are SQL's. A dispatcher whose clock runs ahead delays nothing.
async fn all_due(connection: &mut Connection, scheduled: &str) -> Result<(), QueueError> {
    let mut due = redis::cmd("ZUNIONSTORE");
    due.arg(scheduled).arg(1).arg(scheduled).arg("WEIGHTS").arg(0);
    let _: u64 = due.query_async(connection).await.map_err(QueueError::new)?;
    Ok(())
}

#[async_trait]
impl Queue for SharedQueue {
    async fn enqueue(&self, messages: Vec<Message>) -> Result<EnqueueResult, QueueError> {
        // Rows that are marked and in no queue wait until they count as lost. A message that comes twice is harmless.
        match self.enqueue(messages.clone()).await {
            Err(error) => {
                tracing::debug!(%error, "messages were not enqueued; they are tried once more");
                self.enqueue(messages).await
            }
            enqueued => enqueued,
        }
    }

    async fn backlog(&self) -> Result<HashMap<Lane, u64>, QueueError> {
        let (mut connection, keys) = (self.connection.clone(), Keys::of(&self.connection).await?);
        let lanes = lanes(&mut connection, &keys).await?;
        let waiting = waiting(&mut connection, &keys, &lanes).await?;
        Ok(lanes.into_iter().zip(waiting).collect())
    }

    async fn ready(&self) -> Result<(), QueueError> {
        let (mut connection, keys) = (self.connection.clone(), Keys::of(&self.connection).await?);
        // A write: a replica, and a Redis that cannot save, answer a PING as well.
        let _: () = connection.set_ex(keys.ready(), 1, READY_KEPT.as_secs()).await.map_err(|error| {
            match error.code() {
                Some("MOVED") => QueueError::new(
                    "it is a Redis Cluster: REDIS_URL is redis+cluster://HOST:PORT,HOST:PORT then",
                ),
                _ => QueueError::new(error),
            }
        })?;
        let mut missing = rights::missing(&self.connection, READY_KEPT.as_millis()).await?;
        missing.retain(|command| command != rights::INFO);
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.iter().map(|command| format!("+{command}")).collect::<Vec<_>>().join(" ");
        Err(QueueError::new(format!(
            "its user may not do what is needed with keys that begin with `{}`: grant {missing} (docs/operate.md lists all rights)",
            self.connection.prefix().await.map_err(QueueError::new)?,
        )))
    }

    async fn server(&self) -> Result<Option<QueueServer>, QueueError> {
        let mut connection = self.connection.clone();
        let info: String = match redis::cmd("INFO").query_async(&mut connection).await {
            Err(error) if error.code() == Some("NOPERM") => String::new(),
            info => info.map_err(QueueError::new)?,
        };
        let (seconds, micros): (i64, i64) =
            redis::cmd("TIME").query_async(&mut connection).await.map_err(QueueError::new)?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let bytes = |name: &str| field(name).parse::<u64>().unwrap_or(0);
        Ok(Some(QueueServer {
            version: field("redis_version"),
            memory_policy: field("maxmemory_policy"),
            used_bytes: bytes("used_memory"),
            most_bytes: Some(bytes("maxmemory")).filter(|most| *most > 0),
            now_ms: seconds * 1000 + micros / 1000,
        }))
    }

    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        let mut connection = self.connection.clone();
        let (mut listeners, outage) = (JoinSet::new(), Outage::default());
        let mut listening: HashMap<Id, Lane> = HashMap::new();
        let known = [Lane::Extractions, Lane::Suspects]
            .into_iter()
            .chain(handler.pipelines().into_iter().map(Lane::Rows))
            .collect::<Vec<_>>();
        while !stop.is_cancelled() {
            // Those of pipelines that are loaded nowhere any more, but have batches left.
            let Ok(keys) = Keys::of(&self.connection).await else {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AWAY) => {}
                }
                continue;
            };
            let active: Vec<String> = connection.smembers(keys.pipelines()).await.unwrap_or_default();
            for lane in known.iter().cloned().chain(active.into_iter().map(Lane::Rows)) {
                if !listening.values().any(|listening| *listening == lane) {
                    let listener = Listener {
                        connection: connection.clone(),
                        process: handler.name(),
                        number: self.starts.fetch_add(1, Ordering::Relaxed),
                        queue: self.heartbeats.of(keys.queue(&lane)),
                        handler: LaneHandler::new(handler.clone(), lane.clone()),
                        outage: outage.clone(),
                        lane: lane.clone(),
                    };
                    listening.insert(listeners.spawn(listener.supervise(stop.clone())).id(), lane);
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_FOR_LANES) => {}
            }
            while let Some(ended) = listeners.try_join_next_with_id() {
                if let Err(error) = ended
                    && let Some(lane) = listening.remove(&error.id())
                {
                    tracing::error!(%error, %lane, "listening to a queue panicked: please report it; it begins again");
                }
            }
        }
        while listeners.join_next().await.is_some() {}
    }

    async fn put_back(&self, name: &str) -> Result<usize, QueueError> {
        let (mut connection, keys) = (self.connection.clone(), Keys::of(&self.connection).await?);
        let mut messages = 0;
        for lane in lanes(&mut connection, &keys).await? {
            let queue = keys.queue(&lane);
            let put_back: usize = redis::Script::new(PUT_BACK)
                .key(queue.workers_set())
                .key(queue.active_jobs_list())
                .key(queue.signal_list())
                .arg(format!("{name}/"))
                .arg(queue.inflight_jobs_set())
                .invoke_async(&mut connection)
                .await
                .map_err(QueueError::new)?;
            messages += put_back;
        }
        Ok(messages)
    }
}

impl SharedQueue {
    async fn enqueue(&self, messages: Vec<Message>) -> Result<EnqueueResult, QueueError> {
        let (mut connection, keys) = (self.connection.clone(), Keys::of(&self.connection).await?);
        let mut result = EnqueueResult::default();
        for (lane, messages) in by_lane(messages) {
            if let Lane::Rows(pipeline) = &lane {
                let _: u64 = connection.sadd(keys.pipelines(), pipeline).await.map_err(QueueError::new)?;
            }
            let waiting =
                waiting(&mut connection, &keys, std::slice::from_ref(&lane)).await?.into_iter().sum();
            let room = usize::try_from(u64::from(MAX_BACKLOG).saturating_sub(waiting)).unwrap_or(0);
            let (taken, left) = messages.split_at(room.min(messages.len()));
            let queue = keys.queue(&lane);
            for group in taken.chunks(PUSH_AT_ONCE) {
                let task = |message: &Message| {
                    serde_json::to_vec(message).map(|bytes| TaskBuilder::new(bytes).build())
                };
                let group = group.iter().map(task).collect::<serde_json::Result<Vec<_>>>();
                let group = group.map_err(QueueError::new)?;
                queries::push_tasks(&mut connection, &queue, &group).await.map_err(QueueError::new)?;
            }
            all_due(&mut connection, &queue.scheduled_jobs_set()).await?;
            result.enqueued += taken.len();
            result.held_back.extend_from_slice(left);
        }
        Ok(result)
    }
}

/// The lanes in which anything may wait.
async fn lanes(connection: &mut Connection, keys: &Keys) -> Result<Vec<Lane>, QueueError> {
    let pipelines: Vec<String> = connection.smembers(keys.pipelines()).await.map_err(QueueError::new)?;
    Ok(pipelines.into_iter().map(Lane::Rows).chain([Lane::Extractions, Lane::Suspects]).collect())
}
