//! A claimed row from its first unfinished step to its end.

use penstock_domain::pipeline::RowValues;
use penstock_store::work::{ClaimedRow, Settled};
use tracing::Instrument as _;

use crate::crash;
use crate::worker::open;
use crate::worker::open::OpenedRow;
use crate::worker::progress::Progress;
use crate::worker::row::judge::StepResult;
use crate::worker::row::problem::Problem;
use crate::worker::row::settlement::requeued;
use crate::worker::row::task::{RowTask, StepAt};

/// How a row's task ended.
#[derive(Debug)]
pub enum RowEnd {
    /// This is to be written.
    Settled(Settled),
    /// Somebody else may have the row: nothing may be written.
    LeaseLost,
}

impl RowTask<'_> {
    /// Continues the row at its first unfinished step.
    pub async fn run(&self, claimed: ClaimedRow) -> RowEnd {
        self.run_steps(claimed).instrument(self.trace.span.clone()).await
    }

    async fn run_steps(&self, claimed: ClaimedRow) -> RowEnd {
        let mut progress = Progress::new(&claimed, self.services.clock.now());
        let OpenedRow { values, outputs, answer: mut kept, error } = match open::open(self.work, &claimed) {
            Ok(opened) => opened,
            Err(error) => return RowEnd::Settled(self.not_opened(&error, &mut progress)),
        };
        progress.opened(&claimed, outputs, error);
        let row = RowValues::new(&values, self.work.secrets.context()).about(self.about());
        let done = progress.outputs.len();
        let steps = &self.work.pipeline.steps;
        if claimed.crashes > 0
            && let Some(next) = steps.get(done)
        {
            progress.crashed_at(&next.name, self.services.clock.now());
        }
        for (index, step) in steps.iter().enumerate().skip(done) {
            if index > done {
                crash::point(crash::BETWEEN_STEPS);
            }
            let at = StepAt { index, step };
            if let Some(settled) = self.ends_before(at, &mut progress) {
                return RowEnd::Settled(settled);
            }
            match self.step(at, kept.take(), &row, &mut progress).await {
                StepResult::Done => {}
                StepResult::Settled(settled) => return RowEnd::Settled(settled),
                StepResult::LeaseLost => return RowEnd::LeaseLost,
            }
        }
        RowEnd::Settled(self.complete(&row, &mut progress))
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
        let expiry = expiry.filter(|expiry| now >= expiry.at)?;
        let problem = Problem::expired(expiry.code, progress.last(&at.step.name));
        Some(self.failed(at, problem, progress))
    }
}
