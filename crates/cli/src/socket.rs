//! What a service on one machine knows and its database does not: rates, pauses, breakers and background tasks live in its process. It answers
//! an operator's commands by a Unix socket beside the database's file, whose folder decides who may ask.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use penstock_app::{Chosen, Settings};
use penstock_domain::ids::BatchId;
use penstock_downstream::Caller;
use penstock_flow::Services;
use penstock_flow::context::periodic::TaskStatus;
use penstock_flow::operate::dependencies;
use penstock_flow::operate::dependencies::DependencyState;
use penstock_flow::read::waiting;
use penstock_flow::read::waits::Wait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A question and its answer take no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a question.
const LONGEST_QUESTION: u64 = 4096;

/// Bytes of an answer.
const LONGEST_ANSWER: u64 = 16 * 1024 * 1024;

/// Questions that are answered at once.
const AT_ONCE: usize = 4;

/// What may be asked: a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// What a batch, or a row of it, waits for.
    Why { batch: BatchId, row: Option<u32> },
    /// How the dependencies of all pipelines stand.
    Dependencies,
    /// What became of the runs of background tasks.
    Background,
}

/// The answer: a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Waits(Vec<Wait>),
    Dependencies(Vec<DependencyState>),
    Background(Vec<TaskStatus>),
    Failed(String),
}

/// Where the socket of the service with this database is; none when the database is no file.
fn path(settings: &Settings) -> Option<PathBuf> {
    let file = settings.database_url.as_deref()?.strip_prefix("sqlite://")?;
    let file = file.split('?').next()?;
    Some(PathBuf::from(format!("{file}.sock")))
}

/// The service's side. Without its socket it works all the same, and commands say what they cannot see.
pub struct Service {
    listener: UnixListener,
    path: PathBuf,
    services: Services,
    caller: Arc<Caller>,
    rows_per_owner: u32,
}

impl Service {
    /// Opens the socket; an older one at its place belongs to nobody any more, because one service has a database.
    pub fn open(chosen: &Chosen, settings: &Settings) -> Option<Self> {
        let path = path(settings)?;
        let opened = remove(&path).and_then(|()| {
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        });
        match opened {
            Ok(listener) => Some(Self {
                listener,
                path,
                services: chosen.services.clone(),
                caller: chosen.caller.clone(),
                rows_per_owner: settings.rows_per_owner,
            }),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%error, %path, "no socket for operators: `penstock why` and `doctor` will not see limits");
                None
            }
        }
    }

    /// Answers until the service stops.
    pub async fn run(self, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut answering = tokio::task::JoinSet::new();
        loop {
            while let Some(ended) = answering.try_join_next() {
                log_end(ended);
            }
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let (services, caller, rows_per_owner) =
                (self.services.clone(), self.caller.clone(), self.rows_per_owner);
            answering.spawn(async move {
                let _slot = slot;
                let answering = answer(stream, &services, &caller, rows_per_owner);
                tokio::time::timeout(PATIENCE, answering).await.map_err(io::Error::from)?
            });
        }
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "the socket for operators stays behind");
        }
    }
}

fn log_end(ended: Result<io::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "an operator's question was not answered"),
        Err(error) => tracing::error!(%error, "answering an operator's question failed"),
    }
}

fn remove(path: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn answer(
    stream: UnixStream,
    services: &Services,
    caller: &Caller,
    rows_per_owner: u32,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST_QUESTION)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(Question::Why { batch, row }) => why(services, caller, batch, row, rows_per_owner).await,
        Ok(Question::Dependencies) => Answer::Dependencies(dependencies::states(services, caller).await),
        Ok(Question::Background) => Answer::Background(services.periodic.statuses()),
        Err(error) => Answer::Failed(format!("invalid question: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

async fn why(
    services: &Services,
    caller: &Caller,
    batch: BatchId,
    row: Option<u32>,
    rows_per_owner: u32,
) -> Answer {
    let batch = match services.store.batch(batch, None).await {
        Ok(Some(batch)) => batch,
        Ok(None) => return Answer::Failed(format!("there is no batch {batch}")),
        Err(error) => return Answer::Failed(error.to_string()),
    };
    match waiting::explain(services, Some(caller), &batch, row, rows_per_owner, false).await {
        Ok(waits) => Answer::Waits(waits),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Asks the service that runs on this database.
///
/// # Errors
/// A sentence, when none answers.
pub async fn ask(settings: &Settings, question: &Question) -> Result<Answer, String> {
    let Some(path) = path(settings) else { return Err("its database is not a file".to_owned()) };
    let asking = async {
        let mut stream = UnixStream::connect(&path).await?;
        let mut text = serde_json::to_vec(question)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        Ok::<Answer, io::Error>(serde_json::from_slice(&answer)?)
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    let asked = asked.map_err(io::Error::from).flatten();
    asked.map_err(|error| format!("no service answers at {} ({error})", path.display()))
}
