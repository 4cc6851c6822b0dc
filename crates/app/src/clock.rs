//! The clock of a service: the system's, set by the database's.
//!
//! Leases are written by one machine and judged by others. Were each to go by its own clock, one that runs ahead would
//! take live rows for abandoned ones; so all go by the clock of the database that they share (Cristian, "Probabilistic
//! clock synchronization", 1989: the server's time, give or take half the round trip).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use penstock_domain::time::{Clock, Timestamp};
use penstock_store::Store;
use tokio_util::sync::CancellationToken;

/// How often it is set. Quartz drifts by less than 10 ms meanwhile.
const SET_EVERY: Duration = Duration::from_secs(30);

/// What the clock is set by is the quickest of so many answers.
const ANSWERS: u32 = 3;

/// Answers that took longer tell too little.
const SLOWEST: Duration = Duration::from_secs(1);

/// A system's clock that differs by more is worth a word: its logs are off as well.
const NOTABLE_MS: i64 = 2000;

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        Timestamp::from_millis(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// The system's clock, moved by what the database's is ahead of it.
#[derive(Debug, Default)]
pub struct SharedClock {
    ahead_ms: AtomicI64,
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().millis() + self.ahead_ms.load(Ordering::Relaxed))
    }
}

impl SharedClock {
    /// Sets it by the database's clock. When the database does not answer in time, it goes on as it was set last.
    pub async fn set(&self, store: &dyn Store) {
        let mut best: Option<(Duration, i64)> = None;
        for _ in 0..ANSWERS {
            let asked = SystemClock.now();
            let began = Instant::now();
            let Ok(Ok(said)) = tokio::time::timeout(SLOWEST, store.now()).await else { break };
            let took = began.elapsed();
            if best.is_none_or(|(quickest, _)| took < quickest) {
                let half = i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX);
                best = Some((took, said.millis() - (asked.millis() + half)));
            }
        }
        let Some((took, ahead)) = best else { return };
        let was = self.ahead_ms.load(Ordering::Relaxed);
        // What may be the way's doing moves nothing.
        if (ahead - was).abs() <= i64::try_from(took.as_millis()).unwrap_or(i64::MAX).max(5) {
            return;
        }
        if (ahead - was).abs() > NOTABLE_MS {
            tracing::warn!(
                milliseconds = -ahead,
                "this machine's clock is apart from the database's, which is gone by; set both by NTP"
            );
        }
        self.ahead_ms.store(ahead, Ordering::Relaxed);
    }

    /// Sets it now and then, until `stop`.
    pub async fn keep(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SET_EVERY) => self.set(store.as_ref()).await,
            }
        }
    }
}
