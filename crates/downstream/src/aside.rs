//! Work on long answers, beside the runtime: its threads go on with everything else meanwhile.

use std::num::NonZero;
use std::sync::LazyLock;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Work on an answer of fewer bytes takes a fraction of a millisecond.
const LARGE: usize = 16 * 1024;

/// Half of the processors, so that the other half is left for what is short.
static ROOM: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    Semaphore::new((processors / 2).max(1))
});

/// Does some work on an answer of that many bytes: here when it is short, beside the runtime when it is long.
pub async fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < LARGE {
        return work();
    }
    // It is never closed.
    let _permit = ROOM.acquire().await.ok();
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // One thread has nobody to hand its tasks to.
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The one thread of a runtime answers somebody else while it works on a long answer, and takes up no second one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_a_long_answer_is_worked_on() {
        let (started, begun) = tokio::sync::oneshot::channel();
        let (other, from_other) = std::sync::mpsc::channel();
        let long = tokio::spawn(aside(LARGE, move || {
            started.send(()).unwrap();
            from_other.recv_timeout(Duration::from_secs(20)).is_ok()
        }));
        begun.await.unwrap();
        // A task of the same runtime: only its one thread can run it.
        tokio::spawn(async move { other.send(()).unwrap() });
        assert!(long.await.unwrap(), "the runtime stood still");
    }

    #[tokio::test]
    async fn short_answers_and_single_threads_are_served_in_place() {
        let here = std::thread::current().id();
        for bytes in [0, LARGE] {
            assert_eq!(aside(bytes, || std::thread::current().id()).await, here);
        }
    }
}
