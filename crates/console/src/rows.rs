//! The rows of a batch.

use askama::Template;
use penstock_flow::read::row_view::RowView;

use crate::layout::Page;
use crate::show::{Badge, number, row_badge};

const STATES: [&str; 6] = ["pending", "queued", "processing", "completed", "failed", "cancelled"];

/// What the rows are narrowed to, as the form shows it again.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// The state; empty: all.
    pub status: String,
    /// The code; empty: all.
    pub code: String,
    /// The step where they failed; empty: all.
    pub step: String,
    /// The line in the file; empty: all.
    pub line: String,
}

/// The page.
#[derive(Template)]
#[template(path = "rows.html")]
pub struct Rows<'a> {
    /// Its frame.
    pub page: Page,
    /// The batch's id.
    pub batch: String,
    /// What a person calls the batch.
    pub name: String,
    /// The pipeline's steps.
    pub steps: Vec<String>,
    /// The rows, in the file's order.
    pub rows: &'a [RowView],
    /// What they are narrowed to.
    pub chosen: Chosen,
    /// Whether the batch has ended.
    pub ended: bool,
    /// Whether this is not the first page.
    pub further: bool,
    /// The address of the next page.
    pub next: Option<String>,
}

impl Rows<'_> {
    fn badge(&self, row: &RowView) -> Badge {
        row_badge(row.status)
    }

    fn grouped(&self, count: &u32) -> String {
        number(*count)
    }

    /// Whether the page shows something else later: a row that has not ended, or one that comes behind its last one.
    fn may_change(&self) -> bool {
        let open = |row: &RowView| !row.status.is_terminal();
        !self.ended && (self.next.is_none() || self.rows.iter().any(open))
    }

    fn is_narrow(&self) -> bool {
        let Chosen { status, code, step, line } = &self.chosen;
        [status, code, step, line].into_iter().any(|chosen| !chosen.is_empty())
    }

    fn result(&self, row: &RowView) -> String {
        let Some(result) = &row.result else { return String::new() };
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match result.as_object() {
            Some(columns) => columns
                .iter()
                .map(|(name, value)| format!("{name}: {}", text(value)))
                .collect::<Vec<_>>()
                .join(", "),
            None => text(result),
        }
    }
}
