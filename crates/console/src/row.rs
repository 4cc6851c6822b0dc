//! One row.

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use askama::filters::Safe;
use penstock_domain::row::{AttemptRecord, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_flow::read::row_view::RowView;
use penstock_flow::read::waits::Wait;

use crate::layout::Page;
use crate::show::{Badge, due, moment, number, row_badge, span, waited_for};

/// How far a row is at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// It was finished.
    Done,
    /// The row failed at it.
    Failed,
    /// The row is at it.
    Current,
    /// The row never came to it.
    NotReached,
    /// Nobody recorded it: of a row under way whose steps had no error, for one.
    Unknown,
}

/// A step of the row.
#[derive(Clone, Debug)]
pub struct StepLine {
    /// Its name; none: what is before the first one.
    pub name: Option<String>,
    /// How far the row is.
    pub state: StepState,
    /// Its attempts that failed, oldest first, with the pause before each.
    pub attempts: Vec<(Option<Duration>, AttemptRecord)>,
}

impl StepLine {
    /// The row's steps: those of its pipeline, in order, and what was before them.
    pub fn all(names: &[String], row: &RowView) -> Vec<Self> {
        let error = row.error.as_ref();
        let attempts = error.map_or(&[][..], |error| &error.attempts);
        let at = error.and_then(|error| error.step.as_deref());
        let place = at.and_then(|at| names.iter().position(|name| name == at));
        let mut lines = Vec::with_capacity(names.len() + 1);
        let before = attempts_of(None, attempts);
        if !before.is_empty() {
            let state = if row.status == RowStatus::Failed && at.is_none() {
                StepState::Failed
            } else {
                StepState::Done
            };
            lines.push(Self { name: None, state, attempts: before });
        }
        for (index, name) in names.iter().enumerate() {
            let state = match (row.status, place) {
                (RowStatus::Completed, _) if error.is_none() => StepState::Done,
                (_, Some(place)) if index < place => StepState::Done,
                (RowStatus::Failed, Some(place)) if index == place => StepState::Failed,
                (RowStatus::Cancelled | RowStatus::Failed, Some(_)) => StepState::NotReached,
                (_, Some(place)) if index == place => StepState::Current,
                (RowStatus::Processing, None) if index == 0 && names.len() == 1 => StepState::Current,
                (_, Some(_)) => StepState::NotReached,
                _ => StepState::Unknown,
            };
            lines.push(Self { name: Some(name.clone()), state, attempts: attempts_of(Some(name), attempts) });
        }
        // Steps that the definition at hand does not name: it is another version, or does not load.
        for name in attempts.iter().filter_map(|attempt| attempt.step.as_deref()).chain(at) {
            if !lines.iter().any(|line| line.name.as_deref() == Some(name)) {
                let has_failed = at == Some(name) && row.status == RowStatus::Failed;
                let state = if has_failed { StepState::Failed } else { StepState::Unknown };
                lines.push(Self {
                    name: Some(name.to_owned()),
                    state,
                    attempts: attempts_of(Some(name), attempts),
                });
            }
        }
        lines
    }

    fn badge(&self) -> Option<Badge> {
        Some(match self.state {
            StepState::Unknown => return None,
            StepState::Done => Badge { text: "done", kind: "good" },
            StepState::Failed => Badge { text: "failed", kind: "bad" },
            StepState::Current => Badge { text: "here", kind: "run" },
            StepState::NotReached => Badge { text: "not reached", kind: "idle" },
        })
    }
}

/// A step's attempts, each with the time between the end of the one before and its own beginning.
fn attempts_of(step: Option<&str>, all: &[AttemptRecord]) -> Vec<(Option<Duration>, AttemptRecord)> {
    let mut before: Option<Timestamp> = None;
    let of_step = all.iter().filter(|attempt| attempt.step.as_deref() == step);
    of_step
        .map(|attempt| {
            let began = attempt.at - Duration::from_millis(attempt.took_ms.unwrap_or(0));
            let pause = before.replace(attempt.at).map(|before| began.since(before));
            (pause.filter(|pause| *pause >= Duration::from_secs(1)), attempt.clone())
        })
        .collect()
}

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
    /// Its steps.
    pub steps: Vec<StepLine>,
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

    fn due(&self, at: &Timestamp) -> Safe<String> {
        due(*at, self.page.now)
    }

    fn waited_for(&self, wait: &Wait) -> Safe<String> {
        waited_for(wait)
    }

    fn pause(&self, pause: &Duration) -> String {
        span(*pause)
    }

    fn took(&self, milliseconds: &u64) -> String {
        if *milliseconds < 10_000 {
            return format!("{} ms", number(*milliseconds));
        }
        span(Duration::from_millis(*milliseconds))
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

#[cfg(test)]
mod tests {
    use penstock_flow::read::row_view::ErrorView;

    use super::*;

    fn attempt(seconds: i64, took_ms: u64) -> AttemptRecord {
        AttemptRecord {
            at: Timestamp::from_millis(1_000_000 + seconds * 1000),
            step: Some("find".into()),
            code: "http_503".into(),
            api_code: None,
            http_status: Some(503),
            probe: false,
            took_ms: Some(took_ms),
            look: false,
        }
    }

    #[test]
    fn steps_before_the_one_that_failed_are_done() {
        let error = ErrorView {
            code: "http_503".into(),
            step: Some("find".into()),
            http_status: Some(503),
            message: String::new(),
            detail: None,
            attempts: vec![attempt(0, 100), attempt(10, 2000)],
            throttled: None,
            look: false,
        };
        let row = RowView {
            number: 1,
            line: 2,
            status: RowStatus::Failed,
            attempts: 2,
            result: None,
            error: Some(error),
            sent: None,
            values: None,
            not_before: None,
        };
        let names = ["login", "find", "invite"].map(str::to_owned);
        let lines = StepLine::all(&names, &row);
        let states: Vec<StepState> = lines.iter().map(|line| line.state).collect();
        assert_eq!(states, [StepState::Done, StepState::Failed, StepState::NotReached]);
        // A definition that does not load here names no step: the attempts are shown all the same.
        let unnamed = StepLine::all(&[], &row);
        let shown: Vec<_> = unnamed.iter().map(|line| (line.name.as_deref(), line.state)).collect();
        assert_eq!(shown, [(Some("find"), StepState::Failed)]);
        assert_eq!(unnamed[0].attempts.len(), 2);
        let pauses: Vec<_> = lines[1].attempts.iter().map(|(pause, _)| *pause).collect();
        assert_eq!(pauses, [None, Some(Duration::from_secs(8))]);
    }
}
