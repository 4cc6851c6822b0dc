//! `penstock why`: what a batch or a row waits for.

use penstock_app::StartError;
use penstock_domain::ids::BatchId;
use penstock_flow::waiting;

use crate::open::{Opened, said};
use crate::output::Output;

pub async fn run(opened: &Opened, batch: BatchId, row: Option<u32>, out: Output) -> Result<bool, StartError> {
    let batch = opened.batch(batch).await?;
    let chosen = &opened.chosen;
    // Limits that live in the service's own process are not seen from here.
    let caller = (!chosen.local).then_some(chosen.caller.as_ref());
    let waits = waiting::explain(&chosen.engines, caller, &batch, row, opened.settings.rows_per_owner)
        .await
        .map_err(said)?;
    out.say(&waits, || {
        let lines: Vec<String> = waits
            .iter()
            .map(|wait| match wait.until {
                Some(until) => format!("{}: {} (until {until})", wait.reason, wait.sentence),
                None => format!("{}: {}", wait.reason, wait.sentence),
            })
            .collect();
        lines.join("\n")
    });
    Ok(true)
}
