//! Parts of uploads that a kill cut off: what `penstock reconcile` finds of them, and aborts.

use std::time::Duration;

use penstock_domain::time::Timestamp;
use serde_json::json;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::context::unfinished_uploads::UnfinishedUpload;
use crate::operate::finding::Finding;

/// An upload that began later may be under way: sealing a large file that a client PUT takes long.
const YOUNG: Duration = Duration::from_secs(24 * 3600);

pub(crate) const UNFINISHED_UPLOADS: &str = "uploads in parts that were cut off";
const UNLISTED: &str = "object stores whose unfinished uploads cannot be listed";

/// What was found of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unfinished {
    /// Old enough to be aborted.
    uploads: Vec<UnfinishedUpload>,
    /// Why they could not be listed.
    unlisted: Option<String>,
}

/// Looks, and writes nothing. A store that does not list them is a finding: what else is stuck is reported all the same.
pub(crate) async fn look(services: &Services, now: Timestamp) -> Unfinished {
    let Some(port) = &services.unfinished_uploads else { return Unfinished::default() };
    match port.list().await {
        Ok(mut uploads) => {
            uploads.retain(|upload| now.since(upload.started_at) > YOUNG);
            Unfinished { uploads, unlisted: None }
        }
        Err(error) => Unfinished { uploads: Vec::new(), unlisted: Some(error.to_string()) },
    }
}

impl Unfinished {
    pub(crate) fn findings(&self) -> [Finding; 2] {
        [
            Finding::new(
                UNFINISHED_UPLOADS,
                self.uploads.len(),
                "abort them, which deletes their parts",
                true,
                json!(self.uploads),
            ),
            Finding::new(
                UNLISTED,
                usize::from(self.unlisted.is_some()),
                "allow Penstock to list them, or set a lifecycle rule (docs/operate.md, When storage fails)",
                false,
                json!(self.unlisted.iter().collect::<Vec<_>>()),
            ),
        ]
    }

    /// Aborts them; how many.
    ///
    /// # Errors
    /// When the object store fails; what was aborted stays so.
    pub(crate) async fn abort(&self, services: &Services) -> Result<usize, FlowError> {
        let Some(port) = &services.unfinished_uploads else { return Ok(0) };
        let mut aborted = 0;
        for upload in &self.uploads {
            match port.abort(upload).await {
                Ok(()) => aborted += 1,
                // It was completed or aborted meanwhile.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(aborted)
    }
}
