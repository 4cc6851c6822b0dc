//! A lane in Redis, as a backend of apalis.
//!
//! apalis-redis' own backend lists its queues under a key of a fixed name, which all installations would share and every user of
//! Redis would need a right to. And it can stop: in apalis-core 1.0, `poll_with_interval` makes a new timer without polling it, and `Persisted`
//! polls the heartbeat's timer only between two questions to Redis. When both timers have ended while Redis answered slowly, and the
//! answer is empty, nothing wakes the listener any more. So only its keys and its statements for pushing and fetching are used here; a
//! listener's place among the others is kept by [`ALIVE`].

use std::task::{Context, Poll, ready};
use std::time::Duration;

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_codec::json::JsonCodec;
use apalis_core::backend::{BackendConfig, WireFormatBackend, finalize::Durable};
use apalis_redis::{Config, Error, queries};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use penstock_redis::Connection;
use serde_json::Value;
use tower::layer::util::Identity;

use super::outage::Outage;

/// Records that a listener lives, and puts what others had in their hands that have been silent for too long behind all that waits.
/// `KEYS`: the listeners, the messages that wait, the signal that there are some. `ARGV`: the listener, how long is too long in
/// seconds, and the keys of what listeners have in their hands.
const ALIVE: &str = "
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
local messages = 0
for _, listener in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now - tonumber(ARGV[2]))) do
  local inflight = ARGV[3] .. ':' .. listener
  for _, id in ipairs(redis.call('SMEMBERS', inflight)) do
    redis.call('RPUSH', KEYS[2], id)
    messages = messages + 1
  end
  redis.call('DEL', inflight)
  redis.call('ZREM', KEYS[1], listener)
end
if messages > 0 then
  redis.call('DEL', KEYS[3])
  redis.call('LPUSH', KEYS[3], 1)
end
return messages";

/// How often an idle lane is looked at.
const IDLE: Duration = Duration::from_millis(100);

/// A lane, for one listener: it registers, and then sends heartbeats and looks for messages until it fails.
pub(super) struct LaneStorage {
    lane: LaneInRedis,
    codec: JsonCodec,
    registering: Option<BoxFuture<'static, Result<(), Error>>>,
    /// Ends by an error only.
    heartbeats: Option<BoxFuture<'static, Error>>,
    next: Option<BoxFuture<'static, Result<Task<Vec<u8>>, Error>>>,
    failed: bool,
}

impl LaneStorage {
    pub(super) fn new(connection: Connection, queue: Config, outage: Outage) -> Self {
        Self {
            lane: LaneInRedis { connection, queue, outage },
            codec: JsonCodec::default(),
            registering: None,
            heartbeats: None,
            next: None,
            failed: false,
        }
    }

    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.failed = true;
        Err(error)
    }
}

#[derive(Clone)]
struct LaneInRedis {
    connection: Connection,
    queue: Config,
    outage: Outage,
}

impl LaneInRedis {
    async fn is_alive(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        let Self { connection, queue, outage } = self;
        let _: u64 = redis::Script::new(ALIVE)
            .key(queue.workers_set())
            .key(queue.active_jobs_list())
            .key(queue.signal_list())
            .arg(worker.name())
            .arg(queue.orphaned_duration().as_secs())
            .arg(queue.inflight_jobs_set())
            .invoke_async(connection)
            .await?;
        outage.ended();
        Ok(())
    }

    async fn register(mut self, worker: WorkerContext) -> Result<(), Error> {
        self.is_alive(&worker).await
    }

    async fn send_heartbeats(mut self, worker: WorkerContext) -> Error {
        loop {
            tokio::time::sleep(self.queue.heartbeat_interval).await;
            if let Err(error) = self.is_alive(&worker).await {
                return error;
            }
        }
    }

    async fn next(mut self, worker: WorkerContext) -> Result<Task<Vec<u8>>, Error> {
        loop {
            // One at a time: `batch_size(1)`.
            if let Some(task) = queries::fetch_next(&mut self.connection, &worker, &self.queue).await?.pop() {
                return Ok(task);
            }
            tokio::time::sleep(IDLE).await;
        }
    }
}

impl Backend for LaneStorage {
    type Task = Task<Vec<u8>>;
    type Error = Error;

    fn poll_ready(&mut self, context: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Error>> {
        if self.failed {
            return Poll::Ready(Ok(()));
        }
        let Self { lane, heartbeats, registering, .. } = self;
        let heartbeats = match heartbeats {
            Some(heartbeats) => heartbeats,
            None => {
                let registering =
                    registering.get_or_insert_with(|| lane.clone().register(worker.clone()).boxed());
                if let Err(error) = ready!(registering.as_mut().poll(context)) {
                    return Poll::Ready(self.fail(error));
                }
                // For apalis it is ready from now on.
                worker.heartbeat(context);
                heartbeats.insert(lane.clone().send_heartbeats(worker.clone()).boxed())
            }
        };
        match heartbeats.as_mut().poll(context) {
            Poll::Ready(error) => Poll::Ready(self.fail(error)),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Error>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let next = self.next.get_or_insert_with(|| self.lane.clone().next(worker.clone()).boxed());
        let ended = ready!(next.as_mut().poll(context));
        self.next = None;
        Poll::Ready(Some(ended.or_else(|error| self.fail(error))))
    }

    /// What a listener that ended had in its hands is put back by its supervisor.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for LaneStorage {
    type Args = Value;
    type Id = ulid::Ulid;
    type Kind = Durable;
    type Config = Config;
    type Layer = Identity;

    fn config(&self) -> &Config {
        &self.lane.queue
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

impl WireFormatBackend for LaneStorage {
    type Codec = JsonCodec;
    type Compact = Vec<u8>;

    fn codec(&self) -> &JsonCodec {
        &self.codec
    }
}
