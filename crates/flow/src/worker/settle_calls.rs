//! Settlement of bulk calls: each with all of its rows in one transaction.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use penstock_store::StoreResult;
use penstock_store::calls::CallEnd;
use penstock_store::work::{Held, SettleReport, Settlement};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::services::Services;
use crate::crash;
use crate::worker::bulk::ends::CallEnds;
use crate::worker::settle::{Concerned, report_written};
use crate::worker::settled_row::SettledRow;

/// While the database is unavailable, a settlement is tried again after at most this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What settlements are written with.
pub(crate) struct Writing {
    /// The services.
    pub(crate) services: Services,
    /// Whom the rows concern.
    pub(crate) concerned: Concerned,
}

/// Writes what calls' rows came to, until `all_written`: by then no row is in flight.
pub(crate) async fn run(
    writing: Writing,
    calls: Option<mpsc::UnboundedReceiver<CallEnds>>,
    all_written: CancellationToken,
) {
    let Some(mut calls) = calls else { return };
    loop {
        let call = tokio::select! {
            biased;
            call = calls.recv() => call,
            () = all_written.cancelled() => None,
        };
        let Some(call) = call else { return };
        let held: Vec<Held> = call.ends.iter().map(|(settlement, _)| settlement.held()).collect();
        // A defect: rows that are not released would be held as long as this process lives.
        if AssertUnwindSafe(writing.write(call)).catch_unwind().await.is_err() {
            tracing::error!(
                rows = held.len(),
                "settling a call panicked: please report it; its rows are released"
            );
            writing.concerned.leases.remove(held);
            writing.concerned.leases.doubt();
        }
    }
}

impl Writing {
    async fn write(&self, call: CallEnds) {
        crash::point(crash::BEFORE_SETTLEMENT);
        let CallEnds { ends, kept, over, written } = call;
        let (settled, rows): (Vec<Settlement>, Vec<SettledRow>) = ends.into_iter().unzip();
        let began = Instant::now();
        match self.settle(&CallEnd { settled: &settled, kept: &kept, freed: &[], over }).await {
            Ok(report) => {
                crash::point(crash::AFTER_SETTLEMENT);
                self.concerned.leases.remove(settled.iter().map(Settlement::held));
                self.concerned.metrics.group(settled.len() + kept.len(), began.elapsed());
                report_written(&self.services, &self.concerned, settled.iter().zip(&rows), &report);
                for (row, goes_on) in written {
                    if !report.lost.contains(&row) {
                        // Its task may be gone.
                        let _ = goes_on.send(());
                    }
                }
            }
            Err(error) => {
                // Its call is not repeated for that: the rows stay of this call, and nobody makes it with others. Those
                // that were to go on are told by `written`, which is dropped.
                tracing::error!(%error, rows = settled.len(), "the end of a call cannot be written; its rows are released");
                self.concerned.leases.remove(settled.iter().map(Settlement::held));
                self.concerned.leases.doubt();
            }
        }
    }

    /// Settles a call, however long the database is unavailable.
    async fn settle(&self, end: &CallEnd<'_>) -> StoreResult<SettleReport> {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.services.store.settle_call(end, self.services.clock.now()).await {
                Err(error) if error.is_the_databases() => {
                    tracing::warn!(%error, rows = end.settled.len(), "failed to settle a call; will retry");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                settled => return settled,
            }
        }
    }
}
