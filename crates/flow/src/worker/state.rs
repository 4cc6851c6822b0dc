//! What a worker holds. Its parts work on it: the lifecycle, the claim loop with admission and claims, the queue handler,
//! extractions and the heartbeat.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock_downstream::Caller;
use penstock_store::work::ClaimedRow;
use penstock_store::workers::{CallWait, WorkerKind};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::budget::Reserved;
use crate::context::services::Services;
use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::batches::{BatchCache, BatchWork};
use crate::worker::bulk::Gatherer;
use crate::worker::bulk::ends::CallEnds;
use crate::worker::heartbeat::Heartbeat;
use crate::worker::lanes::Lanes;
use crate::worker::leases::{Leases, RowLease};
use crate::worker::memory::Weights;
use crate::worker::observe::Observer;
use crate::worker::owner_limits::Owners;
use crate::worker::policy::WorkerPolicy;
use crate::worker::replacements::Replacements;
use crate::worker::slots::Slots;
use crate::worker::suspects::Suspects;

/// How often a lane that is held up is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a worker that cannot reach the database waits before it tries again.
pub(super) const DATABASE_PAUSE: Duration = Duration::from_millis(250);

/// A worker: [`Worker::run`] works until it is stopped, and its [`queue_handler`](Worker::queue_handler) receives the queue's
/// messages.
pub struct Worker {
    pub(super) services: Services,
    pub(super) caller: Arc<Caller>,
    pub(super) policy: WorkerPolicy,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) cache: BatchCache,
    pub(super) lanes: Mutex<Lanes>,
    pub(super) suspects: Mutex<Suspects>,
    pub(super) replacements: Arc<Replacements>,
    pub(super) slots: Arc<Slots>,
    pub(super) owners: Arc<Owners>,
    /// Where rows meet that go in one call.
    pub(super) gatherer: Arc<Gatherer>,
    /// What writes the ends of such calls, until the worker runs.
    pub(super) call_ends: Mutex<Option<mpsc::UnboundedReceiver<CallEnds>>>,
    /// Whether rows are between their lane and their tasks.
    pub(super) claiming: AtomicBool,
    /// There may be something to claim that was not there before.
    pub(super) changed: Arc<Notify>,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) leases: Arc<Leases>,
    /// When it was noticed that the database's clock was set back.
    pub(super) set_back_at: Mutex<Option<Instant>>,
    /// What was last reported that calls wait for.
    pub(super) reported_waits: tokio::sync::Mutex<Vec<CallWait>>,
    pub(super) weights: Weights,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// When rows of each pipeline were received last.
    pub(super) received_at: Mutex<HashMap<String, Instant>>,
    /// One extraction at a time: it is bound by the database, not by waiting. Further files wait in the queue, where
    /// another worker finds them.
    pub(super) extraction: Arc<Semaphore>,
    pub(super) extractions: TaskTracker,
    pub(super) stop_extracting: CancellationToken,
    pub(super) draining: AtomicBool,
}

/// A row that this worker claimed.
pub(super) struct Claimed {
    pub(super) work: Arc<BatchWork>,
    pub(super) lease: Arc<RowLease>,
    pub(super) row: ClaimedRow,
    /// What a long row takes.
    pub(super) memory: Option<Reserved>,
}

impl Worker {
    /// A worker that is not running yet.
    pub fn new(
        services: Services,
        caller: Arc<Caller>,
        policy: WorkerPolicy,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        let (metrics, changed) = <(Arc<WorkerMetrics>, Arc<Notify>)>::default();
        let (call_writer, call_ends) = mpsc::unbounded_channel();
        let pipelines = services.pipelines.iter().count();
        let heartbeat = Heartbeat::new(policy.name.clone(), WorkerKind::Worker, policy.silence);
        Arc::new(Self {
            slots: Slots::new(policy.concurrency, pipelines, metrics.clone(), changed.clone()),
            cache: BatchCache::new(policy.name.clone()),
            services,
            caller,
            weights: Weights::new(policy.memory),
            policy,
            observer,
            lanes: Mutex::default(),
            suspects: Mutex::default(),
            owners: Arc::default(),
            replacements: Arc::default(),
            gatherer: Arc::new(Gatherer::new(call_writer)),
            call_ends: Mutex::new(Some(call_ends)),
            claiming: AtomicBool::new(false),
            changed,
            leases: Arc::new(Leases::new(heartbeat.clone())),
            set_back_at: Mutex::default(),
            reported_waits: tokio::sync::Mutex::default(),
            heartbeat,
            metrics,
            received_at: Mutex::default(),
            extraction: Arc::new(Semaphore::new(1)),
            extractions: TaskTracker::new(),
            stop_extracting: CancellationToken::new(),
            draining: AtomicBool::new(false),
        })
    }

    /// What the worker counts.
    pub fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.metrics
    }
}
