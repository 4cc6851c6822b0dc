//! What the use cases work with. Chosen once, in `app`; everything here only knows the ports.

use std::sync::Arc;

use object_store::ObjectStore;
use penstock_crypto::CurrentKeyring;
use penstock_domain::ids::{BatchId, LeaseToken};
use penstock_domain::time::{Clock, Timestamp};
use penstock_queue::Queue;
use penstock_store::Store;
use rand::RngExt as _;
use ring::rand::SecureRandom;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::context::definitions::Definitions;
use crate::context::last_readiness::LastReadiness;
use crate::context::limits_view::LimitsView;
use crate::context::secrets::Secrets;
use crate::telemetry::traces::Traces;

/// The services and what belongs to them. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// SQL.
    pub store: Arc<dyn Store>,
    /// Files.
    pub objects: Arc<dyn ObjectStore>,
    /// Bytes of a part of an object that is written in parts (see [`crate::context::object_writer`]).
    pub part_bytes: usize,
    /// Parts of objects that may be under way at a time, of all writers.
    pub parts_under_way: Arc<Semaphore>,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Keys that wrap data keys.
    pub keyring: Arc<CurrentKeyring>,
    /// The definitions that are loaded now, and older ones.
    pub pipelines: Arc<Definitions>,
    /// Batches' opened secrets, for a while.
    pub secrets: Arc<Secrets>,
    /// Limits as they stand, for estimates.
    pub limits: Arc<LimitsView>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids and rng.
    pub id_generator: Arc<dyn IdGenerator>,
    /// Whether the database and the queue took writes when they were asked last.
    pub readiness: Arc<LastReadiness>,
    /// Traces.
    pub traces: Arc<dyn Traces>,
    /// Randomness for keys and nonces.
    pub random: Arc<dyn SecureRandom + Send + Sync>,
}

/// Where ids and rng come from: the system in a service, a seed in a test.
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
