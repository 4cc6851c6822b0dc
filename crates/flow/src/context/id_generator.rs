//! Ids and random choices.

use penstock_domain::ids::{BatchId, CallId, LeaseToken};
use penstock_domain::time::Timestamp;
use rand::RngExt as _;
use uuid::Uuid;

/// Where ids and random numbers come from: the system in a service, a seed in a test.
pub trait IdGenerator: Send + Sync {
    /// A number in [0, 1).
    fn unit(&self) -> f64;
    /// A version 7 UUID for that instant (RFC 9562).
    fn uuid(&self, now: Timestamp) -> Uuid;

    /// A new batch's id.
    fn batch_id(&self, now: Timestamp) -> BatchId {
        BatchId(self.uuid(now))
    }

    /// A new lease's secret.
    fn lease_token(&self) -> LeaseToken;

    /// A new bulk call's name, which is its idempotency key, too.
    fn call_id(&self) -> CallId {
        CallId(self.lease_token().0)
    }
}

/// The system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemIdGenerator;

impl IdGenerator for SystemIdGenerator {
    fn unit(&self) -> f64 {
        rand::rng().random()
    }

    fn uuid(&self, now: Timestamp) -> Uuid {
        let millis = u64::try_from(now.millis()).unwrap_or(0);
        let random: [u8; 10] = rand::rng().random();
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    fn lease_token(&self) -> LeaseToken {
        LeaseToken(uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid())
    }
}
