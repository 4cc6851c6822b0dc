//! Links: a report that somebody without an API key can download for a while.
//!
//! Reports are written from sealed rows whenever they are asked for, so no object store could hand one out. A link names
//! the batch, the report, the API key of who made it as it was then and its end, and is signed by the keyring. Nothing of it is
//! stored.

use penstock_crypto::{Keyring, OpenError};
use penstock_domain::ids::BatchId;
use penstock_domain::time::Timestamp;

/// What the keyring signs links for.
const PURPOSE: &str = "report-link";

/// What a link gives access to, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The batch, or the refused upload.
    pub batch: BatchId,
    /// The report's name.
    pub report: String,
    /// The public part of the API key that made it: a link ends with its key.
    pub key_id: String,
    /// What that key was when it made the link, see [`crate::context::api_keys::word`].
    pub key_word: String,
    /// Until when.
    pub expires_at: Timestamp,
}

/// Why a link opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Its time has passed.
    #[error("the link has expired; make a new one")]
    Expired,
    /// It was changed, or the key that signed it is no longer in the keyring.
    #[error("the link is not one that was made here, or its key is gone; make a new one")]
    Rejected,
}

impl Link {
    /// The link as a token for a URL.
    ///
    /// # Errors
    /// When there is no key to sign it with.
    pub fn token(&self, keyring: &Keyring) -> Result<String, OpenError> {
        let said = (&self.batch, &self.report, &self.key_id, &self.key_word, self.expires_at.millis());
        // Texts and a number are always JSON.
        keyring.sign_token(PURPOSE, &serde_json::to_vec(&said).unwrap_or_default())
    }

    /// Reads a token, as long as it is good.
    ///
    /// # Errors
    /// When it was changed or has expired.
    pub fn read(keyring: &Keyring, token: &str, now: Timestamp) -> Result<Self, LinkError> {
        let said = keyring.read_token(PURPOSE, token).map_err(|_| LinkError::Rejected)?;
        let (batch, report, key_id, key_word, end): (BatchId, String, String, String, i64) =
            serde_json::from_slice(&said).map_err(|_| LinkError::Rejected)?;
        let expires_at = Timestamp::from_millis(end);
        if expires_at <= now {
            return Err(LinkError::Expired);
        }
        Ok(Self { batch, report, key_id, key_word, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_it_was_made_for_until_its_end() {
        let keyring = |text: &str| Keyring::parse(text).unwrap();
        let ring = keyring("a:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=");
        let link = Link {
            batch: BatchId(uuid::Uuid::from_u128(7)),
            report: "failed.csv".into(),
            key_id: "0123456789ab".into(),
            key_word: "cdef".into(),
            expires_at: Timestamp::from_millis(2000),
        };
        let token = link.token(&ring).unwrap();
        assert_eq!(Link::read(&ring, &token, Timestamp::from_millis(1999)), Ok(link));
        assert_eq!(Link::read(&ring, &token, Timestamp::from_millis(2000)), Err(LinkError::Expired));
        let changed = token.replacen('.', ".W", 1);
        assert_eq!(Link::read(&ring, &changed, Timestamp::from_millis(0)), Err(LinkError::Rejected));
        let other = keyring("b:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=");
        assert_eq!(Link::read(&other, &token, Timestamp::from_millis(0)), Err(LinkError::Rejected));
    }
}
