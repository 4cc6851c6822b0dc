//! The doorbell. A message carries ids and times, never content; a lost, late or doubled one is harmless, because SQL
//! is the truth (promise 1).
//!
//! A lane for each pipeline, so that the rows of one whose dependency is exhausted or hangs never stand before those of
//! another; and one for extraction. A worker takes only from lanes for which it has room. [`local`] keeps bounded lanes in
//! this process; `shared` keeps them as lists in Redis.

pub mod local;
pub mod message;
#[cfg(feature = "redis")]
pub mod shared;

use std::collections::HashMap;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use local::LocalBell;
pub use message::{Message, Packet};
#[cfg(feature = "redis")]
pub use shared::SharedBell;

/// Rows of a packet at the most.
pub const PACKET_ROWS: usize = 200;

/// Messages that may wait in a lane: SQL knows what is queued, and a later run rings for what was held back.
pub const MAX_BACKLOG: u32 = 4000;

/// Why the bell could not be rung or heard.
#[derive(Debug, thiserror::Error)]
#[error("the queue does not answer: {0}")]
pub struct BellError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl BellError {
    /// From anything that can be said.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rung {
    /// Messages in the queue.
    pub rung: usize,
    /// Messages that it would not bear: what they were about comes back by the sweep.
    pub held_back: usize,
}

/// Takes messages from the queue.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Takes one. Ends when there is room for the next: that is the back-pressure.
    async fn handle(&self, message: Message);

    /// Whether it has room for more rows of a lane.
    fn has_room(&self, lane: &str) -> bool;

    /// Lanes that it knows of: those are listened to before anybody has rung there.
    fn lanes(&self) -> Vec<String>;
}

/// The doorbell, both sides.
#[async_trait]
pub trait Bell: Send + Sync {
    /// Rings for these messages, as many as the queue bears.
    ///
    /// # Errors
    /// When it does not answer; some messages may have been rung.
    async fn ring(&self, messages: Vec<Message>) -> Result<Rung, BellError>;

    /// Packets of rows that wait, by lane. A lane that is not named is empty.
    ///
    /// # Errors
    /// When it does not answer.
    async fn backlog(&self) -> Result<HashMap<String, u64>, BellError>;

    /// Whether it answers.
    ///
    /// # Errors
    /// When it does not.
    async fn ready(&self) -> Result<(), BellError>;

    /// Hands messages to a handler, a lane a turn, until `stop`. Survives a queue that goes away for a while; every message is
    /// acknowledged when the handler has taken it.
    async fn listen(&self, handler: std::sync::Arc<dyn Handler>, stop: CancellationToken);
}
