//! The queue in one process: apalis' memory storage, with a bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use apalis::prelude::{
    MemorySink, MemoryStorage, RandomId, Task, TaskBuilder, TaskId, WorkerBuilder, WorkerBuilderExt as _,
    WorkerContext,
};
use async_trait::async_trait;
use futures::channel::mpsc::{Sender, channel};
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listen::{LaneHandler, until};
use crate::{EnqueueResult, Handler, Lane, MAX_BACKLOG, Message, Queue, QueueError, QueueServer, by_lane};

/// Lanes in this process.
#[derive(Default)]
pub struct LocalQueue {
    lanes: Mutex<HashMap<Lane, LocalLane>>,
    /// A lane was opened.
    opened: Notify,
}

/// apalis' own storage has no bound; the channel under this one has. What it does not take is held back.
struct LocalLane {
    sender: Sender<Task<Message>>,
    waiting: Arc<AtomicU64>,
    /// None as soon as somebody listens.
    storage: Option<MemoryStorage<Message>>,
}

impl LocalLane {
    fn open() -> Self {
        // A channel holds one more than its buffer for each sender that sends, and there is one.
        let (sender, receiver) = channel(MAX_BACKLOG as usize - 1);
        let waiting = Arc::new(AtomicU64::new(0));
        let taken = waiting.clone();
        let receiver = receiver.inspect(move |_| {
            taken.fetch_sub(1, Ordering::Relaxed);
        });
        // The storage's own sender is never used: it panics when two tasks push at once.
        let unused = sender.clone().sink_map_err(Into::into);
        let sink = MemorySink::new(Arc::new(futures::lock::Mutex::new(Box::new(unused))));
        let storage = Some(MemoryStorage::new_with(sink, receiver.boxed()));
        Self { sender, waiting, storage }
    }

    /// Gives the message back for which there is no room.
    fn push(&mut self, message: Message) -> Option<Message> {
        let task = TaskBuilder::new(message).task_id(TaskId::from_string(RandomId::default())).build();
        // Counted first: it may be taken before this returns.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = self.sender.try_send(task).err()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(refused.into_inner().args)
    }
}

impl LocalQueue {
    fn with_lanes<T>(&self, work: impl FnOnce(&mut HashMap<Lane, LocalLane>) -> T) -> T {
        work(&mut self.lanes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lanes to which nobody listens yet.
    fn take_unattended(&self) -> Vec<(Lane, MemoryStorage<Message>)> {
        self.with_lanes(|lanes| {
            lanes
                .iter_mut()
                .filter_map(|(lane, state)| state.storage.take().map(|storage| (lane.clone(), storage)))
                .collect()
        })
    }
}

#[async_trait]
impl Queue for LocalQueue {
    async fn enqueue(&self, messages: Vec<Message>) -> Result<EnqueueResult, QueueError> {
        let mut result = EnqueueResult::default();
        self.with_lanes(|lanes| {
            for (lane, messages) in by_lane(messages) {
                let lane = lanes.entry(lane).or_insert_with(LocalLane::open);
                for message in messages {
                    match lane.push(message) {
                        None => result.enqueued += 1,
                        Some(message) => result.held_back.push(message),
                    }
                }
            }
        });
        self.opened.notify_one();
        Ok(result)
    }

    async fn backlog(&self) -> Result<HashMap<Lane, u64>, QueueError> {
        Ok(self.with_lanes(|lanes| {
            let waiting = |state: &LocalLane| state.waiting.load(Ordering::Relaxed);
            lanes.iter().map(|(lane, state)| (lane.clone(), waiting(state))).collect()
        }))
    }

    async fn ready(&self) -> Result<(), QueueError> {
        Ok(())
    }

    async fn server(&self) -> Result<Option<QueueServer>, QueueError> {
        Ok(None)
    }

    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        let mut listeners = JoinSet::new();
        while !stop.is_cancelled() {
            for (lane, storage) in self.take_unattended() {
                listeners.spawn(listen(lane, storage, handler.clone(), stop.clone()));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.opened.notified() => {}
            }
        }
        while listeners.join_next().await.is_some() {}
    }

    /// What this process had taken died with it.
    async fn put_back(&self, _: &str) -> Result<usize, QueueError> {
        Ok(0)
    }
}

async fn listen(
    lane: Lane,
    storage: MemoryStorage<Message>,
    handler: Arc<dyn Handler>,
    stop: CancellationToken,
) {
    let worker = WorkerContext::new(&lane.to_string());
    let handler = LaneHandler::new(handler, lane.clone());
    let running = WorkerBuilder::new(worker.clone())
        .backend(storage)
        .concurrency(1)
        .layer(handler.room())
        .build(move |message: Message| {
            let handler = handler.clone();
            // It left the queue when it was fetched.
            async move { drop(handler.receive(message).await) }
        })
        .run();
    if let Err(error) = until(&stop, &worker, running).await {
        tracing::error!(%error, %lane, "a lane of the queue in this process has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::ids::BatchSeq;
    use tokio::sync::mpsc;

    use crate::{Packet, Taken};

    /// Has room for everything but one pipeline's rows.
    struct Count {
        received: mpsc::UnboundedSender<Message>,
        full: &'static str,
    }

    #[async_trait]
    impl Handler for Count {
        fn name(&self) -> String {
            "one".to_owned()
        }

        async fn handle(&self, message: Message) -> Taken {
            assert_ne!(message, Message::Extract { batch: BatchSeq(13) }, "a handler that panics");
            self.received.send(message).unwrap();
            Taken::at_once()
        }

        fn has_room(&self, lane: &Lane) -> bool {
            *lane != Lane::Rows(self.full.to_owned())
        }

        fn pipelines(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn rows(pipeline: &str) -> Message {
        Message::Rows(Packet::new(pipeline, 0))
    }

    struct Listening {
        received: mpsc::UnboundedReceiver<Message>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Listening {
        fn to(queue: &Arc<LocalQueue>, full: &'static str) -> Self {
            let (sender, received) = mpsc::unbounded_channel();
            let stop = CancellationToken::new();
            let task = tokio::spawn({
                let (queue, stop) = (queue.clone(), stop.clone());
                async move { queue.listen(Arc::new(Count { received: sender, full }), stop).await }
            });
            Self { received, stop, task }
        }

        async fn next(&mut self, messages: usize) -> Vec<Message> {
            let mut all = Vec::new();
            for _ in 0..messages {
                all.push(self.received.recv().await.unwrap());
            }
            all
        }
    }

    #[tokio::test]
    async fn messages_arrive_and_what_is_too_much_is_held_back() {
        let queue = Arc::new(LocalQueue::default());
        let most = MAX_BACKLOG as usize;
        let messages = (0..most + 5).map(|_| rows("one")).collect();
        let held_back = (0..5).map(|_| rows("one")).collect();
        assert_eq!(queue.enqueue(messages).await.unwrap(), EnqueueResult { enqueued: most, held_back });
        assert_eq!(queue.backlog().await.unwrap()[&Lane::Rows("one".into())], most as u64);
        let more = queue.enqueue(vec![Message::Extract { batch: BatchSeq(1) }, rows("other")]).await.unwrap();
        assert_eq!(more.enqueued, 2, "a full lane holds up neither a file nor another lane");
        assert_eq!(queue.backlog().await.unwrap()[&Lane::Extractions], 1);
        let mut listening = Listening::to(&queue, "");
        let all = listening.next(most + 2).await;
        assert_eq!(all.iter().filter(|message| message.lane() == Lane::Extractions).count(), 1);
        assert_eq!(queue.backlog().await.unwrap()[&Lane::Rows("one".into())], 0);
        // Lanes that were opened while somebody listens are listened to as well.
        queue.enqueue(vec![rows("late")]).await.unwrap();
        assert_eq!(listening.next(1).await, [rows("late")]);
        listening.stop.cancel();
        listening.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_lane_without_room_waits_and_holds_nobody_up() {
        let queue = Arc::new(LocalQueue::default());
        queue.enqueue(vec![rows("hangs"), rows("hangs"), rows("goes"), rows("goes")]).await.unwrap();
        let mut listening = Listening::to(&queue, "hangs");
        assert_eq!(listening.next(2).await, [rows("goes"), rows("goes")]);
        assert_eq!(
            queue.backlog().await.unwrap()[&Lane::Rows("hangs".into())],
            2,
            "they are still in the queue"
        );
    }

    #[tokio::test]
    async fn a_handler_that_panics_receives_the_next_one() {
        let queue = Arc::new(LocalQueue::default());
        let next = Message::Extract { batch: BatchSeq(14) };
        queue.enqueue(vec![Message::Extract { batch: BatchSeq(13) }, next.clone()]).await.unwrap();
        assert_eq!(Listening::to(&queue, "").next(1).await, [next]);
    }
}
