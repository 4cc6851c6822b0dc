//! A claimed row from its first unfinished step to its end.

use penstock_domain::pipeline::RowValues;
use penstock_store::work::{ClaimedRow, Settled};
use tracing::Instrument as _;

use crate::crash;
use crate::worker::bulk::Together;
use crate::worker::bulk::gather::Coming;
use crate::worker::kept_polls::Kept;
use crate::worker::open;
use crate::worker::open::OpenedRow;
use crate::worker::progress::Progress;
use crate::worker::row::judge::StepResult;
use crate::worker::row::problem::Problem;
use crate::worker::row::settlement::requeued;
use crate::worker::row::task::{RowTask, StepAt};

/// How a row's task ended.
pub enum RowEnd {
    /// This is to be written; of a bulk call's row together with what the others come to.
    Settled(Settled, Option<Together>),
    /// Somebody else may have the row: nothing may be written.
    LeaseLost,
}

impl RowTask<'_> {
    /// Continues the row at its first unfinished step.
    pub async fn run(&self, claimed: ClaimedRow, coming: Option<Coming>) -> RowEnd {
        let mut progress = Progress::new(&claimed, self.services.clock.now());
        progress.coming = coming;
        let mut end = self.run_steps(claimed, &mut progress).instrument(self.trace.span.clone()).await;
        self.uses.ended(&progress.uses);
        if let Some(coming) = &mut progress.coming {
            match &end {
                RowEnd::Settled(Settled::Requeued { not_before, .. }, _) => coming.requeued(*not_before),
                RowEnd::Settled(..) => {}
                // Whoever has the row now claims its call's other rows.
                RowEnd::LeaseLost => coming.requeued(self.services.clock.now()),
            }
        }
        // Whatever it waits for: a row that waits for a result comes back by the workers themselves.
        if let RowEnd::Settled(settled, together) = &mut end {
            if let Settled::Requeued { polling, .. } = settled {
                *polling |= progress.polling;
            }
            *together = progress.together.take();
        }
        end
    }

    async fn run_steps(&self, claimed: ClaimedRow, progress: &mut Progress) -> RowEnd {
        let OpenedRow { values, origin, outputs, mut kept, error } = match open::open(self.work, &claimed) {
            Ok(opened) => opened,
            Err(error) => return RowEnd::Settled(self.not_opened(&error, progress), None),
        };
        progress.opened(&claimed, outputs, error);
        progress.polling = matches!(kept, Some(Kept::Poll(_)));
        let row = RowValues::new(&values, self.work.secrets.context()).about(self.about(origin));
        let done = progress.outputs.len();
        let steps = &self.work.pipeline.steps;
        if claimed.crashes > 0
            && let Some(next) = steps.get(done)
        {
            progress.crashed_at(&next.name, self.services.clock.now());
        }
        // A row that was recorded for a call may have been called for.
        let was_called = kept.is_some() || progress.call.is_some();
        if let Some(settled) = self.duplicate(&row, was_called, progress).await {
            return RowEnd::Settled(settled, None);
        }
        for (index, step) in steps.iter().enumerate().skip(done) {
            if index > done {
                crash::point(crash::BETWEEN_STEPS);
            }
            let at = StepAt { index, step, look: None };
            if let Some(settled) = self.ends_before(at, progress) {
                return RowEnd::Settled(settled, None);
            }
            match self.step(at, kept.take(), &row, progress).await {
                StepResult::Done if index + 1 < steps.len() => {
                    if !self.go_on(progress).await {
                        return RowEnd::LeaseLost;
                    }
                }
                StepResult::Done => {}
                StepResult::Settled(settled) => return RowEnd::Settled(settled, None),
                StepResult::LeaseLost => return RowEnd::LeaseLost,
            }
        }
        RowEnd::Settled(self.complete(&row, progress), None)
    }

    /// A row of a bulk call goes on once what all of them came to is written. False: it was not, and the row is released.
    async fn go_on(&self, progress: &mut Progress) -> bool {
        let Some(together) = progress.together.take() else { return true };
        let (row, token) = (self.lease.row, self.lease.token);
        let receipts =
            std::mem::take(&mut progress.receipts).into_iter().map(|receipt| (row, token, receipt));
        if !together.goes_on((row, token), receipts.collect()).await {
            return false;
        }
        if let Some(coming) = &mut progress.coming {
            coming.goes_on();
        }
        true
    }

    /// Whether an answer has held the batch since the row was taken up.
    pub(super) fn is_held(&self, progress: &Progress) -> bool {
        progress.began.is_some_and(|began| self.work.held.is_after(began))
    }

    /// How the row ends without this step: the worker drains, its batch is held, or the row's time is over.
    fn ends_before(&self, at: StepAt<'_>, progress: &mut Progress) -> Option<Settled> {
        let now = self.services.clock.now();
        let expiry = progress.expiry(&self.work.pipeline.retry, &at.step.name);
        if (self.draining)() || self.is_held(progress) {
            return Some(requeued(now, false, None, std::mem::take(&mut progress.receipts), expiry));
        }
        // The time of a recorded call's rows is over together, while they wait in the database.
        let expiry = expiry.filter(|expiry| now >= expiry.at && progress.call.is_none())?;
        let problem = Problem::expired(expiry.code, progress.last(&at.step.name));
        Some(self.failed(at, problem, progress))
    }
}
