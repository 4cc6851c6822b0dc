//! What the tests of limiters and calls share.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

pub mod conformance;
pub mod far;
pub mod hammer;
pub mod redis;
pub mod server;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use penstock_domain::pipeline::{Breaker, Concurrency, Dependency, Rate};
use penstock_domain::time::{Clock, Timestamp};
use url::Url;

/// A breaker that no test opens by accident.
pub const CALM: Breaker = Breaker {
    failure_bp: 10_000,
    min_calls: 1_000_000,
    window: Duration::from_secs(30),
    open_for: Duration::from_secs(10),
    probes: 1,
};

/// A dependency that nobody else uses, without limits.
pub fn dependency(base_url: &str) -> Dependency {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Dependency {
        name: format!("test-{}-{}-{count}", std::process::id(), since.as_nanos()),
        base_url: Url::parse(base_url).unwrap(),
        hosts: Vec::new(),
        headers: Vec::new(),
        owner: Default::default(),
        auth: None,
        tls: None,
        proxy: None,
        rate: None,
        more: Vec::new(),
        hours: None,
        concurrency: None,
        timeout: Duration::from_secs(10),
        breaker: CALM,
    }
}

pub fn rate(limit: u32, burst: u32) -> Rate {
    Rate::bucket(limit, Duration::from_secs(1), burst)
}

pub fn concurrency(limit: u32) -> Concurrency {
    Concurrency { limit, per_owner: false }
}

/// The system's time.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap())
    }
}

/// A small generator (xorshift), so that a test repeats.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}
