//! `penstock doctor`: each service, the schema, keys, pipelines, their dependencies, runs and background tasks, each line with
//! what was found and how to fix it.

mod activity;
mod dependencies;
mod keys;
mod services;

use penstock_app::StartError;
use serde_json::json;

use crate::open::Opened;
use crate::output::Output;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Line {
    verdict: Verdict,
    what: &'static str,
    found: String,
}

#[derive(Default)]
struct Findings(Vec<Line>);

impl Findings {
    fn say(&mut self, verdict: Verdict, what: &'static str, found: impl Into<String>) {
        self.0.push(Line { verdict, what, found: found.into() });
    }

    fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Ok, what, found);
    }

    fn warn(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Warn, what, found);
    }

    fn fail(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Fail, what, found);
    }
}

pub async fn run(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let mut findings = Findings::default();
    if services::database(opened, &mut findings).await {
        keys::keys(opened, &mut findings).await;
        activity::workers(opened, &mut findings).await;
        activity::runs(opened, &mut findings).await;
        activity::batches(opened, &mut findings).await;
    }
    services::objects(opened, &mut findings).await;
    services::queue(opened, &mut findings).await;
    dependencies::pipelines(opened, &mut findings);
    dependencies::files(opened, &mut findings);
    dependencies::dependencies(opened, &mut findings).await;
    activity::background(opened, &mut findings).await;
    services::disk(opened, &mut findings);
    let lines = findings.0;
    let healthy = lines.iter().all(|line| line.verdict != Verdict::Fail);
    let word = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    };
    let value: Vec<_> = lines
        .iter()
        .map(|line| json!({ "verdict": word(line.verdict), "what": line.what, "found": line.found }))
        .collect();
    out.say(&value, || {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| format!("{:<4}  {:<12} {}", word(line.verdict), line.what, line.found))
            .collect();
        lines.join("\n")
    });
    Ok(healthy)
}
