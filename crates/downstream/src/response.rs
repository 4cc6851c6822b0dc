//! An answer, as far as it could be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::header::HeaderValue;
use serde_json::Value;

use crate::memory::Reserved;

/// An answer.
#[derive(Debug, Default)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case; the last of several, and of `RateLimit` all.
    pub headers: BTreeMap<String, String>,
    /// Its body: JSON, a string when it is none, null when it is empty or cannot be read. The rows of a bulk call share it.
    pub body: Arc<Value>,
    /// How many bytes of the body came.
    pub bytes: usize,
    /// What a long one takes of the process's memory for answers.
    pub memory: Reserved,
    /// The signature that the request had, as it may be quoted: nobody is shown it.
    pub signature: Vec<String>,
}

impl Response {
    /// The same answer for one more reader. What it takes of the memory for answers stays with this one.
    #[must_use]
    pub fn share(&self) -> Self {
        let (headers, body, signature) = (self.headers.clone(), self.body.clone(), self.signature.clone());
        Self { status: self.status, headers, body, bytes: self.bytes, memory: Reserved::default(), signature }
    }
}

/// The text of a header: UTF-8 where it is that, else Latin-1, which HTTP once had (RFC 9110, 5.5).
pub(crate) fn header_text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    std::str::from_utf8(bytes)
        .map_or_else(|_| bytes.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_may_have_other_letters() {
        for (bytes, text) in
            [(&b"caf\xc3\xa9"[..], "caf\u{e9}"), (b"caf\xe9", "caf\u{e9}"), (b"a\tb", "a\tb")]
        {
            assert_eq!(header_text(&HeaderValue::from_bytes(bytes).unwrap()), text);
        }
    }
}
