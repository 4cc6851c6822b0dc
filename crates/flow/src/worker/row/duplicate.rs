//! Whether another batch has completed a row's key, so that nobody is called for it.

use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_domain::pipeline::RowValues;
use penstock_domain::pipeline::dedupe::{Dedupe, DuplicateEnd};
use penstock_store::duplicates::{CompletedBy, CompletedKey, WantedKey};
use penstock_store::work::{RowFailure, Settled};
use serde_json::json;

use crate::context::key_hashes;
use crate::worker::progress::Progress;
use crate::worker::row::problem::Problem;
use crate::worker::row::settlement::{failure_of, requeued};
use crate::worker::row::task::RowTask;

/// A row whose key cannot be looked up is tried again after this time.
const LATER: Duration = Duration::from_secs(30);

impl RowTask<'_> {
    /// How the row ends when it is a duplicate; else its key is kept, to be recorded when it completes. A row of which a step
    /// is done, or was answered, goes on: half of it would help nobody.
    pub(super) async fn duplicate(
        &self,
        row: &RowValues,
        was_answered: bool,
        progress: &mut Progress,
    ) -> Option<Settled> {
        let dedupe = self.work.pipeline.dedupe.as_ref()?;
        let key = match self.work.pipeline.dedupe_key(&self.context(row, progress)) {
            Ok(key) => key?,
            Err(error) => {
                let problem = Problem::new(code::TEMPLATE_ERROR, error.to_string());
                return Some(self.ended_before_all(problem, progress));
            }
        };
        let (owner, pipeline) = (&self.work.owner_name, &self.work.pipeline.name);
        let key = match key_hashes::completed_key(self.services, owner, pipeline, &key).await {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(%error, batch = %self.work.id, row = self.number(), "the row's key cannot be made");
                return Some(self.looked_up_later(progress));
            }
        };
        let now = self.services.clock.now();
        if progress.outputs.is_empty() && !was_answered {
            let wanted = WantedKey { key, batch: self.work.seq, since: now - dedupe.within };
            match self.lookups.completed.ask(wanted).await {
                Some(None) => {}
                Some(Some(by)) => return Some(self.ended_as_duplicate(dedupe, by, progress)),
                None => return Some(self.looked_up_later(progress)),
            }
        }
        progress.key = Some(Box::new(CompletedKey { key, expires_at: now + dedupe.within }));
        None
    }

    fn ended_as_duplicate(&self, dedupe: &Dedupe, by: CompletedBy, progress: &mut Progress) -> Settled {
        let CompletedBy { batch, number, completed_at } = by;
        let message = format!(
            "row {number} of batch {batch} was completed with this key at {completed_at}; nobody was called for this one"
        );
        let detail = json!({ "batch": batch, "row": number, "completed_at": completed_at });
        let problem = Problem { detail: Some(detail), ..Problem::new(code::DUPLICATE, message) };
        match dedupe.then {
            DuplicateEnd::Skip => Settled::Duplicate { error: self.seal(None, problem, progress) },
            DuplicateEnd::Fail => self.ended_before_all(problem, progress),
        }
    }

    /// The row fails before its first step.
    fn ended_before_all(&self, problem: Problem, progress: &mut Progress) -> Settled {
        let code = problem.code.clone();
        let error = self.seal_failure_of_row(problem, progress);
        Settled::Failed(RowFailure { error: Some(error), ..failure_of(&code) })
    }

    /// The database did not answer what was asked of it.
    fn looked_up_later(&self, progress: &mut Progress) -> Settled {
        let expiry = progress.expiry(&self.work.pipeline.retry, "");
        let not_before = self.services.clock.now() + LATER;
        requeued(not_before, false, None, std::mem::take(&mut progress.receipts), expiry)
    }
}
