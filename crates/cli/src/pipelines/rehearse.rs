//! Rows through a definition without an installation: a database in a folder of its own that is deleted afterwards, the code of the
//! services, and recorded answers in place of the network.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_app::live_files::LiveFiles;
use penstock_app::services::{choose, process_name};
use penstock_app::{Chosen, Role, Settings, StartError, data_dir};
use penstock_domain::pipeline::{Catalog, OwnerView, Pipeline};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Caller, Client, Limiter, LocalLimiter, Outgoing, Recorded, Stage};
use penstock_flow::context::owner_values;
use penstock_flow::extract::run::{self, Extracted};
use penstock_flow::intake::refused::UploadError;
use penstock_flow::intake::upload::{Upload, UploadFields, UploadRequest};
use penstock_flow::operate::rotation;
use penstock_flow::read::row_view::row_view;
use penstock_flow::read::view::batch_view;
use penstock_flow::worker::observe::{Observer, StepSeen};
use penstock_flow::worker::single::{self, Single};
use penstock_store::batches::Batch;
use penstock_store::work::Settled;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::unlimited::Unlimited;
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
    /// Whose the rows are. Where nothing is sent, each value that it lacks is its own name.
    pub owner: OwnerView,
}

/// What came of a row.
pub struct Rehearsed {
    pub number: u32,
    /// Requests, in order, each with the status of its answer.
    pub calls: Vec<(Outgoing, Option<u16>)>,
    /// `completed`, `failed`, `held` (with its batch) or `pending`.
    pub outcome: &'static str,
    /// The row as `GET …/rows/{number}` shows it.
    pub row: Value,
    /// Until when it waits, if it does.
    pub until: Option<Timestamp>,
    /// Why it waits, where that is known.
    pub waits_for: Option<String>,
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
    let (mut pipeline, mut owner) = (rehearsal.pipeline, rehearsal.owner);
    let is_offline = rehearsal.answers.is_some();
    if is_offline {
        fill(&mut owner, &pipeline);
        pipeline.dependencies.iter_mut().for_each(|dependency| dependency.hours = None);
    }
    let pipelines = Catalog::new(vec![pipeline])
        .map_err(|errors| said(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    let chosen = choose(&settings, pipelines, Role::Everything).await?;
    rotation::migrate(&chosen.services, "operator:migration").await.map_err(said)?;
    let recorder = Arc::new(Recorder { answers: rehearsal.answers.map(Mutex::new), seen: Mutex::default() });
    let client =
        Client::new().map_err(said)?.with_files(Arc::new(LiveFiles::default())).with_stage(recorder.clone());
    let clock = chosen.services.clock.clone();
    let limiter: Arc<dyn Limiter> =
        if is_offline { Arc::new(Unlimited) } else { Arc::new(LocalLimiter::new()) };
    let caller = Caller::new(limiter, client, clock, 1);
    let batch = upload(&chosen, &owner, rehearsal.csv, rehearsal.context).await?;
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

/// Values that nobody has given are their own names.
fn fill(owner: &mut OwnerView, pipeline: &Pipeline) {
    for value in pipeline.owner_values() {
        let Some((kind, name)) = value.split_once('.') else { continue };
        let values = if kind == "vars" { &mut owner.vars } else { &mut owner.secrets };
        values.entry(name.to_owned()).or_insert_with(|| name.to_owned());
    }
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
async fn upload(
    chosen: &Chosen,
    view: &OwnerView,
    csv: &[u8],
    context: Option<Value>,
) -> Result<Batch, StartError> {
    let services = &chosen.services;
    let owner = services.store.ensure_owner(&view.name, services.clock.now()).await.map_err(said)?;
    for (is_secret, values) in [(false, &view.vars), (true, &view.secrets)] {
        for (name, value) in values {
            if let Some(fault) = owner_values::fault(name, value) {
                return Err(said(format!("`{name}` of the owner cannot be set: {fault}")));
            }
            owner_values::set(services, owner.seq, is_secret, name, value).await.map_err(said)?;
        }
    }
    let pipeline = services.pipelines.iter().next().ok_or_else(|| said("there is no definition"))?;
    let (owner_name, idempotency_key) = (view.name.clone(), None);
    let request = UploadRequest {
        owner: owner.seq,
        actor: format!("owner:{owner_name}"),
        owner_name,
        pipeline,
        idempotency_key,
        form: None,
    };
    let mut upload = Upload::start(services, request).await.map_err(said)?;
    for chunk in csv.chunks(64 * 1024) {
        if let Err(error) = upload.push(chunk).await {
            return Err(refusal(error));
        }
    }
    let fields = UploadFields { context, ..UploadFields::default() };
    let accepted = upload.finish(fields).await.map_err(refusal)?;
    let policy = chosen.extract_policy(process_name("try"));
    let seq = accepted.batch.seq;
    let extracted = run::extract(services, &policy, seq, true, &CancellationToken::new(), &mut |_, _| {})
        .await
        .map_err(said)?;
    if let Extracted::Failed(batch) = extracted {
        // A workbook is read only now.
        let failure = batch_view(services, &batch, 1).await.map_err(said)?.failure.unwrap_or_default();
        let errors = failure["errors"].as_array().into_iter().flatten();
        let lines = errors.map(|error| line(&error["line"], error["message"].as_str().unwrap_or_default()));
        let message = failure["message"].as_str().unwrap_or_default();
        return Err(with_lines(message, lines));
    }
    let batch = services.store.batches_by_seq(&[seq]).await.map_err(said)?.pop();
    batch.ok_or_else(|| said("the batch is gone"))
}

/// Why the file is refused, with the lines of its errors.
fn refusal(error: UploadError) -> StartError {
    match &error {
        UploadError::Rejected(refused) => {
            let errors = refused.rejected.errors.iter();
            with_lines(&error, errors.map(|error| line(error.line, &error.message)))
        }
        _ => said(error),
    }
}

fn line(line: impl Display, message: &str) -> String {
    format!("line {line}: {message}")
}

fn with_lines(message: impl Display, lines: impl Iterator<Item = String>) -> StartError {
    said(format!("{message}:\n{}", lines.collect::<Vec<_>>().join("\n")))
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
    let seen = || recorder.seen.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..MOST_RUNS {
        let made = seen().calls.len();
        let ran = single::process_row(services, caller, batch, number, &holder, chosen.silence, recorder)
            .await
            .map_err(said)?;
        let Single::Ran { outcome: settled, .. } = ran else { break };
        (outcome, until) = match settled {
            Settled::Completed { .. } | Settled::Duplicate { .. } => ("completed", None),
            Settled::Failed(_) => ("failed", None),
            Settled::Requeued { hold: Some(_), .. } => ("held", None),
            Settled::Requeued { not_before, .. } => ("pending", Some(not_before)),
        };
        let is_answered = seen().unanswered.is_none();
        let Some(until) = until.filter(|_| is_answered) else { break };
        let wait = until.since(services.clock.now());
        // Without a limit a row that made no call waits for what does not come by itself, its credentials for example.
        let is_stuck = recorder.answers.is_some() && seen().calls.len() == made;
        if wait > LONGEST_WAIT || is_stuck {
            break;
        }
        tokio::time::sleep(wait).await;
    }
    let record = services.store.row(batch.seq, number).await.map_err(said)?;
    let record = record.ok_or_else(|| said(format!("there is no row {number}")))?;
    let secrets = services.secrets_of(batch).await.map_err(said)?;
    let pipeline = services.definition_of(batch).await.ok();
    let row = serde_json::to_value(row_view(&secrets, pipeline.as_deref(), &record)).map_err(said)?;
    let seen = std::mem::take(&mut *seen());
    let waits_for = until.and(caller.waits().first().map(|wait| wait.sentence.clone()));
    Ok(Rehearsed { number, calls: seen.calls, outcome, row, until, waits_for, unanswered: seen.unanswered })
}
