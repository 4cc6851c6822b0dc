//! What is recorded in SQL before a call that is made at most once.

use async_trait::async_trait;
use penstock_domain::outcome::Repetition;
use penstock_domain::row::Receipt;
use penstock_downstream::Note;

use crate::worker::intent_log::IntentLog;
use crate::worker::leases::RowLease;
use crate::worker::progress::Progress;
use crate::worker::row::task::{RowTask, StepAt};

/// Records that a row is about to call a step, with the outputs of the steps before it.
pub(super) struct CallIntent<'a> {
    intent_log: &'a IntentLog,
    lease: &'a RowLease,
    step: u16,
    receipts: Vec<Receipt>,
}

impl RowTask<'_> {
    /// What is recorded before the step's call; none for a step that may be repeated.
    pub(super) fn intent(&self, at: StepAt<'_>, progress: &Progress) -> Option<CallIntent<'_>> {
        let step =
            at.stored_index().filter(|_| at.look.is_none() && at.step.repetition() == Repetition::Harmful)?;
        let receipts = progress.receipts.clone();
        Some(CallIntent { intent_log: self.intent_log, lease: self.lease, step, receipts })
    }
}

#[async_trait]
impl Note for CallIntent<'_> {
    async fn write(&self) -> bool {
        self.intent_log.record(self.lease, self.step, &self.receipts).await
    }
}
