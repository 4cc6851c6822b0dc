//! One row.

use std::collections::BTreeMap;

use askama::Template;
use askama::filters::Safe;
use penstock_domain::time::Timestamp;
use penstock_flow::read::row_view::RowView;
use penstock_flow::read::waits::Wait;

use crate::layout::Page;
use crate::show::{Badge, moment, number, row_badge};

/// The page.
#[derive(Template)]
#[template(path = "row.html")]
pub struct RowPage<'a> {
    /// Its frame.
    pub page: Page,
    /// The batch's id.
    pub batch: String,
    /// What a person calls the batch.
    pub name: String,
    /// The row; with what was sent and its values once they were revealed.
    pub row: &'a RowView,
    /// What it waits for; empty once it has ended.
    pub waits: Vec<Wait>,
    /// Whether its values were revealed.
    pub revealed: bool,
}

impl RowPage<'_> {
    fn badge(&self) -> Badge {
        row_badge(self.row.status)
    }

    fn number(&self) -> String {
        number(self.row.number)
    }

    fn line(&self) -> String {
        number(self.row.line)
    }

    fn moment(&self, at: &Timestamp) -> Safe<String> {
        moment(*at, self.page.now)
    }

    fn values(&self) -> Option<&BTreeMap<String, String>> {
        self.row.values.as_ref()
    }

    fn result(&self) -> Option<String> {
        self.row.result.as_ref().map(pretty)
    }

    fn detail(&self) -> Option<String> {
        self.row.error.as_ref()?.detail.as_ref().map(pretty)
    }
}

fn pretty(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}
