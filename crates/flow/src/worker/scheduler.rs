//! The worker: takes messages in, claims what is ready as slots allow, and drains when it is told to stop.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use penstock_domain::ids::{OwnerSeq, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::pipeline::{Dependency, Pipeline, Rate};
use penstock_downstream::Caller;
use penstock_store::work::{ClaimedRow, RowFailure, Settled, Settlement};
use penstock_store::workers::WorkerKind;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::budget::Reserved;
use crate::context::services::Services;
use crate::context::tasks::spawn_part;
use crate::extract::policy::ExtractPolicy;
use crate::telemetry::traces::RowTrace;
use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::admission::{Limited, Load, Slots};
use crate::worker::batches::{BatchCache, BatchWork};
use crate::worker::heartbeat::Heartbeat;
use crate::worker::intent_log::IntentLog;
use crate::worker::lanes::{Lanes, Waiting};
use crate::worker::leases::{Leases, RowLease};
use crate::worker::memory::Weights;
use crate::worker::observe::Observer;
use crate::worker::owner_limits::Owners;
use crate::worker::row::{RowTask, quiet};
use crate::worker::settle;
use crate::worker::settle::{About, Ended};
use crate::worker::suspects::{Running, Suspects, Turn};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerPolicy {
    /// Who it is, for people to read: unique among running workers.
    pub name: String,
    /// Rows in flight that do not wait for a limit.
    pub concurrency: usize,
    /// How long its heartbeat has to be missing, while others look, until its rows are somebody else's.
    pub silence: Duration,
    /// How long after its start time a queued row counts as lost.
    pub lost_after: Duration,
    /// How long it takes until every process goes by the database's clock, when that was set.
    pub clock_settles: Duration,
    /// How long what runs may go on after the worker was told to stop.
    pub grace: Duration,
    /// How extraction is carried out.
    pub extract: ExtractPolicy,
    /// Memory for long rows in flight, in bytes.
    pub memory: usize,
}

/// Rows of a claim at most.
const CLAIM_ROWS: usize = 200;

/// While a dependency's next free moment is further away than this, its pipeline claims nothing.
const ADMIT_WITHIN: Duration = Duration::from_millis(500);

/// How many times the rows that a rate lets through while one is on its way are taken up while the rate is not used up.
const FREE_AHEAD: f64 = 4.0;

/// So many rows go ahead to a limit that is not known yet: of more, all but one would come back. Once one has been there
/// and back, rows that go on at a later step do not come to it at all.
const UNKNOWN_ROWS: f64 = 1.0;

/// How often a lane that is held up is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a worker that cannot reach the database waits before it tries again.
pub(super) const DATABASE_PAUSE: Duration = Duration::from_millis(250);

/// A worker. [`Worker::run`] is its life, its [`queue_handler`](Worker::queue_handler) take the queue's messages.
pub struct Worker {
    pub(super) services: Services,
    pub(super) caller: Arc<Caller>,
    pub(super) policy: WorkerPolicy,
    observer: Arc<dyn Observer>,
    pub(super) cache: BatchCache,
    pub(super) lanes: Mutex<Lanes>,
    pub(super) suspects: Mutex<Suspects>,
    slots: Arc<Slots>,
    pub(super) owners: Arc<Owners>,
    /// There may be something to claim that was not before.
    pub(super) changed: Arc<Notify>,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) leases: Arc<Leases>,
    /// When it was noticed that the database's clock was set back.
    pub(super) set_back_at: Mutex<Option<Instant>>,
    pub(super) weights: Weights,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// When rows of each pipeline were heard of last.
    pub(super) heard_at: Mutex<HashMap<String, Instant>>,
    /// One extraction at a time: it is bound by the database, not by waiting. Further files wait in the queue, where
    /// another worker finds them.
    pub(super) extraction: Arc<Semaphore>,
    pub(super) extractions: TaskTracker,
    pub(super) extract_no_more: CancellationToken,
    pub(super) draining: AtomicBool,
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
            changed,
            leases: Arc::new(Leases::new(heartbeat.clone())),
            set_back_at: Mutex::default(),
            heartbeat,
            metrics,
            heard_at: Mutex::default(),
            extraction: Arc::new(Semaphore::new(1)),
            extractions: TaskTracker::new(),
            extract_no_more: CancellationToken::new(),
            draining: AtomicBool::new(false),
        })
    }

    /// What the worker counts.
    pub fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.metrics
    }

    /// Works until `stop`, then drains: what was heard of goes back, what runs ends at its next step's border or
    /// within the grace period.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.register(&stop).await {
            return;
        }
        let (settlements, settlements_in) = mpsc::channel(settle::GROUP_ROWS * 2);
        let settling =
            settle::run(self.services.clone(), self.leases.clone(), self.metrics.clone(), settlements_in);
        let settler = spawn_part("settlements", settling, &stop);
        let beside = self.live(&stop);
        // However this ends: rows end at their next step's border, and extractions behind their chunk.
        let drained = Drains(&self);
        let rows = TaskTracker::new();
        let ways_out = WaysOut { settlements, intent_log: IntentLog::open(self.services.clone(), &stop) };
        self.clone().claim_all(&stop, &rows, &ways_out).await;
        drop(drained);
        self.requeue_waiting().await;
        rows.close();
        if tokio::time::timeout(self.policy.grace, rows.wait()).await.is_err() {
            tracing::warn!(
                rows = self.leases.len(),
                "rows still run after the grace period; their leases run out"
            );
        }
        drop(ways_out);
        // The settler ends with its last sender; rows that never ended hold one, so it is not waited for without end.
        if tokio::time::timeout(self.policy.grace, settler).await.is_err() {
            tracing::warn!("settlement did not end within the grace period");
        }
        // An extraction stops behind the chunk that it is at.
        self.extractions.wait().await;
        drop(beside);
        if self.leases.is_empty()
            && let Err(error) = self.heartbeat.leave(&self.services).await
        {
            tracing::warn!(%error, "failed to delete the record of this worker; the others find that it is gone");
        }
    }

    async fn claim_all(self: Arc<Self>, stop: &CancellationToken, rows: &TaskTracker, ways_out: &WaysOut) {
        while !stop.is_cancelled() {
            let now = Instant::now();
            match self.suspects_turn(now) {
                Turn::Others => {}
                Turn::Nobody => {
                    self.wait(stop, LOOK_AGAIN).await;
                    continue;
                }
                Turn::Suspects(suspects) => {
                    for (row, running) in self.claim_suspects(suspects).await {
                        self.clone().start(row, Some(running), rows, ways_out.clone());
                    }
                    continue;
                }
            }
            let Some((pipeline, wanted)) = self.pick(now) else {
                self.wait_for_work(stop, now).await;
                continue;
            };
            for row in self.claim_waiting(&pipeline, wanted).await {
                self.clone().start(row, None, rows, ways_out.clone());
            }
        }
    }

    /// The next rows to claim: of the lane with the fewest rows in flight that has rows ready, a free dependency
    /// and slots left.
    fn pick(&self, now: Instant) -> Option<(String, Vec<Waiting>)> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ready: Vec<(Load, String)> =
            lanes.ready(now).into_iter().map(|name| (self.slots.load(&name), name)).collect();
        ready.sort_by(|(load, name), (other, its_name)| (load.rows, name).cmp(&(other.rows, its_name)));
        for (load, name) in ready {
            let mut allowed = self.slots.room(&load);
            for useful in [self.useful(&name), self.useful_at_its_rates(&name, &load)].into_iter().flatten() {
                allowed = allowed.min(useful.saturating_sub(load.rows));
            }
            if allowed == 0 || self.held_up(&name) {
                continue;
            }
            if self.is_probing(&name) {
                allowed = 1;
                lanes.scatter(&name, self.services.id_generator.unit());
            }
            let mut taken = HashMap::new();
            let rows = lanes.take(&name, allowed.min(CLAIM_ROWS), now, |owner| {
                self.held_until(&name, &load, owner, taken.entry(owner).or_default(), now)
            });
            if !rows.is_empty() {
                self.metrics.waiting.store(lanes.len(), Ordering::Relaxed);
                self.metrics.of(&name, |of| {
                    rows.iter().for_each(|row| of.queued.took(now.saturating_duration_since(row.due)));
                });
                return Some((name, rows));
            }
        }
        None
    }

    /// Whether one of the pipeline's dependencies is exhausted for longer than a row should wait under a lease. Where it has
    /// refused everything for so long that rows end by it, it holds none of them up.
    pub(super) fn held_up(&self, pipeline: &str) -> bool {
        let Some(pipeline) = self.services.pipelines.get(pipeline) else { return false };
        pipeline.steps.iter().map(|step| &pipeline.dependencies[step.dependency]).any(|dependency| {
            let is_over = self.caller.refused_for(dependency, None) >= pipeline.retry.throttled_for;
            (self.caller.predicted_wait(dependency) > ADMIT_WITHIN && !is_over)
                || self.caller.is_crowded(dependency)
        })
    }

    /// Whether the next calls of one of the pipeline's dependencies are probes of its breaker.
    fn is_probing(&self, pipeline: &str) -> bool {
        let pipeline = self.services.pipelines.get(pipeline);
        pipeline.is_some_and(|pipeline| pipeline.dependencies.iter().any(|one| self.caller.is_probing(one)))
    }

    /// How many of a pipeline's rows can be of use in flight: as many as its dependencies take calls at once, and a few
    /// that are about to ask. None: any number.
    fn useful(&self, pipeline: &str) -> Option<usize> {
        let pipeline = self.services.pipelines.get(pipeline)?;
        let mut useful = 0;
        for dependency in &pipeline.dependencies {
            let limit = dependency.concurrency.as_ref().filter(|limit| !limit.per_owner)?.limit as usize;
            useful += limit + limit / 4 + 1;
        }
        (useful > 0).then_some(useful)
    }

    /// How many of a pipeline's rows can be of use in flight at its dependencies' rates (Little's law): as many as a rate
    /// lets through while a row is on its way, and as may wait for their moment. More would come back unserved, and a
    /// row that comes back waits for the dispatcher's next run. None: any number.
    fn useful_at_its_rates(&self, pipeline: &str, load: &Load) -> Option<usize> {
        let pipeline = self.services.pipelines.get(pipeline)?;
        let mut useful = first_paced(&pipeline)
            .filter(|dependency| !load.any_left && !self.caller.has_met(dependency, None))
            .map(|_| UNKNOWN_ROWS);
        for (index, dependency) in pipeline.dependencies.iter().enumerate() {
            let Some(rate) = dependency.rate.as_ref().filter(|rate| !rate.per_owner) else { continue };
            let waits = self.caller.predicted_wait(dependency);
            let rows = useful_at(rate, cost_of(&pipeline, index), load, waits);
            useful = Some(useful.map_or(rows, |least| least.min(rows)));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of rows")]
        useful.map(|rows| rows.ceil().max(1.0) as usize)
    }

    /// Until when an owner's own limits hold its rows up, of which `taken` are about to be claimed; none: they do not, and one
    /// more is taken.
    fn held_until(
        &self,
        pipeline: &str,
        load: &Load,
        owner: OwnerSeq,
        taken: &mut usize,
        now: Instant,
    ) -> Option<Instant> {
        let of = self.services.pipelines.get(pipeline).filter(|pipeline| Owners::matter(pipeline))?;
        let own = self.owners.get(pipeline, owner)?;
        let met = first_paced(&of).is_none_or(|dependency| self.caller.has_met(dependency, Some(&own.name)));
        if !met && !own.any_left && own.rows + *taken > 0 {
            return Some(now + LOOK_AGAIN);
        }
        for (index, dependency) in of.dependencies.iter().enumerate() {
            let waits = self.caller.predicted_wait_of(dependency, &own.name);
            let is_over = self.caller.refused_for(dependency, Some(&own.name)) >= of.retry.throttled_for;
            if waits > ADMIT_WITHIN && !is_over {
                return Some(now + waits.saturating_sub(ADMIT_WITHIN).max(LOOK_AGAIN));
            }
            let Some(rate) = dependency.rate.as_ref().filter(|rate| rate.per_owner) else { continue };
            let useful = useful_at(rate, cost_of(&of, index), load, waits);
            #[allow(clippy::cast_precision_loss, reason = "a number of rows")]
            if (own.rows + *taken) as f64 >= useful.max(1.0) {
                return Some(now + LOOK_AGAIN);
            }
        }
        if slots_of(&of.dependencies).is_some_and(|useful| own.rows + *taken >= useful) {
            return Some(now + LOOK_AGAIN);
        }
        *taken += 1;
        None
    }

    async fn wait_for_work(&self, stop: &CancellationToken, now: Instant) {
        let next = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            if lanes.ready(now).is_empty() {
                lanes.next_due().map_or(Duration::from_secs(1), |due| due.saturating_duration_since(now))
            } else {
                LOOK_AGAIN
            }
        };
        self.wait(stop, next.max(Duration::from_millis(1))).await;
    }

    async fn wait(&self, stop: &CancellationToken, most: Duration) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.changed.notified() => {}
            () = tokio::time::sleep(most) => {}
        }
    }

    fn start(
        self: Arc<Self>,
        claimed: Claimed,
        alone: Option<Running>,
        rows: &TaskTracker,
        ways_out: WaysOut,
    ) {
        let Claimed { work, lease, row: claimed, memory } = claimed;
        let lane = work.pipeline.name.as_str();
        let mut slot = self.slots.take(lane);
        let own =
            Owners::matter(&work.pipeline).then(|| self.owners.take(lane, work.owner.seq, &work.owner_name));
        if let Some(pending) = work.first_start_of(&claimed, self.services.clock.now()) {
            self.metrics.of(lane, |of| of.pending.took(pending));
        }
        let work = work.clone();
        rows.spawn(async move {
            let (_own, _memory) = (own, memory);
            let row = claimed.row;
            let attempts = claimed.attempts;
            let trace = RowTrace::new(self.services.traces.as_ref(), work.id, row.number);
            let draining = || self.draining.load(Ordering::Relaxed);
            let waits = slot.waits.clone();
            let limited = || -> Box<dyn Send> { Box::new(Limited::new(waits.clone())) };
            let task = RowTask {
                services: &self.services,
                caller: &self.caller,
                work: &work,
                lease: &lease,
                trace: &trace,
                intent_log: &ways_out.intent_log,
                observer: self.observer.as_ref(),
                draining: &draining,
                limited: &limited,
            };
            let ended = AssertUnwindSafe(task.run(claimed)).catch_unwind().await.unwrap_or_else(|_| {
                // It would fail like this at any other worker, and never end.
                tracing::error!(parent: &trace.span, "the program failed at the row: a defect, please report it");
                Some(Settled::Failed(RowFailure { code: code::INTERNAL_ERROR.to_owned(), ..quiet() }))
            });
            match ended {
                Some(outcome) => {
                    slot.ended(&outcome);
                    if let Some(alone) = &alone
                        && !matches!(outcome, Settled::Requeued { attempt: false, .. })
                    {
                        alone.carried_out();
                    }
                    let settlement = Settlement { row, token: lease.token, outcome };
                    let about = About { work: work.clone(), attempts, span: trace.span, alone };
                    // The settler outlives every row.
                    let _ = ways_out.settlements.send((settlement, about)).await;
                }
                None => {
                    tracing::warn!(parent: &trace.span, "the row's lease was lost; nothing is written");
                    self.leases.remove([(row, lease.token)]);
                }
            }
            drop(slot);
        });
    }

    async fn requeue_waiting(&self) {
        // Their messages stay in the queue until this is done.
        let heard = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).drain();
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner).drain();
        let rows: Vec<RowRef> =
            heard.iter().map(|one| one.row).chain(suspects.iter().map(|one| one.row)).collect();
        for group in rows.chunks(settle::GROUP_ROWS) {
            if let Err(error) = self.services.store.unqueue(group, self.services.clock.now()).await {
                tracing::warn!(%error, rows = group.len(), "rows were not given back; the sweep brings them back");
                return;
            }
        }
    }
}

/// Makes a worker drain when it is dropped, also by a panic: nothing that the worker spawned goes on without it.
struct Drains<'a>(&'a Worker);

impl Drop for Drains<'_> {
    fn drop(&mut self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.extract_no_more.cancel();
        self.0.extractions.close();
    }
}

/// The dependency that a pipeline's rows come to first, where it has a rate.
fn first_paced(pipeline: &Pipeline) -> Option<&Dependency> {
    let first = &pipeline.dependencies[pipeline.steps.first()?.dependency];
    first.rate.is_some().then_some(first)
}

/// What a row's calls to a dependency cost in all.
fn cost_of(pipeline: &Pipeline, dependency: usize) -> f64 {
    let own = pipeline.steps.iter().filter(|step| step.dependency == dependency);
    f64::from(own.map(|step| step.cost).sum::<u32>().max(1))
}

/// How many rows can be of use in flight at a rate for which a call waits so long.
fn useful_at(rate: &Rate, cost: f64, load: &Load, waits: Duration) -> f64 {
    // While it is not used up, rows may be many that end before they come to it.
    let ahead = if waits.is_zero() { FREE_AHEAD } else { 1.0 };
    let seconds = ahead * load.service().as_secs_f64() + ADMIT_WITHIN.saturating_sub(waits).as_secs_f64();
    let a_second = f64::from(rate.limit) / rate.period.as_secs_f64();
    (a_second * seconds + f64::from(rate.burst)) / cost
}

/// How many of an owner's rows can be of use in flight where an owner's calls at once are limited; none: any number.
fn slots_of(dependencies: &[Dependency]) -> Option<usize> {
    let limits: Option<Vec<_>> = dependencies.iter().map(|dependency| dependency.concurrency).collect();
    let limits = limits.filter(|limits| limits.iter().any(|limit| limit.per_owner))?;
    Some(limits.iter().map(|limit| (limit.limit + limit.limit / 4 + 1) as usize).sum())
}

/// Where a row's task writes to, through groups.
#[derive(Clone)]
struct WaysOut {
    settlements: mpsc::Sender<Ended>,
    intent_log: IntentLog,
}

/// A row that is this worker's.
pub(super) struct Claimed {
    pub(super) work: Arc<BatchWork>,
    pub(super) lease: Arc<RowLease>,
    pub(super) row: ClaimedRow,
    /// What a long row takes.
    pub(super) memory: Option<Reserved>,
}
