//! What a row's task works with, and what it keeps of a finished step.

use std::sync::Arc;

use penstock_domain::csv::RowOrigin;
use penstock_domain::outcome::Repetition;
use penstock_domain::pipeline::{RowAbout, RowContext, RowValues, SecretValues, Step};
use penstock_domain::row::Receipt;
use penstock_downstream::Caller;
use serde_json::{Map, Value};

use crate::context::secrets::SecretLocation;
use crate::context::services::Services;
use crate::telemetry::traces::RowTrace;
use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::batches::BatchWork;
use crate::worker::bulk::Gatherer;
use crate::worker::intent_log::IntentLog;
use crate::worker::kept_polls::KeptPoll;
use crate::worker::leases::RowLease;
use crate::worker::lookups::Lookups;
use crate::worker::observe::Observer;
use crate::worker::progress::Progress;
use crate::worker::uses::Uses;

/// What a row's task works with.
pub struct RowTask<'a> {
    /// The services.
    pub services: &'a Services,
    /// Calls and their limits.
    pub caller: &'a Caller,
    /// The row's batch.
    pub work: &'a BatchWork,
    /// Its lease.
    pub lease: &'a Arc<RowLease>,
    /// Its span.
    pub trace: &'a RowTrace,
    /// Records calls that are made at most once before they are made.
    pub intent_log: &'a IntentLog,
    /// Asks the database in groups.
    pub lookups: &'a Lookups,
    /// Counts what is particular to a row's steps; none: an operator's command counts nothing.
    pub metrics: Option<&'a WorkerMetrics>,
    /// Receives each step.
    pub observer: &'a dyn Observer,
    /// Whether the worker is about to stop: the row ends before its next step.
    pub draining: &'a (dyn Fn() -> bool + Sync),
    /// Makes a mark that lives as long as the row waits for a limit.
    pub limited: &'a (dyn Fn() -> Box<dyn Send> + Sync),
    /// Makes a mark that lives as long as the row waits in a call that another one leads.
    pub rides: &'a (dyn Fn() -> Box<dyn Send> + Sync),
    /// Counts which dependencies rows call.
    pub(in crate::worker) uses: &'a Uses,
    /// Where it meets rows that go in the same call.
    pub gatherer: &'a Arc<Gatherer>,
    /// How many rows of its batch are about to be in flight here.
    pub company: &'a (dyn Fn() -> usize + Sync),
}

/// A step of the row's pipeline.
#[derive(Clone, Copy)]
pub(super) struct StepAt<'a> {
    /// Its index among the pipeline's steps.
    pub(super) index: usize,
    /// The step.
    pub(super) step: &'a Step,
    /// Set for a look at the result of its request: where the step stands.
    pub(super) look: Option<&'a KeptPoll>,
}

impl StepAt<'_> {
    /// Its index as it is stored.
    pub(super) fn stored_index(&self) -> Option<u16> {
        u16::try_from(self.index).ok()
    }

    /// Whether the record of a call is deleted when some of its rows are not there to make it. That of a keyed request stays: once all of
    /// its rows are retried, the same call is made with its key. Looks may be made one by one.
    pub(super) fn deletes_incomplete_call(&self) -> bool {
        !self.step.keyed || self.look.is_some()
    }
}

impl RowTask<'_> {
    /// The row's number in its file.
    pub(super) fn number(&self) -> u32 {
        self.lease.row.number
    }

    /// Whose the row is, where it stands, and whose idempotency keys it keeps.
    pub(super) fn about(&self, origin: Option<RowOrigin>) -> RowAbout {
        RowAbout {
            owner: self.work.owner_name.clone(),
            batch: self.work.id,
            batch_name: self.work.name.clone(),
            number: self.number(),
            keys_of: origin.map(|origin| (origin.batch.0, origin.row)),
        }
    }

    /// What templates read now.
    pub(super) fn context<'a>(&self, row: &'a RowValues, progress: &'a Progress) -> RowContext<'a> {
        RowContext { values: row, steps: &progress.outputs, now: self.services.clock.now() }
    }

    /// What is masked of whatever is kept or shown of a step's calls: the definition's values, the owner's secrets, what files and
    /// the token are now, and the signature of the call.
    pub(super) fn secret_values(&self, at: StepAt<'_>, signature: &[String]) -> SecretValues {
        let mut all = self.caller.secret_values(self.dependency(at), &self.work.secret_values);
        signature.iter().for_each(|part| all.add(part));
        all
    }

    /// Keeps the output of a finished step.
    pub(super) fn finish_step(&self, at: StepAt<'_>, output: Map<String, Value>, progress: &mut Progress) {
        let output = Value::Object(output);
        let last = at.index + 1 == self.work.pipeline.steps.len();
        // The last step's output goes straight into the result.
        if !last && let Some(index) = at.stored_index() {
            let receipt = self.receipt(index, &output);
            // With those of the other rows of its call, or not at all.
            if progress.together.is_none() {
                let leaves_trace = at.step.keyed || at.step.repetition() != Repetition::Harmless;
                self.lease.finished_step(receipt.clone(), leaves_trace);
            }
            progress.receipts.push(receipt);
        }
        progress.not_throttled();
        progress.polling = false;
        progress.outputs.insert(at.step.name.clone(), output);
    }

    /// The sealed output of a step.
    pub(super) fn receipt(&self, step: u16, output: &Value) -> Receipt {
        let location = SecretLocation::Receipt(self.number(), step);
        Receipt { step, sealed: self.work.secrets.seal_json(location, output) }
    }
}
