//! A request's body, as it is sent.

/// A body: exactly the bytes that are sent, and what they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The value of `Content-Type`, unless the step or the dependency sends that header itself.
    pub content_type: String,
}

impl Body {
    /// JSON (RFC 8259), with every digit of its numbers.
    pub fn json(value: &serde_json::Value) -> Self {
        Self { bytes: value.to_string().into_bytes(), content_type: "application/json".to_owned() }
    }
}

impl std::fmt::Debug for Body {
    /// Without the bytes, which hold a row's values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("content_type", &self.content_type)
            .field("length", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
