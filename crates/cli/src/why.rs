//! `penstock why`: what a batch or a row waits for.

use penstock_app::StartError;
use penstock_domain::ids::BatchId;
use penstock_flow::read::waiting;
use penstock_flow::read::waits::Wait;

use crate::open::{Opened, said};
use crate::output::Output;
use crate::socket::{self, Answer, Question};

pub async fn run(opened: &Opened, batch: BatchId, row: Option<u32>, out: Output) -> Result<bool, StartError> {
    let waits = if opened.chosen.local {
        beside_the_service(opened, batch, row).await?
    } else {
        explain(opened, batch, row).await?
    };
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

/// On one machine the limits are the service's own: it is asked, or else it is said what is not seen.
async fn beside_the_service(
    opened: &Opened,
    batch: BatchId,
    row: Option<u32>,
) -> Result<Vec<Wait>, StartError> {
    let reason = match socket::ask(&opened.settings, &Question::Why { batch, row }).await {
        Ok(Answer::Waits(waits)) => return Ok(waits),
        Ok(Answer::Failed(error)) => error,
        Ok(_) => "it answered something else".to_owned(),
        Err(error) => error,
    };
    let mut waits = explain(opened, batch, row).await?;
    waits.push(Wait {
        reason: "limits_unseen".to_owned(),
        sentence: format!(
            "rates, pauses and breakers are in the service's own process and cannot be seen: {reason}"
        ),
        until: None,
    });
    Ok(waits)
}

async fn explain(opened: &Opened, batch: BatchId, row: Option<u32>) -> Result<Vec<Wait>, StartError> {
    let batch = opened.batch(batch).await?;
    let chosen = &opened.chosen;
    let caller = (!chosen.local).then_some(chosen.caller.as_ref());
    waiting::explain(&chosen.services, caller, &batch, row, opened.settings.rows_per_owner, false)
        .await
        .map_err(said)
}
