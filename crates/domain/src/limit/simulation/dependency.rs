//! A dependency that counts exactly, and the judge of what arrived there.

/// The largest excess of calls over burst + rate·t in any window: the highest level of the leaky bucket that the calls
/// would fill, less its burst (the two readings of GCRA, as a virtual schedule and as a bucket, are the same one).
pub(super) fn excess(times: &[f64], per_second: f64, burst: f64) -> f64 {
    let (mut level, mut last, mut worst) = (0.0_f64, 0.0, f64::MIN);
    for at in times {
        level = (level - (at - last) * per_second / 1e6).max(0.0) + 1.0;
        last = *at;
        worst = worst.max(level - burst);
    }
    worst
}

/// The same, by looking at every window.
pub(super) fn excess_by_all_windows(times: &[f64], per_second: f64, burst: f64) -> f64 {
    let mut worst = f64::MIN;
    for (first, from) in times.iter().enumerate() {
        for (more, until) in times[first..].iter().enumerate() {
            let calls = f64::from(u32::try_from(more + 1).unwrap());
            worst = worst.max(calls - burst - (until - from) * per_second / 1e6);
        }
    }
    worst
}

/// The dependency: counts exactly, by its own limit.
pub(super) struct Dependency {
    pub(super) interval: f64,
    pub(super) tolerance: f64,
    pub(super) tat: f64,
    pub(super) paused_until: f64,
    pub(super) arrivals: Vec<f64>,
    pub(super) refused: usize,
    /// Calls that came although they had been asked to stay away.
    pub(super) in_pause: usize,
}

impl Dependency {
    pub(super) fn new(per_second: f64, burst: f64) -> Self {
        let interval = 1e6 / per_second;
        let tolerance = burst * interval;
        Self {
            interval,
            tolerance,
            tat: 0.0,
            paused_until: 0.0,
            arrivals: Vec::new(),
            refused: 0,
            in_pause: 0,
        }
    }

    /// None: accepted; else how many microseconds to wait, in whole seconds.
    pub(super) fn arrives(&mut self, at: f64) -> Option<f64> {
        self.arrivals.push(at);
        let tat = self.tat.max(at) + self.interval;
        if tat - self.tolerance <= at + 1e-3 {
            self.tat = tat;
            return None;
        }
        self.refused += 1;
        self.in_pause += usize::from(at < self.paused_until);
        let wait = ((tat - self.tolerance - at) / 1e6).ceil() * 1e6;
        self.paused_until = self.paused_until.max(at + wait);
        Some(wait)
    }
}
