//! `penstock doctor`: each service, the schema, keys, pipelines, their dependencies, runs and background tasks, each line with
//! what was found and how to fix it.

mod background;
mod dependencies;
mod disk;

use penstock_app::StartError;
use penstock_flow::operate::health::{self, Verdict};

use crate::open::Opened;
use crate::output::Output;

pub async fn run(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let mut findings = health::look(&opened.chosen.services).await;
    dependencies::pipelines(opened, &mut findings);
    dependencies::files(opened, &mut findings);
    dependencies::dependencies(opened, &mut findings).await;
    background::background(opened, &mut findings).await;
    disk::disk(opened, &mut findings);
    let lines = findings.0;
    let healthy = lines.iter().all(|line| line.verdict != Verdict::Fail);
    out.say(&lines, || {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| format!("{:<4}  {:<12} {}", line.verdict.name(), line.what, line.found))
            .collect();
        lines.join("\n")
    });
    Ok(healthy)
}
