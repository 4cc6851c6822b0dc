//! How long it takes to record that a call is about to be made: the call asks for its permit that much earlier.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::limit;

/// What is expected as long as nothing was recorded.
const FIRST_US: f64 = 10_000.0;

/// No lead is longer: a database that is slower than that makes some calls late, which ask again.
const LONGEST_US: f64 = 250_000.0;

/// What is expected is this much more than what it took: a late call's share of the rate is lost.
const MARGIN: f64 = 1.5;

/// With each shorter time, what is expected falls by this share of the difference.
const WEIGHT: f64 = 1.0 / 16.0;

/// The time that the next recording is expected to take.
pub(crate) struct RecordingTime(Mutex<f64>);

impl Default for RecordingTime {
    fn default() -> Self {
        Self(Mutex::new(FIRST_US))
    }
}

impl RecordingTime {
    /// Microseconds.
    pub(crate) fn expected_us(&self) -> f64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A recording took this long.
    pub(crate) fn took(&self, time: Duration) {
        let wanted = (limit::micros(time) * MARGIN).min(LONGEST_US);
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *expected = if wanted > *expected { wanted } else { *expected + (wanted - *expected) * WEIGHT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_recording_is_expected_at_once_and_forgotten_slowly() {
        let recording = RecordingTime::default();
        recording.took(Duration::from_millis(60));
        assert!((recording.expected_us() - 90_000.0).abs() < 1.0);
        recording.took(Duration::from_millis(4));
        assert!(recording.expected_us() > 80_000.0);
        (0..200).for_each(|_| recording.took(Duration::from_millis(4)));
        assert!((recording.expected_us() - 6_000.0).abs() < 10.0);
        recording.took(Duration::from_secs(60));
        assert!((recording.expected_us() - LONGEST_US).abs() < 1.0);
    }
}
