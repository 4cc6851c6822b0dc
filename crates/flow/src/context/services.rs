//! What the use cases work with. Chosen once, in `app`; everything here only knows the ports.

use std::sync::Arc;

use object_store::ObjectStore;
use penstock_crypto::CurrentKeyring;
use penstock_domain::time::Clock;
use penstock_queue::Queue;
use penstock_store::Store;
use ring::rand::SecureRandom;
use tokio::sync::Semaphore;

use crate::context::definitions::Definitions;
use crate::context::id_generator::IdGenerator;
use crate::context::last_answer::LastAnswers;
use crate::context::limits_view::LimitsView;
use crate::context::periodic::PeriodicTasks;
use crate::context::secrets::Secrets;
use crate::context::unfinished_uploads::UnfinishedUploads;
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
    /// Lists uploads that a kill cut off, where the object store keeps their parts.
    pub unfinished_uploads: Option<Arc<dyn UnfinishedUploads>>,
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
    /// Ids and random numbers.
    pub id_generator: Arc<dyn IdGenerator>,
    /// Whether the services could be used, and what was found wrong, when somebody looked last.
    pub last_answers: Arc<LastAnswers>,
    /// What runs in the background, again and again.
    pub periodic: Arc<PeriodicTasks>,
    /// Traces.
    pub traces: Arc<dyn Traces>,
    /// Randomness for keys and nonces.
    pub random: Arc<dyn SecureRandom + Send + Sync>,
}
