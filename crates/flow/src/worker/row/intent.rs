//! What is recorded in SQL before a call that is made at most once.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::CallId;
use penstock_domain::outcome::Repetition;
use penstock_domain::row::Receipt;
use penstock_downstream::Note;
use penstock_store::calls::{CallRecord, HeldReceipt};
use penstock_store::work::Held;

use crate::context::services::Services;
use crate::crash;
use crate::worker::bulk::gather::Member;
use crate::worker::intent_log::IntentLog;
use crate::worker::leases::RowLease;
use crate::worker::progress::Progress;
use crate::worker::row::task::{RowTask, StepAt};

/// While the database is unavailable, a call is recorded again after this time, and twice as long each further time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

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

/// Records a bulk call with all of its rows.
pub(super) struct CallRecording<'a> {
    services: &'a Services,
    call: CallId,
    rows: Vec<Held>,
    once: Option<u16>,
    receipts: Vec<HeldReceipt>,
}

impl RowTask<'_> {
    /// What is recorded before a bulk call.
    pub(super) fn recording(&self, at: StepAt<'_>, call: CallId, members: &[Member]) -> CallRecording<'_> {
        let held = |member: &Member| (member.lease.row, member.lease.token);
        let receipts = members.iter().flat_map(|member| {
            let (row, token) = held(member);
            member.receipts.iter().map(move |receipt| (row, token, receipt.clone()))
        });
        CallRecording {
            services: self.services,
            call,
            rows: members.iter().map(held).collect(),
            once: at.stored_index().filter(|_| at.step.repetition() == Repetition::Harmful),
            receipts: receipts.collect(),
        }
    }
}

#[async_trait]
impl Note for CallRecording<'_> {
    async fn write(&self) -> bool {
        crash::point(crash::BEFORE_CALL_RECORD);
        let Self { call, once, .. } = *self;
        let record = CallRecord { call, rows: &self.rows, once, receipts: &self.receipts };
        let mut pause = SHORTEST_PAUSE;
        let recorded = loop {
            match self.services.store.record_call(&record).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, rows = self.rows.len(), "failed to record a call; will retry");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(%error, rows = self.rows.len(), "failed to record a call; its rows are requeued");
                    break false;
                }
                Ok(recorded) => break recorded,
            }
        };
        crash::point(crash::AFTER_CALL_RECORD);
        recorded
    }
}

#[async_trait]
impl Note for CallIntent<'_> {
    async fn write(&self) -> bool {
        self.intent_log.record(self.lease, self.step, &self.receipts).await
    }
}
