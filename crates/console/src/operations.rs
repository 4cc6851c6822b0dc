//! How the installation does, for admin keys.

use askama::Template;
use askama::filters::Safe;
use penstock_domain::time::Timestamp;
use penstock_flow::operate::finding::Finding;
use penstock_flow::operate::health::{HealthLine, Verdict};
use penstock_flow::operate::operations::OperationsView;
use penstock_store::dispatch::RunRecord;

use crate::layout::Page;
use crate::show::{Badge, moment, number, sentence, span};

/// What is stuck, as it was found or fixed.
pub struct Stuck {
    /// Each kind of fault.
    pub findings: Vec<Finding>,
    /// How many of them can be fixed here.
    pub planned: usize,
    /// Whether that was done.
    pub applied: bool,
}

impl Stuck {
    fn found(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.count > 0)
    }

    fn is_nothing(&self) -> bool {
        self.found().next().is_none()
    }
}

/// The page.
#[derive(Template)]
#[template(path = "operations.html")]
pub struct Operations<'a> {
    /// Its frame.
    pub page: Page,
    /// What is shown.
    pub view: &'a OperationsView,
    /// What is stuck, when it was looked for.
    pub stuck: Option<Stuck>,
}

impl Operations<'_> {
    fn moment(&self, at: &Timestamp) -> Safe<String> {
        moment(*at, self.page.now)
    }

    fn took(&self, run: &RunRecord) -> String {
        format!(
            "{} ms",
            number(u64::try_from(run.finished_at.since(run.started_at).as_millis()).unwrap_or(u64::MAX))
        )
    }

    /// How long after the run before it a run began.
    fn after(&self, index: &usize) -> String {
        let (run, before) = (self.view.runs.get(*index), self.view.runs.get(*index + 1));
        let gap = run.zip(before).map(|(run, before)| run.started_at.since(before.started_at));
        gap.map(span).unwrap_or_default()
    }

    fn share(&self, share: &f64) -> String {
        if *share > 0.0 { format!("{:.0} %", share * 100.0) } else { String::new() }
    }

    fn badge(&self, line: &HealthLine) -> Badge {
        let kind = match line.verdict {
            Verdict::Ok => "good",
            Verdict::Warn => "warn",
            Verdict::Fail => "bad",
        };
        Badge { text: line.verdict.name(), kind }
    }

    fn sentence(&self, text: &str) -> Safe<String> {
        sentence(text)
    }

    fn count(&self, count: &usize) -> String {
        number(*count as u64)
    }

    fn grouped(&self, count: &u32) -> String {
        number(*count)
    }

    fn long(&self, count: &u64) -> String {
        number(*count)
    }
}
