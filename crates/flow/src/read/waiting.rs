//! Why a batch or a row waits, and when it moves next.

use penstock_domain::batch::BatchStatus;
use penstock_domain::row::{RowError, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_queue::Lane;
use penstock_store::batches::Batch;

use crate::context::error::FlowError;
use crate::context::pace::Pace;
use crate::context::secrets::SecretLocation;
use crate::context::services::Services;
use crate::dispatch::lane_room::FULL_LANE;
use crate::read::waits::{Wait, wait};
use crate::read::{kept_answers, standing, view, waiting_calls};

/// Not what is waited for, but what was said last.
const LAST_ANSWER: &str = "last_answer";

/// None of its rows gets through.
const STALLED: &str = "stalled";

/// At most so many characters of an answer's body are shown.
const MOST_TOLD: usize = 500;

/// Everything that a batch (or one row of it) waits for. Never empty. Without a `caller` nothing is said of limits. What an
/// API answered can quote a row, so only `reveal` shows its words; without it there is the code and the status.
///
/// # Errors
/// When the database fails.
pub async fn explain(
    services: &Services,
    caller: Option<&Caller>,
    batch: &Batch,
    row: Option<u32>,
    rows_per_owner: u32,
    reveal: bool,
) -> Result<Vec<Wait>, FlowError> {
    let pace = Pace::of(services, rows_per_owner).await?;
    let next_run = pace.next_run(services.clock.now());
    let mut waits = match batch.ledger.status {
        BatchStatus::Pending => {
            let mut waits = vec![wait("extraction", "its file waits for a worker to extract it", next_run)];
            waits.extend(queue(services, None).await);
            waits
        }
        BatchStatus::Processing => vec![wait("extraction", "a worker extracts its file", None)],
        BatchStatus::Completed | BatchStatus::Cancelled | BatchStatus::Failed => {
            vec![wait("ended", format!("the batch is {}", batch.ledger.status.name()), None)]
        }
        BatchStatus::Queued => running(services, caller, batch, &pace, reveal).await?,
    };
    if let Some(fault) = fault(services, batch).await? {
        waits.retain(|wait| wait.reason != "definition");
        waits.insert(0, fault);
    }
    if let Some(number) = row {
        waits.insert(0, one_row(services, batch, number, next_run).await?);
    }
    if batch.ledger.status == BatchStatus::Queued {
        let stalled = standing::find_stalled(services, batch).await?;
        waits.extend(stalled.map(|batch| wait(STALLED, standing::stalled(&batch), None)));
        waits.extend(last_answer(services, batch, row, reveal).await?);
    }
    if waits.iter().all(|wait| [LAST_ANSWER, STALLED].contains(&wait.reason.as_str())) {
        waits.insert(0, wait("next_run", "its rows are released by the next dispatcher run", next_run));
    }
    promise_no_more_than_comes_true(&mut waits);
    waits.extend(kept_answers::counted(services, batch).await?);
    Ok(waits)
}

/// What a row that waits was told when it was called last, in the API's own words where there are any: this row, or one of
/// those that wait. Nothing when none of them was called, or when it cannot be opened here.
async fn last_answer(
    services: &Services,
    batch: &Batch,
    row: Option<u32>,
    reveal: bool,
) -> Result<Option<Wait>, FlowError> {
    let number = match row {
        Some(number) => Some(number),
        None if batch.ledger.returned() == 0 => None,
        None => services.store.waiting_with_error(batch.seq).await?,
    };
    let Some(number) = number else { return Ok(None) };
    let error = waiting_error(services, batch, number).await?;
    Ok(error.map(|error| {
        let sentence = if reveal { told(number, &error) } else { told_in_short(number, &error) };
        wait(LAST_ANSWER, sentence, None)
    }))
}

/// The error of a row that has not ended; none when it has none, or when it cannot be opened here.
pub(super) async fn waiting_error(
    services: &Services,
    batch: &Batch,
    number: u32,
) -> Result<Option<RowError>, FlowError> {
    let Some(record) = services.store.row(batch.seq, number).await? else { return Ok(None) };
    let Some(sealed) = record.error.as_ref().filter(|_| !record.status.is_terminal()) else {
        return Ok(None);
    };
    let opened = match services.secrets_of(batch).await {
        Ok(secrets) => secrets.open_json(SecretLocation::Error(number), sealed),
        Err(error) => Err(error),
    };
    Ok(opened
        .inspect_err(|error| {
            tracing::warn!(%error, batch = %batch.id, row = number, "what a waiting row was told cannot be read");
        })
        .ok())
}

fn told_in_short(number: u32, error: &RowError) -> String {
    let status = error.http_status.map_or(String::new(), |status| format!(", HTTP status {status}"));
    format!("row {number} was told last: {}{status}", error.code)
}

fn told(number: u32, error: &RowError) -> String {
    // A throttled answer is no attempt; its message says since when.
    let attempt = error.attempts.last().filter(|attempt| attempt.code == error.code);
    let at = attempt.map_or(String::new(), |attempt| format!(" ({})", attempt.at));
    // A text stands in the message already.
    let body = error.detail.as_ref().filter(|body| !body.is_string());
    let body: String =
        body.map_or(String::new(), |body| format!(": {body}")).chars().take(MOST_TOLD).collect();
    format!("row {number} was told last{at}: {}{body}", error.message)
}

/// Why no worker can process it, as far as one has tried.
async fn fault(services: &Services, batch: &Batch) -> Result<Option<Wait>, FlowError> {
    let faults = services.store.faults().await?;
    let fault = faults.into_iter().find(|fault| fault.seq == batch.seq);
    Ok(fault.map(|fault| {
        let sentence = format!("since {} no worker can process it: {}", fault.since, fault.reason);
        wait("unprocessable", sentence, None)
    }))
}

/// Nothing moves before what holds everything up is over, whatever else is waited for: the queue, the limiter, an open
/// breaker, an operator's pause and a batch that no worker can process for nobody knows how long, what has an end until then.
fn promise_no_more_than_comes_true(waits: &mut [Wait]) {
    const UNKNOWN: [&str; 5] =
        ["queue_away", "limiter_unavailable", "breaker_open", "dependency_paused", "unprocessable"];
    const KNOWN: [&str; 4] = ["throttled", "outside_hours", "credentials_unavailable", "budget_used_up"];
    let unknown = waits.iter().any(|wait| UNKNOWN.contains(&wait.reason.as_str()));
    let paused = waits.iter().filter(|wait| KNOWN.contains(&wait.reason.as_str()));
    let paused_until = paused.filter_map(|wait| wait.until).max();
    // When a breaker is tried next is known.
    for wait in waits.iter_mut().filter(|wait| wait.reason != "breaker_open") {
        wait.until =
            if unknown { None } else { wait.until.map(|until| until.max(paused_until.unwrap_or(until))) };
    }
}

/// The queue, when it does not answer or, for a pipeline's rows, is full.
async fn queue(services: &Services, rows_of: Option<(&str, Option<Timestamp>)>) -> Option<Wait> {
    let backlog = match services.queue.backlog().await {
        Ok(backlog) => backlog,
        Err(error) => return Some(wait("queue_away", format!("the queue does not answer: {error}"), None)),
    };
    let (pipeline, next_run) = rows_of?;
    let lane = backlog.get(&Lane::Rows(pipeline.to_owned())).copied().unwrap_or(0);
    (lane >= u64::from(FULL_LANE)).then(|| {
        wait("queue_full", format!("{lane} messages of `{pipeline}` wait for workers already"), next_run)
    })
}

async fn running(
    services: &Services,
    caller: Option<&Caller>,
    batch: &Batch,
    pace: &Pace,
    reveal: bool,
) -> Result<Vec<Wait>, FlowError> {
    let ledger = &batch.ledger;
    let counts = ledger.counts;
    if ledger.cancelled_at.is_some() {
        return Ok(vec![wait("cancelling", "it is being cancelled; its last rows in flight end", None)]);
    }
    let mut waits = Vec::new();
    if ledger.paused {
        waits.push(wait("paused", "somebody paused it; `resume` lets it go on", None));
    }
    if ledger.held {
        let words = if reveal { view::hold_words(services, batch).await? } else { None };
        let why = view::held_reason(ledger, words.as_deref())
            .unwrap_or_else(|| "too many of its rows failed".to_owned());
        waits.push(wait("held", why, None));
    }
    let stands = ledger.paused || ledger.held;
    if counts.pending > 0 && !stands {
        releases(services, batch, pace, &mut waits).await?;
    }
    if counts.queued + counts.processing > 0 || !stands {
        match services.definition_of(batch).await {
            Ok(pipeline) => waits.extend(waiting_calls::of(services, caller, batch, &pipeline).await?),
            Err(error) => waits.push(wait("definition", error.to_string(), None)),
        }
    }
    if waits.is_empty() && counts.queued + counts.processing > 0 && counts.pending == 0 {
        let (queued, processing) = (counts.queued, counts.processing);
        let sentence =
            format!("{queued} rows are on their way to a worker, {processing} are being carried through");
        waits.push(wait("in_flight", sentence, None));
    }
    Ok(waits)
}

/// What keeps the next run from releasing its rows.
async fn releases(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    waits: &mut Vec<Wait>,
) -> Result<(), FlowError> {
    let now = services.clock.now();
    let next_run = pace.next_run(now);
    if pace.is_late(now) {
        let since = pace.last_run.map_or("yet".to_owned(), |last| format!("since {last}"));
        waits.push(wait(
            "no_runs",
            format!("no dispatcher run came {since}: rows are released by none"),
            None,
        ));
    }
    let siblings = view::running_beside(services, batch).await?;
    let in_flight = |one: &Batch| one.ledger.counts.queued + one.ledger.counts.processing;
    let of_owner: u32 = siblings.iter().map(in_flight).sum();
    let of_pipeline: u32 = siblings.iter().filter(|one| one.pipeline == batch.pipeline).map(in_flight).sum();
    let quota = pace.quota(services, batch);
    let others = siblings.len().saturating_sub(1);
    if of_owner >= quota.owner {
        let sentence = format!(
            "the owner's quota of {} rows is in flight ({of_owner}), shared with {others} other batches",
            quota.owner
        );
        waits.push(wait("owner_quota", sentence, next_run));
    } else if of_pipeline >= quota.pipeline {
        let sentence = format!(
            "the owner's quota of {} rows for `{}` is in flight ({of_pipeline})",
            quota.pipeline, batch.pipeline
        );
        waits.push(wait("pipeline_quota", sentence, next_run));
    }
    let before = siblings
        .iter()
        .filter(|one| one.priority > batch.priority && one.ledger.counts.pending > 0 && one.runs())
        .count();
    if before > 0 {
        let sentence = format!("{before} batches of the owner have a higher priority, and go first");
        waits.push(wait("behind", sentence, next_run));
    }
    if pace.capped {
        let sentence = "the last run released as many rows as a run may for all owners (ROWS_PER_RUN)";
        waits.push(wait("run_cap", sentence, next_run));
    }
    waits.extend(queue(services, Some((&batch.pipeline, next_run))).await);
    returned(services, batch, waits).await
}

/// Rows that were called for before, and wait for their time.
async fn returned(services: &Services, batch: &Batch, waits: &mut Vec<Wait>) -> Result<(), FlowError> {
    let polling = services.store.polling(batch.seq).await?;
    if let Some(polling) = polling {
        let rows = polling.rows;
        let sentence = format!(
            "{rows} rows wait for results, or for answers to other rows' calls; the next one looks again then"
        );
        waits.push(wait("polling", sentence, polling.next_look));
    }
    let polling = polling.map_or(0, |polling| polling.rows);
    let returned = batch.ledger.returned().saturating_sub(polling);
    if returned > 0 && batch.ledger.fresh() == 0 {
        let due = services.store.next_due(batch.seq).await?;
        waits.push(wait("backoff", format!("{returned} rows came back and wait for their time"), due));
    }
    Ok(())
}

async fn one_row(
    services: &Services,
    batch: &Batch,
    number: u32,
    next_run: Option<Timestamp>,
) -> Result<Wait, FlowError> {
    let Some(record) = services.store.row(batch.seq, number).await? else {
        return Ok(wait("no_such_row", format!("the batch has no row {number} (yet)"), None));
    };
    let mut why = record.code.as_deref().map_or(String::new(), |code| format!(", last because of {code}"));
    if record.crashes > 0 && !record.status.is_terminal() {
        let died =
            if record.crashes == 1 { "a worker".to_owned() } else { format!("{} workers", record.crashes) };
        why = format!("{why}; {died} died while processing it, so it runs with no other row beside it");
    }
    Ok(match record.status {
        RowStatus::Pending => {
            let until = record.not_before.filter(|at| *at > services.clock.now()).or(next_run);
            wait("pending", format!("row {number} waits to be released{why}"), until)
        }
        // Its start is in its message, and what SQL knows is only when it counts as lost.
        RowStatus::Queued => wait("queued", format!("row {number} is on its way to a worker{why}"), None),
        RowStatus::Processing => {
            let holder = record.holder.unwrap_or_default();
            wait("processing", format!("row {number} runs on {holder}{why}"), None)
        }
        ended => wait("ended", format!("row {number} is {}{why}", ended.name()), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_promised_that_something_else_holds_up() {
        let at = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        let until = |mut waits: Vec<Wait>| {
            promise_no_more_than_comes_true(&mut waits);
            waits.into_iter().map(|wait| wait.until).collect::<Vec<_>>()
        };
        let run = || wait("owner_quota", "", at(5));
        assert_eq!(until(vec![run(), wait("throttled", "", at(90))]), [at(90), at(90)]);
        assert_eq!(until(vec![run(), wait("throttled", "", at(2))]), [at(5), at(2)]);
        assert_eq!(until(vec![wait("paused", "", None), wait("throttled", "", at(90))]), [None, at(90)]);
        assert_eq!(until(vec![run(), wait("breaker_open", "", at(60))]), [None, at(60)]);
        assert_eq!(until(vec![run(), wait("outside_hours", "", at(90))]), [at(90), at(90)]);
        assert_eq!(until(vec![run(), wait("dependency_paused", "", None)]), [None, None]);
        assert_eq!(until(vec![run(), wait("queue_away", "", None)]), [None, None]);
        assert_eq!(until(vec![run(), wait("rate_limited", "", at(7))]), [at(5), at(7)]);
    }
}
