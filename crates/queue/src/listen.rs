//! How a lane is listened to: by an apalis worker that takes one message at a time, and only when there is room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apalis::prelude::{WorkerContext, WorkerError};
use futures::FutureExt as _;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use crate::{Handler, Lane, Message, Taken};

/// How often a handler without room is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A handler at one lane.
#[derive(Clone)]
pub struct LaneHandler {
    handler: Arc<dyn Handler>,
    lane: Lane,
}

impl LaneHandler {
    /// A handler at a lane.
    pub fn new(handler: Arc<dyn Handler>, lane: Lane) -> Self {
        Self { handler, lane }
    }

    /// Has the handler take a message. A handler that panics has not taken it, and receives the next one all the same: its
    /// rows come back by SQL.
    pub async fn receive(self, message: Message) -> Taken {
        let taken = std::panic::AssertUnwindSafe(self.handler.handle(message)).catch_unwind().await;
        taken.unwrap_or_else(|_| {
            tracing::error!(lane = %self.lane, "a message made its handler panic and is dropped");
            Taken::at_once()
        })
    }

    /// Middleware that is ready when the handler has room. apalis asks the service before it asks the queue, so a message
    /// for which there is no room stays where others can take it; the worker's heartbeat goes on meanwhile.
    pub fn room(&self) -> RoomLayer {
        RoomLayer(self.clone())
    }
}

/// See [`LaneHandler::room`].
#[derive(Clone)]
pub struct RoomLayer(LaneHandler);

impl<S> Layer<S> for RoomLayer {
    type Service = Room<S>;

    fn layer(&self, inner: S) -> Room<S> {
        Room { handler: self.0.clone(), inner, again: None }
    }
}

/// See [`LaneHandler::room`].
pub struct Room<S> {
    handler: LaneHandler,
    inner: S,
    again: Option<Pin<Box<Sleep>>>,
}

impl<S, T> Service<T> for Room<S>
where
    S: Service<T>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        while !self.handler.handler.has_room(&self.handler.lane) {
            let again = self.again.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_AGAIN)));
            ready!(again.as_mut().poll(context));
            self.again = None;
        }
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: T) -> S::Future {
        self.inner.call(request)
    }
}

/// Lets an apalis worker run until it fails, or until `stop` and the end of what it was doing.
///
/// # Errors
/// Whatever ended it; any error of its backend does.
pub async fn until(
    stop: &CancellationToken,
    worker: &WorkerContext,
    running: impl Future<Output = Result<(), WorkerError>>,
) -> Result<(), WorkerError> {
    let mut running = std::pin::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        () = stop.cancelled() => {}
    }
    // One that has not begun has nothing to end.
    if worker.stop().is_err() { Ok(()) } else { running.await }
}
