//! What downloads are saved as.

use penstock_store::batches::Batch;

/// Characters of a batch's name in the name of a file.
const NAME_CHARS: usize = 40;

/// What a report is saved as: somebody with many of them in a folder sees of which batch each is.
pub(crate) fn file_name(batch: &Batch, report: &str) -> String {
    let name = batch.name.as_deref().unwrap_or_default();
    let plain: String = name
        .chars()
        .take(NAME_CHARS)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    let plain = plain.trim_matches(['-', '.']);
    let between = if plain.is_empty() { "" } else { "-" };
    format!("{}{between}{plain}-{}-{report}", batch.pipeline, batch.id)
}
