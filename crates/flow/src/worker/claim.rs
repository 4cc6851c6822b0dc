//! Claims: rows that wait become this worker's, in groups. What cannot be claimed while the database is unavailable waits again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use penstock_domain::ids::{BatchSeq, CallId, LeaseToken, RowRef};
use penstock_domain::time::Timestamp;
use penstock_store::StoreError;
use penstock_store::work::{Claim, ClaimedRow};
use tokio::time::Instant;

use crate::context::budget::Reserved;
use crate::context::error::FlowError;
use crate::worker::batches::BatchWork;
use crate::worker::lanes::Waiting;
use crate::worker::memory::Weighed;
use crate::worker::state::{Claimed, DATABASE_PAUSE, LOOK_AGAIN, Worker};
use crate::worker::suspects::{Next, Running, Suspect};

impl Worker {
    /// Claims rows of a lane. When that fails they are in the lane again.
    pub(super) async fn claim_waiting(&self, pipeline: &str, wanted: Vec<Waiting>) -> Vec<Claimed> {
        let rows: Vec<RowRef> = wanted.iter().map(|one| one.row).collect();
        match self.claim(&rows, false).await {
            Ok((claimed, no_room)) => {
                self.put_back(pipeline, wanted, &no_room);
                claimed
            }
            Err(error) => {
                self.report_failed_claim(&error, rows.len());
                {
                    let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                    for waiting in wanted {
                        lanes.push(pipeline, waiting);
                    }
                }
                tokio::time::sleep(DATABASE_PAUSE).await;
                Vec::new()
            }
        }
    }

    /// Puts rows for which there is no memory now back into their lane.
    fn put_back(&self, pipeline: &str, wanted: Vec<Waiting>, no_room: &HashSet<RowRef>) {
        if no_room.is_empty() {
            return;
        }
        let due = Instant::now() + LOOK_AGAIN;
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for waiting in wanted.into_iter().filter(|waiting| no_room.contains(&waiting.row)) {
            lanes.push(pipeline, Waiting { due, ..waiting });
        }
        self.metrics.waiting.store(lanes.len(), Ordering::Relaxed);
    }

    /// Whether suspects run next, or other rows.
    pub(super) fn next_of_suspects(&self, now: Instant) -> Next {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = self.metrics.in_flight.load(Ordering::Relaxed);
        let others = || !self.lanes.lock().unwrap_or_else(PoisonError::into_inner).ready(now).is_empty();
        let others = !suspects.is_empty() && others();
        let in_call = |pipeline: &str| self.rows_per_call(pipeline);
        suspects.next(now, in_flight, others, |pipeline| !self.held_up(pipeline), in_call)
    }

    /// Claims suspects. When that fails they wait again.
    pub(super) async fn claim_suspects(&self, wanted: Vec<Suspect>) -> Vec<(Claimed, Running)> {
        let rows: Vec<RowRef> = wanted.iter().map(|one| one.row).collect();
        let error = match self.claim(&rows, true).await {
            Ok((claimed, no_room)) => {
                let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
                let waits = wanted.into_iter().filter(|suspect| no_room.contains(&suspect.row));
                waits.for_each(|suspect| suspects.push(suspect));
                return claimed.into_iter().map(|row| (row, suspects.begin())).collect();
            }
            Err(error) => error,
        };
        {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.into_iter().for_each(|suspect| suspects.push(suspect));
        }
        self.report_failed_claim(&error, rows.len());
        tokio::time::sleep(DATABASE_PAUSE).await;
        Vec::new()
    }

    /// The claim may have succeeded, and only its answer was lost: leases are compared with SQL as soon as possible.
    fn report_failed_claim(&self, error: &FlowError, rows: usize) {
        self.leases.doubt();
        tracing::warn!(%error, rows, "failed to claim rows; will retry");
    }

    /// Claims rows, and returns those for which there is no memory now. The first of some suspects is not weighed: it runs even
    /// where other rows hold all memory. The others are, so that they do not kill the worker together.
    async fn claim(
        &self,
        wanted: &[RowRef],
        suspects: bool,
    ) -> Result<(Vec<Claimed>, HashSet<RowRef>), FlowError> {
        let batches: Vec<BatchSeq> = wanted.iter().map(|row| row.batch).collect();
        let works = self.cache.get(&self.services, &batches).await?;
        let (known, unprocessable): (Vec<RowRef>, Vec<RowRef>) =
            wanted.iter().partition(|row| works.contains_key(&row.batch));
        self.requeue(&unprocessable).await;
        let first = known.first().filter(|_| suspects).copied();
        let weighed = known.into_iter().skip(usize::from(first.is_some())).collect();
        let Weighed { mut rows, held, no_room } = self.weights.weigh(&self.services, &works, weighed).await?;
        rows.extend(first);
        if rows.is_empty() {
            return Ok((Vec::new(), no_room));
        }
        let token = self.services.id_generator.lease_token();
        self.leases.claiming(token);
        let ours = match self.claim_rows(&rows, token, suspects, &works).await {
            Ok(claimed) => self.ours(claimed, token, works, held).await,
            Err(error) => Err(error.into()),
        };
        self.leases.claimed(token);
        Ok((ours?, no_room))
    }

    async fn ours(
        &self,
        claimed: Vec<ClaimedRow>,
        token: LeaseToken,
        works: HashMap<BatchSeq, Arc<BatchWork>>,
        mut held: HashMap<RowRef, Reserved>,
    ) -> Result<Vec<Claimed>, FlowError> {
        let works = self.cache.of_claimed(&self.services, works, &claimed).await?;
        if claimed.iter().any(|row| !works.contains_key(&row.row.batch)) {
            // What cannot be processed here is released: another worker gets it.
            self.leases.doubt();
        }
        let mut calls: HashMap<CallId, usize> = HashMap::new();
        for call in claimed.iter().filter_map(|row| row.call).filter(|call| call.complete) {
            *calls.entry(call.call).or_default() += 1;
        }
        calls.into_iter().for_each(|(call, rows)| self.gatherer.expect_call(call, rows));
        let ours = claimed.into_iter().filter_map(|row| {
            let work = works.get(&row.row.batch)?.clone();
            let memory = held.remove(&row.row);
            Some(Claimed { work, lease: self.leases.insert(row.row, token), row, memory })
        });
        Ok(ours.collect())
    }

    async fn claim_rows(
        &self,
        rows: &[RowRef],
        token: LeaseToken,
        suspects: bool,
        works: &HashMap<BatchSeq, Arc<BatchWork>>,
    ) -> Result<Vec<ClaimedRow>, StoreError> {
        let now = self.services.clock.now();
        let claim = Claim { rows, token, holder: self.heartbeat.name(), also_pending: false, suspects };
        match self.services.store.claim(&claim, now).await {
            Err(error @ StoreError::Overdrawn { batch, .. }) if rows.len() > 1 => {
                let batch = works.get(&BatchSeq(batch)).map(|work| tracing::field::display(work.id));
                tracing::error!(%error, batch, "a batch's counters do not fit its rows: `penstock reconcile --apply` fixes it");
                self.claim_apart(&claim, now).await
            }
            Err(error @ StoreError::Inconsistent { .. }) if rows.len() > 1 => {
                tracing::error!(%error, "an invalid value is stored; the other rows of its group are claimed without it");
                self.claim_apart(&claim, now).await
            }
            claimed => claimed,
        }
    }

    /// Claims batch by batch, and row by row where a stored value is invalid: one that fails does not hold up the others.
    async fn claim_apart(&self, claim: &Claim<'_>, now: Timestamp) -> Result<Vec<ClaimedRow>, StoreError> {
        let mut batches: BTreeMap<BatchSeq, Vec<RowRef>> = BTreeMap::new();
        for row in claim.rows {
            batches.entry(row.batch).or_default().push(*row);
        }
        let mut claimed = Vec::new();
        let mut groups: Vec<Vec<RowRef>> = batches.into_values().collect();
        while let Some(rows) = groups.pop() {
            match self.services.store.claim(&Claim { rows: &rows, ..claim.clone() }, now).await {
                Ok(ours) => claimed.extend(ours),
                Err(StoreError::Inconsistent { .. }) if rows.len() > 1 => {
                    groups.extend(rows.iter().map(|row| vec![*row]));
                }
                Err(StoreError::Overdrawn { .. } | StoreError::Inconsistent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }
}
