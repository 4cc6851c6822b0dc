//! How often an address asks without a valid key: a token bucket for each, in this process. Looking for a key costs a
//! query, and guessers and floods get few of these.
//!
//! A request takes one before its key is looked for, and gets it back when the key is valid. When none is left, only
//! keys that were valid a short time ago are accepted, so that a guesser does not shut out others at its address.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::ids::OwnerSeq;

use crate::token_bucket::TokenBucket;

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
pub struct AddressRates {
    /// 0: no limit.
    per_minute: u32,
    began: Instant,
    hasher: RandomState,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    buckets: HashMap<IpAddr, TokenBucket>,
    /// When a key was good last, by a hash of what was sent.
    known: HashMap<u64, Duration>,
    tidied: Duration,
}

/// What a request took.
#[derive(Debug)]
pub(crate) struct Taken {
    from: IpAddr,
    key: Option<u64>,
    token: bool,
}

impl AddressRates {
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
        let mut seen = self.seen();
        seen.tidy(now);
        let from =
            if seen.buckets.len() < MOST || seen.buckets.contains_key(&address) { address } else { OTHERS };
        let bucket = seen.buckets.entry(from).or_insert_with(|| TokenBucket::full(self.per_minute, now));
        bucket.refill(now);
        if bucket.take() {
            return Ok(Taken { from, key, token: true });
        }
        let wait = bucket.seconds_to_next();
        let is_known =
            key.and_then(|key| seen.known.get(&key)).is_some_and(|at| now.saturating_sub(*at) < KNOWN_FOR);
        if is_known { Ok(Taken { from, key, token: false }) } else { Err(wait) }
    }

    /// Whose share of a budget an address has: a number that no owner has.
    pub(crate) fn share(&self, address: Option<IpAddr>) -> OwnerSeq {
        OwnerSeq(self.hasher.hash_one(address).cast_signed() | i64::MIN)
    }

    /// The request had a good key, or needed none.
    pub(crate) fn refund(&self, taken: &Taken, has_key: bool, now: Duration) {
        let mut seen = self.seen();
        if let Some(bucket) = seen.buckets.get_mut(&taken.from).filter(|_| taken.token) {
            bucket.refund();
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
    fn tidy(&mut self, now: Duration) {
        if self.buckets.len().max(self.known.len()) < MOST || now.saturating_sub(self.tidied) < TIDY_EVERY {
            return;
        }
        self.tidied = now;
        self.buckets.retain(|_, bucket| {
            bucket.refill(now);
            !bucket.is_full()
        });
        self.known.retain(|_, at| now.saturating_sub(*at) < KNOWN_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_bucket::WINDOW;

    const NOW: Duration = Duration::ZERO;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn an_address_that_guesses_is_refused_and_a_known_key_goes_on() {
        let rates = AddressRates::new(6);
        let good = rates.take(address(1), Some(b"good"), NOW).unwrap();
        rates.refund(&good, true, NOW);
        for _ in 0..6 {
            rates.take(address(1), Some(b"guess"), NOW).unwrap();
        }
        assert_eq!(rates.take(address(1), Some(b"guess"), NOW).unwrap_err(), 10);
        assert_eq!(rates.take(address(1), None, NOW).unwrap_err(), 10);
        let good = rates.take(address(1), Some(b"good"), NOW).unwrap();
        rates.take(address(2), None, NOW).unwrap();
        // It took no token, so none is put back.
        rates.refund(&good, true, NOW);
        rates.take(address(1), None, NOW).unwrap_err();
        // A key that was revoked is a guess.
        rates.forget(&good);
        rates.take(address(1), Some(b"good"), NOW).unwrap_err();
        rates.take(address(1), None, Duration::from_secs(10)).unwrap();
        rates.take(address(1), None, Duration::from_secs(10)).unwrap_err();
    }

    #[test]
    fn a_key_is_known_for_a_while() {
        let rates = AddressRates::new(1);
        let good = rates.take(address(1), Some(b"good"), NOW).unwrap();
        rates.refund(&good, true, NOW);
        let later = NOW + KNOWN_FOR;
        rates.take(address(1), None, later).unwrap();
        rates.take(address(1), Some(b"good"), later).unwrap_err();
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_memory() {
        let rates = AddressRates::new(1);
        for number in 1..=2 * MOST as u32 {
            let _ = rates.take(address(number), None, NOW);
        }
        assert_eq!(rates.seen().buckets.len(), MOST + 1, "and the one that is shared");
        rates.take(address(u32::MAX), None, NOW).unwrap_err();
        // Full ones say nothing that new ones do not.
        rates.take(address(u32::MAX), None, WINDOW).unwrap();
        assert_eq!(rates.seen().buckets.len(), 1);
    }
}
