//! What a prepared request gets right before it is sent.

use hyper::Request;
use hyper::header::{self, HeaderValue};
use penstock_domain::pipeline::{Auth, Files};
use penstock_domain::time::Timestamp;

use super::{NoCredentials, sign};
use crate::client::Prepared;

impl Prepared {
    /// Adds a token.
    pub(crate) fn authorize(&mut self, token: HeaderValue) {
        self.request.headers_mut().insert(header::AUTHORIZATION, token);
    }

    /// Signs what will be sent, now.
    ///
    /// # Errors
    /// When the dependency's credentials are not there.
    pub(crate) fn sign(
        &mut self,
        auth: &Auth,
        files: &dyn Files,
        now: Timestamp,
    ) -> Result<(), NoCredentials> {
        let request = std::mem::take(&mut self.request);
        let (mut head, body) = request.into_parts();
        let signed = sign(auth, files, &mut head, &self.body, now);
        self.request = Request::from_parts(head, body);
        signed
    }
}
