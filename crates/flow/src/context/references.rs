//! The references in reports (`_ref`), under the installation's own secret: good for as long as there is the database, for the
//! owner whose report it was.

use penstock_crypto::ShortTokens;
use penstock_domain::csv::{self, ColumnTag, ReferenceReader, RowReference, column_tag};

use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::services::Services;

const PURPOSE: &str = "row-reference";

/// Writes and reads an owner's references.
#[derive(Debug)]
pub struct References {
    tokens: ShortTokens,
    pipeline: ColumnTag,
}

impl References {
    /// Those of an owner, by its name, in reports of a pipeline or files for it.
    ///
    /// # Errors
    /// When the database fails, or the keyring lacks the secret's key.
    pub async fn of(services: &Services, owner: &str, pipeline: &str) -> Result<Self, FlowError> {
        let secret = installation::installation_secret(services).await?;
        Ok(Self { tokens: ShortTokens::new(&secret, PURPOSE, owner), pipeline: column_tag(pipeline) })
    }

    /// The cell for a row.
    pub fn write(&self, reference: &RowReference) -> String {
        self.tokens.write(&reference.to_bytes())
    }

    /// The tag of the pipeline's name.
    pub fn tag(&self) -> ColumnTag {
        self.pipeline
    }
}

impl csv::References for References {
    fn cell(&self, reference: &RowReference) -> String {
        self.write(reference)
    }
}

impl ReferenceReader for References {
    fn read(&self, text: &str) -> Option<RowReference> {
        RowReference::from_bytes(&self.tokens.read(text)?)
    }

    fn pipeline(&self) -> Option<ColumnTag> {
        Some(self.pipeline)
    }
}
