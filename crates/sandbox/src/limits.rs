//! True limits: GCRA (ITU-T I.371), strictly, on arrival.

use serde::{Deserialize, Serialize};

/// Calls a second, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Calls a second.
    pub rate: f64,
    /// Calls at once.
    pub burst: f64,
}

/// The state of a limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gcra {
    tat: f64,
}

impl Gcra {
    /// Lets a call pass at `now` (seconds), or tells how many seconds it comes too early.
    ///
    /// # Errors
    /// The seconds.
    pub fn pass(&mut self, limit: &Limit, now: f64) -> Result<(), f64> {
        let interval = 1.0 / limit.rate;
        let tat = self.tat.max(now) + interval;
        let early = tat - limit.burst * interval - now;
        // A microsecond of rounding is no offence.
        if early > 1e-6 {
            return Err(early);
        }
        self.tat = tat;
        Ok(())
    }
}

/// By how many calls a record exceeds burst + rate·t in its worst window, of whatever length: the highest level of a
/// leaky bucket that the calls fill, less its burst. At most 0: the limit was kept.
pub fn worst_excess(times: &[f64], limit: &Limit) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let (mut level, mut last, mut worst) = (0.0_f64, f64::NEG_INFINITY, f64::NEG_INFINITY);
    for at in times {
        level = if last.is_finite() { (level - (at - last) * limit.rate).max(0.0) } else { 0.0 } + 1.0;
        last = at;
        worst = worst.max(level - limit.burst);
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every window, one by one.
    fn brute(times: &[f64], limit: &Limit) -> f64 {
        let mut worst = f64::NEG_INFINITY;
        for first in 0..times.len() {
            for last in first..times.len() {
                #[allow(clippy::cast_precision_loss)]
                let calls = (last - first + 1) as f64;
                worst = worst.max(calls - limit.burst - limit.rate * (times[last] - times[first]));
            }
        }
        worst
    }

    #[test]
    fn the_bucket_finds_the_worst_window() {
        let limit = Limit { rate: 10.0, burst: 3.0 };
        let mut seed = 7_u64;
        let mut at = 0.0;
        let times: Vec<f64> = (0..300)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                at += f64::from(u32::try_from(seed % 200).unwrap()) / 1000.0;
                at
            })
            .collect();
        assert!((worst_excess(&times, &limit) - brute(&times, &limit)).abs() < 1e-9);
    }

    #[test]
    fn what_passes_keeps_the_limit() {
        let limit = Limit { rate: 50.0, burst: 10.0 };
        let mut gcra = Gcra::default();
        let passed: Vec<f64> = (0..2000)
            .map(|tick| f64::from(tick) / 200.0)
            .filter(|at| gcra.pass(&limit, *at).is_ok())
            .collect();
        assert!(worst_excess(&passed, &limit) <= 1e-3);
        assert!(passed.len() > 490, "{}", passed.len());
    }
}
