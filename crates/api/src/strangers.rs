//! How often an address asks without a valid key: a token bucket for each, in this process. Looking for a key costs a
//! question to the database, which guessers and floods are to have few of.
//!
//! A request takes one before its key is looked for, and gets it back when the key is good. When there is none left, only
//! keys go on that were good a while ago: whoever shares an address with a guesser is not shut out.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A bucket holds what it gets in this time.
const WINDOW: Duration = Duration::from_secs(60);

/// For how long a key is known to have been good.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Addresses with a bucket of their own, and keys that are known: full buckets and old keys are dropped beyond it, and
/// addresses that come when there are so many share a bucket.
const MOST: usize = 16 * 1024;

/// Everything is looked through no more often than this.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Has no key of its own to count by: those that find no place.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The buckets of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Strangers {
    /// 0: no limit.
    per_minute: u32,
    began: Instant,
    hasher: RandomState,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    buckets: HashMap<IpAddr, Bucket>,
    /// When a key was good last, by a hash of what was sent.
    known: HashMap<u64, Duration>,
    tidied: Duration,
}

/// Tokens at a time since the process began.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

/// What a request took.
#[derive(Debug)]
pub(crate) struct Taken {
    from: IpAddr,
    key: Option<u64>,
    token: bool,
}

impl Strangers {
    /// Full buckets; 0: no limit.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, began: Instant::now(), hasher: RandomState::new(), seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a limit.
    pub(crate) fn is_limiting(&self) -> bool {
        self.per_minute > 0
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes one; or the seconds until there is one.
    pub(crate) fn take(&self, address: IpAddr, key: Option<&[u8]>, now: Duration) -> Result<Taken, u32> {
        let key = key.map(|key| self.hasher.hash_one(key));
        let quota = f64::from(self.per_minute);
        let per_second = quota / WINDOW.as_secs_f64();
        let mut seen = self.seen();
        seen.tidy(quota, per_second, now);
        let from =
            if seen.buckets.len() < MOST || seen.buckets.contains_key(&address) { address } else { OTHERS };
        let bucket = seen.buckets.entry(from).or_insert(Bucket { tokens: quota, at: now });
        bucket.refill(quota, per_second, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(Taken { from, key, token: true });
        }
        let wait = ((1.0 - bucket.tokens) / per_second).ceil().max(1.0);
        let is_known =
            key.and_then(|key| seen.known.get(&key)).is_some_and(|at| now.saturating_sub(*at) < KNOWN_FOR);
        if is_known { Ok(Taken { from, key, token: false }) } else { Err(wait as u32) }
    }

    /// The request had a good key, or needed none.
    pub(crate) fn refund(&self, taken: &Taken, has_key: bool, now: Duration) {
        let mut seen = self.seen();
        if let Some(bucket) = seen.buckets.get_mut(&taken.from).filter(|_| taken.token) {
            bucket.tokens = (bucket.tokens + 1.0).min(f64::from(self.per_minute));
        }
        if let Some(key) = taken.key.filter(|_| has_key)
            && (seen.known.len() < MOST || seen.known.contains_key(&key))
        {
            seen.known.insert(key, now);
        }
    }

    /// The key is not good, or no longer.
    pub(crate) fn forget(&self, taken: &Taken) {
        if let Some(key) = taken.key {
            self.seen().known.remove(&key);
        }
    }
}

impl Seen {
    fn tidy(&mut self, quota: f64, per_second: f64, now: Duration) {
        if self.buckets.len().max(self.known.len()) < MOST || now.saturating_sub(self.tidied) < TIDY_EVERY {
            return;
        }
        self.tidied = now;
        self.buckets.retain(|_, bucket| {
            bucket.refill(quota, per_second, now);
            bucket.tokens < quota
        });
        self.known.retain(|_, at| now.saturating_sub(*at) < KNOWN_FOR);
    }
}

impl Bucket {
    fn refill(&mut self, quota: f64, per_second: f64, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * per_second;
        self.tokens = (self.tokens + gained).min(quota);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn an_address_that_guesses_is_refused_and_a_known_key_goes_on() {
        let strangers = Strangers::new(6);
        let good = strangers.take(address(1), Some(b"good"), NOW).unwrap();
        strangers.refund(&good, true, NOW);
        for _ in 0..6 {
            strangers.take(address(1), Some(b"guess"), NOW).unwrap();
        }
        assert_eq!(strangers.take(address(1), Some(b"guess"), NOW).unwrap_err(), 10);
        assert_eq!(strangers.take(address(1), None, NOW).unwrap_err(), 10);
        let good = strangers.take(address(1), Some(b"good"), NOW).unwrap();
        strangers.take(address(2), None, NOW).unwrap();
        // What was not acquired is not released.
        strangers.refund(&good, true, NOW);
        strangers.take(address(1), None, NOW).unwrap_err();
        // A key that was revoked is a guess.
        strangers.forget(&good);
        strangers.take(address(1), Some(b"good"), NOW).unwrap_err();
        strangers.take(address(1), None, Duration::from_secs(10)).unwrap();
        strangers.take(address(1), None, Duration::from_secs(10)).unwrap_err();
    }

    #[test]
    fn a_key_is_known_for_a_while() {
        let strangers = Strangers::new(1);
        let good = strangers.take(address(1), Some(b"good"), NOW).unwrap();
        strangers.refund(&good, true, NOW);
        let later = NOW + KNOWN_FOR;
        strangers.take(address(1), None, later).unwrap();
        strangers.take(address(1), Some(b"good"), later).unwrap_err();
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_memory() {
        let strangers = Strangers::new(1);
        for number in 1..=2 * MOST as u32 {
            let _ = strangers.take(address(number), None, NOW);
        }
        assert_eq!(strangers.seen().buckets.len(), MOST + 1, "and the one that is shared");
        strangers.take(address(u32::MAX), None, NOW).unwrap_err();
        // Full ones say nothing that new ones do not.
        strangers.take(address(u32::MAX), None, WINDOW).unwrap();
        assert_eq!(strangers.seen().buckets.len(), 1);
    }
}
