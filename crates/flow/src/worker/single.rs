//! One row, here and now: an operator's `penstock process-row`.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::RowRef;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::batches::Batch;
use penstock_store::calls::CallEnd;
use penstock_store::work::{Claim, SettleReport, Settled, Settlement};
use penstock_store::workers::{ComeBack, WorkerKind, WorkerLoad};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::context::tasks::spawn_part;
use crate::telemetry::traces::RowTrace;
use crate::worker::batches;
use crate::worker::batches::BatchWork;
use crate::worker::bulk::Gatherer;
use crate::worker::heartbeat;
use crate::worker::heartbeat::{Beat, Heartbeat};
use crate::worker::intent_log::IntentLog;
use crate::worker::leases::Leases;
use crate::worker::lookups::Lookups;
use crate::worker::observe::Observer;
use crate::worker::row::{RowEnd, RowTask};
use crate::worker::settle::{Concerned, settle};
use crate::worker::settle_calls;
use crate::worker::settle_calls::Writing;
use crate::worker::uses::Uses;

/// What became of the row.
#[derive(Debug)]
pub enum Single {
    /// It ran; how it was settled.
    Ran {
        /// The outcome that was written.
        outcome: Settled,
        /// What writing it did.
        report: Box<SettleReport>,
    },
    /// A worker holds it.
    Held {
        /// Who.
        holder: String,
        /// Until when.
        until: Timestamp,
    },
    /// It has ended.
    Ended(RowStatus),
    /// It has not, but its batch runs nothing any more, or does not yet.
    BatchDoesNotRun,
    /// It was recorded for a call with other rows, which had no answer yet: a worker makes that call again with all of them.
    InCall,
    /// There is no such row.
    NoSuchRow,
    /// The lease was lost while it ran; nothing was written.
    LeaseLost,
}

/// Claims one row and processes it, whatever the dispatcher's quota is. Limits and breakers apply all the same.
///
/// # Errors
/// When a service fails.
pub async fn process_row(
    services: &Services,
    caller: &Caller,
    batch: &Batch,
    number: u32,
    holder: &str,
    silence: Duration,
    observer: &dyn Observer,
) -> Result<Single, FlowError> {
    let row = RowRef { batch: batch.seq, number };
    let Some(record) = services.store.row(batch.seq, number).await? else { return Ok(Single::NoSuchRow) };
    if let Some((holder, until)) = services.store.holder(row).await? {
        return Ok(Single::Held { holder, until });
    }
    if record.status.is_terminal() {
        return Ok(Single::Ended(record.status));
    }
    let work = batches::load(services, batch).await?;
    let heartbeat = Heartbeat::new(holder.to_owned(), WorkerKind::Command, silence);
    heartbeat.register(services).await?;
    let ran = run(services, caller, (row, &work), &heartbeat, observer).await;
    if let Err(error) = heartbeat.leave(services).await {
        tracing::warn!(%error, "failed to delete the record of this command; the services find that it is gone");
    }
    ran
}

async fn run(
    services: &Services,
    caller: &Caller,
    (row, work): (RowRef, &BatchWork),
    heartbeat: &Arc<Heartbeat>,
    observer: &dyn Observer,
) -> Result<Single, FlowError> {
    let token = services.id_generator.lease_token();
    let claim = Claim { rows: &[row], token, holder: heartbeat.name(), also_pending: true, suspects: true };
    let Some(claimed) = services.store.claim(&claim, services.clock.now()).await?.into_iter().next() else {
        return not_claimed(services, row).await;
    };
    let leases = Arc::new(Leases::new(heartbeat.clone()));
    let held = leases.insert(row, token);
    if claimed.call.is_some() {
        // It goes with the other rows of its call, or not at all.
        services.store.let_go(&[(row, token)], ComeBack::Pending, services.clock.now()).await?;
        return Ok(Single::InCall);
    }
    let (call_writer, calls) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let concerned =
        Concerned { leases: leases.clone(), metrics: Arc::default(), replacements: Arc::default() };
    let writing = Writing { services: services.clone(), concerned };
    let writer = spawn_part("call settlements", settle_calls::run(writing, Some(calls), stop.clone()), &stop);
    let trace = RowTrace::new(services.traces.as_ref(), work.id, row.number);
    let task = RowTask {
        services,
        caller,
        work,
        lease: &held,
        trace: &trace,
        intent_log: &IntentLog::open(services.clone(), &CancellationToken::new()),
        lookups: &Lookups::open(services, Arc::default(), &CancellationToken::new()),
        metrics: None,
        observer,
        draining: &|| false,
        limited: &|| Box::new(()),
        rides: &|| Box::new(()),
        uses: &Uses::default(),
        gatherer: &Arc::new(Gatherer::new(call_writer)),
        company: &|| 0,
    };
    let ended = tokio::select! {
        ended = task.run(claimed, None) => ended,
        () = beat(services, heartbeat, &leases) => RowEnd::LeaseLost,
    };
    let single = match ended {
        RowEnd::Settled(outcome, together) => {
            let over = together.is_some_and(|together| together.is_over());
            settled(services, Settlement { row, token, outcome }, over).await
        }
        RowEnd::LeaseLost => Ok(Single::LeaseLost),
    };
    stop.cancel();
    if let Err(error) = writer.await {
        tracing::warn!(%error, "the settlement of calls did not end in order");
    }
    single
}

async fn not_claimed(services: &Services, row: RowRef) -> Result<Single, FlowError> {
    Ok(match services.store.holder(row).await? {
        Some((holder, until)) => Single::Held { holder, until },
        None => Single::BatchDoesNotRun,
    })
}

async fn settled(services: &Services, settlement: Settlement, over: bool) -> Result<Single, FlowError> {
    let report = written(services, &settlement, over).await?;
    if report.lost.is_empty() {
        Ok(Single::Ran { outcome: settlement.outcome, report: Box::new(report) })
    } else {
        Ok(Single::LeaseLost)
    }
}

/// Heartbeats, as long as the row runs.
async fn beat(services: &Services, heartbeat: &Arc<Heartbeat>, leases: &Leases) {
    loop {
        tokio::time::sleep(heartbeat::EVERY).await;
        let load = WorkerLoad { in_flight: 1, waiting: 0 };
        let beat = match heartbeat.beat(services, load).await {
            Ok(beat) => beat,
            Err(error) => {
                tracing::warn!(%error, "failed to write a heartbeat; will retry");
                continue;
            }
        };
        let Beat::Returned(since) = beat else { continue };
        leases.doubt();
        match leases.compare(services).await {
            Ok(_) => heartbeat.goes_on(since),
            Err(error) => tracing::warn!(%error, "failed to compare what is held; will retry"),
        }
    }
}

/// Writes the row's end; of a bulk call that is `over` with that.
async fn written(
    services: &Services,
    settlement: &Settlement,
    over: bool,
) -> Result<SettleReport, FlowError> {
    let settled = std::slice::from_ref(settlement);
    if !over {
        return Ok(settle(services, settled).await?);
    }
    let end = CallEnd { settled, kept: &[], freed: &[], over };
    Ok(services.store.settle_call(&end, services.clock.now()).await?)
}
