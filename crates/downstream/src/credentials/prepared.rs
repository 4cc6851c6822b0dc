//! What a prepared request gets right before it is sent.

use hyper::Request;
use hyper::header::{self, HeaderValue};
use penstock_domain::pipeline::{Auth, Files};
use penstock_domain::time::Timestamp;

use super::{NoCredentials, sign};
use crate::client::Prepared;

/// Characters of a signature at least: those of 20 bytes in base64, without what fills the last of them.
const SHORTEST_SIGNATURE: usize = 27;

impl Prepared {
    /// Adds a token.
    pub(crate) fn authorize(&mut self, token: HeaderValue) {
        self.request.headers_mut().insert(header::AUTHORIZATION, token);
    }

    /// Signs what will be sent, now. What its signature is, as a whole and in its parts: an API may quote either.
    ///
    /// # Errors
    /// When the dependency's credentials are not there.
    pub(crate) fn sign(
        &mut self,
        auth: &Auth,
        files: &dyn Files,
        now: Timestamp,
    ) -> Result<Vec<String>, NoCredentials> {
        let request = std::mem::take(&mut self.request);
        let (mut head, body) = request.into_parts();
        let signed = sign(auth, files, &mut head, &self.body, now);
        let values = head.headers.values().filter(|value| value.is_sensitive());
        let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let parts = values.iter().flat_map(|value| value.split([' ', ',', ';', '=']));
        let signature = parts.chain(values.iter().copied()).filter(|part| part.len() >= SHORTEST_SIGNATURE);
        let signature = signature.map(str::to_owned).collect();
        self.request = Request::from_parts(head, body);
        signed.map(|()| signature)
    }
}
