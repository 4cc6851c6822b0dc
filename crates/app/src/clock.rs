//! The clock of a service: it runs as the machine's monotonic clock does, and is set by the database's.
//!
//! Times are written by one machine and judged by others. Were each to go by its own clock, one that runs ahead would count
//! what waits as due, or as lost; so all go by the clock of the database that they share (Cristian, "Probabilistic
//! clock synchronization", 1989: the server's time, give or take half the round trip). The machine's own clock may be set to
//! whatever it likes meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::time::{Clock, Timestamp};
use penstock_flow::context::periodic::{Schedule, Task};
use penstock_store::{Store, StoreError};

/// How often it is set. A machine that slept does not know for how long until then.
const SET_EVERY: Duration = Duration::from_secs(3);

/// All processes follow the database's clock this long after it was set.
pub const SETTLES: Duration = Duration::from_secs(5);

/// The clock is set by the quickest of this many answers.
const ANSWERS: u32 = 3;

/// Slower answers are too imprecise.
const SLOWEST: Duration = Duration::from_secs(1);

/// A system's clock that differs by more is reported: its logs are off as well.
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

/// A monotonic clock that shows the database's time.
#[derive(Debug)]
pub struct SharedClock(Mutex<Shown>);

#[derive(Debug)]
struct Shown {
    /// What it showed.
    time: Timestamp,
    /// When it showed that.
    at: Instant,
    /// By how many milliseconds this machine's clock was ahead of the database's when that was reported last.
    reported_ms: i64,
}

impl Default for SharedClock {
    /// It shows this machine's time until it is set.
    fn default() -> Self {
        Self(Mutex::new(Shown { time: SystemClock.now(), at: Instant::now(), reported_ms: 0 }))
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.time + shown.at.elapsed()
    }
}

impl SharedClock {
    /// Sets it by the database's clock. When the database does not answer in time, it goes on as it was set last.
    ///
    /// # Errors
    /// When the database does not answer, or too slowly.
    pub async fn set(&self, store: &dyn Store) -> Result<(), ClockError> {
        let mut best: Option<(Duration, Instant, Timestamp)> = None;
        for _ in 0..ANSWERS {
            let began = Instant::now();
            let answer = tokio::time::timeout(SLOWEST, store.now()).await;
            let time = match answer.map_err(|_| ClockError::Slow).and_then(|now| Ok(now?)) {
                Ok(time) => time,
                Err(error) if best.is_none() => return Err(error),
                Err(_) => break,
            };
            let took = began.elapsed();
            if best.is_none_or(|(quickest, ..)| took < quickest) {
                best = Some((took, began + took / 2, time));
            }
        }
        if let Some((took, at, time)) = best {
            self.follow(time, at, took);
        }
        Ok(())
    }

    /// The database's clock showed `time` at that moment, give or take half of what the answer took.
    fn follow(&self, time: Timestamp, at: Instant, took: Duration) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead_ms = (SystemClock.now() - at.elapsed()).millis() - time.millis();
        if (ahead_ms - shown.reported_ms).abs() > NOTABLE_MS {
            if ahead_ms.abs() > NOTABLE_MS {
                tracing::warn!(
                    milliseconds = ahead_ms,
                    "this machine's clock is apart from the database's, which is gone by; set both by NTP"
                );
            }
            shown.reported_ms = ahead_ms;
        }
        let expected = shown.time + at.saturating_duration_since(shown.at);
        // A difference that the round trip may have caused changes nothing.
        let round_trip_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX).max(5);
        if (time.millis() - expected.millis()).abs() > round_trip_ms {
            (shown.time, shown.at) = (time, at);
        }
    }
}

/// Why the clock could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It took too long to say much about the present.
    #[error("the database did not answer within {} s", SLOWEST.as_secs())]
    Slow,
}

/// Sets the clock in the background.
pub struct ClockTask {
    /// The clock.
    pub clock: Arc<SharedClock>,
    /// The database that it follows.
    pub store: Arc<dyn Store>,
}

impl Task for ClockTask {
    const NAME: &'static str = "clock";
    type Error = ClockError;

    fn schedule(&self) -> Schedule {
        Schedule::after(SET_EVERY)
    }

    async fn run(&mut self) -> Result<(), ClockError> {
        self.clock.set(self.store.as_ref()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_by_the_database_and_by_no_clock_of_this_machine() {
        let clock = SharedClock::default();
        let quick = Duration::from_millis(2);
        let hour = Duration::from_secs(3600);
        for time in [SystemClock.now() + hour, SystemClock.now() - hour] {
            clock.follow(time, Instant::now(), quick);
            let shown = clock.now();
            assert!(shown >= time && shown.since(time) < Duration::from_secs(60), "{shown} {time}");
        }
        let before = clock.now();
        clock.follow(before + Duration::from_millis(400), Instant::now(), Duration::from_millis(900));
        assert!(
            clock.now().since(before) < Duration::from_millis(400),
            "an answer that took long has little weight"
        );
    }
}
