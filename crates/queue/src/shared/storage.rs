//! A lane in Redis, as a backend of apalis.
//!
//! apalis-redis' own backend lists its queues under a key of a fixed name, which all installations would share and every user of
//! Redis would need a right to. Its keys and its statements for pushing and fetching are used here; a listener's place among the
//! others is kept by [`ALIVE`].

use std::task::{Context, Poll};

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_codec::json::JsonCodec;
use apalis_core::backend::persistence::{Persisted, Persistence, TaskEvent};
use apalis_core::backend::{BackendConfig, WireFormatBackend, finalize::Durable};
use apalis_redis::{Config, Error, queries};
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

/// A lane, for one listener.
pub(super) struct LaneStorage {
    lane: Persisted<LaneInRedis>,
    codec: JsonCodec,
}

impl LaneStorage {
    pub(super) fn new(connection: Connection, queue: Config, outage: Outage) -> Self {
        Self { lane: Persisted::new(LaneInRedis { connection, queue, outage }), codec: JsonCodec::default() }
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
}

impl Persistence for LaneInRedis {
    type Compact = Vec<u8>;
    type Response = Value;
    type Error = Error;

    async fn register(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        self.is_alive(worker).await
    }

    async fn heartbeat(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        self.is_alive(worker).await
    }

    async fn fetch_next(&mut self, worker: &WorkerContext) -> Result<Vec<Task<Vec<u8>>>, Error> {
        queries::fetch_next(&mut self.connection, worker, &self.queue).await
    }

    /// What a listener that ended had in its hands is put back by its supervisor.
    async fn reenqueue_abandoned(&mut self, _: Vec<Task<Vec<u8>>>, _: &WorkerContext) -> Result<u64, Error> {
        Ok(0)
    }

    /// Nothing is locked, and no result is kept.
    async fn handle_events(&mut self, _: Vec<TaskEvent<Value>>, _: &WorkerContext) -> Result<(), Error> {
        Ok(())
    }

    async fn push_tasks(&mut self, tasks: Vec<Task<Vec<u8>>>) -> Result<(), Error> {
        queries::push_tasks(&mut self.connection, &self.queue, &tasks).await.map(|_| ())
    }
}

impl Backend for LaneStorage {
    type Task = Task<Vec<u8>>;
    type Error = Error;

    fn poll_ready(&mut self, context: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Error>> {
        let every = self.lane.queue.heartbeat_interval;
        self.lane.poll_ready(context, worker, every)
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Error>>> {
        self.lane.poll_next(context, worker)
    }

    fn poll_close(&mut self, context: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Error>> {
        self.lane.poll_close(context, worker)
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
