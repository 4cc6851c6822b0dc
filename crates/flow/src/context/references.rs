//! The references in reports (`_ref`), under the installation's own secret: good for as long as there is the database, for the
//! owner whose report it was.

use penstock_crypto::ShortTokens;
use penstock_domain::csv::{ReferenceReader, RowReference};

use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::services::Services;

const PURPOSE: &str = "row-reference";

/// Writes and reads an owner's references.
#[derive(Debug)]
pub struct References(ShortTokens);

impl References {
    /// Those of an owner, by its name.
    ///
    /// # Errors
    /// When the database fails, or the keyring lacks the secret's key.
    pub async fn of(services: &Services, owner: &str) -> Result<Self, FlowError> {
        let secret = installation::installation_secret(services).await?;
        Ok(Self(ShortTokens::new(&secret, PURPOSE, owner)))
    }

    /// The cell for a row.
    pub fn write(&self, reference: &RowReference) -> String {
        self.0.write(&reference.to_bytes())
    }
}

impl ReferenceReader for References {
    fn read(&self, text: &str) -> Option<RowReference> {
        RowReference::from_bytes(&self.0.read(text)?)
    }
}
