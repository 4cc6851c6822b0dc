//! `penstock batches …`.

use clap::Subcommand;
use penstock_app::StartError;
use penstock_flow::control;
use penstock_flow::view::{batch_view, clear_failure, describe};
use penstock_store::batches::{Batch, BatchFilter};
use penstock_store::control::RetrySelection;

use crate::open::{Opened, operator_name, said};
use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Lists batches, newest first
    List {
        /// Only in these states, separated by commas
        #[arg(long)]
        status: Option<String>,
        /// Only of this owner
        #[arg(long)]
        owner: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Shows a batch
    Show {
        /// The batch
        batch: String,
    },
    /// Cancels a batch
    Cancel {
        /// The batch
        batch: String,
    },
    /// Pauses a batch
    Pause {
        /// The batch
        batch: String,
    },
    /// Lets a paused or held batch go on
    Resume {
        /// The batch
        batch: String,
    },
    /// Puts failed rows back
    Retry {
        /// The batch
        batch: String,
        /// Takes cancelled rows up too
        #[arg(long)]
        cancelled: bool,
        /// Only failed rows with this code; can be given several times
        #[arg(long)]
        code: Vec<String>,
    },
    /// Erases a batch's data key, file and payloads
    Erase {
        /// The batch
        batch: String,
        /// Required: nothing brings them back
        #[arg(long, required = true)]
        yes: bool,
    },
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let store = &engines.store;
    let actor = operator_name();
    let now = engines.clock.now();
    let batch = match command {
        Command::List { status, owner, limit } => return list(opened, status, owner, limit, out).await,
        Command::Show { batch } => opened.batch(&batch).await?,
        Command::Cancel { batch } => {
            let batch = opened.batch(&batch).await?;
            store.cancel(batch.seq, &actor, now).await.map_err(said)?
        }
        Command::Pause { batch } => {
            let batch = opened.batch(&batch).await?;
            store.pause(batch.seq, &actor, now).await.map_err(said)?
        }
        Command::Resume { batch } => {
            let batch = opened.batch(&batch).await?;
            store.resume(batch.seq, &actor, now).await.map_err(said)?
        }
        Command::Retry { batch, cancelled, code } => {
            let batch = opened.batch(&batch).await?;
            let selection = RetrySelection { failed: true, cancelled, codes: code, numbers: Vec::new() };
            let (batch, rows) = store.retry(batch.seq, &selection, &actor, now).await.map_err(said)?;
            eprintln!("{rows} rows go back");
            batch
        }
        Command::Erase { batch, .. } => {
            let batch = opened.batch(&batch).await?;
            control::erase(engines, &batch, &actor).await.map_err(said)?
        }
    };
    show(opened, &batch, out).await
}

async fn show(opened: &Opened, batch: &Batch, out: Output) -> Result<bool, StartError> {
    let view =
        batch_view(&opened.chosen.engines, batch, opened.settings.rows_per_owner).await.map_err(said)?;
    out.say(&view, || {
        let counts = &view.counts;
        format!(
            "{} ({}, owner {}): {}{}, {} %\n  total {}, pending {}, queued {}, processing {}, completed {}, failed {}, cancelled {}",
            view.id,
            view.pipeline,
            batch.owner_name,
            view.status.name(),
            view.outcome.map_or(String::new(), |outcome| format!(", {}", outcome.name())),
            view.progress,
            counts.total,
            counts.pending,
            counts.queued,
            counts.processing,
            counts.completed,
            counts.failed,
            counts.cancelled
        )
    });
    Ok(true)
}

async fn list(
    opened: &Opened,
    status: Option<String>,
    owner: Option<String>,
    limit: u32,
    out: Output,
) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let owner = match owner {
        None => None,
        Some(name) => {
            let owners = engines.store.owners().await.map_err(said)?;
            let owner = owners.into_iter().find(|owner| owner.name == name);
            Some(owner.ok_or_else(|| StartError(format!("there is no owner {name}")))?.seq)
        }
    };
    let status = status
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.parse().map_err(said))
        .collect::<Result<Vec<_>, _>>()?;
    let filter = BatchFilter { owner, status, limit, ..BatchFilter::default() };
    let batches = engines.store.list_batches(&filter).await.map_err(said)?;
    let rows: Vec<Vec<String>> = batches
        .iter()
        .map(|batch| {
            let counts = &batch.ledger.counts;
            vec![
                batch.id.to_string(),
                batch.owner_name.clone(),
                batch.pipeline.clone(),
                batch.ledger.status.name().to_owned(),
                format!("{} %", batch.ledger.progress()),
                counts.total.to_string(),
                counts.failed.to_string(),
            ]
        })
        .collect();
    let quota = opened.settings.rows_per_owner;
    let views: Vec<_> =
        batches.iter().map(|batch| describe(engines, batch, quota, clear_failure(batch))).collect();
    out.table(&views, &["BATCH", "OWNER", "PIPELINE", "STATUS", "DONE", "ROWS", "FAILED"], &rows);
    Ok(true)
}
