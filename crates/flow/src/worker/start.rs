//! The task of a claimed row: it takes a slot, runs the row's steps and sends the end to the settler.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures::FutureExt as _;
use penstock_domain::ids::BatchSeq;
use penstock_domain::outcome::code;
use penstock_store::work::{Settled, Settlement};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::telemetry::traces::RowTrace;
use crate::worker::bulk::gather::Coming;
use crate::worker::intent_log::IntentLog;
use crate::worker::lookups::Lookups;
use crate::worker::owner_limits::Owners;
use crate::worker::row::{RowEnd, RowTask, failure_of};
use crate::worker::settled_row::{Ended, SettledRow};
use crate::worker::slots::{Limited, Slot};
use crate::worker::state::{Claimed, Worker};
use crate::worker::suspects::Running;

/// What rows' tasks write to and ask; all of it in groups.
#[derive(Clone)]
pub(super) struct Writers {
    pub(super) settlements: mpsc::Sender<Ended>,
    pub(super) intent_log: IntentLog,
    pub(super) lookups: Lookups,
}

impl Worker {
    /// Starts the task of a claimed row. `alone` is set for a row that runs alone.
    pub(super) fn start(
        self: Arc<Self>,
        claimed: Claimed,
        alone: Option<Running>,
        rows: &TaskTracker,
        writers: Writers,
    ) {
        let lane = claimed.work.pipeline.name.as_str();
        let slot = self.slots.take(lane);
        let matter = Owners::matter(&claimed.work.pipeline);
        let work = &claimed.work;
        let own = matter.then(|| self.owners.take(lane, work.owner.seq, &work.owner_name));
        if let Some(pending) = work.first_start_of(&claimed.row, self.services.clock.now()) {
            self.metrics.of(lane, |of| of.pending.took(pending));
        }
        let call = claimed.row.call.map(|call| call.call);
        let coming = work.pipeline.is_bulk().then(|| self.gatherer.expect(work.seq, call));
        rows.spawn(async move {
            let _own = own;
            self.run_row(claimed, alone, coming, slot, writers).await;
        });
    }

    async fn run_row(
        &self,
        claimed: Claimed,
        alone: Option<Running>,
        coming: Option<Coming>,
        mut slot: Slot,
        writers: Writers,
    ) {
        let Claimed { work, lease, row, memory: _memory } = claimed;
        let attempts = row.attempts;
        let trace = RowTrace::new(self.services.traces.as_ref(), work.id, row.row.number);
        let draining = || self.draining.load(Ordering::Relaxed);
        let waits = slot.waits.clone();
        let limited = || -> Box<dyn Send> { Box::new(Limited::new(waits.clone())) };
        let rides = || -> Box<dyn Send> { Box::new(Limited::riding(waits.clone())) };
        let is_alone = alone.is_some();
        let company = || self.about_to_start(work.seq, is_alone);
        let task = RowTask {
            services: &self.services,
            caller: &self.caller,
            work: &work,
            lease: &lease,
            trace: &trace,
            intent_log: &writers.intent_log,
            lookups: &writers.lookups,
            metrics: Some(&self.metrics),
            observer: self.observer.as_ref(),
            draining: &draining,
            limited: &limited,
            rides: &rides,
            uses: waits.uses(),
            gatherer: &self.gatherer,
            company: &company,
        };
        let ended = AssertUnwindSafe(task.run(row, coming)).catch_unwind().await.unwrap_or_else(|_| {
            // It would panic in any other worker too, and never end.
            tracing::error!(parent: &trace.span, "processing the row panicked: please report it; the row fails");
            RowEnd::Settled(Settled::Failed(failure_of(code::INTERNAL_ERROR)), None)
        });
        let RowEnd::Settled(outcome, together) = ended else {
            tracing::warn!(parent: &trace.span, "the row's lease was lost; nothing is written");
            self.leases.remove([(lease.row, lease.token)]);
            return;
        };
        slot.ended(&outcome);
        if let Some(alone) = &alone
            && !matches!(outcome, Settled::Requeued { attempt: false, polling: false, .. })
        {
            alone.carried_out();
        }
        let settlement = Settlement { row: lease.row, token: lease.token, outcome };
        let row = SettledRow { work: work.clone(), attempts, span: trace.span, alone };
        match together {
            Some(together) => together.ends((settlement, row)),
            // The settler outlives every row.
            None => drop(writers.settlements.send((settlement, row)).await),
        }
    }

    /// How many rows of a batch wait here, or are being claimed. While suspects run, the others in their lanes do not start.
    fn about_to_start(&self, batch: BatchSeq, suspects: bool) -> usize {
        let claiming = usize::from(self.claiming.load(Ordering::SeqCst));
        if suspects {
            return claiming;
        }
        claiming + self.lanes.lock().unwrap_or_else(PoisonError::into_inner).waiting_of(batch)
    }
}
