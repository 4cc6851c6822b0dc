//! Rows of a batch by the code that they failed with, and what keeps the whole batch from going on.

use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::read::{standing, view, waiting};

/// Rows of one code and step.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CodeGroup {
    /// The code.
    pub code: String,
    /// The step; none when the rows failed before their first one.
    pub step: Option<String>,
    /// How many rows.
    pub count: u32,
    /// The numbers of three of them, the first ones.
    #[serde(skip)]
    pub sample: Vec<u32>,
}

/// Rows of a batch by code and step, most frequent first.
///
/// # Errors
/// When the database fails.
pub async fn by_code(services: &Services, batch: &Batch) -> Result<Vec<CodeGroup>, FlowError> {
    let groups = services.store.error_groups(batch.seq).await?;
    // A definition that no longer loads here keeps nobody from the codes.
    let pipeline = if groups.is_empty() { None } else { services.definition_of(batch).await.ok() };
    let step_name = |step: u16| Some(pipeline.as_ref()?.steps.get(usize::from(step))?.name.clone());
    Ok(groups
        .into_iter()
        .map(|group| CodeGroup {
            step: group.step.and_then(step_name),
            code: group.code,
            count: group.count,
            sample: group.sample,
        })
        .collect())
}

/// What keeps a whole batch from going on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Blocked {
    /// `held`: its canary or an answer holds it, until somebody resumes or cancels it. `stalled`: none of its rows is completed two
    /// minutes after its start, and those that were tried failed or wait with one code.
    pub reason: &'static str,
    /// That code, or the code of the answer; none where its canary holds it.
    pub code: Option<String>,
    /// The step that was answered so, where an answer holds it.
    pub step: Option<String>,
    /// In the API's own words where there are any.
    pub message: Option<String>,
    /// Since when it is held, or works without a result.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Rows that have the code, of the first hundred, where it is stalled.
    pub rows: Option<u32>,
}

/// What keeps a batch from going on, while something does.
///
/// # Errors
/// When the database fails.
pub async fn blocked(services: &Services, batch: &Batch) -> Result<Option<Blocked>, FlowError> {
    let ledger = &batch.ledger;
    if ledger.is_finished() || ledger.cancelled_at.is_some() {
        return Ok(None);
    }
    if ledger.held {
        let hold = ledger.hold.clone();
        let message = match view::hold_words(services, batch).await? {
            Some(words) => Some(words),
            None => view::held_reason(ledger, None),
        };
        return Ok(Some(Blocked {
            reason: "held",
            code: hold.as_ref().map(|hold| hold.code.clone()),
            step: hold.as_ref().and_then(|hold| hold.step.clone()),
            message,
            since: hold.map(|hold| hold.since),
            rows: None,
        }));
    }
    let Some(stalled) = standing::find_stalled(services, batch).await? else { return Ok(None) };
    let told = match services.store.waiting_with_error(batch.seq).await? {
        Some(number) => waiting::waiting_error(services, batch, number).await?,
        None => None,
    };
    let told = told.filter(|error| error.code == stalled.code).map(|error| error.message);
    Ok(Some(Blocked {
        reason: "stalled",
        code: Some(stalled.code),
        step: None,
        message: told,
        since: Some(stalled.since),
        rows: Some(stalled.rows),
    }))
}
