//! What an operator looks at first: services, dispatcher runs, workers, owners, alerts, background tasks.

use std::collections::HashMap;

use penstock_domain::batch::BatchStatus;
use penstock_domain::time::Timestamp;
use penstock_store::batches::BatchFilter;
use penstock_store::dispatch::RunRecord;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::periodic::TaskStatus;
use crate::context::services::Services;
use crate::operate::health::{self, HealthLine, RUN_LATE};
use crate::operate::readiness::readiness;

/// Dispatcher runs that are shown.
const RUNS: u32 = 20;

/// Running batches of which what is in flight is summed up.
const RUNNING: u32 = 1000;

/// Clocks that differ by more than this, in milliseconds, are worth a look.
const SKEW_MS: u64 = 2000;

/// A service that this process needs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceHealth {
    /// `database`, `schema`, `clock`, `object store` or `queue`.
    pub name: &'static str,
    /// Whether it answers.
    pub healthy: bool,
    /// What was found, in words.
    pub found: String,
}

/// A process that holds rows.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// When it registered.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Its last heartbeat.
    #[schema(value_type = String, format = DateTime)]
    pub beat_at: Timestamp,
    /// Whether it has been silent for longer than it may.
    pub silent: bool,
    /// Rows that it holds.
    pub in_flight: u32,
    /// Rows that wait in its lanes.
    pub waiting: u32,
}

/// An owner, and what of it runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnerView {
    /// Its name.
    pub name: String,
    /// Rows in flight at most.
    pub rows: u32,
    /// Its share when a run's cap is short.
    pub weight: u32,
    /// Its batches that run, of the newest 1000 that do.
    pub running: u32,
    /// Its rows that are queued or processing.
    pub in_flight: u32,
    /// Its rows that wait for the dispatcher.
    pub pending: u64,
    /// What it gets when a run's cap is short, of 1: its weight among those that run; 0 when nothing of it runs.
    pub share: f64,
}

/// Something that an alert rule found and that lasts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FiringView {
    /// The rule's name.
    pub rule: String,
    /// What it is about.
    pub subject: String,
}

/// How an installation does.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OperationsView {
    /// The services that this process needs.
    pub services: Vec<ServiceHealth>,
    /// What `penstock doctor` finds of what the installation shares: services, keys, workers, runs, batches.
    pub findings: Vec<HealthLine>,
    /// Messages that wait in the queue; none when it does not say.
    pub queued_messages: Option<u64>,
    /// Whether the dispatcher is late: no run began for three minutes.
    pub dispatcher_is_late: bool,
    /// Dispatcher runs, newest first.
    #[schema(value_type = Vec<Object>)]
    pub runs: Vec<RunRecord>,
    /// Workers, and operators' commands that hold rows.
    pub workers: Vec<WorkerView>,
    /// Owners by name.
    pub owners: Vec<OwnerView>,
    /// What alert rules find now.
    pub alerts: Vec<FiringView>,
    /// Background tasks of this process.
    #[schema(value_type = Vec<Object>)]
    pub background: Vec<TaskStatus>,
}

/// How the installation does; owners without a quota of their own have `rows_per_owner`.
///
/// # Errors
/// When the database fails.
pub async fn operations(services: &Services, rows_per_owner: u32) -> Result<OperationsView, FlowError> {
    let store = &services.store;
    let workers = store.workers().await?.into_iter().map(|worker| WorkerView {
        silent: worker.is_silent(),
        name: worker.name,
        version: worker.version,
        started_at: worker.started_at,
        beat_at: worker.beat_at,
        in_flight: worker.load.in_flight,
        waiting: worker.load.waiting,
    });
    let alerts = store.firing().await?.into_iter().map(|(rule, subject)| FiringView { rule, subject });
    let runs = store.runs(RUNS).await?;
    let now = services.clock.now();
    Ok(OperationsView {
        dispatcher_is_late: runs.first().is_none_or(|run| now.since(run.started_at) > RUN_LATE),
        services: service_health(services).await,
        findings: health::seen(services).await.0,
        queued_messages: services.queue.backlog().await.ok().map(|lanes| lanes.values().sum()),
        runs,
        workers: workers.collect(),
        owners: owners(services, rows_per_owner).await?,
        alerts: alerts.collect(),
        background: services.periodic.statuses(),
    })
}

/// Whether the services answer: the database and the queue take writes, the object store reads.
async fn service_health(services: &Services) -> Vec<ServiceHealth> {
    let ready = readiness(services).await;
    let mut all: Vec<ServiceHealth> =
        [("database", ready.database), ("queue", ready.queue), ("object store", ready.objects)]
            .into_iter()
            .map(|(name, found)| ServiceHealth { name, healthy: found == "ok", found })
            .collect();
    // A database that does not answer is said above.
    if let Ok(engine) = services.store.engine().await {
        let current = engine.schema == engine.needed_schema;
        let found = format!(
            "version {} of {}; {} {}, {} MiB",
            engine.schema,
            engine.needed_schema,
            engine.engine,
            engine.version,
            engine.bytes / 1024 / 1024
        );
        all.push(ServiceHealth { name: "schema", healthy: current && engine.supported, found });
        let apart = services.clock.now().millis().abs_diff(engine.now.millis());
        let found = format!("{apart} ms apart from the database's");
        all.push(ServiceHealth { name: "clock", healthy: apart <= SKEW_MS, found });
    }
    all
}

async fn owners(services: &Services, rows_per_owner: u32) -> Result<Vec<OwnerView>, FlowError> {
    let filter = BatchFilter { status: vec![BatchStatus::Queued], limit: RUNNING, ..BatchFilter::default() };
    let mut running: HashMap<String, (u32, u32, u64)> = HashMap::new();
    for batch in services.store.list_batches(&filter).await?.batches {
        let counts = batch.ledger.counts;
        let (batches, in_flight, pending) = running.entry(batch.owner_name).or_default();
        *batches += 1;
        *in_flight += counts.queued + counts.processing;
        *pending += u64::from(counts.pending);
    }
    let owners = services.store.owners().await?;
    let weights: u32 =
        owners.iter().filter(|owner| running.contains_key(&owner.name)).map(|owner| owner.weight).sum();
    let owners = owners.into_iter().map(|owner| {
        let runs = running.contains_key(&owner.name);
        let share = if runs { f64::from(owner.weight) / f64::from(weights.max(1)) } else { 0.0 };
        let (batches, in_flight, pending) = running.remove(&owner.name).unwrap_or_default();
        let rows = owner.rows.unwrap_or(rows_per_owner);
        let (name, weight) = (owner.name, owner.weight);
        OwnerView { name, rows, weight, running: batches, in_flight, pending, share }
    });
    Ok(owners.collect())
}
