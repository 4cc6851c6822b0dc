//! The worker: takes messages in, claims what is ready as slots allow, and drains when it is told to stop.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use penstock_domain::ids::{BatchSeq, LeaseToken, OwnerSeq, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::pipeline::{Dependency, Pipeline, Rate};
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_queue::{Handler, Lane, Message, Packet};
use penstock_store::StoreError;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::work::{Claim, ClaimedRow, Settled, Settlement, Trouble};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::engines::Engines;
use crate::error::FlowError;
use crate::extract::{self, ExtractPolicy, Extracted};
use crate::process::asked::Book;
use crate::process::batches::{BatchCache, BatchWork};
use crate::process::figures::WorkerFigures;
use crate::process::lanes::Lanes;
use crate::process::leases::{Leases, RowLease};
use crate::process::observe::Observer;
use crate::process::owners::Owners;
use crate::process::row::{RowTask, quiet};
use crate::process::slots::{Limited, Load, Slots};
use crate::settle::{self, About, Ended};
use crate::supervise::spawn_part;
use crate::traces::{self, RowTrace};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerPolicy {
    /// Who it is, for people to read: unique among running workers.
    pub name: String,
    /// Rows in flight that do not wait for a limit.
    pub concurrency: usize,
    /// How long a claim lasts unless renewed. Must outlast the worst call.
    pub lease: Duration,
    /// How long what runs may go on after the worker was told to stop.
    pub grace: Duration,
    /// How extraction is carried out.
    pub extract: ExtractPolicy,
}

/// Rows of a claim at the most.
const CLAIM_ROWS: usize = 200;

/// Rows of a pipeline that a worker hears of at once, in multiples of its concurrency.
const HEARD_PER_SLOT: usize = 4;

/// Rows of a pipeline that it hears of at the most. Owners take turns among the rows that are known: where a dependency is
/// slower than what is released, the lane of the queue would be first come, first served.
const HEARD: usize = 8192;

/// Beyond what its slots need, a worker hears a further packet only so often: workers that have nothing to do are faster.
const HEAR_AGAIN: Duration = Duration::from_millis(250);

/// While a dependency's next free moment is further away than this, its pipeline claims nothing.
const ADMIT_WITHIN: Duration = Duration::from_millis(500);

/// How many times the rows that a rate lets through while one is on its way are taken up while the rate is not used up.
const FREE_AHEAD: f64 = 4.0;

/// So many rows go ahead to a limit that is not known yet: of more, all but one would come back. Once one has been there
/// and back, rows that go on at a later step do not come to it at all.
const UNKNOWN_ROWS: f64 = 1.0;

/// How often a lane that is held up is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Receipts of rows that have been in flight for this long are saved, so that a crash calls few steps again while
/// rows that pass quickly cost no further write.
const RECEIPTS_EVERY: Duration = Duration::from_millis(200);

/// How long a worker that cannot reach the database waits before it claims again.
const DATABASE_PAUSE: Duration = Duration::from_millis(250);

/// A worker. [`Worker::run`] is its life, its [`ears`](Worker::ears) take the queue's messages.
pub struct Worker {
    engines: Engines,
    caller: Arc<Caller>,
    policy: WorkerPolicy,
    observer: Arc<dyn Observer>,
    cache: BatchCache,
    lanes: Mutex<Lanes>,
    slots: Arc<Slots>,
    owners: Arc<Owners>,
    /// There may be something to claim that was not before.
    changed: Arc<Notify>,
    leases: Arc<Leases>,
    figures: Arc<WorkerFigures>,
    /// When rows of each pipeline were heard of last.
    heard_at: Mutex<HashMap<String, Instant>>,
    /// One extraction at a time: it is bound by the database, not by waiting. Further files wait in the queue, where
    /// another worker finds them.
    extraction: Arc<Semaphore>,
    extractions: TaskTracker,
    extract_no_more: CancellationToken,
    draining: AtomicBool,
}

impl Worker {
    /// A worker that is not running yet.
    pub fn new(
        engines: Engines,
        caller: Arc<Caller>,
        policy: WorkerPolicy,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        let (figures, changed) = <(Arc<WorkerFigures>, Arc<Notify>)>::default();
        let pipelines = engines.pipelines.iter().count();
        Arc::new(Self {
            slots: Slots::new(policy.concurrency, pipelines, figures.clone(), changed.clone()),
            cache: BatchCache::new(policy.name.clone()),
            engines,
            caller,
            policy,
            observer,
            lanes: Mutex::default(),
            owners: Arc::default(),
            changed,
            leases: Arc::default(),
            figures,
            heard_at: Mutex::default(),
            extraction: Arc::new(Semaphore::new(1)),
            extractions: TaskTracker::new(),
            extract_no_more: CancellationToken::new(),
            draining: AtomicBool::new(false),
        })
    }

    /// What takes the queue's messages.
    pub fn ears(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(Ears(self.clone()))
    }

    /// What the worker counts.
    pub fn figures(&self) -> &Arc<WorkerFigures> {
        &self.figures
    }

    /// Works until `stop`, then drains: what was heard of goes back, what runs ends at its next step's border or
    /// within the grace period.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (settlements, settlements_in) = mpsc::channel(settle::GROUP_ROWS * 2);
        let settling = settle::run(
            self.engines.clone(),
            self.leases.clone(),
            self.figures.clone(),
            self.policy.lease,
            settlements_in,
        );
        let settler = spawn_part("settlements", settling, &stop);
        let keeper = spawn_part("leases", self.clone().keep_leases(), &stop);
        let rows = TaskTracker::new();
        let ways_out = WaysOut { settlements, book: Book::open(self.engines.clone(), &stop) };
        self.clone().claim_all(&stop, &rows, &ways_out).await;
        self.draining.store(true, Ordering::SeqCst);
        self.extract_no_more.cancel();
        self.extractions.close();
        self.give_back_heard().await;
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
        keeper.abort();
    }

    async fn claim_all(self: Arc<Self>, stop: &CancellationToken, rows: &TaskTracker, ways_out: &WaysOut) {
        while !stop.is_cancelled() {
            let now = self.engines.clock.now();
            let Some((pipeline, wanted)) = self.pick(now) else {
                self.wait_for_work(stop, now).await;
                continue;
            };
            match self.claim(&wanted).await {
                Ok(claimed) => {
                    for row in claimed {
                        self.clone().start(&pipeline, row, rows, ways_out.clone());
                    }
                }
                Err(error) => {
                    // The rows stay queued in SQL; the sweep brings them back.
                    tracing::warn!(%error, rows = wanted.len(), "rows could not be claimed");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
            }
        }
    }

    /// The next rows to claim: of the lane with the fewest rows in flight that has rows ready, a free dependency
    /// and slots left.
    fn pick(&self, now: Timestamp) -> Option<(String, Vec<RowRef>)> {
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
                lanes.scatter(&name, self.engines.chance.unit());
            }
            let mut taken = HashMap::new();
            let rows = lanes.take(&name, allowed.min(CLAIM_ROWS), now, |owner| {
                self.held_until(&name, &load, owner, taken.entry(owner).or_default(), now)
            });
            if !rows.is_empty() {
                self.figures.waiting.store(lanes.len(), Ordering::Relaxed);
                self.figures.of(&name, |of| rows.iter().for_each(|(_, waited)| of.queued.took(*waited)));
                return Some((name, rows.into_iter().map(|(row, _)| row).collect()));
            }
        }
        None
    }

    /// Whether one of the pipeline's dependencies is exhausted for longer than a row should wait under a lease.
    fn held_up(&self, pipeline: &str) -> bool {
        let Some(pipeline) = self.engines.pipelines.get(pipeline) else { return false };
        pipeline.steps.iter().map(|step| &pipeline.dependencies[step.dependency]).any(|dependency| {
            self.caller.predicted_wait(dependency) > ADMIT_WITHIN || self.caller.is_crowded(dependency)
        })
    }

    /// Whether the next calls of one of the pipeline's dependencies are probes of its breaker.
    fn is_probing(&self, pipeline: &str) -> bool {
        let pipeline = self.engines.pipelines.get(pipeline);
        pipeline.is_some_and(|pipeline| pipeline.dependencies.iter().any(|one| self.caller.is_probing(one)))
    }

    /// How many of a pipeline's rows can be of use in flight: as many as its dependencies take calls at once, and a few
    /// that are about to ask. None: any number.
    fn useful(&self, pipeline: &str) -> Option<usize> {
        let pipeline = self.engines.pipelines.get(pipeline)?;
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
        let pipeline = self.engines.pipelines.get(pipeline)?;
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
        now: Timestamp,
    ) -> Option<Timestamp> {
        let of = self.engines.pipelines.get(pipeline).filter(|pipeline| Owners::matter(pipeline))?;
        let own = self.owners.get(pipeline, owner)?;
        let met = first_paced(&of).is_none_or(|dependency| self.caller.has_met(dependency, Some(&own.name)));
        if !met && !own.any_left && own.rows + *taken > 0 {
            return Some(now + LOOK_AGAIN);
        }
        for (index, dependency) in of.dependencies.iter().enumerate() {
            let Some(rate) = dependency.rate.as_ref().filter(|rate| rate.per_owner) else { continue };
            let waits = self.caller.predicted_wait_of(dependency, &own.name);
            if waits > ADMIT_WITHIN {
                return Some(now + waits.saturating_sub(ADMIT_WITHIN).max(LOOK_AGAIN));
            }
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

    async fn wait_for_work(&self, stop: &CancellationToken, now: Timestamp) {
        let next = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            if lanes.ready(now).is_empty() {
                lanes.next_due().map_or(Duration::from_secs(1), |due| due.since(now))
            } else {
                LOOK_AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.changed.notified() => {}
            () = tokio::time::sleep(next.max(Duration::from_millis(1))) => {}
        }
    }

    async fn claim(&self, wanted: &[RowRef]) -> Result<Vec<Claimed>, FlowError> {
        let batches: Vec<BatchSeq> = wanted.iter().map(|row| row.batch).collect();
        let works = self.cache.get(&self.engines, &batches).await?;
        let (rows, unprocessable): (Vec<RowRef>, Vec<RowRef>) =
            wanted.iter().partition(|row| works.contains_key(&row.batch));
        self.requeue(&unprocessable).await;
        let now = self.engines.clock.now();
        let token = self.engines.chance.lease_token();
        let until = now + self.policy.lease;
        let claim = Claim { rows: &rows, token, holder: &self.policy.name, until, also_pending: false };
        let claimed = match self.engines.store.claim(&claim, now).await {
            Err(error @ StoreError::Overdrawn { batch, .. }) if rows.len() > 1 => {
                let batch = works.get(&BatchSeq(batch)).map(|work| tracing::field::display(work.id));
                tracing::error!(%error, batch, "a batch's counters do not fit its rows: `penstock reconcile --apply` mends it");
                self.claim_apart(&rows, token, until, now).await?
            }
            Err(error @ StoreError::Inconsistent { .. }) if rows.len() > 1 => {
                tracing::error!(%error, "an invalid value is stored; the other rows of its group are claimed without it");
                self.claim_apart(&rows, token, until, now).await?
            }
            claimed => claimed?,
        };
        let works = self.cache.of_claimed(&self.engines, works, &claimed).await?;
        Ok(claimed
            .into_iter()
            .filter_map(|row| {
                // A row that cannot be worked on here has no lease here that is renewed: another worker gets it.
                let work = works.get(&row.row.batch)?.clone();
                let lease = self.leases.insert(row.row, token, until);
                Some(Claimed { work, lease, row })
            })
            .collect())
    }

    /// Batch by batch, and row by row where a stored value is invalid: neither holds up the others.
    async fn claim_apart(
        &self,
        rows: &[RowRef],
        token: LeaseToken,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<ClaimedRow>, FlowError> {
        let mut batches: BTreeMap<BatchSeq, Vec<RowRef>> = BTreeMap::new();
        for row in rows {
            batches.entry(row.batch).or_default().push(*row);
        }
        let mut claimed = Vec::new();
        let mut groups: Vec<Vec<RowRef>> = batches.into_values().collect();
        while let Some(rows) = groups.pop() {
            let claim = Claim { rows: &rows, token, holder: &self.policy.name, until, also_pending: false };
            match self.engines.store.claim(&claim, now).await {
                Ok(ours) => claimed.extend(ours),
                Err(StoreError::Inconsistent { .. }) if rows.len() > 1 => {
                    groups.extend(rows.iter().map(|row| vec![*row]));
                }
                Err(StoreError::Overdrawn { .. } | StoreError::Inconsistent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(claimed)
    }

    fn start(self: Arc<Self>, lane: &str, claimed: Claimed, rows: &TaskTracker, ways_out: WaysOut) {
        let mut slot = self.slots.take(lane);
        let Claimed { work, lease, row: claimed } = claimed;
        let own =
            Owners::matter(&work.pipeline).then(|| self.owners.take(lane, work.owner.seq, &work.owner_name));
        if let Some(pending) = work.first_start_of(&claimed, self.engines.clock.now()) {
            self.figures.of(lane, |of| of.pending.took(pending));
        }
        rows.spawn(async move {
            let _own = own;
            let row = claimed.row;
            let attempts = claimed.attempts;
            let trace = RowTrace::new(self.engines.traces.as_ref(), work.id, row.number);
            let draining = || self.draining.load(Ordering::Relaxed);
            let waits = slot.waits.clone();
            let limited = || -> Box<dyn Send> { Box::new(Limited::new(waits.clone())) };
            let task = RowTask {
                engines: &self.engines,
                caller: &self.caller,
                work: &work,
                lease: &lease,
                trace: &trace,
                book: &ways_out.book,
                observer: self.observer.as_ref(),
                draining: &draining,
                limited: &limited,
            };
            let ended = AssertUnwindSafe(task.run(claimed)).catch_unwind().await.unwrap_or_else(|_| {
                // It would fail like this at any other worker, and never end.
                tracing::error!(parent: &trace.span, "the program failed at the row: a defect, please report it");
                Some(Settled::Failed(Trouble { code: code::INTERNAL_ERROR.to_owned(), ..quiet() }))
            });
            match ended {
                Some(outcome) => {
                    slot.ended(&outcome);
                    let settlement = Settlement { row, token: lease.token, outcome };
                    let about = About { work: work.clone(), attempts, span: trace.span };
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

    async fn keep_leases(self: Arc<Self>) {
        let mut tick = tokio::time::interval(RECEIPTS_EVERY);
        let every = self.policy.lease / 3;
        let mut renewed = Instant::now();
        loop {
            tick.tick().await;
            if self.leases.is_empty() {
                renewed = Instant::now();
                continue;
            }
            self.leases.save_receipts(&self.engines).await;
            if renewed.elapsed() >= every {
                self.leases.renew(&self.engines, self.policy.lease).await;
                renewed = Instant::now();
            }
        }
    }

    async fn extract(self: Arc<Self>, batch: Batch) {
        let began = Instant::now();
        let mut before = None;
        let mut count = |batch: &Batch, at: Checkpoint| {
            let before = before.replace(at).unwrap_or(batch.checkpoint);
            self.figures.of(&batch.pipeline, |of| {
                of.extracted_rows += u64::from(at.rows.saturating_sub(before.rows));
                of.extracted_bytes += at.offset.saturating_sub(before.offset);
            });
        };
        let stop = &self.extract_no_more;
        let policy = &self.policy.extract;
        let done = extract::extract(&self.engines, policy, batch.seq, false, stop, &mut count).await;
        let end = match &done {
            Ok(Extracted::Held { holder, .. }) => {
                tracing::debug!(holder, "another worker extracts the batch");
                return;
            }
            Ok(Extracted::NotExtractable(_) | Extracted::Hopeless(_)) => return,
            Ok(Extracted::Done(_)) => 0,
            Ok(Extracted::Failed(_) | Extracted::Erased) => 1,
            Ok(Extracted::Stopped) => 2,
            Err(error) => {
                tracing::warn!(%error, "the extraction stopped at its checkpoint; the sweep takes it up");
                if !error.is_transient() {
                    self.cache.report(&self.engines, &[], &[(batch.seq, error.to_string())]).await;
                }
                2
            }
        };
        self.figures.of(&batch.pipeline, |of| of.extractions[end].took(began.elapsed()));
    }

    async fn give_back_heard(&self) {
        let rows = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).drain();
        for group in rows.chunks(settle::GROUP_ROWS) {
            if let Err(error) = self.engines.store.unqueue(group, self.engines.clock.now()).await {
                tracing::warn!(%error, rows = group.len(), "rows were not given back; the sweep brings them back");
                return;
            }
        }
    }

    /// Rows that this worker does not take go back to pending, so that they do not count against their owner's quota.
    async fn requeue(&self, rows: &[RowRef]) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.engines.store.unqueue(rows, self.engines.clock.now()).await {
            tracing::warn!(%error, rows = rows.len(), "rows were not requeued; the sweep requeues them");
        }
    }

    fn heard_long_ago(&self, pipeline: &str) -> bool {
        let heard_at = self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        heard_at.get(pipeline).is_none_or(|at| at.elapsed() >= HEAR_AGAIN)
    }

    async fn hear(&self, packet: Packet) {
        self.heard_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(packet.pipeline().to_owned(), Instant::now());
        let batches: Vec<BatchSeq> = packet.iter().map(|(row, _)| row.batch).collect();
        let works = match self.cache.get(&self.engines, &batches).await {
            Ok(works) => works,
            Err(error) => {
                tracing::warn!(%error, "a packet is dropped; the sweep brings its rows back");
                return;
            }
        };
        let taken = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock: whoever drains the lanes has said so before, and looks into them once.
            let taken = !self.draining.load(Ordering::SeqCst);
            for (row, due) in packet.iter().filter(|_| taken) {
                if let Some(work) = works.get(&row.batch) {
                    if Owners::matter(&work.pipeline) {
                        self.owners.heard(&work.pipeline.name, work.owner.seq, &work.owner_name);
                    }
                    lanes.push(&work.pipeline.name, work.owner, row, Timestamp::from_millis(due));
                }
            }
            self.figures.waiting.store(lanes.len(), Ordering::Relaxed);
            taken
        };
        if taken {
            self.changed.notify_one();
        }
        let rows = packet.iter().map(|(row, _)| row);
        let not_taken: Vec<RowRef> = rows.filter(|row| !taken || !works.contains_key(&row.batch)).collect();
        self.requeue(&not_taken).await;
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

/// The worker as the queue sees it.
struct Ears(Arc<Worker>);

#[async_trait]
impl Handler for Ears {
    async fn handle(&self, message: Message) {
        let worker = &self.0;
        match message {
            Message::Rows(packet) => worker.hear(packet).await,
            Message::Extract { batch } => {
                let Ok(only) = worker.extraction.clone().try_acquire_owned() else { return };
                if worker.extract_no_more.is_cancelled() {
                    return;
                }
                let batch = match worker.engines.store.batches_by_seq(&[batch]).await {
                    Ok(batches) => batches.into_iter().next(),
                    Err(error) => {
                        tracing::warn!(%error, "an extraction could not begin; the sweep takes it up");
                        return;
                    }
                };
                // None: it was deleted meanwhile.
                let Some(batch) = batch else { return };
                let span = traces::extraction(worker.engines.traces.as_ref(), batch.id.0);
                let extraction = worker.clone().extract(batch).instrument(span.clone());
                // A task of its own: it goes on when the queue breaks off in the middle.
                let ended = worker.extractions.spawn(async move {
                    extraction.await;
                    drop(only);
                });
                if let Err(error) = ended.await {
                    tracing::error!(parent: &span, %error, "an extraction ended badly; the sweep takes it up");
                }
            }
        }
    }

    fn has_room(&self, lane: &Lane) -> bool {
        let worker = &self.0;
        match lane {
            Lane::Extractions => worker.extraction.available_permits() > 0,
            Lane::Rows(pipeline) => {
                let needed = worker.policy.concurrency * HEARD_PER_SLOT;
                let waiting = worker.lanes.lock().unwrap_or_else(PoisonError::into_inner).waiting(pipeline);
                waiting < needed || (waiting < HEARD && worker.heard_long_ago(pipeline))
            }
        }
    }

    fn pipelines(&self) -> Vec<String> {
        self.0.engines.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect()
    }
}

/// Where a row's task writes to, through groups.
#[derive(Clone)]
struct WaysOut {
    settlements: mpsc::Sender<Ended>,
    book: Book,
}

/// A row that is this worker's.
struct Claimed {
    work: Arc<BatchWork>,
    lease: Arc<RowLease>,
    row: ClaimedRow,
}
