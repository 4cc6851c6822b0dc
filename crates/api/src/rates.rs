//! How often keys and owners ask: token buckets in this process, for requests and for uploads. A key shares its owner's
//! bucket with the owner's other keys. Each API process counts by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest};
use penstock_domain::ids::OwnerSeq;

use crate::problem::Problem;
use crate::token_bucket::{TokenBucket, WINDOW};

/// Buckets at which full ones are dropped: they say nothing that a new one does not.
const MANY: usize = 4096;

/// How many a minute; 0: no limit.
#[derive(Clone, Copy, Debug)]
pub struct PerMinute {
    /// Requests of a key.
    pub key_requests: u32,
    /// Requests of an owner.
    pub owner_requests: u32,
    /// Uploads of a key.
    pub key_uploads: u32,
    /// Uploads of an owner.
    pub owner_uploads: u32,
}

/// What a bucket counts, by its name in the `RateLimit` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Requests of a key.
    Key,
    /// Requests of an owner.
    Owner,
    /// Uploads of a key.
    KeyUploads,
    /// Uploads of an owner.
    OwnerUploads,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Owner => "owner",
            Self::KeyUploads => "key-uploads",
            Self::OwnerUploads => "owner-uploads",
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Key => "this key sends too many requests",
            Self::Owner => "the owner of this key sends too many requests",
            Self::KeyUploads => "this key uploads too often",
            Self::OwnerUploads => "the owner of this key uploads too often",
        }
    }
}

/// The state of one bucket after a request, for the `RateLimit` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    policy: Policy,
    quota: u32,
    remaining: u32,
    /// Seconds until the bucket has one more; after a refusal, until a request is accepted.
    reset: u32,
}

/// The buckets of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rates {
    limits: PerMinute,
    began: Instant,
    buckets: Arc<Mutex<Buckets>>,
}

/// By what they count, and by key or owner.
type Buckets = HashMap<(Policy, Box<str>), TokenBucket>;

impl Standing {
    fn of(policy: Policy, bucket: &TokenBucket) -> Self {
        let (remaining, reset) = (bucket.remaining(), bucket.seconds_to_next());
        Self { policy, quota: bucket.quota(), remaining, reset }
    }
}

impl Rates {
    /// Full buckets.
    pub fn new(limits: PerMinute) -> Self {
        Self { limits, began: Instant::now(), buckets: Arc::default() }
    }

    /// Counts a request of a key and its owner.
    ///
    /// # Errors
    /// 429 when one of them has none left.
    pub fn request(&self, key: &str, owner: OwnerSeq, request: &HttpRequest) -> Result<(), Problem> {
        let limits = self.limits;
        self.count(
            key,
            owner,
            request,
            [(Policy::Key, limits.key_requests), (Policy::Owner, limits.owner_requests)],
        )
    }

    /// Counts an upload of a key and its owner.
    ///
    /// # Errors
    /// 429 when one of them has none left.
    pub fn upload(&self, key: &str, owner: OwnerSeq, request: &HttpRequest) -> Result<(), Problem> {
        let limits = self.limits;
        let policies =
            [(Policy::KeyUploads, limits.key_uploads), (Policy::OwnerUploads, limits.owner_uploads)];
        self.count(key, owner, request, policies)
    }

    fn count(
        &self,
        key: &str,
        owner: OwnerSeq,
        request: &HttpRequest,
        policies: [(Policy, u32); 2],
    ) -> Result<(), Problem> {
        let taken = self.take(key, owner, policies, self.began.elapsed());
        let (Ok(standings) | Err(standings)) = &taken;
        request.extensions_mut().get_or_insert_with(Standings::default).0.extend(standings);
        taken.map(drop).map_err(|standings| {
            let (says, reset) = refusal(&standings);
            Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!("{says}; try again after {reset} s"),
            )
            .retry_after(reset)
        })
    }

    /// Takes one of each bucket, or none of any.
    fn take(
        &self,
        key: &str,
        owner: OwnerSeq,
        policies: [(Policy, u32); 2],
        now: Duration,
    ) -> Result<Vec<Standing>, Vec<Standing>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MANY {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                !bucket.is_full()
            });
        }
        let limited: Vec<(Policy, Box<str>)> = policies
            .into_iter()
            .filter(|(_, quota)| *quota > 0)
            .map(|(policy, quota)| {
                let whose = match policy {
                    Policy::Key | Policy::KeyUploads => key.into(),
                    Policy::Owner | Policy::OwnerUploads => owner.0.to_string().into(),
                };
                let id = (policy, whose);
                let bucket = buckets.entry(id.clone());
                bucket.or_insert_with(|| TokenBucket::full(quota, now)).refill(now);
                id
            })
            .collect();
        let accepted = limited.iter().all(|id| buckets.get(id).is_some_and(TokenBucket::has_token));
        let standings = limited.iter().filter_map(|id| {
            let bucket = buckets.get_mut(id)?;
            if accepted {
                bucket.take();
            }
            Some(Standing::of(id.0, bucket))
        });
        let standings = standings.collect();
        if accepted { Ok(standings) } else { Err(standings) }
    }
}

/// Why a request is refused, and after how many seconds the last of the buckets that are empty has one more.
fn refusal(standings: &[Standing]) -> (&'static str, u32) {
    let empty = standings.iter().filter(|standing| standing.remaining == 0);
    let last = empty.max_by_key(|standing| standing.reset);
    last.map_or(("too many requests", 1), |one| (one.policy.says(), one.reset))
}

/// The buckets that a request took from.
#[derive(Default)]
struct Standings(Vec<Standing>);

/// Sets `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) on the answer to a request.
pub fn set_headers(request: &HttpRequest, headers: &mut HeaderMap) {
    let extensions = request.extensions();
    let Some(Standings(standings)) = extensions.get::<Standings>() else { return };
    let list = |item: fn(&Standing) -> String| standings.iter().map(item).collect::<Vec<_>>().join(", ");
    let policies = list(|one| format!("\"{}\";q={};w={}", one.policy.name(), one.quota, WINDOW.as_secs()));
    let remaining = list(|one| format!("\"{}\";r={};t={}", one.policy.name(), one.remaining, one.reset));
    for (name, value) in [("ratelimit-policy", policies), ("ratelimit", remaining)] {
        if let Ok(value) = HeaderValue::from_str(&value)
            && !value.is_empty()
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn rates() -> Rates {
        Rates::new(PerMinute { key_requests: 0, owner_requests: 0, key_uploads: 0, owner_uploads: 0 })
    }

    fn take(rates: &Rates, key: &str, now: Duration) -> Result<Vec<Standing>, Vec<Standing>> {
        rates.take(key, OwnerSeq(1), [(Policy::Key, 6), (Policy::Owner, 8)], now)
    }

    #[test]
    fn a_key_has_its_bucket_and_shares_its_owners() {
        let rates = rates();
        for left in (0..6).rev() {
            assert_eq!(take(&rates, "a", NOW).unwrap()[0].remaining, left);
        }
        let refused = take(&rates, "a", NOW).unwrap_err();
        // One more every ten seconds; what was refused cost the owner nothing.
        assert_eq!(refused[0], Standing { policy: Policy::Key, quota: 6, remaining: 0, reset: 10 });
        assert_eq!(refused[1].remaining, 2);
        take(&rates, "b", NOW).unwrap();
        take(&rates, "b", NOW).unwrap();
        let refused = take(&rates, "b", NOW).unwrap_err();
        assert_eq!((refused[0].remaining, refused[1].remaining, refused[1].reset), (4, 0, 8));
        // Another owner is not concerned.
        rates.take("c", OwnerSeq(2), [(Policy::Key, 6), (Policy::Owner, 8)], NOW).unwrap();
    }

    #[test]
    fn a_refusal_names_the_time_at_which_all_buckets_accept() {
        // The key has one more after 5 seconds, the owner after 20.
        let policies = [(Policy::Key, 12), (Policy::Owner, 3)];
        let rates = rates();
        for _ in 0..3 {
            rates.take("a", OwnerSeq(1), policies, NOW).unwrap();
        }
        let refused = rates.take("a", OwnerSeq(1), policies, NOW).unwrap_err();
        assert_eq!(refusal(&refused), (Policy::Owner.says(), 20));
        let both = refused.iter().map(|one| Standing { remaining: 0, ..*one }).rev().collect::<Vec<_>>();
        assert_eq!(refusal(&both), (Policy::Owner.says(), 20));
        assert_eq!(refusal(&both.into_iter().rev().collect::<Vec<_>>()), (Policy::Owner.says(), 20));
    }

    #[test]
    fn a_bucket_refills_steadily_and_never_above_its_size() {
        let rates = rates();
        for _ in 0..6 {
            take(&rates, "a", NOW).unwrap();
        }
        take(&rates, "a", Duration::from_secs(9)).unwrap_err();
        take(&rates, "a", Duration::from_secs(10)).unwrap();
        take(&rates, "a", Duration::from_secs(10)).unwrap_err();
        let later = Duration::from_secs(100_000);
        assert_eq!(take(&rates, "a", later).unwrap()[0].remaining, 5);
        // Time that goes back refills nothing and breaks nothing.
        assert_eq!(take(&rates, "a", NOW).unwrap()[0].remaining, 4);
    }

    #[test]
    fn full_buckets_are_not_kept() {
        let rates = rates();
        for number in 0..MANY {
            rates
                .take(&number.to_string(), OwnerSeq(1), [(Policy::Key, 60), (Policy::Owner, 0)], NOW)
                .unwrap();
        }
        let later = Duration::from_secs(5);
        rates.take("x", OwnerSeq(1), [(Policy::Key, 60), (Policy::Owner, 0)], later).unwrap();
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn zero_is_no_limit() {
        let rates = rates();
        for _ in 0..100_000 {
            let none = rates.take("a", OwnerSeq(1), [(Policy::Key, 0), (Policy::Owner, 0)], NOW).unwrap();
            assert!(none.is_empty());
        }
    }
}
