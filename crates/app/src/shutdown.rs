//! An orderly end: SIGTERM and Ctrl-C ask for it once.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled when the process is asked to stop. Needs a tokio runtime.
pub fn on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    #[cfg(unix)]
    outlive_file_limits();
    tokio::spawn(async move {
        wait().await;
        tracing::info!("asked to stop; what runs ends or is requeued");
        asked.cancel();
    });
    stop
}

/// A file that would be larger than the process may write (RLIMIT_FSIZE) is an error of the write, as a full disk is. Without a
/// handler of SIGXFSZ it would be the end of the process.
#[cfg(unix)]
fn outlive_file_limits() {
    use tokio::signal::unix::{SignalKind, signal};
    if let Err(error) = signal(SignalKind::from_raw(SIGXFSZ)) {
        tracing::debug!(%error, "SIGXFSZ is not handled");
    }
}

/// On Linux (but not on every architecture of it) and on macOS.
#[cfg(unix)]
const SIGXFSZ: i32 = 25;

#[cfg(unix)]
async fn wait() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be listened to; only Ctrl-C stops this process in order");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn wait() {
    let _ = tokio::signal::ctrl_c().await;
}
