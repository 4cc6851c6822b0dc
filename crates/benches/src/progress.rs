//! Progress of a long run: whether it ever stood still, and whether it became slower.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_sandbox::Sandbox;
use tokio::task::JoinHandle;

/// How often effects are counted.
const EVERY: Duration = Duration::from_millis(50);

/// Parts of the rows whose rates are compared.
const PARTS: u64 = 5;

/// When effects were counted, and how many there were.
pub struct Progress {
    /// Effects in all.
    all: u64,
    seen: Vec<(Instant, u64)>,
}

impl Progress {
    /// Counts effects until there are as many as rows, or for ten minutes without one.
    pub fn watch(sandbox: &Arc<Sandbox>, all: u64) -> JoinHandle<Self> {
        let sandbox = sandbox.clone();
        tokio::spawn(async move {
            let mut progress = Self { all, seen: vec![(Instant::now(), 0)] };
            while progress.is_awaited() {
                tokio::time::sleep(EVERY).await;
                let effects = sandbox.stats().effects;
                if progress.seen.last().is_none_or(|(_, before)| *before < effects) {
                    progress.seen.push((Instant::now(), effects));
                }
            }
            progress
        })
    }

    fn is_awaited(&self) -> bool {
        self.seen
            .last()
            .is_some_and(|(at, effects)| *effects < self.all && at.elapsed() < Duration::from_secs(600))
    }

    /// Prints the longest time without an effect between the first and the last one, and the rate of each fifth.
    pub fn say(&self) {
        let first = self.seen.iter().position(|(_, effects)| *effects > 0).unwrap_or(0);
        let seen = &self.seen[first..];
        let longest = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
        println!("{:<60} {:>12.2} s", "longest time without an effect", longest.as_secs_f64());
        let reached = |part: u64| seen.iter().find(|(_, effects)| *effects >= self.all * part / PARTS);
        for part in 1..=PARTS {
            let (Some((from, before)), Some((to, effects))) = (reached(part - 1), reached(part)) else {
                break;
            };
            #[allow(clippy::cast_precision_loss, reason = "a million")]
            let rate = (effects - before) as f64 / (*to - *from).as_secs_f64().max(0.001);
            println!("{:<60} {rate:>12.0} rows/s", format!("fifth {part} of {PARTS}"));
        }
    }
}
