//! Listens to one lane in Redis.

use apalis::prelude::{
    AcknowledgementExt as _, WorkerBuilder, WorkerBuilderExt as _, WorkerContext, WorkerError,
};
use apalis_redis::Config;
use penstock_redis::Connection;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AWAY;
use super::acknowledge::{Acknowledge, Answer};
use super::outage::Outage;
use super::storage::LaneStorage;
use crate::listen::{LaneHandler, until};
use crate::{Lane, Taken};

/// KEYS: a worker's messages in its hands, the messages that wait, the workers. ARGV: its name.
const FORGET_WORKER: &str = "\
    local held = redis.call('smembers', KEYS[1]) \
    for at = 1, #held do redis.call('rpush', KEYS[2], held[at]) end \
    redis.call('del', KEYS[1]) \
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
    pub(super) outage: Outage,
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
            let ended = self.run(&worker, &acknowledged, &stop).await;
            ended_before.push(worker);
            self.forget(&mut ended_before).await;
            if let Err(error) = ended {
                self.outage.began(&error);
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
            .backend(LaneStorage::new(self.connection.clone(), config, self.outage.clone()))
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

    /// Takes workers that have ended off the list, and puts what they had in their hands into the queue again: nobody in
    /// this process works on it any more. Those that could not be reported to Redis are left for the next time.
    async fn forget(&self, ended: &mut Vec<WorkerContext>) {
        let queue = &self.queue;
        let script = redis::Script::new(FORGET_WORKER);
        let mut connection = self.connection.clone();
        while let Some(worker) = ended.last() {
            let mut forget = script.key(queue.inflight_set_for(worker));
            forget.key(queue.active_jobs_list()).key(queue.workers_set());
            forget.arg(worker.name());
            if forget.invoke_async::<u64>(&mut connection).await.is_err() {
                return;
            }
            ended.pop();
        }
    }
}
