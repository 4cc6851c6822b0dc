//! What a callback says of its batch: the batch as it was when the event happened, and what is read when the callback is first
//! delivered and kept from then on, so that each attempt says the same.

use penstock_domain::ids::LeaseToken;
use penstock_domain::ledger::Event;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::callbacks::Callback;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::read::errors::{self, CodeGroup};
use crate::read::standing;
use crate::read::view::BatchView;

/// Groups of failed rows that a callback names, the most frequent ones.
const GROUPS: usize = 100;

/// A batch as a callback keeps it. A release before this one reads the batch and passes over the details.
#[derive(Serialize, Deserialize)]
pub(super) struct Snapshot {
    #[serde(flatten)]
    pub batch: Batch,
    #[serde(default)]
    pub details: Option<Details>,
}

/// What is read when a callback is first delivered. Codes and numbers only: a callback has nothing of a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Details {
    /// Failed rows by code and step, most frequent first: of an event that tells of rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<CodeGroup>>,
    /// Why the batch is delayed: of `batch.delayed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Delay>,
}

/// Why a batch is delayed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Delay {
    /// `breaker_open`, or `stalled`: none of its rows gets through.
    reason: String,
    /// The code that the rows that were tried have.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Since when it works without a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
}

/// The `data` of a callback.
#[derive(Serialize, ToSchema)]
pub struct CallbackData {
    /// The batch as it was when the event happened.
    #[serde(flatten)]
    pub(super) view: BatchView,
    /// What was read when the callback was first delivered.
    #[serde(flatten)]
    pub(super) details: Option<Details>,
}

impl Snapshot {
    /// A callback's, with its details. They are read at the first attempt.
    pub(super) async fn complete(
        services: &Services,
        callback: &Callback,
        token: LeaseToken,
    ) -> Result<Self, FlowError> {
        let mut snapshot: Self = serde_json::from_str(&callback.snapshot).map_err(|_| {
            FlowError::Inconsistent(format!("callback {} has no batch that can be read", callback.id))
        })?;
        if snapshot.details.is_some() || callback.attempts > 0 {
            return Ok(snapshot);
        }
        let event = Event::ALL.into_iter().find(|event| event.name() == callback.event);
        let Some(details) = read(services, event, &snapshot.batch).await? else { return Ok(snapshot) };
        snapshot.details = Some(details);
        let text = serde_json::to_string(&snapshot).map_err(|_| {
            FlowError::Inconsistent(format!("callback {} has a batch that cannot be kept", callback.id))
        })?;
        // Where the lease was lost, another worker delivers it, with what it reads itself.
        if !services.store.keep_snapshot(callback.id, token, &text).await? {
            return Err(FlowError::Inconsistent(format!(
                "callback {} is another worker's by now",
                callback.id
            )));
        }
        Ok(snapshot)
    }
}

async fn read(
    services: &Services,
    event: Option<Event>,
    batch: &Batch,
) -> Result<Option<Details>, FlowError> {
    match event {
        None | Some(Event::Created | Event::Progress) => Ok(None),
        Some(Event::Delayed) => {
            Ok(Some(Details { delay: Some(delay(services, batch).await?), errors: None }))
        }
        Some(Event::RowFailedFirst | Event::Held | Event::Succeeded | Event::Cancelled | Event::Finished) => {
            let mut errors = errors::by_code(services, batch).await?;
            errors.truncate(GROUPS);
            // A retry takes failed rows back: what was read is then not of the run that the callback is about.
            let now = services.store.batch(batch.id, None).await?;
            let same_run = now.is_some_and(|now| now.ledger.run == batch.ledger.run);
            Ok(same_run.then_some(Details { errors: Some(errors), delay: None }))
        }
    }
}

async fn delay(services: &Services, batch: &Batch) -> Result<Delay, FlowError> {
    Ok(match standing::find_stalled(services, batch).await? {
        Some(stalled) => {
            Delay { reason: "stalled".to_owned(), code: Some(stalled.code), since: Some(stalled.since) }
        }
        None => Delay { reason: "breaker_open".to_owned(), code: None, since: None },
    })
}
