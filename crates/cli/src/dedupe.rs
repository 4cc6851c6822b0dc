//! `penstock dedupe …`.

use clap::Subcommand;
use penstock_app::StartError;
use penstock_flow::operate::duplicates;
use serde_json::json;

use crate::open::{Opened, said};
use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Forgets a key: the next row that has it is called for
    Forget {
        /// The key, as the definition's `dedupe.key` makes it of a row
        key: String,
        /// Whose rows
        #[arg(long)]
        owner: String,
        /// Of which pipeline
        #[arg(long)]
        pipeline: String,
    },
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let Command::Forget { key, owner, pipeline } = command;
    let services = &opened.chosen.services;
    let forgotten = duplicates::forget(services, &owner, &pipeline, &key).await.map_err(said)?;
    if forgotten {
        // The key itself is a row's, and stands in no log.
        opened.audit_done("dedupe.forget", format!("{owner}/{pipeline}")).await;
    }
    out.say(&json!({ "owner": owner, "pipeline": pipeline, "forgotten": forgotten }), || {
        if forgotten { "forgotten".to_owned() } else { "no row with this key has completed".to_owned() }
    });
    Ok(true)
}
