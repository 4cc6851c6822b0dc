//! One batch.

use std::collections::BTreeSet;

use askama::Template;
use askama::filters::Safe;
use penstock_domain::batch::BatchStatus;
use penstock_domain::outcome::code;
use penstock_domain::time::Timestamp;
use penstock_flow::read::view::BatchView;
use penstock_flow::read::waits::Wait;
use penstock_store::callbacks::{Callback, CallbackStatus};
use penstock_store::operations::AuditLine;

use crate::batches::name_of;
use crate::chart::Chart;
use crate::layout::Page;
use crate::refused::Refused;
use crate::show::{Badge, badges, bar, due, in_groups, moment, number, parts, sentence, share, waited_for};

/// Failed rows of one code and step.
#[derive(Clone, Debug)]
pub struct ErrorGroup {
    /// The code.
    pub code: String,
    /// The step; none when the row failed before its first one.
    pub step: Option<String>,
    /// How many rows.
    pub count: u32,
    /// Three of them.
    pub samples: Vec<Sample>,
}

/// A failed row, to stand for others.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its number.
    pub number: u32,
    /// Its line in the file.
    pub line: u32,
    /// What it failed with, in the API's own words.
    pub message: String,
}

/// Something that happened to the batch.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What, in a few words.
    pub what: String,
    /// Who did it, when a person or a program did.
    pub who: Option<String>,
}

/// What changes while somebody looks: counts, progress, what it waits for.
#[derive(Template)]
#[template(path = "batch-live.html")]
pub struct Live<'a> {
    /// The batch.
    pub view: &'a BatchView,
    /// What it waits for; empty once it has ended.
    pub waits: &'a [Wait],
    /// Its last hour; none when it did not run in it.
    pub chart: Option<&'a Chart>,
    /// Now.
    pub now: Timestamp,
}

impl Live<'_> {
    fn badges(&self) -> Vec<Badge> {
        badges(self.view)
    }

    fn bar(&self) -> Safe<String> {
        bar(&self.view.counts)
    }

    fn parts(&self) -> Vec<(&'static str, String, String)> {
        let counts = &self.view.counts;
        let shown = |(name, count): (&'static str, u32)| (name, number(count), share(count, counts.total));
        parts(counts).into_iter().map(shown).collect()
    }

    fn total(&self) -> String {
        number(self.view.counts.total)
    }

    fn moment(&self, at: &Timestamp) -> Safe<String> {
        moment(*at, self.now)
    }

    fn due(&self, at: &Timestamp) -> Safe<String> {
        due(*at, self.now)
    }

    fn sentence(&self, text: &str) -> Safe<String> {
        sentence(text)
    }

    /// What it waits for besides what its page says anyway.
    fn waits(&self) -> impl Iterator<Item = &Wait> {
        self.waits.iter().filter(|wait| self.view.held_reason.as_ref() != Some(&wait.sentence))
    }

    fn waited_for(&self, wait: &Wait) -> Safe<String> {
        waited_for(wait)
    }

    fn estimate(&self, text: &str) -> Safe<String> {
        sentence(&in_groups(text))
    }

    fn ended(&self) -> bool {
        self.view.finished_at.is_some()
    }
}

/// Changes when what a page offers does: then it is asked for again as a whole.
pub fn state_key(view: &BatchView) -> String {
    let flags = [view.paused, view.held, view.cancelled_at.is_some(), view.counts.failed > 0];
    let flags: String = flags.iter().map(|flag| if *flag { '1' } else { '0' }).collect();
    format!(
        "{}-{}-{flags}-{}",
        view.status.name(),
        view.run,
        view.outcome.map_or("", |outcome| outcome.name())
    )
}

/// The page.
#[derive(Template)]
#[template(path = "batch.html")]
pub struct BatchPage<'a> {
    /// Its frame.
    pub page: Page,
    /// The batch.
    pub view: &'a BatchView,
    /// Whose it is; shown to admin keys.
    pub owner: &'a str,
    /// Whether its data was erased.
    pub erased: bool,
    /// Whether the viewer may do something to it.
    pub commands: bool,
    /// What changes.
    pub live: Live<'a>,
    /// Why rows failed.
    pub errors: Vec<ErrorGroup>,
    /// What happened to it, oldest first.
    pub events: Vec<Event>,
    /// Its callbacks, newest first.
    pub callbacks: Vec<Callback>,
    /// Who did what to it, for admin keys.
    pub audit: Vec<AuditLine>,
}

/// Rows that completed as duplicates are no failed ones: a retry leaves them.
fn retried(group: &ErrorGroup) -> bool {
    group.code != code::DUPLICATE
}

/// What tells a group from others on its page.
pub fn group_key(code: &str, step: Option<&str>) -> String {
    format!("{code} {}", step.unwrap_or_default())
}

impl BatchPage<'_> {
    fn group_key(&self, group: &ErrorGroup) -> String {
        group_key(&group.code, group.step.as_deref())
    }

    fn id(&self) -> String {
        self.view.id.to_string()
    }

    fn name(&self) -> String {
        name_of(self.view)
    }

    fn admin(&self) -> bool {
        self.page.viewer.as_ref().is_some_and(|viewer| viewer.admin)
    }

    fn state_key(&self) -> String {
        state_key(self.view)
    }

    fn live(&self) -> Result<Safe<String>, askama::Error> {
        self.live.render().map(Safe)
    }

    fn runs(&self) -> bool {
        self.view.finished_at.is_none() && self.view.cancelled_at.is_none()
    }

    fn pauses(&self) -> bool {
        self.commands && self.runs() && !self.view.paused
    }

    fn resumes(&self) -> bool {
        self.commands && self.runs() && (self.view.paused || self.view.held)
    }

    fn cancels(&self) -> bool {
        self.commands && self.runs()
    }

    /// The codes of failed rows, each once, to choose from.
    fn codes(&self) -> BTreeSet<&str> {
        self.failed_groups().map(|group| group.code.as_str()).collect()
    }

    /// The steps at which rows failed, each once, to choose from.
    fn steps(&self) -> BTreeSet<&str> {
        self.failed_groups().filter_map(|group| group.step.as_deref()).collect()
    }

    fn failed_groups(&self) -> impl Iterator<Item = &ErrorGroup> {
        self.errors.iter().filter(|group| retried(group))
    }

    fn retries_group(&self, group: &ErrorGroup) -> bool {
        self.retries() && retried(group)
    }

    fn retries(&self) -> bool {
        let counts = &self.view.counts;
        let extracted =
            !matches!(self.view.status, BatchStatus::Pending | BatchStatus::Processing | BatchStatus::Failed);
        let cancelling = self.view.cancelled_at.is_some() && self.view.finished_at.is_none();
        let some = counts.failed > 0 || counts.cancelled > 0;
        self.commands && !self.erased && extracted && !cancelling && some
    }

    fn erases(&self) -> bool {
        self.commands && !self.erased && self.view.finished_at.is_some()
    }

    fn moment(&self, at: &Timestamp) -> Safe<String> {
        moment(*at, self.page.now)
    }

    fn delivery(&self, callback: &Callback) -> &'static str {
        match callback.status {
            CallbackStatus::Pending => "pending",
            CallbackStatus::Delivered => "delivered",
            CallbackStatus::Exhausted => "exhausted",
            CallbackStatus::Disabled => "disabled",
        }
    }

    fn in_groups(&self, text: &str) -> String {
        in_groups(text)
    }

    fn grouped(&self, count: &u32) -> String {
        number(*count)
    }

    /// The errors of its file, which a worker has read.
    fn refused(&self) -> Option<Refused> {
        let download = format!("/console/batches/{}/errors.csv", self.view.id);
        Refused::of_batch(self.view.failure.as_ref()?, download)
    }

    fn failure(&self) -> Option<String> {
        let failure = self.view.failure.as_ref()?;
        let message = failure["message"].as_str().or_else(|| failure["code"].as_str())?;
        Some(match failure["row"].as_u64() {
            Some(row) => format!("Row {}: {message}", number(row)),
            None => message.to_owned(),
        })
    }
}
