//! The effect that a row may have had, by what is stored of it.

use penstock_domain::effect::{self, Effect, Failure};
use penstock_domain::outcome::code;
use penstock_domain::pipeline::Step;
use penstock_domain::row::RowStatus;
use penstock_store::reading::RowRecord;

use crate::read::row_view::ErrorView;

/// The effect that a row may have had, and that another upload of it would repeat.
pub(super) fn of(steps: &[Step], record: &RowRecord, error: Option<&ErrorView>) -> Effect {
    let began = record.not_before.is_some() || record.attempts > 0 || record.crashes > 0;
    match record.status {
        RowStatus::Completed => return Effect::None,
        RowStatus::Failed => {}
        RowStatus::Processing => return effect::of_all(steps),
        RowStatus::Pending | RowStatus::Queued | RowStatus::Cancelled if !began => return Effect::None,
        // Nothing was wrong when it was requeued: how far it came is not told.
        RowStatus::Pending | RowStatus::Queued | RowStatus::Cancelled => {
            if record.step.is_none() {
                return effect::of_all(steps);
            }
        }
    }
    let step = record.step.map(usize::from);
    let name = step.and_then(|step| steps.get(step)).map(|step| step.name.as_str());
    let tries = error.into_iter().flat_map(|error| &error.attempts);
    let tries: Vec<_> = tries.filter(|attempt| attempt.step.as_deref() == name).collect();
    // An answer that there will be no result: the request was made anew after it.
    let anew = tries.iter().rposition(|attempt| attempt.code == code::POLL_FAILED).map_or(0, |at| at + 1);
    let looks_last = error.is_some_and(|error| error.look && error.step.as_deref() == name);
    let answered = looks_last || tries[anew..].iter().any(|attempt| attempt.look);
    let tries: Vec<&str> = tries.into_iter().map(|attempt| attempt.code.as_str()).collect();
    let code = record.code.as_deref().unwrap_or_default();
    let crashed = record.crashes > 0;
    effect::of_failed(steps, &Failure { code, step, tries: &tries, answered, crashed })
}
