//! The background tasks of a service on this machine.

use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_flow::context::periodic::TaskStatus;
use penstock_flow::operate::health::Findings;

use crate::open::Opened;
use crate::socket::{self, Answer, Question};

/// A background task that runs for longer than this, and than its period, is worth a word.
const LONG_RUN: Duration = Duration::from_secs(60);

/// Background tasks, as the service on this machine reports them. Those of a cluster report failures in their logs.
pub(super) async fn background(opened: &Opened, findings: &mut Findings) {
    if !opened.chosen.local {
        return;
    }
    let unseen = match socket::ask(&opened.settings, &Question::Background).await {
        Ok(Answer::Background(tasks)) => {
            for task in &tasks {
                report(task, opened.chosen.services.clock.now(), findings);
            }
            return;
        }
        Ok(Answer::Failed(error)) | Err(error) => error,
        Ok(_) => "it answered something else".to_owned(),
    };
    findings.warn("background", format!("the service's background tasks cannot be seen: {unseen}"));
}

fn report(task: &TaskStatus, now: Timestamp, findings: &mut Findings) {
    let name = &task.name;
    let seconds = |at: Timestamp| now.since(at).as_secs();
    let period = Duration::from_millis(task.period_ms);
    let counts = format!("{} runs, {} of them failed", task.runs, task.failures);
    let under_way = task.started_at.filter(|began| task.ended_at.is_none_or(|ended| ended < *began));
    if let Some(error) = task.last_error.as_ref().filter(|_| task.failing) {
        let found = format!("`{name}` failed {} s ago: {}; {counts}", seconds(error.at), error.error);
        findings.warn("background", found);
    } else if let Some(began) = under_way.filter(|began| now.since(*began) > LONG_RUN.max(period)) {
        let found = format!("`{name}` has been running for {} s; {counts}", seconds(began));
        findings.warn("background", found);
    } else if let Some(ended) = task.ended_at {
        findings.ok("background", format!("`{name}` ran {} s ago; {counts}", seconds(ended)));
    } else {
        findings.ok("background", format!("`{name}` has not run yet; it runs every {} s", period.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use penstock_flow::context::periodic::TaskError;
    use penstock_flow::operate::health::Verdict;

    use super::*;

    #[test]
    fn a_background_task_that_fails_or_hangs_is_a_warning() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let well = TaskStatus {
            name: "retention".into(),
            period_ms: 600_000,
            runs: 3,
            failures: 1,
            started_at: Some(at(90)),
            ended_at: Some(at(95)),
            last_error: Some(TaskError { at: at(50), error: "out of order".into() }),
            failing: false,
        };
        let line = |status: &TaskStatus, now: i64| {
            let mut findings = Findings::default();
            report(status, at(now), &mut findings);
            let line = findings.0.remove(0);
            (line.verdict == Verdict::Ok, line.found)
        };
        assert_eq!(line(&well, 100), (true, "`retention` ran 5 s ago; 3 runs, 1 of them failed".into()));
        let failing = TaskStatus { failing: true, ..well.clone() };
        let failed = "`retention` failed 50 s ago: out of order; 3 runs, 1 of them failed";
        assert_eq!(line(&failing, 100), (false, failed.into()));
        let hangs = TaskStatus { started_at: Some(at(96)), ..well.clone() };
        assert!(line(&hangs, 600).0, "it may take as long as its period");
        let hung = "`retention` has been running for 604 s; 3 runs, 1 of them failed";
        assert_eq!(line(&hangs, 700), (false, hung.into()));
        let new = TaskStatus { started_at: None, ended_at: None, ..well };
        assert_eq!(line(&new, 100), (true, "`retention` has not run yet; it runs every 600 s".into()));
    }
}
