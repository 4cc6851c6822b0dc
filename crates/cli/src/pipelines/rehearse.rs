//! Rows through a definition without an installation: a database in a folder of its own that is deleted afterwards, the code of the
//! services, and recorded answers in place of the network.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_app::live_files::LiveFiles;
use penstock_app::services::{choose, process_name};
use penstock_app::{Chosen, Role, Settings, StartError, data_dir};
use penstock_domain::pipeline::{Catalog, Pipeline};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Caller, Client, LocalLimiter, Outgoing, Recorded, Stage};
use penstock_flow::extract::run;
use penstock_flow::intake::refused::UploadError;
use penstock_flow::intake::upload::{Upload, UploadFields, UploadRequest};
use penstock_flow::operate::rotation;
use penstock_flow::read::row_view::row_view;
use penstock_flow::worker::observe::{Observer, StepSeen};
use penstock_flow::worker::single::{self, Single};
use penstock_store::batches::Batch;
use penstock_store::work::Settled;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use crate::open::said;

/// A row that waits for longer than this is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A row is taken up again this often at most.
const MOST_RUNS: u32 = 50;

/// What is put through a definition.
pub struct Rehearsal<'a> {
    pub settings: &'a Settings,
    pub pipeline: Pipeline,
    pub csv: &'a [u8],
    /// Rows that run, from the first one on.
    pub rows: u32,
    pub context: Option<Value>,
    /// None: requests are sent.
    pub answers: Option<Answers>,
}

/// What came of a row.
pub struct Rehearsed {
    pub number: u32,
    /// Requests, in order, each with the status of its answer.
    pub calls: Vec<(Outgoing, Option<u16>)>,
    /// `completed`, `failed` or `pending`.
    pub outcome: &'static str,
    /// The row as `GET …/rows/{number}` shows it.
    pub row: Value,
    /// Until when it waits, if it does.
    pub until: Option<Timestamp>,
    /// A request for which no answer was recorded.
    pub unanswered: Option<String>,
}

/// Sees requests, and answers them.
struct Recorder {
    answers: Option<Mutex<Answers>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<(Outgoing, Option<u16>)>,
    unanswered: Option<String>,
}

impl Stage for Recorder {
    fn request(&self, request: Outgoing) -> Option<Recorded> {
        let answers =
            self.answers.as_ref().map(|answers| answers.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = answers.map(|mut answers| answers.next(&request));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let unanswered = matches!(answer, Some(None)).then(|| format!("{} {}", request.method, request.url));
        seen.unanswered = seen.unanswered.take().or(unanswered);
        seen.calls.push((request, None));
        // What nobody recorded fails for good, so that the row ends.
        answer.map(|answer| answer.unwrap_or(Recorded { status: 501, headers: Vec::new(), body: Vec::new() }))
    }

    fn is_offline(&self) -> bool {
        self.answers.is_some()
    }
}

impl Observer for Recorder {
    fn step(&self, seen: &StepSeen<'_>) {
        let mut calls = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, status)) = calls.calls.last_mut() {
            *status = seen.status;
        }
    }
}

/// A folder that is deleted with everything in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Carries the rows through.
///
/// # Errors
/// When the file does not fit the definition, or something fails that is not a row's.
pub async fn run(rehearsal: Rehearsal<'_>) -> Result<Vec<Rehearsed>, StartError> {
    let folder = Folder(std::env::temp_dir().join(process_name("penstock-try").replace(['/', ':'], "-")));
    let settings = own(rehearsal.settings, &folder.0)?;
    let pipelines = Catalog::new(vec![rehearsal.pipeline])
        .map_err(|errors| said(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    let chosen = choose(&settings, pipelines, Role::Everything).await?;
    rotation::migrate(&chosen.services, "operator:migration").await.map_err(said)?;
    let recorder = Arc::new(Recorder { answers: rehearsal.answers.map(Mutex::new), seen: Mutex::default() });
    let client =
        Client::new().map_err(said)?.with_files(Arc::new(LiveFiles::default())).with_stage(recorder.clone());
    let clock = chosen.services.clock.clone();
    let caller = Caller::new(Arc::new(LocalLimiter::new()), client, clock, 1);
    let batch = upload(&chosen, rehearsal.csv, rehearsal.context).await?;
    let rows = batch.ledger.counts.total.min(rehearsal.rows);
    let mut rehearsed = Vec::new();
    for number in 1..=rows {
        rehearsed.push(row(&chosen, &caller, &batch, number, &recorder).await?);
        if let Some(answers) = &recorder.answers {
            answers.lock().unwrap_or_else(PoisonError::into_inner).begin_row();
        }
    }
    Ok(rehearsed)
}

/// The settings, with storage in a folder of its own.
fn own(settings: &Settings, folder: &Path) -> Result<Settings, StartError> {
    let mut own = settings.clone();
    (own.database_url, own.database_url_file) = (None, None);
    (own.redis_url, own.redis_url_file) = (None, None);
    (own.object_store_url, own.object_store_url_file) = (None, None);
    (own.encryption_keys, own.encryption_keys_file) = (None, None);
    data_dir::fill(&mut own, folder)?;
    Ok(own)
}

/// The file as a batch whose rows are in the database.
async fn upload(chosen: &Chosen, csv: &[u8], context: Option<Value>) -> Result<Batch, StartError> {
    let services = &chosen.services;
    let owner = services.store.ensure_owner("try", services.clock.now()).await.map_err(said)?;
    let pipeline = services.pipelines.iter().next().ok_or_else(|| said("there is no definition"))?;
    let (owner_name, idempotency_key) = ("try".to_owned(), None);
    let request = UploadRequest { owner: owner.seq, owner_name, pipeline, idempotency_key };
    let mut upload = Upload::start(services, request).await.map_err(said)?;
    for chunk in csv.chunks(64 * 1024) {
        if let Err(error) = upload.push(chunk).await {
            return Err(refusal(upload.abandon().await.unwrap_or(error)));
        }
    }
    let fields = UploadFields { context, ..UploadFields::default() };
    let accepted = upload.finish(fields).await.map_err(refusal)?;
    let policy = chosen.extract_policy(process_name("try"));
    let seq = accepted.batch.seq;
    run::extract(services, &policy, seq, true, &CancellationToken::new(), &mut |_, _| {})
        .await
        .map_err(said)?;
    let batch = services.store.batches_by_seq(&[seq]).await.map_err(said)?.pop();
    batch.ok_or_else(|| said("the batch is gone"))
}

/// Why the file is refused, with the lines of its errors.
fn refusal(error: UploadError) -> StartError {
    match &error {
        UploadError::Rejected(rejected) => {
            let lines: Vec<String> = rejected
                .errors
                .iter()
                .map(|error| format!("line {}: {}", error.line, error.message))
                .collect();
            said(format!("{error}:\n{}", lines.join("\n")))
        }
        _ => said(error),
    }
}

async fn row(
    chosen: &Chosen,
    caller: &Caller,
    batch: &Batch,
    number: u32,
    recorder: &Recorder,
) -> Result<Rehearsed, StartError> {
    let services = &chosen.services;
    let holder = process_name("try");
    let (mut outcome, mut until) = ("pending", None);
    for _ in 0..MOST_RUNS {
        let ran = single::process_row(services, caller, batch, number, &holder, chosen.silence, recorder)
            .await
            .map_err(said)?;
        let Single::Ran { outcome: settled, .. } = ran else { break };
        (outcome, until) = match settled {
            Settled::Completed { .. } | Settled::Duplicate { .. } => ("completed", None),
            Settled::Failed(_) => ("failed", None),
            Settled::Requeued { not_before, .. } => ("pending", Some(not_before)),
        };
        let is_answered = recorder.seen.lock().unwrap_or_else(PoisonError::into_inner).unanswered.is_none();
        let Some(until) = until.filter(|_| is_answered) else { break };
        let wait = until.since(services.clock.now());
        if wait > LONGEST_WAIT {
            break;
        }
        tokio::time::sleep(wait).await;
    }
    let record = services.store.row(batch.seq, number).await.map_err(said)?;
    let record = record.ok_or_else(|| said(format!("there is no row {number}")))?;
    let secrets = services.secrets_of(batch).await.map_err(said)?;
    let pipeline = services.definition_of(batch).await.ok();
    let row = serde_json::to_value(row_view(&secrets, pipeline.as_deref(), &record)).map_err(said)?;
    let seen = std::mem::take(&mut *recorder.seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Rehearsed { number, calls: seen.calls, outcome, row, until, unanswered: seen.unanswered })
}
