//! Parts of a service that run as tasks until the service stops.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Spawns a part of a service. When it panics, `stop` is cancelled: the service stops in order and is started again,
/// because without one of its parts it would hold work that it cannot finish.
pub fn spawn_part(
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let stop = stop.clone();
    let part = async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(
                part = name,
                "a part of the service panicked: please report it; the service stops"
            );
            stop.cancel();
        }
    };
    tokio::spawn(part.in_current_span())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_stops_the_service_and_one_that_ends_does_not() {
        let stop = CancellationToken::new();
        spawn_part("ends", async {}, &stop).await.expect("it ended");
        assert!(!stop.is_cancelled());
        spawn_part("panics", async { panic!("a defect") }, &stop).await.expect("the panic was caught");
        assert!(stop.is_cancelled());
    }
}
