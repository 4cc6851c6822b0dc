//! How many rows of a batch found an answer that another row had asked for.

use penstock_store::answers::AnswerCount;
use penstock_store::batches::Batch;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::read::waits::{Wait, wait};

/// What is counted, by step; nothing for a batch without such steps.
///
/// # Errors
/// When the database fails.
pub(super) async fn counted(services: &Services, batch: &Batch) -> Result<Vec<Wait>, FlowError> {
    let counts = services.store.answer_counts(batch.seq).await?;
    if counts.is_empty() {
        return Ok(Vec::new());
    }
    // A definition that does not load here has its steps all the same.
    let pipeline = services.definition_of(batch).await.ok();
    let said = counts.into_iter().map(|AnswerCount { step, found, asked, .. }| {
        let named = pipeline.as_ref().and_then(|pipeline| pipeline.steps.get(usize::from(step)));
        let name = named.map_or_else(|| step.to_string(), |step| step.name.clone());
        wait("cache", format!("step `{name}`: {found} rows found a kept answer, {asked} asked for one"), None)
    });
    Ok(said.collect())
}
