//! Listens to one lane in Redis.

use std::time::Duration;

use apalis::prelude::{
    AcknowledgementExt as _, BackendExt as _, WorkerBuilder, WorkerBuilderExt as _, WorkerContext,
    WorkerError,
};
use apalis_redis::Config;
use penstock_redis::Connection;
use redis::AsyncCommands as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acknowledge::{Acknowledge, Answer};
use super::{AWAY, Storage};
use crate::listen::{LaneHandler, until};
use crate::{Lane, Taken};

/// How often an idle lane is looked at.
const IDLE: Duration = Duration::from_millis(100);

/// What is left of a worker that was killed is gone after this time.
const FORGET: Duration = Duration::from_secs(3600);

/// KEYS: a worker's messages in its hands, the messages that wait, the workers, the worker's description. ARGV: its name.
const FORGET_WORKER: &str = "\
    local held = redis.call('smembers', KEYS[1]) \
    for at = 1, #held do redis.call('rpush', KEYS[2], held[at]) end \
    redis.call('del', KEYS[1], KEYS[4]) \
    redis.call('zrem', KEYS[3], ARGV[1]) \
    return #held";

/// Listens to one lane.
pub(super) struct Listener {
    pub(super) connection: Connection,
    pub(super) process: String,
    pub(super) number: u64,
    pub(super) lane: Lane,
    pub(super) queue: Config,
    pub(super) handler: LaneHandler,
}

impl Listener {
    /// A worker that ended by an error is followed by another one, until `stop`.
    pub(super) async fn supervise(self, stop: CancellationToken) {
        let mut starts = 0_u64;
        let mut ended_before: Vec<WorkerContext> = Vec::new();
        let acknowledged = TaskTracker::new();
        while !stop.is_cancelled() {
            let worker = WorkerContext::new(&format!("{}/{}.{starts}", self.process, self.number));
            starts += 1;
            let ended = tokio::select! {
                ended = self.run(&worker, &acknowledged, &stop) => ended,
                never = self.keep_expiring(&worker) => never,
            };
            ended_before.push(worker);
            self.forget(&mut ended_before).await;
            if let Err(error) = ended {
                tracing::warn!(%error, lane = %self.lane, "the queue is unavailable; will listen to it again");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AWAY) => {}
                }
            }
        }
        acknowledged.close();
        acknowledged.wait().await;
    }

    async fn run(
        &self,
        worker: &WorkerContext,
        acknowledged: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let config = self.queue.clone();
        let acknowledge = Acknowledge {
            connection: self.connection.clone(),
            inflight: config.inflight_set_for(worker),
            data: config.job_data_hash(),
            meta: config.job_meta_hash(),
            later: acknowledged.clone(),
        };
        let (handler, lane) = (self.handler.clone(), self.lane.clone());
        let running = WorkerBuilder::new(worker.clone())
            .backend(Storage::new(self.connection.clone()).with_config(config).poll_with_interval(IDLE))
            .concurrency(1)
            .ack_with(acknowledge)
            .layer(self.handler.room())
            .build(move |message: Value| {
                let (handler, lane) = (handler.clone(), lane.clone());
                async move {
                    let taken = match serde_json::from_value(message) {
                        Ok(message) => handler.receive(message).await,
                        // Another version's message: the sweep brings its rows back.
                        Err(error) => {
                            tracing::warn!(%error, %lane, "a message cannot be read and is dropped");
                            Taken::at_once()
                        }
                    };
                    Some(Answer { taken })
                }
            })
            .run();
        until(stop, worker, running).await
    }

    /// A killed worker cannot clean up after itself: what describes it in Redis expires unless it lives.
    async fn keep_expiring(&self, worker: &WorkerContext) -> ! {
        let description = self.queue.worker_metadata_key(worker);
        let mut connection = self.connection.clone();
        loop {
            tokio::time::sleep(self.queue.heartbeat_interval).await;
            let seconds = i64::try_from(FORGET.as_secs()).unwrap_or(i64::MAX);
            // When it fails, so does the worker's own heartbeat.
            let _: Result<bool, _> = connection.expire(&description, seconds).await;
        }
    }

    /// Takes workers that have ended off the list, and puts what they had in their hands into the queue again: nobody in
    /// this process works on it any more. Those that could not be reported to Redis are left for the next time.
    async fn forget(&self, ended: &mut Vec<WorkerContext>) {
        let queue = &self.queue;
        let script = redis::Script::new(FORGET_WORKER);
        let mut connection = self.connection.clone();
        while let Some(worker) = ended.last() {
            let mut forget = script.key(queue.inflight_set_for(worker));
            forget.key(queue.active_jobs_list()).key(queue.workers_set());
            forget.key(queue.worker_metadata_key(worker)).arg(worker.name());
            if forget.invoke_async::<u64>(&mut connection).await.is_err() {
                return;
            }
            ended.pop();
        }
    }
}
