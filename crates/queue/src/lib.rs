//! The queue. A message carries ids and times, never content; a lost, late or doubled one is harmless, because SQL
//! is the truth (promise 1).
//!
//! A lane for each pipeline, so that the rows of one whose dependency is exhausted or hangs never stand before those of
//! another; and one for extraction. Each lane is a queue of apalis, and a worker listens to each with an apalis worker that
//! takes a message when it has room for it ([`listen`]). [`local`] keeps the lanes in this process, [`shared`] in Redis.

pub mod lane;
mod listen;
pub mod local;
pub mod message;
#[cfg(feature = "redis")]
pub mod shared;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use lane::Lane;
pub use local::LocalQueue;
pub use message::{Message, Packet, Suspects};
#[cfg(feature = "redis")]
pub use shared::SharedQueue;

/// Rows of a packet at most.
pub const PACKET_ROWS: usize = 200;

/// Messages that may wait in a lane: SQL knows what is queued, and a later run enqueues what was held back. Far from the
/// 8,000 at which apalis-redis stops for good: its fetch unpacks all that is due into one Redis command.
pub const MAX_BACKLOG: u32 = 4000;

/// Why the queue could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the queue does not answer: {0}")]
pub struct QueueError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl QueueError {
    /// From any error, or a sentence.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// What became of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnqueueResult {
    /// Messages in the queue.
    pub enqueued: usize,
    /// Messages for which there was no room: whoever enqueued them has to requeue their rows.
    pub held_back: Vec<Message>,
}

/// When a message may leave the queue. As long as it may not, the message comes again when its worker dies.
#[derive(Clone, Debug)]
pub struct Taken(CancellationToken);

impl Taken {
    /// Now: what it was about is in the database's hands again.
    pub fn at_once() -> Self {
        let done = CancellationToken::new();
        done.cancel();
        Self(done)
    }

    /// When the guard is dropped.
    pub fn when_dropped() -> (Self, DropGuard) {
        let done = CancellationToken::new();
        (Self(done.clone()), done.drop_guard())
    }

    /// Waits for it.
    pub async fn wait(self) {
        self.0.cancelled_owned().await;
    }

    /// Whether it may leave now.
    pub fn is_done(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// What keeps the queue, for `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueServer {
    /// Its version; empty when its user may not ask for it, and then what it does with its memory is not known either.
    pub version: String,
    /// What it does when its memory is full.
    pub memory_policy: String,
    /// Bytes that it uses.
    pub used_bytes: u64,
    /// Bytes that it may use; none: no limit.
    pub most_bytes: Option<u64>,
    /// Its clock: milliseconds since the epoch.
    pub now_ms: i64,
}

impl QueueServer {
    /// The oldest version that is supported.
    pub const NEEDED: &'static str = "6.2";

    /// Whether its version is at least that, as far as it is known.
    pub fn is_supported(&self) -> bool {
        if self.version.is_empty() {
            return true;
        }
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 2)
    }
}

/// Takes messages from the queue.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The name of its process: no other one has it, before or after.
    fn name(&self) -> String;

    /// Takes one. The next one of its lane comes when this has ended; the message stays in the queue until it may leave.
    async fn handle(&self, message: Message) -> Taken;

    /// Whether it has room for a message of a lane: without it the message stays in the queue, for others to take.
    fn has_room(&self, lane: &Lane) -> bool;

    /// Pipelines that it knows of: their lanes are listened to before anybody has enqueued anything there.
    fn pipelines(&self) -> Vec<String>;
}

/// The queue, both sides.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Enqueues these messages, as many as there is room for.
    ///
    /// # Errors
    /// When it does not answer; some messages may be in the queue.
    async fn enqueue(&self, messages: Vec<Message>) -> Result<EnqueueResult, QueueError>;

    /// Messages that wait, by lane. A lane that is not named has none.
    ///
    /// # Errors
    /// When it does not answer.
    async fn backlog(&self) -> Result<HashMap<Lane, u64>, QueueError>;

    /// Whether it answers and takes writes.
    ///
    /// # Errors
    /// When it does not.
    async fn ready(&self) -> Result<(), QueueError>;

    /// What keeps it; none when it is this process.
    ///
    /// # Errors
    /// When it does not answer.
    async fn server(&self) -> Result<Option<QueueServer>, QueueError>;

    /// Hands messages to a handler, each lane's one after another, until `stop`; then waits for those that are being taken.
    /// Survives a queue that is unavailable for a while. A message that a worker had taken when it died comes again.
    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken);

    /// A process of this name is dead: puts what it had taken, and what may not leave yet, before all that waits. Returns how
    /// many messages these were.
    ///
    /// # Errors
    /// When it does not answer; they come again by themselves, later.
    async fn put_back(&self, name: &str) -> Result<usize, QueueError>;
}

/// Messages by the lanes that they go through.
fn by_lane(messages: Vec<Message>) -> std::collections::BTreeMap<Lane, Vec<Message>> {
    let mut lanes = std::collections::BTreeMap::<Lane, Vec<Message>>::new();
    for message in messages {
        lanes.entry(message.lane()).or_default().push(message);
    }
    lanes
}
