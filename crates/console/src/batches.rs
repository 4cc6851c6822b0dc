//! The list of batches.

use askama::Template;
use askama::filters::Safe;
use penstock_domain::csv::shows_nothing;
use penstock_domain::time::Timestamp;
use penstock_flow::read::view::BatchView;

use crate::layout::Page;
use crate::show::{Badge, badges, bar, due, moment, number, share};

/// What the list is narrowed to, as the form shows it again.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Text in the name or a label.
    pub search: String,
    /// Labels, commas between them; empty: all.
    pub label: String,
    /// The pipeline; empty: all.
    pub pipeline: String,
    /// The state; empty: all.
    pub status: String,
    /// The outcome; empty: all.
    pub outcome: String,
    /// The owner, for admin keys; empty: all.
    pub owner: String,
    /// Created on or after this day.
    pub from: String,
    /// The zone in which that day begins, as `+02:00`; empty: UTC.
    pub from_offset: String,
    /// Created before this day.
    pub to: String,
    /// The same of this one.
    pub to_offset: String,
}

impl Chosen {
    /// Whether anything is left out.
    pub fn is_narrow(&self) -> bool {
        [
            &self.search,
            &self.label,
            &self.pipeline,
            &self.status,
            &self.outcome,
            &self.owner,
            &self.from,
            &self.to,
        ]
        .iter()
        .any(|value| !value.is_empty())
    }
}

/// A line of the list.
pub struct Line<'a> {
    /// The batch.
    pub view: &'a BatchView,
    /// Whose it is; shown to admin keys.
    pub owner: &'a str,
}

impl Line<'_> {
    /// What a person calls it: its name, or the end of its id.
    pub fn name(&self) -> String {
        name_of(self.view)
    }

    fn badges(&self) -> Vec<Badge> {
        badges(self.view)
    }

    fn bar(&self) -> Safe<String> {
        bar(&self.view.counts)
    }

    fn rows(&self) -> String {
        number(self.view.counts.total)
    }

    fn failed(&self) -> String {
        number(self.view.counts.failed)
    }

    fn failed_share(&self) -> String {
        share(self.view.counts.failed, self.view.counts.total)
    }

    fn id(&self) -> String {
        self.view.id.to_string()
    }

    fn ended(&self) -> bool {
        self.view.finished_at.is_some()
    }

    fn eta(&self, now: &Timestamp) -> Option<Safe<String>> {
        self.view.eta.filter(|_| !self.ended()).map(|at| due(at, *now))
    }

    fn age(&self, now: &Timestamp) -> Safe<String> {
        moment(self.view.created_at, *now)
    }
}

/// What a person calls a batch: its name, or the end of its id, which tells batches of one day apart.
pub fn name_of(view: &BatchView) -> String {
    view.name.clone().filter(|name| !shows_nothing(name)).unwrap_or_else(|| {
        let id = view.id.to_string();
        format!("…{}", &id[id.len().saturating_sub(8)..])
    })
}

/// The page.
#[derive(Template)]
#[template(path = "batches.html")]
pub struct Batches<'a> {
    /// Its frame.
    pub page: Page,
    /// The batches, newest first.
    pub lines: Vec<Line<'a>>,
    /// The newest one's number among all batches; 0 when there is none.
    pub newest: i64,
    /// What it is narrowed to.
    pub chosen: Chosen,
    /// Pipelines to choose from.
    pub pipelines: Vec<String>,
    /// Owners to choose from; none for owners.
    pub owners: Vec<String>,
    /// Whether this is not the first page.
    pub further: bool,
    /// The address of the page with older ones.
    pub next: Option<String>,
}

const STATES: [&str; 6] = ["pending", "processing", "queued", "completed", "cancelled", "failed"];
const OUTCOMES: [(&str, &str); 3] =
    [("success", "success"), ("partial_success", "partial success"), ("failure", "failure")];

/// The cells of one line: what is sent to those who watch the list.
#[derive(Template)]
#[template(path = "batch-line.html")]
pub struct LineCells<'a> {
    /// The line.
    pub line: &'a Line<'a>,
    /// Whether the owner is shown.
    pub admin: bool,
    /// Now.
    pub now: Timestamp,
}

impl Batches<'_> {
    fn admin(&self) -> bool {
        self.page.viewer.as_ref().is_some_and(|viewer| viewer.admin)
    }

    fn cells<'b>(&self, line: &'b Line<'b>) -> Result<Safe<String>, askama::Error> {
        LineCells { line, admin: self.admin(), now: self.page.now }.render().map(Safe)
    }

    /// The zone of a day, for people.
    fn zone(&self, offset: &str) -> String {
        format!("UTC{offset}")
    }

    /// What came before the list; none where newer batches are no part of it.
    fn newer(&self) -> Option<i64> {
        (!self.further && !self.chosen.is_narrow()).then_some(self.newest)
    }

    /// Ids of the batches that may still change.
    fn live(&self) -> String {
        let ids = self.lines.iter().filter(|line| !line.ended()).map(Line::id);
        ids.collect::<Vec<_>>().join(",")
    }
}
