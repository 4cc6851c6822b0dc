//! Takes messages out of Redis.

use apalis::prelude::{BoxDynError, ExecutionContext};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use penstock_redis::Connection;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use super::AWAY;
use crate::Taken;

/// An acknowledgement is tried this often; after that the message comes again, when its worker is gone.
const ACKNOWLEDGE_TRIES: u32 = 5;

/// Takes a message out, unless it was put back meanwhile: then it is somebody else's, content and all.
/// `KEYS`: what the listener has in its hands, the contents, what is known of the message. `ARGV`: the message.
const TAKE_OUT: &str = "
if redis.call('SREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('DEL', KEYS[3])
end";

/// A handler's answer on its way to [`Acknowledge`]. apalis requires that it can be stored, and is configured not to store it.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(skip, default = "Taken::at_once")]
    pub(super) taken: Taken,
}

/// Takes a message out of Redis when it may leave: its entry among the worker's messages, its content, and its description.
#[derive(Clone)]
pub(super) struct Acknowledge {
    pub(super) connection: Connection,
    pub(super) inflight: String,
    pub(super) data: String,
    pub(super) meta: String,
    /// Messages that may not leave yet.
    pub(super) later: TaskTracker,
}

impl apalis::prelude::Acknowledge<Option<Answer>> for Acknowledge {
    type Error = redis::RedisError;
    type Future = BoxFuture<'static, Result<(), Self::Error>>;

    fn ack(
        &mut self,
        taken: &Result<Option<Answer>, BoxDynError>,
        context: &ExecutionContext,
    ) -> Self::Future {
        let Some(id) = context.task_id().map(ToString::to_string) else { return async { Ok(()) }.boxed() };
        let taken_out = self.clone().take_out(id);
        match taken {
            Ok(Some(Answer { taken })) if !taken.is_done() => {
                let taken = taken.clone();
                self.later.spawn(async move {
                    taken.wait().await;
                    if let Err(error) = taken_out.await {
                        tracing::warn!(%error, "a message was not acknowledged; it comes again");
                    }
                });
                async { Ok(()) }.boxed()
            }
            _ => taken_out.boxed(),
        }
    }
}

impl Acknowledge {
    async fn take_out(self, id: String) -> Result<(), redis::RedisError> {
        let Self { mut connection, inflight, data, meta, .. } = self;
        let script = redis::Script::new(TAKE_OUT);
        let mut take_out = script.key(inflight);
        take_out.key(data).key(format!("{meta}:{id}")).arg(id);
        let mut tried = 0;
        loop {
            tried += 1;
            match take_out.invoke_async::<()>(&mut connection).await {
                Err(error) if tried == ACKNOWLEDGE_TRIES => return Err(error),
                Err(_) => tokio::time::sleep(AWAY).await,
                Ok(()) => return Ok(()),
            }
        }
    }
}
