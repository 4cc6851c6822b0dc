//! How long it takes to write down that a call is about to be made: with that much lead it asks for its moment.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::limit;

/// What is expected as long as nothing was written down.
const FIRST_US: f64 = 10_000.0;

/// No lead is longer: a database that is slower than that makes some calls late, which ask again.
const LONGEST_US: f64 = 250_000.0;

/// What is expected is so much more than what it took: a late call's share of the rate is lost.
const MARGIN: f64 = 1.5;

/// With each shorter time, what is expected falls by this share of the difference.
const WEIGHT: f64 = 1.0 / 16.0;

/// The time that the next note is expected to take.
pub(crate) struct Noting(Mutex<f64>);

impl Default for Noting {
    fn default() -> Self {
        Self(Mutex::new(FIRST_US))
    }
}

impl Noting {
    /// Microseconds.
    pub(crate) fn expected_us(&self) -> f64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A note took so long.
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
    fn a_slow_note_is_expected_at_once_and_forgotten_slowly() {
        let noting = Noting::default();
        noting.took(Duration::from_millis(60));
        assert!((noting.expected_us() - 90_000.0).abs() < 1.0);
        noting.took(Duration::from_millis(4));
        assert!(noting.expected_us() > 80_000.0);
        (0..200).for_each(|_| noting.took(Duration::from_millis(4)));
        assert!((noting.expected_us() - 6_000.0).abs() < 10.0);
        noting.took(Duration::from_secs(60));
        assert!((noting.expected_us() - LONGEST_US).abs() < 1.0);
    }
}
